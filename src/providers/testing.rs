//! What the adapters' tests share.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};

use super::call::Call;
use super::fault::Wire;
use super::sse::{EventTooLong, SseDecoder, SseEvent};
use super::stream::ReadEvents;
use crate::arm::{Arm, ArmId, Modalities, Modality};
use crate::completion::StreamEvent;
use crate::failure::AttemptError;
use crate::request;

pub(super) fn wire() -> Wire {
    Wire {
        provider: "acme".into(),
    }
}

/// A call of the arm `acme/UPSTREAM`, whose answers have at most 4096 tokens.
pub(super) fn call(body: &str, upstream: &str, fallback: bool) -> Call {
    let request = request::parse(Bytes::copy_from_slice(body.as_bytes())).unwrap();
    Call {
        request: Arc::new(request),
        arm: Arc::new(Arm {
            id: ArmId::new(&format!("acme/{upstream}")),
            upstream: upstream.into(),
            family: "x".into(),
            context_window: 200_000,
            max_output_tokens: 4_096,
            modalities: Modality::ALL.into_iter().collect::<Modalities>(),
            tools: true,
            structured_output: true,
        }),
        fallback,
    }
}

/// Everything a stream of these bytes yields, up to its end or its failure.
pub(super) fn streamed(mut reader: impl ReadEvents, text: &str) -> Result<Vec<StreamEvent>, AttemptError> {
    let mut out = VecDeque::new();
    let mut result = Ok(());
    let mut each = |event: SseEvent<'_>| {
        let over = matches!(out.back(), Some(StreamEvent::End { .. }));
        if result.is_ok() && !over {
            result = reader.event(event, &mut out);
        }
        Ok::<(), EventTooLong>(())
    };
    let mut decoder = SseDecoder::new(1 << 20);
    decoder.feed(text.as_bytes(), &mut each).unwrap();
    decoder.finish(&mut each).unwrap();
    result?;
    if !matches!(out.back(), Some(StreamEvent::End { .. })) {
        reader.closed(&mut out)?;
    }
    Ok(out.into())
}

/// The events as JSON, for snapshots.
pub(super) fn as_json(events: &[StreamEvent]) -> Value {
    events
        .iter()
        .map(|event| match event {
            StreamEvent::Chunk(chunk) => json!({
                "choices": serde_json::from_str::<Value>(chunk.choices.get()).unwrap(),
                "meaningful": chunk.meaningful,
                "written": format!("{:?}", chunk.written),
            }),
            StreamEvent::End {
                finish,
                usage,
                usage_extra,
            } => json!({"finish": finish, "usage": usage, "usage_extra": usage_extra}),
        })
        .collect()
}
