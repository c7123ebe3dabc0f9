//! How much processor time goes to work that nobody waits for.

use std::time::{Duration, Instant};

/// Time ahead of its share that may be taken: a burst of prompts is embedded though it comes at once.
const AHEAD: Duration = Duration::from_secs(2);
/// What the first embedding is taken to need.
const FIRST: Duration = Duration::from_millis(6);

/// A share of one processor, given out by the expected time of each job (a leaky bucket as a meter; Turner, *New
/// directions in communications*, 1986). Knows no clock.
#[derive(Debug)]
pub(super) struct Leisure {
    /// In (0, 1]; 1: no limit.
    share: f64,
    /// When what was given out so far is worked off at that share.
    worked_off: Option<Instant>,
    /// What a job takes, by an exponential mean over the last eight.
    each: Duration,
}

impl Leisure {
    pub(super) fn new(percent: u8) -> Self {
        Self {
            share: f64::from(percent.clamp(1, 100)) / 100.0,
            worked_off: None,
            each: FIRST,
        }
    }

    /// Whether there is time for another job at `now`; then it is given out.
    pub(super) fn grant(&mut self, now: Instant) -> bool {
        if self.share >= 1.0 {
            return true;
        }
        let from = self.worked_off.map_or(now, |until| until.max(now));
        if from.saturating_duration_since(now) > AHEAD {
            return false;
        }
        self.worked_off = Some(from + self.each.div_f64(self.share));
        true
    }

    /// A job took so long.
    pub(super) fn took(&mut self, time: Duration) {
        self.each = (self.each * 7 + time) / 8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenth_of_the_time_is_given_out_and_a_burst_at_once() {
        let start = crate::clock::monotonic();
        let mut leisure = Leisure::new(10);
        for _ in 0..64 {
            leisure.took(Duration::from_millis(5));
        }
        let burst = (0..1_000).filter(|_| leisure.grant(start)).count();
        assert!(
            (40..=42).contains(&burst),
            "two seconds' worth of 50 ms each: {burst}"
        );
        // 1,000 prompts a second for ten seconds.
        let later = (0..10_000)
            .filter(|ms| leisure.grant(start + Duration::from_millis(*ms)))
            .count();
        assert!((198..=202).contains(&later), "{later}");
        let mut unlimited = Leisure::new(100);
        assert!((0..10_000).all(|_| unlimited.grant(start)));
    }
}
