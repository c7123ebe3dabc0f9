//! Carries out a decision: one deadline, one count of attempts and one sum of money for its retries, fallbacks and
//! hedges; health and load of what serves it.
//!
//! The life of a request here: [`Dispatcher::run`] opens a `race`, which asks its `itinerary` for the first target
//! whose circuit admits a call and sends an `attempt`. An attempt waits for the first *meaningful* event, so that an
//! error inside a 200 can still fall back. When it fails, the race retries, falls back or gives up; when it is slow
//! to begin, a `hedge` goes out beside it. The first to begin wins, the others are dropped, and the winner becomes a
//! whole answer or a `tail`, after which nothing changes the arm any more. Every attempt holds a `ticket`, which
//! tells the books about it exactly once, however it ends.
//!
//! Nothing here knows a wire format, a price or HTTP.

mod answer;
mod attempt;
mod balance;
mod dispatcher;
mod draws;
mod failure;
mod health;
#[cfg(test)]
mod health_tests;
mod hedge;
pub mod idempotency;
mod in_flight;
mod itinerary;
mod latency;
#[cfg(test)]
mod order_tests;
mod plan;
mod race;
#[cfg(test)]
mod race_tests;
mod record;
mod retry;
mod tail;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod ticket;

pub use answer::{Answer, DispatchFailure, Served};
pub use dispatcher::{DispatchRules, Dispatcher};
pub use health::HealthRow;
pub use latency::{LatencyOracle, LatencyQuestion, Unlearned};
pub use plan::{Deployment, HedgeRule, Plan, PlannedArm};
pub use record::{AttemptRecord, Books, Cancellation, Outcome, Role, Tried};
