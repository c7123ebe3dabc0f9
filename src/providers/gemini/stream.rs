//! Gemini's event streams: each event is an answer in pieces; the usage is a running total; there is no mark of the
//! end but the end.

use std::collections::VecDeque;

use serde_json::Value;

use super::answer::{self, CallIds, Piece};
use super::content::with_signature;
use crate::completion::{FinishReason, StreamEvent, Usage};
use crate::failure::AttemptError;
use crate::providers::fault::{self, Wire};
use crate::providers::shape::{CallDelta, Delta, FunctionDelta, chunk, ending};
use crate::providers::sse::SseEvent;
use crate::providers::stream::ReadEvents;

/// Reads the events of one stream.
pub(in crate::providers) struct AnswerReader {
    wire: Wire,
    /// Whether anything has been said yet.
    begun: bool,
    ids: Option<CallIds>,
    finish: Option<FinishReason>,
    usage: Option<Usage>,
}

impl AnswerReader {
    pub(in crate::providers) fn new(wire: Wire) -> Self {
        Self {
            wire,
            begun: false,
            ids: None,
            finish: None,
            usage: None,
        }
    }

    fn push_call(
        &mut self,
        answer: &Value,
        call: &Value,
        signature: Option<&Value>,
        out: &mut VecDeque<StreamEvent>,
    ) {
        let ids = self
            .ids
            .get_or_insert_with(|| CallIds::new(answer["responseId"].as_str()));
        let id = ids.next(call);
        let arguments = answer::arguments(call);
        let extra = signature.map(with_signature);
        push(
            out,
            &Delta {
                tool_calls: Some([CallDelta {
                    index: ids.made() - 1,
                    id: Some(&id),
                    kind: Some("function"),
                    function: FunctionDelta {
                        name: Some(call["name"].as_str().unwrap_or_default()),
                        arguments: &arguments,
                    },
                    extra_content: extra.as_ref(),
                }]),
                ..Delta::default()
            },
        );
    }
}

fn push(out: &mut VecDeque<StreamEvent>, delta: &Delta<'_>) {
    out.push_back(StreamEvent::Chunk(chunk(delta)));
}

impl ReadEvents for AnswerReader {
    fn event(&mut self, event: SseEvent<'_>, out: &mut VecDeque<StreamEvent>) -> Result<(), AttemptError> {
        if event.data.trim_ascii().is_empty() || event.data == b"[DONE]" {
            return Ok(());
        }
        let value = answer::parse(&self.wire, event.data)?;
        if let Some(usage) = value.get("usageMetadata").and_then(answer::read_usage) {
            self.usage = Some(usage);
        }
        let Some(candidate) = answer::candidate(&self.wire, &value)? else {
            return Ok(());
        };
        if !std::mem::replace(&mut self.begun, true) {
            push(
                out,
                &Delta {
                    role: Some("assistant"),
                    content: Some(""),
                    ..Delta::default()
                },
            );
        }
        for part in answer::parts(candidate) {
            match answer::piece(part) {
                Piece::Text("", None) | Piece::Nothing => {}
                Piece::Text(text, signature) => {
                    let extra = signature.map(with_signature);
                    push(
                        out,
                        &Delta {
                            content: Some(text),
                            extra_content: extra.as_ref(),
                            ..Delta::default()
                        },
                    );
                }
                Piece::Thought(text) => push(
                    out,
                    &Delta {
                        reasoning_content: Some(text),
                        ..Delta::default()
                    },
                ),
                Piece::Call(call, signature) => self.push_call(&value, call, signature, out),
                Piece::Image(image) => push(
                    out,
                    &Delta {
                        images: Some([&image]),
                        ..Delta::default()
                    },
                ),
            }
        }
        if value.get("usageMetadata").is_some()
            && let Some(StreamEvent::Chunk(latest)) = out.back_mut()
        {
            latest.usage = self.usage;
        }
        if let Some(word) = candidate["finishReason"]
            .as_str()
            .filter(|_| self.finish.is_none())
        {
            let finish = answer::finish(&self.wire, word, self.ids.is_some())?;
            self.finish = Some(finish);
            out.push_back(StreamEvent::Chunk(ending(finish, None)));
        }
        Ok(())
    }

    fn closed(&mut self, out: &mut VecDeque<StreamEvent>) -> Result<(), AttemptError> {
        let finish = self.finish.ok_or_else(|| fault::truncated(&self.wire))?;
        out.push_back(StreamEvent::End {
            finish,
            usage: self.usage,
            usage_extra: None,
        });
        Ok(())
    }
}
