//! From the bytes of an upstream's event stream to [`StreamEvent`]s, for every wire format.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::Stream;

use super::fault::{self, Wire};
use super::sse::{EventTooLong, SseDecoder, SseEvent};
use crate::completion::StreamEvent;
use crate::failure::AttemptError;

/// What a wire format makes of events.
pub(super) trait ReadEvents: Send + Unpin {
    /// Takes one event. [`StreamEvent::End`] is pushed when the answer is complete; nothing is read after it.
    fn event(&mut self, event: SseEvent<'_>, out: &mut VecDeque<StreamEvent>) -> Result<(), AttemptError>;

    /// The upstream closed the stream: pushes `End` if the answer is complete all the same, else an error.
    fn closed(&mut self, out: &mut VecDeque<StreamEvent>) -> Result<(), AttemptError>;
}

/// An answer as it comes. All events of one piece of the upstream's bytes are ready at once.
pub(super) struct Events<B, R> {
    bytes: B,
    decoder: SseDecoder,
    reader: R,
    ready: VecDeque<StreamEvent>,
    /// Told after the events that came before it.
    failure: Option<AttemptError>,
    state: State,
    wire: Wire,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Reading,
    /// The answer is complete; the bytes may not be.
    Complete,
    Closed,
}

enum Broken {
    TooLong(EventTooLong),
    Failed(AttemptError),
}

impl From<EventTooLong> for Broken {
    fn from(error: EventTooLong) -> Self {
        Self::TooLong(error)
    }
}

impl<B, R> Events<B, R>
where
    B: Stream<Item = Result<Bytes, reqwest::Error>> + Send + Unpin,
    R: ReadEvents,
{
    pub(super) fn new(wire: Wire, bytes: B, reader: R, max_event_bytes: usize) -> Self {
        Self {
            bytes,
            decoder: SseDecoder::new(max_event_bytes),
            reader,
            ready: VecDeque::new(),
            failure: None,
            state: State::Reading,
            wire,
        }
    }

    fn take(&mut self, bytes: Option<Result<Bytes, reqwest::Error>>) {
        let Self {
            decoder,
            reader,
            ready,
            ..
        } = self;
        let mut complete = false;
        let mut each = |event: SseEvent<'_>| {
            if complete {
                return Ok(());
            }
            reader.event(event, ready).map_err(Broken::Failed)?;
            complete = matches!(ready.back(), Some(StreamEvent::End { .. }));
            Ok(())
        };
        let taken = match bytes {
            Some(Ok(bytes)) => decoder.feed(&bytes, &mut each),
            // A connection that breaks after the last word has cut nothing off.
            Some(Err(error)) => match reader.closed(ready) {
                Ok(()) => {
                    self.state = State::Closed;
                    return;
                }
                Err(_) => Err(Broken::Failed(fault::transport(&self.wire, &error))),
            },
            None => decoder.finish(&mut each),
        };
        match taken {
            Ok(()) if complete => self.state = State::Complete,
            Ok(()) => {}
            Err(broken) => {
                self.state = State::Closed;
                self.failure = Some(match broken {
                    Broken::TooLong(error) => fault::oversized(&self.wire, error.limit),
                    Broken::Failed(failure) => failure,
                });
            }
        }
    }

    /// The upstream closed the stream.
    fn close(&mut self) {
        self.take(None);
        if self.state == State::Reading {
            if let Err(failure) = self.reader.closed(&mut self.ready) {
                self.failure = Some(failure);
            }
            self.state = State::Closed;
        }
    }
}

