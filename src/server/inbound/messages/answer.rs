//! From chat's answers to Anthropic's Messages.

use serde_json::{Map, Value, json};

use crate::server::inbound::{Dialect, Events, id_with};

/// Says one answer.
#[derive(Default)]
pub struct Speaker {
    has_begun: bool,
    /// The block that is open.
    open: Open,
    /// Blocks begun.
    blocks: usize,
    stop_reason: Option<&'static str>,
    stop_sequence: Option<String>,
}

#[derive(Default, PartialEq)]
enum Open {
    #[default]
    Nothing,
    Text,
    Thoughts,
    /// A call, by its place among the answer's calls.
    Call(u64),
}

impl Dialect for Speaker {
    fn whole(&mut self, answer: &Value) -> Value {
        let choice = &answer["choices"][0];
        let message = &choice["message"];
        let mut content: Vec<Value> = message["thinking_blocks"].as_array().cloned().unwrap_or_default();
        let reasoning = reasoning(message);
        if content.is_empty() && !reasoning.is_empty() {
            content.push(json!({"type": "thinking", "thinking": reasoning, "signature": ""}));
        }
        let refusal = message["refusal"].as_str().unwrap_or_default();
        for text in [said(message).as_str(), refusal] {
            if !text.is_empty() {
                content.push(json!({"type": "text", "text": text}));
            }
        }
        for call in message["tool_calls"].as_array().into_iter().flatten() {
            let function = &call["function"];
            content.push(json!({
                "type": "tool_use", "id": call["id"], "name": function["name"],
                "input": input(function["arguments"].as_str().unwrap_or_default()),
            }));
        }
        let stop_reason = match choice["finish_reason"].as_str() {
            _ if !refusal.is_empty() => "refusal",
            word => stop_reason(word.unwrap_or_default()),
        };
        let (stop_reason, stop_sequence) = stopped(stop_reason, choice["stop_sequence"].as_str());
        let mut whole = json!({
            "id": id_with("msg_", answer), "type": "message", "role": "assistant", "model": answer["model"],
            "content": content, "stop_reason": stop_reason, "stop_sequence": stop_sequence,
            "usage": usage(&answer["usage"]),
        });
        if let Some(metadata) = answer.get("router_metadata") {
            whole["router_metadata"] = metadata.clone();
        }
        whole
    }

    fn chunk(&mut self, chunk: &Value, out: &mut Events) {
        if chunk["error"].is_object() {
            out.push("error", &error(&chunk["error"]));
            return;
        }
        if !std::mem::replace(&mut self.has_begun, true) {
            let message = json!({
                "id": id_with("msg_", chunk), "type": "message", "role": "assistant", "model": chunk["model"],
                "content": [], "stop_reason": null, "stop_sequence": null,
                "usage": {"input_tokens": 0, "output_tokens": 0},
            });
            out.push(
                "message_start",
                &json!({"type": "message_start", "message": message}),
            );
        }
        let first = &chunk["choices"][0];
        if first.is_object() {
            self.delta(&first["delta"], out);
            if let Some(word) = first["finish_reason"].as_str() {
                self.stop_reason.get_or_insert_with(|| stop_reason(word));
            }
            // A whole answer out of the cache tells it before its reason.
            if let Some(sequence) = first["stop_sequence"].as_str() {
                self.stop_sequence = Some(sequence.to_owned());
            }
        }
        if chunk["usage"].is_object() {
            self.end(chunk, out);
        }
    }

    fn keepalive(&mut self, out: &mut Events) {
        out.push("ping", &json!({"type": "ping"}));
    }
}

impl Speaker {
    fn delta(&mut self, delta: &Value, out: &mut Events) {
        let reasoning = reasoning(delta);
        if !reasoning.is_empty() {
            let empty = json!({"type": "thinking", "thinking": "", "signature": ""});
            self.open(Open::Thoughts, &empty, out);
            self.grow(&json!({"type": "thinking_delta", "thinking": reasoning}), out);
        }
        for block in delta["thinking_blocks"].as_array().into_iter().flatten() {
            self.thoughts(block, out);
        }
        for text in [
            said(delta).as_str(),
            delta["refusal"].as_str().unwrap_or_default(),
        ] {
            if !text.is_empty() {
                self.open(Open::Text, &json!({"type": "text", "text": ""}), out);
                self.grow(&json!({"type": "text_delta", "text": text}), out);
            }
        }
        if delta["refusal"]
            .as_str()
            .is_some_and(|refusal| !refusal.is_empty())
        {
            self.stop_reason = Some("refusal");
        }
        for call in delta["tool_calls"].as_array().into_iter().flatten() {
            self.call(call, out);
        }
    }

    /// A finished block of thoughts: what it says has come in pieces before, its signature comes now.
    fn thoughts(&mut self, block: &Value, out: &mut Events) {
        if block["type"] == "redacted_thinking" {
            self.close(out);
            self.begin(block, out);
            self.close_last(out);
            return;
        }
        if self.open != Open::Thoughts {
            let empty = json!({"type": "thinking", "thinking": "", "signature": ""});
            self.open(Open::Thoughts, &empty, out);
            self.grow(
                &json!({"type": "thinking_delta", "thinking": block["thinking"]}),
                out,
            );
        }
        self.grow(
            &json!({"type": "signature_delta", "signature": block["signature"]}),
            out,
        );
        self.close(out);
    }

