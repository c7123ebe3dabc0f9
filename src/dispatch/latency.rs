//! What the dispatcher wants to know about latency.

use std::time::Duration;

use crate::arm::ArmId;

/// How long an arm usually takes, learned by `telemetry`. Implemented by the composition root.
pub trait LatencyOracle: Send + Sync {
    /// The `q`-quantile, `q` in (0,1), of the time from sending a prompt of about this size to the first meaningful
    /// event (`stream`) or to the whole answer. `None` while there are too few samples to say.
    fn quantile(&self, question: &LatencyQuestion<'_>, q: f64) -> Option<Duration>;
}

/// Whose latency is asked for.
#[derive(Clone, Copy, Debug)]
pub struct LatencyQuestion<'a> {
    /// The provider's name.
    pub provider: &'a str,
    /// The arm.
    pub arm: &'a ArmId,
    /// Streamed or whole answers.
    pub stream: bool,
    /// Tokens of the prompt, estimated.
    pub input_tokens: u32,
}

/// Knows nothing: hedges then wait for a configured budget only.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unlearned;

impl LatencyOracle for Unlearned {
    fn quantile(&self, _: &LatencyQuestion<'_>, _: f64) -> Option<Duration> {
        None
    }
}
