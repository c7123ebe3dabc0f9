//! How often a failed call may be sent to the same arm again, and after what pause. Fallbacks to other arms are not
//! counted: they do not add load to what is failing.

use std::time::{Duration, Instant};

/// Seconds a deposit is remembered.
const SECONDS: usize = 10;
/// Retries per request.
const SHARE: f64 = 0.2;
/// Retries per second that are free, so that a quiet proxy may retry at all.
const FREE_PER_SECOND: f64 = 10.0;
/// The pause before a retry, before jitter.
const PAUSE: Duration = Duration::from_millis(200);

/// Finagle's retry budget: over the last ten seconds, at most 20 % of the requests plus ten a second. Retries that
/// follow load, instead of multiplying it, cannot keep a struggling provider down.
#[derive(Clone, Debug, Default)]
pub struct RetryBudget {
    /// Requests and retries of each second; the newest first.
    seconds: [(u32, u32); SECONDS],
    /// Start of the newest second.
    newest: Option<Instant>,
}

impl RetryBudget {
    /// A request came.
    pub fn deposit(&mut self, now: Instant) {
        self.turn(now);
        self.seconds[0].0 = self.seconds[0].0.saturating_add(1);
    }

    /// Takes a retry, if the budget has one.
    pub fn take(&mut self, now: Instant) -> bool {
        self.turn(now);
        let (requests, retries) = self
            .seconds
            .iter()
            .fold((0.0, 0.0), |(requests, retries), second| {
                (requests + f64::from(second.0), retries + f64::from(second.1))
            });
        let allowed = SHARE * requests + FREE_PER_SECOND * SECONDS as f64;
        let enough = retries + 1.0 <= allowed;
        if enough {
            self.seconds[0].1 += 1;
        }
        enough
    }

    fn turn(&mut self, now: Instant) {
        let newest = *self.newest.get_or_insert(now);
        let gone = now.saturating_duration_since(newest).as_secs();
        if gone == 0 {
            return;
        }
        let turns = usize::try_from(gone).map_or(SECONDS, |gone| gone.min(SECONDS));
        self.seconds.rotate_right(turns);
        self.seconds[..turns].fill((0, 0));
        self.newest = Some(newest + Duration::from_secs(gone));
    }
}

/// The pause before a retry: equal jitter, between 100 and 200 ms, for `draw` uniform in [0,1).
#[must_use]
pub fn pause(draw: f64) -> Duration {
    PAUSE.mul_f64(0.5 + 0.5 * draw.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_of_failures_gets_a_fifth_and_the_free_ones() {
        let now = crate::clock::monotonic();
        let mut budget = RetryBudget::default();
        for _ in 0..1000 {
            budget.deposit(now);
        }
        // 0.2 * 1000 + 10 * 10.
        assert_eq!((0..1000).filter(|_| budget.take(now)).count(), 300);
    }

    #[test]
    fn old_deposits_run_out() {
        let start = crate::clock::monotonic();
        let mut budget = RetryBudget::default();
        for _ in 0..1000 {
            budget.deposit(start);
        }
        let later = start + Duration::from_secs(10);
        assert_eq!((0..1000).filter(|_| budget.take(later)).count(), 100);
    }

    #[test]
    fn the_pause_is_jittered_by_half() {
        assert_eq!(pause(0.0), Duration::from_millis(100));
        assert_eq!(pause(1.0), Duration::from_millis(200));
    }
}
