//! The accounts: what is spent and reserved under each budget, and what a request may cost now.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::civil::Time;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan, Zoned};
use serde::{Deserialize, Serialize};

use super::pace::{Aim, Arrivals};
use super::{BudgetRule, OnExhausted, Period, Scope};
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

/// A budget that refuses a request: what a 402 tells.
#[derive(Clone, Debug, PartialEq, Serialize, thiserror::Error)]
#[error("the budget \"{budget}\" of ${limit} has ${left} left until it renews")]
pub struct Exhausted {
    /// The budget's name.
    pub budget: String,
    /// Whose account it is.
    pub subject: String,
    /// What may be spent in a period.
    #[serde(rename = "limit_usd")]
    pub limit: Usd,
    /// What is left of it.
    #[serde(rename = "left_usd")]
    pub left: Usd,
    /// When it renews.
    #[serde(rename = "renews_ms")]
    pub renews: UnixMs,
}

/// A row of `GET /v1/budgets`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BudgetRow {
    /// The budget's name.
    pub name: String,
    /// Whose spending it counts.
    pub scope: Scope,
    /// The one whose account this is; empty for everybody's.
    pub subject: String,
    /// How long a period is.
    pub period: Period,
    /// The time zone by whose clock periods begin.
    pub timezone: String,
    /// What happens when the money is gone.
    pub on_exhausted: OnExhausted,
    /// What may be spent in a period.
    pub limit_usd: Usd,
    /// What was spent in this one.
    pub spent_usd: Usd,
    /// What requests under way may still spend.
    pub reserved_usd: Usd,
    /// What is left.
    pub left_usd: Usd,
    /// What a request should cost now.
    pub target_usd: Usd,
    /// Requests in this period.
    pub requests: u64,
    /// When the period began.
    pub since_ms: UnixMs,
    /// When it renews.
    pub renews_ms: UnixMs,
}

/// An account as it is stored, with the calls that it holds. Reservations are not stored: after a crash nothing is
/// under way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AccountState {
    /// The budget's name.
    pub budget: String,
    /// Whose account it is.
    pub subject: String,
    /// Every call of the log up to this place is in the account ...
    log_seq: i64,
    /// ... and of those after it, these: decision and number of the attempt.
    booked: Vec<(Arc<str>, u32)>,
    account: Account,
}

/// A call of the log, to be booked on accounts that may lack it.
#[derive(Clone, Debug)]
pub struct Entry<'a> {
    /// Its place in the log.
    pub seq: i64,
    /// The decision that it carried out.
    pub decision: &'a str,
    /// Which of the request's attempts it was.
    pub number: u32,
    /// When it was sent.
    pub at: UnixMs,
    /// What it cost.
    pub cost: Usd,
}

