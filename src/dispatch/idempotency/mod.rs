//! The same `Idempotency-Key` twice: one run upstream, and the same answer for all who ask, at the same time or
//! within a day, whole or streamed.
//!
//! An answer is recorded as the server sends it: a head that means nothing here, then frames of bytes. Everyone,
//! the first caller too, plays the recording from its beginning while it is still being made. The run is detached
//! from the connection that began it, because a client that lost its connection is the very one that comes back
//! with its key; it is given up when nobody has listened for a while.
//!
//! Only what went well is kept. A failure is told to those who wait for it; whoever comes later runs anew.

mod recording;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use futures_util::future::BoxFuture;
use moka::sync::Cache;
use sha2::{Digest, Sha256};

use self::recording::Recording;
pub use self::recording::{BrokenOff, Playback, Recorder};

/// How long an answer is kept.
pub const RETENTION: Duration = Duration::from_secs(24 * 60 * 60);
/// Longest key.
const MOST_KEY_BYTES: usize = 255;

/// Client and key together, hashed: neither a client's key nor its secrets reach the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KeyId(pub [u8; 32]);

/// The hash of a request's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint(pub [u8; 32]);

/// The beginning of an answer, of which only the server knows the meaning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// A status.
    pub status: u16,
    /// Names and values.
    pub headers: Vec<(String, String)>,
}

/// An answer that was kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Of the request it answers.
    pub fingerprint: Fingerprint,
    /// Its beginning.
    pub head: Head,
    /// All its frames.
    pub body: Bytes,
}

/// Where answers are kept for [`RETENTION`].
pub trait IdempotencyStore: Send + Sync {
    /// The answer kept under `key`, if it is not too old.
    fn load(&self, key: KeyId) -> BoxFuture<'_, Option<Kept>>;
    /// Keeps an answer. Resolves when `load` will find it. A store that fails logs it and resolves all the same:
    /// the client has its answer, and only a repetition would cost another run.
    fn keep(&self, key: KeyId, kept: Kept) -> BoxFuture<'_, ()>;
}

/// Keeps answers in memory, the least used ones making room above 64 MiB; lost at a restart.
pub struct InMemory(Cache<KeyId, Kept>);

impl Default for InMemory {
    fn default() -> Self {
        let weigh = |_: &KeyId, kept: &Kept| u32::try_from(kept.body.len() + 512).unwrap_or(u32::MAX);
        Self(
            Cache::builder()
                .max_capacity(64 << 20)
                .weigher(weigh)
                .time_to_live(RETENTION)
                .build(),
        )
    }
}

impl IdempotencyStore for InMemory {
    fn load(&self, key: KeyId) -> BoxFuture<'_, Option<Kept>> {
        Box::pin(std::future::ready(self.0.get(&key)))
    }

    fn keep(&self, key: KeyId, kept: Kept) -> BoxFuture<'_, ()> {
        self.0.insert(key, kept);
        Box::pin(std::future::ready(()))
    }
}

/// Why a key cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdempotencyError {
    /// The key came with another body before.
    #[error("this Idempotency-Key was used with another request; use a new key for a new request")]
    Conflict,
    /// The key is empty or too long.
    #[error("an Idempotency-Key has 1 to 255 bytes")]
    BadKey,
    /// The run ended without an answer.
    #[error("the request broke off; send it again")]
    BrokenOff,
}

/// All runs that have a key. Cheap to clone.
#[derive(Clone)]
pub struct Idempotency(Arc<Runs>);

struct Runs {
    running: DashMap<KeyId, Arc<Recording>>,
    store: Arc<dyn IdempotencyStore>,
}

impl Idempotency {
    /// Keeps its answers in `store`.
    #[must_use]
    pub fn new(store: Arc<dyn IdempotencyStore>) -> Self {
        Self(Arc::new(Runs {
            running: DashMap::new(),
            store,
        }))
    }

