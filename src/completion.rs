//! The canonical answer: what any provider's answer becomes before the client, the books or the learner see it.

use std::ops::AddAssign;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

/// Why an answer ended, in OpenAI's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model was done.
    Stop,
    /// The token limit was reached.
    Length,
    /// The model calls tools.
    ToolCalls,
    /// The provider's filter cut it.
    ContentFilter,
}

/// Tokens used by one call. Every provider's own counting is brought to this one rule:
/// `input` *includes* `cached_input`, `cache_write_5m` and `cache_write_1h`; `output` includes `reasoning`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// All input tokens.
    pub input: u64,
    /// Of those: read from the provider's prompt cache.
    pub cached_input: u64,
    /// Of those: written to a five-minute cache.
    pub cache_write_5m: u64,
    /// Of those: written to a one-hour cache.
    pub cache_write_1h: u64,
    /// Of the input: audio.
    pub audio_input: u64,
    /// All output tokens.
    pub output: u64,
    /// Of the output: reasoning that the client does not see.
    pub reasoning: u64,
    /// Of the output: audio.
    pub audio_output: u64,
    /// True when the provider sent no usage and this is our estimate.
    pub estimated: bool,
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Completion {
    /// The provider's id for it.
    pub upstream_id: Option<String>,
    /// OpenAI-shaped `choices`, ready to send.
    pub choices: Box<RawValue>,
    /// Other top-level fields to pass on (`system_fingerprint`, `service_tier`, ...).
    pub extra: Vec<(String, Box<RawValue>)>,
    /// Tokens, when the provider told.
    pub usage: Option<Usage>,
    /// Usage fields beyond ours, as the provider sent them, to be passed on.
    pub usage_extra: Option<Value>,
    /// Why it ended.
    pub finish: FinishReason,
    /// Facts for the free quality signals.
    pub signals: Signals,
}

/// Bytes that a model has written, by what they are: what is known of an answer whose provider tells no tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Visible text.
    pub text: usize,
    /// Refusals, and names and arguments of tool calls.
    pub other: usize,
    /// Reasoning, as far as it is shown.
    pub thoughts: usize,
}

impl AddAssign for Written {
    fn add_assign(&mut self, more: Self) {
        self.text += more.text;
        self.other += more.other;
        self.thoughts += more.thoughts;
    }
}

/// What can be seen of an answer without understanding it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Signals {
    /// What the model has written.
    pub written: Written,
    /// Tool calls made.
    pub tool_calls: u32,
    /// Tool calls whose arguments are not valid JSON.
    pub invalid_tool_calls: u32,
    /// The model refused (OpenAI's `refusal` field).
    pub refused: bool,
    /// A JSON answer was asked for and is not valid JSON; `None` when none was asked for or it is not known.
    pub json_valid: Option<bool>,
}

/// A piece of a streamed answer, OpenAI-shaped.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// `choices` of the chunk, ready to send.
    pub choices: Box<RawValue>,
    /// Other top-level fields to pass on.
    pub extra: Vec<(String, Box<RawValue>)>,
    /// Whether it carries something for the user: text, a refusal, a tool call, audio, reasoning.
    /// Role-only and empty deltas and comments do not commit an answer.
    pub meaningful: bool,
    /// What the model has written in it.
    pub written: Written,
    /// Tokens as the provider has told them up to here, if it told with this piece: what is known of an answer that is
    /// cut off.
    pub usage: Option<Usage>,
}

/// What a stream yields, in order. A stream that ends without `End` was cut off.
#[derive(Clone, Debug)]
pub enum StreamEvent {
    /// A piece of the answer.
    Chunk(Chunk),
    /// The proper end of the answer.
    End {
        /// Why it ended.
        finish: FinishReason,
        /// Tokens, when the provider told.
        usage: Option<Usage>,
        /// Usage fields beyond ours, to be passed on.
        usage_extra: Option<Value>,
    },
}
