//! The bounded queue between the request's path and the writer.
//!
//! Logging must neither block nor wake anybody for every row: the writer, once woken, sleeps out its commit
//! interval and then takes all there is. Only what somebody waits for wakes it at once.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, LockResult, Mutex, MutexGuard, PoisonError, WaitTimeoutResult};
use std::time::Duration;

use tokio::sync::oneshot;

use super::error::{RecordError, StoreError};
use super::rows::{
    AttemptRow, DecisionRow, DocRow, EventRow, FeedbackAck, FeedbackRow, IdempotentRow, LateRow, StateRow,
};
use crate::units::UnixMs;

/// The answer to each score of a batch.
pub(super) type Acks = Vec<Result<FeedbackAck, RecordError>>;
/// Told when something is durable.
pub(super) type Done = oneshot::Sender<Result<(), StoreError>>;

/// What nobody waits for.
#[derive(Debug)]
pub(super) enum Entry {
    Decision(Arc<DecisionRow>),
    Attempt(Arc<AttemptRow>),
    Late(Box<LateRow>),
    Event(Box<EventRow>),
    Idempotent(Box<IdempotentRow>),
    Spend {
        scope: String,
        period: String,
        nanos: i64,
    },
}

/// What somebody waits for.
#[derive(Debug)]
pub(super) enum Order {
    Feedback(Vec<FeedbackRow>, oneshot::Sender<Acks>),
    State(Box<StateRow>, Done),
    Doc(Box<DocRow>, Done),
    DropDoc { kind: String, name: String, done: Done },
    Prune(UnixMs, Done),
    Flush(Done),
    SizeLimit(Option<u64>),
}

/// One thing to write, in the order it came.
#[derive(Debug)]
pub(super) enum Work {
    Log(Entry),
    Order(Order),
}

#[derive(Debug, Default)]
struct Waiting {
    work: VecDeque<Work>,
    entries: usize,
    orders: usize,
    closed: bool,
    /// The writer sleeps until something comes, whatever it is.
    idle: bool,
}

#[derive(Debug)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    wake: Condvar,
    capacity: usize,
}

impl Queue {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            waiting: Mutex::default(),
            wake: Condvar::new(),
            capacity,
        }
    }

    /// Hands a log entry over, or gives it back when the queue is full or closed.
    pub(super) fn log(&self, entry: Entry) -> Result<(), Entry> {
        let mut waiting = self.lock();
        if waiting.closed || waiting.entries >= self.capacity {
            return Err(entry);
        }
        waiting.entries += 1;
        waiting.work.push_back(Work::Log(entry));
        // A batch of half the queue is due at once, however short the interval has run.
        let due = std::mem::take(&mut waiting.idle) || waiting.entries == self.capacity / 2;
        drop(waiting);
        if due {
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Hands an order over and wakes the writer.
    pub(super) fn order(&self, order: Order) -> Result<(), StoreError> {
        let mut waiting = self.lock();
        if waiting.closed {
            return Err(StoreError::Closed);
        }
        if waiting.orders >= self.capacity {
            return Err(StoreError::Overloaded);
        }
        waiting.orders += 1;
        waiting.work.push_back(Work::Order(order));
        drop(waiting);
        self.wake.notify_one();
        Ok(())
    }

    /// Waits for work, at most `patience`, then lets a batch gather for `interval` unless somebody waits for it.
    /// Empty when nothing came; `None` once closed and empty.
    pub(super) fn take(&self, interval: Duration, patience: Duration) -> Option<VecDeque<Work>> {
        let mut waiting = self.lock();
        waiting.idle = true;
        let nothing = |waiting: &mut Waiting| waiting.work.is_empty() && !waiting.closed;
        waiting = unpoisoned(self.wake.wait_timeout_while(waiting, patience, nothing));
        waiting.idle = false;
        let gathering = |waiting: &mut Waiting| {
            !waiting.closed
                && waiting.orders == 0
                && waiting.entries > 0
                && waiting.entries < self.capacity / 2
        };
        waiting = unpoisoned(self.wake.wait_timeout_while(waiting, interval, gathering));
        if waiting.work.is_empty() && waiting.closed {
            return None;
        }
        waiting.entries = 0;
        waiting.orders = 0;
        Some(std::mem::take(&mut waiting.work))
    }

    /// Takes nothing more; what is there is still written.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.wake.notify_all();
    }

    /// Log entries that wait.
    pub(super) fn entries(&self) -> usize {
        self.lock().entries
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A queue stays whole when a thread dies while it holds the lock: each change is one step.
fn unpoisoned<'a>(
    waited: LockResult<(MutexGuard<'a, Waiting>, WaitTimeoutResult)>,
) -> MutexGuard<'a, Waiting> {
    waited.unwrap_or_else(PoisonError::into_inner).0
}
