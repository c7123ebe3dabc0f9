//! OpenAI's answer shapes, written straight into bytes: the pieces a provider sent are copied, never parsed again.

use std::fmt::Write as _;

use bytes::{BufMut, Bytes, BytesMut};
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::completion::{Chunk, Completion, Usage};
use crate::units::Usd;

/// What every frame of one answer has in common.
#[derive(Clone, Debug)]
pub struct Envelope {
    /// `chatcmpl-<decision id>`.
    pub id: String,
    /// The arm that serves.
    pub model: String,
    /// Seconds since 1970.
    pub created: i64,
}

/// A whole answer as JSON.
#[must_use]
pub fn completion(
    envelope: &Envelope,
    answer: &Completion,
    cost: Option<Usd>,
    metadata: Option<&Value>,
) -> Bytes {
    let mut out = BytesMut::with_capacity(answer.choices.get().len() + 512);
    head(&mut out, envelope, "chat.completion");
    field(&mut out, "choices", answer.choices.get());
    extra(&mut out, &answer.extra);
    if let Some(tokens) = &answer.usage {
        value(
            &mut out,
            "usage",
            &usage(tokens, answer.usage_extra.clone(), cost),
        );
    }
    if let Some(metadata) = metadata {
        value(&mut out, "router_metadata", metadata);
    }
    out.put_u8(b'}');
    out.freeze()
}

/// Vectors as OpenAI's list; `data` as the provider sent it.
#[must_use]
pub fn embeddings(model: &str, data: &RawValue, usage: &Value, metadata: Option<&Value>) -> Bytes {
    let mut out = BytesMut::with_capacity(data.get().len() + 256);
    out.put_slice(b"{\"object\":\"list\"");
    field(&mut out, "data", data.get());
    value(&mut out, "model", &model.into());
    value(&mut out, "usage", usage);
    if let Some(metadata) = metadata {
        value(&mut out, "router_metadata", metadata);
    }
    out.put_u8(b'}');
    out.freeze()
}

/// One streamed piece as an SSE frame.
pub fn chunk(out: &mut BytesMut, envelope: &Envelope, piece: &Chunk) {
    out.put_slice(b"data: ");
    head(out, envelope, "chat.completion.chunk");
    field(out, "choices", piece.choices.get());
    extra(out, &piece.extra);
    out.put_slice(b"}\n\n");
}

/// The last frame of a stream: tokens, cost and, on request, the decision. `asked` is whether the client asked
/// for usage. Without asking, code that reads `choices[0]` of every chunk must go on working, so the choice is there.
pub fn usage_chunk(
    out: &mut BytesMut,
    envelope: &Envelope,
    tokens: Value,
    metadata: Option<&Value>,
    asked: bool,
) {
    out.put_slice(b"data: ");
    head(out, envelope, "chat.completion.chunk");
    let choices = if asked {
        "[]"
    } else {
        r#"[{"index":0,"delta":{},"finish_reason":null}]"#
    };
    field(out, "choices", choices);
    value(out, "usage", &tokens);
    if let Some(metadata) = metadata {
        value(out, "router_metadata", metadata);
    }
    out.put_slice(b"}\n\n");
}

/// An error after the first byte: an event, then the end.
pub fn error_frame(out: &mut BytesMut, envelope: &Envelope, error: &Value) {
    out.put_slice(b"data: ");
    head(out, envelope, "chat.completion.chunk");
    value(out, "error", error);
    field(
        out,
        "choices",
        r#"[{"index":0,"delta":{"content":""},"finish_reason":"error"}]"#,
    );
    out.put_slice(b"}\n\n");
}

/// The end of every stream.
pub const DONE: &[u8] = b"data: [DONE]\n\n";

/// `usage` as OpenAI's, with `cost` in dollars beside it and whatever else the provider counted.
#[must_use]
pub fn usage(tokens: &Usage, more: Option<Value>, cost: Option<Usd>) -> Value {
    let mut usage = match more {
        Some(Value::Object(fields)) => fields,
        _ => Map::new(),
    };
    usage.insert("prompt_tokens".into(), tokens.input.into());
    usage.insert("completion_tokens".into(), tokens.output.into());
    usage.insert("total_tokens".into(), (tokens.input + tokens.output).into());
    merge(
        &mut usage,
        "prompt_tokens_details",
        [
            ("cached_tokens", tokens.cached_input),
            (
                "cache_write_tokens",
                tokens.cache_write_5m + tokens.cache_write_1h,
            ),
            ("audio_tokens", tokens.audio_input),
        ],
    );
    merge(
        &mut usage,
        "completion_tokens_details",
        [
            ("reasoning_tokens", tokens.reasoning),
            ("audio_tokens", tokens.audio_output),
        ],
    );
    if tokens.estimated {
        usage.insert("estimated".into(), true.into());
    }
    usage.insert(
        "cost".into(),
        cost.map_or(Value::Null, |cost| cost.dollars().into()),
    );
    Value::Object(usage)
}

