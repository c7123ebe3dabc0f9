//! What the writer has done so far.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

use super::error::StoreError;
use super::queue::Entry;

/// Figures of the store, for `/v1/telemetry` and `/metrics`. Counts are since the start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StoreStats {
    /// Log entries that wait to be written.
    pub queued: u64,
    /// Log entries written.
    pub written: u64,
    /// Log entries that the database refused one by one (a decision id given twice).
    pub rejected: u64,
    /// Log entries lost because too many waited: decisions.
    pub dropped_decisions: u64,
    /// And all others.
    pub dropped_others: u64,
    /// Transactions committed.
    pub commits: u64,
    /// Transactions that failed and were tried again.
    pub failures: u64,
    /// Why the last transaction failed; null when it did not.
    pub error: Option<String>,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    written: AtomicU64,
    rejected: AtomicU64,
    dropped_decisions: AtomicU64,
    dropped_others: AtomicU64,
    commits: AtomicU64,
    failures: AtomicU64,
    error: Mutex<Option<String>>,
}

impl Counters {
    pub(super) fn committed(&self, entries: u64, rejected: u64) {
        self.written.fetch_add(entries - rejected, Ordering::Relaxed);
        self.rejected.fetch_add(rejected, Ordering::Relaxed);
        self.commits.fetch_add(1, Ordering::Relaxed);
        let mut error = self.error.lock().unwrap_or_else(PoisonError::into_inner);
        if error.take().is_some() {
            tracing::info!("the database can be written again");
        }
    }

    /// Notes a failure; true if it is not the one already known.
    pub(super) fn failed(&self, failure: &StoreError) -> bool {
        self.failures.fetch_add(1, Ordering::Relaxed);
        self.noted(failure)
    }

    /// Notes what would make a transaction fail; true if it is not the one already known.
    pub(super) fn noted(&self, failure: &StoreError) -> bool {
        let text = failure.to_string();
        let mut error = self.error.lock().unwrap_or_else(PoisonError::into_inner);
        let new = error.as_ref() != Some(&text);
        *error = Some(text);
        new
    }

    pub(super) fn dropped(&self, entry: &Entry) {
        let counter = match entry {
            Entry::Decision(_) => &self.dropped_decisions,
            _ => &self.dropped_others,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn read(&self, queued: usize) -> StoreStats {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        StoreStats {
            queued: queued as u64,
            written: load(&self.written),
            rejected: load(&self.rejected),
            dropped_decisions: load(&self.dropped_decisions),
            dropped_others: load(&self.dropped_others),
            commits: load(&self.commits),
            failures: load(&self.failures),
            error: self.error.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}
