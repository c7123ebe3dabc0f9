//! An answer that came in chunks, as a whole; and one that came as a whole, in chunks: so that who asks for the one is
//! given what was answered to who asked for the other.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value, json};

use super::{Body, Entry};
use crate::completion::{Chunk, Completion, Signals, Written};

/// Fields of a delta whose pieces are put together.
const TEXTS: [&str; 4] = ["content", "refusal", "reasoning_content", "reasoning"];
/// Fields of a delta whose lists are strung together.
const LISTS: [&str; 4] = ["thinking_blocks", "images", "annotations", "reasoning_details"];
/// Fields of a delta of which the last one counts.
const SINGLES: [&str; 2] = ["role", "extra_content"];

/// The answer as a whole. `None`: something in it has no known place there.
#[must_use]
pub fn whole(entry: &Arc<Entry>) -> Option<Arc<Entry>> {
    let Body::Streamed {
        chunks,
        usage,
        usage_extra,
        finish,
    } = &entry.body
    else {
        return Some(Arc::clone(entry));
    };
    let mut choices: BTreeMap<u64, Choice> = BTreeMap::new();
    let mut extra: Vec<(String, Box<RawValue>)> = Vec::new();
    for chunk in chunks {
        for choice in serde_json::from_str::<Vec<Value>>(chunk.choices.get()).ok()? {
            let index = choice["index"].as_u64().unwrap_or(0);
            choices.entry(index).or_default().add(choice)?;
        }
        for (name, json) in &chunk.extra {
            extra.retain(|(known, _)| known != name);
            extra.push((name.clone(), json.clone()));
        }
    }
    let mut signals = Signals::default();
    let choices: Vec<Value> = choices
        .into_iter()
        .map(|(index, choice)| choice.close(index, &mut signals))
        .collect();
    let completion = Completion {
        upstream_id: None,
        choices: to_raw_value(&choices).ok()?,
        extra,
        usage: *usage,
        usage_extra: usage_extra.clone(),
        finish: *finish,
        signals,
    };
    Some(with(entry, Body::Whole(Box::new(completion))))
}

/// The answer in chunks: what each choice says, then why it ended. `None`: something in it has no known place there.
#[must_use]
pub fn streamed(entry: &Arc<Entry>) -> Option<Arc<Entry>> {
    let Body::Whole(completion) = &entry.body else {
        return Some(Arc::clone(entry));
    };
    let mut said = Vec::new();
    let mut ends = Vec::new();
    for choice in serde_json::from_str::<Vec<Value>>(completion.choices.get()).ok()? {
        let Value::Object(mut choice) = choice else {
            return None;
        };
        let Some(Value::Object(mut delta)) = choice.shift_remove("message") else {
            return None;
        };
        // Sound is streamed in pieces of another shape.
        if delta.get("audio").is_some_and(|audio| !audio.is_null()) {
            return None;
        }
        if let Some(Value::Array(calls)) = delta.get_mut("tool_calls") {
            for (place, call) in calls.iter_mut().enumerate() {
                call.as_object_mut()?.entry("index").or_insert(place.into());
            }
        }
        let index = choice.get("index").cloned().unwrap_or_else(|| 0.into());
        let finish = choice.insert("finish_reason".into(), Value::Null);
        choice.insert("delta".into(), delta.into());
        said.push(Value::Object(choice));
        ends.push(json!({"index": index, "delta": {}, "finish_reason": finish}));
    }
    let chunk = |choices: &[Value], written: Written| {
        Some(Chunk {
            choices: to_raw_value(choices).ok()?,
            extra: completion.extra.clone(),
            meaningful: written != Written::default(),
            written,
            usage: None,
        })
    };
    let body = Body::Streamed {
        chunks: vec![
            chunk(&said, completion.signals.written)?,
            chunk(&ends, Written::default())?,
        ],
        usage: completion.usage,
        usage_extra: completion.usage_extra.clone(),
        finish: completion.finish,
    };
    Some(with(entry, body))
}

fn with(entry: &Entry, body: Body) -> Arc<Entry> {
    Arc::new(Entry {
        origin: entry.origin.clone(),
        body,
        cost: entry.cost,
        at: entry.at,
    })
}

/// A choice while its pieces are put together.
#[derive(Default)]
struct Choice {
    message: Map<String, Value>,
    calls: BTreeMap<u64, Map<String, Value>>,
    others: Map<String, Value>,
}