    fn call(&mut self, call: &Value, out: &mut Events) {
        let place = call["index"].as_u64().unwrap_or(0);
        let function = &call["function"];
        if self.open != Open::Call(place) {
            let block = json!({"type": "tool_use", "id": call["id"], "name": function["name"], "input": {}});
            self.open(Open::Call(place), &block, out);
        }
        let arguments = function["arguments"].as_str().unwrap_or_default();
        if !arguments.is_empty() {
            self.grow(
                &json!({"type": "input_json_delta", "partial_json": arguments}),
                out,
            );
        }
    }

    fn open(&mut self, wanted: Open, block: &Value, out: &mut Events) {
        if self.open != wanted {
            self.close(out);
            self.begin(block, out);
            self.open = wanted;
        }
    }

    fn begin(&mut self, block: &Value, out: &mut Events) {
        let start = json!({"type": "content_block_start", "index": self.blocks, "content_block": block});
        out.push("content_block_start", &start);
        self.blocks += 1;
    }

    fn grow(&self, delta: &Value, out: &mut Events) {
        let index = self.blocks.saturating_sub(1);
        let event = json!({"type": "content_block_delta", "index": index, "delta": delta});
        out.push("content_block_delta", &event);
    }

    fn close(&mut self, out: &mut Events) {
        if std::mem::take(&mut self.open) != Open::Nothing {
            self.close_last(out);
        }
    }

    fn close_last(&self, out: &mut Events) {
        let index = self.blocks.saturating_sub(1);
        let stop = json!({"type": "content_block_stop", "index": index});
        out.push("content_block_stop", &stop);
    }

    fn end(&mut self, chunk: &Value, out: &mut Events) {
        self.close(out);
        let (stop_reason, stop_sequence) = stopped(
            self.stop_reason.unwrap_or("end_turn"),
            self.stop_sequence.as_deref(),
        );
        let mut event = json!({
            "type": "message_delta",
            "delta": {"stop_reason": stop_reason, "stop_sequence": stop_sequence},
            "usage": usage(&chunk["usage"]),
        });
        if let Some(metadata) = chunk.get("router_metadata") {
            event["router_metadata"] = metadata.clone();
        }
        out.push("message_delta", &event);
        out.push("message_stop", &json!({"type": "message_stop"}));
    }
}

/// Visible text: a string, or the texts of a list of parts.
fn said(message: &Value) -> String {
    match &message["content"] {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str()).collect(),
        _ => String::new(),
    }
}

fn reasoning(message: &Value) -> &str {
    let text = |key: &str| message[key].as_str();
    text("reasoning_content")
        .or_else(|| text("reasoning"))
        .unwrap_or_default()
}

/// Arguments as an object; models write some that are none.
fn input(arguments: &str) -> Value {
    match serde_json::from_str(arguments) {
        Ok(Value::Object(input)) => Value::Object(input),
        Ok(Value::Null) | Err(_) if arguments.trim().is_empty() => json!({}),
        _ => json!({"arguments": arguments}),
    }
}

fn stop_reason(finish: &str) -> &'static str {
    match finish {
        "length" => "max_tokens",
        "tool_calls" | "function_call" => "tool_use",
        "content_filter" => "refusal",
        _ => "end_turn",
    }
}

/// The reason with the stop sequence behind it, where the provider told which it was: chat's `stop` is both.
fn stopped<'a>(reason: &'static str, sequence: Option<&'a str>) -> (&'static str, Option<&'a str>) {
    match sequence {
        Some(sequence) if reason == "end_turn" => ("stop_sequence", Some(sequence)),
        _ => (reason, None),
    }
}

/// Anthropic counts what was read from and written to a cache beside `input_tokens`, chat inside of it.
fn usage(chat: &Value) -> Value {
    let count = |value: &Value| value.as_u64().unwrap_or(0);
    let details = &chat["prompt_tokens_details"];
    let (read, written) = (
        count(&details["cached_tokens"]),
        count(&details["cache_write_tokens"]),
    );
    let mut usage = Map::new();
    let input = count(&chat["prompt_tokens"]).saturating_sub(read + written);
    usage.insert("input_tokens".into(), input.into());
    usage.insert("cache_read_input_tokens".into(), read.into());
    usage.insert("cache_creation_input_tokens".into(), written.into());
    usage.insert("output_tokens".into(), count(&chat["completion_tokens"]).into());
    for key in ["cost", "estimated"] {
        if let Some(value) = chat.get(key) {
            usage.insert(key.into(), value.clone());
        }
    }
    usage.into()
}

/// Our error in Anthropic's shape; what else we know of it stays in `metadata`.
pub fn error(error: &Value) -> Value {
    let kind = match error["code"].as_str().unwrap_or_default() {
        "authentication" => "authentication_error",
        "budget_exceeded" => "billing_error",
        "permission_denied" => "permission_error",
        "not_found" => "not_found_error",
        "payload_too_large" => "request_too_large",
        "rate_limit_exceeded" => "rate_limit_error",
        "provider_overloaded" | "no_candidates" => "overloaded_error",
        "timeout" => "timeout_error",
        "server" | "provider_unavailable" => "api_error",
        _ => "invalid_request_error",
    };
    json!({"type": "error", "error": {
        "type": kind, "message": error["message"], "metadata": error["metadata"], "param": error["param"],
    }})
}

#[cfg(test)]
#[path = "answer_tests.rs"]
mod tests;
