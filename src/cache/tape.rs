//! An answer while it is made: one records it, any number play it from its beginning.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::route::RouteCache;
use super::{Body, Entry, Key, Meaning, Origin};
use crate::completion::{Chunk, Completion, FinishReason, StreamEvent, Usage};
use crate::units::{UnixMs, Usd};

/// What is on the tape, and where it stands.
#[derive(Debug, Default)]
struct State {
    /// Set when a stream has begun.
    origin: Option<Origin>,
    chunks: Vec<Chunk>,
    phase: Phase,
    followers: usize,
}

#[derive(Debug, Default)]
enum Phase {
    #[default]
    Running,
    /// The chunks are the entry's.
    Done(Arc<Entry>),
    Broken,
}

#[derive(Debug, Default)]
pub(super) struct Tape {
    state: Mutex<State>,
    changed: Notify,
}

impl Tape {
    fn finished(entry: Arc<Entry>) -> Self {
        let tape = Self::default();
        tape.state().phase = Phase::Done(entry);
        tape
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.changed.notify_waiters();
    }

    async fn wait_for<T>(&self, mut look: impl FnMut(&State) -> Option<T>) -> T {
        loop {
            let changed = self.changed.notified();
            if let Some(seen) = look(&self.state()) {
                return seen;
            }
            changed.await;
        }
    }
}

/// Asks for the answer and records it. Dropped before the end, it breaks the recording off, and whoever follows asks
/// anew.
#[derive(Debug)]
pub struct Lead {
    cache: Arc<RouteCache>,
    key: Key,
    tape: Arc<Tape>,
    /// What was asked, where answers are given to questions that mean the same.
    meaning: Option<Box<Meaning>>,
    over: bool,
}

impl Lead {
    pub(super) fn new(cache: Arc<RouteCache>, key: Key, tape: Arc<Tape>) -> Self {
        Self {
            cache,
            key,
            tape,
            meaning: None,
            over: false,
        }
    }

    /// Notes what was asked.
    pub fn means(&mut self, meaning: Meaning) {
        self.meaning = Some(Box::new(meaning));
    }

    /// A stream has begun.
    pub fn begin(&self, origin: Origin) {
        self.tape.change(|state| state.origin = Some(origin));
    }

    /// A chunk of it.
    pub fn push(&self, chunk: &Chunk) {
        self.tape.change(|state| state.chunks.push(chunk.clone()));
    }

    /// The stream has ended as it should.
    pub fn end(
        mut self,
        finish: FinishReason,
        usage: Option<Usage>,
        usage_extra: Option<serde_json::Value>,
        cost: Option<Usd>,
        now: UnixMs,
    ) {
        let (origin, chunks) = {
            let mut state = self.tape.state();
            (state.origin.clone(), std::mem::take(&mut state.chunks))
        };
        let Some(origin) = origin else { return };
        let body = Body::Streamed {
            chunks,
            usage,
            usage_extra,
            finish,
        };
        self.complete(Entry {
            origin,
            body,
            cost,
            at: now,
        });
    }

    /// A whole answer has come.
    pub fn whole(mut self, origin: Origin, completion: &Completion, cost: Option<Usd>, now: UnixMs) {
        self.complete(Entry {
            origin,
            body: Body::Whole(Box::new(completion.clone())),
            cost,
            at: now,
        });
    }

    fn complete(&mut self, entry: Entry) {
        let entry = Arc::new(entry);
        self.over = true;
        // First it is kept, then the flight ends: who comes in between finds one or the other.
        let meaning = self.meaning.take().map(|meaning| *meaning);
        self.cache.keep(self.key, &entry, meaning);
        self.tape.change(|state| state.phase = Phase::Done(entry));
    }

    /// Whether somebody else plays what is recorded. If nobody does it is broken off in the same moment: who comes now
    /// must not join what is about to end.
    #[must_use]
    pub fn goes_on(&self) -> bool {
        let mut state = self.tape.state();
        if state.followers == 0 {
            state.phase = Phase::Broken;
        }
        state.followers > 0
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        if !self.over {
            self.tape.change(|state| state.phase = Phase::Broken);
        }
        self.cache.land(&self.key, &self.tape);
    }
}

