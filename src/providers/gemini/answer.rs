//! Gemini's answers: a whole one and a piece of a stream have the same form.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::content::with_signature;
use crate::completion::{Completion, FinishReason, Usage};
use crate::failure::{AttemptError, Retry};
use crate::providers::fault::{self, Wire};
use crate::providers::shape::{self, Answer, Facts};

/// Reads a whole answer.
pub(super) fn read(wire: &Wire, body: &[u8], json_asked: bool) -> Result<Completion, AttemptError> {
    let value = parse(wire, body)?;
    let Some(candidate) = candidate(wire, &value)? else {
        return Err(fault::nonsense(wire, "JSON that holds no answer"));
    };
    let mut ids = CallIds::new(value["responseId"].as_str());
    let mut answer = Answer::default();
    for part in parts(candidate) {
        match piece(part) {
            Piece::Text(text, signature) => {
                answer.text.push_str(text);
                if let Some(signature) = signature {
                    answer.extra_content = Some(with_signature(signature));
                }
            }
            Piece::Thought(text) => answer.reasoning.push_str(text),
            Piece::Call(call, signature) => {
                let id = ids.next(call);
                let name = call["name"].as_str().unwrap_or_default();
                let extra = signature.map(with_signature);
                answer.calls.push(shape::call(&id, name, &arguments(call), extra));
            }
            Piece::Image(image) => answer.images.push(image),
            Piece::Nothing => {}
        }
    }
    let finish = match candidate["finishReason"].as_str() {
        Some(word) => finish(wire, word, !answer.calls.is_empty())?,
        None => return Err(fault::truncated(wire)),
    };
    let usage = value.get("usageMetadata");
    Ok(answer.into_completion(Facts {
        upstream_id: value["responseId"].as_str().map(str::to_owned),
        finish,
        stop_sequence: None,
        usage: usage.and_then(read_usage),
        usage_extra: None,
        json_asked,
    }))
}

/// JSON that is no error.
pub(super) fn parse(wire: &Wire, body: &[u8]) -> Result<Value, AttemptError> {
    let value: Value =
        serde_json::from_slice(body).map_err(|_| fault::nonsense(wire, "something that is no JSON"))?;
    if value.get("candidates").is_none() && fault::is_error(&value) {
        return Err(fault::inside(wire, body));
    }
    Ok(value)
}

/// The first candidate; `None` when there is none, an error when the prompt was blocked.
pub(super) fn candidate<'a>(wire: &Wire, value: &'a Value) -> Result<Option<&'a Value>, AttemptError> {
    if let Some(candidate) = value["candidates"].get(0) {
        return Ok(Some(candidate));
    }
    match value["promptFeedback"]["blockReason"].as_str() {
        Some(reason) => Err(fault::filtered(wire, reason)),
        None => Ok(None),
    }
}

/// The parts of a candidate.
pub(super) fn parts(candidate: &Value) -> impl Iterator<Item = &Value> {
    candidate["content"]["parts"].as_array().into_iter().flatten()
}

/// What a part is; with its thought signature.
pub(super) enum Piece<'a> {
    Text(&'a str, Option<&'a Value>),
    Thought(&'a str),
    Call(&'a Value, Option<&'a Value>),
    Image(Value),
    Nothing,
}

/// Reads a part.
pub(super) fn piece(part: &Value) -> Piece<'_> {
    let signature = part
        .get("thoughtSignature")
        .filter(|signature| signature.is_string());
    if let Some(text) = part["text"].as_str() {
        return if part["thought"] == true {
            Piece::Thought(text)
        } else {
            Piece::Text(text, signature)
        };
    }
    if let Some(call) = part.get("functionCall") {
        return Piece::Call(call, signature);
    }
    if let Some(inline) = part.get("inlineData") {
        let text = |key: &str| inline[key].as_str().unwrap_or_default();
        let url = format!("data:{};base64,{}", text("mimeType"), text("data"));
        return Piece::Image(json!({"type": "image_url", "image_url": {"url": url}}));
    }
    match signature {
        Some(_) => Piece::Text("", signature),
        None => Piece::Nothing,
    }
}

