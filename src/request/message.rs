//! The conversation: `messages` with their parts and tool calls.

use serde_json::value::RawValue;

use super::error::RequestError;
use super::raw::{self, Path};
use super::{CachePoint, Message, Part, Role, ToolCall};

pub(super) fn messages(raw: &RawValue, path: &Path<'_>) -> Result<Vec<Message>, RequestError> {
    raw::array(raw, path)?
        .into_iter()
        .enumerate()
        .map(|(index, raw)| message(raw, &path.index(index)))
        .collect()
}

fn message(raw: &RawValue, path: &Path<'_>) -> Result<Message, RequestError> {
    let mut role = None;
    let mut message = Message {
        parts: Vec::new(),
        ..Message::text(Role::User, String::new())
    };
    for (key, raw) in raw::object(raw, path)? {
        let path = &path.key(&key);
        let null = raw::is_null(raw);
        match &*key {
            "role" => role = Some(read_role(raw, path)?),
            "content" if !null => content(raw, path, &mut message)?,
            "refusal" if !null => message.parts.push(Part::Refusal(raw::string(raw, path)?)),
            "tool_calls" if !null => message.tool_calls = tool_calls(raw, path)?,
            "tool_call_id" if !null => message.tool_call_id = Some(raw::string(raw, path)?),
            "name" if !null => message.name = Some(raw::string(raw, path)?),
            _ if null => {}
            _ => message.extra.push((key.to_string(), raw::value(raw, path)?)),
        }
    }
    message.role = role.ok_or_else(|| path.key("role").missing())?;
    if message.role == Role::Tool && message.tool_call_id.is_none() && message.name.is_none() {
        return Err(path.key("tool_call_id").missing());
    }
    Ok(message)
}

fn read_role(raw: &RawValue, path: &Path<'_>) -> Result<Role, RequestError> {
    match raw::string(raw, path)?.as_str() {
        "system" => Ok(Role::System),
        "developer" => Ok(Role::Developer),
        "user" => Ok(Role::User),
        "assistant" => Ok(Role::Assistant),
        // `function` is what `tool` was called before it had ids.
        "tool" | "function" => Ok(Role::Tool),
        _ => Err(path.value("one of system, developer, user, assistant, tool")),
    }
}

fn content(raw: &RawValue, path: &Path<'_>, message: &mut Message) -> Result<(), RequestError> {
    if !raw.get().starts_with('[') {
        if !raw.get().starts_with('"') {
            return Err(path.wrong_type("a string or an array of parts", raw));
        }
        message.parts.push(Part::Text(raw::string(raw, path)?));
        return Ok(());
    }
    for (index, raw) in raw::array(raw, path)?.into_iter().enumerate() {
        let path = &path.index(index);
        if raw.get().starts_with('"') {
            message.parts.push(Part::Text(raw::string(raw, path)?));
            continue;
        }
        let fields = raw::object(raw, path)?;
        if let Some((_, control)) = fields.iter().find(|(key, _)| key == "cache_control")
            && !raw::is_null(control)
        {
            message.cache_points.push(CachePoint {
                part: message.parts.len(),
                control: raw::value(control, &path.key("cache_control"))?,
            });
        }
        message.parts.push(part(raw, &fields, path)?);
    }
    Ok(())
}

fn part(raw: &RawValue, fields: &raw::Fields<'_>, path: &Path<'_>) -> Result<Part, RequestError> {
    let kind = raw::required_string(fields, "type", path)?;
    match kind.as_str() {
        "text" => Ok(Part::Text(raw::required_string(fields, "text", path)?)),
        "refusal" => Ok(Part::Refusal(raw::required_string(fields, "refusal", path)?)),
        "image_url" => {
            let (url, detail) = link(fields, "image_url", path)?;
            Ok(Part::Image { url, detail })
        }
        "video_url" => {
            let (url, _) = link(fields, "video_url", path)?;
            Ok(Part::Video { url })
        }
        "input_audio" => {
            let path = &path.key("input_audio");
            let audio = raw::object(raw::required(fields, "input_audio", path)?, path)?;
            Ok(Part::Audio {
                data: raw::required_string(&audio, "data", path)?,
                format: raw::required_string(&audio, "format", path)?,
            })
        }
        "file" => {
            let path = &path.key("file");
            let file = raw::object(raw::required(fields, "file", path)?, path)?;
            Ok(Part::File {
                data: raw::optional_string(&file, "file_data", path)?,
                file_id: raw::optional_string(&file, "file_id", path)?,
                filename: raw::optional_string(&file, "filename", path)?,
            })
        }
        _ => Ok(Part::Other(raw::value(raw, path)?)),
    }
}

/// `{"url", "detail"}`, or the URL alone as some clients write it.
fn link(
    fields: &raw::Fields<'_>,
    key: &str,
    path: &Path<'_>,
) -> Result<(String, Option<String>), RequestError> {
    let raw = raw::required(fields, key, path)?;
    let path = &path.key(key);
    if raw.get().starts_with('"') {
        return Ok((raw::string(raw, path)?, None));
    }
    let fields = raw::object(raw, path)?;
    Ok((
        raw::required_string(&fields, "url", path)?,
        raw::optional_string(&fields, "detail", path)?,
    ))
}

fn tool_calls(raw: &RawValue, path: &Path<'_>) -> Result<Vec<ToolCall>, RequestError> {
    raw::array(raw, path)?
        .into_iter()
        .enumerate()
        .map(|(index, raw)| tool_call(raw, &path.index(index)))
        .collect()
}

fn tool_call(raw: &RawValue, path: &Path<'_>) -> Result<ToolCall, RequestError> {
    let fields = raw::object(raw, path)?;
    let id = raw::required_string(&fields, "id", path)?;
    // A call of a custom tool has its name and a free text in `custom`.
    let (key, text) = if raw::find(&fields, "custom").is_some() {
        ("custom", "input")
    } else {
        ("function", "arguments")
    };
    let function_path = &path.key(key);
    let function = raw::object(raw::required(&fields, key, path)?, function_path)?;
    let mut extra = Vec::new();
    for (key, raw) in &fields {
        if !matches!(&**key, "id" | "type" | "function") && !raw::is_null(raw) {
            extra.push((key.to_string(), raw::value(raw, &path.key(key))?));
        }
    }
    Ok(ToolCall {
        id,
        name: raw::required_string(&function, "name", function_path)?,
        arguments: raw::optional_string(&function, text, function_path)?.unwrap_or_default(),
        extra,
    })
}
