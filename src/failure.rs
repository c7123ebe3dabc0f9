//! One vocabulary for everything that can go wrong with a request, whichever provider it came from.
//! What status each kind has on the wire is known only to `server`.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What went wrong, by meaning and not by code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The request is malformed.
    InvalidRequest,
    /// The prompt does not fit the model's window.
    ContextLengthExceeded,
    /// A content filter refused.
    ContentPolicyViolation,
    /// The client's key is missing or wrong.
    Authentication,
    /// A money limit is reached.
    BudgetExceeded,
    /// The client may not do this.
    PermissionDenied,
    /// No such thing.
    NotFound,
    /// The body is too large.
    PayloadTooLarge,
    /// The same idempotency key came with another body.
    IdempotencyConflict,
    /// Too many requests or tokens.
    RateLimitExceeded,
    /// Our own fault.
    Server,
    /// The provider cannot be reached, answers nonsense, or refuses our key or account.
    ProviderUnavailable,
    /// The provider says that it is overloaded.
    ProviderOverloaded,
    /// No candidate can take the request.
    NoCandidates,
    /// The time budget ran out.
    Timeout,
}

impl FailureKind {
    /// Every kind, in the order of its discriminant.
    pub const ALL: [Self; 15] = [
        Self::InvalidRequest,
        Self::ContextLengthExceeded,
        Self::ContentPolicyViolation,
        Self::Authentication,
        Self::BudgetExceeded,
        Self::PermissionDenied,
        Self::NotFound,
        Self::PayloadTooLarge,
        Self::IdempotencyConflict,
        Self::RateLimitExceeded,
        Self::Server,
        Self::ProviderUnavailable,
        Self::ProviderOverloaded,
        Self::NoCandidates,
        Self::Timeout,
    ];

    /// The word used in errors, logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::ContextLengthExceeded => "context_length_exceeded",
            Self::ContentPolicyViolation => "content_policy_violation",
            Self::Authentication => "authentication",
            Self::BudgetExceeded => "budget_exceeded",
            Self::PermissionDenied => "permission_denied",
            Self::NotFound => "not_found",
            Self::PayloadTooLarge => "payload_too_large",
            Self::IdempotencyConflict => "idempotency_conflict",
            Self::RateLimitExceeded => "rate_limit_exceeded",
            Self::Server => "server",
            Self::ProviderUnavailable => "provider_unavailable",
            Self::ProviderOverloaded => "provider_overloaded",
            Self::NoCandidates => "no_candidates",
            Self::Timeout => "timeout",
        }
    }
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whose fault a failed attempt is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultSource {
    /// The provider's, or the network's on the way to it. Counts against its health.
    Upstream,
    /// The provider's account or key of ours: marks the key, not the model.
    Credentials,
    /// The request itself. Never counts against the arm's health.
    Client,
    /// Ours.
    Internal,
}

/// Where a failed attempt may be tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Retry {
    /// Nowhere: every arm would fail alike.
    No,
    /// On the same arm, after `retry_after` or a backoff.
    SameArm,
    /// On another arm only.
    NextArm,
    /// On the same arm, once what other models thought is taken out of the conversation; else on another arm.
    WithoutThoughts,
}

/// Why one attempt on one arm failed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{kind}: {message}")]
pub struct AttemptError {
    /// What went wrong.
    pub kind: FailureKind,
    /// Whose fault it is.
    pub fault: FaultSource,
    /// Where it may be tried again.
    pub retry: Retry,
    /// How long the provider asks to be left alone.
    pub retry_after: Option<Duration>,
    /// The account's quota is exhausted: waiting will not help, the circuit opens at once.
    pub quota_exhausted: bool,
    /// The provider had begun to answer, or may have: the call can cost something all the same. False for a refusal.
    pub may_be_billed: bool,
    /// A sentence for the client. Holds no key, no address and no raw code of the provider.
    pub message: String,
    /// The provider's own status and code, for our log only.
    pub provider_code: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_stands_at_its_discriminant() {
        for (index, kind) in FailureKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, index, "{kind}");
        }
    }
}
