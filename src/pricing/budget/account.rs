//! One account: what is spent and set aside of a budget in its period, by one subject.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::arrivals::Arrivals;
use super::pace::Aim;
use super::period::{bounds, slots};
use super::{BudgetRule, OnExhausted, Period, Scope};
use crate::units::{UnixMs, Usd};

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
    pub(super) booked: Vec<(Arc<str>, u32)>,
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
pub(super) struct Booked {
    pub(super) save: u64,
    pub(super) decision: Arc<str>,
    pub(super) number: u32,
}

/// The account itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Account {
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

impl Account {
    /// An empty one, whose period is to be worked out; `peers` is the shape of other accounts' periods, if it is known.
    pub(super) fn new(now: UnixMs, peers: Vec<f64>) -> Self {
        Self {
            since: now,
            renews: UnixMs(i64::MIN),
            spent: Usd::ZERO,
            reserved: Usd::ZERO,
            arrivals: Arrivals::beside(peers),
            aim: Aim::default(),
            log_seq: 0,
            booked: Vec::new(),
            dirty: false,
        }
    }

    /// Begins the period that `now` lies in, unless it has begun. Whether it has.
    pub(super) fn renew(&mut self, rule: &BudgetRule, now: UnixMs) -> bool {
        if now < self.renews {
            return false;
        }
        (self.since, self.renews) = bounds(rule.period, &rule.zone, now);
        self.arrivals.roll();
        self.spent = Usd::ZERO;
        self.dirty = true;
        true
    }

    /// The requests in each slot of its periods, once it has seen a whole one.
    pub(super) fn profile(&self) -> Option<&[f64]> {
        self.arrivals.profile()
    }

    /// Whether nobody has used it for `spare` periods after its own.
    pub(super) fn is_idle(&self, spare: u32, now: UnixMs) -> bool {
        let spare = self.renews.since(self.since) * spare;
        self.reserved <= Usd::ZERO && self.renews.plus(spare) <= now
    }

    pub(super) fn left(&self, rule: &BudgetRule) -> Usd {
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

    /// What a request should cost now: [`even`](Self::even), corrected by what the last requests came to.
    pub(super) fn target(&self, rule: &BudgetRule, now: UnixMs) -> Usd {
        let target = self.aim.correct(self.even(rule, now));
        Usd::from_dollars(target).unwrap_or(Usd::ZERO)
    }

    /// The refusal of a budget that has too little left.
    pub(super) fn exhausted(&self, rule: &BudgetRule, subject: &str) -> Exhausted {
        Exhausted {
            budget: rule.name.clone(),
            subject: subject.to_owned(),
            limit: rule.limit,
            left: self.left(rule).max(Usd::ZERO),
            renews: self.renews,
        }
    }

    /// What `GET /v1/budgets` tells of it.
    pub(super) fn row(&self, rule: &BudgetRule, subject: &str, now: UnixMs) -> BudgetRow {
        BudgetRow {
            name: rule.name.clone(),
            scope: rule.scope.clone(),
            subject: subject.to_owned(),
            period: rule.period,
            timezone: rule.zone.iana_name().unwrap_or("UTC").to_owned(),
            on_exhausted: rule.on_exhausted,
            limit_usd: rule.limit,
            spent_usd: self.spent,
            reserved_usd: self.reserved,
            left_usd: self.left(rule).max(Usd::ZERO),
            target_usd: self.target(rule, now),
            requests: self.arrivals.seen() as u64,
            since_ms: self.since,
            renews_ms: self.renews,
        }
    }

    /// Counts a request and sets aside what it is expected to cost.
    pub(super) fn set_aside(&mut self, rule: &BudgetRule, amount: Usd, now: UnixMs) {
        let (fraction, target) = (self.fraction(now), self.target(rule, now));
        if self.arrivals.is_settled() {
            self.aim.take(target.dollars());
        }
        self.reserved += amount;
        self.dirty = true;
        self.arrivals.count(fraction, slots(rule.period));
    }

    /// Takes back of what was set aside.
    pub(super) fn give_back(&mut self, amount: Usd) {
        self.reserved -= amount;
    }

    /// Books a call, of whose `cost` so much as is `covered` had been set aside.
    pub(super) fn book(&mut self, cost: Usd, covered: Usd, call: Booked) {
        self.give_back(covered);
        self.spent += cost;
        if self.arrivals.is_settled() {
            self.aim.hit(cost.dollars());
        }
        self.dirty = true;
        self.booked.push(call);
    }

    /// Books a call of the log, unless it is in here already or its period is over.
    pub(super) fn catch_up(&mut self, entry: &Entry<'_>) {
        let is_entry = |call: &Booked| *call.decision == *entry.decision && call.number == entry.number;
        let known = entry.seq <= self.log_seq || self.booked.iter().any(is_entry);
        if !known && entry.at >= self.since {
            self.spent += entry.cost;
            self.dirty = true;
        }
    }

    /// It has changed since it was stored, or could not be.
    pub(super) fn mark(&mut self) {
        self.dirty = true;
    }

    /// Itself as plain data, if it has changed since the last call. Of the calls it keeps those from the save `since`
    /// on, which a log up to `log_seq` may lack.
    pub(super) fn changed(
        &mut self,
        budget: &str,
        subject: &str,
        log_seq: i64,
        since: u64,
    ) -> Option<AccountState> {
        if !std::mem::take(&mut self.dirty) {
            return None;
        }
        self.booked.retain(|call| call.save >= since);
        let calls = self.booked.iter();
        Some(AccountState {
            budget: budget.to_owned(),
            subject: subject.to_owned(),
            log_seq,
            booked: calls
                .map(|call| (Arc::clone(&call.decision), call.number))
                .collect(),
            account: self.clone(),
        })
    }
}

impl AccountState {
    /// The account, to go on with.
    pub(super) fn restore(self) -> Account {
        let calls = self.booked.into_iter().map(|(decision, number)| Booked {
            save: 0,
            decision,
            number,
        });
        Account {
            log_seq: self.log_seq,
            booked: calls.collect(),
            ..self.account
        }
    }
}
