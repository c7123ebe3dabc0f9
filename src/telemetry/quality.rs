//! Scores in the same kind of windows as latencies, per arm and category.

use serde::{Deserialize, Serialize};

use super::windows::{Merge, Windows};
use crate::arm::ArmId;
use crate::units::UnixMs;

/// Sums of scores; merges by addition. Signed, because a correction takes a score out again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// Scores counted.
    pub count: i64,
    /// Their sum.
    pub sum: f64,
    /// The sum of their squares.
    pub squares: f64,
}

impl Scores {
    fn add(&mut self, score: f64, sign: i64) {
        self.count += sign;
        self.sum += score * sign as f64;
        self.squares += score * score * sign as f64;
    }

    /// Mean score; `None` without one.
    #[must_use]
    pub fn mean(&self) -> Option<f64> {
        (self.count > 0).then(|| (self.sum / self.count as f64).clamp(0.0, 1.0))
    }

    /// Standard error of the mean, s/√n; `None` below two scores.
    #[must_use]
    pub fn standard_error(&self) -> Option<f64> {
        let n = self.count as f64;
        (self.count > 1).then(|| {
            let variance = (self.squares - self.sum * self.sum / n) / (n - 1.0);
            (variance.max(0.0) / n).sqrt()
        })
    }
}

impl Merge for Scores {
    fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.sum += other.sum;
        self.squares += other.squares;
    }
}

/// What scores are told apart by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct QualityKey {
    /// The arm that answered.
    pub arm: ArmId,
    /// The prompt's category.
    pub category: std::sync::Arc<str>,
}

/// A score that arrived.
#[derive(Clone, Debug)]
pub struct QualitySample {
    /// Its windows.
    pub key: QualityKey,
    /// In [0, 1].
    pub score: f64,
    /// The score of the same answer that it replaces, and when that one came.
    pub replaces: Option<(UnixMs, f64)>,
}

/// Takes the replaced score out of its slot, if that is still kept, and counts the new one.
pub(super) fn record(windows: &mut Windows<Scores>, now: UnixMs, sample: &QualitySample) {
    if let Some((then, score)) = sample.replaces
        && let Some(slot) = windows.holding(now, then)
    {
        slot.add(score, -1);
    }
    windows.current(now).add(sample.score, 1);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(score: f64, replaces: Option<(UnixMs, f64)>) -> QualitySample {
        QualitySample {
            key: QualityKey {
                arm: ArmId::new("p/m"),
                category: "code".into(),
            },
            score,
            replaces,
        }
    }

    #[test]
    fn a_correction_replaces() {
        let mut windows = Windows::default();
        record(&mut windows, UnixMs(0), &sample(1.0, None));
        record(&mut windows, UnixMs(1_000), &sample(0.5, None));
        record(
            &mut windows,
            UnixMs(200_000),
            &sample(0.0, Some((UnixMs(0), 1.0))),
        );
        let all = windows.all(UnixMs(200_000));
        assert_eq!((all.count, all.sum, all.squares), (2, 0.5, 0.25));
        assert_eq!(all.mean(), Some(0.25));
        // Scores 0 and 0.5: variance 0.125, standard error 0.25.
        assert!((all.standard_error().unwrap() - 0.25).abs() < 1e-12);
    }

    #[test]
    fn a_correction_of_a_forgotten_score_counts_as_new() {
        let mut windows = Windows::default();
        record(&mut windows, UnixMs(0), &sample(1.0, None));
        let later = UnixMs(5 * 3_600_000);
        record(&mut windows, later, &sample(0.0, Some((UnixMs(0), 1.0))));
        let all = windows.all(later);
        assert_eq!((all.count, all.sum), (1, 0.0));
    }
}
