//! Parts of Gemini's contents.

use serde_json::{Value, json};

use super::model;
use crate::failure::AttemptError;
use crate::providers::call::Call;
use crate::providers::fault::{self, Wire};
use crate::providers::media::{self, Source};
use crate::request::{Message, Part};

/// What Google documents for calls that another model made, or whose signature is lost.
const NO_SIGNATURE: &str = "skip_thought_signature_validator";

/// The parts of a message. Empty texts are left out: Gemini refuses them.
pub(super) fn parts(wire: &Wire, message: &Message) -> Result<Vec<Value>, AttemptError> {
    let parts = message.parts.iter().map(|sent| part(wire, sent));
    parts.filter_map(Result::transpose).collect()
}

fn part(wire: &Wire, part: &Part) -> Result<Option<Value>, AttemptError> {
    Ok(match part {
        Part::Text(text) | Part::Refusal(text) => (!text.is_empty()).then(|| json!({"text": text})),
        Part::Image { url, .. } => Some(media(wire, url, "image/png", None)?),
        Part::Video { url } => Some(media(wire, url, "video/mp4", None)?),
        Part::Audio { data, format } => Some(media(wire, data, &media::audio_mime(format), None)?),
        Part::File {
            data,
            file_id,
            filename,
        } => match (data, file_id) {
            (Some(data), _) => Some(media(wire, data, "application/pdf", filename.as_deref())?),
            // Gemini's own files are addresses.
            (None, Some(id)) if id.contains("://") => Some(json!({"fileData": {"fileUri": id}})),
            _ => return Err(fault::unsupported(wire, "files of another provider")),
        },
        Part::Other(_) => return Err(fault::unsupported(wire, "content of an unknown type")),
    })
}

fn media(wire: &Wire, text: &str, otherwise: &str, name: Option<&str>) -> Result<Value, AttemptError> {
    let otherwise = name.and_then(media::mime_of_name).unwrap_or(otherwise);
    match Source::read(text, otherwise) {
        Some(Source::Inline { mime, base64 }) => {
            Ok(json!({"inlineData": {"mimeType": mime, "data": base64}}))
        }
        Some(Source::Link(url)) => {
            let mime = media::mime_of_name(url).unwrap_or(otherwise);
            Ok(json!({"fileData": {"mimeType": mime, "fileUri": url}}))
        }
        None => Err(fault::unsupported(wire, "a data URL of this form")),
    }
}

/// A model's turn: text, then calls, with the thought signatures that came with them.
pub(super) fn assistant_parts(
    wire: &Wire,
    call: &Call,
    message: &Message,
) -> Result<Vec<Value>, AttemptError> {
    let mut all = parts(wire, message)?;
    let own = !call.fallback;
    if own
        && let Some(signature) = message.extra("extra_content").and_then(signature)
        && let Some(last) = all.last_mut()
    {
        last["thoughtSignature"] = signature.into();
    }
    for (index, tool_call) in message.tool_calls.iter().enumerate() {
        let args = match serde_json::from_str(&tool_call.arguments) {
            Ok(Value::Object(args)) => Value::Object(args),
            _ if tool_call.arguments.trim().is_empty() => json!({}),
            _ => json!({"arguments": tool_call.arguments}),
        };
        let mut part = json!({"functionCall": {"name": tool_call.name, "args": args}});
        if model::names_calls(&call.arm.upstream) {
            part["functionCall"]["id"] = tool_call.id.as_str().into();
        }
        let extra = tool_call.extra.iter().find(|(key, _)| key == "extra_content");
        if let Some(signature) = extra.and_then(|(_, value)| signature(value)).filter(|_| own) {
            part["thoughtSignature"] = signature.into();
        } else if index == 0 && model::wants_signatures(&call.arm.upstream) {
            part["thoughtSignature"] = NO_SIGNATURE.into();
        }
        all.push(part);
    }
    Ok(all)
}

/// The signature in Google's own extension of OpenAI's messages.
fn signature(extra_content: &Value) -> Option<&str> {
    extra_content["google"]["thought_signature"].as_str()
}

/// `extra_content` with a signature.
pub(super) fn with_signature(signature: &Value) -> Value {
    json!({"google": {"thought_signature": signature}})
}

/// A tool's result. Gemini pairs results with calls by name and order, not by id.
pub(super) fn result_parts(wire: &Wire, call: &Call, message: &Message) -> Result<Vec<Value>, AttemptError> {
    let request = &*call.request;
    let called = message.tool_call_id.as_ref().and_then(|id| {
        let mut calls = request
            .messages
            .iter()
            .rev()
            .flat_map(|message| &message.tool_calls);
        calls.find(|call| call.id == *id).map(|call| call.name.as_str())
    });
    let name = called.or(message.name.as_deref()).unwrap_or("unknown_function");
    let mut text = String::new();
    let mut media = Vec::new();
    for sent in &message.parts {
        match sent {
            Part::Text(more) | Part::Refusal(more) => text.push_str(more),
            other => media.extend(part(wire, other)?),
        }
    }
    let response = match serde_json::from_str(&text) {
        Ok(Value::Object(object)) => Value::Object(object),
        Ok(other) => json!({"result": other}),
        Err(_) => json!({"result": text}),
    };
    let mut result = json!({"functionResponse": {"name": name, "response": response}});
    if let Some(id) = message
        .tool_call_id
        .as_deref()
        .filter(|_| model::names_calls(&call.arm.upstream))
    {
        result["functionResponse"]["id"] = id.into();
    }
    let mut parts = vec![result];
    parts.extend(media);
    Ok(parts)
}
