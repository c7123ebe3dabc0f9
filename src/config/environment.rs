//! A configuration without a file: every provider whose key is set, with the catalogue's default models.

use super::Env;
use super::catalogue::Catalogue;
use super::problem::Problems;
use super::providers::KNOWN;

/// The text of the configuration that the environment stands for.
pub(super) fn text(env: Env<'_>) -> Result<String, Problems> {
    let catalogue = Catalogue::shipped()?;
    let mut models = Vec::new();
    for provider in KNOWN.iter().filter(|provider| provider.key(env).is_some()) {
        let prefix = format!("{}/", provider.name);
        let defaults = catalogue
            .entries()
            .iter()
            .filter(|entry| entry.default && entry.id.starts_with(&prefix));
        models.extend(defaults.map(|entry| format!("\"{}\"", entry.id)));
    }
    if models.is_empty() {
        let vars: Vec<&str> = KNOWN
            .iter()
            .flat_map(|provider| provider.key_vars)
            .copied()
            .collect();
        return Err(Problems::one(
            "",
            format!(
                "no provider's key is set: set one of {}, write a file and pass it with --config, or try --demo, which needs no key",
                vars.join(", ")
            ),
        ));
    }
    Ok(format!(
        "[[routes]]\nname = \"auto\"\nmodels = [{}]\n",
        models.join(", ")
    ))
}
