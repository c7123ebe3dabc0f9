//! The embedded database: decisions, attempts, scores, learned state and the documents of the rooms above.
//!
//! SQLite in one file of the data directory, with one writer thread and any number of readers. What is logged on the
//! request's path ([`Store::log_decision`], [`Store::log_attempt`]) goes through a bounded queue and is committed in
//! groups within [`Settings::interval`]; when the queue is full it is dropped and counted, and requests go on. What
//! a client is told to be kept ([`Store::record_feedback`], [`Store::save_state`], [`Store::put_doc`]) is answered
//! after a commit that was synced to the disk. Whoever follows the log ([`Store::attempts_since`]) is given what was
//! committed a moment ago from memory, and all else from the database.
//!
//! # Invariants
//! - The feedback log only grows, and an acknowledged score is in it exactly once, whatever is killed when.
//! - Of each (decision, metric, rater) one score counts: the latest. Of each (decision, metric) the mean of these is one
//!   observation.
//! - A place (`seq`) in a log is never used twice.
//! - Nothing is acknowledged that was written to a file that is no longer at its path.
//! - A file that is damaged, newer than we know or in use is never written to.

mod aside;
mod codec;
mod columns;
mod error;
mod insert;
mod joined;
mod place;
mod queue;
mod raters;
mod read;
mod record;
mod retention;
mod rows;
mod schema;
mod stats;
mod tail;
mod writer;

use std::fs::{File, OpenOptions, TryLockError};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{oneshot, watch};

pub use self::aside::set_aside;
pub use self::error::{RecordError, StoreError};
pub use self::joined::JoinedLog;
pub use self::read::Reader;
pub use self::retention::Retention;
pub use self::rows::{
    AttemptRow, CandidateRow, DecisionRow, DocRow, EventRow, FROM_CACHE, FeedbackAck, FeedbackRow,
    IdempotentRow, Joined, LateRow, LoggedAttempt, LoggedFeedback, LoggedLate, ScoreRow, Served, StateRow,
};
pub use self::stats::StoreStats;

use self::insert::Sequences;
use self::place::Identity;
use self::queue::{Entry, Order, Queue};
use self::stats::Counters;
use self::tail::Tail;
use self::writer::Writer;
use crate::units::{UnixMs, Usd};

/// The database's name in the data directory.
const FILE: &str = "pointsman.db";
/// Held by the one process that may write.
const LOCK: &str = "pointsman.lock";

/// How the store works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Log entries that may wait to be written. Default 16,384: about 20 MB.
    pub queue: usize,
    /// How long log entries gather for one commit. Default 20 ms.
    pub interval: Duration,
    /// What is kept, and for how long.
    pub retention: Retention,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            queue: 16_384,
            interval: Duration::from_millis(20),
            retention: Retention::default(),
        }
    }
}

/// The database of one data directory. Cheap to clone; [`close`](Store::close) it to be sure that everything is
/// written.
#[derive(Clone, Debug)]
pub struct Store {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    queue: Arc<Queue>,
    counters: Arc<Counters>,
    reader: Reader,
    tail: Arc<Tail>,
    feedback_seq: watch::Receiver<i64>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Shared {
    /// The writer finishes what it has and ends; nobody waits for it here.
    fn drop(&mut self) {
        self.queue.close();
    }
}

impl Store {
    /// Opens the database of a data directory with the default settings, creating both if need be.
    ///
    /// # Errors
    /// See [`StoreError`]: in use, locked, damaged, newer than we know, or unreachable. The file is left as it is.
    pub fn open(data_dir: &Path, now: UnixMs) -> Result<Self, StoreError> {
        Self::open_with(data_dir, now, Settings::default())
    }