fn merge<const N: usize>(usage: &mut Map<String, Value>, name: &str, ours: [(&str, u64); N]) {
    let entry = usage.entry(name).or_insert_with(|| Value::Object(Map::new()));
    if !entry.is_object() {
        *entry = Value::Object(Map::new());
    }
    if let Value::Object(entry) = entry {
        entry.extend(ours.map(|(name, tokens)| (name.to_owned(), tokens.into())));
    }
}

fn head(out: &mut BytesMut, envelope: &Envelope, object: &str) {
    out.put_slice(b"{\"id\":");
    json_string(out, &envelope.id);
    let _ = write!(
        out,
        ",\"object\":\"{object}\",\"created\":{},\"model\":",
        envelope.created
    );
    json_string(out, &envelope.model);
}

fn field(out: &mut BytesMut, name: &str, json: &str) {
    let _ = write!(out, ",\"{name}\":{json}");
}

fn value(out: &mut BytesMut, name: &str, value: &Value) {
    let _ = write!(out, ",\"{name}\":");
    // Writing into memory cannot fail.
    let _ = serde_json::to_writer(out.writer(), value);
}

fn extra(out: &mut BytesMut, fields: &[(String, Box<RawValue>)]) {
    for (name, json) in fields {
        out.put_u8(b',');
        json_string(out, name);
        out.put_u8(b':');
        out.put_slice(json.get().as_bytes());
    }
}

fn json_string(out: &mut BytesMut, text: &str) {
    let mut serializer = serde_json::Serializer::new(out.writer());
    let _ = text.serialize(&mut serializer);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::completion::{FinishReason, Signals};

    fn envelope() -> Envelope {
        Envelope {
            id: "chatcmpl-1".into(),
            model: "a/\"b\"".into(),
            created: 7,
        }
    }

    fn raw(json: &str) -> Box<RawValue> {
        RawValue::from_string(json.into()).unwrap()
    }

    #[test]
    fn a_completion_keeps_the_providers_fields_and_adds_the_cost() {
        let answer = Completion {
            upstream_id: None,
            choices: raw(r#"[{"index":0,"x":[1, 2]}]"#),
            extra: vec![("system_fingerprint".into(), raw("\"fp\""))],
            usage: Some(Usage {
                input: 10,
                cached_input: 4,
                output: 3,
                ..Usage::default()
            }),
            usage_extra: Some(json!({"prompt_tokens_details": {"image_tokens": 2}, "queue_time": 0.5})),
            finish: FinishReason::Stop,
            signals: Signals::default(),
        };
        let body = completion(&envelope(), &answer, Some(Usd::from_nanos(1_500)), None);
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["model"], "a/\"b\"");
        assert_eq!(body["choices"][0]["x"], json!([1, 2]));
        assert_eq!(body["system_fingerprint"], "fp");
        assert_eq!(body["usage"]["total_tokens"], 13);
        assert_eq!(body["usage"]["cost"], 0.000_001_5);
        assert_eq!(body["usage"]["queue_time"], 0.5);
        let details = &body["usage"]["prompt_tokens_details"];
        assert_eq!(
            (&details["cached_tokens"], &details["image_tokens"]),
            (&json!(4), &json!(2))
        );
    }

    #[test]
    fn the_last_frame_has_a_choice_unless_usage_was_asked_for() {
        for (asked, choices) in [(true, 0), (false, 1)] {
            let mut out = BytesMut::new();
            usage_chunk(&mut out, &envelope(), json!({"cost": null}), None, asked);
            let text = std::str::from_utf8(&out).unwrap();
            let json = text
                .strip_prefix("data: ")
                .and_then(|text| text.strip_suffix("\n\n"))
                .unwrap();
            let frame: Value = serde_json::from_str(json).unwrap();
            assert_eq!(frame["choices"].as_array().unwrap().len(), choices);
        }
    }
}
