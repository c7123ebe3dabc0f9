//! The client's body with as little changed as each OpenAI-shaped provider needs: known fields are spliced at the
//! top level, everything else goes through byte for byte.

use bytes::Bytes;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::dialect::Dialect;
use super::messages;
use crate::providers::Call;
use crate::request::top_level;

/// Fields that are for this router and not for the provider.
const OURS: [&str; 6] = [
    "models",
    "fallbacks",
    "provider",
    "routing",
    "session_id",
    "anthropic",
];

/// The body for `call`.
pub(super) fn body(call: &Call, dialect: Dialect, stream: bool) -> Bytes {
    let request = &call.request;
    let fields = request.top_level();
    let messages = messages::rewritten(call, dialect);
    let marked_tools = dialect.is_strict() && request.tools.iter().any(|tool| tool.cache_control.is_some());
    let mut out = Out::new(request.body.len() + 128);
    out.value("model", &Value::from(&*call.arm.upstream));
    for (key, raw) in &fields {
        match &**key {
            "model" | "stream" => {}
            "stream_options" if stream => {}
            "messages" if messages.is_some() => {}
            key if OURS.contains(&key) => {}
            "tools" if marked_tools => out.value("tools", &messages::unmarked_tools(raw)),
            "cache_control" if dialect.is_strict() => {}
            key => {
                if let Some(name) = dialect.name_of(key, raw, call) {
                    out.raw(name, raw);
                }
            }
        }
    }
    if let Some(messages) = &messages {
        out.value("messages", messages);
    }
    if stream {
        out.value("stream", &Value::Bool(true));
        if !dialect.tells_usage_unasked() {
            let sent = fields.iter().rev().find(|(key, _)| key == "stream_options");
            out.value("stream_options", &with_usage(sent.map(|(_, raw)| *raw)));
        }
    }
    out.finish()
}

/// A JSON object with `model` replaced; `None` if `body` is no object.
pub(super) fn with_model(body: &[u8], model: &str) -> Option<Bytes> {
    let mut out = Out::new(body.len() + 64);
    out.value("model", &Value::from(model));
    for (key, raw) in top_level(body)? {
        if key != "model" && !OURS.contains(&&*key) {
            out.raw(&key, raw);
        }
    }
    Some(out.finish())
}

/// `stream_options` with the usage asked for: without it a stream cannot be priced.
fn with_usage(sent: Option<&RawValue>) -> Value {
    let mut options = sent
        .and_then(|raw| serde_json::from_str::<Map<String, Value>>(raw.get()).ok())
        .unwrap_or_default();
    options.insert("include_usage".into(), Value::Bool(true));
    Value::Object(options)
}

/// An object written field by field.
struct Out(Vec<u8>);

impl Out {
    fn new(capacity: usize) -> Self {
        let mut bytes = Vec::with_capacity(capacity);
        bytes.push(b'{');
        Self(bytes)
    }

    fn key(&mut self, key: &str) {
        if self.0.len() > 1 {
            self.0.push(b',');
        }
        // Writing a string into memory cannot fail.
        let _ = serde_json::to_writer(&mut self.0, key);
        self.0.push(b':');
    }

    fn raw(&mut self, key: &str, raw: &RawValue) {
        self.key(key);
        self.0.extend_from_slice(raw.get().as_bytes());
    }

    fn value(&mut self, key: &str, value: &Value) {
        self.key(key);
        let _ = serde_json::to_writer(&mut self.0, value);
    }

    fn finish(mut self) -> Bytes {
        self.0.push(b'}');
        self.0.into()
    }
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
