//! The one owner of mutable learning.
//!
//! A thread of its own reads the log behind the requests, in order, and learns from it: what was decided and used
//! (attempts), and how it was scored (feedback). It publishes immutable policies that requests read without a lock.
//!
//! The log is the only source. A state is saved together with the place in the log that it has learned from, and
//! after a crash the rest of the log is read again: what was acknowledged is learned exactly once.

pub mod codec;
mod lessons;
mod renewal;
mod signals;

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use serde::Serialize;

use crate::clock;
use crate::policy::Learner as _;
use crate::policy::Policy;
use crate::policy::learner::{ContextualLearner, DriftEvent};
use crate::pricing::Corrections;
use crate::store::{Reader, Store, StoreError};
use crate::telemetry::Telemetry;
use crate::units::UnixMs;

pub use lessons::{Late, Lesson, Versions, encode_late, on_policy};
pub use renewal::Renewal;

/// Longest wait between two looks at the log.
const TICK: Duration = Duration::from_millis(100);
/// Time between two saves while something is learned.
const SAVE_EVERY: Duration = Duration::from_secs(5);
/// Entries of the log read at once: a look never holds more than this in memory, nor the processor for longer than
/// these take, some 2 ms, when a request waits for it.
const CHUNK: u32 = 50;
/// Chunks between two publications.
const CHUNKS: u32 = 40;
/// Decisions that fill the reservoir again after a start.
const REHEARSAL: u32 = 512;
/// Name of the saved state.
pub const STATE: &str = "policy";
/// Name of the saved token corrections.
const CORRECTIONS: &str = "token-corrections";
/// Version of what is saved under either.
const STATE_VERSION: u32 = 1;

/// What the learner needs to run.
pub struct Setup {
    /// The policy's mutable side, with its arms and routes, before anything was learned.
    pub learner: ContextualLearner,
    /// The log.
    pub store: Store,
    /// Where scores are counted.
    pub telemetry: Arc<Telemetry>,
    /// Versions of the feature projections in use.
    pub versions: Versions,
    /// Whether a decision is still being carried out.
    pub under_way: Arc<dyn Fn(&str) -> bool + Send + Sync>,
    /// Told of every drift alarm.
    pub on_drift: Box<dyn FnMut(&DriftEvent) + Send>,
}

/// The learner as others see it. Cheap to clone.
#[derive(Clone)]
pub struct LearnerHandle(Arc<Shared>);

struct Shared {
    published: ArcSwap<Decider>,
    corrections: ArcSwap<Corrections>,
    status: ArcSwap<LearnerStatus>,
    inbox: Mutex<Inbox>,
    wake: Condvar,
    thread: Mutex<Option<JoinHandle<()>>>,
}

type Change = Box<dyn FnOnce(&mut ContextualLearner) + Send>;

/// What decides, and for features of which projections.
#[derive(Clone)]
pub struct Decider {
    /// The policy.
    pub policy: Arc<dyn Policy>,
    /// Versions of the features that its statistics belong to.
    pub versions: Versions,
}

#[derive(Default)]
struct Inbox {
    changes: Vec<Change>,
    renewals: Vec<Renewal>,
    scores: bool,
    stop: bool,
}

/// What the learner has done, for `/v1/telemetry`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LearnerStatus {
    /// The last score of the log that was learned.
    pub feedback_seq: i64,
    /// The last attempt of the log that was learned.
    pub attempt_seq: i64,
    /// Scores learned since the start.
    pub scores: u64,
    /// Attempts learned since the start.
    pub attempts: u64,
    /// The last late embedding of the log that was learned.
    pub late_seq: i64,
    /// Scores that were learned on an embedding which had come too late for the decision, since the start.
    pub late_scores: u64,
    /// Scores that the embedding view has learned from, ever.
    pub embedded_scores: u64,
    /// Drift alarms since the start.
    pub drift_alarms: u64,
    /// When the state was last saved.
    pub saved_at_ms: UnixMs,
    /// Why the log could not be read or the state not be saved; null when it could.
    pub error: Option<String>,
}

/// Why the learner cannot start.
#[derive(Debug, thiserror::Error)]
pub enum LearnerError {
    /// The log cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No thread.
    #[error("the learner's thread cannot be started ({0}): raise the limit on threads")]
    Thread(std::io::Error),
}

impl LearnerHandle {
    /// Takes the saved state up, learns the rest of the log, and goes on learning on a thread of its own.
    ///
    /// # Errors
    /// When the log cannot be read, or no thread can be started. Call it inside the runtime.
    pub fn start(setup: Setup) -> Result<Self, LearnerError> {
        let mut worker = Worker::restore(setup)?;
        while worker.look()? {}
        let shared = Arc::new(Shared {
            published: ArcSwap::from_pointee(worker.decider()),
            corrections: ArcSwap::from_pointee(worker.corrections.clone()),
            status: ArcSwap::from_pointee(worker.status.clone()),
            inbox: Mutex::default(),
            wake: Condvar::new(),
            thread: Mutex::new(None),
        });
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("learner".into())
            .spawn(move || worker.run(&theirs))
            .map_err(LearnerError::Thread)?;
        *lock(&shared.thread) = Some(thread);
        Ok(Self(shared))
    }

