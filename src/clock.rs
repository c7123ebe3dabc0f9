//! The only reader of time. Everything else takes `now` as an argument.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::units::UnixMs;

/// Now by the monotonic clock: for durations and deadlines.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this module is the one reader of time")]
pub fn monotonic() -> Instant {
    Instant::now()
}

/// Now by the wall clock: for logs, price windows and budgets' periods.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this module is the one reader of time")]
pub fn wall() -> UnixMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMs(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
