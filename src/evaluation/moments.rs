//! What a comparison of two arms keeps: sums that can be added to, subtracted from and merged, so that late and
//! revised scores, restarts and replicas give the same figures in any order.
//!
//! Each *unit* (a request, or a user or session with several) contributes `w·(N, Y, Z)` and `w²` times their
//! products: N its number of samples, Y the sum of their values, Z the sum of a covariate known before assignment,
//! w the inverse of the probability with which its arm was chosen. Weighting keeps a comparison fair when the
//! split moves while the traffic changes; taking products per unit keeps it honest when a user's requests are
//! alike.

use std::ops::{AddAssign, SubAssign};

use serde::{Deserialize, Serialize};

use super::sequence::{ConfidenceSequence, Interval};

/// One unit's totals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct UnitTotals {
    /// Samples.
    pub count: f64,
    /// Sum of the values.
    pub value: f64,
    /// Sum of the covariate, known before the assignment.
    pub covariate: f64,
}

impl UnitTotals {
    /// A unit with one sample.
    #[must_use]
    pub fn one(value: f64, covariate: f64) -> Self {
        Self {
            count: 1.0,
            value,
            covariate,
        }
    }
}

/// Sums of one arm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Moments {
    /// Samples, unweighted.
    pub samples: f64,
    units: f64,
    w: f64,
    wn: f64,
    wy: f64,
    wz: f64,
    nn: f64,
    ny: f64,
    nz: f64,
    yy: f64,
    yz: f64,
    zz: f64,
}

impl Moments {
    /// A unit's contribution, chosen for its arm with `probability` in (0, 1].
    #[must_use]
    pub fn of(unit: UnitTotals, probability: f64) -> Self {
        let w = 1.0 / probability.clamp(1e-6, 1.0);
        let w2 = w * w;
        let UnitTotals {
            count: n,
            value: y,
            covariate: z,
        } = unit;
        Self {
            samples: n,
            units: if n > 0.0 { 1.0 } else { 0.0 },
            w: if n > 0.0 { w } else { 0.0 },
            wn: w * n,
            wy: w * y,
            wz: w * z,
            nn: w2 * n * n,
            ny: w2 * n * y,
            nz: w2 * n * z,
            yy: w2 * y * y,
            yz: w2 * y * z,
            zz: w2 * z * z,
        }
    }

    /// Weighted mean of the values: `Σ wY / Σ wN` (Hájek's estimator). NaN without samples.
    #[must_use]
    pub fn mean(&self) -> f64 {
        self.wy / self.wn
    }

    /// Weighted mean of the covariate.
    #[must_use]
    pub fn covariate_mean(&self) -> f64 {
        self.wz / self.wn
    }

    /// The same samples with every value `factor` times what it was.
    #[must_use]
    pub fn times(&self, factor: f64) -> Self {
        Self {
            wy: factor * self.wy,
            ny: factor * self.ny,
            yy: factor * factor * self.yy,
            yz: factor * self.yz,
            ..*self
        }
    }

    /// Units with at least one sample.
    #[must_use]
    pub fn units(&self) -> f64 {
        self.units
    }

    /// Variance of the mean of `value - theta * covariate`, linearised (delta method for a ratio of sums, with a
    /// unit as the independent draw): `Σ w²(Y - θZ - mN)² / (Σ wN)²`, m the mean of the adjusted values.
    ///
    /// With `bounds` two pseudo-samples, one at each bound, enter the sum of squares: after fifty ones in a row the
    /// variance of a score in [0, 1] is not 0 but about 1/50 (Agresti and Coull, *Approximate is better than
    /// exact*, The American Statistician 1998). Without them an interval could shrink to a point on a lucky start.
    #[must_use]
    pub fn mean_variance(&self, theta: f64, bounds: Option<(f64, f64)>) -> f64 {
        let mean = (self.wy - theta * self.wz) / self.wn;
        let mut squares = self.yy + theta * theta * self.zz + mean * mean * self.nn
            - 2.0 * theta * self.yz
            - 2.0 * mean * self.ny
            + 2.0 * theta * mean * self.nz;
        if let Some((low, high)) = bounds {
            let weight = self.w / self.units;
            let at = self.mean();
            squares += weight * weight * ((high - at).powi(2) + (at - low).powi(2));
        }
        let correction = self.units / (self.units - 1.0).max(0.5);
        (squares * correction).max(0.0) / (self.wn * self.wn)
    }

