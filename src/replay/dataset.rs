//! Recorded outcomes of many models on many prompts: JSON Lines, plain or gzip.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use serde::Deserialize;

use super::lines;
use crate::arm::ArmId;

pub use super::lines::DatasetError;

/// What one model did with one prompt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    /// Quality in \[0,1\].
    pub score: f64,
    /// Dollars, more than nothing.
    pub cost_usd: f64,
    /// Milliseconds to the answer, if recorded.
    pub latency_ms: Option<f64>,
}

/// One prompt with the outcomes of the models that were asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Prompt {
    /// The id in the file.
    pub id: String,
    /// Category, if named.
    pub category: Option<String>,
    /// The split it belongs to, if named.
    pub split: Option<String>,
    /// The prompt's text.
    pub text: String,
    /// One entry a model of the dataset, in the order of [`Dataset::models`].
    pub outcomes: Vec<Option<Outcome>>,
}

/// A dataset in memory.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Dataset {
    /// The models, in alphabetical order.
    pub models: Vec<ArmId>,
    /// The prompts, in the order of the file.
    pub prompts: Vec<Prompt>,
}

#[derive(Deserialize)]
struct RawPrompt {
    #[serde(deserialize_with = "lines::id")]
    id: String,
    #[serde(default)]
    category: Option<String>,
    #[serde(default)]
    split: Option<String>,
    prompt: String,
    #[serde(deserialize_with = "lines::outcomes")]
    outcomes: HashMap<String, RawOutcome>,
}

#[derive(Deserialize)]
#[serde(expecting = "an object with score and cost_usd")]
struct RawOutcome {
    #[serde(deserialize_with = "lines::score")]
    score: f64,
    cost_usd: f64,
    #[serde(default)]
    latency_ms: Option<f64>,
}

impl Dataset {
    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read, or a line is not a record; the line's number is told.
    pub fn read(path: &Path) -> Result<Self, DatasetError> {
        let mut parser = Parser::default();
        lines::each(path, |number, line| parser.take(number, line))?;
        parser.finish(path)
    }

    #[cfg(test)]
    pub(super) fn parse(path: &Path, text: &str) -> Result<Self, DatasetError> {
        let mut parser = Parser::default();
        lines::each_of(path, text.as_bytes(), |number, line| parser.take(number, line))?;
        parser.finish(path)
    }

    fn gather(path: &Path, raw: Vec<RawPrompt>) -> Result<Self, DatasetError> {
        let names: BTreeSet<&str> = raw
            .iter()
            .flat_map(|prompt| prompt.outcomes.keys().map(String::as_str))
            .collect();
        let models: Vec<ArmId> = names.iter().map(|name| ArmId::new(name)).collect();
        let index: HashMap<String, usize> = names
            .iter()
            .enumerate()
            .map(|(index, name)| ((*name).to_owned(), index))
            .collect();
        let prompts: Vec<Prompt> = raw.into_iter().map(|prompt| spread(prompt, &index)).collect();
        if prompts.is_empty() || models.is_empty() {
            return Err(DatasetError::Empty {
                path: path.to_owned(),
                what: "outcomes".to_owned(),
            });
        }
        Ok(Self { models, prompts })
    }

    /// Only the prompts of a split.
    ///
    /// # Errors
    /// When there are none.
    pub fn split(mut self, split: &str, path: &Path) -> Result<Self, DatasetError> {
        let splits: BTreeSet<String> = self
            .prompts
            .iter()
            .map(|prompt| prompt.split.clone().unwrap_or_else(|| "none".to_owned()))
            .collect();
        self.prompts
            .retain(|prompt| prompt.split.as_deref() == Some(split));
        if self.prompts.is_empty() {
            return Err(DatasetError::Empty {
                path: path.to_owned(),
                what: format!(
                    "prompt of split {split:?}; its splits are {}",
                    splits.into_iter().collect::<Vec<_>>().join(", ")
                ),
            });
        }
        Ok(self)
    }

    /// Only the prompts of one category.
    ///
    /// # Errors
    /// When there is none.
    pub fn category(mut self, category: &str, path: &Path) -> Result<Self, DatasetError> {
        let named = |prompt: &Prompt| prompt.category.as_deref().unwrap_or("none").to_owned();
        let known: BTreeSet<String> = self.prompts.iter().map(named).collect();
        self.prompts
            .retain(|prompt| prompt.category.as_deref() == Some(category));
        if self.prompts.is_empty() {
            return Err(DatasetError::Empty {
                path: path.to_owned(),
                what: format!(
                    "prompt of category {category:?}; its categories are {}",
                    known.into_iter().collect::<Vec<_>>().join(", ")
                ),
            });
        }
        Ok(self)
    }

