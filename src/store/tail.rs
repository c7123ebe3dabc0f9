//! The end of the log in memory: what was committed a moment ago, for those who follow it.
//!
//! The learner and the experiments read every row soon after it was written. From the database that costs more than
//! writing it did.
//!
//! # Invariants
//! - What it gives is committed, and is what the database would give at that moment. It is locked while a batch is
//!   committed, so that whoever has seen a row of a batch in the database sees all of that batch here.
//! - It has every row after the places in `before`, or says that it has not.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::insert::Sequences;
use super::rows::{AttemptRow, DecisionRow, LoggedAttempt};

/// Rows kept of each log, some 1.5 MB: what 2,000 requests a second write between two looks of the experiments.
const KEPT: usize = 1_024;

#[derive(Debug)]
pub(super) struct Tail(Mutex<Rows>);

#[derive(Debug)]
pub(super) struct Rows {
    decisions: VecDeque<(i64, Arc<DecisionRow>)>,
    by_id: HashMap<Arc<str>, Arc<DecisionRow>>,
    /// The decision of an attempt is missing here if it is none of the kept ones; it may be in the database.
    attempts: VecDeque<LoggedAttempt>,
    /// The last places before those kept.
    before: Places,
    /// The last places committed.
    last: Places,
}

/// A place in each log.
#[derive(Clone, Copy, Debug)]
struct Places {
    decisions: i64,
    attempts: i64,
    feedback: i64,
    late: i64,
}

impl From<Sequences> for Places {
    fn from(next: Sequences) -> Self {
        Self {
            decisions: next.decisions - 1,
            attempts: next.attempts - 1,
            feedback: next.feedback - 1,
            late: next.late - 1,
        }
    }
}

/// A row with the place that it was written to.
pub(super) enum Written {
    Decision(i64, Arc<DecisionRow>),
    Attempt(i64, Arc<AttemptRow>),
}