impl Choice {
    fn add(&mut self, choice: Value) -> Option<()> {
        let Value::Object(choice) = choice else {
            return None;
        };
        for (name, value) in choice {
            match (name.as_str(), value) {
                ("index", _) | (_, Value::Null) => {}
                ("delta", Value::Object(delta)) => self.say(delta)?,
                ("logprobs", Value::Object(more)) => {
                    let known = self.others.entry("logprobs").or_insert_with(|| json!({}));
                    for (list, items) in more {
                        append(known.as_object_mut()?, &list, items)?;
                    }
                }
                (_, value) => {
                    self.others.insert(name, value);
                }
            }
        }
        Some(())
    }

    fn say(&mut self, delta: Map<String, Value>) -> Option<()> {
        for (name, value) in delta {
            match (name.as_str(), value) {
                (_, Value::Null) => {}
                ("tool_calls", Value::Array(calls)) => {
                    calls.into_iter().try_for_each(|call| self.call(call))?;
                }
                (text, Value::String(piece)) if TEXTS.contains(&text) => {
                    join(&mut self.message, text, &piece)?;
                }
                (list, items) if LISTS.contains(&list) => append(&mut self.message, list, items)?,
                (single, value) if SINGLES.contains(&single) => {
                    self.message.insert(name, value);
                }
                _ => return None,
            }
        }
        Some(())
    }

    fn call(&mut self, piece: Value) -> Option<()> {
        let Value::Object(piece) = piece else { return None };
        let next = self.calls.len() as u64;
        let index = piece.get("index").and_then(Value::as_u64).unwrap_or(next);
        let call = self.calls.entry(index).or_default();
        for (name, value) in piece {
            match (name.as_str(), value) {
                ("index", _) | (_, Value::Null) => {}
                ("function", Value::Object(more)) => {
                    let function = call.entry("function").or_insert_with(|| json!({}));
                    let function = function.as_object_mut()?;
                    for (part, value) in more {
                        match (part.as_str(), value) {
                            (_, Value::Null) => {}
                            ("arguments", Value::String(text)) => join(function, "arguments", &text)?,
                            (_, value) => {
                                function.entry(part).or_insert(value);
                            }
                        }
                    }
                }
                (_, value) => {
                    call.entry(name).or_insert(value);
                }
            }
        }
        Some(())
    }

    fn close(mut self, index: u64, signals: &mut Signals) -> Value {
        let text = self.message.get("content").and_then(Value::as_str);
        signals.written.text += text.map_or(0, str::len);
        signals.tool_calls += u32::try_from(self.calls.len()).unwrap_or(u32::MAX);
        signals.refused |= self.message.contains_key("refusal");
        let mut message = Map::new();
        message.insert("role".into(), "assistant".into());
        message.insert("content".into(), Value::Null);
        message.append(&mut self.message);
        if !self.calls.is_empty() {
            let calls: Vec<Value> = self.calls.into_values().map(Value::Object).collect();
            message.insert("tool_calls".into(), calls.into());
        }
        let mut choice = Map::new();
        choice.insert("index".into(), index.into());
        choice.insert("message".into(), message.into());
        choice.insert("logprobs".into(), Value::Null);
        choice.insert("finish_reason".into(), Value::Null);
        choice.append(&mut self.others);
        Value::Object(choice)
    }
}

/// Puts a piece behind the text that is there.
fn join(fields: &mut Map<String, Value>, name: &str, piece: &str) -> Option<()> {
    match fields.entry(name).or_insert_with(|| "".into()) {
        Value::String(text) => text.push_str(piece),
        _ => return None,
    }
    Some(())
}

