//! What the dispatcher gives back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::arm::{Arm, ArmId};
use crate::completion::Completion;
use crate::dispatch::record::{Role, Tried};
use crate::failure::{AttemptError, FailureKind, FaultSource, Retry};
use crate::providers::EventStream;

/// An answer, with who gave it.
pub enum Answer {
    /// Whole.
    Whole(Served, Box<Completion>),
    /// Streamed, already read up to its first meaningful event. It ends with [`End`](crate::completion::StreamEvent)
    /// or with an `Err`: a failure after commitment is never passed off as an end. Dropping it cancels the upstream
    /// call and reports the attempt with what it has used.
    Stream(Served, EventStream),
}

/// Who served a request, and how it came to that.
#[derive(Clone, Debug)]
pub struct Served {
    /// The arm that served.
    pub arm: Arc<Arm>,
    /// Its provider's name.
    pub provider: Arc<str>,
    /// Why the serving attempt was made.
    pub role: Role,
    /// Attempts sent so far, of any kind.
    pub attempts: u32,
    /// The primary arm, when another one served.
    pub fallback_from: Option<ArmId>,
    /// Whether a hedge was sent, whoever won.
    pub hedged: bool,
    /// When the first attempt was sent.
    pub sent: Instant,
    /// From sending the serving attempt to its first meaningful event, or to its whole answer.
    pub ttft: Duration,
    /// Every attempt, in the order they were sent.
    pub tried: Vec<Tried>,
}

/// Why a request could not be answered.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{kind}: {message}")]
pub struct DispatchFailure {
    /// What went wrong.
    pub kind: FailureKind,
    /// A sentence for the client. Holds no key, no address and no raw code of a provider.
    pub message: String,
    /// The provider of the failure that is told; `None` when no provider was at fault.
    pub provider: Option<Arc<str>>,
    /// Whether the same request may succeed later.
    pub retryable: bool,
    /// When it may be sent again.
    pub retry_after: Option<Duration>,
    /// Attempts sent.
    pub attempts: u32,
    /// Every attempt, in the order they were sent.
    pub tried: Vec<Tried>,
}

impl DispatchFailure {
    /// The failure told by `error` of `provider`.
    #[must_use]
    pub fn told_by(error: &AttemptError, provider: Option<Arc<str>>) -> Self {
        Self {
            kind: error.kind,
            message: error.message.clone(),
            provider,
            retryable: error.retry != Retry::No
                && error.fault != FaultSource::Client
                && !error.quota_exhausted,
            retry_after: error.retry_after,
            attempts: 0,
            tried: Vec::new(),
        }
    }
}
