//! Latencies of which some are only known to be *at least* so long.
//!
//! A hedge that lost, a client that left and an attempt that ran into its deadline were each cut off while the
//! provider was still silent. Dropping them would make a slow model look fast, and counting them as if they had
//! answered at that moment would too. They are right-censored observations, and quantiles come from the
//! product-limit estimator, which is the plain empirical distribution when nothing is censored:
//!
//! S(t) = Π over values v ≤ t of (1 − dᵥ / nᵥ), where dᵥ answered after v and nᵥ were still waiting just before v
//! (E. L. Kaplan, P. Meier, *Nonparametric estimation from incomplete observations*, JASA 53, 1958,
//! doi:10.1080/01621459.1958.10501452). A value cut off at v counts as still waiting at v.
//!
//! The estimator assumes that being cut off does not depend on how long the answer would have taken beyond what
//! the time already waited tells. That holds for deadlines and nearly for hedges (cut off by another arm's
//! answer).

use serde::{Deserialize, Serialize};

use super::sketch::Sketch;
use super::windows::Merge;
use std::time::Duration;

/// A duration, or the knowledge that it was at least so long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observed {
    /// It took this long.
    Exact(Duration),
    /// It was cut off after this long.
    AtLeast(Duration),
}

/// Observed and censored latencies; merges by addition.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Latencies {
    /// Those that ended.
    pub observed: Sketch,
    /// Those that were cut off.
    pub censored: Sketch,
}

impl Latencies {
    /// Adds one.
    pub fn record(&mut self, value: Observed) {
        match value {
            Observed::Exact(value) => self.observed.record(value),
            Observed::AtLeast(value) => self.censored.record(value),
        }
    }

    /// The estimated distribution.
    #[must_use]
    pub fn curve(&self) -> Curve {
        let (observed, censored) = (self.observed.buckets(), self.censored.buckets());
        let mut waiting = self.observed.count() + self.censored.count();
        let mut curve = Curve {
            samples: self.observed.count(),
            censored: self.censored.count(),
            ..Curve::default()
        };
        let mut survival = 1.0_f64;
        let mut cut = censored.iter().peekable();
        for (value, ended) in observed {
            while let Some((_, count)) = cut.next_if(|(at, _)| *at < value) {
                waiting = waiting.saturating_sub(*count);
            }
            survival *= 1.0 - ended as f64 / waiting.max(1) as f64;
            waiting = waiting.saturating_sub(ended);
            curve.steps.push((value as f32, (1.0 - survival) as f32));
            curve.sum_ms += value * ended as f64;
            curve.longest_ms = curve.longest_ms.max(value);
        }
        if let Some((value, _)) = censored.last() {
            curve.longest_ms = curve.longest_ms.max(*value);
        }
        curve
    }
}

impl Merge for Latencies {
    fn merge(&mut self, other: &Self) {
        self.observed.merge(&other.observed);
        self.censored.merge(&other.censored);
    }
}

/// An estimated distribution of a latency, ready to be asked for any quantile.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Curve {
    /// (milliseconds, share of all that ended by then), both ascending.
    steps: Vec<(f32, f32)>,
    /// Those that ended.
    pub samples: u64,
    /// Those that were cut off.
    pub censored: u64,
    /// The longest seen, ended or cut off, in milliseconds.
    pub longest_ms: f64,
    sum_ms: f64,
}

/// An estimated quantile.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quantile {
    /// Milliseconds.
    pub value_ms: f64,
    /// Observations behind it, cut off ones included.
    pub samples: u64,
    /// So much was cut off that the quantile lies beyond the longest observation: it is `value_ms` at least.
    pub at_least: bool,
}

impl Curve {
    /// The `q`-quantile (0 < `q` < 1). `None` while fewer than 1/(1−q) observations are there: below 100 samples
    /// nothing is known of the hundredth slowest, and a p99 would only be the maximum under another name.
    #[must_use]
    pub fn quantile(&self, q: f64) -> Option<Quantile> {
        let samples = self.samples + self.censored;
        let known = q > 0.0 && q < 1.0 && samples as f64 * (1.0 - q) >= 1.0 - 1e-9;
        if !known {
            return None;
        }
        let at = self
            .steps
            .partition_point(|(_, share)| f64::from(*share) < q - 1e-6);
        let (value_ms, at_least) = match self.steps.get(at) {
            Some((value, _)) => (f64::from(*value), false),
            // The steps are rounded, and the last of them is no longer than what it stands for.
            None => {
                let last = self.steps.last().map_or(0.0, |(value, _)| f64::from(*value));
                (self.longest_ms.max(last), true)
            }
        };
        Some(Quantile {
            value_ms,
            samples,
            at_least,
        })
    }