    /// Every call costs what its model's cost in the mean.
    pub fn level_costs(&mut self) {
        for model in 0..self.models.len() {
            let answers = self.prompts.iter().filter_map(|prompt| prompt.outcomes[model]);
            let (count, sum) = answers.fold((0.0, 0.0), |(count, sum), outcome| {
                (count + 1.0, sum + outcome.cost_usd)
            });
            let mean = sum / f64::max(count, 1.0);
            for prompt in &mut self.prompts {
                if let Some(outcome) = &mut prompt.outcomes[model] {
                    outcome.cost_usd = mean;
                }
            }
        }
    }

    /// Only the named models, and the prompts that one of them answered.
    ///
    /// # Errors
    /// When a name is not a model of the dataset.
    pub fn only(self, names: &[String], path: &Path) -> Result<Self, DatasetError> {
        let mut kept = Vec::new();
        for name in names {
            let found = self
                .models
                .iter()
                .position(|model| model.as_str() == name || model.model() == name);
            kept.push(found.ok_or_else(|| DatasetError::Empty {
                path: path.to_owned(),
                what: format!("model {name:?}; it has {}", list(&self.models)),
            })?);
        }
        kept.sort_unstable();
        kept.dedup();
        let models = kept.iter().map(|&index| self.models[index].clone()).collect();
        let mut prompts = self.prompts;
        for prompt in &mut prompts {
            prompt.outcomes = kept.iter().map(|&index| prompt.outcomes[index]).collect();
        }
        prompts.retain(|prompt| prompt.outcomes.iter().any(Option::is_some));
        Ok(Self { models, prompts })
    }

    /// The same prompts with the columns in the order of `models`; models that this dataset lacks are empty columns.
    #[must_use]
    pub fn aligned(&self, models: &[ArmId]) -> Self {
        let columns: Vec<Option<usize>> = models
            .iter()
            .map(|model| self.models.iter().position(|own| own == model))
            .collect();
        let pick = |prompt: &Prompt| Prompt {
            outcomes: columns
                .iter()
                .map(|column| column.and_then(|c| prompt.outcomes[c]))
                .collect(),
            ..prompt.clone()
        };
        Self {
            models: models.to_vec(),
            prompts: self.prompts.iter().map(pick).collect(),
        }
    }

    /// Leaves the second and later prompts of the same text out: a copy in both seed and test is a leak.
    #[must_use]
    pub fn without_texts_of(mut self, other: &Self) -> Self {
        let texts: BTreeSet<&str> = other.prompts.iter().map(|prompt| prompt.text.trim()).collect();
        self.prompts.retain(|prompt| !texts.contains(prompt.text.trim()));
        self
    }

    /// The categories there are.
    #[must_use]
    pub fn categories(&self) -> BTreeMap<&str, usize> {
        let mut counts = BTreeMap::new();
        for category in self
            .prompts
            .iter()
            .filter_map(|prompt| prompt.category.as_deref())
        {
            *counts.entry(category).or_insert(0) += 1;
        }
        counts
    }
}

fn list(models: &[ArmId]) -> String {
    models.iter().map(ArmId::as_str).collect::<Vec<_>>().join(", ")
}

/// Takes lines in, each id once.
#[derive(Default)]
struct Parser {
    raw: Vec<RawPrompt>,
    ids: HashMap<String, usize>,
}

impl Parser {
    fn take(&mut self, number: usize, line: &str) -> Result<(), String> {
        let prompt: RawPrompt = lines::record(line)?;
        for (model, outcome) in &prompt.outcomes {
            lines::sound(model, outcome.score, outcome.cost_usd)?;
        }
        if let Some(first) = self.ids.insert(prompt.id.clone(), number) {
            return Err(format!(
                "its id {:?} is that of line {first}; ids are unique",
                prompt.id
            ));
        }
        self.raw.push(prompt);
        Ok(())
    }

    fn finish(self, path: &Path) -> Result<Dataset, DatasetError> {
        Dataset::gather(path, self.raw)
    }
}

