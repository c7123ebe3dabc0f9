//! Money that is set aside for one request while it is under way.

use std::sync::{Arc, Mutex, PoisonError};

use super::account::Booked;
use super::ledger::{Budgets, Key};
use crate::units::Usd;

/// Money set aside for one request. Book what its attempts cost; the rest goes back when this is dropped.
#[derive(Debug)]
pub struct Hold {
    budgets: Budgets,
    keys: Vec<Key>,
    reserved: Mutex<Usd>,
}

impl Hold {
    pub(super) const fn new(budgets: Budgets, keys: Vec<Key>, amount: Usd) -> Self {
        Self {
            budgets,
            keys,
            reserved: Mutex::new(amount),
        }
    }

    /// The accounts it stands on, by budget and subject: kept with the decision, so that they can be caught up.
    pub fn accounts(&self) -> impl Iterator<Item = (&str, &str)> {
        self.keys.iter().map(|(budget, subject)| (&**budget, &**subject))
    }

    /// Books what an attempt cost, also beyond what was set aside. The attempt is named by its decision and its
    /// number, as the log names it.
    pub fn book(&self, cost: Usd, decision: &Arc<str>, number: u32) {
        let mut reserved = self.reserved.lock().unwrap_or_else(PoisonError::into_inner);
        let covered = cost.min(*reserved).max(Usd::ZERO);
        *reserved -= covered;
        let mut ledger = self.budgets.lock();
        let save = ledger.saves;
        ledger.each(&self.keys, |account| {
            let call = Booked {
                save,
                decision: Arc::clone(decision),
                number,
            };
            account.book(cost, covered, call);
        });
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let rest = *self.reserved.lock().unwrap_or_else(PoisonError::into_inner);
        if rest == Usd::ZERO {
            return;
        }
        self.budgets
            .lock()
            .each(&self.keys, |account| account.give_back(rest));
    }
}
