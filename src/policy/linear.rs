//! Bayesian linear regression, updated one observation at a time, that forgets toward its prior.

mod algebra;
mod delta;
mod prior;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::packed;

use algebra::{add_outer, solve, triangle};

pub(super) use algebra::dot;
pub use delta::LinearDelta;
pub use prior::LinearPrior;

/// Observations between two exact solutions: see [`Linear::needs_refresh`].
const REFRESH_EVERY: u32 = 256;

/// Share of a prior that no number of alarms takes away.
const LEAST_BELIEF: f64 = 1.0 / 64.0;

/// Weights theta of r = theta . x + noise, with the evidence D = sum g^age w x x' over a prior A0:
/// A = A0 + D, theta = A^-1 (b0 + sum g^age w x r).
///
/// Since only D decays, the weights return to the prior and not to nothing (stabilised forgetting, Kulhavy and
/// Zarrop 1993: A <- g A + w x x' + (1 - g) A0, which is the same from A = A0 on). A rank-1 step keeps
/// P = A^-1 and theta current (Sherman and Morrison); the decay of what is already in P follows at the next
/// exact solution.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "Saved", into = "Saved")]
pub struct Linear {
    prior: Arc<LinearPrior>,
    /// D and its right side, divided by `scale`, so that decaying is one multiplication.
    evidence: Vec<f64>,
    information: Vec<f64>,
    scale: f64,
    forgetting: f64,
    /// Share of the prior that [`Self::discount`] has left.
    believed: f64,
    since_refresh: u32,
    theta: Vec<f32>,
    /// P, row by row, full.
    covariance: Vec<f32>,
    /// Largest possible x' P x for |x| = 1 (Frobenius norm, an upper bound of the largest eigenvalue).
    spread: f32,
    /// What was observed since it was last shared, where it is shared.
    account: Option<Box<LinearDelta>>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Saved {
    prior: Arc<LinearPrior>,
    #[serde(with = "packed")]
    evidence: Vec<f64>,
    #[serde(with = "packed")]
    information: Vec<f64>,
    scale: f64,
    forgetting: f64,
    #[serde(default = "fully")]
    believed: f64,
}

const fn fully() -> f64 {
    1.0
}

impl From<Linear> for Saved {
    fn from(linear: Linear) -> Self {
        Self {
            prior: linear.prior,
            evidence: linear.evidence,
            information: linear.information,
            scale: linear.scale,
            forgetting: linear.forgetting,
            believed: linear.believed,
        }
    }
}

/// The stored statistics are not those of a regression.
#[derive(Debug, thiserror::Error)]
#[error("saved regression is not usable: {0}; retrain, or remove the learned state")]
pub struct UnusableStatistics(&'static str);

impl TryFrom<Saved> for Linear {
    type Error = UnusableStatistics;

    fn try_from(saved: Saved) -> Result<Self, Self::Error> {
        if !saved.prior.is_sound() {
            return Err(UnusableStatistics("its prior is malformed"));
        }
        let dimensions = saved.prior.dimensions();
        if saved.evidence.len() != triangle(dimensions) || saved.information.len() != dimensions {
            return Err(UnusableStatistics("its sizes do not agree"));
        }
        let mut linear =
            Self::new(saved.prior, saved.forgetting).ok_or(UnusableStatistics("its prior is singular"))?;
        linear.evidence = saved.evidence;
        linear.information = saved.information;
        linear.scale = saved.scale;
        linear.believed = saved.believed;
        if linear.refresh() {
            Ok(linear)
        } else {
            Err(UnusableStatistics("it is singular or not finite"))
        }
    }
}

impl Linear {
    /// Starts at the prior. `forgetting` is g in (0,1]: the evidence halves in ln 2 / (1 - g) observations.
    /// `None` if the prior is singular.
    #[must_use]
    pub fn new(prior: Arc<LinearPrior>, forgetting: f64) -> Option<Self> {
        let dimensions = prior.dimensions();
        let mut linear = Self {
            evidence: vec![0.0; triangle(dimensions)],
            information: vec![0.0; dimensions],
            scale: 1.0,
            forgetting: forgetting.clamp(0.5, 1.0),
            believed: 1.0,
            since_refresh: 0,
            theta: vec![0.0; dimensions],
            covariance: vec![0.0; dimensions * dimensions],
            spread: 0.0,
            account: None,
            prior,
        };
        linear.refresh().then_some(linear)
    }

    /// What it starts from.
    #[must_use]
    pub const fn prior(&self) -> &Arc<LinearPrior> {
        &self.prior
    }

    /// Puts another prior under what was observed, which stays. False, and nothing changes, when it does not fit.
    pub fn rebase(&mut self, prior: &Arc<LinearPrior>) -> bool {
        if prior.dimensions() != self.dimensions() {
            return false;
        }
        let before = std::mem::replace(&mut self.prior, Arc::clone(prior));
        let fits = self.refresh();
        if fits {
            self.believed = 1.0;
        } else {
            self.prior = before;
            self.refresh();
        }
        fits
    }

    /// Number of weights.
    #[must_use]
    pub fn dimensions(&self) -> usize {
        self.theta.len()
    }

    /// theta . x
    #[must_use]
    pub fn mean(&self, features: &[f32]) -> f64 {
        f64::from(dot(&self.theta, features))
    }

    /// x' P x: the variance of the mean, for noise of variance 1.
    #[must_use]
    pub fn variance(&self, features: &[f32]) -> f64 {
        let mut sum = 0.0_f32;
        let width = self.dimensions();
        for (row, &feature) in self.covariance.chunks_exact(width).zip(features) {
            if feature != 0.0 {
                sum += feature * dot(row, features);
            }
        }
        f64::from(sum.max(0.0))
    }

    /// A bound of [`Self::variance`] that costs nothing, for features of this squared length.
    #[must_use]
    pub fn variance_bound(&self, squared_length: f32) -> f64 {
        f64::from(self.spread * squared_length)
    }

    /// P x, along which an observation at x moves the weights; its product with x is [`Self::variance`]. Empty where the
    /// sizes differ.
    #[must_use]
    pub fn along(&self, features: &[f32]) -> Vec<f32> {
        let width = self.dimensions();
        if features.len() != width {
            return Vec::new();
        }
        // P is symmetric, so P x is a sum of rows, which vectorises where row-times-x sums do not.
        let mut px = vec![0.0_f32; width];
        for (row, &feature) in self.covariance.chunks_exact(width).zip(features) {
            if feature != 0.0 {
                for (slot, &entry) in px.iter_mut().zip(row) {
                    *slot += feature * entry;
                }
            }
        }
        px
    }

    /// Learns one observation of the given weight; a negative weight takes one back. O(d^2).
    pub fn update(&mut self, features: &[f32], target: f64, weight: f64) {
        let px = self.along(features);
        self.update_along(&px, features, target, weight);
    }

    /// [`Self::update`] where [`Self::along`] of the features is at hand, with nothing learned since.
    pub fn update_along(&mut self, px: &[f32], features: &[f32], target: f64, weight: f64) {
        if features.len() != self.dimensions() || weight == 0.0 {
            return;
        }
        let scaled = weight / self.scale;
        add_outer(&mut self.evidence, features, scaled);
        for (information, &feature) in self.information.iter_mut().zip(features) {
            *information += scaled * target * f64::from(feature);
        }
        if let Some(account) = &mut self.account {
            account.add(features, target, weight, self.forgetting);
        }
        self.step(px, features, target - self.mean(features), weight as f32);
        if weight > 0.0 {
            self.scale *= self.forgetting;
        }
        self.since_refresh += 1;
    }

    /// Replaces the target of an earlier observation, whose features and weight stay: A is unchanged.
    pub fn revise(&mut self, features: &[f32], old: f64, new: f64, weight: f64) {
        if features.len() != self.dimensions() {
            return;
        }
        let change = weight * (new - old);
        if let Some(account) = &mut self.account {
            account.shift(features, change);
        }
        let width = self.dimensions();
        for (row, (theta, &feature)) in self.theta.iter_mut().zip(features).enumerate() {
            self.information[row] += change / self.scale * f64::from(feature);
            *theta += change as f32 * dot(&self.covariance[row * width..(row + 1) * width], features);
        }
    }

    /// Adds `amount` to the target of everything observed. The first feature must be the intercept, 1 in every
    /// observation: then the sums of the others are the first row of D.
    pub fn raise(&mut self, amount: f64) {
        if amount == 0.0 {
            return;
        }
        for (information, sum) in self.information.iter_mut().zip(&self.evidence) {
            *information += amount * sum;
        }
        self.refresh();
    }

    /// Forgets the share `1 - kept` of what was observed, at once.
    pub fn forget(&mut self, kept: f64) {
        self.scale *= kept.clamp(0.0, 1.0);
        self.refresh();
    }

    /// Multiplies prior and evidence alike by `factor` in (0, 1]: plain geometric forgetting, which tends to nothing
    /// where [`Linear`]'s own tends to the prior. P grows by 1 / factor and theta stays. Of the prior the share
    /// [`LEAST_BELIEF`] always stays: without it P would double without end along whatever is not being observed, and
    /// the weights with it.
    pub fn discount(&mut self, factor: f64) {
        let factor = factor.clamp(1e-6, 1.0);
        let of_prior = factor.max(LEAST_BELIEF / self.believed).min(1.0);
        let scaled = |numbers: &[f64]| numbers.iter().map(|number| number * of_prior).collect();
        self.prior = Arc::new(LinearPrior {
            precision: scaled(&self.prior.precision),
            information: scaled(&self.prior.information),
        });
        self.believed *= of_prior;
        self.scale *= factor;
        self.refresh();
    }

    /// Whether enough was learned since the last exact solution for another one to pay.
    #[must_use]
    pub const fn needs_refresh(&self) -> bool {
        self.since_refresh >= REFRESH_EVERY
    }

    /// Solves exactly from the statistics, O(d^3). Returns whether they were positive definite; if not, the
    /// weights stay as they were.
    pub fn refresh(&mut self) -> bool {
        self.since_refresh = 0;
        if self.scale < 1e-100 || !self.scale.is_finite() {
            // Everything observed is forgotten; start the scale anew before it underflows.
            self.evidence.fill(0.0);
            self.information.fill(0.0);
            self.scale = 1.0;
        }
        let sum = |prior: &[f64], own: &[f64]| -> Vec<f64> {
            let add = |(prior, own): (&f64, &f64)| prior + self.scale * own;
            prior.iter().zip(own).map(add).collect()
        };
        let precision = sum(&self.prior.precision, &self.evidence);
        let information = sum(&self.prior.information, &self.information);
        let Some((theta, covariance)) = solve(&precision, &information) else {
            return false;
        };
        self.theta = theta.iter().map(|&weight| weight as f32).collect();
        self.covariance = covariance.iter().map(|&entry| entry as f32).collect();
        self.spread = dot(&self.covariance, &self.covariance).sqrt();
        true
    }

    /// Sherman and Morrison: P <- P - w P x x' P / (1 + w x' P x); theta <- theta + w P x e / (1 + w x' P x).
    fn step(&mut self, px: &[f32], features: &[f32], error: f64, weight: f32) {
        let width = self.dimensions();
        let denominator = 1.0 + weight * dot(px, features);
        if denominator < 1e-3 {
            // Taking back more than there is: only an exact solution is safe.
            self.refresh();
            return;
        }
        let gain = weight / denominator;
        for (row, &factor) in self.covariance.chunks_exact_mut(width).zip(px) {
            let factor = gain * factor;
            for (entry, &other) in row.iter_mut().zip(px) {
                *entry -= factor * other;
            }
        }
        let change = gain * error as f32;
        for (theta, &direction) in self.theta.iter_mut().zip(px) {
            *theta += change * direction;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn flat(dimensions: usize) -> Linear {
        Linear::new(Arc::new(LinearPrior::around(&vec![0.0; dimensions], 1.0)), 1.0).unwrap()
    }

    #[test]
    fn raised_weights_are_those_of_raised_targets() {
        let prior = Arc::new(LinearPrior::around(&[0.5, 0.0], 2.0));
        let mut low = Linear::new(Arc::clone(&prior), 0.99).unwrap();
        let mut high = low.clone();
        for (turn, feature) in [0.3_f32, -1.0, 0.7, 2.0].into_iter().enumerate() {
            let target = 0.2 * turn as f64;
            low.update(&[1.0, feature], target, 0.8);
            high.update(&[1.0, feature], target + 0.25, 0.8);
        }
        low.raise(0.25);
        high.refresh();
        for features in [[1.0, 0.0], [1.0, 1.0]] {
            assert!((low.mean(&features) - high.mean(&features)).abs() < 1e-6);
        }
    }

    #[test]
    fn two_observations_by_hand() {
        // A = I + (1,1)(1,1)' + (1,-1)(1,-1)' = 3 I; b = 0.6 (1,1) + 0.3 (1,-1) = (0.9, 0.3).
        let mut linear = flat(2);
        linear.update(&[1.0, 1.0], 0.6, 1.0);
        linear.update(&[1.0, -1.0], 0.3, 1.0);
        assert!((linear.mean(&[1.0, 0.0]) - 0.3).abs() < 1e-6);
        assert!((linear.mean(&[0.0, 1.0]) - 0.1).abs() < 1e-6);
        assert!((linear.variance(&[1.0, 2.0]) - 5.0 / 3.0).abs() < 1e-6);
    }

    #[test]
    fn forgetting_returns_to_the_prior() {
        let prior = Arc::new(LinearPrior::around(&[0.8], 2.0));
        let mut linear = Linear::new(prior, 1.0).unwrap();
        (0..50).for_each(|_| linear.update(&[1.0], 0.2, 1.0));
        assert!(linear.mean(&[1.0]) < 0.25);
        linear.forget(0.0);
        assert!((linear.mean(&[1.0]) - 0.8).abs() < 1e-6);
    }

    #[test]
    fn a_prior_discounted_without_end_keeps_a_little_of_itself() {
        let prior = Arc::new(LinearPrior::around(&[0.8, 0.0], 2.0));
        let mut linear = Linear::new(prior, 1.0).unwrap();
        (0..500).for_each(|_| linear.discount(0.5));
        // 2 / 64 is left along each axis, and the weights are where they were.
        assert!((linear.variance(&[0.0, 1.0]) - 32.0).abs() < 1e-3);
        assert!((linear.mean(&[1.0, 0.0]) - 0.8).abs() < 1e-6);
        let saved = serde_json::to_string(&linear).unwrap();
        let mut loaded: Linear = serde_json::from_str(&saved).unwrap();
        loaded.discount(0.5);
        assert!((loaded.variance(&[0.0, 1.0]) - 32.0).abs() < 1e-3);
    }

    #[test]
    fn decayed_evidence_weighs_less() {
        // Two observations with g = 0.5: weights 0.5 * 0.5 and 0.5 after both decays, prior 1 around 0.
        let mut linear = Linear::new(Arc::new(LinearPrior::around(&[0.0], 1.0)), 0.5).unwrap();
        linear.update(&[1.0], 1.0, 1.0);
        linear.update(&[1.0], 0.0, 1.0);
        assert!(linear.refresh());
        assert!((linear.mean(&[1.0]) - 0.25 / 1.75).abs() < 1e-6);
    }

    #[test]
    fn a_saved_regression_goes_on_where_it_was() {
        let mut linear = flat(3);
        linear.update(&[1.0, 0.5, -0.25], 0.7, 1.0);
        let saved = serde_json::to_string(&linear).unwrap();
        let loaded: Linear = serde_json::from_str(&saved).unwrap();
        let features = [1.0, 0.1, 0.2];
        assert!((loaded.mean(&features) - linear.mean(&features)).abs() < 1e-6);
        assert!(serde_json::from_str::<Linear>(&saved.replace("\"scale\":1.0", "\"scale\":null")).is_err());
    }

    fn observations() -> impl Strategy<Value = Vec<(Vec<f32>, f64)>> {
        let features = prop::collection::vec(-1.0..1.0_f32, 9).prop_map(|mut features| {
            features[0] = 1.0;
            features
        });
        prop::collection::vec((features, 0.0..1.0_f64), 1..60)
    }

    proptest! {
        #[test]
        fn rank_one_steps_equal_the_inverse(observations in observations()) {
            let mut linear = flat(9);
            for (features, target) in &observations {
                linear.update(features, *target, 1.0);
            }
            let mut exact = linear.clone();
            prop_assert!(exact.refresh());
            for (features, _) in &observations {
                prop_assert!((linear.mean(features) - exact.mean(features)).abs() < 1e-4);
                prop_assert!((linear.variance(features) - exact.variance(features)).abs() < 1e-4);
                let squared = dot(features, features);
                prop_assert!(exact.variance(features) <= exact.variance_bound(squared) + 1e-6);
            }
        }

        #[test]
        fn taking_back_undoes_and_revising_equals_learning_the_new(observations in observations()) {
            let (features, target) = observations[0].clone();
            let mut direct = flat(9);
            for (features, target) in &observations[1..] {
                direct.update(features, *target, 1.0);
            }
            let mut undone = direct.clone();
            undone.update(&features, target, 1.0);
            let mut revised = undone.clone();
            undone.update(&features, target, -1.0);
            prop_assert!((undone.mean(&features) - direct.mean(&features)).abs() < 1e-4);

            revised.revise(&features, target, 0.25, 1.0);
            direct.update(&features, 0.25, 1.0);
            prop_assert!((revised.mean(&features) - direct.mean(&features)).abs() < 1e-4);
        }
    }
}
