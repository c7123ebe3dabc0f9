//! LinUCB with geometric forgetting and a primal-dual pacer, as published for ParetoBandit (arXiv 2604.00136): a
//! baseline, written from its formulas.

use std::collections::HashMap;
use std::sync::Arc;

use super::linear::{Linear, LinearPrior};
use super::pmf::argmax;
use super::{
    ArmScore, Contexts, Decision, Learner, Observation, Pmf, Policy, Proposal, Round, Strategy, UsageSample,
    View,
};
use crate::arm::ArmId;

/// Published constants.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinUcbSettings {
    /// Geometric forgetting per request (gamma).
    pub forgetting: f64,
    /// Width of the optimism (alpha).
    pub alpha: f64,
    /// Static weight of the normalised price (lambda_c).
    pub cost_weight: f64,
    /// Ridge of a new arm (lambda_0).
    pub ridge: f64,
    /// Offline prompts that a prior counts for (n_eff).
    pub prior_prompts: f64,
    /// Dollars per request; `None`: no pacer.
    pub budget_usd: Option<f64>,
}

impl Default for LinUcbSettings {
    fn default() -> Self {
        Self {
            forgetting: 0.997,
            alpha: 0.01,
            cost_weight: 0.3,
            ridge: 1.0,
            prior_prompts: 1164.0,
            budget_usd: None,
        }
    }
}

/// Step of the dual variable, smoothing of the mean cost, and the dual's largest value.
const DUAL_STEP: f64 = 0.05;
const SMOOTHING: f64 = 0.05;
const MOST_DUAL: f64 = 5.0;
/// Prices per 1000 tokens that normalise to 0 and to 1.
const PRICES: (f64, f64) = (1e-4, 0.1);
/// Largest inflation of the variance of an arm that has not been played.
const LEAST_DISCOUNT: f64 = 1.0 / 200.0;

#[derive(Clone, Debug)]
struct UcbArm {
    linear: Linear,
    /// Static price in dollars per 1000 tokens.
    price: f64,
    updated_at: u64,
}

/// The baseline: one value is both the policy and its learner.
#[derive(Clone, Debug)]
pub struct LinUcb {
    settings: LinUcbSettings,
    arms: HashMap<ArmId, Arc<UcbArm>>,
    clock: u64,
    dual: f64,
    mean_cost: f64,
    last_reward_seq: u64,
}

/// An arm's static price and, where there is one, its offline statistics without any ridge.
#[derive(Clone, Debug)]
pub struct UcbPrior {
    /// The arm.
    pub arm: ArmId,
    /// Dollars per 1000 tokens.
    pub price: f64,
    /// Offline sums of x x' and x r, and the number of prompts in them.
    pub offline: Option<(LinearPrior, f64)>,
    /// Length of the feature vectors.
    pub dimensions: usize,
}

impl LinUcb {
    /// With the arms that may be played: A = s A_off + l0 I, b = s b_off + l0 theta_off, s = n_eff / n_off.
    #[must_use]
    pub fn new(settings: LinUcbSettings, priors: &[UcbPrior]) -> Self {
        let arm = |prior: &UcbPrior| {
            let zero = vec![0.0; prior.dimensions];
            let ridge = LinearPrior::around(&zero, settings.ridge);
            let start = prior.offline.as_ref().and_then(|(sums, prompts)| {
                let base = sums.scaled_plus(1.0, &ridge)?.mean()?;
                let scale = settings.prior_prompts / prompts.max(1.0);
                sums.scaled_plus(scale, &LinearPrior::around(&base, settings.ridge))
            });
            // Its own forgetting decays prior and data alike: the prior is put in as data over a hair of ridge.
            let linear = Linear::new(Arc::new(start.unwrap_or(ridge)), 1.0)?;
            let arm = UcbArm {
                linear,
                price: prior.price,
                updated_at: 0,
            };
            Some((prior.arm.clone(), Arc::new(arm)))
        };
        Self {
            settings,
            arms: priors.iter().filter_map(arm).collect(),
            clock: 0,
            dual: 0.0,
            mean_cost: settings.budget_usd.unwrap_or(0.0),
            last_reward_seq: 0,
        }
    }

    /// (ln c - ln 1e-4) / (ln 0.1 - ln 1e-4), in \[0, 1\].
    fn normalised_price(price: f64) -> f64 {
        let (low, high) = (PRICES.0.ln(), PRICES.1.ln());
        ((price.max(1e-12).ln() - low) / (high - low)).clamp(0.0, 1.0)
    }

    fn features<'a>(contexts: &Contexts<'a>) -> Option<&'a [f32]> {
        contexts.best_of(View::Text).map(|(_, features)| features)
    }
}

