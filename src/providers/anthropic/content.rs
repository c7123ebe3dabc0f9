//! Content blocks of Anthropic's Messages.

use serde_json::{Value, json};

use crate::failure::AttemptError;
use crate::providers::fault::{self, Wire};
use crate::providers::media::{self, Source};
use crate::request::{Message, Part};

/// The blocks of a message's parts, with the client's cache breakpoints. Empty texts are left out: Anthropic refuses
/// them.
pub(super) fn blocks(wire: &Wire, message: &Message) -> Result<Vec<Value>, AttemptError> {
    let mut blocks = Vec::with_capacity(message.parts.len());
    for (index, part) in message.parts.iter().enumerate() {
        let control = message
            .cache_points
            .iter()
            .find(|point| point.part == index)
            .map(|point| &point.control);
        if let Some(block) = block(wire, part)? {
            blocks.push(cached(block, control));
        }
    }
    // A breakpoint on the whole message stands on its last block.
    if let (Some(control), Some(last)) = (message.extra("cache_control"), blocks.last_mut()) {
        *last = cached(last.take(), Some(control));
    }
    Ok(blocks)
}

/// `block` with a cache breakpoint.
pub(super) fn cached(mut block: Value, control: Option<&Value>) -> Value {
    if let Some(control) = control {
        block["cache_control"] = control.clone();
    }
    block
}

fn block(wire: &Wire, part: &Part) -> Result<Option<Value>, AttemptError> {
    Ok(match part {
        Part::Text(text) | Part::Refusal(text) => {
            (!text.trim().is_empty()).then(|| json!({"type": "text", "text": text}))
        }
        Part::Image { url, .. } => Some(image(wire, url)?),
        Part::File {
            data,
            file_id,
            filename,
        } => Some(document(
            wire,
            data.as_deref(),
            file_id.as_deref(),
            filename.as_deref(),
        )?),
        Part::Audio { .. } => return Err(fault::unsupported(wire, "audio")),
        Part::Video { .. } => return Err(fault::unsupported(wire, "video")),
        // Blocks in Anthropic's own form.
        Part::Other(own) if matches!(own["type"].as_str(), Some("image" | "document" | "search_result")) => {
            Some(own.clone())
        }
        Part::Other(_) => return Err(fault::unsupported(wire, "content of an unknown type")),
    })
}

fn image(wire: &Wire, url: &str) -> Result<Value, AttemptError> {
    let source = match Source::read(url, "image/png") {
        Some(Source::Link(url)) => json!({"type": "url", "url": url}),
        Some(Source::Inline { mime, base64 }) => {
            let mime = if mime == "image/jpg" { "image/jpeg" } else { mime };
            if !matches!(mime, "image/jpeg" | "image/png" | "image/gif" | "image/webp") {
                return Err(fault::unsupported(
                    wire,
                    "images other than JPEG, PNG, GIF and WebP",
                ));
            }
            json!({"type": "base64", "media_type": mime, "data": base64})
        }
        None => return Err(fault::unsupported(wire, "an image URL of this form")),
    };
    Ok(json!({"type": "image", "source": source}))
}

fn document(
    wire: &Wire,
    data: Option<&str>,
    file_id: Option<&str>,
    filename: Option<&str>,
) -> Result<Value, AttemptError> {
    let unreadable = || fault::unsupported(wire, "files other than PDF and plain text");
    let guessed = filename
        .and_then(media::mime_of_name)
        .unwrap_or("application/pdf");
    let source = match (data.map(|data| Source::read(data, guessed)), file_id) {
        (Some(Some(Source::Link(url))), _) => json!({"type": "url", "url": url}),
        (Some(Some(Source::Inline { mime, base64 })), _) => match mime {
            "application/pdf" => json!({"type": "base64", "media_type": mime, "data": base64}),
            _ if mime.starts_with("image/") => return image(wire, data.unwrap_or_default()),
            _ if mime.starts_with("text/") || mime == "application/json" => {
                let text = media::decode_text(base64).ok_or_else(unreadable)?;
                json!({"type": "text", "media_type": "text/plain", "data": text})
            }
            _ => return Err(unreadable()),
        },
        // Anthropic's own ids; another provider's mean nothing here.
        (None, Some(id)) if id.starts_with("file_") => json!({"type": "file", "file_id": id}),
        _ => return Err(unreadable()),
    };
    let mut block = json!({"type": "document", "source": source});
    if let Some(filename) = filename {
        block["title"] = filename.into();
    }
    Ok(block)
}

/// An assistant's turn: thoughts with their signatures, if they are to be shown, then text, then calls.
pub(super) fn assistant_blocks(
    wire: &Wire,
    message: &Message,
    with_thoughts: bool,
) -> Result<Vec<Value>, AttemptError> {
    let mut content = Vec::new();
    if with_thoughts {
        content.extend(signed_thoughts(message).cloned());
    }
    content.extend(blocks(wire, message)?);
    for call in &message.tool_calls {
        // Models write arguments that are no JSON; Anthropic takes objects only.
        let input = match serde_json::from_str(&call.arguments) {
            Ok(Value::Object(input)) => Value::Object(input),
            Ok(Value::Null) | Err(_) if call.arguments.trim().is_empty() => json!({}),
            _ => json!({"arguments": call.arguments}),
        };
        content.push(json!({"type": "tool_use", "id": tool_id(&call.id), "name": call.name, "input": input}));
    }
    Ok(content)
}

/// Thoughts that Anthropic has signed, or kept to itself. What another provider's model thought is told to clients of `/v1/messages` in a
/// block whose signature is empty; it comes back so, and Anthropic refuses it.
pub(super) fn signed_thoughts(message: &Message) -> impl Iterator<Item = &Value> {
    let thoughts = message.extra("thinking_blocks").and_then(Value::as_array);
    thoughts.into_iter().flatten().filter(|block| {
        let is_signed = || {
            block["signature"]
                .as_str()
                .is_some_and(|signature| !signature.is_empty())
        };
        block["type"] != "thinking" || is_signed()
    })
}

/// The id with the characters that Anthropic takes: letters, digits, `_` and `-`.
pub(super) fn tool_id(id: &str) -> String {
    if id.is_empty() {
        return "call_0".to_owned();
    }
    id.chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || c == '_' || c == '-' {
                c
            } else {
                '_'
            }
        })
        .collect()
}
