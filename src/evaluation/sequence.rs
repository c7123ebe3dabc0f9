//! Confidence sequences: intervals that contain the truth at *every* sample size at once with probability
//! 1 - α, so that one may look after each sample and stop whenever the interval says so. The interval that a
//! report shows is the stopping rule; there is no second test behind it.

use serde::{Deserialize, Serialize};

/// An estimate with an interval around it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// The point estimate.
    pub estimate: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Interval {
    /// `estimate` ± `half_width`.
    #[must_use]
    pub fn around(estimate: f64, half_width: f64) -> Self {
        Self {
            estimate,
            low: estimate - half_width,
            high: estimate + half_width,
        }
    }

    /// Whether `value` lies inside, ends included.
    #[must_use]
    pub fn contains(&self, value: f64) -> bool {
        self.low <= value && value <= self.high
    }

    /// Half the distance between the ends.
    #[must_use]
    pub fn half_width(&self) -> f64 {
        0.5 * (self.high - self.low)
    }

    /// The interval of the quantity times `factor`; the ends swap for a negative one.
    #[must_use]
    pub fn times(&self, factor: f64) -> Self {
        let (a, b) = (self.low * factor, self.high * factor);
        Self {
            estimate: self.estimate * factor,
            low: a.min(b),
            high: a.max(b),
        }
    }

    /// The interval cut to `low..=high`, for a quantity that cannot lie outside.
    #[must_use]
    pub fn clamp(&self, low: f64, high: f64) -> Self {
        Self {
            estimate: self.estimate.clamp(low, high),
            low: self.low.clamp(low, high),
            high: self.high.clamp(low, high),
        }
    }
}

/// Why a confidence sequence cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum SequenceError {
    /// α is outside (0, 1).
    #[error("alpha is {alpha}; it must lie strictly between 0 and 1")]
    Alpha {
        /// What was given.
        alpha: f64,
    },
    /// The planned size is not positive.
    #[error("the planned number of samples must be at least 1")]
    Planned,
}

/// A normal-mixture asymptotic confidence sequence, two-sided, with error rate α over all time.
///
/// After n samples with variance s² the half-width is
/// `s · sqrt( 2(nρ²+1)/(nρ)² · ln( sqrt(nρ²+1) / α ) )`:
/// Robbins' normal mixture in the scale-free form of Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas,
/// *Time-uniform central limit theory and asymptotic confidence sequences*, Annals of Statistics 2024 (theorem 2.2).
/// ρ sets where it is tightest: `ρ² = (-2 ln α + ln(-2 ln α + 1)) / n*` for a planned size n* (their eq. 76).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConfidenceSequence {
    alpha: f64,
    rho_squared: f64,
}

impl ConfidenceSequence {
    /// Error rate `alpha` in (0, 1); tightest near `planned` samples (1 or more).
    ///
    /// # Errors
    /// If `alpha` or `planned` is out of range.
    pub fn new(alpha: f64, planned: u64) -> Result<Self, SequenceError> {
        if !(alpha > 0.0 && alpha < 1.0) {
            return Err(SequenceError::Alpha { alpha });
        }
        if planned == 0 {
            return Err(SequenceError::Planned);
        }
        let spread = -2.0 * alpha.ln();
        Ok(Self {
            alpha,
            rho_squared: (spread + (spread + 1.0).ln()) / planned as f64,
        })
    }

    /// The error rate.
    #[must_use]
    pub fn alpha(&self) -> f64 {
        self.alpha
    }

    /// Half-width after `n` samples (real: an effective size may be used) whose variance is `variance` (0 or
    /// more). Infinite for `n <= 0`. It falls as `n` grows for a fixed variance.
    #[must_use]
    pub fn half_width(&self, n: f64, variance: f64) -> f64 {
        if n <= 0.0 || variance.is_nan() {
            return f64::INFINITY;
        }
        let grown = n * self.rho_squared + 1.0;
        let log = 0.5 * grown.ln() - self.alpha.ln();
        (variance.max(0.0) * 2.0 * grown / (n * n * self.rho_squared) * log).sqrt()
    }

    /// The interval around a mean of `n` samples with variance `variance`.
    #[must_use]
    pub fn interval(&self, mean: f64, n: f64, variance: f64) -> Interval {
        Interval::around(mean, self.half_width(n, variance))
    }

    /// An always-valid p-value for "the mean is `null`": the smallest α (at least 1e-12) at which the sequence
    /// with this ρ would exclude it: `min(1, sqrt(nρ²+1) · exp(-n²ρ²(mean-null)² / (2 s² (nρ²+1))))`, the inverse of
    /// the half-width in α.
    #[must_use]
    pub fn p_value(&self, mean: f64, null: f64, n: f64, variance: f64) -> f64 {
        if n <= 0.0 || variance.is_nan() || mean == null {
            return 1.0;
        }
        if variance <= 0.0 {
            return 1e-12;
        }
        let grown = n * self.rho_squared + 1.0;
        let distance = n * n * self.rho_squared * (mean - null).powi(2) / (2.0 * variance * grown);
        (0.5 * grown.ln() - distance).exp().clamp(1e-12, 1.0)
    }

