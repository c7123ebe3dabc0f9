//! OpenAI's shapes, for the answers of providers that have others.

use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::completion::{Chunk, Completion, FinishReason, Signals, Usage, Written};

/// A piece of an answer. What is `None` is left out.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Delta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) role: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) content: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reasoning_content: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tool_calls: Option<[CallDelta<'a>; 1]>,
    /// Anthropic's thoughts with their signatures, to be sent back with the conversation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) thinking_blocks: Option<[&'a Value; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) images: Option<[&'a Value; 1]>,
    /// Gemini's thought signatures, to be sent back with the conversation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) extra_content: Option<&'a Value>,
}

/// A piece of a tool call.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct CallDelta<'a> {
    pub(super) index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) id: Option<&'a str>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub(super) kind: Option<&'a str>,
    pub(super) function: FunctionDelta<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) extra_content: Option<&'a Value>,
}

/// A piece of a function's name and arguments.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct FunctionDelta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<&'a str>,
    pub(super) arguments: &'a str,
}

impl Delta<'_> {
    fn written(&self) -> Written {
        let length = |text: Option<&str>| text.map_or(0, str::len);
        let calls = self.tool_calls.iter().flatten();
        Written {
            text: length(self.content),
            other: calls
                .map(|call| length(call.function.name) + call.function.arguments.len())
                .sum(),
            thoughts: length(self.reasoning_content),
        }
    }
}

/// A chunk of one choice. Signatures alone are nothing for the user.
pub(super) fn chunk(delta: &Delta<'_>) -> Chunk {
    piece(delta, None, None)
}

/// The chunk that says why the answer ended, and at which of the request's stop sequences if the provider told.
pub(super) fn ending(finish: FinishReason, stop_sequence: Option<&str>) -> Chunk {
    piece(&Delta::default(), Some(finish), stop_sequence)
}

fn piece(delta: &Delta<'_>, finish: Option<FinishReason>, stop_sequence: Option<&str>) -> Chunk {
    #[derive(Serialize)]
    struct Choice<'a> {
        index: u32,
        delta: &'a Delta<'a>,
        finish_reason: Option<FinishReason>,
        #[serde(skip_serializing_if = "Option::is_none")]
        stop_sequence: Option<&'a str>,
    }
    let filled = |text: Option<&str>| text.is_some_and(|text| !text.is_empty());
    Chunk {
        choices: raw(&[Choice {
            index: 0,
            delta,
            finish_reason: finish,
            stop_sequence,
        }]),
        extra: Vec::new(),
        meaningful: filled(delta.content)
            || filled(delta.reasoning_content)
            || delta.tool_calls.is_some()
            || delta.images.is_some(),
        written: delta.written(),
        usage: None,
    }
}

fn raw(value: &impl Serialize) -> Box<RawValue> {
    // Plain structures with string keys always serialise.
    serde_json::value::to_raw_value(value).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

/// A whole answer that is being put together.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) text: String,
    pub(super) reasoning: String,
    pub(super) thinking_blocks: Vec<Value>,
    pub(super) calls: Vec<Value>,
    pub(super) images: Vec<Value>,
    pub(super) extra_content: Option<Value>,
}

/// What is known of an answer besides its content.
pub(super) struct Facts {
    pub(super) upstream_id: Option<String>,
    pub(super) finish: FinishReason,
    /// The stop sequence of the request at which it ended, where the provider tells: OpenAI's `stop` does not.
    pub(super) stop_sequence: Option<String>,
    pub(super) usage: Option<Usage>,
    pub(super) usage_extra: Option<Value>,
    /// Whether JSON was asked for.
    pub(super) json_asked: bool,
}

/// A call of a tool, OpenAI-shaped.
pub(super) fn call(id: &str, name: &str, arguments: &str, extra_content: Option<Value>) -> Value {
    let mut call = json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}});
    if let Some(extra_content) = extra_content {
        call["extra_content"] = extra_content;
    }
    call
}

impl Answer {
    fn written(&self) -> Written {
        let length = |text: &Value| text.as_str().map_or(0, str::len);
        let functions = self.calls.iter().map(|call| &call["function"]);
        Written {
            text: self.text.len(),
            other: functions
                .map(|function| length(&function["name"]) + length(&function["arguments"]))
                .sum(),
            thoughts: self.reasoning.len(),
        }
    }

    /// The message of this answer.
    pub(super) fn into_completion(self, facts: Facts) -> Completion {
        let has_calls = !self.calls.is_empty();
        let json_valid = (facts.json_asked && !has_calls)
            .then(|| serde_json::from_str::<serde::de::IgnoredAny>(&self.text).is_ok());
        let signals = Signals {
            written: self.written(),
            tool_calls: u32::try_from(self.calls.len()).unwrap_or(u32::MAX),
            invalid_tool_calls: 0,
            refused: facts.finish == FinishReason::ContentFilter && self.text.is_empty(),
            json_valid,
        };
        let mut message = Map::new();
        message.insert("role".into(), "assistant".into());
        let content = if self.text.is_empty() && has_calls {
            Value::Null
        } else {
            self.text.into()
        };
        message.insert("content".into(), content);
        if !self.reasoning.is_empty() {
            message.insert("reasoning_content".into(), self.reasoning.into());
        }
        let lists = [
            ("thinking_blocks", self.thinking_blocks),
            ("tool_calls", self.calls),
            ("images", self.images),
        ];
        for (key, list) in lists {
            if !list.is_empty() {
                message.insert(key.into(), list.into());
            }
        }
        if let Some(extra_content) = self.extra_content {
            message.insert("extra_content".into(), extra_content);
        }
        let mut choice =
            json!({"index": 0, "message": message, "logprobs": null, "finish_reason": facts.finish});
        if let Some(sequence) = facts.stop_sequence {
            choice["stop_sequence"] = sequence.into();
        }
        Completion {
            upstream_id: facts.upstream_id,
            choices: raw(&[choice]),
            extra: Vec::new(),
            usage: facts.usage,
            usage_extra: facts.usage_extra,
            finish: facts.finish,
            signals,
        }
    }
}
