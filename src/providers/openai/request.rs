//! The client's body with as little changed as each OpenAI-shaped provider needs: known fields are spliced at the
//! top level, everything else goes through byte for byte.

use bytes::Bytes;
use reqwest::Url;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::providers::Call;
use crate::request::{ChatRequest, Message, Role, top_level};

/// Fields that are for this router and not for the provider.
const OURS: [&str; 6] = [
    "models",
    "fallbacks",
    "provider",
    "routing",
    "session_id",
    "anthropic",
];

/// Who is behind the wire format, as far as it matters; known by the address. A server that is not known gets the
/// client's fields as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    OpenAi,
    Mistral,
    /// DeepSeek and Qwen: OpenAI's older names.
    Older,
    Other,
}

impl Dialect {
    pub(super) fn of(base: &Url) -> Self {
        let host = base.host_str().unwrap_or_default();
        if host == "api.openai.com" || host.ends_with(".openai.azure.com") {
            Self::OpenAi
        } else if host == "api.mistral.ai" {
            Self::Mistral
        } else if host == "api.deepseek.com"
            || host.starts_with("dashscope") && host.ends_with("aliyuncs.com")
        {
            Self::Older
        } else {
            Self::Other
        }
    }

    /// Whether it refuses fields that it does not know, Anthropic's prompt-cache breakpoints among them.
    const fn is_strict(self) -> bool {
        matches!(self, Self::OpenAi | Self::Mistral)
    }

    /// The name a field has here; `None` when the provider refuses it.
    fn rename<'a>(self, key: &'a str, request: &ChatRequest) -> Option<&'a str> {
        match (self, key) {
            (Self::OpenAi, "max_tokens") => {
                // Both together are refused, and the newer is the one that counts.
                (!has_field(request, "max_completion_tokens")).then_some("max_completion_tokens")
            }
            (Self::Mistral | Self::Older, "max_completion_tokens") => Some("max_tokens"),
            (Self::Mistral | Self::Older, "max_tokens") if has_field(request, "max_completion_tokens") => {
                None
            }
            (Self::Mistral, "seed") => Some("random_seed"),
            (
                Self::Mistral,
                "stream_options" | "user" | "store" | "service_tier" | "prompt_cache_key" | "logit_bias"
                | "logprobs" | "top_logprobs",
            ) => None,
            _ => Some(key),
        }
    }
}

fn has_field(request: &ChatRequest, key: &str) -> bool {
    request
        .top_level()
        .iter()
        .any(|(name, raw)| name == key && raw.get() != "null")
}

