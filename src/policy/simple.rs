//! Policies that learn nothing: one fixed arm, and chance.

use std::sync::Arc;

use super::{Decision, Learner, Observation, Pmf, Policy, Proposal, Round, Strategy, UsageSample};
use crate::arm::ArmId;

/// Always the same arm; where it is not a candidate, the cheapest one.
#[derive(Clone, Debug)]
pub struct Fixed {
    arm: ArmId,
}

impl Fixed {
    /// The policy that always asks `arm`.
    #[must_use]
    pub const fn new(arm: ArmId) -> Self {
        Self { arm }
    }
}

impl Policy for Fixed {
    fn name(&self) -> &'static str {
        "fixed"
    }

    fn propose(&self, round: &Round<'_>) -> Proposal {
        let cheapest = || {
            let costs: Vec<f64> = round.candidates.iter().map(|arm| -arm.cost_usd).collect();
            super::pmf::argmax(&costs).unwrap_or(0)
        };
        let index = round
            .candidates
            .iter()
            .position(|candidate| *candidate.arm == self.arm)
            .unwrap_or_else(cheapest);
        baseline(Pmf::certain(index, round.candidates.len()))
    }
}

/// Every candidate with the same probability.
#[derive(Clone, Copy, Debug, Default)]
pub struct Random;

impl Policy for Random {
    fn name(&self) -> &'static str {
        "random"
    }

    fn propose(&self, round: &Round<'_>) -> Proposal {
        baseline(Pmf::from_weights(vec![1.0; round.candidates.len()]))
    }
}

fn baseline(pmf: Pmf) -> Proposal {
    Proposal {
        pmf,
        scores: Vec::new(),
        lambda: 0.0,
        strategy: Strategy::Baseline,
    }
}

macro_rules! learns_nothing {
    ($($policy:ty),*) => {$(
        impl Learner for $policy {
            fn record_round(&mut self, _: &Round<'_>, _: &Decision) {}
            fn record_reward(&mut self, _: &Observation<'_>) {}
            fn record_usage(&mut self, _: &UsageSample<'_>) {}
            fn snapshot(&self) -> Arc<dyn Policy> {
                Arc::new(self.clone())
            }
        }
    )*};
}
learns_nothing!(Fixed, Random);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Candidate, Contexts, Demands};

    #[test]
    fn a_missing_arm_falls_back_to_the_cheapest() {
        let (a, b) = (ArmId::new("p/a"), ArmId::new("p/b"));
        let candidates = [(&a, 2.0), (&b, 1.0)].map(|(arm, cost_usd)| Candidate {
            arm,
            cost_usd,
            latency_ms: 0.0,
        });
        let round = Round {
            route: "auto",
            contexts: Contexts::default(),
            category: None,
            candidates: &candidates,
            demands: Demands::default(),
        };
        let chosen = |arm: &str| Fixed::new(ArmId::new(arm)).propose(&round).pmf.probabilities();
        assert_eq!(chosen("p/a"), [1.0, 0.0]);
        assert_eq!(chosen("p/c"), [0.0, 1.0]);
        assert_eq!(Random.propose(&round).pmf.probabilities(), [0.5, 0.5]);
    }
}
