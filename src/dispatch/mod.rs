//! Carries out a decision: one deadline, one count of attempts and one sum of money for its retries, fallbacks and
//! hedges; health and load of what serves it.
//!
//! Nothing here knows a wire format, a price or HTTP. Nothing is committed to the client before the first
//! *meaningful* event, so that an error inside a 200 can still fall back; nothing changes the arm afterwards.

mod answer;
mod latency;
mod plan;
mod record;

pub use answer::{Answer, DispatchFailure, Served};
pub use latency::{LatencyOracle, LatencyQuestion, Unlearned};
pub use plan::{Deployment, HedgeRule, Plan, PlannedArm};
pub use record::{AttemptRecord, Books, Cancellation, Outcome, Role, Tried};
