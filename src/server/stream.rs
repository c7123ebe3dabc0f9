//! A streamed answer as SSE bytes.
//!
//! Events that are ready together leave in one write (a burst of fifty tokens costs one system call, not fifty),
//! and nothing is held back once the upstream has nothing more. Comments keep idle connections open, from
//! `keepalive` on and between frames only. An error after the first byte is an error event and then `[DONE]`.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use tokio::time::Sleep;

use crate::cache::Lead;
use crate::clock;
use crate::completion::{StreamEvent, Usage};
use crate::failure::AttemptError;
use crate::server::error::ApiError;
use crate::server::idempotency::EndedWell;
use crate::server::wire::{self, DONE, Envelope};
use crate::units::Usd;

/// Bytes gathered into one write at most.
const MAX_WRITE: usize = 64 * 1024;

/// What a stream of events is.
pub type Events = Pin<Box<dyn Stream<Item = Result<StreamEvent, AttemptError>> + Send>>;

/// An answer that has begun.
pub struct Begun {
    /// Its frame.
    pub envelope: Envelope,
    /// What follows.
    pub events: Events,
    /// Called once at the end with the provider's tokens; gives the last frame's `usage` and `router_metadata`.
    pub settle: Box<dyn FnOnce(Option<Usage>, Option<serde_json::Value>) -> Settled + Send>,
    /// Turns a failure of the stream into the client's error.
    pub explain: Box<dyn FnOnce(AttemptError) -> ApiError + Send>,
    /// Records it for a cache.
    pub lead: Option<Lead>,
}

/// What the last frame says.
pub struct Settled {
    /// OpenAI's `usage` object with our `cost`.
    pub usage: serde_json::Value,
    /// `router_metadata`, when asked for.
    pub metadata: Option<serde_json::Value>,
    /// Tokens, estimated if the provider told none.
    pub tokens: Usage,
    /// What the request cost; `None` when a price is not known.
    pub cost: Option<Usd>,
}

/// An answer on its way, for streams that were promised to the client before it came.
pub type Coming = Pin<Box<dyn Future<Output = Result<Begun, ApiError>> + Send>>;

enum Stage {
    Waiting(Coming),
    Streaming(Begun),
    Ended,
}

/// The body of a streamed response.
pub struct SseBody {
    stage: Stage,
    include_usage: bool,
    keepalive: Duration,
    timer: Pin<Box<Sleep>>,
    ended_well: EndedWell,
    /// Frame for errors that come before the answer has one of its own.
    fallback_envelope: Envelope,
}

impl SseBody {
    /// The body of an answer that has begun.
    #[must_use]
    pub fn begun(begun: Begun, include_usage: bool, keepalive: Duration) -> Self {
        let envelope = begun.envelope.clone();
        Self::new(Stage::Streaming(begun), include_usage, keepalive, envelope)
    }

    /// The body of an answer still waited for: comments keep the connection open meanwhile.
    #[must_use]
    pub fn waiting(coming: Coming, include_usage: bool, keepalive: Duration, envelope: Envelope) -> Self {
        Self::new(Stage::Waiting(coming), include_usage, keepalive, envelope)
    }

    fn new(stage: Stage, include_usage: bool, keepalive: Duration, fallback_envelope: Envelope) -> Self {
        let timer = Box::pin(tokio::time::sleep(keepalive));
        Self {
            stage,
            include_usage,
            keepalive,
            timer,
            ended_well: EndedWell::default(),
            fallback_envelope,
        }
    }

    /// Tells whoever holds it whether the stream has ended as it should.
    #[must_use]
    pub fn ended_well(&self) -> EndedWell {
        self.ended_well.clone()
    }

