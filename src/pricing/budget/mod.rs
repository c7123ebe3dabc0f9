//! Budgets: how much may be spent by whom in which time, paced so that it lasts, with a hard cap as the last
//! resort.
//!
//! Before a request is decided its [`Standing`] says what it should cost; before it is sent, [`Budgets::reserve`]
//! sets the expected cost aside, so that requests at the same time cannot pass a limit together; each attempt is
//! booked on the [`Hold`], and what is left goes back when the hold is dropped, on a cancelled request too.

mod account;
mod arrivals;
mod hold;
mod ledger;
mod outlook;
mod pace;
mod peers;
mod period;

pub use account::{AccountState, BudgetRow, Entry, Exhausted};
pub use hold::Hold;
pub use ledger::{Budgets, Parties, Standing};

use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use crate::units::Usd;

/// Whose spending a budget counts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Everybody's.
    All,
    /// A route's.
    Route,
    /// A client key's.
    Key,
    /// A user's, by the request's `user`.
    User,
    /// A tag's, by this key of the request's `metadata`.
    Tag(String),
}

/// How long a budget lasts before it renews. Periods begin on the clock of the budget's zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Period {
    /// The full hour.
    Hour,
    /// Midnight.
    Day,
    /// Midnight of the first day of the month.
    Month,
}

/// What happens when the period's money is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnExhausted {
    /// Only the cheapest candidate may serve; the limit is passed by as little as can be.
    Cheapest,
    /// Requests are refused until it renews.
    Reject,
}

/// A limit on spending.
#[derive(Clone, Debug, PartialEq)]
pub struct BudgetRule {
    /// Its name in logs, answers and `GET /v1/budgets`.
    pub name: String,
    /// Whose spending it counts.
    pub scope: Scope,
    /// The one route, key, user or tag value that it is for. `None`: each has its own.
    pub subject: Option<String>,
    /// What may be spent in a period.
    pub limit: Usd,
    /// When it renews.
    pub period: Period,
    /// The clock that periods go by.
    pub zone: TimeZone,
    /// What happens when it is gone.
    pub on_exhausted: OnExhausted,
}