    /// The answer to the request with `body` that `client` names `key`: from the store, from the run that is
    /// already under way, or from a new one. `run` answers the request into a [`Recorder`]; it goes on by itself
    /// when the caller leaves. `client` scopes the key: the client's own key and the path.
    ///
    /// # Errors
    /// When the key was used with another body, or is no key.
    pub async fn answer<F>(
        &self,
        client: &str,
        key: &str,
        body: &[u8],
        run: impl FnOnce(Recorder) -> F + Send,
    ) -> Result<(Head, Playback), IdempotencyError>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        if key.is_empty() || key.len() > MOST_KEY_BYTES {
            return Err(IdempotencyError::BadKey);
        }
        let id = key_id(client, key);
        let fingerprint = Fingerprint(Sha256::digest(body).into());
        let mut run = Some(run);
        loop {
            let (recording, is_first) = self.join(id, fingerprint);
            if recording.fingerprint() != fingerprint {
                return Err(IdempotencyError::Conflict);
            }
            let playback = Playback::new(recording.clone());
            if is_first {
                let recorder = Recorder::new(self.0.clone(), id, recording.clone());
                match self.0.store.load(id).await {
                    Some(kept) if kept.fingerprint != fingerprint => return Err(IdempotencyError::Conflict),
                    Some(kept) => recorder.play_back(kept),
                    None => {
                        // A run is begun at most once: `is_first` is true again only after another's run broke off.
                        let Some(run) = run.take() else { continue };
                        spawn(recording.clone(), run(recorder));
                    }
                }
            }
            match playback.head().await {
                Some(head) => return Ok((head, playback)),
                None if run.is_none() => return Err(IdempotencyError::BrokenOff),
                None => {}
            }
        }
    }

    fn join(&self, id: KeyId, fingerprint: Fingerprint) -> (Arc<Recording>, bool) {
        match self.0.running.entry(id) {
            Entry::Occupied(running) => (running.get().clone(), false),
            Entry::Vacant(free) => {
                let recording = Arc::new(Recording::new(fingerprint));
                free.insert(recording.clone());
                (recording, true)
            }
        }
    }
}

/// The run, until it is over or has had no listener for a while.
fn spawn(recording: Arc<Recording>, run: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(async move {
        tokio::select! {
            () = run => {}
            () = recording.abandoned() => {}
        }
    });
}

