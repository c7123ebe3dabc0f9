//! A simulated answer in OpenAI's shape, whole or in pieces.

use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};

use super::answer::{Answer, Content};
use crate::completion::{Chunk, Completion, FinishReason, Signals, StreamEvent};
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
    let choices: Vec<Value> = (0..answer.copies)
        .map(|index| json!({"index": index, "message": message, "logprobs": null, "finish_reason": answer.finish}))
        .collect();
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

fn signals(answer: &Answer) -> Signals {
    match &answer.content {
        Content::Text(text) => Signals {
            text_bytes: text.len(),
            json_valid: answer.json.then(|| serde_json::from_str::<Value>(text).is_ok()),
            ..Signals::default()
        },
        Content::Call { .. } => Signals {
            tool_calls: 1,
            ..Signals::default()
        },
    }
}

/// The answer in pieces, its end included.
pub(super) fn events(answer: &Answer) -> Result<Vec<StreamEvent>, AttemptError> {
    let mut events = Vec::new();
    for index in 0..answer.copies {
        let piece = |delta: Value, finish: Option<FinishReason>, text_bytes: usize, meaningful: bool| {
            let choices =
                json!([{"index": index, "delta": delta, "logprobs": null, "finish_reason": finish}]);
            raw(&choices).map(|choices| {
                StreamEvent::Chunk(Chunk {
                    choices,
                    extra: Vec::new(),
                    meaningful,
                    text_bytes,
                    usage: None,
                })
            })
        };
        match &answer.content {
            Content::Text(text) => {
                events.push(piece(
                    json!({"role": "assistant", "content": ""}),
                    None,
                    0,
                    false,
                )?);
                for words in pieces(text) {
                    events.push(piece(json!({"content": words}), None, words.len(), true)?);
                }
            }
            Content::Call { name, arguments } => {
                let call = |function: Value| json!({"tool_calls": [{"index": 0, "function": function}]});
                let mut opening = call(json!({"name": name, "arguments": ""}));
                opening["role"] = json!("assistant");
                opening["tool_calls"][0]["id"] = json!(call_id(answer));
                opening["tool_calls"][0]["type"] = json!("function");
                events.push(piece(opening, None, 0, true)?);
                for part in pieces(arguments) {
                    events.push(piece(call(json!({"arguments": part})), None, 0, true)?);
                }
            }
        }
        events.push(piece(json!({}), Some(answer.finish), 0, false)?);
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
