//! The table of meanings: what each provider's status, words and sentences mean. The first row that fits wins, so
//! that meaning goes before code: a 400 that speaks of a rate limit is a rate limit.

use crate::failure::{FailureKind, FaultSource, Retry};

/// What an error means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// A filter refused the prompt or the answer.
    ContentFilter,
    /// The prompt does not fit the window.
    ContextLength,
    /// The account's money or long-term quota is used up.
    QuotaExhausted,
    /// This one request is larger than the account's rate allows at all.
    LargerThanRate,
    /// The provider has no capacity.
    Overloaded,
    /// Too many requests or tokens in a short time.
    RateLimited,
    /// Our key is refused.
    KeyRefused,
    /// Our account may not do this, or not from here.
    AccountRefused,
    /// The model is not there, or not for us.
    ModelGone,
    /// The body is too large for this provider.
    TooLarge,
    /// The provider took too long, by its own account.
    Slow,
    /// The conversation holds thoughts, or their signatures, that are not this model's, or lacks its own.
    ForeignThoughts,
    /// This model or provider cannot do what is asked; another may.
    Unsupported,
    /// The request is wrong.
    BadRequest,
    /// The provider failed.
    Faulty,
}

/// One row. Empty columns fit everything.
struct Row {
    status: &'static [u16],
    /// Any of these words, whole.
    words: &'static [&'static str],
    /// Any of these within the lowercase message.
    says: &'static [&'static str],
    /// Only if the provider names no time after which to try again.
    no_wait: bool,
    meaning: Meaning,
}

const ANY: Row = Row {
    status: &[],
    words: &[],
    says: &[],
    no_wait: false,
    meaning: Meaning::Faulty,
};

/// Statuses that say the request was refused for what it is (200: an error inside an answer, 0: inside a stream).
const REFUSALS: &[u16] = &[0, 200, 400, 403, 413, 422, 451, 500];

