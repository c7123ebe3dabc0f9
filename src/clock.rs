//! The only reader of time. Everything else takes `now` as an argument.
//!
//! The monotonic clock is read through tokio's, which is the system's own unless a test has paused the runtime's
//! time: then deadlines, circuits and sleeps all stand on the same simulated clock. It works outside a runtime too.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::units::UnixMs;

/// Now by the monotonic clock: for durations and deadlines.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this module is the one reader of time")]
pub fn monotonic() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Now by the wall clock: for logs, price windows and budgets' periods.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this module is the one reader of time")]
pub fn wall() -> UnixMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMs(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// Now by the runtime's clock, which tests can pause: for timers only.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this module is the one reader of time")]
pub fn tokio_now() -> tokio::time::Instant {
    tokio::time::Instant::now()
}
