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
mod saved;
mod signals;
mod worker;

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

use arc_swap::ArcSwap;
use serde::Serialize;

use crate::policy::Policy;
use crate::policy::learner::{ContextualLearner, DriftEvent};
use crate::pricing::Corrections;
use crate::store::{Store, StoreError};
use crate::telemetry::Telemetry;
use crate::units::UnixMs;

pub use lessons::{Late, Lesson, Versions, encode_late, on_policy};
pub use renewal::Renewal;
pub use saved::recall;

use worker::Worker;

/// Name of the saved state.
pub const STATE: &str = "policy";

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

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
