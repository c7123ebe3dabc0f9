//! What happens during a replay, as data: changes of quality, price and presence, feedback, order, seed.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::dataset::Dataset;

/// A scenario file (TOML) under `experiments/`.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Scenario {
    /// What the scenario asks.
    pub question: String,
    /// When scores come.
    pub feedback: Feedback,
    /// In which order prompts come.
    pub order: Order,
    /// What the seed is made of.
    pub seed: SeedShape,
    /// How many routers share the traffic.
    pub replicas: Replicas,
    /// What changes on the way.
    pub changes: Vec<Change>,
}

/// How many routers share the traffic by turns, and how often they tell each other what they have learned.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
pub struct Replicas {
    /// Routers.
    pub count: usize,
    /// Requests to all of them between two exchanges; 0: never.
    pub merge_every: usize,
}

impl Default for Replicas {
    fn default() -> Self {
        Self {
            count: 1,
            merge_every: 0,
        }
    }
}

impl Default for Scenario {
    fn default() -> Self {
        Self {
            question: String::new(),
            feedback: Feedback::default(),
            order: Order::Shuffled,
            seed: SeedShape::default(),
            replicas: Replicas::default(),
            changes: Vec::new(),
        }
    }
}

/// When scores come, and which.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Feedback {
    /// Share of decisions that are scored at all.
    pub rate: f64,
    /// Mean delay in requests (geometric); 0: at once.
    pub delay: f64,
    /// If true, bad answers are scored more often: P(score) = 0.1 + 0.4 (1 - r), and `rate` does not count.
    pub complaints_only: bool,
}

impl Default for Feedback {
    fn default() -> Self {
        Self {
            rate: 1.0,
            delay: 0.0,
            complaints_only: false,
        }
    }
}

/// In which order prompts come.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Random, another one for each seed.
    #[default]
    Shuffled,
    /// One category after the other, random within: traffic that shifts.
    ByCategory,
    /// As in the file.
    Recorded,
}

/// What the seed is made of.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct SeedShape {
    /// Only these categories, if any are named.
    pub categories: Vec<String>,
    /// Every score is replaced by 1 less itself: the worst possible prior.
    pub inverted: bool,
}

/// One change, in force from one share of the stream to another.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// The model that changes: its name in the dataset, or the part after the slash.
    pub model: String,
    /// Share of the stream at which it starts, in \[0,1\].
    #[serde(default)]
    pub from: f64,
    /// Share of the stream at which it ends.
    #[serde(default = "end_of_stream")]
    pub until: f64,
    /// Mean quality while it lasts: every score is multiplied to reach it. Nobody is told.
    #[serde(default)]
    pub quality: Option<f64>,
    /// Factor on the price. The router is told at once.
    #[serde(default)]
    pub price: Option<f64>,
    /// Factor by which the expected cost is wrong (tokenizer, price table). Nobody is told.
    #[serde(default)]
    pub misjudged_cost: Option<f64>,
    /// Whether the model is not to be had.
    #[serde(default)]
    pub absent: bool,
    /// Whether the model has no seed: it is new when it comes.
    #[serde(default)]
    pub unseeded: bool,
}

const fn end_of_stream() -> f64 {
    1.0
}

/// A change with its model and its requests.
#[derive(Clone, Debug, PartialEq)]
pub struct Resolved {
    /// Column of the model.
    pub model: usize,
    /// First request.
    pub from: usize,
    /// First request after it.
    pub until: usize,
    /// Factor on every score.
    pub score_factor: f64,
    /// Factor on the price.
    pub price: f64,
    /// Factor on the expected cost alone.
    pub misjudged: f64,
    /// Whether the model is away.
    pub absent: bool,
}

