//! The accounts: what is spent and reserved under each budget, and what a request may cost now.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::account::{Account, AccountState, BudgetRow, Entry, Exhausted};
use super::hold::Hold;
use super::peers::Peers;
use super::{BudgetRule, OnExhausted, Scope};
use crate::units::{UnixMs, Usd};

/// More accounts than this, and every one whose period is over is forgotten.
const MANY_ACCOUNTS: usize = 50_000;

/// Whom a request counts for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Parties<'a> {
    /// The route.
    pub route: &'a str,
    /// The client's key, by its name.
    pub key: &'a str,
    /// The request's `user`.
    pub user: Option<&'a str>,
    /// The request's `metadata`.
    pub tags: &'a [(String, String)],
}

/// What the budgets say of a request before it is decided.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Standing {
    /// What it should cost on average, so that the money lasts; the least of all its budgets. `None`: no budget.
    pub target: Option<Usd>,
    /// Most that it may cost at all; what is left under budgets that refuse.
    pub most: Option<Usd>,
    /// What is left under budgets that fall back to the cheapest candidate: what costs more may serve only if nothing is
    /// cheaper.
    pub room: Option<Usd>,
}

impl Standing {
    /// Whether a budget is spent, so that only the cheapest candidate may serve.
    #[must_use]
    pub fn cheapest_only(&self) -> bool {
        self.room.is_some_and(|room| room <= Usd::ZERO)
    }

    /// Whether any budget counts the request.
    #[must_use]
    pub const fn under_budget(&self) -> bool {
        self.target.is_some()
    }
}

/// A budget's name and whose account it is.
pub(super) type Key = (Arc<str>, Arc<str>);

#[derive(Debug, Default)]
pub(super) struct Ledger {
    rules: Vec<BudgetRule>,
    accounts: Accounts,
    /// Saves begun so far.
    pub(super) saves: u64,
}

/// The open accounts, and what those of a budget have in common.
#[derive(Debug, Default)]
struct Accounts {
    open: HashMap<Key, Account>,
    peers: Peers,
}

impl Accounts {
    /// The account, in the period that `now` lies in.
    fn of(&mut self, rule: &BudgetRule, subject: &str, now: UnixMs) -> &mut Account {
        let key = (Arc::from(rule.name.as_str()), Arc::from(subject));
        let Self { open, peers } = self;
        let account = open
            .entry(key)
            .or_insert_with(|| Account::new(now, peers.shares(&rule.name)));
        if account.renew(rule, now)
            && let Some(profile) = account.profile()
        {
            peers.learn(&rule.name, profile);
        }
        account
    }
}

impl Ledger {
    /// Does something with each of these accounts that there still is.
    pub(super) fn each(&mut self, keys: &[Key], mut act: impl FnMut(&mut Account)) {
        for key in keys {
            if let Some(account) = self.accounts.open.get_mut(key) {
                act(account);
            }
        }
    }
}

/// The budgets of a configuration with their accounts. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Budgets(Arc<Mutex<Ledger>>);

impl Budgets {
    /// Empty accounts under these rules.
    #[must_use]
    pub fn new(rules: Vec<BudgetRule>) -> Self {
        Self(Arc::new(Mutex::new(Ledger {
            rules,
            accounts: Accounts::default(),
            saves: 0,
        })))
    }

    /// Other rules from now on. Accounts of a budget that keeps its name are kept.
    pub fn reconfigure(&self, rules: Vec<BudgetRule>) {
        let mut ledger = self.lock();
        ledger
            .accounts
            .open
            .retain(|(name, _), _| rules.iter().any(|rule| *rule.name == **name));
        // A period of another length or clock is worked out anew at the next request.
        for rule in &rules {
            let known = ledger.rules.iter().find(|known| known.name == rule.name);
            if known.is_some_and(|known| (known.period, &known.zone) != (rule.period, &rule.zone)) {
                ledger.accounts.open.retain(|(name, _), _| **name != *rule.name);
                ledger.accounts.peers.forget(&rule.name);
            }
        }
        ledger.rules = rules;
    }

    /// What the budgets say of a request.
    ///
    /// # Errors
    /// The first budget that has nothing left and refuses.
    pub fn standing(&self, now: UnixMs, parties: &Parties<'_>) -> Result<Standing, Exhausted> {
        let mut ledger = self.lock();
        let ledger = &mut *ledger;
        let mut standing = Standing::default();
        for rule in &ledger.rules {
            let Some(subject) = subject(rule, parties) else {
                continue;
            };
            let account = ledger.accounts.of(rule, subject, now);
            let left = account.left(rule);
            let target = account.target(rule, now);
            standing.target = Some(standing.target.map_or(target, |least| least.min(target)));
            match rule.on_exhausted {
                OnExhausted::Cheapest => {
                    standing.room = Some(standing.room.map_or(left, |least| least.min(left)));
                }
                OnExhausted::Reject if left <= Usd::ZERO => return Err(account.exhausted(rule, subject)),
                OnExhausted::Reject => {
                    standing.most = Some(standing.most.map_or(left, |least| least.min(left)));
                }
            }
        }
        Ok(standing)
    }

