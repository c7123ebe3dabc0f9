//! One attempt: from sending a call to the first meaningful sign of its answer.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use futures_util::StreamExt;
use tokio::time::timeout_at;

use crate::completion::{Completion, StreamEvent};
use crate::dispatch::ticket::{Ticket, babble, cut_off, timed_out};
use crate::failure::AttemptError;
use crate::providers::{Call, EventStream, Upstream};

/// Empty events that may come before the first meaningful one. A provider that sends more is not answering.
const MOST_EMPTY_EVENTS: usize = 1024;

/// An answer that has begun.
pub(super) enum Begun {
    Whole(Box<Completion>),
    /// What came up to the first meaningful event, and what will follow.
    Stream(VecDeque<StreamEvent>, EventStream),
}

/// An attempt that has begun, or failed before that.
pub(super) struct Ended {
    /// Its place in the order of sending.
    pub(super) index: usize,
    pub(super) result: Result<(Ticket, Begun), AttemptError>,
}

/// Sends the call and waits until its answer begins, or until `give_up`.
pub(super) async fn attempt(
    index: usize,
    mut ticket: Ticket,
    upstream: Arc<dyn Upstream>,
    call: Call,
    give_up: Option<Instant>,
) -> Ended {
    let result = {
        let begun = begin(&mut ticket, upstream.as_ref(), &call);
        match give_up {
            None => begun.await,
            Some(at) => timeout_at(at.into(), begun)
                .await
                .unwrap_or_else(|_| Err(timed_out("the provider did not begin to answer in time"))),
        }
    };
    let result = match result {
        Ok(begun) => Ok((ticket, begun)),
        Err(error) => {
            ticket.fail(error.clone());
            Err(error)
        }
    };
    Ended { index, result }
}

async fn begin(ticket: &mut Ticket, upstream: &dyn Upstream, call: &Call) -> Result<Begun, AttemptError> {
    if !call.request.stream {
        let completion = upstream.complete(call).await?;
        ticket.begin();
        return Ok(Begun::Whole(Box::new(completion)));
    }
    let mut events = upstream.stream(call).await?;
    let mut early = VecDeque::new();
    while early.len() < MOST_EMPTY_EVENTS {
        let event = events.next().await.ok_or_else(cut_off)??;
        let begins = match &event {
            StreamEvent::Chunk(chunk) => chunk.meaningful,
            StreamEvent::End { .. } => true,
        };
        ticket.keep(&event);
        early.push_back(event);
        if begins {
            ticket.begin();
            return Ok(Begun::Stream(early, events));
        }
    }
    Err(babble())
}
