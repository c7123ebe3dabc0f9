//! Epsilon-greedy on running means: a baseline that looks at no prompt.

use std::collections::HashMap;
use std::sync::Arc;

use super::pmf::argmax;
use super::{Decision, Learner, Observation, Pmf, Policy, Proposal, Round, Strategy, UsageSample};
use crate::arm::ArmId;

/// With probability epsilon any arm, else the best `mean - lambda cost` (Sutton and Barto, 2.2).
#[derive(Clone, Debug)]
pub struct EpsilonGreedy {
    epsilon: f64,
    lambda: f64,
    arms: HashMap<ArmId, Tally>,
    last_reward_seq: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    weight: f64,
    reward: f64,
}

impl EpsilonGreedy {
    /// `epsilon` in \[0, 0.5\]; `lambda` is the price of a dollar in quality points.
    #[must_use]
    pub fn new(epsilon: f64, lambda: f64) -> Self {
        Self {
            epsilon: epsilon.clamp(0.0, 0.5),
            lambda,
            arms: HashMap::new(),
            last_reward_seq: 0,
        }
    }

    /// Mean reward; an arm never scored counts as perfect, so that each is tried.
    fn mean(&self, arm: &ArmId) -> f64 {
        self.arms
            .get(arm)
            .filter(|tally| tally.weight > 0.0)
            .map_or(1.0, |tally| tally.reward / tally.weight)
    }
}

impl Policy for EpsilonGreedy {
    fn name(&self) -> &'static str {
        "epsilon_greedy"
    }

    fn propose(&self, round: &Round<'_>) -> Proposal {
        let arms = round.candidates.len();
        let value =
            |candidate: &super::Candidate<'_>| self.mean(candidate.arm) - self.lambda * candidate.cost_usd;
        let values: Vec<f64> = round.candidates.iter().map(value).collect();
        let mut pmf = Pmf::certain(argmax(&values).unwrap_or(0), arms);
        if round.demands.explore {
            pmf = pmf.with_floor(vec![self.epsilon / arms.max(1) as f64; arms]);
        }
        Proposal {
            pmf,
            scores: Vec::new(),
            lambda: self.lambda,
            strategy: Strategy::Baseline,
        }
    }
}

impl Learner for EpsilonGreedy {
    fn record_round(&mut self, _: &Round<'_>, _: &Decision) {}

    fn record_reward(&mut self, observation: &Observation<'_>) {
        if observation.seq <= self.last_reward_seq {
            return;
        }
        self.last_reward_seq = observation.seq;
        let tally = self.arms.entry(observation.arm.clone()).or_default();
        if let Some(old) = observation.revises {
            tally.weight -= old.weight;
            tally.reward -= old.weight * old.reward;
        }
        tally.weight += observation.weight;
        tally.reward += observation.weight * observation.reward;
    }

    fn record_usage(&mut self, _: &UsageSample<'_>) {}

    fn snapshot(&self) -> Arc<dyn Policy> {
        Arc::new(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Contexts, Revision};

    #[test]
    fn a_revision_replaces_and_a_repetition_does_nothing() {
        let arm = ArmId::new("p/a");
        let mut policy = EpsilonGreedy::new(0.1, 0.0);
        let score = |seq, reward, revises| Observation {
            seq,
            route: "auto",
            arm: &arm,
            contexts: Contexts::default(),
            category: None,
            reward,
            weight: 1.0,
            propensity: 1.0,
            logged: None,
            late: false,
            revises,
        };
        policy.record_reward(&score(1, 0.2, None));
        policy.record_reward(&score(2, 0.6, None));
        policy.record_reward(&score(2, 0.6, None));
        assert!((policy.mean(&arm) - 0.4).abs() < 1e-12);
        let old = Revision {
            reward: 0.2,
            weight: 1.0,
        };
        policy.record_reward(&score(3, 1.0, Some(old)));
        assert!((policy.mean(&arm) - 0.8).abs() < 1e-12);
    }
}
