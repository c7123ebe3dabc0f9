//! What the load did, and what the best single model would have done with the same prompts. Only a simulation
//! can know the second: it is why the demonstration can show savings after a minute, and why a real
//! deployment needs the reports' estimates instead.

use std::collections::BTreeMap;

use super::setup::arm_id;
use crate::providers::simulated::{PromptTraits, SimulatedModel};

/// The model to compare with, and what it would have answered.
#[derive(Clone, Debug)]
pub struct Rival {
    models: Vec<SimulatedModel>,
    best: usize,
    arm: String,
    seed: u64,
}

/// Sums over some answers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tally {
    /// Answers.
    pub requests: u64,
    /// What they cost, as the server said.
    pub cost_usd: f64,
    /// Sum of their true scores.
    pub quality: f64,
    /// What the best single model would have cost.
    pub best_cost_usd: f64,
    /// Sum of the scores it would have had.
    pub best_quality: f64,
    /// Answers by model.
    pub served: BTreeMap<String, u64>,
}

/// The load's books: everything, and what came since the last look.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// Routed answers since the start.
    pub total: Tally,
    /// All answers since the last [`Ledger::turn`].
    pub recent: Tally,
    /// Requests that failed.
    pub failed: u64,
    /// Scores posted.
    pub rated: u64,
}

impl Rival {
    /// The model with the best recorded mean over every category and difficulty; `None` without models.
    #[must_use]
    pub fn best_of(models: Vec<SimulatedModel>, seed: u64) -> Option<Self> {
        let mean = |model: &SimulatedModel| {
            let scores: Vec<f64> = model
                .strata
                .values()
                .flatten()
                .flat_map(|stratum| stratum.scores)
                .collect();
            scores.iter().sum::<f64>() / scores.len().max(1) as f64
        };
        let best =
            (0..models.len()).max_by(|one, other| mean(&models[*one]).total_cmp(&mean(&models[*other])))?;
        let arm = arm_id(&models[best]);
        Some(Self {
            models,
            best,
            arm,
            seed,
        })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.models[self.best].name
    }

    /// Its id in the demonstration's configuration.
    #[must_use]
    pub fn arm(&self) -> &str {
        &self.arm
    }

    /// Every model's name, in the order of the record (by price).
    pub fn models(&self) -> impl Iterator<Item = &str> {
        self.models.iter().map(|model| model.name.as_str())
    }

    /// The true score of the answer that `model` (with or without its provider) gave.
    #[must_use]
    pub fn score(&self, model: &str, traits: &PromptTraits) -> Option<f64> {
        let name = model.rsplit_once('/').map_or(model, |(_, name)| name);
        let model = self.models.iter().find(|model| model.name == name)?;
        Some(model.outcome(traits, self.seed).score)
    }

    /// Score and cost of the best single model on the same prompt.
    #[must_use]
    pub fn would_have(&self, traits: &PromptTraits, input_tokens: u64) -> (f64, f64) {
        let model = &self.models[self.best];
        let outcome = model.outcome(traits, self.seed);
        (
            outcome.score,
            model.cost_usd(input_tokens, u64::from(outcome.output_tokens)),
        )
    }
}

impl Ledger {
    /// Books an answer; `routed` unless its model was asked for by name.
    pub fn book(&mut self, model: &str, cost_usd: f64, score: f64, best: (f64, f64), routed: bool) {
        let name = model.rsplit_once('/').map_or(model, |(_, name)| name);
        let total = routed.then_some(&mut self.total);
        for tally in total.into_iter().chain([&mut self.recent]) {
            tally.requests += 1;
            tally.cost_usd += cost_usd;
            tally.quality += score;
            tally.best_quality += best.0;
            tally.best_cost_usd += best.1;
            *tally.served.entry(name.to_owned()).or_default() += 1;
        }
    }

    /// What came since the last call.
    pub fn turn(&mut self) -> Tally {
        std::mem::take(&mut self.recent)
    }
}

impl Tally {
    fn per_request(&self, sum: f64) -> f64 {
        sum / self.requests.max(1) as f64
    }

    /// Mean cost in dollars.
    #[must_use]
    pub fn mean_cost_usd(&self) -> f64 {
        self.per_request(self.cost_usd)
    }

    /// Mean true score.
    #[must_use]
    pub fn mean_quality(&self) -> f64 {
        self.per_request(self.quality)
    }

    /// Mean cost in dollars of the best single model.
    #[must_use]
    pub fn mean_best_cost_usd(&self) -> f64 {
        self.per_request(self.best_cost_usd)
    }

    /// Mean true score of the best single model.
    #[must_use]
    pub fn mean_best_quality(&self) -> f64 {
        self.per_request(self.best_quality)
    }

    /// Part of the best single model's cost that was saved; negative when more was spent.
    #[must_use]
    pub fn saved(&self) -> f64 {
        if self.best_cost_usd > 0.0 {
            1.0 - self.cost_usd / self.best_cost_usd
        } else {
            0.0
        }
    }

    /// Share of the answers that `model` gave, in [0,1].
    #[must_use]
    pub fn share(&self, model: &str) -> f64 {
        self.per_request(self.served.get(model).map_or(0.0, |count| *count as f64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::providers::simulated::{Difficulty, recorded};

    #[test]
    fn books_answers_against_the_best_single_model() {
        let mut ledger = Ledger::default();
        ledger.book("sim-meta/llama-3.1-8b", 0.001, 0.8, (0.9, 0.01), true);
        ledger.book("sim-google/gemini-2.5-pro", 0.02, 0.9, (0.9, 0.02), true);
        let recent = ledger.turn();
        assert_eq!(recent, ledger.total);
        assert!((recent.mean_quality() - 0.85).abs() < 1e-12);
        assert!((recent.saved() - 0.3).abs() < 1e-12, "0.021 instead of 0.030");
        assert!((recent.share("llama-3.1-8b") - 0.5).abs() < 1e-12);
        ledger.book("sim-google/gemini-2.5-pro", 0.02, 0.9, (0.9, 0.02), false);
        assert_eq!((ledger.turn().requests, ledger.total.requests), (1, 2));
    }

    #[test]
    fn the_best_recorded_model_is_the_dearest() {
        let rival = Rival::best_of(recorded().unwrap().models, 1).unwrap();
        assert_eq!(rival.name(), "gemini-2.5-pro");
        let traits = PromptTraits::new("mmlu", Difficulty::Hard, "Why?");
        let (score, cost) = rival.would_have(&traits, 10);
        assert_eq!(rival.score("sim-google/gemini-2.5-pro", &traits), Some(score));
        assert!(cost > 0.0);
        assert_eq!(rival.score("nobody/knows", &traits), None);
    }
}