impl Scenario {
    /// Reads a scenario file.
    ///
    /// # Errors
    /// When it cannot be read or is not a scenario.
    pub fn read(path: &Path) -> Result<Self> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let scenario: Self =
            toml::from_str(&text).with_context(|| format!("{} is not a scenario", path.display()))?;
        if !(1..=64).contains(&scenario.replicas.count) {
            bail!("{}: replicas.count must be from 1 to 64", path.display());
        }
        for change in &scenario.changes {
            if !(0.0..=1.0).contains(&change.from) || !(change.from..=1.0).contains(&change.until) {
                bail!(
                    "{}: a change must lie within 0 and 1, `from` before `until`",
                    path.display()
                );
            }
        }
        Ok(scenario)
    }

    /// The changes for a stream of `requests` over `dataset`.
    ///
    /// # Errors
    /// When a model is not in the dataset.
    pub fn resolve(&self, dataset: &Dataset, requests: usize) -> Result<Vec<Resolved>> {
        self.changes
            .iter()
            .map(|change| {
                let Some(model) = find(dataset, &change.model) else {
                    bail!("the scenario's model {:?} is not in the dataset", change.model);
                };
                let scores: Vec<f64> = dataset
                    .prompts
                    .iter()
                    .filter_map(|prompt| Some(prompt.outcomes[model]?.score))
                    .collect();
                let mean = super::metrics::mean(&scores).max(1e-9);
                let at = |share: f64| (share * requests as f64).round() as usize;
                Ok(Resolved {
                    model,
                    from: at(change.from),
                    until: at(change.until),
                    score_factor: change.quality.map_or(1.0, |quality| quality / mean),
                    price: change.price.unwrap_or(1.0),
                    misjudged: change.misjudged_cost.unwrap_or(1.0),
                    absent: change.absent,
                })
            })
            .collect()
    }

    /// Columns of the models that must not be in the seed.
    #[must_use]
    pub fn unseeded(&self, dataset: &Dataset) -> Vec<usize> {
        self.changes
            .iter()
            .filter(|change| change.unseeded)
            .filter_map(|change| find(dataset, &change.model))
            .collect()
    }
}

fn find(dataset: &Dataset, name: &str) -> Option<usize> {
    dataset
        .models
        .iter()
        .position(|model| model.as_str() == name || model.model() == name)
}

/// What holds for one model at one request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Conditions {
    /// Factor on the score.
    pub score_factor: f64,
    /// Factor on the price, known.
    pub price: f64,
    /// Factor on the expected cost, unknown.
    pub misjudged: f64,
    /// Whether it can be asked.
    pub present: bool,
}

/// What holds for every model at a request.
#[must_use]
pub fn conditions(changes: &[Resolved], models: usize, request: usize) -> Vec<Conditions> {
    let normal = Conditions {
        score_factor: 1.0,
        price: 1.0,
        misjudged: 1.0,
        present: true,
    };
    let mut now = vec![normal; models];
    for change in changes
        .iter()
        .filter(|change| (change.from..change.until).contains(&request))
    {
        let model = &mut now[change.model];
        model.score_factor *= change.score_factor;
        model.price *= change.price;
        model.misjudged *= change.misjudged;
        model.present &= !change.absent;
    }
    now
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_holds_within_its_share_of_the_stream() {
        let scenario: Scenario = toml::from_str(
            "[[changes]]\nmodel = \"b\"\nfrom = 0.25\nuntil = 0.5\nprice = 0.5\n[feedback]\nrate = 0.7\n",
        )
        .unwrap();
        let dataset = Dataset {
            models: vec![crate::arm::ArmId::new("m/a"), crate::arm::ArmId::new("m/b")],
            prompts: Vec::new(),
        };
        let changes = scenario.resolve(&dataset, 100).unwrap();
        let price = |request| conditions(&changes, 2, request)[1].price;
        assert_eq!([price(24), price(25), price(49), price(50)], [1.0, 0.5, 0.5, 1.0]);
        assert!(toml::from_str::<Scenario>("speling = 1").is_err());
        assert!(scenario.resolve(&Dataset::default(), 100).is_err());
    }
}
