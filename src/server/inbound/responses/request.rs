//! From Responses to chat.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::server::error::ApiError;
use crate::server::inbound::read::{self, Fields, wrong};

/// A request read.
pub struct Asked {
    /// In chat's schema.
    pub chat: Bytes,
    /// What the answer says of its request.
    pub echo: Map<String, Value>,
}

/// Fields that an answer repeats, with what stands there when the request is silent.
const ECHOED: [(&str, &str); 12] = [
    ("instructions", "null"),
    ("max_output_tokens", "null"),
    ("metadata", "{}"),
    ("parallel_tool_calls", "true"),
    ("reasoning", r#"{"effort":null,"summary":null}"#),
    ("temperature", "1.0"),
    ("text", r#"{"format":{"type":"text"}}"#),
    ("tool_choice", r#""auto""#),
    ("tools", "[]"),
    ("top_p", "1.0"),
    ("truncation", r#""disabled""#),
    ("user", "null"),
];

/// Reads a request.
///
/// # Errors
/// What is no such request, and what a router cannot keep.
pub fn read(body: &[u8]) -> Result<Asked, ApiError> {
    let mut fields = read::body(body)?;
    refuse_what_is_kept(&fields)?;
    let mut echo = Map::new();
    for (key, silent) in ECHOED {
        let given = fields.get(key).filter(|value| !value.is_null()).cloned();
        let silent = || serde_json::from_str(silent).unwrap_or_default();
        echo.insert(key.to_owned(), given.unwrap_or_else(silent));
    }
    let mut messages = Vec::new();
    if let Some(instructions) = fields
        .shift_remove("instructions")
        .filter(|value| !value.is_null())
    {
        messages.push(json!({"role": "developer", "content": instructions}));
    }
    match fields.shift_remove("input") {
        Some(Value::String(text)) => messages.push(json!({"role": "user", "content": text})),
        Some(items) => {
            for (index, item) in read::list(items, "input")?.into_iter().enumerate() {
                let path = format!("input[{index}]");
                self::item(read::object(item, &path)?, &path, &mut messages)?;
            }
        }
        None => return Err(wrong("input", "is missing")),
    }
    let mut chat = Map::new();
    chat.insert("messages".into(), messages.into());
    for (key, value) in fields {
        if !value.is_null() {
            field(&key, value, &mut chat)?;
        }
    }
    if chat.get("stream") == Some(&Value::Bool(true)) {
        chat.insert("stream_options".into(), json!({"include_usage": true}));
    }
    Ok(Asked {
        chat: Value::Object(chat).to_string().into(),
        echo,
    })
}

/// Answers are not kept here, so nothing can refer to one, and nothing runs without its client.
fn refuse_what_is_kept(fields: &Fields) -> Result<(), ApiError> {
    let is_asked = |key: &str| {
        let value = fields.get(key);
        value.is_some_and(|value| !value.is_null() && *value != Value::Bool(false))
    };
    let kept = [
        "previous_response_id",
        "conversation",
        "store",
        "background",
        "prompt",
    ];
    match kept.into_iter().find(|key| is_asked(key)) {
        None => Ok(()),
        Some(key) => Err(wrong(
            key,
            "needs answers to be kept, which this router does not: send the whole conversation as `input`, with \
             `store` false or left out",
        )),
    }
}

fn field(key: &str, value: Value, chat: &mut Map<String, Value>) -> Result<(), ApiError> {
    match key {
        _ if read::is_shared(key) => drop(chat.insert(key.to_owned(), value)),
        "metadata" | "parallel_tool_calls" | "service_tier" => drop(chat.insert(key.to_owned(), value)),
        "max_output_tokens" => drop(chat.insert("max_completion_tokens".into(), value)),
        "safety_identifier" => {
            chat.entry("user").or_insert(value);
        }
        "tools" => drop(chat.insert("tools".into(), tools(value)?)),
        "tool_choice" => drop(chat.insert("tool_choice".into(), tool_choice(value)?)),
        "text" => text(value, chat)?,
        "reasoning" => {
            let reasoning = read::object(value, "reasoning")?;
            if let Some(effort) = reasoning.get("effort").filter(|effort| !effort.is_null()) {
                chat.insert("reasoning_effort".into(), effort.clone());
            }
        }
        "truncation" if value == "disabled" => {}
        "truncation" => return Err(wrong(key, "must be \"disabled\": this router cuts nothing out")),
        // Encrypted reasoning is asked for by clients that keep nothing at the server; there is none here.
        "include" => {
            let known = |item: &Value| item == "reasoning.encrypted_content";
            if !read::list(value, key)?.iter().all(known) {
                return Err(wrong(key, "asks for what this router does not have"));
            }
        }
        "store" | "background" | "stream_options" => {}
        _ => return Err(wrong(key, "is not taken here")),
    }
    Ok(())
}

fn item(mut item: Fields, path: &str, messages: &mut Vec<Value>) -> Result<(), ApiError> {
    let kind = match item.get("type") {
        None | Some(Value::Null) => "message".to_owned(),
        Some(_) => read::kind(&item, path)?.to_owned(),
    };
    match kind.as_str() {
        "message" => {
            let role = read::text(&item, "role", path)?.to_owned();
            let content = item
                .shift_remove("content")
                .ok_or_else(|| wrong(&format!("{path}.content"), "is missing"))?;
            let content = content_of(content, &format!("{path}.content"))?;
            messages.push(json!({"role": role, "content": content}));
        }
        "function_call" => {
            let call = json!({
                "id": read::text(&item, "call_id", path)?, "type": "function",
                "function": {
                    "name": read::text(&item, "name", path)?,
                    "arguments": read::text(&item, "arguments", path)?,
                },
            });
            call_of_last_turn(messages, call);
        }
        "function_call_output" => {
            let id = read::text(&item, "call_id", path)?.to_owned();
            let output = item.shift_remove("output").unwrap_or_else(|| "".into());
            let content = content_of(output, &format!("{path}.output"))?;
            messages.push(json!({"role": "tool", "tool_call_id": id, "content": content}));
        }
        // Thoughts of an earlier answer, which no other provider could read.
        "reasoning" => {}
        other => {
            let what = format!("is \"{other}\", which is not taken here");
            return Err(wrong(&format!("{path}.type"), &what));
        }
    }
    Ok(())
}

/// Calls belong to the turn of the assistant that they follow.
fn call_of_last_turn(messages: &mut Vec<Value>, call: Value) {
    if !messages
        .last()
        .is_some_and(|message| message["role"] == "assistant")
    {
        messages.push(json!({"role": "assistant", "content": null}));
    }
    if let Some(last) = messages.last_mut().and_then(Value::as_object_mut) {
        let calls = last.entry("tool_calls").or_insert_with(|| json!([]));
        if let Value::Array(calls) = calls {
            calls.push(call);
        }
    }
}

fn content_of(content: Value, path: &str) -> Result<Value, ApiError> {
    if content.is_string() {
        return Ok(content);
    }
    let mut parts = Vec::new();
    for (index, part) in read::list(content, path)?.into_iter().enumerate() {
        let path = format!("{path}[{index}]");
        parts.push(self::part(&read::object(part, &path)?, &path)?);
    }
    // One plain text is what every provider takes.
    Ok(match parts.as_slice() {
        [only] if only["type"] == "text" => only["text"].clone(),
        _ => parts.into(),
    })
}

fn part(part: &Fields, path: &str) -> Result<Value, ApiError> {
    let given = |key: &str| part.get(key).filter(|value| !value.is_null()).cloned();
    Ok(match read::kind(part, path)? {
        "input_text" | "output_text" | "text" => {
            json!({"type": "text", "text": read::text(part, "text", path)?})
        }
        "refusal" => json!({"type": "refusal", "refusal": read::text(part, "refusal", path)?}),
        "input_image" => {
            let mut image = json!({"url": read::text(part, "image_url", path)?});
            if let Some(detail) = given("detail") {
                image["detail"] = detail;
            }
            json!({"type": "image_url", "image_url": image})
        }
        "input_file" => {
            let mut file = Map::new();
            for key in ["file_data", "file_id", "filename"] {
                if let Some(value) = given(key) {
                    file.insert(key.to_owned(), value);
                }
            }
            if let Some(url) = given("file_url") {
                file.insert("file_data".to_owned(), url);
            }
            json!({"type": "file", "file": file})
        }
        "input_audio" => json!({"type": "input_audio", "input_audio": given("input_audio")}),
        other => {
            let what = format!("is \"{other}\", which is not taken here");
            return Err(wrong(&format!("{path}.type"), &what));
        }
    })
}

fn tools(value: Value) -> Result<Value, ApiError> {
    let tools = read::list(value, "tools")?.into_iter().enumerate();
    let tools = tools.map(|(index, tool)| {
        let path = format!("tools[{index}]");
        let mut tool = read::object(tool, &path)?;
        let kind = read::kind(&tool, &path)?;
        if kind != "function" {
            let what = format!("is \"{kind}\"; only functions are taken here");
            return Err(wrong(&format!("{path}.type"), &what));
        }
        let mut function = json!({"name": read::text(&tool, "name", &path)?});
        for key in ["description", "parameters", "strict"] {
            if let Some(value) = tool.shift_remove(key).filter(|value| !value.is_null()) {
                function[key] = value;
            }
        }
        Ok(json!({"type": "function", "function": function}))
    });
    Ok(Value::Array(tools.collect::<Result<_, _>>()?))
}

fn tool_choice(choice: Value) -> Result<Value, ApiError> {
    match (&choice, choice["type"].as_str()) {
        (Value::String(_), _) => Ok(choice),
        (_, Some("function")) => Ok(json!({"type": "function", "function": {"name": choice["name"]}})),
        _ => Err(wrong("tool_choice", "must be auto, none, required or a function")),
    }
}

fn text(value: Value, chat: &mut Map<String, Value>) -> Result<(), ApiError> {
    let mut text = read::object(value, "text")?;
    if let Some(verbosity) = text.shift_remove("verbosity").filter(|value| !value.is_null()) {
        chat.insert("verbosity".into(), verbosity);
    }
    let Some(format) = text.shift_remove("format").filter(|value| !value.is_null()) else {
        return Ok(());
    };
    let mut format = read::object(format, "text.format")?;
    let kind = read::kind(&format, "text.format")?.to_owned();
    let ours = if kind == "json_schema" {
        format.shift_remove("type");
        json!({"type": kind, "json_schema": format})
    } else {
        json!({"type": kind})
    };
    chat.insert("response_format".into(), ours);
    Ok(())
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
