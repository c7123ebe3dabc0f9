//! OpenAI's event streams.

use std::collections::VecDeque;

use serde_json::value::RawValue;

use super::answer::{Look, Top};
use super::{read_usage, reason, relabelled};
use crate::completion::{Chunk, FinishReason, StreamEvent};
use crate::failure::AttemptError;
use crate::providers::fault::{self, Wire};
use crate::providers::sse::SseEvent;
use crate::providers::stream::ReadEvents;

/// Reads the chunks of one stream.
pub(in crate::providers) struct ChunkReader {
    wire: Wire,
    /// The request's stop sequences.
    stops: Vec<String>,
    finish: Option<FinishReason>,
    /// The last usage as sent: some servers send a running count with every chunk.
    usage: Option<Box<RawValue>>,
}

impl ChunkReader {
    pub(in crate::providers) fn new(wire: Wire, stops: Vec<String>) -> Self {
        Self {
            wire,
            stops,
            finish: None,
            usage: None,
        }
    }

    fn end(&mut self, out: &mut VecDeque<StreamEvent>) -> Result<(), AttemptError> {
        // The mark of the end alone is not enough: servers send it after a failure as well.
        let finish = self.finish.ok_or_else(|| fault::truncated(&self.wire))?;
        let (usage, usage_extra) = read_usage(self.usage.as_deref());
        out.push_back(StreamEvent::End {
            finish,
            usage,
            usage_extra,
        });
        Ok(())
    }
}

impl ReadEvents for ChunkReader {
    fn event(&mut self, event: SseEvent<'_>, out: &mut VecDeque<StreamEvent>) -> Result<(), AttemptError> {
        let data = event.data.trim_ascii();
        if data.is_empty() {
            return Ok(());
        }
        if data == b"[DONE]" {
            return self.end(out);
        }
        // Checked for UTF-8 once, so that no part is checked again.
        let text = std::str::from_utf8(data).unwrap_or_default();
        let Ok(top) = serde_json::from_str::<Top<'_>>(text) else {
            return Err(fault::nonsense(&self.wire, "an event that is no JSON object"));
        };
        if top.error || event.name == b"error" {
            return Err(fault::inside(&self.wire, data));
        }
        let is_usage = top.usage.is_some();
        if let Some(usage) = top.usage {
            self.usage = Some(usage.to_owned());
        }
        let Some(choices) = top.choices else {
            return Ok(());
        };
        let look = Look::at(choices)
            .ok_or_else(|| fault::nonsense(&self.wire, "an event that is no part of an answer"))?;
        if look.choices == 0 && (is_usage || top.extra.is_empty()) {
            return Ok(());
        }
        let mut own_word = true;
        if let Some(word) = look.finish.as_deref() {
            let (finish, own) = reason(&self.wire, word)?;
            own_word = own;
            self.finish.get_or_insert(finish);
        }
        out.push_back(StreamEvent::Chunk(Chunk {
            meaningful: look.meaningful,
            written: look.written,
            choices: relabelled(choices, &look, own_word, &self.stops),
            extra: top.extra,
            // Most tell at the end, with a piece that holds nothing else.
            usage: self
                .usage
                .as_deref()
                .filter(|_| is_usage)
                .and_then(|usage| read_usage(Some(usage)).0),
        }));
        Ok(())
    }

    fn closed(&mut self, out: &mut VecDeque<StreamEvent>) -> Result<(), AttemptError> {
        self.end(out)
    }
}
