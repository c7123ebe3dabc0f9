//! The one thread that writes: takes what has gathered, commits it as one transaction, answers those who wait.
//!
//! A batch that holds anything somebody waits for is synced to the disk before it is answered
//! (`synchronous = FULL`). Plain log entries survive the end of the process from their commit on, and the end of the
//! machine from the next sync on (`NORMAL`).
//!
//! When a batch fails for a reason that concerns everything (no space, a lock, a file that is damaged or gone), nothing of it is
//! stored: those who wait are told, and log entries are held, up to the queue's capacity, and tried again.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::watch;

use super::error::{RecordError, StoreError};
use super::insert::{self, Sequences};
use super::place::Identity;
use super::queue::{Acks, Done, Entry, Order, Queue, Work};
use super::record;
use super::retention::{self, Retention};
use super::rows::FeedbackRow;
use super::stats::Counters;
use super::tail::{self, Tail};
use crate::clock;
use crate::units::UnixMs;

/// Between two tries after a failure.
const RETRY: Duration = Duration::from_millis(250);
/// Entries tried alone after a failure.
const PROBE: usize = 64;
/// Between two deletions of old rows, when nothing else is to be done.
const BETWEEN_STEPS: Duration = Duration::from_millis(1);
/// Between two looks whether the file is still there, when nothing is to be written.
const LOOK: Duration = Duration::from_secs(2);
/// Between two rounds of housekeeping.
const HOUSEKEEPING: Duration = Duration::from_secs(60);

pub(super) struct Writer {
    pub(super) path: PathBuf,
    /// What is open, and must be at `path`.
    pub(super) file: Identity,
    pub(super) connection: Connection,
    pub(super) queue: Arc<Queue>,
    pub(super) counters: Arc<Counters>,
    /// What was committed last.
    pub(super) tail: Arc<Tail>,
    /// A batch gathers for so long unless somebody waits for it.
    pub(super) interval: Duration,
    pub(super) retention: Retention,
    pub(super) sequences: Sequences,
    /// The last place of the feedback log that is durable.
    pub(super) feedback_seq: watch::Sender<i64>,
    /// Entries held back at most.
    pub(super) capacity: usize,
    /// The last transaction failed.
    pub(super) failing: bool,
    /// Entries dropped since then.
    pub(super) lost: usize,
    /// Held as long as anything may be written.
    pub(super) _lock: std::fs::File,
}

/// What a committed batch has to say.
struct Written {
    /// Entries refused one by one.
    rejected: u64,
    /// The answers to each order; empty for orders that have none.
    acks: Vec<Acks>,
}

impl Writer {
    /// Runs until the queue is closed and everything is written, or cannot be.
    pub(super) fn run(mut self) {
        let mut held = Vec::new();
        let mut cleaned = clock::monotonic();
        let mut cleaning = true;
        loop {
            let patience = match (held.is_empty(), cleaning) {
                (false, _) => RETRY,
                (true, true) => BETWEEN_STEPS,
                (true, false) => LOOK,
            };
            let Some(work) = self.queue.take(self.interval, patience) else {
                break;
            };
            let (mut orders, mut prunes) = (Vec::new(), Vec::new());
            for work in work {
                match work {
                    Work::Log(entry) => held.push(entry),
                    // These two may be what lets the rest be written again.
                    Work::Order(Order::SizeLimit(bytes)) => self.limit_size(bytes),
                    Work::Order(Order::Prune(now, done)) => prunes.push((now, done)),
                    Work::Order(order) => orders.push(order),
                }
            }
            if held.is_empty() && orders.is_empty() {
                self.look();
            }
            self.round(&mut held, orders);
            for (now, done) in prunes {
                // Whoever asked may be gone.
                drop(done.send(self.prune(now)));
            }
            if clock::monotonic().duration_since(cleaned) >= HOUSEKEEPING {
                cleaned = clock::monotonic();
                cleaning = true;
            }
            if cleaning {
                cleaning = self.clean();
            }
        }
        if !held.is_empty() {
            self.round(&mut held, Vec::new());
            self.capacity = 0;
            self.shed(&mut held);
        }
        self.tell_lost();
        if let Err(error) = retention::checkpoint(&self.connection) {
            tracing::warn!(%error, "the write-ahead log stays beside the database");
        }
    }

