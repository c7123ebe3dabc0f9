//! Anthropic's event streams.

use std::borrow::Cow;
use std::collections::VecDeque;

use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::{UsageCount, finish};
use crate::completion::{Chunk, FinishReason, StreamEvent};
use crate::failure::AttemptError;
use crate::providers::fault::{self, Wire};
use crate::providers::shape::{CallDelta, Delta, FunctionDelta, chunk, ending};
use crate::providers::sse::SseEvent;
use crate::providers::stream::ReadEvents;

/// Reads the events of one stream.
pub(in crate::providers) struct MessageReader {
    wire: Wire,
    /// The block that is open.
    block: Block,
    /// Tool calls begun.
    calls: usize,
    finish: Option<FinishReason>,
    usage: UsageCount,
}

/// A content block whose end has not come.
enum Block {
    None,
    /// Thoughts so far, and their signature.
    Thoughts {
        text: String,
        signature: String,
    },
    /// A call; whether any of its arguments have come.
    Call {
        has_arguments: bool,
    },
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    message: Option<Value>,
    content_block: Option<Value>,
    #[serde(borrow)]
    delta: Option<Piece<'a>>,
    usage: Option<Value>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Piece<'a> {
    #[serde(rename = "type", borrow)]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow)]
    text: Option<Cow<'a, str>>,
    #[serde(borrow)]
    partial_json: Option<Cow<'a, str>>,
    #[serde(borrow)]
    thinking: Option<Cow<'a, str>>,
    #[serde(borrow)]
    signature: Option<Cow<'a, str>>,
    #[serde(borrow)]
    stop_reason: Option<Cow<'a, str>>,
    #[serde(borrow)]
    stop_sequence: Option<Cow<'a, str>>,
}

impl MessageReader {
    pub(in crate::providers) fn new(wire: Wire) -> Self {
        Self {
            wire,
            block: Block::None,
            calls: 0,
            finish: None,
            usage: UsageCount::default(),
        }
    }

    fn begin_block(&mut self, block: &Value, out: &mut VecDeque<StreamEvent>) {
        let text = |key: &str| block[key].as_str().unwrap_or_default();
        self.block = match text("type") {
            "thinking" => Block::Thoughts {
                text: text("thinking").to_owned(),
                signature: text("signature").to_owned(),
            },
            "redacted_thinking" => {
                push(
                    out,
                    &Delta {
                        thinking_blocks: Some([block]),
                        ..Delta::default()
                    },
                );
                Block::None
            }
            "tool_use" => {
                self.calls += 1;
                push(
                    out,
                    &Delta {
                        tool_calls: Some([CallDelta {
                            index: self.calls - 1,
                            id: Some(text("id")),
                            kind: Some("function"),
                            function: FunctionDelta {
                                name: Some(text("name")),
                                arguments: "",
                            },
                            extra_content: None,
                        }]),
                        ..Delta::default()
                    },
                );
                Block::Call { has_arguments: false }
            }
            "text" => {
                push_text(out, text("text"));
                Block::None
            }
            _ => Block::None,
        };
    }

    fn grow_block(&mut self, piece: &Piece<'_>, out: &mut VecDeque<StreamEvent>) {
        match piece.kind.as_deref() {
            Some("text_delta") => push_text(out, piece.text.as_deref().unwrap_or_default()),
            Some("thinking_delta") => {
                let more = piece.thinking.as_deref().unwrap_or_default();
                if let Block::Thoughts { text, .. } = &mut self.block {
                    text.push_str(more);
                }
                push(
                    out,
                    &Delta {
                        reasoning_content: Some(more),
                        ..Delta::default()
                    },
                );
            }
            Some("signature_delta") => {
                if let Block::Thoughts { signature, .. } = &mut self.block {
                    signature.push_str(piece.signature.as_deref().unwrap_or_default());
                }
            }
            Some("input_json_delta") => {
                let more = piece.partial_json.as_deref().unwrap_or_default();
                if let Block::Call { has_arguments } = &mut self.block
                    && !more.is_empty()
                {
                    *has_arguments = true;
                    self.push_arguments(more, out);
                }
            }
            _ => {}
        }
    }