#[rustfmt::skip]
const ROWS: &[Row] = &[
    // A filter. DashScope says `data_inspection_failed`; OpenRouter's moderation comes as a 403.
    Row { words: &["content_filter", "content_policy_violation", "data_inspection_failed", "datainspectionfailed",
                   "responsibleaipolicyviolation", "moderation_blocked", "content_policy"],
          meaning: Meaning::ContentFilter, ..ANY },
    Row { status: REFUSALS,
          says: &["content management policy", "content filtering policy", "content policy", "usage policies",
                  "requires moderation", "was flagged", "inappropriate content", "content exists risk",
                  "safety system"],
          meaning: Meaning::ContentFilter, ..ANY },
    // Money. Anthropic's empty balance is a 400, DeepSeek's and OpenRouter's a 402, OpenAI's a 429.
    Row { words: &["insufficient_quota", "credit_balance_exhausted", "billing_hard_limit_reached",
                   "billing_not_active", "enforced_spend_limit_reached", "insufficient_balance", "billing_error",
                   "arrearage", "insufficient_user_quota", "exceeded_current_quota_error"],
          meaning: Meaning::QuotaExhausted, ..ANY },
    Row { says: &["credit balance is too low", "insufficient balance", "insufficient credits", "insufficient funds",
                  "billing hard limit", "spend limit", "spending limit", "requires more credits", "out of credits",
                  "specified api usage limits", "account is in arrears", "monthly usage limit"],
          meaning: Meaning::QuotaExhausted, ..ANY },
    Row { status: &[402], meaning: Meaning::QuotaExhausted, ..ANY },
    // Gemini says "exceeded your current quota" for its limits per minute too, then with a delay.
    Row { status: &[429], words: &["generaterequestsperdayperprojectpermodel", "generaterequestsperdayperprojectpermodel-freetier"],
          meaning: Meaning::QuotaExhausted, ..ANY },
    Row { status: &[429], says: &["exceeded your current quota"], no_wait: true,
          meaning: Meaning::QuotaExhausted, ..ANY },
    // The window.
    Row { words: &["context_length_exceeded", "context_window_exceeded", "model_context_window_exceeded",
                   "exceed_context_size_error"],
          meaning: Meaning::ContextLength, ..ANY },
    Row { status: REFUSALS,
          says: &["maximum context length", "context length", "context window", "exceed context limit",
                  "prompt is too long", "input is too long", "longer than the maximum model length",
                  "range of input length should be", "reduce the length of the messages",
                  "exceeds the maximum number of tokens", "exceeds the model's maximum", "prompt too long",
                  "available context size", "too many tokens", "too many input tokens", "`inputs` must have less than",
                  "tokens + `max_new_tokens` must be"],
          meaning: Meaning::ContextLength, ..ANY },
    // Rates.
    Row { status: &[429], says: &["request too large for"], meaning: Meaning::LargerThanRate, ..ANY },
    Row { words: &["overloaded_error", "engine_overloaded_error", "server_is_overloaded", "engine_overloaded",
                   "provider_overloaded", "modeloverloaded", "insufficient_system_resource"],
          meaning: Meaning::Overloaded, ..ANY },
    Row { status: &[0, 200, 429, 500, 502, 503], says: &["overloaded", "at capacity", "server is busy", "high demand"],
          meaning: Meaning::Overloaded, ..ANY },
    Row { status: &[429], meaning: Meaning::RateLimited, ..ANY },
    Row { words: &["rate_limit_error", "rate_limit_exceeded", "rate_limit", "resource_exhausted", "throttling",
                   "throttling.ratequota", "throttling.allocationquota", "slow_down", "too_many_requests", "429"],
          meaning: Meaning::RateLimited, ..ANY },
    Row { says: &["rate limit", "rate-limit", "ratelimit", "too many requests", "requests per minute",
                  "tokens per minute", "throttled"],
          meaning: Meaning::RateLimited, ..ANY },
    // Keys. Gemini's bad key is a 400.
    Row { words: &["authentication_error", "invalid_api_key", "unauthenticated", "api_key_invalid", "invalidapikey",
                   "account_deactivated"],
          meaning: Meaning::KeyRefused, ..ANY },
    Row { status: &[401], meaning: Meaning::KeyRefused, ..ANY },
    Row { status: &[0, 200, 400, 403],
          says: &["api key not valid", "invalid api key", "incorrect api key", "api key expired", "api key not found"],
          meaning: Meaning::KeyRefused, ..ANY },
    // OpenRouter, of a model that is there: a 404 that speaks of the request.
    Row { status: &[404], says: &["no endpoints found that support"], meaning: Meaning::Unsupported, ..ANY },
    // The model, before the account: a 403 for one model does not damn the key.
    Row { words: &["model_not_found", "model_not_active", "model_not_supported", "invalid_model", "unknown_model",
                   "modelnotfound", "model_decommissioned", "not_found_error", "not_found", "access_denied_model"],
          meaning: Meaning::ModelGone, ..ANY },
    Row { status: &[404, 410], meaning: Meaning::ModelGone, ..ANY },
    Row { status: &[0, 200, 400, 403, 422],
          says: &["does not have access to model", "model does not exist", "is not a valid model", "invalid model",
                  "model not exist", "model not found", "has been deprecated", "no longer available"],
          meaning: Meaning::ModelGone, ..ANY },
    Row { words: &["permission_error", "permission_denied", "permissiondenied", "unsupported_country_region_territory",
                   "forbidden", "org_not_verified"],
          meaning: Meaning::AccountRefused, ..ANY },
    Row { status: &[403], meaning: Meaning::AccountRefused, ..ANY },
    Row { status: &[400], says: &["user location is not supported", "organization must be verified",
                                  "organization has been disabled", "credential is only authorized",
                                  "free tier is not available"],
          meaning: Meaning::AccountRefused, ..ANY },
    Row { words: &["request_too_large"], meaning: Meaning::TooLarge, ..ANY },
    Row { status: &[413], meaning: Meaning::TooLarge, ..ANY },
    Row { words: &["deadline_exceeded", "timeout_error", "request_timeout"], meaning: Meaning::Slow, ..ANY },
    Row { status: &[408, 504, 524], meaning: Meaning::Slow, ..ANY },
    // Anthropic: "Invalid `signature` in `thinking` block", "must start with a thinking block", "`thinking` or
    // `redacted_thinking` blocks in the latest assistant message cannot be modified". Gemini: "Corrupted thought
    // signature", "Function call is missing a thought_signature".
    Row { status: &[0, 200, 400, 422],
          says: &["`signature` in `thinking`", "signature in thinking", "thinking block", "`thinking` block",
                  "`redacted_thinking` block", "thought_signature", "thought signature"],
          meaning: Meaning::ForeignThoughts, ..ANY },
    // What another model may be able to do. Groq's model wrote a call or JSON that fails its check.
    Row { words: &["unsupported_parameter", "unsupported_value", "unknown_parameter", "extra_forbidden",
                   "unsupported_model", "unimplemented", "invalid_image_format", "unsupported_content_type",
                   "invalid_request_message_order", "invalid_function_call", "invalid_function_parameters",
                   "operationnotsupported", "string_above_max_length", "array_above_max_length",
                   "integer_above_max_value", "decimal_above_max_value", "tool_use_failed", "json_validate_failed"],
          meaning: Meaning::Unsupported, ..ANY },
    Row { status: &[0, 200, 400, 404, 405, 415, 422, 501],
          says: &["not support", "unsupported", "unrecognized", "unknown name", "unknown field", "unknown parameter",
                  "extra inputs are not permitted", "is unavailable now", "not available for this model",
                  "is not enabled", "is deprecated for this model", "roles must alternate", "unexpected role",
                  "expected last role",
                  // Limits and rules of one provider's own.
                  "supports at most", "maximum allowed number of output tokens", "output limit was reached",
                  "cannot both be specified", "may only be set", "must be set to false", "supported only",
                  "must be non-empty", "non-empty content", "trailing whitespace", "must contain the word",
                  "image exceeds", "exceed max allowed size", "process image", "process input image",
                  "reasoning_content", "invalid schema for", "json schema is invalid", "generatecontentrequest.",
                  "function call turn", "function response turn",
                  // Local servers: what they were not started for.
                  "requires --enable-auto-tool-choice", "requires --jinja", "may be provided in one",
                  "is not a multimodal model"],
          meaning: Meaning::Unsupported, ..ANY },
    Row { words: &["invalid_request_error", "invalid_argument", "failed_precondition", "out_of_range",
                   "badrequesterror", "invalid_parameter_error", "invalidparameter"],
          meaning: Meaning::BadRequest, ..ANY },
    Row { status: &[400, 405, 406, 409, 411, 414, 415, 416, 422, 428, 431, 451], meaning: Meaning::BadRequest, ..ANY },
    Row { status: &[503, 529], meaning: Meaning::Overloaded, ..ANY },
    Row { words: &["unavailable"], meaning: Meaning::Overloaded, ..ANY },
    ANY,
];

