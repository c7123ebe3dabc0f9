//! A mergeable sketch of durations: an HDR histogram with two significant digits (1 % error), or, while there
//! are few, the plain values.
//!
//! Most slots of most series see a handful of requests; they cost four bytes each instead of a histogram of
//! several kilobytes. Quantiles are always read off an HDR histogram, so the two forms answer alike.

use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::windows::Merge;

/// One tick is 10 µs: fine enough for the gap between two tokens.
const TICK_US: u64 = 10;
/// Longest duration told apart: one hour. Longer ones count as this.
const LONGEST_TICKS: u64 = 3_600_000_000 / TICK_US;
/// Plain values kept before the histogram is allocated.
const FEW: usize = 128;
/// Significant decimal digits of the histogram.
const DIGITS: u8 = 2;

/// A multiset of durations, exact to 1 %.
#[derive(Clone, Serialize, Deserialize)]
#[serde(from = "Vec<(u32, u32)>", into = "Vec<(u32, u32)>")]
pub struct Sketch(Form);

#[derive(Clone)]
enum Form {
    Few(Vec<u32>),
    Many(Box<Histogram<u32>>),
}

impl Default for Sketch {
    fn default() -> Self {
        Self(Form::Few(Vec::new()))
    }
}

impl Sketch {
    /// Adds one duration; one longer than an hour counts as an hour.
    pub fn record(&mut self, value: Duration) {
        self.record_ticks(ticks(value), 1);
    }

    /// How many were recorded.
    #[must_use]
    pub fn count(&self) -> u64 {
        match &self.0 {
            Form::Few(values) => values.len() as u64,
            Form::Many(histogram) => histogram.len(),
        }
    }

    /// The recorded values in milliseconds with their counts, ascending, one entry for each bucket of the
    /// histogram; the value is the middle of the bucket.
    #[must_use]
    pub fn buckets(&self) -> Vec<(f64, u64)> {
        let whole;
        let histogram = match &self.0 {
            Form::Many(histogram) => histogram,
            Form::Few(values) => {
                let mut all = Self::default();
                all.promote();
                for value in values {
                    all.record_ticks(*value, 1);
                }
                match all.0 {
                    Form::Many(histogram) => {
                        whole = histogram;
                        &whole
                    }
                    Form::Few(_) => return Vec::new(),
                }
            }
        };
        histogram
            .iter_recorded()
            .map(|bucket| {
                let middle = histogram.median_equivalent(bucket.value_iterated_to());
                (to_ms(middle), bucket.count_since_last_iteration())
            })
            .collect()
    }

    fn record_ticks(&mut self, value: u32, count: u32) {
        if let Form::Few(values) = &mut self.0 {
            if values.len() + count as usize <= FEW {
                values.extend(std::iter::repeat_n(value, count as usize));
                return;
            }
            self.promote();
        }
        match &mut self.0 {
            Form::Many(histogram) => {
                // It grows to any value up to an hour. If it could not, the count would still be kept right.
                if histogram.record_n(u64::from(value), count).is_err() {
                    histogram.saturating_record_n(u64::from(value), count);
                }
            }
            Form::Few(values) => values.extend(std::iter::repeat_n(value, count as usize)),
        }
    }

    /// From plain values to a histogram.
    fn promote(&mut self) {
        let Form::Few(values) = &self.0 else { return };
        let Ok(mut histogram) = Histogram::<u32>::new(DIGITS) else {
            return;
        };
        for value in values {
            if histogram.record(u64::from(*value)).is_err() {
                return;
            }
        }
        self.0 = Form::Many(Box::new(histogram));
    }

    /// Bytes on the heap, roughly.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        match &self.0 {
            Form::Few(values) => values.capacity() * size_of::<u32>(),
            Form::Many(histogram) => {
                size_of::<Histogram<u32>>() + histogram.distinct_values() * size_of::<u32>()
            }
        }
    }
}

impl Merge for Sketch {
    fn merge(&mut self, other: &Self) {
        match &other.0 {
            Form::Few(values) => {
                for value in values {
                    self.record_ticks(*value, 1);
                }
            }
            Form::Many(theirs) => {
                self.promote();
                if let Form::Many(ours) = &mut self.0
                    && ours.add(theirs.as_ref()).is_ok()
                {
                    return;
                }
                for bucket in theirs.iter_recorded() {
                    let value = u32::try_from(bucket.value_iterated_to()).unwrap_or(u32::MAX);
                    self.record_ticks(value, bucket.count_at_value());
                }
            }
        }
    }
}

