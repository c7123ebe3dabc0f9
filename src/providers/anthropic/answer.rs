//! Anthropic's whole answers.

use serde_json::{Map, Value};

use crate::completion::{Completion, FinishReason, Usage};
use crate::failure::AttemptError;
use crate::providers::fault::{self, Wire};
use crate::providers::shape::{self, Answer, Facts};

/// Reads a message.
pub(super) fn read(wire: &Wire, body: &[u8], json_asked: bool) -> Result<Completion, AttemptError> {
    let value: Value =
        serde_json::from_slice(body).map_err(|_| fault::nonsense(wire, "something that is no JSON"))?;
    if value["type"] == "error" || value.get("error").is_some_and(|error| !error.is_null()) {
        return Err(fault::inside(wire, body));
    }
    let Some(blocks) = value["content"].as_array() else {
        return Err(fault::nonsense(wire, "JSON that holds no answer"));
    };
    let mut answer = Answer::default();
    for block in blocks {
        let text = |key: &str| block[key].as_str().unwrap_or_default();
        match text("type") {
            "text" => answer.text.push_str(text("text")),
            "thinking" => {
                answer.reasoning.push_str(text("thinking"));
                answer.thinking_blocks.push(block.clone());
            }
            "redacted_thinking" => answer.thinking_blocks.push(block.clone()),
            "tool_use" => {
                let arguments = block["input"].to_string();
                answer
                    .calls
                    .push(shape::call(text("id"), text("name"), &arguments, None));
            }
            _ => {}
        }
    }
    let mut usage = UsageCount::default();
    usage.update(&value["usage"]);
    Ok(answer.into_completion(Facts {
        upstream_id: value["id"].as_str().map(str::to_owned),
        finish: finish(value["stop_reason"].as_str().unwrap_or("end_turn")),
        stop_sequence: value["stop_sequence"].as_str().map(str::to_owned),
        usage: usage.read(),
        usage_extra: usage.extra(),
        json_asked,
    }))
}

/// What a `stop_reason` means.
pub(super) fn finish(word: &str) -> FinishReason {
    match word {
        "max_tokens" | "model_context_window_exceeded" => FinishReason::Length,
        "tool_use" => FinishReason::ToolCalls,
        "refusal" => FinishReason::ContentFilter,
        // end_turn, stop_sequence, pause_turn, and what may come.
        _ => FinishReason::Stop,
    }
}

/// Usage as it is told: once with a whole answer, in running totals with a stream.
#[derive(Debug, Default)]
pub(super) struct UsageCount(Map<String, Value>);

impl UsageCount {
    /// Takes what is told; later numbers replace earlier ones.
    pub(super) fn update(&mut self, usage: &Value) {
        for (key, value) in usage.as_object().into_iter().flatten() {
            if !value.is_null() {
                self.0.insert(key.clone(), value.clone());
            }
        }
    }

    /// Anthropic counts what it read from and wrote to a cache outside of `input_tokens`; with us they are inside.
    /// Writes that are not told apart are the default, five minutes.
    pub(super) fn read(&self) -> Option<Usage> {
        let count = |key: &str| self.0.get(key).and_then(Value::as_u64);
        if count("input_tokens").is_none() && count("output_tokens").is_none() {
            return None;
        }
        let read = count("cache_read_input_tokens").unwrap_or(0);
        let written = count("cache_creation_input_tokens").unwrap_or(0);
        let by_life = |key: &str| self.0.get("cache_creation").and_then(|apart| apart[key].as_u64());
        let hour = by_life("ephemeral_1h_input_tokens").unwrap_or(0);
        let minutes = by_life("ephemeral_5m_input_tokens").unwrap_or_else(|| written.saturating_sub(hour));
        let output = count("output_tokens").unwrap_or(0);
        let reasoning = self
            .0
            .get("output_tokens_details")
            .and_then(|apart| apart["thinking_tokens"].as_u64());
        Some(Usage {
            input: count("input_tokens").unwrap_or(0) + read + minutes + hour,
            cached_input: read,
            cache_write_5m: minutes,
            cache_write_1h: hour,
            output,
            reasoning: reasoning.unwrap_or(0).min(output),
            ..Usage::default()
        })
    }

    /// What else is told: the tier, the provider's own tools.
    pub(super) fn extra(&self) -> Option<Value> {
        let extra: Map<String, Value> = self
            .0
            .iter()
            .filter(|(key, _)| !key.contains("tokens") && *key != "cache_creation")
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        (!extra.is_empty()).then_some(Value::Object(extra))
    }
}
