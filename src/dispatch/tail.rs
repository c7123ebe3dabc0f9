//! The stream after its commitment: what was peeked at, then the rest, watched for silence and the deadline. It ends
//! with `End` or with an error, and never otherwise.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::{Stream, StreamExt};
use tokio::time::{Sleep, sleep_until, timeout};

use crate::clock;
use crate::completion::StreamEvent;
use crate::dispatch::in_flight::InFlightGuard;
use crate::dispatch::record::Cancellation;
use crate::dispatch::ticket::{Ticket, cut_off, timed_out};
use crate::failure::AttemptError;
use crate::providers::EventStream;

/// How long a connection may take, after the answer's proper end, to come to its own, so that it can be used again.
const LINGER: Duration = Duration::from_secs(1);

pub(super) struct Tail {
    /// `None` once the attempt is over.
    ticket: Option<Ticket>,
    early: VecDeque<StreamEvent>,
    events: Option<EventStream>,
    deadline: Instant,
    idle_timeout: Duration,
    /// When the latest event came.
    last: Instant,
    /// Wakes at the first moment that may be too late. Events do not push it on; it looks again when it wakes, which
    /// spares a timer operation an event.
    alarm: Pin<Box<Sleep>>,
    _in_flight: InFlightGuard,
}

impl Tail {
    pub(super) fn new(
        ticket: Ticket,
        (early, events): (VecDeque<StreamEvent>, EventStream),
        deadline: Instant,
        idle_timeout: Duration,
        in_flight: InFlightGuard,
    ) -> Self {
        let last = clock::monotonic();
        let alarm = Box::pin(sleep_until(deadline.min(last + idle_timeout).into()));
        Self {
            ticket: Some(ticket),
            early,
            events: Some(events),
            deadline,
            idle_timeout,
            last,
            alarm,
            _in_flight: in_flight,
        }
    }

    fn deliver(&mut self, event: StreamEvent, context: &mut Context<'_>) -> StreamEvent {
        if matches!(event, StreamEvent::End { .. }) {
            if let Some(ticket) = self.ticket.take() {
                ticket.succeed();
            }
            self.finish(context);
        }
        event
    }

    fn fail(&mut self, error: AttemptError) -> AttemptError {
        self.events = None;
        if let Some(ticket) = self.ticket.take() {
            ticket.fail(error.clone());
        }
        error
    }

    /// Reads on to the connection's own end. It is nearly always there already; if not, it is waited for elsewhere:
    /// a connection that is dropped before its end is closed and must be made anew for the next request.
    fn finish(&mut self, context: &mut Context<'_>) {
        let Some(mut events) = self.events.take() else {
            return;
        };
        let ended = matches!(events.poll_next_unpin(context), Poll::Ready(None));
        if !ended && let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let drained = async { while events.next().await.is_some() {} };
                timeout(LINGER, drained).await.ok();
            });
        }
    }

    /// Whether the wait has become too long.
    fn poll_alarm(&mut self, context: &mut Context<'_>) -> Poll<AttemptError> {
        loop {
            std::task::ready!(self.alarm.as_mut().poll(context));
            let now = clock::monotonic();
            let silent_at = self.last + self.idle_timeout;
            if now >= self.deadline {
                self.events = None;
                if let Some(ticket) = self.ticket.take() {
                    ticket.cancel(Cancellation::Deadline);
                }
                return Poll::Ready(timed_out(
                    "the answer was not complete when the request's time was up",
                ));
            }
            if now >= silent_at {
                return Poll::Ready(
                    self.fail(timed_out("the provider fell silent in the middle of its answer")),
                );
            }
            self.alarm.as_mut().reset(self.deadline.min(silent_at).into());
        }
    }
}

impl Stream for Tail {
    type Item = Result<StreamEvent, AttemptError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(event) = self.early.pop_front() {
            return Poll::Ready(Some(Ok(self.deliver(event, context))));
        }
        let Some(events) = &mut self.events else {
            return Poll::Ready(None);
        };
        let item = match events.poll_next_unpin(context) {
            Poll::Ready(item) => item,
            Poll::Pending => {
                let late = std::task::ready!(self.poll_alarm(context));
                return Poll::Ready(Some(Err(late)));
            }
        };
        let delivered = match item {
            Some(Ok(event)) => {
                let now = clock::monotonic();
                self.last = now;
                if let Some(ticket) = &mut self.ticket {
                    ticket.note(&event, now);
                }
                Ok(self.deliver(event, context))
            }
            Some(Err(error)) => Err(self.fail(error)),
            None => Err(self.fail(cut_off())),
        };
        Poll::Ready(Some(delivered))
    }
}
