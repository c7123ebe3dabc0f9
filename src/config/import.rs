//! `pointsman import-prices`: LiteLLM's price list, as `[[models]]` blocks of our configuration.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;
use serde_json::{Map, Value};

/// Turn LiteLLM's model_prices_and_context_window.json into [[models]] blocks for the configuration.
#[derive(Args, Clone, Debug)]
pub struct ImportArgs {
    /// LiteLLM's JSON file
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Only models of this provider, by our name for it; may be given more than once
    #[arg(long = "provider", value_name = "NAME")]
    pub providers: Vec<String>,
    /// Only models whose id contains this; may be given more than once
    #[arg(long = "model", value_name = "TEXT")]
    pub models: Vec<String>,
    /// Write here instead of to the terminal
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// Reads the file and writes the blocks. Returns the exit status: 0, or 2 when nothing could be imported.
///
/// # Errors
/// When the result cannot be written.
pub fn run(args: &ImportArgs, out: &mut dyn Write, notes: &mut dyn Write) -> io::Result<u8> {
    let shown = args.file.display();
    let text = match std::fs::read_to_string(&args.file) {
        Ok(text) => text,
        Err(error) => {
            writeln!(notes, "cannot read {shown}: {error}")?;
            return Ok(2);
        }
    };
    let list: Map<String, Value> = match serde_json::from_str(&text) {
        Ok(list) => list,
        Err(error) => {
            writeln!(notes, "{shown} is not LiteLLM's price list: {error}")?;
            return Ok(2);
        }
    };
    let imported = import(&list, &args.providers, &args.models);
    if imported.models == 0 {
        writeln!(notes, "no chat model of {shown} fits; providers are {}", names())?;
        return Ok(2);
    }
    match &args.out {
        Some(path) => std::fs::write(path, &imported.toml)?,
        None => out.write_all(imported.toml.as_bytes())?,
    }
    writeln!(notes, "{} models", imported.models)?;
    for (lacks, ids) in &imported.left_out {
        writeln!(notes, "left out without {lacks}: {}", ids.join(", "))?;
    }
    Ok(0)
}

/// What an import found.
#[derive(Debug, Default)]
struct Imported {
    toml: String,
    models: usize,
    /// Ids by what they lack.
    left_out: BTreeMap<&'static str, Vec<String>>,
}

/// LiteLLM's names of providers, and ours.
const PROVIDERS: [(&str, &str); 7] = [
    ("openai", "openai"),
    ("anthropic", "anthropic"),
    ("gemini", "google"),
    ("deepseek", "deepseek"),
    ("dashscope", "qwen"),
    ("mistral", "mistral"),
    ("openrouter", "openrouter"),
];

fn names() -> String {
    PROVIDERS.map(|(_, ours)| ours).join(", ")
}

fn import(list: &Map<String, Value>, providers: &[String], models: &[String]) -> Imported {
    let mut imported = Imported::default();
    for (name, entry) in list {
        let text = |key: &str| entry.get(key).and_then(Value::as_str);
        let ours = text("litellm_provider")
            .and_then(|theirs| PROVIDERS.iter().find(|(known, _)| *known == theirs))
            .map(|(_, ours)| *ours);
        let Some(provider) = ours.filter(|_| text("mode") == Some("chat")) else {
            continue;
        };
        let upstream = name.split_once('/').map_or(name.as_str(), |(first, rest)| {
            if PROVIDERS.iter().any(|(theirs, _)| *theirs == first) {
                rest
            } else {
                name
            }
        });
        let id = format!("{provider}/{upstream}");
        let among = |wanted: &[String], fits: &dyn Fn(&str) -> bool| {
            wanted.is_empty() || wanted.iter().any(|word| fits(word))
        };
        if !among(providers, &|word| word == provider) || !among(models, &|word| id.contains(word)) {
            continue;
        }
        match block(&id, entry) {
            Ok(block) => {
                imported.toml.push_str(&block);
                imported.models += 1;
            }
            Err(lacks) => imported.left_out.entry(lacks).or_default().push(id),
        }
    }
    imported
}

/// Rates, ours and LiteLLM's.
const RATES: [(&str, &str); 8] = [
    ("input_per_mtok", "input_cost_per_token"),
    ("cached_input_per_mtok", "cache_read_input_token_cost"),
    ("cache_write_5m_per_mtok", "cache_creation_input_token_cost"),
    (
        "cache_write_1h_per_mtok",
        "cache_creation_input_token_cost_above_1hr",
    ),
    ("audio_input_per_mtok", "input_cost_per_audio_token"),
    ("output_per_mtok", "output_cost_per_token"),
    ("reasoning_per_mtok", "output_cost_per_reasoning_token"),
    ("audio_output_per_mtok", "output_cost_per_audio_token"),
];

/// Suffixes of LiteLLM's tiers, and where they begin.
const TIERS: [(&str, u64); 4] = [
    ("_above_128k_tokens", 128_000),
    ("_above_200k_tokens", 200_000),
    ("_above_256k_tokens", 256_000),
    ("_above_272k_tokens", 272_000),
];

/// LiteLLM's other way to write tiers: a list of blocks, each with the `range` of prompt tokens that it holds for.
const TIER_LIST: &str = "tiered_pricing";

/// What LiteLLM says a model can do, and our word for it.
const ACCEPTS: [(&str, &str); 4] = [
    ("supports_vision", "image"),
    ("supports_audio_input", "audio"),
    ("supports_video_input", "video"),
    ("supports_pdf_input", "pdf"),
];

/// One model, or what it lacks.
fn block(id: &str, entry: &Value) -> Result<String, &'static str> {
    let tokens = |key: &str| {
        let tokens = entry.get(key).and_then(amount)?;
        (tokens >= 1.0).then_some(tokens as u64)
    };
    let can = |key: &str| entry.get(key).and_then(Value::as_bool).unwrap_or(false);
    let window = tokens("max_input_tokens")
        .or_else(|| tokens("max_tokens"))
        .ok_or("a context window")?;
    let (base, tiers) = price(entry);
    let known = |name: &str| base.iter().any(|(rate, _)| *rate == name);
    if !known("input_per_mtok") || !known("output_per_mtok") {
        return Err("a usable price of input and output tokens");
    }
    let mut toml = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(toml, "[[models]]\nid = {}", quoted(id));
    let _ = writeln!(toml, "context_window = {window}");
    if let Some(most) = tokens("max_output_tokens") {
        let _ = writeln!(toml, "max_output_tokens = {}", most.min(window));
    }
    let accepted = ACCEPTS
        .iter()
        .filter(|(key, _)| can(key))
        .map(|(_, word)| quoted(word));
    let words: Vec<String> = std::iter::once(quoted("text")).chain(accepted).collect();
    let _ = writeln!(toml, "modalities = [{}]", words.join(", "));
    let _ = writeln!(toml, "tools = {}", can("supports_function_calling"));
    let _ = writeln!(toml, "structured_output = {}", can("supports_response_schema"));
    let _ = writeln!(toml, "[models.price]");
    for (name, dollars) in &base {
        let _ = writeln!(toml, "{name} = {dollars}");
    }
    if !tiers.is_empty() {
        let tiers: Vec<String> = tiers.iter().map(tier).collect();
        let _ = writeln!(toml, "tiers = [{}]", tiers.join(", "));
    }
    toml.push('\n');
    Ok(toml)
}

