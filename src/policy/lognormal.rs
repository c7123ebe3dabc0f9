//! Positive quantities that depend on the prompt, such as the length of an answer.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::linear::{Linear, LinearDelta, LinearPrior};

/// Weight of one call in the running variance and ratio, once there are many.
const GAIN: f64 = 0.005;
/// Observations that the prior variance counts for.
const PRIOR_CALLS: f64 = 10.0;

/// Calls of no effect that a category's offset is shrunk by, and the most categories that are kept apart.
const CATEGORY_SHRINKAGE: f64 = 8.0;
const MOST_CATEGORIES: usize = 256;

/// ln y ~ Normal(w . x + o(category), s^2), with the learned ratio kappa of what was seen to what was expected:
/// E\[y\] = kappa exp(w . x + o + s^2 / 2).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LogNormal {
    linear: Linear,
    /// What a category adds to the logarithm, with the calls behind it.
    categories: BTreeMap<String, (f64, f64)>,
    variance: f64,
    ratio: f64,
    calls: u64,
}

impl LogNormal {
    /// Starts at a prior on the weights of ln y and on its residual variance. `None` if the prior is singular.
    #[must_use]
    pub fn new(prior: Arc<LinearPrior>, variance: f64, forgetting: f64) -> Option<Self> {
        Some(Self {
            linear: Linear::new(prior, forgetting)?,
            categories: BTreeMap::new(),
            variance: variance.clamp(1e-4, 4.0),
            ratio: 1.0,
            calls: 0,
        })
    }

    /// E\[y | x\].
    #[must_use]
    pub fn expect(&self, features: &[f32], category: Option<&str>) -> f64 {
        // An exponent beyond e^20 is a broken feature, not a length.
        let exponent = self.linear.mean(features) + self.offset(category) + 0.5 * self.variance;
        self.ratio * exponent.clamp(-30.0, 20.0).exp()
    }

    /// Standard deviation of ln y.
    #[must_use]
    pub fn spread(&self) -> f64 {
        self.variance.sqrt()
    }

    fn offset(&self, category: Option<&str>) -> f64 {
        category
            .and_then(|name| self.categories.get(name))
            .map_or(0.0, |(offset, _)| *offset)
    }

    /// Learns only what a category adds: for seeds, once the weights are fitted.
    pub fn learn_category(&mut self, features: &[f32], category: Option<&str>, observed: f64) {
        let Some(name) = category.filter(|_| observed > 0.0) else {
            return;
        };
        if !self.categories.contains_key(name) {
            if self.categories.len() >= MOST_CATEGORIES {
                return;
            }
            self.categories.insert(name.to_owned(), (0.0, 0.0));
        }
        let residual = observed.ln() - self.linear.mean(features);
        if let Some((offset, calls)) = self.categories.get_mut(name) {
            *calls += 1.0;
            *offset += (residual - *offset) / (*calls + CATEGORY_SHRINKAGE).min(1.0 / GAIN);
        }
    }

    /// Keeps account of what is observed from now on.
    pub fn keep_account(&mut self) {
        self.linear.keep_account();
    }

    /// What the weights have observed since the account was begun or last taken.
    pub fn take_delta(&mut self) -> Option<LinearDelta> {
        self.linear.take_delta()
    }

    /// Adds what another replica has observed. False when it does not fit.
    pub fn merge(&mut self, delta: &LinearDelta) -> bool {
        self.linear.merge(delta)
    }

    /// Puts another's prior under what was observed here. False when it does not fit.
    pub fn rebase(&mut self, other: &Self) -> bool {
        self.linear.rebase(other.linear.prior())
    }

    /// Number of weights.
    #[must_use]
    pub fn dimensions(&self) -> usize {
        self.linear.dimensions()
    }

    /// Takes one observed y > 0 into account.
    pub fn learn(&mut self, features: &[f32], category: Option<&str>, observed: f64) {
        if observed.is_nan() || observed <= 0.0 || features.len() != self.dimensions() {
            return;
        }
        self.calls += 1;
        let gain = (1.0 / (self.calls as f64 + PRIOR_CALLS)).max(GAIN);
        let log = observed.ln();
        let offset = self.offset(category);
        let residual = log - offset - self.linear.mean(features);
        // One outlier (an empty answer, a run-away one) must not blow the variance up.
        let squared = (residual * residual).min(9.0 * self.variance);
        self.variance = (self.variance + gain * (squared - self.variance)).clamp(1e-4, 4.0);
        let share = (observed * self.ratio / self.expect(features, category)).min(20.0);
        self.ratio = (self.ratio + gain * (share - self.ratio)).clamp(0.2, 5.0);
        self.linear.update(features, log - offset, 1.0);
        self.learn_category(features, category, observed);
        if self.linear.needs_refresh() {
            self.linear.refresh();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expects_the_mean_and_not_the_median() {
        let prior = Arc::new(LinearPrior::around(&[5.0], 1.0));
        let mut head = LogNormal::new(prior, 0.5, 1.0).unwrap();
        // Half 100, half 900: the mean is 500, the median of a log-normal there is 300.
        for turn in 0..4000 {
            head.learn(&[1.0], None, if turn % 2 == 0 { 100.0 } else { 900.0 });
        }
        assert!(
            (head.expect(&[1.0], None) - 500.0).abs() < 50.0,
            "{}",
            head.expect(&[1.0], None)
        );
        head.learn(&[1.0], None, f64::NAN);
        head.learn(&[1.0], None, 0.0);
        assert!(head.expect(&[1.0], None).is_finite());
    }
}
