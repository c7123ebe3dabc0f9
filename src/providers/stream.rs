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