    /// Notes it when the file is gone, although nothing is to be written.
    fn look(&self) {
        if let Err(error) = self.file.check(&self.path)
            && self.counters.noted(&error)
        {
            tracing::error!(%error, "the database is gone; nothing is written");
        }
    }

    /// Writes what was taken and what is held. After a failure a few entries are tried alone first, so that a full
    /// disk costs little; those who wait are then told at once.
    fn round(&mut self, held: &mut Vec<Entry>, orders: Vec<Order>) {
        if self.failing && held.len() > PROBE {
            let rest = held.split_off(PROBE);
            let mut probe = std::mem::take(held);
            let result = self.batch(&mut probe, Vec::new());
            probe.extend(rest);
            *held = probe;
            if let Err(error) = result {
                for order in orders {
                    refuse(order, &error);
                }
                self.shed(held);
                return;
            }
        }
        // A failure was told to everyone whom it concerns, and what is held is tried again.
        let _ = self.batch(held, orders);
        self.shed(held);
    }

    /// One transaction. Entries are written before the orders that came with them, so that a score finds its
    /// decision. On failure the entries stay in `held`.
    fn batch(&mut self, held: &mut Vec<Entry>, orders: Vec<Order>) -> Result<(), StoreError> {
        if held.is_empty() && orders.is_empty() {
            return Ok(());
        }
        let before = self.sequences;
        match self.transact(held, &orders) {
            Ok(written) => {
                self.failing = false;
                self.tell_lost();
                self.counters.committed(held.len() as u64, written.rejected);
                held.clear();
                if self.sequences.feedback != before.feedback {
                    self.feedback_seq.send_replace(self.sequences.feedback - 1);
                }
                for (order, acks) in orders.into_iter().zip(written.acks) {
                    Self::committed(order, acks);
                }
                Ok(())
            }
            Err(error) => {
                self.failing = true;
                if !self.connection.is_autocommit() {
                    // Nothing more can be done about a rollback that fails: the next transaction will tell.
                    let _ = self.connection.execute_batch("ROLLBACK");
                }
                self.sequences = before;
                if self.counters.failed(&error) {
                    tracing::error!(%error, "the database cannot be written; entries are held and tried again");
                }
                for order in orders {
                    refuse(order, &error);
                }
                Err(error)
            }
        }
    }

    fn transact(&mut self, held: &[Entry], orders: &[Order]) -> Result<Written, StoreError> {
        self.file.check(&self.path)?;
        let path = self.path.clone();
        let general = |error: rusqlite::Error| StoreError::from_sql(&path, &error);
        let synchronous = if orders.is_empty() { "normal" } else { "full" };
        self.connection
            .pragma_update(None, "synchronous", synchronous)
            .map_err(general)?;
        self.connection
            .execute_batch("BEGIN IMMEDIATE")
            .map_err(general)?;
        let mut written = Written {
            rejected: 0,
            acks: Vec::with_capacity(orders.len()),
        };
        let mut rows = Vec::with_capacity(held.len());
        for entry in held {
            let places = self.sequences;
            if let Err(error) = insert::entry(&self.connection, &mut self.sequences, entry) {
                let error = general(error);
                if error.is_general() {
                    return Err(error);
                }
                tracing::warn!(%error, "a log entry was refused");
                written.rejected += 1;
                continue;
            }
            match entry {
                Entry::Decision(row) => rows.push(tail::Written::Decision(places.decisions, Arc::clone(row))),
                Entry::Attempt(row) => rows.push(tail::Written::Attempt(places.attempts, Arc::clone(row))),
                _ => {}
            }
        }
        for order in orders {
            written.acks.push(self.carry_out(order).map_err(general)?);
        }
        let mut tail = self.tail.lock();
        self.connection.execute_batch("COMMIT").map_err(general)?;
        tail.committed(rows, self.sequences);
        Ok(written)
    }

