//! The learner's thread: reads the log in order, learns, publishes and saves.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::saved::{STATE_VERSION, corrections, rehearse};
use super::signals::Signals;
use super::{Decider, Inbox, LearnerStatus, STATE, Setup, Shared, Versions, lessons, lock};
use crate::clock;
use crate::policy::Learner as _;
use crate::policy::learner::{ContextualLearner, DriftEvent};
use crate::pricing::Corrections;
use crate::store::{Store, StoreError};
use crate::telemetry::Telemetry;

/// Longest wait between two looks at the log.
const TICK: Duration = Duration::from_millis(100);
/// Time between two saves while something is learned.
const SAVE_EVERY: Duration = Duration::from_secs(5);
/// Entries of the log read at once: a look never holds more than this in memory, nor the processor for longer than
/// these take, some 2 ms, when a request waits for it.
pub(super) const CHUNK: u32 = 50;
/// Chunks between two publications.
const CHUNKS: u32 = 40;

pub(super) struct Worker {
    pub(super) learner: ContextualLearner,
    pub(super) corrections: Corrections,
    /// The last attempt that the corrections were learned from. They are saved apart from the policy, so that after a
    /// crash one of them may be ahead.
    pub(super) corrected_seq: i64,
    pub(super) store: Store,
    telemetry: Arc<Telemetry>,
    pub(super) versions: Versions,
    signals: Signals,
    under_way: Arc<dyn Fn(&str) -> bool + Send + Sync>,
    on_drift: Box<dyn FnMut(&DriftEvent) + Send>,
    pub(super) runtime: tokio::runtime::Handle,
    pub(super) status: LearnerStatus,
    pub(super) unsaved: bool,
    /// The last try to save failed: its error stands until one succeeds.
    pub(super) save_failed: bool,
    pub(super) saved: Instant,
}

impl Worker {
    pub(super) fn restore(setup: Setup) -> Result<Self, StoreError> {
        let Setup {
            mut learner,
            store,
            telemetry,
            versions,
            under_way,
            on_drift,
        } = setup;
        let mut status = LearnerStatus::default();
        let fresh = learner.clone();
        let mut reseeded = false;
        if let Some(state) = store.reader().state(STATE)? {
            match learner.load(&state.bytes) {
                Ok(other) if state.version == STATE_VERSION => {
                    reseeded = other;
                    status.feedback_seq = state.last_feedback_seq;
                    status.attempt_seq = state.last_attempt_seq;
                    status.late_seq = i64::try_from(learner.last_late()).unwrap_or(i64::MAX);
                    status.saved_at_ms = state.at;
                }
                Ok(_) | Err(_) => tracing::warn!(
                    "the learned state was written by another version; it is learned anew from the whole log"
                ),
            }
        }
        let (corrections, corrected_seq) = corrections(&store, status.attempt_seq)?;
        let mut worker = Self {
            learner,
            corrections,
            corrected_seq,
            store,
            telemetry,
            versions,
            signals: Signals::default(),
            under_way,
            on_drift,
            runtime: tokio::runtime::Handle::current(),
            status,
            unsaved: false,
            save_failed: false,
            saved: clock::monotonic(),
        };
        if reseeded {
            worker.take_up(fresh, versions)?;
        }
        let reader = worker.store.reader();
        rehearse(
            &mut worker.learner,
            reader,
            worker.status.attempt_seq,
            &worker.versions,
        )?;
        Ok(worker)
    }

