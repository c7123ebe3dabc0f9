//! What several raters say of one answer, as one figure.
//!
//! An answer is one observation, whoever scores it and how many do: what is learned of it, and what watches for a change,
//! goes by the mean of what each rater has said last. With every further score that mean is revised. As so many
//! observations of their own, eight raters of one bad answer would weigh as eight bad answers.

use rusqlite::{Connection, OptionalExtension, params};

use crate::units::UnixMs;

/// What stood of an answer before one entry of the feedback log: the raters that had scored it, the sum of what each had
/// said last, and when the last of them did.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Stood {
    raters: i64,
    sum: f64,
    at: i64,
}

impl Stood {
    /// As the log was before place `seq`. An entry holds what it replaces, so that what counts is the difference.
    pub(super) fn before(
        connection: &Connection,
        decision: &str,
        metric: &str,
        seq: i64,
    ) -> rusqlite::Result<Self> {
        let found = connection
            .prepare_cached(
                "SELECT count(*) - count(previous), total(score) - total(previous), max(seq), at FROM feedback
                 WHERE decision = ?1 AND metric = ?2 AND seq < ?3",
            )?
            .query_row(params![decision, metric, seq], |row| {
                Ok(Self {
                    raters: row.get(0)?,
                    sum: row.get(1)?,
                    at: row.get::<_, Option<i64>>(3)?.unwrap_or(0),
                })
            })
            .optional()?;
        Ok(found.unwrap_or_default())
    }

    /// The mean, and when it came about; `None` if nobody had scored. `replaced`: what the next entry replaces.
    pub(super) fn mean(&self, replaced: Option<f64>) -> Option<(UnixMs, f64)> {
        let alone = replaced.filter(|_| self.raters == 1);
        let mean = alone.unwrap_or_else(|| self.sum / self.raters as f64);
        (self.raters > 0).then(|| (UnixMs(self.at), mean.clamp(0.0, 1.0)))
    }

    /// The mean with `score`, in place of what its rater had said before.
    pub(super) fn with(&self, score: f64, replaced: Option<f64>) -> f64 {
        let raters = self.raters + i64::from(replaced.is_none());
        if raters <= 1 {
            return score;
        }
        let sum = self.sum - replaced.unwrap_or(0.0) + score;
        (sum / raters as f64).clamp(0.0, 1.0)
    }
}
