//! Answers, streams and errors in three providers' formats, written by hand from their documentation.

use serde_json::{Value, json};

/// The format that is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    OpenAi,
    Anthropic,
    Gemini,
}

/// A streamed answer: what comes before the first word, one frame a piece, and its end.
pub(super) struct Frames {
    pub(super) opening: String,
    pub(super) content: Vec<String>,
    pub(super) closing: String,
}

impl Wire {
    pub(super) fn whole(self, text: &str, input: u64, output: u64) -> String {
        let answer = match self {
            Self::OpenAi => json!({
                "id": "chatcmpl-scripted", "object": "chat.completion", "created": 1, "model": "m",
                "choices": [{"index": 0, "finish_reason": "stop",
                             "message": {"role": "assistant", "content": text}}],
                "usage": {"prompt_tokens": input, "completion_tokens": output, "total_tokens": input + output},
            }),
            Self::Anthropic => json!({
                "id": "msg_scripted", "type": "message", "role": "assistant", "model": "m",
                "content": [{"type": "text", "text": text}], "stop_reason": "end_turn", "stop_sequence": null,
                "usage": {"input_tokens": input, "output_tokens": output},
            }),
            Self::Gemini => gemini(text, Some("STOP"), Some((input, output))),
        };
        answer.to_string()
    }

    pub(super) fn frames(self, pieces: &[String], input: u64, output: u64) -> Frames {
        match self {
            Self::OpenAi => {
                let chunk = |choices: Value, usage: Value| {
                    data(&json!({"id": "chatcmpl-scripted", "object": "chat.completion.chunk", "created": 1,
                                 "model": "m", "choices": choices, "usage": usage}))
                };
                let delta = |delta: Value, finish: Value| {
                    chunk(json!([{"index": 0, "delta": delta, "finish_reason": finish}]), Value::Null)
                };
                let usage =
                    json!({"prompt_tokens": input, "completion_tokens": output, "total_tokens": input + output});
                Frames {
                    opening: delta(json!({"role": "assistant", "content": ""}), Value::Null),
                    content: pieces
                        .iter()
                        .map(|text| delta(json!({"content": text}), Value::Null))
                        .collect(),
                    closing: [
                        delta(json!({}), json!("stop")),
                        chunk(json!([]), usage),
                        "data: [DONE]\n\n".to_owned(),
                    ]
                    .concat(),
                }
            }
            Self::Anthropic => Frames {
                opening: [
                    event("message_start", json!({"message": {
                        "id": "msg_scripted", "type": "message", "role": "assistant", "model": "m", "content": [],
                        "stop_reason": null, "usage": {"input_tokens": input, "output_tokens": 1}}})),
                    event("content_block_start", json!({"index": 0, "content_block": {"type": "text", "text": ""}})),
                    event("ping", json!({})),
                ]
                .concat(),
                content: pieces
                    .iter()
                    .map(|text| {
                        let delta = json!({"type": "text_delta", "text": text});
                        event("content_block_delta", json!({"index": 0, "delta": delta}))
                    })
                    .collect(),
                closing: [
                    event("content_block_stop", json!({"index": 0})),
                    event("message_delta", json!({"delta": {"stop_reason": "end_turn", "stop_sequence": null},
                                                  "usage": {"output_tokens": output}})),
                    event("message_stop", json!({})),
                ]
                .concat(),
            },
            Self::Gemini => Frames {
                opening: data(&gemini("", None, None)),
                content: pieces.iter().map(|text| data(&gemini(text, None, None))).collect(),
                closing: data(&gemini("", Some("STOP"), Some((input, output)))),
            },
        }
    }

    pub(super) fn error(self, status: u16, message: &str) -> String {
        let kind = |words: [&'static str; 4]| match status {
            400 => words[0],
            429 => words[1],
            503 | 529 => words[2],
            _ => words[3],
        };
        let error = match self {
            Self::OpenAi => {
                let kind = kind([
                    "invalid_request_error",
                    "rate_limit_error",
                    "server_error",
                    "server_error",
                ]);
                json!({"error": {"message": message, "type": kind, "param": null, "code": null}})
            }
            Self::Anthropic => {
                let kind = kind([
                    "invalid_request_error",
                    "rate_limit_error",
                    "overloaded_error",
                    "api_error",
                ]);
                json!({"type": "error", "error": {"type": kind, "message": message}})
            }
            Self::Gemini => {
                let kind = kind([
                    "INVALID_ARGUMENT",
                    "RESOURCE_EXHAUSTED",
                    "UNAVAILABLE",
                    "INTERNAL",
                ]);
                json!({"error": {"code": status, "message": message, "status": kind}})
            }
        };
        error.to_string()
    }

    pub(super) fn quota_exhausted(self) -> &'static str {
        match self {
            Self::OpenAi => {
                r#"{"error":{"message":"You exceeded your current quota","code":"insufficient_quota"}}"#
            }
            Self::Anthropic => {
                r#"{"type":"error","error":{"type":"rate_limit_error","message":"enforced_spend_limit_reached: spend limit"}}"#
            }
            Self::Gemini => {
                r#"{"error":{"code":429,"message":"You exceeded your current quota","status":"RESOURCE_EXHAUSTED"}}"#
            }
        }
    }

    pub(super) fn too_long(self) -> &'static str {
        match self {
            Self::OpenAi => {
                r#"{"error":{"message":"This model's maximum context length is 9 tokens","type":"invalid_request_error","param":"messages","code":"context_length_exceeded"}}"#
            }
            Self::Anthropic => {
                r#"{"type":"error","error":{"type":"invalid_request_error","message":"prompt is too long: 11 tokens > 9 maximum"}}"#
            }
            Self::Gemini => {
                r#"{"error":{"code":400,"message":"The input token count (11) exceeds the maximum number of tokens allowed (9).","status":"INVALID_ARGUMENT"}}"#
            }
        }
    }

    /// An error as an event of a stream that began with status 200.
    pub(super) fn error_event(self, message: &str) -> String {
        let error = self.error(503, message);
        match self {
            Self::Anthropic => format!("event: error\ndata: {error}\n\n"),
            Self::OpenAi | Self::Gemini => format!("data: {error}\n\n"),
        }
    }

    /// The end of a stream, once more.
    pub(super) fn end_again(self) -> String {
        match self {
            Self::OpenAi => "data: [DONE]\n\ndata: [DONE]\n\n".to_owned(),
            Self::Anthropic => event("message_stop", json!({})),
            Self::Gemini => data(&gemini("", Some("STOP"), None)),
        }
    }
}

fn data(value: &Value) -> String {
    format!("data: {value}\n\n")
}

fn event(name: &str, mut value: Value) -> String {
    value["type"] = json!(name);
    format!("event: {name}\ndata: {value}\n\n")
}

fn gemini(text: &str, finish: Option<&str>, usage: Option<(u64, u64)>) -> Value {
    let mut answer = json!({
        "candidates": [{"index": 0, "content": {"role": "model", "parts": [{"text": text}]}}],
        "responseId": "scripted", "modelVersion": "m",
    });
    if let Some(finish) = finish {
        answer["candidates"][0]["finishReason"] = json!(finish);
    }
    if let Some((input, output)) = usage {
        answer["usageMetadata"] = json!({"promptTokenCount": input, "candidatesTokenCount": output,
                                         "totalTokenCount": input + output});
    }
    answer
}
