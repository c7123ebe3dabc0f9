//! Policies by their names, ready to learn along the log.

use std::sync::Arc;

use crate::arm::ArmId;
use crate::policy::category_table::Categories;
use crate::policy::learner::ContextualLearner;
use crate::policy::pmf::argmax;
use crate::policy::route::{Objective, RouteSettings};
use crate::policy::{
    CategoryTable, Decision, EpsilonGreedy, Fixed, Learner, Observation, Pmf, Policy, Proposal, Random,
    Round, Strategy, UsageSample,
};

/// Exploration of the epsilon-greedy baseline.
const EPSILON: f64 = 0.02;

/// A policy that can be evaluated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named {
    /// The contextual policy, as `serve` runs it.
    Contextual,
    /// The best mix that looks at no prompt.
    StaticMix,
    /// Category by model table.
    CategoryTable,
    /// Epsilon-greedy on running means.
    EpsilonGreedy,
    /// Any candidate.
    Random,
    /// The candidate of the least expected cost.
    Cheapest,
    /// The candidate of the largest expected cost.
    Dearest,
    /// Always this model, on the decisions for which it was a candidate.
    Single(ArmId),
}

/// There is no policy of that name.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "there is no policy {0:?}: use contextual, static_mix, category_table, epsilon_greedy, random, cheapest, dearest, or single:MODEL with one of the log's models"
)]
pub struct NoSuchPolicy(String);

impl Named {
    /// The policy `name`.
    ///
    /// # Errors
    /// When there is none.
    pub fn parse(name: &str) -> Result<Self, NoSuchPolicy> {
        Ok(match name {
            "contextual" => Self::Contextual,
            "static_mix" => Self::StaticMix,
            "category_table" => Self::CategoryTable,
            "epsilon_greedy" => Self::EpsilonGreedy,
            "random" => Self::Random,
            "cheapest" => Self::Cheapest,
            "dearest" => Self::Dearest,
            _ => match name.strip_prefix("single:") {
                Some(model) if !model.is_empty() => Self::Single(ArmId::new(model)),
                _ => return Err(NoSuchPolicy(name.to_owned())),
            },
        })
    }

    /// The one model that it always asks.
    #[must_use]
    pub fn always(&self) -> Option<&ArmId> {
        match self {
            Self::Single(arm) => Some(arm),
            _ => None,
        }
    }

    /// The learner behind the name. `fresh` makes a contextual learner before anything was learned here, for
    /// feature vectors of the given length in place of the text view's when there is one. `routes` get `settings`.
    pub fn learner(
        &self,
        categories: Categories,
        routes: &[String],
        settings: impl Fn(&str) -> RouteSettings,
        fresh: impl Fn(Option<usize>) -> ContextualLearner,
    ) -> Box<dyn Learner> {
        let contextual = |dimensions: Option<usize>, proven: bool| {
            let mut learner = fresh(dimensions);
            for route in routes {
                let settings = RouteSettings {
                    proven,
                    guarded: true,
                    ..settings(route)
                };
                learner.ensure_route(route, settings);
            }
            learner
        };
        match self {
            Self::Contextual => Box::new(contextual(None, true)),
            Self::StaticMix => Box::new(Unpromoted(contextual(None, false))),
            Self::CategoryTable => {
                let inner = contextual(Some(categories.dimensions()), true);
                Box::new(CategoryTable::new(Arc::new(categories), inner))
            }
            Self::EpsilonGreedy => {
                let lambda = routes
                    .first()
                    .map_or(0.0, |route| match settings(route).objective {
                        Objective::Weighted { lambda } => lambda,
                        _ => 0.0,
                    });
                Box::new(EpsilonGreedy::new(EPSILON, lambda))
            }
            Self::Random => Box::new(Random),
            Self::Cheapest => Box::new(ByCost { sign: -1.0 }),
            Self::Dearest => Box::new(ByCost { sign: 1.0 }),
            Self::Single(arm) => Box::new(Fixed::new(arm.clone())),
        }
    }
}

/// A contextual learner whose guard never hears of its own log, so that the static mix stays in charge.
struct Unpromoted(ContextualLearner);

impl Learner for Unpromoted {
    fn record_round(&mut self, round: &Round<'_>, decision: &Decision) {
        self.0.record_round(round, decision);
    }

    fn record_reward(&mut self, observation: &Observation<'_>) {
        self.0.record_reward(&Observation {
            logged: None,
            ..*observation
        });
    }

    fn record_usage(&mut self, sample: &UsageSample<'_>) {
        self.0.record_usage(sample);
    }

    fn snapshot(&self) -> Arc<dyn Policy> {
        self.0.snapshot()
    }
}

/// The candidate with the largest `sign` times expected cost.
#[derive(Clone, Copy, Debug)]
struct ByCost {
    sign: f64,
}

impl Policy for ByCost {
    fn name(&self) -> &'static str {
        if self.sign < 0.0 { "cheapest" } else { "dearest" }
    }

    fn propose(&self, round: &Round<'_>) -> Proposal {
        let values: Vec<f64> = round
            .candidates
            .iter()
            .map(|candidate| self.sign * candidate.cost_usd)
            .collect();
        Proposal {
            pmf: Pmf::certain(argmax(&values).unwrap_or(0), values.len()),
            scores: Vec::new(),
            lambda: 0.0,
            strategy: Strategy::Baseline,
        }
    }
}

impl Learner for ByCost {
    fn record_round(&mut self, _: &Round<'_>, _: &Decision) {}
    fn record_reward(&mut self, _: &Observation<'_>) {}
    fn record_usage(&mut self, _: &UsageSample<'_>) {}
    fn snapshot(&self) -> Arc<dyn Policy> {
        Arc::new(*self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_help() {
        assert_eq!(Named::parse("static_mix"), Ok(Named::StaticMix));
        assert_eq!(
            Named::parse("single:mistral/small"),
            Ok(Named::Single(ArmId::new("mistral/small")))
        );
        assert!(Named::parse("single:").is_err() && Named::parse("best").is_err());
    }
}