    /// The estimated share that takes longer than `limit`. `None` without an observation.
    #[must_use]
    pub fn exceeding(&self, limit: Duration) -> Option<f64> {
        if self.samples + self.censored == 0 {
            return None;
        }
        let limit = limit.as_secs_f64() * 1_000.0;
        let at = self
            .steps
            .partition_point(|(value, _)| f64::from(*value) <= limit);
        let ended = at
            .checked_sub(1)
            .map_or(0.0, |last| f64::from(self.steps[last].1));
        Some(1.0 - ended)
    }

    /// The mean of those that ended, in milliseconds.
    #[must_use]
    pub fn mean_ms(&self) -> Option<f64> {
        (self.samples > 0).then(|| self.sum_ms / self.samples as f64)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn exact(ms: u64) -> Observed {
        Observed::Exact(Duration::from_millis(ms))
    }

    fn at_least(ms: u64) -> Observed {
        Observed::AtLeast(Duration::from_millis(ms))
    }

    fn latencies(values: impl IntoIterator<Item = Observed>) -> Latencies {
        let mut all = Latencies::default();
        for value in values {
            all.record(value);
        }
        all
    }

    fn close(value: f64, expected: f64) -> bool {
        (value / expected - 1.0).abs() < 0.011
    }

    #[test]
    fn a_p99_needs_a_hundred_samples() {
        let curve = latencies((1..=99).map(exact)).curve();
        assert_eq!(curve.quantile(0.99), None);
        assert!(close(curve.quantile(0.5).unwrap().value_ms, 50.0));
        let curve = latencies((1..=100).map(exact)).curve();
        let p99 = curve.quantile(0.99).unwrap();
        assert!(close(p99.value_ms, 99.0), "{p99:?}");
        assert_eq!((p99.samples, p99.at_least), (100, false));
    }

    /// Worked by hand: 1, 2, 3+, 4, 5+ (+ is cut off).
    /// S(1) = 4/5, S(2) = 4/5 · 3/4 = 3/5, S(4) = 3/5 · 1/2 = 3/10.
    #[test]
    fn the_product_limit_by_hand() {
        let curve = latencies([exact(1), exact(2), at_least(3), exact(4), at_least(5)]).curve();
        let shares: Vec<f32> = curve.steps.iter().map(|(_, share)| *share).collect();
        for (share, expected) in shares.iter().zip([0.2, 0.4, 0.7]) {
            assert!((share - expected).abs() < 1e-6, "{shares:?}");
        }
        assert!(close(curve.quantile(0.5).unwrap().value_ms, 4.0));
        let p75 = curve.quantile(0.75).unwrap();
        assert!(p75.at_least && close(p75.value_ms, 5.0));
        assert!((curve.exceeding(Duration::from_millis(2)).unwrap() - 0.6).abs() < 1e-6);
    }

    /// A model that stalls in 10 % of the cases, and whose stalls are always cut off at two seconds by a hedge.
    #[test]
    fn cut_off_stalls_are_not_forgotten() {
        let curve = latencies(
            (0..900)
                .map(|_| exact(300))
                .chain((0..100).map(|_| at_least(2_000))),
        )
        .curve();
        assert!(close(curve.quantile(0.89).unwrap().value_ms, 300.0));
        let p95 = curve.quantile(0.95).unwrap();
        assert!(p95.at_least && close(p95.value_ms, 2_000.0), "{p95:?}");
    }

    proptest! {
        /// Without censoring the estimate is the empirical quantile.
        #[test]
        fn plain_without_censoring(mut values in prop::collection::vec(1_u64..100_000, 2..400), q in 0.01_f64..0.5) {
            let curve = latencies(values.iter().copied().map(exact)).curve();
            values.sort_unstable();
            // Shares are told apart down to a millionth: at an exact step either neighbour is right.
            let at = |q: f64| values[((q * values.len() as f64).ceil() as usize).clamp(1, values.len()) - 1] as f64;
            let value = curve.quantile(q).unwrap().value_ms;
            let (low, high) = (at(q - 2e-6), at(q + 2e-6));
            prop_assert!(value >= low * 0.989 && value <= high * 1.011, "{low} {value} {high}");
        }

        /// A cut off observation never lowers a quantile compared with leaving it out.
        #[test]
        fn censoring_only_raises(
            values in prop::collection::vec(1_u64..10_000, 10..200),
            cut in prop::collection::vec(1_u64..10_000, 0..50),
        ) {
            let without = latencies(values.iter().copied().map(exact));
            let with = latencies(values.iter().copied().map(exact).chain(cut.iter().copied().map(at_least)));
            for q in [0.1, 0.5, 0.9] {
                let (low, high) = (without.curve().quantile(q).unwrap(), with.curve().quantile(q).unwrap());
                prop_assert!(high.value_ms >= low.value_ms, "{q} {low:?} {high:?}");
            }
        }
    }
}
