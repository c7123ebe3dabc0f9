//! An answer on tape: recorded once, played by many, each from its beginning, while it is still being made.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, stream};
use tokio::sync::Notify;

use super::{Fingerprint, Head, Kept, KeyId, Runs};
use crate::dispatch::dispatcher::lock;

/// How long a run goes on with nobody listening: a client's retry after a lost connection comes sooner.
pub(super) const LINGER: Duration = Duration::from_secs(10);
/// Longest recording that is kept.
const MOST_KEPT_BYTES: usize = 4 << 20;

/// Records an answer while it is being made. Dropping it breaks the recording off.
pub struct Recorder {
    runs: Arc<Runs>,
    id: KeyId,
    recording: Arc<Recording>,
    over: bool,
}

impl Recorder {
    pub(super) fn new(runs: Arc<Runs>, id: KeyId, recording: Arc<Recording>) -> Self {
        Self {
            runs,
            id,
            recording,
            over: false,
        }
    }

    /// The answer begins.
    pub fn begin(&self, head: Head) {
        self.recording.change(|tape| tape.head = Some(head));
    }

    /// A frame of the answer.
    pub fn push(&self, frame: Bytes) {
        self.recording.change(|tape| tape.frames.push(frame));
    }

    /// The answer is complete and is kept.
    pub async fn finish(mut self) {
        let (head, frames) = {
            let tape = lock(&self.recording.tape);
            (tape.head.clone(), tape.frames.clone())
        };
        let length: usize = frames.iter().map(Bytes::len).sum();
        if let Some(head) = head
            && length <= MOST_KEPT_BYTES
        {
            let kept = Kept {
                fingerprint: self.recording.fingerprint,
                head,
                body: frames.concat().into(),
            };
            // Everyone who listens has the end before the store does.
            self.end(Phase::Complete);
            self.runs.store.keep(self.id, kept).await;
        }
        self.end(Phase::Complete);
    }

    /// The answer is complete, but nobody who comes later shall be given it: it is a failure.
    pub fn finish_without_keeping(mut self) {
        self.end(Phase::Complete);
    }

    pub(super) fn play_back(mut self, kept: Kept) {
        self.begin(kept.head);
        self.push(kept.body);
        self.end(Phase::Complete);
    }

    fn end(&mut self, phase: Phase) {
        self.over = true;
        self.recording.change(|tape| tape.phase = phase);
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        if !self.over {
            self.end(Phase::BrokenOff);
        }
        let ours = |_: &KeyId, recording: &Arc<Recording>| Arc::ptr_eq(recording, &self.recording);
        self.runs.running.remove_if(&self.id, ours);
    }
}

pub(super) struct Recording {
    fingerprint: Fingerprint,
    tape: Mutex<Tape>,
    changed: Notify,
}

#[derive(Default)]
struct Tape {
    head: Option<Head>,
    frames: Vec<Bytes>,
    phase: Phase,
    listeners: usize,
}

#[derive(Clone, Copy, Default, PartialEq)]
enum Phase {
    #[default]
    Running,
    Complete,
    BrokenOff,
}

impl Recording {
    pub(super) fn new(fingerprint: Fingerprint) -> Self {
        Self {
            fingerprint,
            tape: Mutex::default(),
            changed: Notify::new(),
        }
    }

    pub(super) fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    fn change(&self, change: impl FnOnce(&mut Tape)) {
        change(&mut lock(&self.tape));
        self.changed.notify_waiters();
    }

    /// Waits until `look` sees something on the tape.
    async fn wait_for<T>(&self, mut look: impl FnMut(&Tape) -> Option<T>) -> T {
        loop {
            let changed = self.changed.notified();
            if let Some(seen) = look(&lock(&self.tape)) {
                return seen;
            }
            changed.await;
        }
    }

    /// Resolves when nobody has listened for [`LINGER`].
    pub(super) async fn abandoned(&self) {
        loop {
            self.wait_for(|tape| (tape.listeners == 0).then_some(())).await;
            let someone = self.wait_for(|tape| (tape.listeners > 0).then_some(()));
            if tokio::time::timeout(LINGER, someone).await.is_err() {
                return;
            }
        }
    }
}

/// Plays a recording from its beginning, as fast as it is made.
pub struct Playback {
    recording: Arc<Recording>,
    next: usize,
}

/// The run broke off before its answer was complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the answer broke off")]
pub struct BrokenOff;

impl Playback {
    pub(super) fn new(recording: Arc<Recording>) -> Self {
        recording.change(|tape| tape.listeners += 1);
        Self { recording, next: 0 }
    }

    /// `None`: it broke off before it began.
    pub(super) async fn head(&self) -> Option<Head> {
        let look = |tape: &Tape| match (&tape.head, tape.phase) {
            (Some(head), _) => Some(Some(head.clone())),
            (None, Phase::Running) => None,
            (None, Phase::Complete | Phase::BrokenOff) => Some(None),
        };
        self.recording.wait_for(look).await
    }

    /// The next frames, all that are there in one; `None` after the last.
    async fn frame(&mut self) -> Option<Result<Bytes, BrokenOff>> {
        let next = self.next;
        let look = |tape: &Tape| {
            let fresh = &tape.frames[next.min(tape.frames.len())..];
            match (fresh, tape.phase) {
                ([], Phase::Running) => None,
                ([], Phase::Complete) => Some(None),
                ([], Phase::BrokenOff) => Some(Some(Err(BrokenOff))),
                ([one], _) => Some(Some(Ok((one.clone(), 1)))),
                (many, _) => Some(Some(Ok((many.concat().into(), many.len())))),
            }
        };
        let played = self.recording.wait_for(look).await?;
        Some(played.map(|(bytes, frames)| {
            self.next += frames;
            bytes
        }))
    }

    /// The frames, to the end or to where the run broke off.
    pub fn frames(self) -> impl Stream<Item = Result<Bytes, BrokenOff>> + Send {
        stream::unfold(Some(self), |playback| async move {
            let mut playback = playback?;
            let frame = playback.frame().await?;
            let next = frame.is_ok().then_some(playback);
            Some((frame, next))
        })
    }
}

impl Drop for Playback {
    fn drop(&mut self) {
        self.recording
            .change(|tape| tape.listeners = tape.listeners.saturating_sub(1));
    }
}