fn spread(prompt: RawPrompt, index: &HashMap<String, usize>) -> Prompt {
    let mut outcomes = vec![None; index.len()];
    for (model, outcome) in prompt.outcomes {
        outcomes[index[&model]] = Some(Outcome {
            score: outcome.score,
            cost_usd: outcome.cost_usd,
            latency_ms: outcome.latency_ms,
        });
    }
    Prompt {
        id: prompt.id,
        category: prompt.category,
        split: prompt.split,
        text: prompt.prompt,
        outcomes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};
    use std::fs::File;
    use std::io::Write;

    const LINES: &str = concat!(
        r#"{"id": "a", "category": "math", "prompt": "1+1", "split": "val", "outcomes": {"m/b": {"score": 1, "cost_usd": 0.1}}}"#,
        "\n\n",
        r#"{"id": 2, "prompt": "2+2", "split": "test", "outcomes": {"m/a": {"score": false, "cost_usd": 0.2, "latency_ms": 900}, "m/b": {"score": 0.5, "cost_usd": 0.1}}}"#,
        "\n"
    );

    #[test]
    fn reads_plain_and_gzip_alike() {
        let folder = tempfile::tempdir().unwrap();
        let (plain, packed) = (folder.path().join("a.jsonl"), folder.path().join("b.gz"));
        std::fs::write(&plain, LINES).unwrap();
        let mut encoder = GzEncoder::new(File::create(&packed).unwrap(), Compression::fast());
        encoder.write_all(LINES.as_bytes()).unwrap();
        encoder.finish().unwrap();
        let dataset = Dataset::read(&plain).unwrap();
        assert_eq!(dataset, Dataset::read(&packed).unwrap());
        assert_eq!(dataset.models, [ArmId::new("m/a"), ArmId::new("m/b")]);
        assert_eq!(dataset.prompts[0].outcomes[0], None);
        assert_eq!(dataset.prompts[1].id, "2");
        assert_eq!(dataset.prompts[1].outcomes[0].unwrap().score, 0.0);
        let test = dataset.clone().split("test", &plain).unwrap();
        assert_eq!(test.prompts.len(), 1);
        let one = dataset.clone().only(&["a".to_owned()], &plain).unwrap();
        assert_eq!((one.models.len(), one.prompts.len()), (1, 1));
        assert!(
            dataset
                .only(&["c".to_owned()], &plain)
                .unwrap_err()
                .to_string()
                .contains("m/a, m/b")
        );
    }

    #[test]
    fn a_category_is_picked_and_costs_are_levelled() {
        let path = Path::new("x.jsonl");
        let mut dataset = Dataset::parse(
            path,
            &LINES.replace(
                r#""score": 0.5, "cost_usd": 0.1"#,
                r#""score": 0.5, "cost_usd": 0.3"#,
            ),
        )
        .unwrap();
        let of_maths = dataset.clone().category("math", path).unwrap();
        assert_eq!(of_maths.prompts.len(), 1);
        assert_eq!(of_maths.prompts[0].id, "a");
        let message = dataset.clone().category("law", path).unwrap_err().to_string();
        assert!(message.contains("math, none"), "{message}");
        dataset.level_costs();
        let costs: Vec<Vec<Option<f64>>> = dataset
            .prompts
            .iter()
            .map(|prompt| {
                prompt
                    .outcomes
                    .iter()
                    .map(|outcome| outcome.map(|outcome| outcome.cost_usd))
                    .collect()
            })
            .collect();
        assert_eq!(costs, [vec![None, Some(0.2)], vec![Some(0.2), Some(0.2)]]);
    }

    #[test]
    fn a_bad_line_is_named() {
        let parse = |text: &str| Dataset::parse(Path::new("x.jsonl"), text);
        let bad = LINES.replace("0.5", "1.5");
        let message = parse(&bad).unwrap_err().to_string();
        assert_eq!(message, "x.jsonl line 3: score 1.5 of m/b is not in [0, 1]");
        assert!(
            parse("{\"id\"")
                .unwrap_err()
                .to_string()
                .starts_with("x.jsonl line 1: ")
        );
        let message = parse("[\"a\", \"math\", \"val\", \"1+1\", {}]")
            .unwrap_err()
            .to_string();
        assert_eq!(message, "x.jsonl line 1: it is not a JSON object");
        let outcomes =
            |outcome: &str| format!(r#"{{"id": 1, "prompt": "x", "outcomes": {{"a": {outcome}}}}}"#);
        let message = parse(&outcomes("7")).unwrap_err().to_string();
        assert!(message.contains("an object with score and cost_usd"), "{message}");
        // No outcome, as if the model were not named.
        assert!(
            parse(&outcomes("null"))
                .unwrap_err()
                .to_string()
                .contains("no outcomes")
        );
        assert!(parse("\n").unwrap_err().to_string().contains("no outcomes"));
        let twice = LINES.replace("\"id\": 2", "\"id\": \"a\"");
        let message = parse(&twice).unwrap_err().to_string();
        assert_eq!(
            message,
            "x.jsonl line 3: its id \"a\" is that of line 1; ids are unique"
        );
        let message = parse(&LINES.replace(", \"cost_usd\": 0.2", ""))
            .unwrap_err()
            .to_string();
        assert!(
            message.starts_with("x.jsonl line 3: missing field `cost_usd` (column "),
            "{message}"
        );
        let message = parse(&LINES.replace("0.5", "NaN")).unwrap_err().to_string();
        assert!(message.starts_with("x.jsonl line 3: "), "{message}");
    }
}