impl Policy for LinUcb {
    fn name(&self) -> &'static str {
        "linucb_forgetting"
    }

    /// score = theta . x + alpha sqrt(v) - (lambda_c + lambda_t) c~, with v = x' A^-1 x / max(gamma^dt, 1/200);
    /// an arm dearer than c_max / (1 + lambda_t) is out.
    fn propose(&self, round: &Round<'_>) -> Proposal {
        let dearest = round
            .candidates
            .iter()
            .filter_map(|candidate| self.arms.get(candidate.arm))
            .map(|arm| arm.price)
            .fold(0.0, f64::max);
        let ceiling = dearest / (1.0 + self.dual);
        let weight = self.settings.cost_weight + self.dual;
        let scores: Vec<ArmScore> = round
            .candidates
            .iter()
            .map(|candidate| {
                let (arm, features) = (self.arms.get(candidate.arm), Self::features(&round.contexts));
                let (Some(arm), Some(features)) = (arm, features) else {
                    return ArmScore {
                        value: f64::NEG_INFINITY,
                        ..ArmScore::default()
                    };
                };
                let idle = self.clock.saturating_sub(arm.updated_at) as f64;
                let discount = self.settings.forgetting.powf(idle).max(LEAST_DISCOUNT);
                let sd = (arm.linear.variance(features) / discount).sqrt();
                let mean = arm.linear.mean(features);
                let capable = self.dual <= 0.0 || arm.price <= ceiling;
                let value = mean + self.settings.alpha * sd - weight * Self::normalised_price(arm.price);
                ArmScore {
                    mean,
                    sd,
                    cost_usd: candidate.cost_usd,
                    value: if capable { value } else { value - 1e6 },
                    capable,
                }
            })
            .collect();
        let values: Vec<f64> = scores.iter().map(|score| score.value).collect();
        Proposal {
            pmf: Pmf::certain(argmax(&values).unwrap_or(0), values.len()),
            scores,
            lambda: weight,
            strategy: Strategy::Baseline,
        }
    }
}

impl Learner for LinUcb {
    fn record_round(&mut self, _: &Round<'_>, _: &Decision) {
        self.clock += 1;
    }

    /// A <- gamma^dt A + x x', b <- gamma^dt b + r x.
    fn record_reward(&mut self, observation: &Observation<'_>) {
        if observation.seq <= self.last_reward_seq || observation.revises.is_some() {
            return;
        }
        self.last_reward_seq = observation.seq;
        let Some(features) = Self::features(&observation.contexts) else {
            return;
        };
        if let Some(arm) = self.arms.get_mut(observation.arm) {
            let arm = Arc::make_mut(arm);
            let idle = self.clock.saturating_sub(arm.updated_at) as f64;
            arm.linear.discount(self.settings.forgetting.powf(idle));
            arm.linear.update(features, observation.reward, 1.0);
            arm.updated_at = self.clock;
        }
    }

    /// cbar <- 0.95 cbar + 0.05 c; lambda_t <- clip(lambda_t + 0.05 (cbar / B - 1), 0, 5).
    fn record_usage(&mut self, sample: &UsageSample<'_>) {
        if let Some(budget) = self.settings.budget_usd {
            self.mean_cost += SMOOTHING * (sample.cost_usd - self.mean_cost);
            let step = DUAL_STEP * (self.mean_cost / budget - 1.0);
            self.dual = (self.dual + step).clamp(0.0, MOST_DUAL);
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
    fn prices_normalise_between_their_ends() {
        assert!(LinUcb::normalised_price(1e-4).abs() < 1e-12);
        assert!((LinUcb::normalised_price(0.1) - 1.0).abs() < 1e-12);
        assert!((LinUcb::normalised_price(10_f64.powf(-2.5)) - 0.5).abs() < 1e-12);
    }

    #[test]
    fn overspending_raises_the_dual_by_the_published_step() {
        let settings = LinUcbSettings {
            budget_usd: Some(1.0),
            ..LinUcbSettings::default()
        };
        let arm = ArmId::new("p/a");
        let mut policy = LinUcb::new(settings, &[]);
        policy.record_usage(&UsageSample {
            seq: 1,
            route: "auto",
            arm: &arm,
            contexts: Contexts::default(),
            category: None,
            output_tokens: None,
            input_tokens: None,
            cached_tokens: None,
            prefix_tokens: 0,
            cost_usd: 3.0,
            expected_cost_usd: 0.0,
            ends_request: true,
        });
        // cbar = 0.95 + 0.05 * 3 = 1.1; lambda = 0.05 * 0.1.
        assert!((policy.dual - 0.005).abs() < 1e-12);
    }
}
