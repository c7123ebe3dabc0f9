//! How often and when a slow first token is answered with a second attempt (Dean and Barroso, "The tail at scale",
//! 2013). For language models a hedge pays for the prompt twice, so its rate is a budget, not a hope.

use std::time::Duration;

use crate::dispatch::latency::{LatencyOracle, LatencyQuestion};
use crate::dispatch::plan::HedgeRule;

/// Hedges that may be saved up.
const BURST: f64 = 10.0;
/// Hedges a fresh bucket holds, so that the first stall after a start need not wait for traffic to fill it.
const INITIAL: f64 = 5.0;
/// What lies beyond this many times the quantile before it is a stall and not an answer.
const CLIFF: f64 = 1.5;
/// And so is what lies beyond this many times the median: six times is the 96th percentile of a log-normal latency
/// with sigma 1, wider than that of any model we have seen.
const FAR: u32 = 6;
/// A learned delay is never shorter: below this, scheduling noise would hedge healthy answers.
const SHORTEST_DELAY: Duration = Duration::from_millis(50);

/// A token bucket: every request that may be hedged adds its rule's rate, every hedge takes one. After `n` requests
/// at rate `r` at most `5 + r n` hedges were sent.
#[derive(Clone, Copy, Debug)]
pub struct HedgeBucket {
    tokens: f64,
}

impl Default for HedgeBucket {
    fn default() -> Self {
        Self { tokens: INITIAL }
    }
}

impl HedgeBucket {
    /// A request came that may be hedged at most at `rate`, in [0,1].
    pub fn deposit(&mut self, rate: f64) {
        self.tokens = (self.tokens + rate.clamp(0.0, 1.0)).min(BURST);
    }

    /// Takes a hedge, if there is one.
    pub fn take(&mut self) -> bool {
        // A hundred deposits of 0.01 sum to a hair under one.
        let enough = self.tokens >= 1.0 - 1e-9;
        if enough {
            self.tokens -= 1.0;
        }
        enough
    }

    /// Hedges in stock.
    #[must_use]
    pub const fn stock(&self) -> f64 {
        self.tokens
    }
}

/// How long to wait for the first token before hedging. For a stream: the budget, else the quantile of the arm's
/// own latency that a share `max_rate` of the answers exceeds; but an arm that stalls as often as that hides its
/// stalls in this very quantile, so the one at twice the share and the median set limits. A whole answer comes later than its first token
/// would have, so there the arm's own quantile, if it is longer, overrules the budget. `None`: never hedge.
#[must_use]
pub fn delay(
    rule: HedgeRule,
    budget: Option<Duration>,
    oracle: &dyn LatencyOracle,
    question: &LatencyQuestion<'_>,
) -> Option<Duration> {
    if !rule.enabled || rule.max_rate <= 0.0 {
        return None;
    }
    let learned = || {
        let rate = rule.max_rate.clamp(0.001, 0.4);
        let usual = oracle.quantile(question, 1.0 - 2.0 * rate);
        let limit = oracle.quantile(question, 0.5)? * FAR;
        let limit = usual.map_or(limit, |usual| usual.mul_f64(CLIFF).min(limit));
        // Unknown when too much was cut off to say: then it lies beyond the limit.
        let slow = oracle.quantile(question, 1.0 - rate).unwrap_or(limit);
        Some(slow.min(limit).max(SHORTEST_DELAY))
    };
    match budget {
        Some(budget) if question.stream => Some(budget),
        Some(budget) => Some(learned().map_or(budget, |learned| learned.max(budget))),
        None => learned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arm::ArmId;

    struct Knows(Duration);

    impl LatencyOracle for Knows {
        fn quantile(&self, _: &LatencyQuestion<'_>, q: f64) -> Option<Duration> {
            assert!([0.5, 0.9, 0.95].iter().any(|asked| (q - asked).abs() < 1e-12));
            Some(self.0)
        }
    }

    #[test]
    fn hedges_never_exceed_their_rate_and_the_first_stock() {
        let mut bucket = HedgeBucket::default();
        let mut sent = 0;
        for _ in 0..1000 {
            bucket.deposit(0.05);
            sent += u32::from(bucket.take());
        }
        assert_eq!(sent, 55);
    }

    #[test]
    fn a_quiet_time_saves_up_no_more_than_a_burst() {
        let mut bucket = HedgeBucket::default();
        for _ in 0..10_000 {
            bucket.deposit(0.05);
        }
        assert_eq!((0..100).filter(|_| bucket.take()).count(), 10);
    }

    #[test]
    fn the_budget_decides_for_streams_and_the_longer_for_whole_answers() {
        let arm = ArmId::new("p/m");
        let ask = |stream, budget, learned| {
            let question = LatencyQuestion {
                provider: "p",
                arm: &arm,
                stream,
                input_tokens: 10,
            };
            delay(
                HedgeRule::default(),
                budget,
                &Knows(Duration::from_millis(learned)),
                &question,
            )
        };
        let (two, nine) = (Duration::from_secs(2), Duration::from_secs(9));
        assert_eq!(ask(true, Some(two), 9000), Some(two));
        assert_eq!(ask(false, Some(two), 9000), Some(nine));
        assert_eq!(ask(false, Some(two), 900), Some(two));
        assert_eq!(ask(true, None, 9000), Some(nine));
        assert_eq!(ask(true, None, 3), Some(SHORTEST_DELAY));
    }

    #[test]
    fn stalls_do_not_hide_in_the_quantile_they_make_up() {
        /// Above this quantile, and how long an answer takes below it.
        struct Stalls(f64, u64);
        impl LatencyOracle for Stalls {
            fn quantile(&self, _: &LatencyQuestion<'_>, q: f64) -> Option<Duration> {
                Some(if q < self.0 {
                    Duration::from_millis(self.1)
                } else {
                    Duration::from_secs(10)
                })
            }
        }
        let arm = ArmId::new("p/m");
        let question = LatencyQuestion {
            provider: "p",
            arm: &arm,
            stream: true,
            input_tokens: 10,
        };
        let after = |stalls| delay(HedgeRule::default(), None, &stalls, &question);
        assert_eq!(after(Stalls(0.95, 800)), Some(Duration::from_millis(1200)));
        assert_eq!(after(Stalls(0.7, 800)), Some(Duration::from_millis(4800)));
    }

    #[test]
    fn a_rule_that_is_off_never_hedges() {
        let arm = ArmId::new("p/m");
        let question = LatencyQuestion {
            provider: "p",
            arm: &arm,
            stream: true,
            input_tokens: 10,
        };
        let off = HedgeRule {
            enabled: false,
            ..HedgeRule::default()
        };
        let never = HedgeRule {
            max_rate: 0.0,
            ..HedgeRule::default()
        };
        for rule in [off, never] {
            assert_eq!(
                delay(rule, Some(Duration::ZERO), &Knows(Duration::ZERO), &question),
                None
            );
        }
    }
}