/// The body for `call`.
pub(super) fn body(call: &Call, dialect: Dialect, stream: bool) -> Bytes {
    let request = &call.request;
    let fields = request.top_level();
    let messages = rewritten_messages(call, dialect);
    let marked_tools = dialect.is_strict() && request.tools.iter().any(|tool| tool.cache_control.is_some());
    let mut out = Out::new(request.body.len() + 128);
    out.value("model", &Value::from(&*call.arm.upstream));
    for (key, raw) in &fields {
        match &**key {
            "model" | "stream" => {}
            "stream_options" if stream => {}
            "messages" if messages.is_some() => {}
            key if OURS.contains(&key) => {}
            "tools" if marked_tools => out.value("tools", &unmarked(raw)),
            "cache_control" if dialect.is_strict() => {}
            key => {
                if let Some(name) = dialect.rename(key, request) {
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
        if dialect.rename("stream_options", request).is_some() {
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

/// The messages, if they cannot go as they are: on another provider's conversation, for providers that know no
/// `developer`, and for Mistral's tool call ids of exactly nine letters and digits.
fn rewritten_messages(call: &Call, dialect: Dialect) -> Option<Value> {
    let messages = &call.request.messages;
    let no_developer = matches!(dialect, Dialect::Mistral | Dialect::Older)
        && messages.iter().any(|message| message.role == Role::Developer);
    let ids = messages.iter().flat_map(|message| {
        let calls = message.tool_calls.iter().map(|call| call.id.as_str());
        calls.chain(message.tool_call_id.as_deref())
    });
    let short_ids = dialect == Dialect::Mistral && ids.clone().any(|id| !is_mistral_id(id));
    let foreign = if call.fallback {
        messages.iter().any(|message| message.role != Role::User)
    } else {
        // These two never wrote such fields and know none of them.
        matches!(dialect, Dialect::Mistral | Dialect::OpenAi) && messages.iter().any(has_foreign)
    };
    let marked = dialect.is_strict()
        && messages
            .iter()
            .any(|message| !message.cache_points.is_empty() || message.extra("cache_control").is_some());
    if !(no_developer || short_ids || foreign || marked) {
        return None;
    }
    let fields = call.request.top_level();
    let (_, raw) = fields.iter().rev().find(|(key, _)| key == "messages")?;
    let mut value: Value = serde_json::from_str(raw.get()).ok()?;
    for message in value.as_array_mut()?.iter_mut().filter_map(Value::as_object_mut) {
        if no_developer && message.get("role").is_some_and(|role| role == "developer") {
            message.insert("role".into(), "system".into());
        }
        if foreign {
            strip_foreign(message);
        }
        if marked {
            unmark(message);
        }
        rewrite_ids(message, |id| match dialect {
            Dialect::Mistral if !is_mistral_id(id) => Some(short_id(id, 9)),
            // OpenAI takes ids of at most 40 characters.
            _ if call.fallback && id.len() > 40 => Some(format!("call_{}", short_id(id, 24))),
            _ => None,
        });
    }
    Some(value)
}

/// What only the provider that wrote it can read: thoughts and their signatures.
const FOREIGN: [&str; 7] = [
    "reasoning_content",
    "reasoning",
    "reasoning_details",
    "thinking_blocks",
    "provider_specific_fields",
    "extra_content",
    "is_error",
];

fn has_foreign(message: &Message) -> bool {
    let in_calls = message.tool_calls.iter().flat_map(|call| &call.extra);
    message
        .extra
        .iter()
        .chain(in_calls)
        .any(|(key, _)| FOREIGN.contains(&key.as_str()))
}

fn strip_foreign(message: &mut Map<String, Value>) {
    for key in FOREIGN {
        message.shift_remove(key);
    }
    if let Some(Value::Array(calls)) = message.get_mut("tool_calls") {
        for call in calls.iter_mut().filter_map(Value::as_object_mut) {
            call.retain(|key, _| matches!(key.as_str(), "id" | "type" | "function" | "custom" | "index"));
        }
    }
}

/// Takes the prompt-cache breakpoints out of a message.
fn unmark(message: &mut Map<String, Value>) {
    message.shift_remove("cache_control");
    if let Some(Value::Array(parts)) = message.get_mut("content") {
        for part in parts.iter_mut().filter_map(Value::as_object_mut) {
            part.shift_remove("cache_control");
        }
    }
}

/// The tools without their prompt-cache breakpoints.
fn unmarked(tools: &RawValue) -> Value {
    let mut value: Value = serde_json::from_str(tools.get()).unwrap_or_default();
    for tool in value.as_array_mut().into_iter().flatten() {
        if let Some(tool) = tool.as_object_mut() {
            tool.shift_remove("cache_control");
            if let Some(Value::Object(function)) = tool.get_mut("function") {
                function.shift_remove("cache_control");
            }
        }
    }
    value
}

fn rewrite_ids(message: &mut Map<String, Value>, rewrite: impl Fn(&str) -> Option<String>) {
    let set = |value: &mut Value| {
        if let Some(id) = value.as_str().and_then(&rewrite) {
            *value = json!(id);
        }
    };
    if let Some(id) = message.get_mut("tool_call_id") {
        set(id);
    }
    if let Some(Value::Array(calls)) = message.get_mut("tool_calls") {
        calls
            .iter_mut()
            .filter_map(|call| call.get_mut("id"))
            .for_each(set);
    }
}

fn is_mistral_id(id: &str) -> bool {
    id.len() == 9 && id.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// `length` letters and digits that stand for `id`: the same for the call and for its result.
fn short_id(id: &str, length: usize) -> String {
    const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    Sha256::digest(id.as_bytes())
        .iter()
        .take(length)
        .map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()]))
        .collect()
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
