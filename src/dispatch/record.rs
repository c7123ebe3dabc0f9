//! What is told about every attempt when it is over, and to whom.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::arm::{Arm, ArmId};
use crate::completion::{FinishReason, Signals, Usage};
use crate::failure::{AttemptError, FailureKind};
use crate::units::UnixMs;

/// Prices, telemetry and the log. Implemented by the composition root.
pub trait Books: Send + Sync {
    /// Called exactly once for every attempt when it is over, lost hedges and cancelled ones too. Called from
    /// destructors: it must not block.
    fn attempt(&self, record: AttemptRecord);
}

/// Why an attempt was made. Only the primary is on-policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The arm that the decision drew.
    Primary,
    /// The same arm again, after a failure.
    Retry,
    /// Another arm, after a failure.
    Fallback,
    /// Another attempt beside one that is slow to begin.
    Hedge,
}

impl Role {
    /// The word used in logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Retry => "retry",
            Self::Fallback => "fallback",
            Self::Hedge => "hedge",
        }
    }
}

/// Why an attempt was given up by us rather than failed by the provider. Its latency is censored, not missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cancellation {
    /// Another attempt of the same request began first.
    LostHedge,
    /// The client went away.
    ClientGone,
    /// The request's time budget ran out.
    Deadline,
}

impl Cancellation {
    /// The word used in logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::LostHedge => "lost_hedge",
            Self::ClientGone => "client_gone",
            Self::Deadline => "deadline",
        }
    }
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// The whole answer was delivered.
    Succeeded,
    /// The provider failed, before or after its first token.
    Failed(AttemptError),
    /// We gave it up.
    Cancelled(Cancellation),
}

/// One attempt, when it is over.
#[derive(Clone, Debug)]
pub struct AttemptRecord {
    /// The decision that was being carried out.
    pub decision_id: Arc<str>,
    /// The arm that was called.
    pub arm: Arc<Arm>,
    /// The provider's name.
    pub provider: Arc<str>,
    /// The deployment's name (the provider's, with the key's label).
    pub deployment: Arc<str>,
    /// When it was sent.
    pub started: UnixMs,
    /// 1 for the first attempt of the request, in the order they were sent.
    pub number: u32,
    /// Why it was made.
    pub role: Role,
    /// How it ended.
    pub outcome: Outcome,
    /// Whether the client was already being sent this attempt's answer when it ended.
    pub committed: bool,
    /// Whether the answer was streamed.
    pub stream: bool,
    /// From sending to the first meaningful event; for a whole answer, to its arrival. `None`: it never came.
    pub ttft: Option<Duration>,
    /// From sending to the end.
    pub total: Duration,
    /// The longest wait between two events after the first.
    pub longest_gap: Option<Duration>,
    /// What it used: as the provider told, else (cancelled, or cut off after it was accepted) our estimate, marked
    /// so. `None`: nothing was used.
    pub usage: Option<Usage>,
    /// Bytes of visible text received.
    pub text_bytes: usize,
    /// Why the answer ended.
    pub finish: Option<FinishReason>,
    /// The provider's id of the answer.
    pub upstream_id: Option<String>,
    /// Facts for the free quality signals; whole answers only.
    pub signals: Option<Signals>,
    /// Our estimate of the request's input tokens.
    pub input_tokens_estimate: u32,
}

/// One attempt in a few words: for `router_metadata` and error messages.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Tried {
    /// The arm.
    pub model: ArmId,
    /// The provider.
    pub provider: Arc<str>,
    /// Why it was made.
    pub role: Role,
    /// What went wrong; `None` for the one that served.
    pub error_type: Option<FailureKind>,
    /// Why it was given up.
    pub cancelled: Option<Cancellation>,
    /// From sending to its end, or to the commitment of the one that served.
    pub latency_ms: u64,
}