    /// Standard deviation of one unit's share in the mean, for [`super::allocation::neyman`].
    #[must_use]
    pub fn deviation(&self, bounds: Option<(f64, f64)>) -> f64 {
        (self.mean_variance(0.0, bounds) * self.units).sqrt()
    }

    /// Within-arm `Σ w²` covariance of value and covariate, and variance of the covariate, about the means.
    fn centred(&self) -> (f64, f64) {
        let (y, z) = (self.mean(), self.covariate_mean());
        let covariance = self.yz - z * self.ny - y * self.nz + y * z * self.nn;
        let variance = self.zz - 2.0 * z * self.nz + z * z * self.nn;
        (covariance, variance)
    }
}

impl AddAssign for Moments {
    fn add_assign(&mut self, other: Self) {
        self.zip(other, |mine, others| mine + others);
    }
}

impl SubAssign for Moments {
    fn sub_assign(&mut self, other: Self) {
        self.zip(other, |mine, others| mine - others);
    }
}

impl Moments {
    fn zip(&mut self, other: Self, combine: impl Fn(f64, f64) -> f64) {
        let pairs = [
            (&mut self.samples, other.samples),
            (&mut self.units, other.units),
            (&mut self.w, other.w),
            (&mut self.wn, other.wn),
            (&mut self.wy, other.wy),
            (&mut self.wz, other.wz),
            (&mut self.nn, other.nn),
            (&mut self.ny, other.ny),
            (&mut self.nz, other.nz),
            (&mut self.yy, other.yy),
            (&mut self.yz, other.yz),
            (&mut self.zz, other.zz),
        ];
        for (mine, others) in pairs {
            *mine = combine(*mine, others);
        }
    }
}

/// A comparison of two arms on one metric.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// Treatment minus control, with an interval that holds at every sample.
    pub interval: Interval,
    /// Units in both arms: the clock of the sequence.
    pub units: f64,
    /// Variance of one step of that clock: `units · (V_treatment + V_control)`.
    pub variance: f64,
    /// The covariate's coefficient; 0 without adjustment.
    pub theta: f64,
    /// Share of the variance that the adjustment took away, in [0, 1].
    pub variance_reduction: f64,
}

/// Samples in each arm below which there is no interval: a central limit theorem needs some samples to be one.
pub const MIN_UNITS: f64 = 30.0;

/// The difference of means, treatment minus control, with the time-uniform interval of `sequence`.
/// `bounds`: the metric's range if it has one (see [`Moments::mean_variance`]).
///
/// CUPED (Deng, Xu, Kohavi and Walker, *Improving the sensitivity of online controlled experiments by utilizing
/// pre-experiment data*, WSDM 2013): `y - θ(z - E z)` with θ = cov(y, z) / var(z) pooled within the arms. It is
/// used when it makes the variance smaller. `None` below [`MIN_UNITS`] units in either arm.
#[must_use]
pub fn difference(
    control: &Moments,
    treatment: &Moments,
    sequence: &ConfidenceSequence,
    bounds: Option<(f64, f64)>,
) -> Option<Difference> {
    if control.units < MIN_UNITS || treatment.units < MIN_UNITS {
        return None;
    }
    let variance = |theta| control.mean_variance(theta, bounds) + treatment.mean_variance(theta, bounds);
    let ((covariance_c, spread_c), (covariance_t, spread_t)) = (control.centred(), treatment.centred());
    let spread = spread_c + spread_t;
    let slope = if spread > 1e-12 {
        (covariance_c + covariance_t) / spread
    } else {
        0.0
    };
    let plain = variance(0.0);
    let theta = if slope.is_finite() && variance(slope) < plain {
        slope
    } else {
        0.0
    };
    let adjusted = variance(theta);
    let mean =
        treatment.mean() - control.mean() - theta * (treatment.covariate_mean() - control.covariate_mean());
    let units = control.units + treatment.units;
    Some(Difference {
        interval: sequence.interval(mean, units, units * adjusted),
        units,
        variance: units * adjusted,
        theta,
        variance_reduction: if plain > 0.0 { 1.0 - adjusted / plain } else { 0.0 },
    })
}