    fn end_block(&mut self, out: &mut VecDeque<StreamEvent>) {
        match std::mem::replace(&mut self.block, Block::None) {
            Block::Thoughts { text, signature } => {
                let block = json!({"type": "thinking", "thinking": text, "signature": signature});
                push(
                    out,
                    &Delta {
                        thinking_blocks: Some([&block]),
                        ..Delta::default()
                    },
                );
            }
            // A call without arguments sends none; clients parse what they get.
            Block::Call { has_arguments: false } => self.push_arguments("{}", out),
            Block::Call { .. } | Block::None => {}
        }
    }

    fn push_arguments(&self, arguments: &str, out: &mut VecDeque<StreamEvent>) {
        push(
            out,
            &Delta {
                tool_calls: Some([CallDelta {
                    index: self.calls.saturating_sub(1),
                    function: FunctionDelta {
                        name: None,
                        arguments,
                    },
                    ..CallDelta::default()
                }]),
                ..Delta::default()
            },
        );
    }

    fn end(&self, out: &mut VecDeque<StreamEvent>) -> Result<(), AttemptError> {
        let finish = self.finish.ok_or_else(|| fault::truncated(&self.wire))?;
        out.push_back(StreamEvent::End {
            finish,
            usage: self.usage.read(),
            usage_extra: self.usage.extra(),
        });
        Ok(())
    }
}

fn push(out: &mut VecDeque<StreamEvent>, delta: &Delta<'_>) {
    out.push_back(StreamEvent::Chunk(chunk(delta)));
}

fn push_text(out: &mut VecDeque<StreamEvent>, text: &str) {
    if !text.is_empty() {
        push(
            out,
            &Delta {
                content: Some(text),
                ..Delta::default()
            },
        );
    }
}

impl ReadEvents for MessageReader {
    fn event(&mut self, event: SseEvent<'_>, out: &mut VecDeque<StreamEvent>) -> Result<(), AttemptError> {
        let Ok(read) = serde_json::from_slice::<Event<'_>>(event.data) else {
            // An error of something on the way may have another shape.
            return Err(fault::inside_200(&self.wire, event.data)
                .unwrap_or_else(|| fault::nonsense(&self.wire, "an event that is none of its format")));
        };
        match &*read.kind {
            "message_start" => {
                if let Some(message) = &read.message {
                    self.usage.update(&message["usage"]);
                }
                let role = Delta {
                    role: Some("assistant"),
                    content: Some(""),
                    ..Delta::default()
                };
                // The prompt is counted at the beginning: known even if the answer is cut off.
                out.push_back(StreamEvent::Chunk(Chunk {
                    usage: self.usage.read(),
                    ..chunk(&role)
                }));
            }
            "content_block_start" => self.begin_block(&read.content_block.unwrap_or_default(), out),
            "content_block_delta" => self.grow_block(&read.delta.unwrap_or_default(), out),
            "content_block_stop" => self.end_block(out),
            "message_delta" => {
                if let Some(usage) = &read.usage {
                    self.usage.update(usage);
                }
                let delta = read.delta.unwrap_or_default();
                if let Some(word) = delta.stop_reason {
                    let reason = finish(&word);
                    self.finish = Some(reason);
                    let end = ending(reason, delta.stop_sequence.as_deref());
                    out.push_back(StreamEvent::Chunk(end));
                }
            }
            "message_stop" => return self.end(out),
            "error" => return Err(fault::inside(&self.wire, event.data)),
            // Pings, and events that may come.
            _ => {}
        }
        Ok(())
    }

    fn closed(&mut self, out: &mut VecDeque<StreamEvent>) -> Result<(), AttemptError> {
        self.end(out)
    }
}