/// The buckets that hold something, not the thousands that do not.
impl fmt::Debug for Sketch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.buckets()).finish()
    }
}

/// Equal when they hold the same counts in the same buckets.
impl PartialEq for Sketch {
    fn eq(&self, other: &Self) -> bool {
        self.count() == other.count() && self.buckets() == other.buckets()
    }
}

impl From<Vec<(u32, u32)>> for Sketch {
    fn from(pairs: Vec<(u32, u32)>) -> Self {
        let mut sketch = Self::default();
        for (value, count) in pairs {
            sketch.record_ticks(value.min(LONGEST_TICKS as u32), count);
        }
        sketch
    }
}

impl From<Sketch> for Vec<(u32, u32)> {
    fn from(sketch: Sketch) -> Self {
        match sketch.0 {
            Form::Few(values) => values.into_iter().map(|value| (value, 1)).collect(),
            Form::Many(histogram) => histogram
                .iter_recorded()
                .map(|bucket| {
                    let value = u32::try_from(bucket.value_iterated_to()).unwrap_or(u32::MAX);
                    (value, bucket.count_at_value())
                })
                .collect(),
        }
    }
}

fn ticks(value: Duration) -> u32 {
    let ticks = (value.as_micros() / u128::from(TICK_US)).min(u128::from(LONGEST_TICKS));
    u32::try_from(ticks).unwrap_or(u32::MAX)
}

fn to_ms(ticks: u64) -> f64 {
    (ticks * TICK_US) as f64 / 1_000.0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sketch(values_us: &[u64]) -> Sketch {
        let mut sketch = Sketch::default();
        for value in values_us {
            sketch.record(Duration::from_micros(*value));
        }
        sketch
    }

    #[test]
    fn small_values_are_exact_and_large_ones_within_a_percent() {
        assert_eq!(sketch(&[20, 20, 1_000]).buckets(), [(0.02, 2), (1.0, 1)]);
        let (value, count) = sketch(&[1_234_567]).buckets()[0];
        assert_eq!(count, 1);
        assert!((value / 1_234.567 - 1.0).abs() < 0.01, "{value}");
    }

    #[test]
    fn more_than_an_hour_counts_as_an_hour() {
        let (value, _) = sketch(&[u64::MAX]).buckets()[0];
        assert!((value / 3_600_000.0 - 1.0).abs() < 0.01);
    }

    #[test]
    fn few_values_cost_few_bytes() {
        assert!(sketch(&[500_000; 20]).heap_bytes() <= 128);
        assert!(sketch(&[500_000; 100_000]).heap_bytes() < 12_000);
    }

    proptest! {
        #[test]
        fn merging_sketches_equals_sketching_the_merge(
            a in prop::collection::vec(0_u64..4_000_000_000, 0..300),
            b in prop::collection::vec(0_u64..4_000_000_000, 0..300),
        ) {
            let mut merged = sketch(&a);
            merged.merge(&sketch(&b));
            prop_assert_eq!(&merged, &sketch(&[a.clone(), b.clone()].concat()));
            let mut other_way = sketch(&b);
            other_way.merge(&sketch(&a));
            prop_assert_eq!(merged, other_way);
        }

        #[test]
        fn merging_is_associative(
            parts in prop::collection::vec(prop::collection::vec(0_u64..100_000_000, 0..200), 3)
        ) {
            let [a, b, c] = [sketch(&parts[0]), sketch(&parts[1]), sketch(&parts[2])];
            let (mut left, mut right) = (a.clone(), b.clone());
            left.merge(&b);
            left.merge(&c);
            right.merge(&c);
            let mut whole = a;
            whole.merge(&right);
            prop_assert_eq!(left, whole);
        }

        #[test]
        fn survives_a_round_trip(values in prop::collection::vec(0_u64..4_000_000_000, 0..300)) {
            let before = sketch(&values);
            let json = serde_json::to_string(&before).unwrap();
            prop_assert_eq!(before, serde_json::from_str::<Sketch>(&json).unwrap());
        }
    }
}