    /// Counts the request and sets `amount`, what it is expected to cost, aside. The rest of it is given back when
    /// the hold is dropped, whatever happened.
    ///
    /// # Errors
    /// The first refusing budget that has less than `amount` left: then nothing is set aside.
    pub fn reserve(&self, now: UnixMs, parties: &Parties<'_>, amount: Usd) -> Result<Hold, Exhausted> {
        let amount = amount.max(Usd::ZERO);
        let mut guard = self.lock();
        let ledger = &mut *guard;
        for rule in ledger
            .rules
            .iter()
            .filter(|rule| rule.on_exhausted == OnExhausted::Reject)
        {
            if let Some(subject) = subject(rule, parties) {
                let account = ledger.accounts.of(rule, subject, now);
                if account.left(rule) < amount {
                    return Err(account.exhausted(rule, subject));
                }
            }
        }
        let mut keys = Vec::new();
        for rule in &ledger.rules {
            let Some(subject) = subject(rule, parties) else {
                continue;
            };
            let account = ledger.accounts.of(rule, subject, now);
            account.set_aside(rule, amount, now);
            keys.push((Arc::from(rule.name.as_str()), Arc::from(subject)));
        }
        drop(guard);
        Ok(Hold::new(self.clone(), keys, amount))
    }

    /// Every account, by budget and subject.
    #[must_use]
    pub fn rows(&self, now: UnixMs) -> Vec<BudgetRow> {
        let mut ledger = self.lock();
        let ledger = &mut *ledger;
        let mut rows = Vec::new();
        for rule in &ledger.rules {
            let mut subjects: Vec<Arc<str>> = ledger
                .accounts
                .open
                .keys()
                .filter(|(name, _)| **name == *rule.name)
                .map(|(_, subject)| Arc::clone(subject))
                .collect();
            let fixed = rule
                .subject
                .as_deref()
                .or((rule.scope == Scope::All).then_some(""));
            if subjects.is_empty() {
                subjects.extend(fixed.map(Arc::from));
            }
            subjects.sort();
            for subject in subjects {
                let account = ledger.accounts.of(rule, &subject, now);
                rows.push(account.row(rule, &subject, now));
            }
        }
        rows
    }

    /// Forgets accounts of users, keys and tags that nobody has used for a whole period; and when there are still too
    /// many, every one whose period is over. What they would start with anew is the same but for the shape of their
    /// days. Gives the forgotten ones, by budget and subject.
    pub fn prune(&self, now: UnixMs) -> Vec<(String, String)> {
        let mut ledger = self.lock();
        let many = ledger.accounts.open.len() > MANY_ACCOUNTS;
        let mut forgotten = Vec::new();
        ledger.accounts.open.retain(|(budget, subject), account| {
            let keep = subject.is_empty() || !account.is_idle(u32::from(!many), now);
            if !keep {
                forgotten.push((budget.to_string(), subject.to_string()));
            }
            keep
        });
        forgotten
    }

    /// Begins a save. What is booked from now on is noted apart from what was booked before: wait until the log is
    /// durable, ask for its last place, and then take what has changed.
    pub fn begin_save(&self) {
        self.lock().saves += 1;
    }

    /// The accounts that have changed since they were last taken, as plain data. `log_seq` is the last place of the
    /// log that was durable after [`begin_save`](Self::begin_save).
    #[must_use]
    pub fn changed(&self, log_seq: i64) -> Vec<AccountState> {
        let mut ledger = self.lock();
        let since = ledger.saves.saturating_sub(1);
        let accounts = ledger.accounts.open.iter_mut();
        accounts
            .filter_map(|((budget, subject), account)| account.changed(budget, subject, log_seq, since))
            .collect()
    }

    /// These could not be stored: they are changed still.
    pub fn not_saved(&self, states: &[AccountState]) {
        let mut ledger = self.lock();
        let key = |state: &AccountState| (Arc::from(&*state.budget), Arc::from(&*state.subject));
        let keys: Vec<Key> = states.iter().map(key).collect();
        ledger.each(&keys, Account::mark);
    }

    /// Takes stored accounts up again, those of budgets that still exist.
    pub fn restore(&self, states: Vec<AccountState>) {
        let mut ledger = self.lock();
        for state in states {
            if ledger.rules.iter().any(|rule| rule.name == state.budget) {
                let key = (Arc::from(&*state.budget), Arc::from(&*state.subject));
                let account = state.restore();
                if let Some(profile) = account.profile() {
                    ledger.accounts.peers.learn(&key.0, profile);
                }
                ledger.accounts.open.insert(key, account);
            }
        }
    }

    /// Books a call of the log on the account of `subject` under `budget`, unless it is in there already or its
    /// period is over: what was not saved before a crash.
    pub fn catch_up(&self, now: UnixMs, budget: &str, subject: &str, entry: &Entry<'_>) {
        let mut ledger = self.lock();
        let ledger = &mut *ledger;
        let Some(rule) = ledger.rules.iter().find(|rule| rule.name == budget) else {
            return;
        };
        ledger.accounts.of(rule, subject, now).catch_up(entry);
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whose account of this budget the request counts for, if any.
fn subject<'a>(rule: &BudgetRule, parties: &Parties<'a>) -> Option<&'a str> {
    let subject = match &rule.scope {
        Scope::All => Some(""),
        Scope::Route => Some(parties.route),
        Scope::Key => Some(parties.key),
        Scope::User => parties.user,
        Scope::Tag(tag) => parties
            .tags
            .iter()
            .find(|(key, _)| key == tag)
            .map(|(_, value)| value.as_str()),
    }?;
    let wanted = rule.scope == Scope::All || rule.subject.as_deref().is_none_or(|only| only == subject);
    wanted.then_some(subject)
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
