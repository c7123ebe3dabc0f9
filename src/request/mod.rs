//! The canonical request: what a client asks for, in OpenAI's vocabulary, without any provider's wire format.
//!
//! `body` keeps the client's own bytes, so that an OpenAI-shaped provider can be sent every field, known or
//! not, untouched. Adapters for other wire formats read the typed fields.

mod error;
mod extras;
mod message;
mod parse;
mod prefix;
mod raw;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::arm::ArmId;
use crate::units::Usd;

pub use error::RequestError;
pub use parse::{MOST_TOKENS, parse, parse_embedding};
pub use prefix::Beginning;
pub(crate) use raw::top_level;

/// A chat completion request, parsed and checked.
#[derive(Clone, Debug)]
pub struct ChatRequest {
    /// The client's JSON, byte for byte.
    pub body: Bytes,
    /// What is asked for.
    pub purpose: Purpose,
    /// The model, route (`auto`) or profile the client named.
    pub model: String,
    /// The conversation, oldest first; never empty.
    pub messages: Vec<Message>,
    /// Functions the model may call.
    pub tools: Vec<Tool>,
    /// Tools that are not functions (a provider's own web search, ...), as sent. Only OpenAI-shaped providers
    /// can be given these.
    pub other_tools: Vec<Value>,
    /// `tool_choice`, as sent.
    pub tool_choice: Option<Value>,
    /// `parallel_tool_calls`, as sent.
    pub parallel_tool_calls: Option<bool>,
    /// `response_format`.
    pub response_format: ResponseFormat,
    /// `max_completion_tokens`, else `max_tokens`.
    pub max_output_tokens: Option<u32>,
    /// Sampling parameters, as sent.
    pub sampling: Sampling,
    /// `reasoning_effort`, as sent.
    pub reasoning_effort: Option<String>,
    /// Whether the answer is streamed.
    pub stream: bool,
    /// `stream_options.include_usage`.
    pub include_usage: bool,
    /// `models` (or `fallbacks`): ordered fallbacks the client asks for.
    pub fallbacks: Vec<ArmId>,
    /// OpenRouter's `provider` preferences.
    pub provider: ProviderPreferences,
    /// The `routing` extras.
    pub routing: RoutingExtras,
    /// `session_id`.
    pub session_id: Option<String>,
    /// `user`.
    pub user: Option<String>,
    /// `prompt_cache_key`.
    pub prompt_cache_key: Option<String>,
    /// `metadata`: string tags.
    pub metadata: Vec<(String, String)>,
    /// Top-level fields that this version does not know, in the order sent.
    pub extra: Vec<(String, Arc<RawValue>)>,
}

/// What a request asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Purpose {
    /// An answer to a conversation.
    #[default]
    Chat,
    /// The vectors of some texts, which are the parts of the one message. The answer's `choices` are OpenAI's
    /// `data`.
    Embedding,
}

/// One turn of the conversation.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said; empty for a pure tool call.
    pub parts: Vec<Part>,
    /// Calls the assistant made.
    pub tool_calls: Vec<ToolCall>,
    /// For `Role::Tool`: the call this answers.
    pub tool_call_id: Option<String>,
    /// `name`.
    pub name: Option<String>,
    /// Prompt-cache breakpoints the client set (`cache_control` on a content part).
    pub cache_points: Vec<CachePoint>,
    /// Fields of this message that this version does not know (thinking signatures among them).
    pub extra: Vec<(String, Value)>,
}

impl Message {
    /// A message of one text.
    #[must_use]
    pub fn text(role: Role, text: impl Into<String>) -> Self {
        Self {
            role,
            parts: vec![Part::Text(text.into())],
            tool_calls: Vec::new(),
            tool_call_id: None,
            name: None,
            cache_points: Vec::new(),
            extra: Vec::new(),
        }
    }

    /// An unknown field of this message.
    #[must_use]
    pub fn extra(&self, key: &str) -> Option<&Value> {
        self.extra
            .iter()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value)
    }
}

/// A prompt-cache breakpoint: everything up to and with `part` is to be cached.
#[derive(Clone, Debug, PartialEq)]
pub struct CachePoint {
    /// Index into [`Message::parts`].
    pub part: usize,
    /// `cache_control`, as sent.
    pub control: Value,
}

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions of the application.
    System,
    /// Instructions of the application, newer name.
    Developer,
    /// The user.
    User,
    /// The model.
    Assistant,
    /// A tool's result.
    Tool,
}