/// What `message` (lowercase) and `words` (lowercase) under `status` mean; status 0 stands for an error inside a
/// stream that names none.
pub(super) fn meaning(status: u16, words: &[String], message: &str, waits: bool) -> Meaning {
    let fits = |row: &&Row| {
        (row.status.is_empty() || row.status.contains(&status))
            && (row.words.is_empty() || words.iter().any(|word| row.words.contains(&word.as_str())))
            && (row.says.is_empty() || row.says.iter().any(|says| message.contains(says)))
            && !(row.no_wait && waits)
    };
    ROWS.iter().find(fits).map_or(Meaning::Faulty, |row| row.meaning)
}

/// What follows from a meaning.
pub(super) struct Consequence {
    pub(super) kind: FailureKind,
    pub(super) fault: FaultSource,
    pub(super) retry: Retry,
    /// The client's sentence after the provider's name.
    pub(super) sentence: &'static str,
    /// Whether the provider's own words follow: only where they speak of the client's request.
    pub(super) quote: bool,
}

impl Meaning {
    pub(super) fn consequence(self) -> Consequence {
        use FailureKind as Kind;
        use FaultSource::{Client, Credentials, Upstream};
        use Retry::{NextArm, No, SameArm, WithoutThoughts};
        #[rustfmt::skip]
        let (kind, fault, retry, sentence, quote) = match self {
            Self::ContentFilter => (Kind::ContentPolicyViolation, Client, NextArm, "refused the content by its policy", true),
            Self::ContextLength => (Kind::ContextLengthExceeded, Client, NextArm, "cannot take a prompt of this length", true),
            Self::QuotaExhausted => (Kind::RateLimitExceeded, Credentials, NextArm, "has no quota left for this router's account", false),
            Self::LargerThanRate => (Kind::RateLimitExceeded, Client, NextArm, "allows fewer tokens a minute than this request has", false),
            Self::Overloaded => (Kind::ProviderOverloaded, Upstream, SameArm, "is overloaded", false),
            Self::RateLimited => (Kind::RateLimitExceeded, Upstream, SameArm, "limits the rate of requests", false),
            Self::KeyRefused => (Kind::ProviderUnavailable, Credentials, NextArm, "refuses this router's key", false),
            Self::AccountRefused => (Kind::ProviderUnavailable, Credentials, NextArm, "refuses this router's account", false),
            Self::ModelGone => (Kind::ProviderUnavailable, Upstream, NextArm, "does not serve this model", false),
            Self::TooLarge => (Kind::PayloadTooLarge, Client, NextArm, "cannot take a request of this size", false),
            Self::Slow => (Kind::Timeout, Upstream, NextArm, "did not answer in time", false),
            Self::ForeignThoughts => (Kind::InvalidRequest, Client, WithoutThoughts, "does not take the thoughts in the conversation", true),
            Self::Unsupported => (Kind::InvalidRequest, Client, NextArm, "cannot do what the request asks", true),
            Self::BadRequest => (Kind::InvalidRequest, Client, No, "refused the request", true),
            Self::Faulty => (Kind::ProviderUnavailable, Upstream, SameArm, "failed to answer", false),
        };
        Consequence {
            kind,
            fault,
            retry,
            sentence,
            quote,
        }
    }
}
