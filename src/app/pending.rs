//! Requests under way: what each was decided on and what it has cost so far. An entry lives from the decision,
//! or from the call that goes out before it, to the end of the answer.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use dashmap::DashMap;

use crate::app::live::Live;
use crate::app::sessions::Place;
use crate::completion::Usage;
use crate::pricing::Units;
use crate::pricing::budget::Hold;
use crate::store::{AttemptRow, Store};
use crate::units::Usd;

/// The account of one request.
pub struct Ledger {
    /// The decision's id.
    pub id: Arc<str>,
    /// Images, pages and seconds of the request, as they are billed.
    pub units: Units,
    /// The configuration that it was decided under: its prices hold for every attempt of the request.
    pub live: Arc<Live>,
    spent_nanos: AtomicI64,
    /// Some attempt's price is not known, so the sum is not the cost.
    unpriced: AtomicBool,
    served: Mutex<Option<Usage>>,
    hold: OnceLock<Hold>,
    place: OnceLock<Place>,
    /// What ended before the decision was logged; `None` from then on.
    early: Mutex<Option<Vec<AttemptRow>>>,
}

impl Ledger {
    /// Books what an attempt used and cost. `None`: the arm's price is unknown.
    pub fn book(&self, cost: Option<Usd>, number: u32) {
        match cost {
            Some(cost) => {
                if let Some(hold) = self.hold.get() {
                    hold.book(cost, &self.id, number);
                }
                self.spent_nanos.fetch_add(cost.nanos(), Ordering::Relaxed);
            }
            None => self.unpriced.store(true, Ordering::Relaxed),
        }
    }

    /// The budgets' accounts that it counts for, by budget and subject.
    #[must_use]
    pub fn accounts(&self) -> Vec<(String, String)> {
        let accounts = self.hold.get().into_iter().flat_map(Hold::accounts);
        accounts
            .map(|(budget, subject)| (budget.to_owned(), subject.to_owned()))
            .collect()
    }

    /// Keeps what the budgets have set aside for it.
    pub fn hold(&self, hold: Hold) {
        // A request is set aside for once; a second hold would only be released again.
        let _ = self.hold.set(hold);
    }

    /// Notes where the request stands in its conversation.
    pub fn note(&self, place: Place) {
        // It stands in one place only.
        let _ = self.place.set(place);
    }

    /// Where the request stands in its conversation, if it names one.
    #[must_use]
    pub fn place(&self) -> Option<&Place> {
        self.place.get()
    }

    /// Logs an attempt, but never before its decision: what is called while that is still made may fail at once.
    pub fn log(&self, attempt: AttemptRow, store: &Store) {
        match &mut *self.early() {
            Some(early) => early.push(attempt),
            None => {
                store.log_attempt(attempt);
            }
        }
    }

    /// The decision was logged: the attempts follow.
    pub fn decided(&self, store: &Store) {
        for attempt in self.early().take().into_iter().flatten() {
            store.log_attempt(attempt);
        }
    }

    fn early(&self) -> MutexGuard<'_, Option<Vec<AttemptRow>>> {
        self.early.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the tokens of the attempt that served.
    pub fn serve(&self, usage: Usage) {
        *self.served.lock().unwrap_or_else(PoisonError::into_inner) = Some(usage);
    }

    /// What all attempts that are over have cost together. `None` when one of their prices is unknown: an unknown
    /// price is never $0.
    #[must_use]
    pub fn cost(&self) -> Option<Usd> {
        (!self.unpriced.load(Ordering::Relaxed))
            .then(|| Usd::from_nanos(self.spent_nanos.load(Ordering::Relaxed)))
    }

    /// The tokens of the attempt that served, estimated if the provider did not tell.
    #[must_use]
    pub fn served(&self) -> Option<Usage> {
        *self.served.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All requests under way, by decision id.
#[derive(Clone, Default)]
pub struct Pending(Arc<DashMap<Arc<str>, Arc<Ledger>>>);

impl Pending {
    /// Opens the account of a request; it is closed when the guard is dropped.
    #[must_use]
    pub fn open(&self, id: Arc<str>, units: Units, live: Arc<Live>) -> Account {
        let ledger = Arc::new(Ledger {
            id,
            units,
            live,
            spent_nanos: AtomicI64::new(0),
            unpriced: AtomicBool::new(false),
            served: Mutex::new(None),
            hold: OnceLock::new(),
            place: OnceLock::new(),
            early: Mutex::new(Some(Vec::new())),
        });
        self.0.insert(Arc::clone(&ledger.id), Arc::clone(&ledger));
        Account {
            pending: self.clone(),
            ledger,
        }
    }

    /// The account of a request under way.
    #[must_use]
    pub fn get(&self, decision_id: &str) -> Option<Arc<Ledger>> {
        self.0.get(decision_id).map(|entry| Arc::clone(&entry))
    }

    /// Requests under way.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing is under way.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Keeps a request's account open.
pub struct Account {
    pending: Pending,
    ledger: Arc<Ledger>,
}

impl Account {
    /// The account itself.
    #[must_use]
    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.pending.0.remove(&self.ledger.id);
    }
}
