//! The seed prior: what is known of each recorded model before the first request.

use std::collections::BTreeMap;

use super::embeddings::Embedded;
use super::recorded::Source;
use crate::features::{EmbeddingView, TextView};
use crate::policy::seed::{LabelledOutcome, Seed, SeedBuilder, SeedSettings};
use crate::policy::{Contexts, View};

/// Prompts marked so are left out: they are for measuring.
const HELD_BACK: &str = "test";
/// At most this many prompts of a source are read.
const MOST_PROMPTS: usize = 4000;
/// Prompts that a model's prior counts for at most: recorded prompts are others than those that will come.
const MOST_COUNTED: f64 = 1000.0;

/// Fits the prior of every model in `sources`, on both views. Embedded prompts are few, so the embedding view has its
/// own sums.
#[must_use]
pub fn fit(sources: &[Source], text: &TextView, embedded: &[Embedded], view: Option<&EmbeddingView>) -> Seed {
    let settings = SeedSettings {
        most_prompts: MOST_COUNTED,
        ..SeedSettings::default()
    };
    let mut words = SeedBuilder::default();
    for source in sources {
        let step = source.prompts.len().div_ceil(MOST_PROMPTS).max(1);
        for recorded in source.prompts.iter().step_by(step) {
            if recorded.split.as_deref() != Some(HELD_BACK) {
                let features = text.features(&recorded.prompt);
                add(
                    &mut words,
                    recorded,
                    Contexts {
                        text: Some(&features),
                        embedding: None,
                        words: &[],
                    },
                );
            }
        }
    }
    let mut versions = BTreeMap::from([(View::Text, text.version().to_string())]);
    let Some(view) = view else {
        return finish(words.build(&settings, versions));
    };
    versions.insert(View::Embedding, view.version().to_string());
    let mut meanings = SeedBuilder::default();
    for one in embedded {
        let Some(recorded) = sources
            .get(one.source)
            .and_then(|source| source.prompts.get(one.index))
        else {
            continue;
        };
        if recorded.split.as_deref() == Some(HELD_BACK) {
            continue;
        }
        if let Some(features) = view.project(&one.embedding, &one.surface) {
            add(
                &mut meanings,
                recorded,
                Contexts {
                    text: None,
                    embedding: Some(&features),
                    words: &[],
                },
            );
        }
    }
    let mut seed = words.build(&settings, versions);
    for other in meanings.build(&settings, BTreeMap::new()).arms {
        if let Some(arm) = seed.arms.iter_mut().find(|arm| arm.model == other.model) {
            arm.quality.extend(other.quality);
        }
    }
    finish(seed)
}

fn add(builder: &mut SeedBuilder, recorded: &super::recorded::Recorded, contexts: Contexts<'_>) {
    for (model, outcome) in &recorded.outcomes {
        builder.add(&LabelledOutcome {
            model,
            // A data set's own categories are not the classifier's, whose effect is learned from traffic.
            category: None,
            contexts,
            reward: outcome.score,
            length: outcome.output_tokens,
            cost_usd: Some(outcome.cost_usd),
        });
    }
}

fn finish(mut seed: Seed) -> Seed {
    for arm in &mut seed.arms {
        arm.family = family(&arm.model).to_owned();
    }
    seed
}

/// The family that a model's name tells: the catalogue's vocabulary.
#[must_use]
pub fn family(model: &str) -> &'static str {
    let name = model.to_ascii_lowercase();
    let families = [
        ("codellama", "llama"),
        ("llama", "llama"),
        ("gemma", "gemma"),
        ("gemini", "gemini"),
        ("bison", "gemini"),
        ("claude", "claude"),
        ("gpt", "gpt"),
        ("mixtral", "mistral"),
        ("mistral", "mistral"),
        ("mathstral", "mistral"),
        ("deepseek", "deepseek"),
        ("qwen", "qwen"),
        ("phi-", "phi"),
        ("yi-", "yi"),
        ("command", "command"),
        ("jamba", "jamba"),
    ];
    families
        .into_iter()
        .find(|(mark, _)| name.contains(mark))
        .map_or("", |(_, family)| family)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_read_from_names() {
        assert_eq!(family("meta-llama/llama-3.1-8b-instruct"), "llama");
        assert_eq!(family("Mixtral-8x7B-Instruct-v0.1"), "mistral");
        assert_eq!(family("gemma-2-9b-it"), "gemma");
        assert_eq!(family("zephyr-7b-beta"), "");
    }
}
