//! What of the learner outlives a restart.

use std::sync::Arc;

use super::STATE;
use super::lessons::{Lesson, Versions};
use super::worker::Worker;
use crate::clock;
use crate::policy::learner::ContextualLearner;
use crate::policy::{Learner as _, Policy};
use crate::pricing::Corrections;
use crate::store::{Reader, StateRow, Store, StoreError};

/// Decisions that fill the reservoir again after a start.
const REHEARSAL: u32 = 512;
/// Name of the saved token corrections.
const CORRECTIONS: &str = "token-corrections";
/// Version of what is saved under either.
pub(super) const STATE_VERSION: u32 = 1;

impl Worker {
    /// Saves what was learned, with the place in the log that it was learned up to.
    pub(super) fn save(&mut self) {
        self.saved = clock::monotonic();
        self.save_failed = true;
        let bytes = match self.learner.save() {
            Ok(bytes) => bytes,
            Err(error) => return self.fail(&error),
        };
        let corrections = match serde_json::to_vec(&self.corrections) {
            Ok(bytes) => bytes,
            Err(error) => return self.fail(&error),
        };
        let now = clock::wall();
        let counted = StateRow {
            name: CORRECTIONS.into(),
            at: now,
            version: STATE_VERSION,
            last_feedback_seq: 0,
            last_attempt_seq: self.corrected_seq,
            bytes: corrections,
        };
        let state = StateRow {
            name: STATE.into(),
            at: now,
            version: STATE_VERSION,
            last_feedback_seq: self.status.feedback_seq,
            last_attempt_seq: self.status.attempt_seq,
            bytes,
        };
        let (counted, state) = (self.store.save_state(counted), self.store.save_state(state));
        let saved = self.runtime.block_on(async move {
            counted.await?;
            state.await
        });
        match saved {
            Ok(()) => {
                self.status.saved_at_ms = now;
                self.unsaved = false;
                self.save_failed = false;
            }
            Err(error) => self.fail(&error),
        }
    }
}

/// What the saved state `bytes` decides, without learning on. `learner` is as it was before anything was learned, and
/// `attempt_seq` how far of the log the state had learned. `None` if the state is of another release.
///
/// # Errors
/// When the log cannot be read.
pub fn recall(
    mut learner: ContextualLearner,
    bytes: &[u8],
    attempt_seq: i64,
    reader: &Reader,
    versions: &Versions,
) -> Result<Option<Arc<dyn Policy>>, StoreError> {
    if let Err(error) = learner.load(bytes) {
        tracing::warn!(%error, "what was learned by the former features cannot be used");
        return Ok(None);
    }
    rehearse(&mut learner, reader, attempt_seq, versions)?;
    Ok(Some(learner.snapshot()))
}

/// Fills the routes' reservoirs from the newest decisions up to `attempt_seq`, so that the first request has a price of
/// a dollar.
pub(super) fn rehearse(
    learner: &mut ContextualLearner,
    reader: &Reader,
    attempt_seq: i64,
    versions: &Versions,
) -> Result<(), StoreError> {
    let first = attempt_seq.saturating_sub(i64::from(REHEARSAL));
    for logged in reader.attempts_since(first, REHEARSAL)? {
        if logged.seq <= attempt_seq
            && let Some(lesson) = logged
                .decision
                .as_ref()
                .and_then(|row| Lesson::read(row, versions))
        {
            let offers: Vec<_> = lesson.offers().collect();
            learner.rehearse(lesson.route(), &lesson.contexts(), lesson.category(), &offers);
        }
    }
    learner.solve_if_due();
    Ok(())
}

/// The corrections as they were saved, and how far they had read; without any, they begin where the policy is.
pub(super) fn corrections(store: &Store, attempt_seq: i64) -> Result<(Corrections, i64), StoreError> {
    let Some(state) = store.reader().state(CORRECTIONS)? else {
        return Ok((Corrections::default(), attempt_seq));
    };
    match serde_json::from_slice(&state.bytes) {
        Ok(corrections) => Ok((corrections, state.last_attempt_seq)),
        Err(error) => {
            tracing::warn!(%error, "the token corrections are unreadable and are learned anew");
            Ok((Corrections::default(), attempt_seq))
        }
    }
}