    /// Moves as far as the upstream allows; fills `out`. `Pending` when there is nothing to wait with but time.
    fn fill(&mut self, cx: &mut Context<'_>, out: &mut BytesMut) -> Poll<()> {
        loop {
            match &mut self.stage {
                Stage::Ended => return Poll::Ready(()),
                Stage::Waiting(coming) => match coming.as_mut().poll(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(begun)) => self.stage = Stage::Streaming(begun),
                    Poll::Ready(Err(error)) => {
                        self.stage = Stage::Ended;
                        end_with_error(out, &self.fallback_envelope, &error);
                    }
                },
                Stage::Streaming(begun) => match begun.events.as_mut().poll_next(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Some(Ok(StreamEvent::Chunk(piece)))) => {
                        if let Some(lead) = &begun.lead {
                            lead.push(&piece);
                        }
                        wire::chunk(out, &begun.envelope, &piece);
                        if out.len() >= MAX_WRITE {
                            return Poll::Ready(());
                        }
                    }
                    Poll::Ready(last) => self.end(out, last),
                },
            }
        }
    }

    /// Writes the last frames and drops the upstream.
    fn end(&mut self, out: &mut BytesMut, last: Option<Result<StreamEvent, AttemptError>>) {
        let Stage::Streaming(begun) = std::mem::replace(&mut self.stage, Stage::Ended) else {
            return;
        };
        match last {
            Some(Ok(StreamEvent::End {
                finish,
                usage,
                usage_extra,
            })) => {
                let more = begun.lead.as_ref().and(usage_extra.clone());
                let settled = (begun.settle)(usage, usage_extra);
                if let Some(lead) = begun.lead {
                    lead.end(finish, Some(settled.tokens), more, settled.cost, clock::wall());
                }
                wire::usage_chunk(
                    out,
                    &begun.envelope,
                    settled.usage,
                    settled.metadata.as_ref(),
                    self.include_usage,
                );
                out.put_slice(DONE);
                self.ended_well.set();
            }
            Some(Err(failure)) => end_with_error(out, &begun.envelope, &(begun.explain)(failure)),
            // A stream without its `End` was cut off; a chunk cannot come here.
            Some(Ok(StreamEvent::Chunk(_))) | None => {
                let error = ApiError::new(
                    crate::failure::FailureKind::ProviderUnavailable,
                    "The provider's answer was cut off before its end.",
                );
                end_with_error(out, &begun.envelope, &error);
            }
        }
    }
}

fn end_with_error(out: &mut BytesMut, envelope: &Envelope, error: &ApiError) {
    wire::error_frame(out, envelope, &error.body()["error"]);
    out.put_slice(DONE);
}

/// A client that leaves takes nothing from those who follow its answer: it is then read to its end for them.
impl Drop for SseBody {
    fn drop(&mut self) {
        if let Stage::Streaming(begun) = std::mem::replace(&mut self.stage, Stage::Ended)
            && begun.lead.as_ref().is_some_and(Lead::goes_on)
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(read_on(begun));
        }
    }
}

/// Reads an answer for its followers, for as long as there are any.
async fn read_on(mut begun: Begun) {
    let Some(lead) = begun.lead.take() else { return };
    while let Some(Ok(event)) = begun.events.next().await {
        match event {
            StreamEvent::Chunk(piece) if lead.goes_on() => lead.push(&piece),
            StreamEvent::Chunk(_) => return,
            StreamEvent::End {
                finish,
                usage,
                usage_extra,
            } => {
                let settled = (begun.settle)(usage, usage_extra.clone());
                lead.end(
                    finish,
                    Some(settled.tokens),
                    usage_extra,
                    settled.cost,
                    clock::wall(),
                );
                return;
            }
        }
    }
}

