//! Labelled prompts for the category classifier: our own, and recorded ones whose source names a clear kind.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use anyhow::Context;
use serde::Deserialize;

use super::recorded::Source;
use crate::features::Category;

/// At most this many prompts of one source and category, so that a large benchmark does not drown the rest.
const MOST_PER_KIND: usize = 250;

/// A prompt written for this project, with its category.
#[derive(Clone, Debug, Deserialize)]
pub struct OwnPrompt {
    /// What kind it is.
    pub category: Category,
    /// The prompt.
    pub prompt: String,
}

/// A labelled prompt.
#[derive(Clone, Copy, Debug)]
pub struct Example<'a> {
    /// The recorded source by its place, or `None` for our own.
    pub source: Option<usize>,
    /// The prompt.
    pub text: &'a str,
    /// Its category.
    pub category: Category,
}

/// Reads our own prompts: JSON Lines of `category` and `prompt`.
///
/// # Errors
/// When the file is missing or a line does not parse.
pub fn read_own(path: &Path) -> anyhow::Result<Vec<OwnPrompt>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    text.lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(index, line)| {
            serde_json::from_str(line).with_context(|| format!("{} line {}", path.display(), index + 1))
        })
        .collect()
}

/// All labelled prompts, each text once, ours first.
#[must_use]
pub fn examples<'a>(own: &'a [OwnPrompt], sources: &'a [Source]) -> Vec<Example<'a>> {
    let mut seen = HashSet::new();
    let mut examples: Vec<Example<'a>> = own
        .iter()
        .map(|own| Example {
            source: None,
            text: &own.prompt,
            category: own.category,
        })
        .filter(|example| seen.insert(example.text))
        .collect();
    for (index, source) in sources.iter().enumerate() {
        let mut taken: BTreeMap<Category, usize> = BTreeMap::new();
        for recorded in spread(&source.prompts) {
            let Some(category) = recorded_category(&recorded.category) else {
                continue;
            };
            let taken = taken.entry(category).or_default();
            if *taken < MOST_PER_KIND && seen.insert(recorded.prompt.as_str()) {
                *taken += 1;
                examples.push(Example {
                    source: Some(index),
                    text: &recorded.prompt,
                    category,
                });
            }
        }
    }
    examples
}

/// The prompts in an order that does not follow the file's: every seventh, then the next ones.
fn spread<T>(prompts: &[T]) -> impl Iterator<Item = &T> {
    (0..7).flat_map(|start| prompts.iter().skip(start).step_by(7))
}

/// Our category of a benchmark's prompts, where it is beyond doubt.
fn recorded_category(name: &str) -> Option<Category> {
    Some(match name {
        "mbpp" | "humaneval" | "human_eval" | "code_execution_reasoning" => Category::Code,
        "gsm8k" | "math" | "theoremqa" | "math_grade_school" | "math_competition" | "agentverse-mgsm" => {
            Category::Maths
        }
        "bbh" | "hellaswag" | "winogrande" | "agentverse-logicgrid" | "commonsense_qa" => Category::Reasoning,
        "mmlu" | "openbookqa" | "openbook_qa" | "arc_challenge" | "truthful_qa" | "natural_qa"
        | "trivia_qa" | "gpqa" | "hotpotqa" | "history" | "psychology" | "biology" | "philosophy"
        | "health" => Category::Knowledge,
        "commongen" => Category::Creative,
        "alfworld" => Category::ToolUse,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::super::recorded::Recorded;
    use super::*;

    #[test]
    fn our_own_prompts_cover_every_category() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/training/categories.jsonl");
        let own = read_own(&path).unwrap();
        for category in Category::ALL
            .into_iter()
            .filter(|category| *category != Category::Other)
        {
            let count = own.iter().filter(|own| own.category == category).count();
            assert!(count >= 20, "{category}: {count}");
        }
    }

    #[test]
    fn texts_count_once_and_unclear_kinds_not_at_all() {
        let recorded = |category: &str, prompt: &str| Recorded {
            id: String::new(),
            category: category.to_owned(),
            prompt: prompt.to_owned(),
            outcomes: BTreeMap::new(),
            split: None,
        };
        let prompts = vec![
            recorded("gsm8k", "1+1"),
            recorded("law", "may I?"),
            recorded("mbpp", "sort"),
        ];
        let source = Source {
            name: "s".to_owned(),
            prompts,
        };
        let own = [OwnPrompt {
            category: Category::Code,
            prompt: "sort".to_owned(),
        }];
        let sources = [source];
        let examples = examples(&own, &sources);
        assert_eq!(examples.len(), 2);
        assert_eq!(
            (examples[0].source, examples[1].category),
            (None, Category::Maths)
        );
    }
}
