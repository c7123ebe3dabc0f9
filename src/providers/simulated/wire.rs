//! A simulated answer in OpenAI's shape, whole or in pieces.

use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};

use super::answer::{Answer, Content};
use crate::completion::{Chunk, Completion, FinishReason, Signals, StreamEvent, Written};
use crate::failure::{AttemptError, FailureKind, FaultSource, Retry};

/// Words in one piece of a stream.
const WORDS_PER_PIECE: usize = 3;

/// The whole answer.
pub(super) fn completion(answer: &Answer) -> Result<Completion, AttemptError> {
    let message = match &answer.content {
        Content::Text(text) => json!({"role": "assistant", "content": text, "refusal": null}),
        Content::Call { name, arguments } => json!({
            "role": "assistant",
            "content": null,
            "tool_calls": [{
                "id": call_id(answer),
                "type": "function",
                "function": {"name": name, "arguments": arguments},
            }],
        }),
    };
    let choice = |index: u32| {
        let mut choice =
            json!({"index": index, "message": message, "logprobs": null, "finish_reason": answer.finish});
        tell_stop(&mut choice, answer);
        choice
    };
    let choices: Vec<Value> = (0..answer.copies).map(choice).collect();
    Ok(Completion {
        upstream_id: Some(answer.id.clone()),
        choices: raw(&choices)?,
        extra: vec![("system_fingerprint".to_owned(), raw(&json!("simulated"))?)],
        usage: Some(answer.usage),
        usage_extra: None,
        finish: answer.finish,
        signals: signals(answer),
    })
}

/// Only Anthropic's format has a place for it; here it stands where the adapters put it.
fn tell_stop(choice: &mut Value, answer: &Answer) {
    if let Some(stop) = &answer.stop {
        choice["stop_sequence"] = json!(stop);
    }
}

fn signals(answer: &Answer) -> Signals {
    match &answer.content {
        Content::Text(text) => Signals {
            written: written(text.len(), 0),
            json_valid: answer.json.then(|| serde_json::from_str::<Value>(text).is_ok()),
            ..Signals::default()
        },
        Content::Call { name, arguments } => Signals {
            written: written(0, name.len() + arguments.len()),
            tool_calls: 1,
            ..Signals::default()
        },
    }
}

fn written(text: usize, other: usize) -> Written {
    Written {
        text,
        other,
        thoughts: 0,
    }
}

/// The answer in pieces, its end included.
pub(super) fn events(answer: &Answer) -> Result<Vec<StreamEvent>, AttemptError> {
    let mut events = Vec::new();
    for index in 0..answer.copies {
        let piece = |delta: Value, finish: Option<FinishReason>, written: Written| {
            let mut choice =
                json!({"index": index, "delta": delta, "logprobs": null, "finish_reason": finish});
            if finish.is_some() {
                tell_stop(&mut choice, answer);
            }
            raw(&[choice]).map(|choices| {
                StreamEvent::Chunk(Chunk {
                    choices,
                    extra: Vec::new(),
                    meaningful: written != Written::default(),
                    written,
                    usage: None,
                })
            })
        };
        let nothing = Written::default();
        match &answer.content {
            Content::Text(text) => {
                events.push(piece(json!({"role": "assistant", "content": ""}), None, nothing)?);
                for words in pieces(text) {
                    events.push(piece(json!({"content": words}), None, written(words.len(), 0))?);
                }
            }
            Content::Call { name, arguments } => {
                let call = |function: Value| json!({"tool_calls": [{"index": 0, "function": function}]});
                let mut opening = call(json!({"name": name, "arguments": ""}));
                opening["role"] = json!("assistant");
                opening["tool_calls"][0]["id"] = json!(call_id(answer));
                opening["tool_calls"][0]["type"] = json!("function");
                events.push(piece(opening, None, written(0, name.len()))?);
                for part in pieces(arguments) {
                    events.push(piece(
                        call(json!({"arguments": part})),
                        None,
                        written(0, part.len()),
                    )?);
                }
            }
        }
        events.push(piece(json!({}), Some(answer.finish), nothing)?);
    }
    events.push(StreamEvent::End {
        finish: answer.finish,
        usage: Some(answer.usage),
        usage_extra: None,
    });
    Ok(events)
}

/// Cuts behind every third space; nothing is lost.
fn pieces(text: &str) -> Vec<&str> {
    let mut pieces = Vec::new();
    let (mut start, mut spaces) = (0, 0);
    for (at, _) in text.match_indices(' ') {
        spaces += 1;
        if spaces == WORDS_PER_PIECE {
            pieces.push(&text[start..=at]);
            (start, spaces) = (at + 1, 0);
        }
    }
    if start < text.len() {
        pieces.push(&text[start..]);
    }
    pieces
}

fn call_id(answer: &Answer) -> String {
    format!("call_{}", answer.id)
}

fn raw<T: serde::Serialize>(value: &T) -> Result<Box<RawValue>, AttemptError> {
    to_raw_value(value).map_err(|error| AttemptError {
        kind: FailureKind::Server,
        fault: FaultSource::Internal,
        retry: Retry::No,
        retry_after: None,
        quota_exhausted: false,
        may_be_billed: true,
        message: format!("a simulated answer could not be written as JSON: {error}"),
        provider_code: None,
    })
}