    /// The same with other settings.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_with(data_dir: &Path, now: UnixMs, settings: Settings) -> Result<Self, StoreError> {
        std::fs::create_dir_all(data_dir).map_err(|error| StoreError::from_io(data_dir, &error))?;
        let lock = lock(data_dir)?;
        let path = data_dir.join(FILE);
        let connection = schema::open_writer(&path)?;
        let sql = |error: rusqlite::Error| StoreError::from_sql(&path, &error);
        let sequences = Sequences::load(&connection).map_err(sql)?;
        retention::forget_answers(&connection, now).map_err(sql)?;
        let queue = Arc::new(Queue::new(settings.queue));
        let counters = Arc::new(Counters::default());
        let tail = Arc::new(Tail::new(sequences));
        let (sender, feedback_seq) = watch::channel(sequences.feedback - 1);
        let writer = Writer {
            path: path.clone(),
            file: Identity::of(&path)?,
            connection,
            queue: Arc::clone(&queue),
            counters: Arc::clone(&counters),
            tail: Arc::clone(&tail),
            interval: settings.interval,
            retention: settings.retention,
            sequences,
            feedback_seq: sender,
            capacity: settings.queue,
            failing: false,
            lost: 0,
            _lock: lock,
        };
        let thread = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || writer.run())
            .map_err(|error| StoreError::from_io(&path, &error))?;
        Ok(Self {
            shared: Arc::new(Shared {
                reader: Reader::at(path.clone()),
                path,
                queue,
                counters,
                tail,
                feedback_seq,
                thread: Mutex::new(Some(thread)),
            }),
        })
    }

    /// The database's file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// Lookups and logs. Sees what is committed: log entries within [`Settings::interval`], or after a
    /// [`flush`](Self::flush).
    #[must_use]
    pub fn reader(&self) -> &Reader {
        &self.shared.reader
    }

    /// The attempt log after place `seq`, as [`Reader::attempts_since`], for whoever follows it: what is new comes from
    /// memory.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn attempts_since(&self, seq: i64, limit: u32) -> Result<Vec<LoggedAttempt>, StoreError> {
        let kept = self.shared.tail.lock().attempts_since(seq, limit);
        let Some(mut attempts) = kept else {
            return self.reader().attempts_since(seq, limit);
        };
        for logged in attempts.iter_mut().filter(|logged| logged.decision.is_none()) {
            let decision = self.reader().decision_of(&logged.attempt.decision)?;
            logged.decision = decision.map(Arc::new);
        }
        Ok(attempts)
    }

    /// As [`Reader::enrolments_since`], from memory where that has all of it.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn enrolments_since(&self, seq: i64) -> Result<(i64, Vec<String>), StoreError> {
        let kept = self.shared.tail.lock().enrolments_since(seq);
        kept.map_or_else(|| self.reader().enrolments_since(seq), Ok)
    }

    /// As [`Reader::feedback_since`]; the database is not asked when there is nothing.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn feedback_since(&self, seq: i64, limit: u32) -> Result<Vec<LoggedFeedback>, StoreError> {
        if self.shared.tail.lock().has_no_feedback_after(seq) {
            return Ok(Vec::new());
        }
        self.reader().feedback_since(seq, limit)
    }

    /// As [`Reader::late_since`]; the database is not asked when there is nothing.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn late_since(&self, seq: i64, limit: u32) -> Result<Vec<LoggedLate>, StoreError> {
        if self.shared.tail.lock().has_no_late_after(seq) {
            return Ok(Vec::new());
        }
        self.reader().late_since(seq, limit)
    }

    /// Logs a decision. Never blocks; false when the queue was full and it was dropped.
    pub fn log_decision(&self, row: DecisionRow) -> bool {
        self.log(Entry::Decision(Arc::new(row)))
    }

    /// Logs an attempt. Never blocks; false when the queue was full and it was dropped.
    pub fn log_attempt(&self, row: AttemptRow) -> bool {
        self.log(Entry::Attempt(Arc::new(row)))
    }

    /// Logs an embedding that came after its decision, which must have been logged before. Never blocks; false when the
    /// queue was full and it was dropped.
    pub fn log_late_embedding(&self, row: LateRow) -> bool {
        self.log(Entry::Late(Box::new(row)))
    }

    /// Logs an event. Never blocks; false when the queue was full and it was dropped.
    pub fn log_event(&self, row: EventRow) -> bool {
        self.log(Entry::Event(Box::new(row)))
    }

    /// Keeps an answer under its idempotency key for 24 hours. Never blocks; false when the queue was full.
    pub fn keep_answer(&self, row: IdempotentRow) -> bool {
        self.log(Entry::Idempotent(Box::new(row)))
    }

    /// Adds to what was spent in a scope within a period. Never blocks; false when the queue was full.
    pub fn add_spend(&self, scope: &str, period: &str, amount: Usd) -> bool {
        self.log(Entry::Spend {
            scope: scope.to_owned(),
            period: period.to_owned(),
            nanos: amount.nanos(),
        })
    }

    /// Records a score; resolves when it is durable. It is recorded even if the future is dropped.
    ///
    /// # Errors
    /// See [`RecordError`]; nothing was stored then, and the same score may be sent again.
    pub fn record_feedback(
        &self,
        row: FeedbackRow,
    ) -> impl Future<Output = Result<FeedbackAck, RecordError>> + Send + use<> {
        let acks = self.record_feedback_batch(vec![row]);
        async move { acks.await.pop().unwrap_or(Err(StoreError::Closed.into())) }
    }

    /// Records scores in their order, in one transaction; resolves to the answer to each. A score that is refused
    /// does not hold up the others.
    pub fn record_feedback_batch(
        &self,
        rows: Vec<FeedbackRow>,
    ) -> impl Future<Output = Vec<Result<FeedbackAck, RecordError>>> + Send + use<> {
        let count = rows.len();
        let (sender, receiver) = oneshot::channel();
        let sent = self.shared.queue.order(Order::Feedback(rows, sender));
        async move {
            let refuse = |error: StoreError| vec![Err(RecordError::Store(error)); count];
            match sent {
                Err(error) => refuse(error),
                Ok(()) => receiver.await.unwrap_or_else(|_| refuse(StoreError::Closed)),
            }
        }
    }

    /// The last place of the feedback log that is durable; changes wake the learner, which then reads
    /// [`Reader::feedback_since`] its own last place.
    #[must_use]
    pub fn feedback_seq(&self) -> watch::Receiver<i64> {
        self.shared.feedback_seq.clone()
    }

    /// Stores a learned state, whole or not at all; the one before it is kept too.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub fn save_state(&self, row: StateRow) -> impl Future<Output = Result<(), StoreError>> + Send + use<> {
        let (done, wait) = oneshot::channel();
        self.order(Order::State(Box::new(row), done), wait)
    }

    /// Writes a document, replacing the one of the same kind and name.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub fn put_doc(&self, row: DocRow) -> impl Future<Output = Result<(), StoreError>> + Send + use<> {
        let (done, wait) = oneshot::channel();
        self.order(Order::Doc(Box::new(row), done), wait)
    }

    /// Deletes a document; nothing happens when there is none.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub fn drop_doc(
        &self,
        kind: &str,
        name: &str,
    ) -> impl Future<Output = Result<(), StoreError>> + Send + use<> {
        let (kind, name) = (kind.to_owned(), name.to_owned());
        let (done, wait) = oneshot::channel();
        self.order(Order::DropDoc { kind, name, done }, wait)
    }

    /// Resolves when everything logged before is durable.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub fn flush(&self) -> impl Future<Output = Result<(), StoreError>> + Send + use<> {
        let (done, wait) = oneshot::channel();
        self.order(Order::Flush(done), wait)
    }

    /// Deletes what is over the limits of the retention now; otherwise done every minute.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub fn prune(&self, now: UnixMs) -> impl Future<Output = Result<(), StoreError>> + Send + use<> {
        let (done, wait) = oneshot::channel();
        self.order(Order::Prune(now, done), wait)
    }

    /// Limits the file's size: beyond it writes fail as on a full disk until space is freed or the limit lifted
    /// (`None`).
    ///
    /// # Errors
    /// When the store is closed.
    pub fn limit_size(&self, bytes: Option<u64>) -> Result<(), StoreError> {
        self.shared.queue.order(Order::SizeLimit(bytes))
    }

    /// What the writer has done so far.
    #[must_use]
    pub fn stats(&self) -> StoreStats {
        self.shared.counters.read(self.shared.queue.entries())
    }

    /// Takes nothing more, writes what waits, and ends the writer. Blocks until then; other handles get
    /// [`StoreError::Closed`].
    pub fn close(&self) {
        self.shared.queue.close();
        let thread = self
            .shared
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the store's writer ended by a fault of ours; what waited is lost");
        }
    }

    fn log(&self, entry: Entry) -> bool {
        match self.shared.queue.log(entry) {
            Ok(()) => true,
            Err(entry) => {
                self.shared.counters.dropped(&entry);
                false
            }
        }
    }

    fn order(
        &self,
        order: Order,
        done: oneshot::Receiver<Result<(), StoreError>>,
    ) -> impl Future<Output = Result<(), StoreError>> + Send + use<> {
        let sent = self.shared.queue.order(order);
        async move {
            sent?;
            done.await.unwrap_or(Err(StoreError::Closed))
        }
    }
}

/// Takes the data directory for this process; given back when the file is dropped.
fn lock(data_dir: &Path) -> Result<File, StoreError> {
    let path = data_dir.join(LOCK);
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|error| StoreError::from_io(&path, &error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse {
            path: path.display().to_string(),
        }),
        Err(TryLockError::Error(error)) => Err(StoreError::from_io(&path, &error)),
    }
}

#[cfg(test)]
pub(crate) mod tests;
