//! The conversation where it cannot go as it is: another provider's turns, and what each provider refuses in a message.

use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::dialect::Dialect;
use crate::providers::Call;
use crate::request::{Message, Part, Role};

/// What has to change.
#[derive(Clone, Copy, Default)]
struct Changes {
    /// `developer` is called `system` here.
    no_developer: bool,
    /// Thoughts and signatures of other providers go.
    foreign: bool,
    /// Prompt-cache breakpoints go.
    marked: bool,
    /// Ids of tool calls have a form of their own.
    ids: bool,
    /// Pictures may not stand in the result of a tool.
    pictures: bool,
    /// Mistral's keys and its order of turns.
    mistral: bool,
}

impl Changes {
    fn of(call: &Call, dialect: Dialect) -> Self {
        let messages = &*call.request.messages;
        let mistral = dialect == Dialect::Mistral;
        let foreign = if call.fallback {
            messages.iter().any(|message| message.role != Role::User)
        } else {
            // These two never wrote such fields and know none of them.
            dialect.is_strict() && messages.iter().any(has_foreign)
        };
        Self {
            no_developer: matches!(dialect, Dialect::Mistral | Dialect::Older)
                && messages.iter().any(|message| message.role == Role::Developer),
            foreign,
            marked: dialect.is_strict()
                && messages.iter().any(|message| {
                    !message.cache_points.is_empty() || message.extra("cache_control").is_some()
                }),
            ids: mistral && messages.iter().flat_map(ids).any(|id| !is_mistral_id(id)),
            pictures: matches!(dialect, Dialect::OpenAi | Dialect::Older)
                && messages.iter().any(shows_pictures),
            mistral: mistral && is_not_for_mistral(messages),
        }
    }

    const fn any(self) -> bool {
        self.no_developer || self.foreign || self.marked || self.ids || self.pictures || self.mistral
    }
}

/// The messages, if they cannot go as they are.
pub(super) fn rewritten(call: &Call, dialect: Dialect) -> Option<Value> {
    let changes = Changes::of(call, dialect);
    if !changes.any() {
        return None;
    }
    let fields = call.request.top_level();
    let (_, raw) = fields.iter().rev().find(|(key, _)| key == "messages")?;
    let mut messages: Vec<Value> = serde_json::from_str(raw.get()).ok()?;
    for message in messages.iter_mut().filter_map(Value::as_object_mut) {
        if changes.no_developer && message.get("role").is_some_and(|role| role == "developer") {
            message.insert("role".into(), "system".into());
        }
        if changes.foreign {
            strip_foreign(message);
        }
        if changes.marked {
            unmark(message);
        }
        rewrite_ids(message, |id| match dialect {
            Dialect::Mistral if !is_mistral_id(id) => Some(short_id(id, 9)),
            // OpenAI takes ids of at most 40 characters.
            _ if call.fallback && id.len() > 40 => Some(format!("call_{}", short_id(id, 24))),
            _ => None,
        });
    }
    if changes.pictures {
        messages = with_pictures_apart(messages);
    }
    if changes.mistral {
        messages = for_mistral(messages);
    }
    Some(messages.into())
}

fn ids(message: &Message) -> impl Iterator<Item = &str> {
    let calls = message.tool_calls.iter().map(|call| call.id.as_str());
    calls.chain(message.tool_call_id.as_deref())
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
pub(super) fn unmarked_tools(tools: &RawValue) -> Value {
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

/// Whether it is the result of a tool that shows more than text.
fn shows_pictures(message: &Message) -> bool {
    let is_text = |part: &Part| matches!(part, Part::Text(_) | Part::Refusal(_));
    message.role == Role::Tool && !message.parts.iter().all(is_text)
}

/// Results of tools are text here: what else they show follows them in a turn of the user.
fn with_pictures_apart(messages: Vec<Value>) -> Vec<Value> {
    let mut out = Vec::with_capacity(messages.len() + 1);
    let mut shown: Vec<Value> = Vec::new();
    for mut message in messages {
        if message["role"] != "tool" {
            out.extend(shown_by_user(std::mem::take(&mut shown)));
            out.push(message);
            continue;
        }
        if let Some(Value::Array(parts)) = message.get_mut("content") {
            let (text, other) = std::mem::take(parts)
                .into_iter()
                .partition::<Vec<_>, _>(|part| part.is_string() || part["type"] == "text");
            let said = if text.is_empty() {
                json!("Shown in the next message.")
            } else {
                text.into()
            };
            message["content"] = said;
            shown.extend(other);
        }
        out.push(message);
    }
    out.extend(shown_by_user(shown));
    out
}

fn shown_by_user(parts: Vec<Value>) -> Option<Value> {
    (!parts.is_empty()).then(|| json!({"role": "user", "content": parts}))
}

/// The keys that Mistral takes in a message; it refuses all others, and `name` of whoever is no tool.
const MISTRAL_KEYS: [&str; 6] = ["role", "content", "tool_calls", "tool_call_id", "name", "prefix"];

fn is_not_for_mistral(messages: &[Message]) -> bool {
    let is_extra = |(key, _): &(String, Value)| !MISTRAL_KEYS.contains(&key.as_str());
    // What clients send back of an answer always has more keys than these, if only with null.
    messages.iter().any(|message| {
        message.role == Role::Assistant
            || (message.name.is_some() && message.role != Role::Tool)
            || message.extra.iter().any(is_extra)
    })
}

/// Mistral's order: after the results of tools the assistant speaks, and an answer that is to be gone on with says so.
fn for_mistral(messages: Vec<Value>) -> Vec<Value> {
    let mut out: Vec<Value> = Vec::with_capacity(messages.len() + 1);
    for mut message in messages {
        if let Some(fields) = message.as_object_mut() {
            let is_tool = fields.get("role").is_some_and(|role| role == "tool");
            if let Some(Value::String(refusal)) = fields.shift_remove("refusal") {
                let said = fields.entry("content").or_insert(Value::Null);
                if said.is_null() {
                    *said = refusal.into();
                }
            }
            fields.retain(|key, _| MISTRAL_KEYS.contains(&key.as_str()) && (is_tool || key != "name"));
        }
        let after_tool = out.last().is_some_and(|last| last["role"] == "tool");
        if after_tool && message["role"] != "tool" && message["role"] != "assistant" {
            out.push(json!({"role": "assistant", "content": "Understood."}));
        }
        out.push(message);
    }
    if let Some(last) = out.last_mut().filter(|last| last["role"] == "assistant")
        && last["tool_calls"].is_null()
    {
        last["prefix"] = true.into();
    }
    out
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
#[path = "messages_tests.rs"]
mod tests;