impl Tail {
    /// An empty one: what there is up to `sequences` is in the database alone.
    pub(super) fn new(sequences: Sequences) -> Self {
        let places = Places::from(sequences);
        Self(Mutex::new(Rows {
            decisions: VecDeque::new(),
            by_id: HashMap::new(),
            attempts: VecDeque::new(),
            before: places,
            last: places,
        }))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Rows> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rows {
    /// Takes a batch in that has just been committed, up to `sequences`.
    pub(super) fn committed(&mut self, batch: Vec<Written>, sequences: Sequences) {
        for row in batch {
            match row {
                Written::Decision(seq, row) => {
                    self.by_id.insert(Arc::clone(&row.id), Arc::clone(&row));
                    self.decisions.push_back((seq, row));
                }
                Written::Attempt(seq, attempt) => {
                    let decision = self.by_id.get(&attempt.decision).map(Arc::clone);
                    self.attempts.push_back(LoggedAttempt {
                        seq,
                        attempt,
                        decision,
                    });
                }
            }
        }
        while self.decisions.len() > KEPT
            && let Some((seq, row)) = self.decisions.pop_front()
        {
            self.before.decisions = seq;
            self.by_id.remove(&row.id);
        }
        while self.attempts.len() > KEPT
            && let Some(attempt) = self.attempts.pop_front()
        {
            self.before.attempts = attempt.seq;
        }
        self.last = sequences.into();
    }

    /// Forgets every row: some may have been deleted.
    pub(super) fn clear(&mut self) {
        self.decisions.clear();
        self.by_id.clear();
        self.attempts.clear();
        self.before = self.last;
    }

    /// The attempts after `seq`, at most `limit`, each with its decision if that is kept too. `None`: the first of
    /// them are not kept.
    pub(super) fn attempts_since(&self, seq: i64, limit: u32) -> Option<Vec<LoggedAttempt>> {
        let from = self.attempts.partition_point(|logged| logged.seq <= seq);
        let rows = self.attempts.range(from..).take(limit as usize);
        (seq >= self.before.attempts).then(|| rows.cloned().collect())
    }

    /// What is noted with each decision after `seq` that is part of an experiment, and the last place of the decisions.
    /// `None`: the first of them are not kept.
    pub(super) fn enrolments_since(&self, seq: i64) -> Option<(i64, Vec<String>)> {
        let from = self.decisions.partition_point(|(place, _)| *place <= seq);
        let enrolled = self
            .decisions
            .range(from..)
            .filter(|(_, row)| row.experiment.is_some());
        let details = enrolled.filter_map(|(_, row)| row.detail.clone());
        (seq >= self.before.decisions).then(|| (self.last.decisions, details.collect()))
    }

    /// Whether there is no score after `seq`.
    pub(super) fn has_no_feedback_after(&self, seq: i64) -> bool {
        seq >= self.last.feedback
    }

    /// Whether there is no late embedding after `seq`.
    pub(super) fn has_no_late_after(&self, seq: i64) -> bool {
        seq >= self.last.late
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::Store;
    use super::super::tests::{attempt, decision, now, open};
    use super::*;

    /// Whoever follows the log is told what the database holds, from every place on.
    fn assert_follows(store: &Store) {
        let reader = store.reader();
        let all = reader.attempts_since(0, u32::MAX).unwrap();
        for seq in (0..=all.last().map_or(0, |last| last.seq)).rev() {
            for limit in [1, 3, 1_000] {
                let followed = store.attempts_since(seq, limit).unwrap();
                assert_eq!(
                    followed,
                    reader.attempts_since(seq, limit).unwrap(),
                    "after {seq}"
                );
            }
            let (last, details) = store.enrolments_since(seq).unwrap();
            let (stored, expected) = reader.enrolments_since(seq).unwrap();
            assert_eq!(details, expected, "after {seq}");
            assert!(last >= stored && reader.enrolments_since(last).unwrap().1.is_empty());
        }
    }

    fn enrolled(id: &str) -> DecisionRow {
        DecisionRow {
            detail: Some(format!("about {id}")),
            ..decision(id)
        }
    }

    #[tokio::test]
    async fn what_is_followed_is_what_is_stored() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        assert!(store.log_decision(enrolled("d1")) && store.log_attempt(attempt("d1", 1)));
        store.flush().await.unwrap();
        assert_follows(&store);
        // Refused, because it is there already; its place is never used.
        store.log_decision(enrolled("d1"));
        store.log_decision(enrolled("d2"));
        store.log_attempt(attempt("lost", 1));
        store.log_attempt(attempt("d1", 2));
        store.log_attempt(attempt("d2", 1));
        store.flush().await.unwrap();
        assert_follows(&store);
        assert_eq!(store.shared.tail.lock().attempts.len(), 4);
        store.close();

        // What was there before is in the database alone.
        let store = open(dir.path());
        assert_follows(&store);
        store.log_attempt(attempt("d2", 2));
        store.log_decision(enrolled("d3"));
        store.log_attempt(attempt("d3", 1));
        store.flush().await.unwrap();
        assert_eq!(store.shared.tail.lock().attempts.len(), 2);
        assert_follows(&store);
        store.close();
    }

    #[tokio::test]
    async fn what_was_deleted_is_not_told() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        store.log_decision(decision("d1"));
        store.log_attempt(attempt("d1", 1));
        store.flush().await.unwrap();
        assert_eq!(store.attempts_since(0, 10).unwrap().len(), 1);
        store
            .prune(now().plus(Duration::from_secs(91 * 86_400)))
            .await
            .unwrap();
        assert_eq!(store.attempts_since(0, 10).unwrap(), []);
        store.log_decision(decision("d2"));
        store.log_attempt(attempt("d2", 1));
        store.flush().await.unwrap();
        assert_eq!(store.attempts_since(0, 10).unwrap().len(), 1);
        assert_follows(&store);
        store.close();
    }

    #[test]
    fn the_oldest_give_way_and_that_is_said() {
        let next = |decisions: i64, attempts: i64| Sequences {
            decisions,
            attempts,
            feedback: 1,
            events: 1,
            late: 1,
        };
        let tail = Tail::new(next(11, 21));
        let mut rows = tail.lock();
        assert!(rows.attempts_since(19, 10).is_none() && rows.attempts_since(20, 10).is_some());
        let count = KEPT as i64 + 5;
        let batch = (0..count).flat_map(|i| {
            let (decision, attempt) = (decision(&format!("d{i}")), attempt(&format!("d{i}"), 1));
            [
                Written::Decision(11 + i, Arc::new(decision)),
                Written::Attempt(21 + i, Arc::new(attempt)),
            ]
        });
        rows.committed(batch.collect(), next(11 + count, 21 + count));
        assert_eq!(
            (rows.decisions.len(), rows.by_id.len(), rows.attempts.len()),
            (KEPT, KEPT, KEPT)
        );
        assert!(rows.attempts_since(24, 1).is_none() && rows.enrolments_since(14).is_none());
        assert_eq!(rows.attempts_since(25, 1).unwrap()[0].seq, 26);
        assert_eq!(rows.enrolments_since(15).unwrap().0, 10 + count);
        assert_eq!(rows.attempts_since(20 + count, 1), Some(Vec::new()));
    }
}