/// Our names of rates with dollars per million tokens.
type Rates = Vec<(&'static str, String)>;

/// The rates of short prompts, and those above so many tokens. A list says both, whatever else the entry says.
fn price(entry: &Value) -> (Rates, Vec<(u64, Rates)>) {
    let mut list = listed(entry);
    if !list.is_empty() {
        // The lowest range is where prompts begin, be it written as 0 or 1.
        let (_, base) = list.remove(0);
        return (base, list);
    }
    let tiers = TIERS.iter().map(|(suffix, above)| (*above, rates(entry, suffix)));
    (
        rates(entry, ""),
        tiers.filter(|(_, rates)| !rates.is_empty()).collect(),
    )
}

/// The rates of a list by where their ranges begin, in increasing order, each beginning once.
fn listed(entry: &Value) -> Vec<(u64, Rates)> {
    let blocks = entry.get(TIER_LIST).and_then(Value::as_array);
    let mut list: Vec<(u64, Rates)> = blocks
        .into_iter()
        .flatten()
        .filter_map(|block| {
            let above = amount(block.get("range")?.get(0)?)?;
            Some((above as u64, rates(block, "")))
        })
        .filter(|(_, rates)| !rates.is_empty())
        .collect();
    list.sort_by_key(|(above, _)| *above);
    list.dedup_by_key(|(above, _)| *above);
    list
}

fn tier((above, rates): &(u64, Rates)) -> String {
    let rates: Vec<String> = rates
        .iter()
        .map(|(name, dollars)| format!("{name} = {dollars}"))
        .collect();
    format!("{{ above_tokens = {above}, {} }}", rates.join(", "))
}

/// A number, 0 or more; some entries write theirs as a text.
fn amount(value: &Value) -> Option<f64> {
    let number = match value {
        Value::String(text) => text.trim().parse().ok()?,
        value => value.as_f64()?,
    };
    (number.is_finite() && number >= 0.0).then_some(number)
}

/// The rates whose key ends in `suffix`.
fn rates(entry: &Value, suffix: &str) -> Rates {
    RATES
        .iter()
        .filter_map(|(ours, theirs)| {
            let dollars = amount(entry.get(format!("{theirs}{suffix}"))?)?;
            Some((*ours, decimal(dollars * 1e6)))
        })
        .collect()
}

/// A number without the traces of binary fractions: nine decimals are exact to a nano-dollar.
fn decimal(dollars: f64) -> String {
    let text = format!("{dollars:.9}");
    let text = text.trim_end_matches('0');
    if text.ends_with('.') {
        format!("{text}0")
    } else {
        text.to_owned()
    }
}

/// A TOML string; JSON's escapes are a subset of TOML's.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arm::ArmId;
    use crate::completion::Usage;
    use crate::config::{Source, parse};
    use crate::pricing::Units;
    use crate::units::{UnixMs, Usd};

    const LIST: &str = r#"{
      "sample_spec": {"mode": "one of: chat, embedding", "litellm_provider": "one of ..."},
      "gpt-4o-mini": {"litellm_provider": "openai", "mode": "chat", "max_input_tokens": 128000,
        "max_output_tokens": 16384, "input_cost_per_token": 1.5e-07, "output_cost_per_token": 6e-07,
        "cache_read_input_token_cost": 7.5e-08, "supports_vision": true, "supports_function_calling": true},
      "gemini/gemini-2.5-pro": {"litellm_provider": "gemini", "mode": "chat", "max_input_tokens": 1048576,
        "max_output_tokens": 65535, "input_cost_per_token": 1.25e-06, "output_cost_per_token": 1e-05,
        "input_cost_per_token_above_200k_tokens": 2.5e-06, "output_cost_per_token_above_200k_tokens": 1.5e-05,
        "supports_pdf_input": true},
      "text-embedding-3-small": {"litellm_provider": "openai", "mode": "embedding", "input_cost_per_token": 2e-08},
      "openrouter/meta/free": {"litellm_provider": "openrouter", "mode": "chat", "max_input_tokens": 1000},
      "dashscope/qwen3-coder-flash": {"litellm_provider": "dashscope", "mode": "chat", "max_input_tokens": 997952,
        "tiered_pricing": [
          {"range": [0, 32e3], "input_cost_per_token": 3e-07, "output_cost_per_token": 1.5e-06},
          {"range": [32e3, 128e3], "input_cost_per_token": 5e-07, "output_cost_per_token": 2.5e-06},
          {"range": [128e3, 1e6], "input_cost_per_token": 8e-07, "output_cost_per_token": 4e-06}]},
      "dashscope/both-ways": {"litellm_provider": "dashscope", "mode": "chat", "max_input_tokens": 997952,
        "input_cost_per_token": 9e-06, "output_cost_per_token": 9e-06,
        "input_cost_per_token_above_128k_tokens": 9e-06, "output_cost_per_token_above_256k_tokens": 9e-06,
        "tiered_pricing": [
          {"range": [128e3, 1e6], "input_cost_per_token": 8e-07, "output_cost_per_token": 4e-06},
          {"range": [1, 128e3], "input_cost_per_token": 3e-07, "output_cost_per_token": 1.5e-06},
          {"range": [128e3, 2e6], "input_cost_per_token": 9e-06, "output_cost_per_token": 9e-06}]},
      "mistral/in-words": {"litellm_provider": "mistral", "mode": "chat", "max_input_tokens": 32e3,
        "input_cost_per_token": "1e-07", "output_cost_per_token": "0.0000003"},
      "by-the-second": {"litellm_provider": "openai", "mode": "chat", "max_input_tokens": 1000,
        "input_cost_per_second": 0.01, "input_cost_per_token": null, "output_cost_per_token": "free"},
      "negative": {"litellm_provider": "openai", "mode": "chat", "max_input_tokens": 1000,
        "input_cost_per_token": -1, "output_cost_per_token": 1e-06},
      "no-window": {"litellm_provider": "openai", "mode": "chat",
        "input_cost_per_token": 1e-06, "output_cost_per_token": 1e-06},
      "a list": [1, 2], "nothing": null,
      "bedrock-model": {"litellm_provider": "bedrock", "mode": "chat", "max_input_tokens": 1000}
    }"#;

    fn imported(providers: &[&str]) -> Imported {
        let providers: Vec<String> = providers.iter().map(|name| (*name).to_owned()).collect();
        import(&serde_json::from_str(LIST).unwrap(), &providers, &[])
    }

    #[test]
    fn what_is_imported_is_a_sound_configuration() {
        let imported = imported(&[]);
        assert_eq!(imported.models, 5);
        let keys = |name: &str| name.ends_with("_API_KEY").then(|| "k".to_owned());
        let config =
            parse(&imported.toml, Source::Text, &keys).unwrap_or_else(|problems| panic!("{problems}"));
        let usage = |input| Usage {
            input,
            output: 1_000,
            ..Usage::default()
        };
        let cost = |id: &str, input| {
            let tariff = config.prices.at(&ArmId::new(id), UnixMs(0)).unwrap();
            tariff.cost(&usage(input), &Units::default())
        };
        // 1 000 * 0.15 + 1 000 * 0.6 micro-dollars.
        assert_eq!(cost("openai/gpt-4o-mini", 1_000), Usd::from_nanos(750_000));
        // 300 000 * 2.5 + 1 000 * 15 micro-dollars: the tier above 200k.
        assert_eq!(
            cost("google/gemini-2.5-pro", 300_000),
            Usd::from_nanos(765_000_000)
        );
        // A list of tiers: 10 000 * 0.3 + 1 000 * 1.5, then 100 000 * 0.5 + 1 000 * 2.5 micro-dollars.
        let coder = "qwen/qwen3-coder-flash";
        assert_eq!(cost(coder, 10_000), Usd::from_nanos(4_500_000));
        assert_eq!(cost(coder, 100_000), Usd::from_nanos(52_500_000));
        // A list beside other ways to say a price, from 1 token on and not in order: it holds alone.
        let both = "qwen/both-ways";
        assert_eq!(cost(both, 10_000), Usd::from_nanos(4_500_000));
        assert_eq!(cost(both, 200_000), Usd::from_nanos(164_000_000));
        // 1 000 * 0.1 + 1 000 * 0.3 micro-dollars.
        assert_eq!(cost("mistral/in-words", 1_000), Usd::from_nanos(400_000));
    }

    #[test]
    fn what_is_left_out_is_named_with_what_it_lacks() {
        let left_out = imported(&[]).left_out;
        let unpriced = &left_out["a usable price of input and output tokens"];
        assert_eq!(
            unpriced,
            &["openrouter/meta/free", "openai/by-the-second", "openai/negative"]
        );
        assert_eq!(left_out["a context window"], ["openai/no-window"]);
    }

    #[test]
    fn providers_can_be_chosen() {
        let imported = imported(&["google"]);
        assert_eq!(imported.models, 1);
        assert!(imported.toml.contains("id = \"google/gemini-2.5-pro\""));
    }

    #[test]
    fn what_is_no_price_list_is_one_clear_sentence() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("prices.json");
        std::fs::write(&file, "[1, 2").unwrap();
        let args = ImportArgs {
            file,
            providers: Vec::new(),
            models: Vec::new(),
            out: None,
        };
        let (mut out, mut notes) = (Vec::new(), Vec::new());
        assert_eq!(run(&args, &mut out, &mut notes).unwrap(), 2);
        assert!(out.is_empty());
        let notes = String::from_utf8(notes).unwrap();
        assert!(
            notes.contains("is not LiteLLM's price list") && notes.lines().count() == 1,
            "{notes}"
        );
    }
}
