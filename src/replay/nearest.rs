//! k nearest neighbours on the same features: a baseline.

use std::collections::HashMap;
use std::sync::Arc;

use crate::arm::ArmId;
use crate::policy::pmf::argmax;
use crate::policy::route::{RouteSettings, Solution, Terms, solve};
use crate::policy::solver::{Offer, Rounds};
use crate::policy::{
    ArmScore, Decision, Learner, Observation, Pmf, Policy, Proposal, Round, Strategy, UsageSample, View,
};

/// Neighbours of one prediction.
const NEIGHBOURS: usize = 50;
/// Rounds that the price of a dollar is solved on, and between two solutions.
const RESERVOIR: usize = 256;
const SOLVE_EVERY: u64 = 25;

/// Labelled prompts of one model.
#[derive(Clone, Debug, Default)]
struct Labelled {
    features: Vec<Arc<[f32]>>,
    rewards: Vec<f64>,
}

/// Mean reward of the nearest labelled prompts, with the same solver as the contextual policy and no exploration.
#[derive(Clone, Debug)]
pub struct Nearest {
    settings: RouteSettings,
    order: Vec<ArmId>,
    arms: HashMap<ArmId, Labelled>,
    recent: Vec<Vec<Offer>>,
    rounds: u64,
    solution: Solution,
    pacer: crate::policy::pacer::Pacer,
}

impl Nearest {
    /// Without any labelled prompt.
    #[must_use]
    pub fn new(settings: RouteSettings, models: &[ArmId]) -> Self {
        Self {
            settings,
            order: models.to_vec(),
            arms: HashMap::new(),
            recent: Vec::new(),
            rounds: 0,
            solution: Solution::default(),
            pacer: crate::policy::pacer::Pacer::default(),
        }
    }

    /// Adds a labelled prompt.
    pub fn add(&mut self, model: &ArmId, features: &Arc<[f32]>, reward: f64) {
        let labelled = self.arms.entry(model.clone()).or_default();
        labelled.features.push(features.clone());
        labelled.rewards.push(reward);
    }

    /// Puts a prompt's offers into the reservoir.
    pub fn rehearse(&mut self, features: &[f32], costs: &[f64]) {
        let offers = self
            .order
            .iter()
            .zip(costs)
            .enumerate()
            .map(|(arm, (model, &cost_usd))| {
                let quality = self.predict(model, features);
                Offer {
                    arm,
                    quality,
                    value: quality,
                    cost_usd,
                }
            });
        let offers = offers.collect();
        self.remember(offers);
    }

    fn remember(&mut self, offers: Vec<Offer>) {
        if self.recent.len() >= RESERVOIR {
            self.recent.remove(0);
        }
        self.recent.push(offers);
        self.rounds += 1;
        if self.rounds.is_power_of_two() || self.rounds.is_multiple_of(SOLVE_EVERY) {
            let mut rounds = Rounds::default();
            self.recent
                .iter()
                .for_each(|offers| rounds.push(offers.iter().copied()));
            self.solution = {
                let budget = self.settings.budget_usd;
                let allowed_usd = budget.map(|budget| self.pacer.allowance(budget));
                let terms = Terms {
                    allowed_usd,
                    ..Terms::default()
                };
                solve(&self.settings, &rounds, &terms)
            };
        }
    }

    /// Mean of the nearest, each weighted by 1 / (0.1 + distance), shrunk by two prompts of quality one half.
    fn predict(&self, model: &ArmId, features: &[f32]) -> f64 {
        let Some(labelled) = self.arms.get(model) else {
            return 0.5;
        };
        let mut distances: Vec<(f32, f64)> = labelled
            .features
            .iter()
            .zip(&labelled.rewards)
            .map(|(known, &reward)| {
                let squared: f32 = known.iter().zip(features).map(|(a, b)| (a - b) * (a - b)).sum();
                (squared, reward)
            })
            .collect();
        if distances.len() > NEIGHBOURS {
            distances.select_nth_unstable_by(NEIGHBOURS, |a, b| a.0.total_cmp(&b.0));
            distances.truncate(NEIGHBOURS);
        }
        let (mut weight, mut sum) = (2.0, 1.0);
        for (squared, reward) in distances {
            let own = 1.0 / (0.1 + f64::from(squared.sqrt()));
            weight += own;
            sum += own * reward;
        }
        sum / weight
    }
}

impl Policy for Nearest {
    fn name(&self) -> &'static str {
        "knn"
    }

    fn propose(&self, round: &Round<'_>) -> Proposal {
        let features = round
            .contexts
            .best_of(View::Text)
            .map_or(&[][..], |(_, features)| features);
        let lambda = self.solution.lambda.unwrap_or(0.0);
        let scores: Vec<ArmScore> = round
            .candidates
            .iter()
            .map(|candidate| {
                let mean = self.predict(candidate.arm, features);
                ArmScore {
                    mean,
                    sd: 0.0,
                    cost_usd: candidate.cost_usd,
                    value: mean - lambda * candidate.cost_usd,
                    capable: true,
                }
            })
            .collect();
        let values: Vec<f64> = scores.iter().map(|score| score.value).collect();
        Proposal {
            pmf: Pmf::certain(argmax(&values).unwrap_or(0), values.len()),
            scores,
            lambda,
            strategy: Strategy::Baseline,
        }
    }
}

impl Learner for Nearest {
    fn record_round(&mut self, round: &Round<'_>, decision: &Decision) {
        let offers = round
            .candidates
            .iter()
            .zip(&decision.scores)
            .map(|(candidate, score)| Offer {
                arm: self
                    .order
                    .iter()
                    .position(|arm| arm == candidate.arm)
                    .unwrap_or(0),
                quality: score.mean,
                value: score.mean,
                cost_usd: score.cost_usd,
            });
        let offers = offers.collect();
        self.remember(offers);
    }

    fn record_reward(&mut self, observation: &Observation<'_>) {
        if let Some((_, features)) = observation.contexts.best_of(View::Text) {
            self.add(observation.arm, &Arc::from(features), observation.reward);
        }
    }

    fn record_usage(&mut self, sample: &UsageSample<'_>) {
        if let Some(budget) = self.settings.budget_usd {
            self.pacer.record(sample.cost_usd, sample.ends_request, budget);
        }
    }

    fn snapshot(&self) -> Arc<dyn Policy> {
        Arc::new(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prediction_leans_on_the_near() {
        let model = ArmId::new("m");
        let mut nearest = Nearest::new(RouteSettings::default(), std::slice::from_ref(&model));
        for turn in 0..200 {
            let x = if turn % 2 == 0 { 1.0 } else { -1.0 };
            nearest.add(&model, &Arc::from([1.0, x]), f64::from(turn % 2 == 0));
        }
        assert!(nearest.predict(&model, &[1.0, 0.9]) > 0.95);
        assert!(nearest.predict(&model, &[1.0, -0.9]) < 0.05);
    }
}
