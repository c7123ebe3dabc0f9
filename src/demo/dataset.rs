//! The demonstration's prompts and what each simulated model makes of them, as recorded outcomes: the category
//! classifier can be trained on them, and any policy replayed over them.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde_json::{Map, Value, json};

use super::load::DemoError;
use super::prompts::PromptBook;
use super::setup::SEED;
use crate::providers::simulated::recorded;

/// Tokens of a prompt, by its length in bytes.
const BYTES_PER_TOKEN: usize = 4;

/// `count` lines of the dataset format, one prompt each.
///
/// # Errors
/// [`DemoError`] for damaged data.
pub fn dataset(count: usize, seed: u64) -> Result<Vec<String>, DemoError> {
    let book = PromptBook::shipped()?;
    let models = recorded()?.models;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let lines = (0..count).map(|number| {
        let prompt = book.draw(&mut rng);
        let input_tokens = prompt.text.len().div_ceil(BYTES_PER_TOKEN) as u64;
        let outcomes: Map<String, Value> = models
            .iter()
            .map(|model| {
                let outcome = model.outcome(&prompt.traits, SEED);
                let figures = json!({
                    "score": outcome.score,
                    "input_tokens": input_tokens,
                    "output_tokens": outcome.output_tokens,
                    "cost_usd": model.cost_usd(input_tokens, u64::from(outcome.output_tokens)),
                    "latency_ms": outcome.total.as_millis() as u64,
                });
                (model.name.clone(), figures)
            })
            .collect();
        let line = json!({
            "id": format!("demo-{seed}-{number}"),
            "category": prompt.category,
            "prompt": prompt.text,
            "outcomes": outcomes,
        });
        line.to_string()
    });
    Ok(lines.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_every_model_with_its_cost() {
        let lines = dataset(50, 4).unwrap();
        assert_eq!(lines.len(), 50);
        let first: Value = serde_json::from_str(&lines[0]).unwrap();
        let llama = &first["outcomes"]["llama-3.1-8b"];
        let tokens = llama["input_tokens"].as_f64().unwrap() + llama["output_tokens"].as_f64().unwrap();
        // Both directions cost $0.10 per million there.
        assert!((llama["cost_usd"].as_f64().unwrap() - tokens * 1e-7).abs() < 1e-12);
        assert_eq!(first["outcomes"].as_object().unwrap().len(), 4);
    }
}