/// Puts items behind the list that is there.
fn append(fields: &mut Map<String, Value>, name: &str, items: Value) -> Option<()> {
    match (fields.entry(name).or_insert_with(|| json!([])), items) {
        (_, Value::Null) => {}
        (Value::Array(list), Value::Array(mut items)) => list.append(&mut items),
        _ => return None,
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arm::ArmId;
    use crate::cache::Origin;
    use crate::completion::{FinishReason, Usage};
    use crate::units::{UnixMs, Usd};

    fn entry(body: Body) -> Arc<Entry> {
        Arc::new(Entry {
            origin: Origin {
                decision: Arc::from("d"),
                arm: ArmId::new("p/m"),
                provider: Arc::from("p"),
                category: Arc::from(""),
                expected_quality: 0.5,
            },
            body,
            cost: Some(Usd::from_nanos(7)),
            at: UnixMs(1),
        })
    }

    fn stream(choices: &[Value]) -> Arc<Entry> {
        let chunk = |choices: &Value| Chunk {
            choices: to_raw_value(choices).unwrap(),
            extra: vec![("system_fingerprint".into(), to_raw_value("fp").unwrap())],
            meaningful: true,
            written: Written::default(),
            usage: None,
        };
        entry(Body::Streamed {
            chunks: choices.iter().map(chunk).collect(),
            usage: Some(Usage {
                input: 3,
                ..Usage::default()
            }),
            usage_extra: None,
            finish: FinishReason::Stop,
        })
    }

    fn choices(entry: &Entry) -> Value {
        match &entry.body {
            Body::Whole(completion) => serde_json::from_str(completion.choices.get()).unwrap(),
            Body::Streamed { chunks, .. } => chunks
                .iter()
                .map(|chunk| serde_json::from_str::<Value>(chunk.choices.get()).unwrap())
                .collect(),
        }
    }

    #[test]
    fn pieces_of_text_calls_thoughts_and_probabilities_become_one_message() {
        let streamed = stream(&[
            json!([{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": null}]),
            json!([{"index": 0, "delta": {"reasoning_content": "hm"}}]),
            json!([{"index": 0, "delta": {"content": "Hel"}, "logprobs": {"content": [{"token": "Hel"}]}}]),
            json!([{"index": 1, "delta": {"content": "other"}}]),
            json!([{"index": 0, "delta": {"content": "lo"}, "logprobs": {"content": [{"token": "lo"}]}}]),
            json!([{"index": 0, "delta": {"thinking_blocks": [{"signature": "s"}]}}]),
            json!([{"index": 0, "delta": {"tool_calls": [
                {"index": 0, "id": "c1", "type": "function", "function": {"name": "look", "arguments": ""}}]}}]),
            json!([{"index": 0, "delta": {"tool_calls": [{"index": 0, "function": {"arguments": "{\"at\":"}}]}}]),
            json!([{"index": 0, "delta": {"tool_calls": [{"index": 0, "function": {"arguments": "1}"}}]}}]),
            json!([{"index": 0, "delta": {}, "finish_reason": "tool_calls"}, {"index": 1, "delta": {}, "finish_reason": "stop"}]),
        ]);
        let whole = whole(&streamed).unwrap();
        assert_eq!(
            choices(&whole),
            json!([
                {"index": 0, "message": {
                    "role": "assistant", "content": "Hello", "reasoning_content": "hm",
                    "thinking_blocks": [{"signature": "s"}],
                    "tool_calls": [{"id": "c1", "type": "function",
                        "function": {"name": "look", "arguments": "{\"at\":1}"}}]},
                 "logprobs": {"content": [{"token": "Hel"}, {"token": "lo"}]}, "finish_reason": "tool_calls"},
                {"index": 1, "message": {"role": "assistant", "content": "other"},
                 "logprobs": null, "finish_reason": "stop"},
            ])
        );
        assert_eq!(
            (whole.cost, whole.body.usage().unwrap().input),
            (streamed.cost, 3)
        );
        let Body::Whole(completion) = &whole.body else {
            panic!("not whole");
        };
        assert_eq!(completion.extra[0].0, "system_fingerprint");
        assert_eq!(
            (completion.signals.written.text, completion.signals.tool_calls),
            (10, 1)
        );
    }

    #[test]
    fn there_and_back_again_says_the_same() {
        let first = stream(&[
            json!([{"index": 0, "delta": {"role": "assistant", "content": "Hi"}}]),
            json!([{"index": 0, "delta": {"tool_calls": [
                {"index": 0, "id": "c1", "type": "function", "function": {"name": "a", "arguments": "{}"}},
                {"index": 1, "id": "c2", "type": "function", "function": {"name": "b", "arguments": "{}"}}]}}]),
            json!([{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]),
        ]);
        let once = whole(&first).unwrap();
        let chunks = streamed(&once).unwrap();
        let ends = choices(&chunks);
        assert_eq!(ends[0][0]["delta"]["tool_calls"][1]["index"], 1);
        assert_eq!(ends[0][0]["finish_reason"], Value::Null);
        assert_eq!(ends[1][0]["finish_reason"], "tool_calls");
        assert_eq!(choices(&whole(&chunks).unwrap()), choices(&once));
    }

    #[test]
    fn what_has_no_known_place_is_not_guessed_at() {
        for delta in [
            json!({"content": [{"type": "text", "text": "parts"}]}),
            json!({"audio": {"data": "AAAA"}}),
            json!({"something_new": 1}),
        ] {
            assert!(whole(&stream(&[json!([{"index": 0, "delta": delta}])])).is_none());
        }
        assert!(
            whole(&stream(&[
                json!([{"index": 0, "delta": {"something_new": null}}])
            ]))
            .is_some()
        );
    }
}