fn key_id(client: &str, key: &str) -> KeyId {
    let mut hash = Sha256::new();
    hash.update((client.len() as u64).to_le_bytes());
    hash.update(client);
    hash.update(key);
    KeyId(hash.finalize().into())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::StreamExt;
    use proptest::prelude::*;

    use tokio::time::sleep;

    use super::recording::LINGER;
    use super::*;

    fn ok() -> Head {
        Head {
            status: 200,
            headers: vec![("a".to_owned(), "b".to_owned())],
        }
    }

    async fn text(playback: Playback) -> Result<String, BrokenOff> {
        let mut whole = Vec::new();
        let mut frames = Box::pin(playback.frames());
        while let Some(frame) = frames.next().await {
            whole.extend_from_slice(&frame?);
        }
        Ok(String::from_utf8(whole).unwrap())
    }

    struct Fixture {
        runs: Idempotency,
        begun: Arc<AtomicUsize>,
    }

    impl Fixture {
        fn new() -> Self {
            Self {
                runs: Idempotency::new(Arc::new(InMemory::default())),
                begun: Arc::default(),
            }
        }

        async fn ask(&self, key: &str, body: &str) -> Result<(Head, Playback), IdempotencyError> {
            let begun = self.begun.clone();
            let run = |recorder: Recorder| async move {
                begun.fetch_add(1, Ordering::Relaxed);
                recorder.begin(ok());
                for word in ["one ", "two ", "three"] {
                    sleep(Duration::from_secs(1)).await;
                    recorder.push(Bytes::from(word));
                }
                recorder.finish().await;
            };
            self.runs.answer("client", key, body.as_bytes(), run).await
        }

        fn begun(&self) -> usize {
            self.begun.load(Ordering::Relaxed)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn concurrent_late_and_later_callers_share_one_run() {
        let fixture = Fixture::new();
        let late = async {
            sleep(Duration::from_millis(1500)).await;
            fixture.ask("k", "body").await
        };
        let (first, second, late) = tokio::join!(fixture.ask("k", "body"), fixture.ask("k", "body"), late);
        for answer in [first, second, late] {
            let (head, playback) = answer.unwrap();
            assert_eq!(
                (head, text(playback).await.unwrap()),
                (ok(), "one two three".to_owned())
            );
        }
        let (head, again) = fixture.ask("k", "body").await.unwrap();
        assert_eq!(
            (head, text(again).await.unwrap()),
            (ok(), "one two three".to_owned())
        );
        assert_eq!(fixture.begun(), 1);
        assert!(fixture.runs.0.running.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn another_body_is_a_conflict_now_and_later_and_another_client_is_not() {
        let fixture = Fixture::new();
        let (_, playback) = fixture.ask("k", "body").await.unwrap();
        assert_eq!(
            fixture.ask("k", "other").await.err(),
            Some(IdempotencyError::Conflict)
        );
        text(playback).await.unwrap();
        sleep(Duration::from_millis(1)).await;
        assert_eq!(
            fixture.ask("k", "other").await.err(),
            Some(IdempotencyError::Conflict)
        );
        assert!(fixture.runs.0.running.is_empty());
        let run = |recorder: Recorder| async move {
            recorder.begin(ok());
            recorder.finish().await;
        };
        assert!(
            fixture
                .runs
                .answer("someone else", "k", b"other", run)
                .await
                .is_ok()
        );
        assert_eq!(
            fixture.ask("", "body").await.err(),
            Some(IdempotencyError::BadKey)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_comes_back_finds_its_run_going_on() {
        let fixture = Fixture::new();
        drop(fixture.ask("k", "body").await.unwrap());
        sleep(Duration::from_secs(2)).await;
        let (_, playback) = fixture.ask("k", "body").await.unwrap();
        assert_eq!(text(playback).await.unwrap(), "one two three");
        assert_eq!(fixture.begun(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_that_nobody_waits_for_is_given_up() {
        let fixture = Fixture::new();
        let dropped = Arc::new(());
        let held = dropped.clone();
        let run = |recorder: Recorder| async move {
            recorder.begin(ok());
            std::future::pending::<()>().await;
            drop(held);
        };
        let answer = fixture.runs.answer("client", "k", b"body", run).await.unwrap();
        sleep(Duration::from_secs(60)).await;
        assert_eq!(Arc::strong_count(&dropped), 2, "someone listens");
        drop(answer);
        sleep(LINGER + Duration::from_secs(1)).await;
        assert_eq!(Arc::strong_count(&dropped), 1);
        assert!(fixture.runs.0.running.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn failures_are_told_to_those_who_wait_and_not_kept() {
        let fixture = Fixture::new();
        let fail = |recorder: Recorder| async move {
            sleep(Duration::from_secs(1)).await;
            recorder.begin(Head {
                status: 503,
                headers: Vec::new(),
            });
            recorder.push(Bytes::from_static(b"sorry"));
            recorder.finish_without_keeping();
        };
        let (first, second) = tokio::join!(
            fixture.runs.answer("client", "k", b"body", fail),
            fixture.ask("k", "body")
        );
        for answer in [first, second] {
            let (head, playback) = answer.unwrap();
            assert_eq!(
                (head.status, text(playback).await.unwrap()),
                (503, "sorry".to_owned())
            );
        }
        assert_eq!(fixture.begun(), 0);
        let (head, _) = fixture.ask("k", "body").await.unwrap();
        assert_eq!((head.status, fixture.begun()), (200, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_that_dies_before_it_begins_is_run_anew_by_the_one_who_waits() {
        let fixture = Fixture::new();
        let die = |recorder: Recorder| async move {
            sleep(Duration::from_secs(1)).await;
            drop(recorder);
        };
        let (first, second) = tokio::join!(
            fixture.runs.answer("client", "k", b"body", die),
            fixture.ask("k", "body")
        );
        assert_eq!(first.err(), Some(IdempotencyError::BrokenOff));
        assert_eq!(text(second.unwrap().1).await.unwrap(), "one two three");
    }

    proptest! {
        /// A client cannot reach another's key by choosing its own cleverly.
        #[test]
        fn keys_are_scoped(a in "[a-c]{0,3}", b in "[a-c]{1,3}", c in "[a-c]{0,3}", d in "[a-c]{1,3}") {
            prop_assert_eq!(key_id(&a, &b) == key_id(&c, &d), (a, b) == (c, d));
        }
    }
}
