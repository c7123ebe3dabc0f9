//! The configuration of the demonstration, written as a user would write it.

use std::fmt::Write;
use std::path::Path;

use crate::providers::simulated::{Recorded, SimulatedModel};

/// Seed of the simulated providers, and so of what each model answers to each prompt.
pub const SEED: u64 = 20_261_122;
/// How many times faster than life the simulated models answer.
const SPEED: f64 = 20.0;

/// The model that enters the route while the demonstration runs.
pub const NEWCOMER: &str = "gemini-2.5-flash";
/// Quality that the route may lose.
pub(super) const MARGIN: f64 = 0.01;
/// Quality that an experiment's treatment may lose, and the share of the traffic that one takes: both more than usual, so
/// that a verdict comes while somebody looks on.
pub(super) const TRIAL_MARGIN: f64 = 0.05;
const TRIAL_TRAFFIC: f64 = 0.5;

/// A TOML configuration with one simulated provider per maker, the recorded models with their prices, and the
/// route `auto` over all of them.
#[must_use]
pub fn config_toml(recorded: &Recorded, listen: &str, data_dir: &Path) -> String {
    configuration(recorded, listen, data_dir, None)
}

/// The same before [`NEWCOMER`] has entered the route.
#[must_use]
pub fn opening_toml(recorded: &Recorded, listen: &str, data_dir: &Path) -> String {
    configuration(recorded, listen, data_dir, Some(NEWCOMER))
}

fn configuration(recorded: &Recorded, listen: &str, data_dir: &Path, absent: Option<&str>) -> String {
    let mut toml = format!(
        "[server]\nlisten = {}\ndata_dir = {}\n",
        quoted(listen),
        quoted(&data_dir.to_string_lossy())
    );
    let mut makers: Vec<&str> = recorded.models.iter().map(|model| maker(&model.family)).collect();
    makers.dedup();
    for name in makers {
        let _ = write!(
            toml,
            "\n[[providers]]\nname = {}\nkind = \"simulated\"\nbase_url = \"simulated:?speed={SPEED}&seed={SEED}\"\n",
            quoted(name)
        );
    }
    let mut ids = Vec::new();
    for model in &recorded.models {
        let id = quoted(&arm_id(model));
        let _ = write!(
            toml,
            "\n[[models]]\nid = {id}\nupstream = {}\ncontext_window = 128000\nmax_output_tokens = 16384\n\
             modalities = [\"text\"]\ntools = true\nstructured_output = true\n\
             [models.price]\ninput_per_mtok = {}\noutput_per_mtok = {}\n",
            quoted(&model.name),
            model.input_usd_per_mtok,
            model.output_usd_per_mtok,
        );
        if absent != Some(model.name.as_str()) {
            ids.push(id);
        }
    }
    let _ = write!(
        toml,
        "\n[[routes]]\nname = \"auto\"\nmodels = [{}]\nobjective = \"cheapest_capable\"\nquality_margin = {MARGIN}\n\
         experiments = {{ traffic = {TRIAL_TRAFFIC}, margin = {TRIAL_MARGIN} }}\n",
        ids.join(", ")
    );
    toml
}

/// The id of a model in this configuration.
pub(super) fn arm_id(model: &SimulatedModel) -> String {
    format!("{}/{}", maker(&model.family), model.name)
}

/// The simulated provider that stands for the maker of a family.
fn maker(family: &str) -> &str {
    match family {
        "llama" => "sim-meta",
        "mistral" => "sim-mistral",
        "gemini" => "sim-google",
        _ => "sim-other",
    }
}

/// A TOML basic string. JSON's escapes are a subset of TOML's.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Source};
    use crate::providers::simulated::{SimulatedSettings, recorded};

    #[test]
    fn the_configuration_is_toml_and_names_every_recorded_model() {
        let recorded = recorded().unwrap();
        let text = config_toml(&recorded, "127.0.0.1:0", Path::new("C:\\da\"ta"));
        let table: toml::Table = text.parse().unwrap();
        assert_eq!(table["server"]["data_dir"].as_str(), Some("C:\\da\"ta"));
        assert_eq!(table["models"].as_array().unwrap().len(), recorded.models.len());
        assert_eq!(table["providers"].as_array().unwrap().len(), 3);
        let config = config::parse(&text, Source::Text, &|_| None).map_err(|problems| problems.to_string());
        assert_eq!(config.unwrap().arms().count(), recorded.models.len());
        let opening = opening_toml(&recorded, "127.0.0.1:0", Path::new("data"));
        let opening: toml::Table = opening.parse().unwrap();
        assert_eq!(opening["models"].as_array().unwrap().len(), recorded.models.len());
        let routed = opening["routes"][0]["models"].as_array().unwrap();
        assert_eq!(routed.len(), recorded.models.len() - 1, "one is to come");
        assert!(!opening["routes"][0]["models"].to_string().contains(NEWCOMER));
        let address = table["providers"][0]["base_url"].as_str().unwrap();
        assert_eq!(SimulatedSettings::from_address(address).unwrap().seed, SEED);
    }
}