/// A piece of a message's content.
#[derive(Clone, Debug, PartialEq)]
pub enum Part {
    /// Text.
    Text(String),
    /// An image by `data:` URL or link; `detail` as sent.
    Image {
        /// `data:` URL or link.
        url: String,
        /// `low`, `high` or `auto`.
        detail: Option<String>,
    },
    /// Base64 audio with its format (`wav`, `mp3`).
    Audio {
        /// Base64.
        data: String,
        /// `wav`, `mp3`, ...
        format: String,
    },
    /// A file (PDF) by `data:` URL, base64 or provider file id.
    File {
        /// `data:` URL or base64.
        data: Option<String>,
        /// The provider's id of an uploaded file.
        file_id: Option<String>,
        /// Its name.
        filename: Option<String>,
    },
    /// Video by `data:` URL or link.
    Video {
        /// `data:` URL or link.
        url: String,
    },
    /// A refusal the assistant gave earlier.
    Refusal(String),
    /// A part of a type this version does not know, as sent.
    Other(Value),
}

/// A function the model may call.
#[derive(Clone, Debug, PartialEq)]
pub struct Tool {
    /// Function name.
    pub name: String,
    /// What it does.
    pub description: Option<String>,
    /// JSON schema of its arguments.
    pub parameters: Option<Value>,
    /// OpenAI's `strict`.
    pub strict: Option<bool>,
    /// `cache_control`, as sent: everything up to and with this tool is to be cached.
    pub cache_control: Option<Value>,
}

/// A call of a tool.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolCall {
    /// The id that the result will quote.
    pub id: String,
    /// Function name.
    pub name: String,
    /// Arguments as a JSON text; may be invalid, as models write it.
    pub arguments: String,
    /// Unknown fields (Gemini's thought signatures among them).
    pub extra: Vec<(String, Value)>,
}

/// What shape the answer must have.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum ResponseFormat {
    /// Free text.
    #[default]
    Text,
    /// Any JSON object.
    JsonObject,
    /// JSON that fits a schema.
    JsonSchema {
        /// Its name.
        name: String,
        /// The schema.
        schema: Value,
        /// Whether the provider must enforce it.
        strict: Option<bool>,
    },
}

/// Sampling parameters, as sent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sampling {
    /// `temperature`.
    pub temperature: Option<f64>,
    /// `top_p`.
    pub top_p: Option<f64>,
    /// `stop`, one or many.
    pub stop: Vec<String>,
    /// `seed`.
    pub seed: Option<i64>,
    /// `n`.
    pub n: Option<u32>,
    /// `presence_penalty`.
    pub presence_penalty: Option<f64>,
    /// `frequency_penalty`.
    pub frequency_penalty: Option<f64>,
}

/// OpenRouter's `provider` object: which providers may serve.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProviderPreferences {
    /// Providers to try first, in this order.
    pub order: Vec<String>,
    /// The only providers allowed; empty: all.
    pub only: Vec<String>,
    /// Providers to leave out.
    pub ignore: Vec<String>,
    /// Whether another model may serve when the first fails; default true.
    pub allow_fallbacks: Option<bool>,
    /// Ceilings on list prices.
    pub max_price: Option<MaxPrice>,
}

/// Ceilings on list prices: USD per million tokens, and USD per request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MaxPrice {
    /// Per million input tokens.
    pub prompt: Option<f64>,
    /// Per million output tokens.
    pub completion: Option<f64>,
    /// Per request.
    pub request: Option<f64>,
}

/// Our own `routing` object. An unknown key inside it is an error.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RoutingExtras {
    /// Least expected quality, in [0,1].
    pub quality_floor: Option<f64>,
    /// How far below the best arm's expected quality is still capable, in [0,1].
    pub quality_margin: Option<f64>,
    /// Most that this request may cost.
    pub max_cost_usd: Option<Usd>,
    /// When the first token must have come, before a hedge is sent.
    pub ttft_budget_ms: Option<u64>,
    /// When the whole answer must have come.
    pub deadline_ms: Option<u64>,
    /// Whether a hedge is allowed.
    pub hedge: Option<bool>,
    /// Whether this request may be used for exploration.
    pub explore: Option<bool>,
    /// The episode this request belongs to; feedback may name it.
    pub episode_id: Option<String>,
    /// The prompt's category, if the client knows it.
    pub category: Option<String>,
}

impl ChatRequest {
    /// The fields of [`body`](Self::body), undecoded, in the order sent. Empty if the body is no JSON object, which
    /// [`parse`] rules out.
    #[must_use]
    pub fn top_level(&self) -> Vec<(Cow<'_, str>, &RawValue)> {
        raw::top_level(&self.body).unwrap_or_default()
    }

    /// A top-level field that this version does not know, as sent.
    #[must_use]
    pub fn extra(&self, key: &str) -> Option<&RawValue> {
        self.extra
            .iter()
            .find(|(name, _)| name == key)
            .map(|(_, raw)| raw.as_ref())
    }
}

impl RoutingExtras {
    /// The time budget, if one was given.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        self.deadline_ms.map(Duration::from_millis)
    }
}