impl Stream for SseBody {
    type Item = Result<Bytes, std::convert::Infallible>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let mut out = BytesMut::new();
        let filled = this.fill(cx, &mut out);
        if out.is_empty() {
            match filled {
                Poll::Ready(()) => return Poll::Ready(None),
                Poll::Pending if this.timer.as_mut().poll(cx).is_ready() => out.put_slice(b": keepalive\n\n"),
                Poll::Pending => return Poll::Pending,
            }
        }
        // The timer is polled again before the next wait, so no wake-up is lost.
        this.timer
            .as_mut()
            .reset(crate::clock::tokio_now() + this.keepalive);
        Poll::Ready(Some(Ok(out.freeze())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::completion::{Chunk, FinishReason, Written};
    use crate::failure::{FailureKind, FaultSource, Retry};
    use futures_util::stream;
    use serde_json::value::RawValue;

    fn piece(text: &str) -> Result<StreamEvent, AttemptError> {
        let choices = format!(r#"[{{"index":0,"delta":{{"content":"{text}"}}}}]"#);
        Ok(StreamEvent::Chunk(Chunk {
            choices: RawValue::from_string(choices).unwrap(),
            extra: Vec::new(),
            meaningful: true,
            written: Written::default(),
            usage: None,
        }))
    }

    fn envelope() -> Envelope {
        Envelope {
            id: "chatcmpl-1".into(),
            model: "a/b".into(),
            created: 1,
        }
    }

    fn begun(events: impl Stream<Item = Result<StreamEvent, AttemptError>> + Send + 'static) -> Begun {
        Begun {
            envelope: envelope(),
            events: Box::pin(events),
            settle: Box::new(|_, _| Settled {
                usage: serde_json::json!({"cost": 0.5}),
                metadata: None,
                tokens: Usage::default(),
                cost: None,
            }),
            explain: Box::new(|failure| ApiError::new(failure.kind, failure.message)),
            lead: None,
        }
    }

    async fn text(body: SseBody) -> Vec<String> {
        body.map(|bytes| String::from_utf8(bytes.unwrap().to_vec()).unwrap())
            .collect()
            .await
    }

    #[tokio::test(start_paused = true)]
    async fn ready_events_leave_in_one_write_and_the_end_carries_the_cost() {
        let end = StreamEvent::End {
            finish: FinishReason::Stop,
            usage: None,
            usage_extra: None,
        };
        let events = stream::iter(vec![piece("a"), piece("b"), Ok(end)]);
        let writes = text(SseBody::begun(begun(events), true, Duration::from_secs(15))).await;
        assert_eq!(writes.len(), 1);
        assert_eq!(writes[0].matches("data: ").count(), 4);
        assert!(writes[0].contains(r#""usage":{"cost":0.5}"#));
        assert!(writes[0].ends_with("data: [DONE]\n\n"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_is_filled_with_comments_between_frames_only() {
        let slow = stream::once(async {
            tokio::time::sleep(Duration::from_secs(40)).await;
            piece("late")
        });
        let events = stream::iter(vec![piece("a")]).chain(slow);
        let writes = text(SseBody::begun(begun(events), false, Duration::from_secs(15))).await;
        assert_eq!(
            writes
                .iter()
                .filter(|write| write.as_str() == ": keepalive\n\n")
                .count(),
            2
        );
        assert!(
            writes.last().unwrap().contains("cut off"),
            "a stream without its end is an error: {writes:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_after_the_first_byte_is_an_event_and_then_done() {
        let failure = AttemptError {
            kind: FailureKind::ProviderOverloaded,
            fault: FaultSource::Upstream,
            retry: Retry::No,
            retry_after: None,
            quota_exhausted: false,
            may_be_billed: false,
            message: "overloaded".into(),
            provider_code: None,
        };
        let events = stream::iter(vec![piece("a"), Err(failure)]);
        let writes = text(SseBody::begun(begun(events), false, Duration::from_secs(15)))
            .await
            .concat();
        assert!(writes.contains(r#""code":"provider_overloaded""#));
        assert!(writes.ends_with("data: [DONE]\n\n"));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_waited_for_too_long_is_kept_alive_and_its_failure_is_an_event() {
        let coming = async {
            tokio::time::sleep(Duration::from_secs(20)).await;
            Err(ApiError::new(FailureKind::Timeout, "too late"))
        };
        let body = SseBody::waiting(Box::pin(coming), false, Duration::from_secs(15), envelope());
        let writes = text(body).await;
        assert_eq!(writes.len(), 2);
        assert_eq!(writes[0], ": keepalive\n\n");
        assert!(writes[1].contains(r#""code":"timeout""#) && writes[1].ends_with("data: [DONE]\n\n"));
    }
}
