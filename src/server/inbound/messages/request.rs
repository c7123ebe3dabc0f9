//! From Anthropic's Messages to chat.

use std::ops::RangeInclusive;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::request::MOST_TOKENS;
use crate::server::error::ApiError;
use crate::server::inbound::read::{self, Fields, wrong};

/// A limit of so many tokens is Anthropic's own matter: models that answer with less can serve all the same.
const LARGE_LIMITS: RangeInclusive<u64> = 8_193..=MOST_TOKENS as u64;

/// The request in chat's schema.
///
/// # Errors
/// What is no such request, and what no chat can say.
pub fn chat(body: &[u8]) -> Result<Bytes, ApiError> {
    let mut fields = read::body(body)?;
    let mut chat = Map::new();
    // What only Anthropic's providers understand.
    let mut own = Map::new();
    let mut conversation = Vec::new();
    if let Some(system) = fields.shift_remove("system").filter(|system| !system.is_null()) {
        conversation.push(json!({"role": "system", "content": instructions(system)?}));
    }
    let messages = fields
        .shift_remove("messages")
        .ok_or_else(|| wrong("messages", "is missing"))?;
    for (index, message) in read::list(messages, "messages")?.into_iter().enumerate() {
        turn(message, &format!("messages[{index}]"), &mut conversation)?;
    }
    chat.insert("messages".into(), conversation.into());
    for (key, value) in fields {
        if !value.is_null() {
            field(&key, value, &mut chat, &mut own)?;
        }
    }
    if !own.is_empty() {
        chat.insert("anthropic".into(), own.into());
    }
    // The last event carries the usage, streamed or not.
    if chat.get("stream") == Some(&Value::Bool(true)) {
        chat.insert("stream_options".into(), json!({"include_usage": true}));
    }
    Ok(Value::Object(chat).to_string().into())
}

fn field(
    key: &str,
    value: Value,
    chat: &mut Map<String, Value>,
    own: &mut Map<String, Value>,
) -> Result<(), ApiError> {
    match key {
        _ if read::is_shared(key) => drop(chat.insert(key.to_owned(), value)),
        // Clients must send a limit here, and many send the largest there is: that is no wish. What is no limit is left
        // to be refused with chat's.
        "max_tokens" if value.as_u64().is_some_and(|most| LARGE_LIMITS.contains(&most)) => {
            own.insert("max_tokens".into(), value);
        }
        "max_tokens" => drop(chat.insert("max_tokens".into(), value)),
        "stop_sequences" => drop(chat.insert("stop".into(), value)),
        "thinking" | "top_k" => drop(own.insert(key.to_owned(), value)),
        "cache_control" => drop(chat.insert("cache_control".into(), value)),
        "tools" => drop(chat.insert("tools".into(), tools(value)?)),
        "tool_choice" => tool_choice(&value, chat)?,
        "output_config" => output_config(value, chat)?,
        "metadata" => {
            let mut tags = read::object(value, "metadata")?;
            if let Some(user) = tags.shift_remove("user_id").filter(|user| !user.is_null()) {
                chat.insert("user".into(), user);
            }
            if !tags.is_empty() {
                chat.insert("metadata".into(), tags.into());
            }
        }
        // Anthropic's own tiers: what a request may cost is said with `routing`.
        "service_tier" => {}
        // A permission to forget old turns, which nobody has to make use of.
        "context_management" => {}
        "container" | "mcp_servers" => {
            return Err(wrong(key, "is not kept by a router; leave it out"));
        }
        _ => return Err(wrong(key, "is not a field of this interface")),
    }
    Ok(())
}

fn instructions(system: Value) -> Result<Value, ApiError> {
    match system {
        Value::String(_) => Ok(system),
        blocks => {
            let blocks = read::list(blocks, "system")?;
            let parts = blocks.into_iter().enumerate().map(|(index, block)| {
                let path = format!("system[{index}]");
                part(read::object(block, &path)?, &path)
            });
            Ok(Value::Array(parts.collect::<Result<_, _>>()?))
        }
    }
}

