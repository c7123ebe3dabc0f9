//! Recorded outcomes of many models on many prompts: JSON Lines, plain or gzip.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;
use serde::Deserialize;

use crate::arm::ArmId;

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

/// Why a dataset cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A line is not an outcome record.
    #[error("{} line {line}: {reason}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Line number, from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// Nothing is left to work on.
    #[error("{} has no {what}", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
        /// What is missing.
        what: String,
    },
}

#[derive(Deserialize)]
struct RawPrompt {
    id: serde_json::Value,
    #[serde(default)]
    category: Option<String>,
    #[serde(default)]
    split: Option<String>,
    prompt: String,
    outcomes: HashMap<String, RawOutcome>,
}

#[derive(Deserialize)]
struct RawOutcome {
    score: Score,
    cost_usd: f64,
    #[serde(default)]
    latency_ms: Option<f64>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Score {
    Number(f64),
    Verdict(bool),
}

impl Dataset {
    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read, or a line is not a record; the line's number is told.
    pub fn read(path: &Path) -> Result<Self, DatasetError> {
        let failed = |source| DatasetError::Read {
            path: path.to_owned(),
            source,
        };
        let mut file = BufReader::new(File::open(path).map_err(failed)?);
        let gzip = file.fill_buf().map_err(failed)?.starts_with(&[0x1f, 0x8b]);
        let reader: Box<dyn Read> = if gzip {
            Box::new(MultiGzDecoder::new(file))
        } else {
            Box::new(file)
        };
        Self::parse(path, BufReader::new(reader))
    }

    fn parse(path: &Path, reader: impl BufRead) -> Result<Self, DatasetError> {
        let mut raw = Vec::new();
        for (index, line) in reader.lines().enumerate() {
            let line = line.map_err(|source| DatasetError::Read {
                path: path.to_owned(),
                source,
            })?;
            if line.trim().is_empty() {
                continue;
            }
            raw.push(parse_line(&line).map_err(|reason| DatasetError::Line {
                path: path.to_owned(),
                line: index + 1,
                reason,
            })?);
        }
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
        self.prompts
            .retain(|prompt| prompt.split.as_deref() == Some(split));
        if self.prompts.is_empty() {
            return Err(DatasetError::Empty {
                path: path.to_owned(),
                what: format!("prompt of split {split:?}"),
            });
        }
        Ok(self)
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

fn parse_line(line: &str) -> Result<RawPrompt, String> {
    let prompt: RawPrompt = serde_json::from_str(line).map_err(|error| error.to_string())?;
    for (model, outcome) in &prompt.outcomes {
        let score = match outcome.score {
            Score::Number(score) => score,
            Score::Verdict(verdict) => f64::from(verdict),
        };
        if !(0.0..=1.0).contains(&score) {
            return Err(format!("score {score} of {model} is not in [0, 1]"));
        }
        if !outcome.cost_usd.is_finite() || outcome.cost_usd < 0.0 {
            return Err(format!(
                "cost_usd {} of {model} is not an amount",
                outcome.cost_usd
            ));
        }
    }
    Ok(prompt)
}

fn spread(prompt: RawPrompt, index: &HashMap<String, usize>) -> Prompt {
    let mut outcomes = vec![None; index.len()];
    for (model, outcome) in prompt.outcomes {
        outcomes[index[&model]] = Some(Outcome {
            score: match outcome.score {
                Score::Number(score) => score,
                Score::Verdict(verdict) => f64::from(verdict),
            },
            cost_usd: outcome.cost_usd,
            latency_ms: outcome.latency_ms,
        });
    }
    Prompt {
        id: match prompt.id {
            serde_json::Value::String(id) => id,
            other => other.to_string(),
        },
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
    fn a_bad_line_is_named() {
        let parse = |text: &str| Dataset::parse(Path::new("x.jsonl"), text.as_bytes());
        let bad = LINES.replace("0.5", "1.5");
        let message = parse(&bad).unwrap_err().to_string();
        assert_eq!(message, "x.jsonl line 3: score 1.5 of m/b is not in [0, 1]");
        assert!(
            parse("{\"id\"")
                .unwrap_err()
                .to_string()
                .starts_with("x.jsonl line 1: ")
        );
        assert!(parse("\n").unwrap_err().to_string().contains("no outcomes"));
    }
}
