//! The one API error: the only `IntoResponse` for failures and the only place that names an HTTP status.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde_json::{Map, Value, json};

use crate::failure::FailureKind;

/// What a client that is too fast is told to wait when no provider said how long: the shortest rest of a circuit.
const UNTOLD_WAIT: Duration = Duration::from_secs(5);

/// A failure as the client sees it, in OpenAI's shape.
#[derive(Debug)]
pub struct ApiError {
    /// What went wrong.
    pub kind: FailureKind,
    /// A sentence that says what to do.
    pub message: String,
    /// The field of the request at fault.
    pub param: Option<String>,
    /// How long to wait before trying again.
    pub retry_after: Option<Duration>,
    /// Further members of `metadata` (`provider`, `attempts`, `refused`).
    pub metadata: Map<String, Value>,
    /// Response headers that a failed request carries as well (`x-router-decision-id`).
    pub headers: Vec<(&'static str, String)>,
}

impl ApiError {
    /// An error with nothing but its kind and message.
    #[must_use]
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            param: None,
            retry_after: None,
            metadata: Map::new(),
            headers: Vec::new(),
        }
    }

    /// A malformed request; `param` names the field.
    #[must_use]
    pub fn invalid(message: impl Into<String>, param: Option<&str>) -> Self {
        let mut error = Self::new(FailureKind::InvalidRequest, message);
        error.param = param.map(str::to_owned);
        error
    }

    /// Our own fault. The cause belongs in the log, not in the answer.
    #[must_use]
    pub fn internal() -> Self {
        Self::new(
            FailureKind::Server,
            "The router failed on its side. The cause is in its log; trying again is safe.",
        )
    }

    /// Adds a member of `metadata`.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.metadata.insert(name.to_owned(), value.into());
        self
    }

    /// The `{"error": {...}}` object.
    #[must_use]
    pub fn body(&self) -> Value {
        let mut metadata = Map::new();
        metadata.insert("error_type".into(), self.kind.as_str().into());
        metadata.insert("retryable".into(), retryable(self.kind).into());
        metadata.extend(self.metadata.clone());
        json!({"error": {
            "message": self.message,
            "type": openai_type(self.kind),
            "param": self.param,
            "code": self.kind.as_str(),
            "metadata": metadata,
        }})
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = self.body();
        let is_retryable = body["error"]["metadata"]["retryable"] == true;
        let body = body.to_string();
        let mut response = (status(self.kind), body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let wait = self
            .retry_after
            .or((self.kind == FailureKind::RateLimitExceeded).then_some(UNTOLD_WAIT));
        if let Some(wait) = wait {
            // Whole seconds, rounded up: asking a little later than allowed is safe, earlier is not.
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        // The official SDKs obey this header; where another try cannot help they must not make one.
        headers.insert(
            "x-should-retry",
            HeaderValue::from_static(if is_retryable { "true" } else { "false" }),
        );
        for (name, value) in self.headers {
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(name, value);
            }
        }
        response
    }
}

/// The status of each kind, as `docs/api.md` lists them.
const fn status(kind: FailureKind) -> StatusCode {
    match kind {
        FailureKind::InvalidRequest
        | FailureKind::ContextLengthExceeded
        | FailureKind::ContentPolicyViolation => StatusCode::BAD_REQUEST,
        FailureKind::Authentication => StatusCode::UNAUTHORIZED,
        FailureKind::BudgetExceeded => StatusCode::PAYMENT_REQUIRED,
        FailureKind::PermissionDenied => StatusCode::FORBIDDEN,
        FailureKind::NotFound => StatusCode::NOT_FOUND,
        FailureKind::PayloadTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        FailureKind::IdempotencyConflict => StatusCode::UNPROCESSABLE_ENTITY,
        FailureKind::RateLimitExceeded => StatusCode::TOO_MANY_REQUESTS,
        FailureKind::Server => StatusCode::INTERNAL_SERVER_ERROR,
        FailureKind::ProviderUnavailable => StatusCode::BAD_GATEWAY,
        FailureKind::ProviderOverloaded | FailureKind::NoCandidates => StatusCode::SERVICE_UNAVAILABLE,
        FailureKind::Timeout => StatusCode::GATEWAY_TIMEOUT,
    }
}

/// OpenAI's `type` for each kind.
const fn openai_type(kind: FailureKind) -> &'static str {
    match kind {
        FailureKind::Authentication => "authentication_error",
        FailureKind::PermissionDenied => "permission_error",
        FailureKind::RateLimitExceeded => "rate_limit_error",
        FailureKind::BudgetExceeded => "insufficient_quota",
        FailureKind::Server
        | FailureKind::ProviderUnavailable
        | FailureKind::ProviderOverloaded
        | FailureKind::NoCandidates
        | FailureKind::Timeout => "api_error",
        _ => "invalid_request_error",
    }
}

/// Whether the same request may succeed if it is sent again.
const fn retryable(kind: FailureKind) -> bool {
    matches!(
        kind,
        FailureKind::RateLimitExceeded
            | FailureKind::Server
            | FailureKind::ProviderUnavailable
            | FailureKind::ProviderOverloaded
            | FailureKind::NoCandidates
            | FailureKind::Timeout
    )
}

/// A library's error as a sentence.
pub(super) fn sentence(error: &str) -> String {
    let mut chars = error.chars();
    let first: String = chars
        .next()
        .map(|first| first.to_uppercase().collect())
        .unwrap_or_default();
    format!("{first}{}.", chars.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_has_openais_shape_and_rounds_the_wait_up() {
        let mut error =
            ApiError::new(FailureKind::RateLimitExceeded, "slow down").with("provider", "deepseek");
        error.retry_after = Some(Duration::from_millis(1200));
        let body = error.body();
        assert_eq!(body["error"]["type"], "rate_limit_error");
        assert_eq!(body["error"]["code"], "rate_limit_exceeded");
        assert_eq!(body["error"]["metadata"]["provider"], "deepseek");
        assert_eq!(body["error"]["metadata"]["retryable"], true);
        let response = error.into_response();
        assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(response.headers()[header::RETRY_AFTER], "2");
        assert_eq!(response.headers()["x-should-retry"], "true");
        let spent = ApiError::new(FailureKind::RateLimitExceeded, "no quota").with("retryable", false);
        assert_eq!(spent.into_response().headers()["x-should-retry"], "false");
    }

    #[test]
    fn every_429_says_how_long_to_wait_and_the_header_for_sdks_agrees_with_the_body() {
        let quota = ApiError::new(FailureKind::RateLimitExceeded, "no quota left").with("retryable", false);
        let response = quota.into_response();
        assert_eq!(response.headers()[header::RETRY_AFTER], "5");
        assert_eq!(response.headers()["x-should-retry"], "false");
        let overloaded = ApiError::new(FailureKind::ProviderOverloaded, "busy").into_response();
        assert_eq!(overloaded.headers().get(header::RETRY_AFTER), None);
        assert_eq!(overloaded.headers()["x-should-retry"], "true");
    }
}