    /// What decides now.
    #[must_use]
    pub fn policy(&self) -> Arc<dyn Policy> {
        Arc::clone(&self.0.published.load().policy)
    }

    /// What decides now, with the versions of the features that it was learned on.
    #[must_use]
    pub fn decider(&self) -> Arc<Decider> {
        self.0.published.load_full()
    }

    /// How providers count tokens, as far as it is learned.
    #[must_use]
    pub fn corrections(&self) -> arc_swap::Guard<Arc<Corrections>> {
        self.0.corrections.load()
    }

    /// What it has done.
    #[must_use]
    pub fn status(&self) -> LearnerStatus {
        LearnerStatus::clone(&self.0.status.load())
    }

    /// A score is in the log.
    pub fn scores_came(&self) {
        lock(&self.0.inbox).scores = true;
        self.0.wake.notify_one();
    }

    /// Changes arms, prices or routes. What was learned stays.
    pub fn change(&self, change: impl FnOnce(&mut ContextualLearner) + Send + 'static) {
        lock(&self.0.inbox).changes.push(Box::new(change));
        self.0.wake.notify_one();
    }

    /// Goes on under other features or another seed. Requests are decided as before until everything is ready.
    pub fn renew(&self, renewal: Renewal) {
        lock(&self.0.inbox).renewals.push(renewal);
        self.0.wake.notify_one();
    }

    /// Learns what is in the log, saves and ends. Blocks until that is done.
    pub fn stop(&self) {
        lock(&self.0.inbox).stop = true;
        self.0.wake.notify_one();
        let thread = lock(&self.0.thread).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the learner ended by a panic; it starts from its last save next time");
        }
    }
}

struct Worker {
    learner: ContextualLearner,
    corrections: Corrections,
    /// The last attempt that the corrections were learned from. They are saved apart from the policy, so that after a
    /// crash one of them may be ahead.
    corrected_seq: i64,
    store: Store,
    telemetry: Arc<Telemetry>,
    versions: Versions,
    signals: signals::Signals,
    under_way: Arc<dyn Fn(&str) -> bool + Send + Sync>,
    on_drift: Box<dyn FnMut(&DriftEvent) + Send>,
    runtime: tokio::runtime::Handle,
    status: LearnerStatus,
    unsaved: bool,
    saved: Instant,
}

impl Worker {
    fn restore(setup: Setup) -> Result<Self, StoreError> {
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
        let (corrections, corrected_seq) = saved_corrections(&store, status.attempt_seq)?;
        let mut worker = Self {
            learner,
            corrections,
            corrected_seq,
            store,
            telemetry,
            versions,
            signals: signals::Signals::default(),
            under_way,
            on_drift,
            runtime: tokio::runtime::Handle::current(),
            status,
            unsaved: false,
            saved: clock::monotonic(),
        };
        if reseeded {
            worker.take_up(fresh, versions)?;
        }
        worker.rehearse()?;
        Ok(worker)
    }

    fn rehearse(&mut self) -> Result<(), StoreError> {
        let reader = self.store.reader();
        rehearse(&mut self.learner, reader, self.status.attempt_seq, &self.versions)
    }

    fn run(mut self, shared: &Shared) {
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
                    self.status.error = None;
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

    fn decider(&self) -> Decider {
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
    fn look(&mut self) -> Result<bool, StoreError> {
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

    fn save(&mut self) {
        self.saved = clock::monotonic();
        let bytes = match self.learner.save() {
            Ok(bytes) => bytes,
            Err(error) => return self.fail(&error),
        };
        let corrections = match serde_json::to_vec(&self.corrections) {
            Ok(bytes) => bytes,
            Err(error) => return self.fail(&error),
        };
        let now = clock::wall();
        let counted = crate::store::StateRow {
            name: CORRECTIONS.into(),
            at: now,
            version: STATE_VERSION,
            last_feedback_seq: 0,
            last_attempt_seq: self.corrected_seq,
            bytes: corrections,
        };
        let state = crate::store::StateRow {
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
            }
            Err(error) => self.fail(&error),
        }
    }

    /// Logs a failure once, not at every look.
    fn fail(&mut self, error: &dyn std::error::Error) {
        let text = error.to_string();
        if self.status.error.as_ref() != Some(&text) {
            tracing::error!(%error, "the learner cannot read the log or save; it goes on trying");
            self.status.error = Some(text);
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
fn rehearse(
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
fn saved_corrections(store: &Store, attempt_seq: i64) -> Result<(Corrections, i64), StoreError> {
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

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
