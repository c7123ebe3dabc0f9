//! Latencies of an arm in a form that is small, mergeable and serialisable: counts in buckets that grow by 4 %.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Ratio of neighbouring bucket bounds: a quantile is off by at most half of it, 2 %.
const GROWTH: f64 = 1.04;

/// Counts of positive values in logarithmic buckets.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LogCounts {
    buckets: BTreeMap<i16, u64>,
    count: u64,
}

impl LogCounts {
    /// Counts `value`; values below 0.01 count as 0.01, what is no number is left out.
    pub fn record(&mut self, value: f64) {
        if value.is_finite() {
            let bucket = (value.max(0.01).ln() / GROWTH.ln()).floor();
            *self.buckets.entry(bucket as i16).or_default() += 1;
            self.count += 1;
        }
    }

    /// Number of values.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The value that a share `q` in [0, 1] of the values does not exceed, within 2 %; `None` without values.
    #[must_use]
    pub fn quantile(&self, q: f64) -> Option<f64> {
        let rank = ((q * self.count as f64).ceil() as u64).max(1);
        let mut seen = 0;
        self.buckets.iter().find_map(|(bucket, count)| {
            seen += count;
            (seen >= rank).then(|| GROWTH.powf(f64::from(*bucket) + 0.5))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_two_per_cent() {
        let mut counts = LogCounts::default();
        assert_eq!(counts.quantile(0.5), None);
        (1..=1000).for_each(|value| counts.record(f64::from(value)));
        counts.record(f64::NAN);
        assert_eq!(counts.count(), 1000);
        for (q, truth) in [(0.5, 500.0), (0.99, 990.0), (1.0, 1000.0)] {
            let found = counts.quantile(q).unwrap();
            assert!((found / truth - 1.0f64).abs() < 0.021, "{q}: {found}");
        }
    }
}