/// One turn becomes one message, and one more for each result of a tool in it.
fn turn(message: Value, path: &str, out: &mut Vec<Value>) -> Result<(), ApiError> {
    let mut message = read::object(message, path)?;
    let role = read::text(&message, "role", path)?.to_owned();
    if !matches!(role.as_str(), "user" | "assistant" | "system") {
        return Err(wrong(&format!("{path}.role"), "must be user or assistant"));
    }
    let content = message
        .shift_remove("content")
        .ok_or_else(|| wrong(&format!("{path}.content"), "is missing"))?;
    if content.is_string() {
        out.push(json!({"role": role, "content": content}));
        return Ok(());
    }
    let mut said = Said::default();
    let content_path = format!("{path}.content");
    for (index, block) in read::list(content, &content_path)?.into_iter().enumerate() {
        let path = format!("{content_path}[{index}]");
        said.block(read::object(block, &path)?, &path, out)?;
    }
    said.finish(&role, out);
    Ok(())
}

/// What a turn says beside results of tools.
#[derive(Default)]
struct Said {
    parts: Vec<Value>,
    calls: Vec<Value>,
    thoughts: Vec<Value>,
    results: usize,
}

impl Said {
    fn block(&mut self, mut block: Fields, path: &str, out: &mut Vec<Value>) -> Result<(), ApiError> {
        match read::kind(&block, path)? {
            "tool_result" => {
                out.push(tool_result(&mut block, path)?);
                self.results += 1;
            }
            "tool_use" => {
                let (id, name) = (read::text(&block, "id", path)?, read::text(&block, "name", path)?);
                let input = block.get("input").cloned().unwrap_or_else(|| json!({}));
                self.calls.push(json!({
                    "id": id, "type": "function",
                    "function": {"name": name, "arguments": input.to_string()},
                }));
            }
            "thinking" | "redacted_thinking" => self.thoughts.push(block.into()),
            _ => self.parts.push(part(block, path)?),
        }
        Ok(())
    }

    fn finish(self, role: &str, out: &mut Vec<Value>) {
        let is_empty = self.parts.is_empty() && self.calls.is_empty() && self.thoughts.is_empty();
        if is_empty && self.results > 0 {
            return;
        }
        let content = match self.parts.as_slice() {
            [] if !self.calls.is_empty() => Value::Null,
            [] => "".into(),
            // One plain text is what every provider takes.
            [only] if only["type"] == "text" && only.get("cache_control").is_none() => only["text"].clone(),
            _ => self.parts.into(),
        };
        let mut message = json!({"role": role, "content": content});
        if !self.calls.is_empty() {
            message["tool_calls"] = self.calls.into();
        }
        if !self.thoughts.is_empty() {
            message["thinking_blocks"] = self.thoughts.into();
        }
        out.push(message);
    }
}

fn tool_result(block: &mut Fields, path: &str) -> Result<Value, ApiError> {
    let id = read::text(block, "tool_use_id", path)?.to_owned();
    let content = match block.shift_remove("content") {
        None | Some(Value::Null) => "".into(),
        Some(Value::String(text)) => Value::String(text),
        Some(blocks) => {
            let content_path = format!("{path}.content");
            let parts = read::list(blocks, &content_path)?.into_iter().enumerate();
            let parts = parts.map(|(index, block)| {
                let path = format!("{content_path}[{index}]");
                part(read::object(block, &path)?, &path)
            });
            Value::Array(parts.collect::<Result<_, _>>()?)
        }
    };
    let mut message = json!({"role": "tool", "tool_call_id": id, "content": content});
    if block.get("is_error") == Some(&Value::Bool(true)) {
        message["is_error"] = true.into();
    }
    if let Some(control) = block
        .shift_remove("cache_control")
        .filter(|control| !control.is_null())
    {
        message["cache_control"] = control;
    }
    Ok(message)
}

/// A block of content as a part. A prompt-cache breakpoint stays on it.
fn part(mut block: Fields, path: &str) -> Result<Value, ApiError> {
    let control = block
        .shift_remove("cache_control")
        .filter(|control| !control.is_null());
    let mut part = match read::kind(&block, path)? {
        "text" => json!({"type": "text", "text": read::text(&block, "text", path)?}),
        "image" => json!({"type": "image_url", "image_url": {"url": source(&block, path)?}}),
        "document" => document(&block, path)?,
        "search_result" => Value::Object(block),
        other => {
            let what = format!("is \"{other}\", which is not taken here");
            return Err(wrong(&format!("{path}.type"), &what));
        }
    };
    if let Some(control) = control {
        part["cache_control"] = control;
    }
    Ok(part)
}

