//! From whatever goes wrong with a provider to one [`AttemptError`], by meaning.

mod cleanse;
mod table;
mod told;
mod wait;

use std::sync::Arc;

use http::HeaderMap;
use serde_json::Value;

use crate::clock;
use crate::failure::{AttemptError, FailureKind, FaultSource, Retry};
use table::Meaning;
use told::Told;

pub(super) use told::is_error;

/// Who is spoken with.
#[derive(Clone, Debug)]
pub(super) struct Wire {
    pub(super) provider: Arc<str>,
}

/// An answer that is an error.
pub(super) struct Answered<'a> {
    /// The status; none for an error inside a stream.
    pub(super) status: Option<u16>,
    pub(super) headers: Option<&'a HeaderMap>,
    pub(super) body: &'a [u8],
}

/// The error that an answer is.
pub(super) fn classify(wire: &Wire, answered: &Answered<'_>) -> AttemptError {
    let told = told::read(answered.body);
    // A 2xx says nothing about an error inside it.
    let status = match answered.status {
        Some(status) if status >= 300 => status,
        _ => told
            .status
            .filter(|status| (400..600).contains(status))
            .unwrap_or(0),
    };
    let wait = wait::wait(answered.headers, &told, clock::wall());
    let meaning = table::meaning(status, &told.words, &told.message.to_lowercase(), wait.is_some());
    let consequence = meaning.consequence();
    let quote = cleanse::cleanse(&told.message);
    let provider = &wire.provider;
    let message = if consequence.quote && !quote.is_empty() {
        format!("{provider} {}: {quote}", consequence.sentence)
    } else {
        format!("{provider} {}", consequence.sentence)
    };
    AttemptError {
        kind: consequence.kind,
        fault: consequence.fault,
        retry: consequence.retry,
        retry_after: wait,
        quota_exhausted: meaning == Meaning::QuotaExhausted,
        may_be_billed: false,
        message,
        provider_code: Some(provider_code(status, &told)),
    }
}

/// Status, words and sentence for our log. The sentence is cleansed there too: some providers repeat our key.
fn provider_code(status: u16, told: &Told) -> String {
    let mut code = if status == 0 {
        "inside the answer".to_owned()
    } else {
        status.to_string()
    };
    for word in &told.words {
        code.push(' ');
        code.push_str(&cleanse::cleanse(word));
    }
    let sentence = cleanse::cleanse(&told.message);
    if !sentence.is_empty() {
        code.push_str(": ");
        code.push_str(&sentence);
    }
    code
}

/// The error inside a 200's JSON, if it is one.
pub(super) fn inside_200(wire: &Wire, body: &[u8]) -> Option<AttemptError> {
    let value: Value = serde_json::from_slice(body).ok()?;
    told::is_error(&value).then(|| inside(wire, body))
}

/// An error inside an answer that has begun.
pub(super) fn inside(wire: &Wire, body: &[u8]) -> AttemptError {
    classify(
        wire,
        &Answered {
            status: None,
            headers: None,
            body,
        },
    )
}

/// The network failed, or TLS, or HTTP itself.
pub(super) fn transport(wire: &Wire, error: &reqwest::Error) -> AttemptError {
    // What was never sent, and what a dead pooled connection swallowed, may be sent again at once; a host that
    // cannot be reached will not be reached a moment later.
    let (sentence, retry) = if error.is_timeout() {
        ("cannot be reached in time", Retry::NextArm)
    } else if error.is_connect() {
        ("cannot be reached", Retry::NextArm)
    } else if error.is_request() || error.is_body() || error.is_decode() {
        ("broke off the connection", Retry::SameArm)
    } else {
        ("cannot be spoken with", Retry::NextArm)
    };
    let kind = if error.is_timeout() {
        FailureKind::Timeout
    } else {
        FailureKind::ProviderUnavailable
    };
    let mut failure = unavailable(wire, sentence, retry);
    failure.kind = kind;
    failure.may_be_billed = !error.is_connect();
    failure.provider_code = Some(causes(error));
    failure
}

/// The chain of causes without the address, for our log.
fn causes(error: &reqwest::Error) -> String {
    let mut text = "transport".to_owned();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&cleanse::cleanse(&error.to_string()));
        cause = error.source();
    }
    text
}

/// The provider answered what cannot be read as an answer: `what` completes "answered with ...".
pub(super) fn nonsense(wire: &Wire, what: &str) -> AttemptError {
    unavailable(wire, &format!("answered with {what}"), Retry::NextArm)
}

/// The answer is larger than we take.
pub(super) fn oversized(wire: &Wire, limit: usize) -> AttemptError {
    unavailable(
        wire,
        &format!("answered with more than {limit} bytes"),
        Retry::NextArm,
    )
}

/// The stream ended before the answer did.
pub(super) fn truncated(wire: &Wire) -> AttemptError {
    unavailable(wire, "broke off before the answer was complete", Retry::SameArm)
}

/// The model stopped because the provider ran out of something.
pub(super) fn out_of_resources(wire: &Wire) -> AttemptError {
    let mut failure = unavailable(wire, "is overloaded", Retry::SameArm);
    failure.kind = FailureKind::ProviderOverloaded;
    failure
}

/// A filter kept the whole answer back.
pub(super) fn filtered(wire: &Wire, reason: &str) -> AttemptError {
    AttemptError {
        kind: FailureKind::ContentPolicyViolation,
        fault: FaultSource::Client,
        provider_code: Some(reason.to_owned()),
        ..unavailable(wire, "refused the content by its policy", Retry::NextArm)
    }
}

/// The wire format has no way to say what the request asks; another may.
pub(super) fn unsupported(wire: &Wire, what: &str) -> AttemptError {
    AttemptError {
        kind: FailureKind::InvalidRequest,
        fault: FaultSource::Client,
        may_be_billed: false,
        ..unavailable(wire, &format!("cannot take {what}"), Retry::NextArm)
    }
}

fn unavailable(wire: &Wire, sentence: &str, retry: Retry) -> AttemptError {
    AttemptError {
        kind: FailureKind::ProviderUnavailable,
        fault: FaultSource::Upstream,
        retry,
        retry_after: None,
        quota_exhausted: false,
        may_be_billed: true,
        message: format!("{} {sentence}", wire.provider),
        provider_code: None,
    }
}

#[cfg(test)]
mod tests;