/// The mean of one arm with a time-uniform interval; `None` below [`MIN_UNITS`] units.
#[must_use]
pub fn mean_interval(
    arm: &Moments,
    sequence: &ConfidenceSequence,
    bounds: Option<(f64, f64)>,
) -> Option<Interval> {
    (arm.units >= MIN_UNITS).then(|| {
        let variance = arm.units * arm.mean_variance(0.0, bounds);
        let interval = sequence.interval(arm.mean(), arm.units, variance);
        bounds.map_or(interval, |(low, high)| interval.clamp(low, high))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn moments(samples: &[(f64, f64, f64)]) -> Moments {
        let mut sums = Moments::default();
        for (y, z, probability) in samples {
            sums += Moments::of(UnitTotals::one(*y, *z), *probability);
        }
        sums
    }

    #[test]
    fn equal_probabilities_give_the_plain_mean_and_its_variance() {
        let sums = moments(&[(1.0, 0.0, 0.5), (0.0, 0.0, 0.5), (0.5, 0.0, 0.5), (0.5, 0.0, 0.5)]);
        assert!((sums.mean() - 0.5).abs() < 1e-12);
        // Squares about the mean .5; / (n - 1) = 1/6; / n = 1/24.
        assert!((sums.mean_variance(0.0, None) - 1.0 / 24.0).abs() < 1e-12);
        // Two pseudo-samples half a unit away add .5 to the squares.
        assert!((sums.mean_variance(0.0, Some((0.0, 1.0))) - 1.0 / 12.0).abs() < 1e-12);
    }

    #[test]
    fn rare_choices_weigh_more() {
        // Weights 2 and 4: (2·1 + 4·0) / 6.
        assert!((moments(&[(1.0, 0.0, 0.5), (0.0, 0.0, 0.25)]).mean() - 1.0 / 3.0).abs() < 1e-12);
    }

    #[test]
    fn a_perfect_covariate_takes_all_variance_away() {
        let sequence = ConfidenceSequence::new(0.05, 100).unwrap();
        let arm = |shift: f64| {
            moments(
                &(0..40)
                    .map(|i| (f64::from(i % 5) / 5.0 + shift, f64::from(i % 5), 0.5))
                    .collect::<Vec<_>>(),
            )
        };
        let found = difference(&arm(0.0), &arm(0.1), &sequence, None).unwrap();
        assert!((found.theta - 0.2).abs() < 1e-9, "{found:?}");
        assert!((found.interval.estimate - 0.1).abs() < 1e-9);
        assert!(found.variance_reduction > 0.999_999);
    }

    #[test]
    fn a_users_requests_are_one_draw() {
        // 40 users of 10 equal scores: the mean is no surer than 40 draws.
        let (mut by_user, mut by_request) = (Moments::default(), Moments::default());
        for i in 0..40 {
            let score = f64::from(i % 2);
            by_user += Moments::of(
                UnitTotals {
                    count: 10.0,
                    value: 10.0 * score,
                    covariate: 0.0,
                },
                1.0,
            );
            for _ in 0..10 {
                by_request += Moments::of(UnitTotals::one(score, 0.0), 1.0);
            }
        }
        let ratio = by_user.mean_variance(0.0, None) / by_request.mean_variance(0.0, None);
        assert!((9.0..11.0).contains(&ratio), "{ratio}");
    }

    #[test]
    fn too_few_samples_have_no_interval() {
        let sequence = ConfidenceSequence::new(0.05, 100).unwrap();
        let few = moments(&[(1.0, 0.0, 0.5); 29]);
        assert!(difference(&few, &few, &sequence, None).is_none());
        assert!(mean_interval(&few, &sequence, None).is_none());
    }

    proptest! {
        #[test]
        fn a_revision_leaves_no_trace(samples in proptest::collection::vec((0.0..1.0f64, 0.0..1.0f64, 0.1..1.0f64), 2..40)) {
            let mut sums = moments(&samples);
            let before = sums;
            let revised = Moments::of(UnitTotals::one(0.3, 0.4), 0.5);
            sums += revised;
            sums -= revised;
            prop_assert!((sums.mean() - before.mean()).abs() < 1e-9);
            prop_assert!((sums.mean_variance(0.1, None) - before.mean_variance(0.1, None)).abs() < 1e-9);
        }

        #[test]
        fn order_and_merging_do_not_matter(samples in proptest::collection::vec((0.0..1.0f64, 0.0..1.0f64, 0.1..1.0f64), 4..40), cut in 1..3usize) {
            let whole = moments(&samples);
            let mut merged = moments(&samples[cut..]);
            merged += moments(&samples[..cut]);
            prop_assert!((whole.mean() - merged.mean()).abs() < 1e-9);
            prop_assert!((whole.mean_variance(0.0, None) - merged.mean_variance(0.0, None)).abs() < 1e-9);
        }
    }
}