    /// Samples in all at which the half-width comes down to `half_width`, if the variance stays what it is.
    /// `None` if that takes more than `limit` samples.
    #[must_use]
    pub fn samples_for(&self, half_width: f64, variance: f64, limit: u64) -> Option<u64> {
        if half_width.is_nan() || half_width <= 0.0 || self.half_width(limit as f64, variance) > half_width {
            return None;
        }
        let (mut low, mut high) = (0, limit);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if self.half_width(middle as f64, variance) <= half_width {
                high = middle;
            } else {
                low = middle;
            }
        }
        Some(high)
    }
}

/// Samples of a fixed-horizon two-sided z-test that detects a mean of `effect` at level `alpha` with probability
/// `power`: `(z_{1-α/2} + z_power)² s² / effect²`, rounded up. What a classic test would have needed, for
/// comparison; it may be looked at only once. Zero effect needs `u64::MAX`.
#[must_use]
pub fn fixed_horizon_samples(effect: f64, variance: f64, alpha: f64, power: f64) -> u64 {
    let z = super::special::normal_quantile(1.0 - alpha / 2.0) + super::special::normal_quantile(power);
    let samples = (z / effect).powi(2) * variance.max(0.0);
    if samples.is_finite() {
        samples.ceil() as u64
    } else {
        u64::MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_half_width_is_the_printed_formula() {
        let sequence = ConfidenceSequence::new(0.05, 100).unwrap();
        // -2 ln .05 = 5.991465; ln 6.991465 = 1.944690; rho^2 = .07936155.
        // n = 100, s = 1: nρ²+1 = 8.936155; 2 * 8.936155 / (10^4 * .07936155) = .02252011;
        // ln(sqrt(8.936155) / .05) = 1.095052 + 2.995732 = 4.090784; the product's root = .303519.
        assert!((sequence.half_width(100.0, 1.0) - 0.303_519).abs() < 1e-5);
        // A fixed 95 % interval would be .196: the price of looking at any time.
    }

    #[test]
    fn tightest_near_the_planned_size() {
        let at = |planned| {
            ConfidenceSequence::new(0.05, planned)
                .unwrap()
                .half_width(1000.0, 1.0)
        };
        assert!(at(1000) < at(100) && at(1000) < at(10_000));
    }

    #[test]
    fn refuses_nonsense() {
        assert!(ConfidenceSequence::new(0.0, 10).is_err());
        assert!(ConfidenceSequence::new(1.0, 10).is_err());
        assert!(ConfidenceSequence::new(f64::NAN, 10).is_err());
        assert_eq!(ConfidenceSequence::new(0.1, 0), Err(SequenceError::Planned));
    }

    #[test]
    fn a_fixed_horizon_is_the_textbook_one() {
        // (1.959964 + .841621)² * .25 / .05² = 784.89.
        assert_eq!(fixed_horizon_samples(0.05, 0.25, 0.05, 0.8), 785);
        assert_eq!(fixed_horizon_samples(0.0, 0.25, 0.05, 0.8), u64::MAX);
    }

    proptest! {
        #[test]
        fn narrows_with_samples_and_widens_with_confidence(n in 2.0..1e6f64, s in 1e-6..10.0f64, planned in 1..100_000u64) {
            let loose = ConfidenceSequence::new(0.1, planned).unwrap();
            let strict = ConfidenceSequence { alpha: 0.01, ..loose };
            prop_assert!(loose.half_width(n, s) > loose.half_width(n * 1.5, s));
            prop_assert!(strict.half_width(n, s) > loose.half_width(n, s));
        }

        #[test]
        fn the_p_value_agrees_with_the_interval(mean in -1.0..1.0f64, n in 2.0..1e5f64, s in 1e-3..1.0f64) {
            let sequence = ConfidenceSequence::new(0.05, 500).unwrap();
            let outside = !sequence.interval(mean, n, s).contains(0.0);
            let p = sequence.p_value(mean, 0.0, n, s);
            prop_assume!((p - 0.05).abs() > 1e-9);
            prop_assert_eq!(outside, p < 0.05);
        }

        #[test]
        fn samples_for_is_the_first_size_that_is_enough(width in 0.01..0.5f64, s in 0.01..1.0f64) {
            let sequence = ConfidenceSequence::new(0.05, 500).unwrap();
            if let Some(n) = sequence.samples_for(width, s, 1_000_000) {
                prop_assert!(sequence.half_width(n as f64, s) <= width);
                prop_assert!(n == 1 || sequence.half_width((n - 1) as f64, s) > width);
            }
        }
    }
}