impl<B, R> Stream for Events<B, R>
where
    B: Stream<Item = Result<Bytes, reqwest::Error>> + Send + Unpin,
    R: ReadEvents,
{
    type Item = Result<StreamEvent, AttemptError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Poll::Ready(Some(Ok(event)));
            }
            if let Some(failure) = self.failure.take() {
                return Poll::Ready(Some(Err(failure)));
            }
            match self.state {
                State::Closed => return Poll::Ready(None),
                State::Complete => {
                    // The end of the body usually lies beside the end of the answer: taking it lets the connection
                    // be used again. It is not waited for, since some servers never close.
                    let _ = Pin::new(&mut self.bytes).poll_next(cx);
                    self.state = State::Closed;
                    return Poll::Ready(None);
                }
                State::Reading => match Pin::new(&mut self.bytes).poll_next(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(None) => self.close(),
                    Poll::Ready(piece) => self.take(piece),
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream::{self, StreamExt};
    use futures_util::{FutureExt, stream::BoxStream};
    use serde_json::Value;

    use super::*;
    use crate::failure::FailureKind;
    use crate::providers::testing::{as_json, wire};
    use crate::providers::{anthropic, gemini, openai};

    type Bytestream = BoxStream<'static, Result<Bytes, reqwest::Error>>;

    const OPENAI: &str = include_str!("../../tests/fixtures/providers/openai/stream.sse");
    const ANTHROPIC: &str = include_str!("../../tests/fixtures/providers/anthropic/stream.sse");
    const GEMINI: &str = include_str!("../../tests/fixtures/providers/gemini/stream.sse");

    type Yielded = Result<StreamEvent, AttemptError>;

    fn events(fixture: &str, bytes: Bytestream) -> BoxStream<'static, Yielded> {
        const LIMIT: usize = 1 << 20;
        match fixture {
            OPENAI => Events::new(wire(), bytes, openai::ChunkReader::new(wire(), Vec::new()), LIMIT).boxed(),
            ANTHROPIC => Events::new(wire(), bytes, anthropic::MessageReader::new(wire()), LIMIT).boxed(),
            _ => Events::new(wire(), bytes, gemini::AnswerReader::new(wire()), LIMIT).boxed(),
        }
    }

    fn pieces(pieces: Vec<&[u8]>) -> Bytestream {
        let pieces: Vec<_> = pieces
            .into_iter()
            .map(|piece| Ok(Bytes::copy_from_slice(piece)))
            .collect();
        stream::iter(pieces).boxed()
    }

    fn read(fixture: &str, bytes: Bytestream) -> Value {
        let all: Vec<Yielded> = events(fixture, bytes).collect().now_or_never().unwrap();
        let all: Result<Vec<_>, _> = all.into_iter().collect();
        as_json(&all.unwrap())
    }

    #[test]
    fn any_split_of_any_format_reads_alike() {
        for fixture in [OPENAI, ANTHROPIC, GEMINI] {
            let bytes = fixture.as_bytes();
            let whole = read(fixture, pieces(vec![bytes]));
            assert!(whole.as_array().unwrap().len() > 5);
            assert_eq!(read(fixture, pieces(bytes.chunks(1).collect())), whole);
            for cut in (0..bytes.len()).step_by(3) {
                let (head, tail) = bytes.split_at(cut);
                assert_eq!(read(fixture, pieces(vec![head, tail])), whole, "at byte {cut}");
            }
        }
    }

    #[test]
    fn what_has_arrived_is_ready_and_the_rest_is_waited_for() {
        let head = &OPENAI[..OPENAI.find("data: {\"id\":\"chatcmpl-9\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"system_fingerprint\":\"fp_1\",\"choices\":[{\"index\":0,\"delta\":{}").unwrap()];
        let open = pieces(vec![head.as_bytes()]).chain(stream::pending()).boxed();
        let mut events = events(OPENAI, open);
        for _ in 0..5 {
            assert!(events.next().now_or_never().is_some());
        }
        assert!(events.next().now_or_never().is_none());
    }

    #[test]
    fn a_server_that_never_closes_does_not_hold_up_the_end() {
        let open = pieces(vec![OPENAI.as_bytes()]).chain(stream::pending()).boxed();
        let all: Option<Vec<Yielded>> = events(OPENAI, open).collect().now_or_never();
        assert!(matches!(all.unwrap().last(), Some(Ok(StreamEvent::End { .. }))));
    }

    #[test]
    fn an_event_without_end_is_refused() {
        let endless = stream::repeat_with(|| Ok(Bytes::from_static(b"data: aaaaaaaaaaaaaaaaaaaaaaaa")));
        let bytes = endless.take(100_000).boxed();
        let all: Vec<Yielded> = events(OPENAI, bytes).collect().now_or_never().unwrap();
        let [Err(error)] = all.as_slice() else {
            panic!("{all:?}")
        };
        assert_eq!(error.kind, FailureKind::ProviderUnavailable);
        assert!(
            error.message.contains("more than 1048576 bytes"),
            "{}",
            error.message
        );
    }

    #[test]
    fn a_failure_comes_after_what_came_before_it() {
        let cut = OPENAI.find("you").unwrap();
        let all: Vec<Yielded> = events(OPENAI, pieces(vec![&OPENAI.as_bytes()[..cut]]))
            .collect()
            .now_or_never()
            .unwrap();
        assert_eq!(all.len(), 3);
        assert!(all[0].is_ok() && all[1].is_ok() && all[2].is_err());
    }
}