/// How an answer begins.
#[derive(Clone, Debug)]
pub enum Begin {
    /// It is there at once.
    Whole(Arc<Entry>),
    /// It comes in chunks; who makes it.
    Streamed(Origin),
    /// It will not come.
    Broken,
}

/// The answer was broken off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the answer broke off")]
pub struct Cut;

/// Plays a recording from its beginning, as fast as it is made.
#[derive(Debug)]
pub struct Playback {
    tape: Arc<Tape>,
    next: usize,
    over: bool,
}

impl Playback {
    pub(super) fn of(tape: Arc<Tape>) -> Self {
        tape.change(|state| state.followers += 1);
        Self {
            tape,
            next: 0,
            over: false,
        }
    }

    /// Plays an answer that is complete.
    #[must_use]
    pub fn kept(entry: Arc<Entry>) -> Self {
        Self::of(Arc::new(Tape::finished(entry)))
    }

    /// Waits for the beginning.
    pub async fn begin(&self) -> Begin {
        let look = |state: &State| match (&state.phase, &state.origin) {
            (Phase::Done(entry), _) => Some(match entry.body {
                Body::Whole(_) => Begin::Whole(Arc::clone(entry)),
                Body::Streamed { .. } => Begin::Streamed(entry.origin.clone()),
            }),
            (Phase::Broken, _) => Some(Begin::Broken),
            (Phase::Running, Some(origin)) => Some(Begin::Streamed(origin.clone())),
            (Phase::Running, None) => None,
        };
        self.tape.wait_for(look).await
    }

    /// Waits for the end: the complete answer. `None`: it broke off.
    pub async fn end(&self) -> Option<Arc<Entry>> {
        let look = |state: &State| match &state.phase {
            Phase::Done(entry) => Some(Some(Arc::clone(entry))),
            Phase::Broken => Some(None),
            Phase::Running => None,
        };
        self.tape.wait_for(look).await
    }

    /// The next event of a stream; `None` after its end.
    pub async fn next(&mut self) -> Option<Result<StreamEvent, Cut>> {
        if self.over {
            return None;
        }
        let at = self.next;
        let event = self.tape.wait_for(|state| event(state, at)).await;
        self.next += 1;
        self.over = !matches!(event, Ok(StreamEvent::Chunk(_)));
        Some(event)
    }

    /// The recording that is played.
    #[must_use]
    pub fn recording(&self) -> Recording {
        Recording(Arc::clone(&self.tape))
    }
}

/// A recording, for who wants to know what it has become.
#[derive(Clone, Debug)]
pub struct Recording(Arc<Tape>);

impl Recording {
    /// The complete answer, once there is one.
    #[must_use]
    pub fn entry(&self) -> Option<Arc<Entry>> {
        match &self.0.state().phase {
            Phase::Done(entry) => Some(Arc::clone(entry)),
            Phase::Running | Phase::Broken => None,
        }
    }
}

/// The event at a place; `None` while it is still to come.
fn event(state: &State, at: usize) -> Option<Result<StreamEvent, Cut>> {
    let entry = match &state.phase {
        Phase::Done(entry) => entry,
        Phase::Broken => return Some(Err(Cut)),
        Phase::Running => {
            let chunk = state.chunks.get(at)?;
            return Some(Ok(StreamEvent::Chunk(chunk.clone())));
        }
    };
    let Body::Streamed {
        chunks,
        usage,
        usage_extra,
        finish,
    } = &entry.body
    else {
        return Some(Err(Cut));
    };
    Some(Ok(match chunks.get(at) {
        Some(chunk) => StreamEvent::Chunk(chunk.clone()),
        None => StreamEvent::End {
            finish: *finish,
            usage: *usage,
            usage_extra: usage_extra.clone(),
        },
    }))
}

impl Drop for Playback {
    fn drop(&mut self) {
        self.tape
            .change(|state| state.followers = state.followers.saturating_sub(1));
    }
}