    fn carry_out(&mut self, order: &Order) -> rusqlite::Result<Acks> {
        let connection = &self.connection;
        match order {
            Order::Feedback(rows, _) => {
                let next = &mut self.sequences.feedback;
                return rows.iter().map(|row| score(connection, next, row)).collect();
            }
            Order::State(row, _) => insert::state(connection, row)?,
            Order::Doc(row, _) => insert::doc(connection, row)?,
            Order::DropDoc { kind, name, .. } => insert::drop_doc(connection, kind, name)?,
            Order::Prune(..) | Order::Flush(_) | Order::SizeLimit(_) => {}
        }
        Ok(Acks::new())
    }

    /// Answers an order whose batch is durable. Whoever asked may be gone; it is stored all the same.
    fn committed(order: Order, acks: Acks) {
        match order {
            Order::Feedback(_, to) => drop(to.send(acks)),
            Order::State(_, done)
            | Order::Doc(_, done)
            | Order::DropDoc { done, .. }
            | Order::Flush(done) => {
                drop(done.send(Ok(())));
            }
            Order::Prune(..) | Order::SizeLimit(_) => {}
        }
    }

    fn limit_size(&self, bytes: Option<u64>) {
        if let Err(error) = retention::limit_size(&self.connection, bytes) {
            tracing::warn!(%error, "the database's size could not be limited");
        }
    }

    /// Drops the newest entries beyond the capacity.
    fn shed(&mut self, held: &mut Vec<Entry>) {
        let lost = held.split_off(held.len().min(self.capacity));
        if !lost.is_empty() && self.lost == 0 {
            tracing::error!(path = %self.path.display(), "log entries are dropped until the database can be written");
        }
        self.lost += lost.len();
        for entry in &lost {
            self.counters.dropped(entry);
        }
    }

    /// Says once, not for every batch, how many entries were dropped: what fills the log may be on the same disk.
    fn tell_lost(&mut self) {
        let lost = std::mem::take(&mut self.lost);
        if lost > 0 {
            tracing::error!(
                lost,
                "log entries were dropped: the database could not be written"
            );
        }
    }

    /// Deletes everything that is over the limits.
    fn prune(&self, now: UnixMs) -> Result<(), StoreError> {
        while self
            .step(now)
            .map_err(|error| StoreError::from_sql(&self.path, &error))?
        {}
        Ok(())
    }

    /// Deletes a few rows that are over the limits. True when there is more.
    fn clean(&mut self) -> bool {
        match self.step(clock::wall()) {
            Ok(more) => more,
            Err(error) => {
                tracing::warn!(%error, "old rows could not be deleted");
                false
            }
        }
    }

    fn step(&self, now: UnixMs) -> rusqlite::Result<bool> {
        let mut tail = self.tail.lock();
        let deleted = retention::step(&self.connection, &self.path, self.sequences, &self.retention, now);
        // An error may have come after the deletion.
        if !matches!(deleted, Ok(false)) {
            tail.clear();
        }
        deleted
    }
}

/// Records one score. What is wrong with one score is no matter of the batch.
fn score(
    connection: &Connection,
    next: &mut i64,
    row: &FeedbackRow,
) -> rusqlite::Result<Result<super::FeedbackAck, RecordError>> {
    if !(0.0..=1.0).contains(&row.score) {
        return Ok(Err(RecordError::OutOfRange { score: row.score }));
    }
    let ack = record::record(connection, next, row)?;
    Ok(ack.ok_or_else(|| RecordError::UnknownId {
        id: row.target.id().to_owned(),
    }))
}

/// Tells whoever waits for an order that nothing of it was stored.
fn refuse(order: Order, error: &StoreError) {
    let tell = |done: Done| drop(done.send(Err(error.clone())));
    match order {
        Order::Feedback(rows, to) => {
            let refused = rows
                .iter()
                .map(|_| Err(RecordError::Store(error.clone())))
                .collect();
            drop(to.send(refused));
        }
        Order::State(_, done)
        | Order::Doc(_, done)
        | Order::DropDoc { done, .. }
        | Order::Flush(done)
        | Order::Prune(_, done) => tell(done),
        Order::SizeLimit(_) => {}
    }
}