/// A call that was booked since the last save but one.
#[derive(Clone, Debug, PartialEq)]
struct Booked {
    save: u64,
    decision: Arc<str>,
    number: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Account {
    since: UnixMs,
    renews: UnixMs,
    spent: Usd,
    #[serde(skip)]
    reserved: Usd,
    arrivals: Arrivals,
    #[serde(default)]
    aim: Aim,
    /// Up to where the log is in it since it was restored.
    #[serde(skip)]
    log_seq: i64,
    #[serde(skip)]
    booked: Vec<Booked>,
    /// It differs from what is stored.
    #[serde(skip)]
    dirty: bool,
}

type Key = (Arc<str>, Arc<str>);

#[derive(Debug, Default)]
struct Ledger {
    rules: Vec<BudgetRule>,
    accounts: HashMap<Key, Account>,
    /// Saves begun so far.
    saves: u64,
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
            accounts: HashMap::new(),
            saves: 0,
        })))
    }

    /// Other rules from now on. Accounts of a budget that keeps its name are kept.
    pub fn reconfigure(&self, rules: Vec<BudgetRule>) {
        let mut ledger = self.lock();
        ledger
            .accounts
            .retain(|(name, _), _| rules.iter().any(|rule| *rule.name == **name));
        // A period of another length or clock is worked out anew at the next request.
        for rule in &rules {
            let known = ledger.rules.iter().find(|known| known.name == rule.name);
            if known.is_some_and(|known| (known.period, &known.zone) != (rule.period, &rule.zone)) {
                ledger.accounts.retain(|(name, _), _| **name != *rule.name);
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
            let account = account(&mut ledger.accounts, rule, subject, now);
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
                let account = account(&mut ledger.accounts, rule, subject, now);
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
            let account = account(&mut ledger.accounts, rule, subject, now);
            let (fraction, target) = (account.fraction(now), account.target(rule, now));
            account.aim.take(target.dollars());
            account.reserved += amount;
            account.dirty = true;
            account.arrivals.count(fraction, slots(rule.period));
            keys.push((Arc::from(rule.name.as_str()), Arc::from(subject)));
        }
        drop(guard);
        Ok(Hold {
            budgets: self.clone(),
            keys,
            reserved: Mutex::new(amount),
        })
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
                let account = account(&mut ledger.accounts, rule, &subject, now);
                rows.push(BudgetRow {
                    name: rule.name.clone(),
                    scope: rule.scope.clone(),
                    subject: subject.to_string(),
                    period: rule.period,
                    timezone: rule.zone.iana_name().unwrap_or("UTC").to_owned(),
                    on_exhausted: rule.on_exhausted,
                    limit_usd: rule.limit,
                    spent_usd: account.spent,
                    reserved_usd: account.reserved,
                    left_usd: account.left(rule).max(Usd::ZERO),
                    target_usd: account.target(rule, now),
                    requests: account.arrivals.seen() as u64,
                    since_ms: account.since,
                    renews_ms: account.renews,
                });
            }
        }
        rows
    }

    /// Forgets accounts of users, keys and tags that nobody has used for a whole period; and when there are still too
    /// many, every one whose period is over. What they would start with anew is the same but for the shape of their
    /// days. Gives the forgotten ones, by budget and subject.
    pub fn prune(&self, now: UnixMs) -> Vec<(String, String)> {
        let mut ledger = self.lock();
        let many = ledger.accounts.len() > MANY_ACCOUNTS;
        let mut forgotten = Vec::new();
        ledger.accounts.retain(|(budget, subject), account| {
            let length = account.renews.since(account.since);
            let spare = if many { std::time::Duration::ZERO } else { length };
            let over = account.renews.plus(spare) <= now;
            let keep = subject.is_empty() || !over || account.reserved > Usd::ZERO;
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
        let mut states = Vec::new();
        for ((budget, subject), account) in &mut ledger.accounts {
            if !std::mem::take(&mut account.dirty) {
                continue;
            }
            account.booked.retain(|booked| booked.save >= since);
            let booked = account.booked.iter();
            states.push(AccountState {
                budget: budget.to_string(),
                subject: subject.to_string(),
                log_seq,
                booked: booked
                    .map(|booked| (Arc::clone(&booked.decision), booked.number))
                    .collect(),
                account: account.clone(),
            });
        }
        states
    }

    /// These could not be stored: they are changed still.
    pub fn not_saved(&self, states: &[AccountState]) {
        let mut ledger = self.lock();
        for state in states {
            let key = (
                Arc::from(state.budget.as_str()),
                Arc::from(state.subject.as_str()),
            );
            if let Some(account) = ledger.accounts.get_mut(&key) {
                account.dirty = true;
            }
        }
    }

    /// Takes stored accounts up again, those of budgets that still exist.
    pub fn restore(&self, states: Vec<AccountState>) {
        let mut ledger = self.lock();
        for state in states {
            if ledger.rules.iter().any(|rule| rule.name == state.budget) {
                let booked = state.booked.into_iter().map(|(decision, number)| Booked {
                    save: 0,
                    decision,
                    number,
                });
                let account = Account {
                    log_seq: state.log_seq,
                    booked: booked.collect(),
                    ..state.account
                };
                ledger
                    .accounts
                    .insert((Arc::from(state.budget), Arc::from(state.subject)), account);
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
        let account = account(&mut ledger.accounts, rule, subject, now);
        let known = entry.seq <= account.log_seq
            || account
                .booked
                .iter()
                .any(|booked| *booked.decision == *entry.decision && booked.number == entry.number);
        if !known && entry.at >= account.since {
            account.spent += entry.cost;
            account.dirty = true;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Money set aside for one request. Book what its attempts cost; the rest goes back when this is dropped.
#[derive(Debug)]
pub struct Hold {
    budgets: Budgets,
    keys: Vec<Key>,
    reserved: Mutex<Usd>,
}

impl Hold {
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
        for key in &self.keys {
            if let Some(account) = ledger.accounts.get_mut(key) {
                account.reserved -= covered;
                account.spent += cost;
                account.aim.hit(cost.dollars());
                account.dirty = true;
                account.booked.push(Booked {
                    save,
                    decision: Arc::clone(decision),
                    number,
                });
            }
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let rest = *self.reserved.lock().unwrap_or_else(PoisonError::into_inner);
        if rest == Usd::ZERO {
            return;
        }
        let mut ledger = self.budgets.lock();
        for key in &self.keys {
            if let Some(account) = ledger.accounts.get_mut(key) {
                account.reserved -= rest;
            }
        }
    }
}

impl Account {
    fn left(&self, rule: &BudgetRule) -> Usd {
        rule.limit - self.spent - self.reserved
    }

    /// How much of the period is over, in [0, 1].
    fn fraction(&self, now: UnixMs) -> f64 {
        let length = self.renews.since(self.since).as_secs_f64().max(1e-3);
        (now.since(self.since).as_secs_f64() / length).min(1.0)
    }

    /// Money left over the requests to come, this one among them.
    fn even(&self, rule: &BudgetRule, now: UnixMs) -> f64 {
        let left = self.left(rule).max(Usd::ZERO).dollars();
        left / (self.arrivals.to_come(self.fraction(now), slots(rule.period)) + 1.0)
    }

    /// The same, corrected by what the last requests came to.
    fn target(&self, rule: &BudgetRule, now: UnixMs) -> Usd {
        let target = self.aim.correct(self.even(rule, now));
        Usd::from_dollars(target).unwrap_or(Usd::ZERO)
    }

    fn exhausted(&self, rule: &BudgetRule, subject: &str) -> Exhausted {
        Exhausted {
            budget: rule.name.clone(),
            subject: subject.to_owned(),
            limit: rule.limit,
            left: self.left(rule).max(Usd::ZERO),
            renews: self.renews,
        }
    }
}

/// The account, in the period that `now` lies in.
fn account<'a>(
    accounts: &'a mut HashMap<Key, Account>,
    rule: &BudgetRule,
    subject: &str,
    now: UnixMs,
) -> &'a mut Account {
    let key = (Arc::from(rule.name.as_str()), Arc::from(subject));
    let account = accounts.entry(key).or_insert_with(|| Account {
        since: now,
        renews: UnixMs(i64::MIN),
        spent: Usd::ZERO,
        reserved: Usd::ZERO,
        arrivals: Arrivals::default(),
        aim: Aim::default(),
        log_seq: 0,
        booked: Vec::new(),
        dirty: false,
    });
    if now >= account.renews {
        let (since, renews) = bounds(rule.period, &rule.zone, now);
        account.arrivals.roll();
        account.since = since;
        account.renews = renews;
        account.spent = Usd::ZERO;
        account.dirty = true;
    }
    account
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

fn slots(period: Period) -> usize {
    match period {
        Period::Hour => 12,
        Period::Day => 24,
        Period::Month => 31,
    }
}

/// Beginning and end of the period around `now`, by the clock of `zone`.
fn bounds(period: Period, zone: &TimeZone, now: UnixMs) -> (UnixMs, UnixMs) {
    const HOUR_MS: i64 = 3_600_000;
    let fallback = (now, UnixMs(now.0.saturating_add(HOUR_MS)));
    let Ok(instant) = Timestamp::from_millisecond(now.0) else {
        return fallback;
    };
    let local = instant.to_zoned(zone.clone());
    let ends = |begin: Zoned, end: Zoned| {
        let ms = |moment: &Zoned| UnixMs(moment.timestamp().as_millisecond());
        (ms(&begin), ms(&end))
    };
    let found = match period {
        // Hours are counted in elapsed time, so that daylight saving makes none shorter or longer.
        Period::Hour => local
            .with()
            .minute(0)
            .second(0)
            .subsec_nanosecond(0)
            .build()
            .ok()
            .map(|begin| {
                let since = UnixMs(begin.timestamp().as_millisecond());
                (since, UnixMs(since.0 + HOUR_MS))
            }),
        Period::Day => local.start_of_day().ok().and_then(|begin| {
            let end = begin.tomorrow().ok()?.start_of_day().ok()?;
            Some(ends(begin, end))
        }),
        Period::Month => local
            .with()
            .day(1)
            .time(Time::midnight())
            .build()
            .ok()
            .and_then(|begin| {
                let end = begin.checked_add(1.month()).ok()?;
                Some(ends(begin, end))
            }),
    };
    found
        .filter(|(since, renews)| *since <= now && now < *renews)
        .unwrap_or(fallback)
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