/// The address or the `data:` URL of a source.
fn source(block: &Fields, path: &str) -> Result<String, ApiError> {
    let path = format!("{path}.source");
    let Some(Value::Object(source)) = block.get("source") else {
        return Err(wrong(&path, "must be an object"));
    };
    match read::kind(source, &path)? {
        "base64" => {
            let (mime, data) = (
                read::text(source, "media_type", &path)?,
                read::text(source, "data", &path)?,
            );
            Ok(format!("data:{mime};base64,{data}"))
        }
        "url" => Ok(read::text(source, "url", &path)?.to_owned()),
        _ => Err(wrong(&format!("{path}.type"), "must be base64 or url here")),
    }
}

fn document(block: &Fields, path: &str) -> Result<Value, ApiError> {
    let inner = &block.get("source").cloned().unwrap_or_default();
    let title = block.get("title").and_then(Value::as_str);
    match inner["type"].as_str() {
        Some("text") => {
            let text = inner["data"].as_str().unwrap_or_default();
            let text = title.map_or_else(|| text.to_owned(), |title| format!("{title}\n\n{text}"));
            Ok(json!({"type": "text", "text": text}))
        }
        Some("file") => Ok(json!({"type": "file", "file": {"file_id": inner["file_id"]}})),
        _ => {
            let name = title.unwrap_or("document.pdf");
            Ok(json!({"type": "file", "file": {"file_data": source(block, path)?, "filename": name}}))
        }
    }
}

fn tools(value: Value) -> Result<Value, ApiError> {
    let tools = read::list(value, "tools")?.into_iter().enumerate();
    let tools = tools.map(|(index, tool)| {
        let path = format!("tools[{index}]");
        let mut tool = read::object(tool, &path)?;
        if let Some(kind) = tool
            .get("type")
            .and_then(Value::as_str)
            .filter(|kind| *kind != "custom")
        {
            let what = format!("is \"{kind}\"; only tools that you run yourself are taken here");
            return Err(wrong(&format!("{path}.type"), &what));
        }
        let name = read::text(&tool, "name", &path)?.to_owned();
        let mut function = json!({"name": name});
        for (theirs, ours) in [
            ("description", "description"),
            ("input_schema", "parameters"),
            ("strict", "strict"),
        ] {
            if let Some(value) = tool.shift_remove(theirs) {
                function[ours] = value;
            }
        }
        let mut declared = json!({"type": "function", "function": function});
        if let Some(control) = tool
            .shift_remove("cache_control")
            .filter(|control| !control.is_null())
        {
            declared["cache_control"] = control;
        }
        Ok(declared)
    });
    Ok(Value::Array(tools.collect::<Result<_, _>>()?))
}

fn tool_choice(choice: &Value, chat: &mut Map<String, Value>) -> Result<(), ApiError> {
    let ours = match choice["type"].as_str() {
        Some("auto") => json!("auto"),
        Some("any") => json!("required"),
        Some("none") => json!("none"),
        Some("tool") => json!({"type": "function", "function": {"name": choice["name"]}}),
        _ => return Err(wrong("tool_choice.type", "must be auto, any, tool or none")),
    };
    chat.insert("tool_choice".into(), ours);
    if choice["disable_parallel_tool_use"] == true {
        chat.insert("parallel_tool_calls".into(), false.into());
    }
    Ok(())
}

fn output_config(config: Value, chat: &mut Map<String, Value>) -> Result<(), ApiError> {
    let config = read::object(config, "output_config")?;
    if let Some(effort) = config.get("effort").filter(|effort| !effort.is_null()) {
        chat.insert("reasoning_effort".into(), effort.clone());
    }
    if let Some(format) = config.get("format").filter(|format| !format.is_null()) {
        let schema = json!({"name": "answer", "schema": format["schema"], "strict": true});
        chat.insert(
            "response_format".into(),
            json!({"type": "json_schema", "json_schema": schema}),
        );
    }
    Ok(())
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