/// The arguments of a call as a JSON text.
pub(super) fn arguments(call: &Value) -> String {
    match &call["args"] {
        Value::Null => "{}".to_owned(),
        args => args.to_string(),
    }
}

/// Ids for calls that have none: of the answer's own id and the call's place, so that one answer always gives the same.
pub(super) struct CallIds {
    answer: String,
    made: usize,
}

impl CallIds {
    pub(super) fn new(answer: Option<&str>) -> Self {
        Self {
            answer: answer.map_or_else(|| uuid::Uuid::now_v7().to_string(), str::to_owned),
            made: 0,
        }
    }

    pub(super) fn next(&mut self, call: &Value) -> String {
        let place = self.made;
        self.made += 1;
        if let Some(id) = call["id"].as_str().filter(|id| !id.is_empty()) {
            return id.to_owned();
        }
        let digest = Sha256::digest(format!("{}/{place}", self.answer));
        digest[..12]
            .iter()
            .fold("call_".to_owned(), |id, byte| id + &format!("{byte:02x}"))
    }

    /// Calls seen.
    pub(super) fn made(&self) -> usize {
        self.made
    }
}

/// What a `finishReason` means.
pub(super) fn finish(wire: &Wire, word: &str, calls: bool) -> Result<FinishReason, AttemptError> {
    Ok(match word {
        "STOP" if calls => FinishReason::ToolCalls,
        "MAX_TOKENS" => FinishReason::Length,
        "SAFETY"
        | "RECITATION"
        | "LANGUAGE"
        | "BLOCKLIST"
        | "PROHIBITED_CONTENT"
        | "SPII"
        | "IMAGE_SAFETY"
        | "IMAGE_PROHIBITED_CONTENT"
        | "IMAGE_RECITATION" => FinishReason::ContentFilter,
        // The model wrote a call that cannot be read; a second try often can.
        "MALFORMED_FUNCTION_CALL"
        | "UNEXPECTED_TOOL_CALL"
        | "TOO_MANY_TOOL_CALLS"
        | "MALFORMED_RESPONSE"
        | "NO_IMAGE" => {
            let mut error = fault::nonsense(wire, "a malformed answer");
            error.retry = Retry::SameArm;
            error.provider_code = Some(word.to_owned());
            return Err(error);
        }
        "MISSING_THOUGHT_SIGNATURE" => {
            let mut error = fault::unsupported(wire, "tool calls of another model in the conversation");
            error.retry = Retry::WithoutThoughts;
            return Err(error);
        }
        _ if calls => FinishReason::ToolCalls,
        // STOP, OTHER, and what may come.
        _ => FinishReason::Stop,
    })
}

/// Gemini counts cached tokens inside of the prompt, thoughts outside of the answer, and what its own tools put into
/// the prompt outside of the prompt. Sound that was cached is counted as both, and is billed as cached.
pub(super) fn read_usage(usage: &Value) -> Option<Usage> {
    let count = |key: &str| usage[key].as_u64().unwrap_or(0);
    let audio = |key: &str| {
        let details = usage[key].as_array().into_iter().flatten();
        details
            .filter(|detail| detail["modality"] == "AUDIO")
            .filter_map(|detail| detail["tokenCount"].as_u64())
            .sum::<u64>()
    };
    usage["promptTokenCount"].as_u64()?;
    let thoughts = count("thoughtsTokenCount");
    Some(Usage {
        input: count("promptTokenCount") + count("toolUsePromptTokenCount"),
        cached_input: count("cachedContentTokenCount").min(count("promptTokenCount")),
        audio_input: audio("promptTokensDetails").saturating_sub(audio("cacheTokensDetails")),
        output: count("candidatesTokenCount") + thoughts,
        reasoning: thoughts,
        audio_output: audio("candidatesTokensDetails"),
        ..Usage::default()
    })
}