    pub(super) fn run(mut self, shared: &Shared) {
        loop {
            let inbox = wait(shared);
            let mut changed = !inbox.changes.is_empty();
            let mut renewed = Vec::new();
            for renewal in inbox.renewals {
                match self.take_up(renewal.fresh, renewal.versions) {
                    Ok(()) => {
                        changed = true;
                        renewed.push(renewal.done);
                    }
                    Err(error) => (renewal.done)(Err(error.to_string())),
                }
            }
            for change in inbox.changes {
                change(&mut self.learner);
            }
            match self.catch_up() {
                Ok(learned) => {
                    changed |= learned;
                    if !self.save_failed {
                        self.status.error = None;
                    }
                }
                Err(error) => self.fail(&error),
            }
            if changed {
                self.unsaved = true;
                shared.published.store(Arc::new(self.decider()));
                shared.corrections.store(Arc::new(self.corrections.clone()));
            }
            for done in renewed {
                done(Ok(()));
            }
            let due = clock::monotonic().saturating_duration_since(self.saved) >= SAVE_EVERY;
            if self.unsaved && (due || inbox.stop) {
                self.save();
            }
            shared.status.store(Arc::new(self.status.clone()));
            if inbox.stop {
                return;
            }
        }
    }

    pub(super) fn decider(&self) -> Decider {
        Decider {
            policy: self.learner.snapshot(),
            versions: self.versions,
        }
    }

    /// Learns what the log has gained, but no more than [`CHUNKS`] at once: others' changes wait.
    fn catch_up(&mut self) -> Result<bool, StoreError> {
        let mut learned = false;
        for _ in 0..CHUNKS {
            let before = (self.status.attempts, self.status.scores);
            learned |= self.look()?;
            let (attempts, scores) = (self.status.attempts - before.0, self.status.scores - before.1);
            if attempts.max(scores) < u64::from(CHUNK) {
                break;
            }
            // On a single core a long look would be seen in the latency of requests.
            std::thread::yield_now();
        }
        Ok(learned)
    }

    /// Learns what the log has gained, a chunk at most. True if there was something.
    pub(super) fn look(&mut self) -> Result<bool, StoreError> {
        let late = self.look_late()?;
        let attempts = self.store.attempts_since(self.status.attempt_seq, CHUNK)?;
        let mut learned = late || !attempts.is_empty();
        for logged in &attempts {
            lessons::usage(&mut self.learner, logged, &self.versions);
            self.signals.attempt(&mut self.learner, logged, &self.versions);
            if logged.seq > self.corrected_seq {
                lessons::tokens(&mut self.corrections, logged);
                self.corrected_seq = logged.seq;
            }
            self.status.attempt_seq = logged.seq;
            self.status.attempts += 1;
        }
        self.learner.solve_if_due();
        for logged in self.store.feedback_since(self.status.feedback_seq, CHUNK)? {
            // A score may come before its answer has ended. Who served is not known then, so it waits.
            if logged.served.is_none() && (self.under_way)(&logged.decision.id) {
                break;
            }
            self.signals.scored(&mut self.learner, &logged);
            let late = self.late_of(&logged)?;
            lessons::measure(&self.telemetry, &logged);
            let seq = logged.seq.unsigned_abs();
            lessons::score(&mut self.learner, &logged, &self.versions, late.as_ref(), seq);
            self.status.late_scores += u64::from(late.is_some());
            self.status.feedback_seq = logged.seq;
            self.status.scores += 1;
            learned = true;
        }
        self.status.embedded_scores = self.learner.embedded();
        for event in self.learner.take_events() {
            self.status.drift_alarms += 1;
            (self.on_drift)(&event);
        }
        Ok(learned)
    }

    /// Logs a failure once, not at every look.
    pub(super) fn fail(&mut self, error: &dyn std::error::Error) {
        let text = error.to_string();
        if self.status.error.as_ref() != Some(&text) {
            tracing::error!(%error, "the learner cannot read the log or save; it goes on trying");
            self.status.error = Some(text);
        }
    }
}

fn wait(shared: &Shared) -> Inbox {
    let mut inbox = lock(&shared.inbox);
    if !inbox.stop && !inbox.scores && inbox.changes.is_empty() && inbox.renewals.is_empty() {
        inbox = match shared.wake.wait_timeout(inbox, TICK) {
            Ok((inbox, _)) => inbox,
            Err(poisoned) => poisoned.into_inner().0,
        };
    }
    std::mem::take(&mut inbox)
}
