//! Embeddings off the critical path: a few threads, a short queue, a cache, and no waiting beyond the budget.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use moka::sync::Cache;
use serde::Serialize;
use thiserror::Error;
use tokio::sync::oneshot;

use super::leisure::Leisure;
use crate::clock;
use crate::features::Embedder;
use crate::features::text::PromptText;

/// Sizes of a pool.
#[derive(Clone, Copy, Debug)]
pub struct PoolSettings {
    /// Prompts that may wait; more are dropped at once.
    pub queue: usize,
    /// Embeddings kept for prompts that come again.
    pub cached: u64,
    /// Share of one processor for prompts that nobody waits for, in percent; 100: no limit.
    pub background_percent: u8,
}

impl Default for PoolSettings {
    fn default() -> Self {
        Self {
            queue: 64,
            cached: 2048,
            background_percent: 100,
        }
    }
}

/// What became of the prompts so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct EmbeddingCounts {
    /// Answered from the cache.
    pub cached: u64,
    /// Embedded within the budget.
    pub in_time: u64,
    /// Embedded, but after the request went on without.
    pub late: u64,
    /// Not embedded, because the queue was full.
    pub dropped: u64,
    /// Not embedded, because no decision would have waited for it and the time for such was used up.
    pub spared: u64,
    /// Failed.
    pub failed: u64,
}

/// The pool could not start.
#[derive(Debug, Error)]
#[error("cannot start a thread for embeddings: {0}; free memory or set `[embedding] model = \"off\"`")]
pub struct StartError(#[from] std::io::Error);

type Embedding = Arc<[f32]>;

/// Threads that embed prompts. Cheap to clone; the threads end when the last clone is gone.
#[derive(Clone)]
pub struct EmbeddingPool {
    queue: SyncSender<Job>,
    shared: Arc<Shared>,
}

struct Shared {
    cache: Cache<u64, Embedding>,
    leisure: Mutex<Leisure>,
    counts: [AtomicU64; 6],
}

#[derive(Clone, Copy)]
enum Count {
    Cached,
    InTime,
    Late,
    Dropped,
    Spared,
    Failed,
}

struct Job {
    key: u64,
    text: String,
    /// Who waits for it, if anybody does.
    reply: Option<oneshot::Sender<Embedding>>,
    late: Box<dyn FnOnce(Embedding) + Send>,
}

impl EmbeddingPool {
    /// Starts one thread for each of `embedders`.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(embedders: Vec<Box<dyn Embedder>>, settings: PoolSettings) -> Result<Self, StartError> {
        let (queue, jobs) = sync_channel(settings.queue.max(1));
        let jobs = Arc::new(Mutex::new(jobs));
        let shared = Arc::new(Shared {
            cache: Cache::new(settings.cached),
            leisure: Mutex::new(Leisure::new(settings.background_percent)),
            counts: Default::default(),
        });
        for embedder in embedders {
            let (jobs, shared) = (Arc::clone(&jobs), Arc::clone(&shared));
            std::thread::Builder::new()
                .name("embedding".to_owned())
                .spawn(move || work(embedder, &jobs, &shared))?;
        }
        Ok(Self { queue, shared })
    }

    /// The embedding of a prompt's words, if it is known or comes within `budget`. `None` when the queue is full, the
    /// budget is over or the model failed. If it comes later, or the caller gave up, `late` gets it, on a thread of
    /// the pool: it must be quick.
    pub async fn try_embed(
        &self,
        prompt: &PromptText,
        budget: Duration,
        late: impl FnOnce(Arc<[f32]>) + Send + 'static,
    ) -> Option<Arc<[f32]>> {
        let key = prompt.words_hash();
        if let Some(known) = self.shared.cache.get(&key) {
            self.shared.count(Count::Cached);
            return Some(known);
        }
        let (reply, mut answer) = oneshot::channel();
        if !self.queue(key, prompt, Some(reply), late) {
            return None;
        }
        let embedding = match tokio::time::timeout(budget, &mut answer).await {
            Ok(embedding) => embedding.ok(),
            Err(_) => {
                // Closed first, so that the embedding goes either here or to `late`, never to nobody.
                answer.close();
                answer.try_recv().ok()
            }
        };
        if embedding.is_some() {
            self.shared.count(Count::InTime);
        }
        embedding
    }

    /// The embedding of a prompt's words if it is known. Else `late` gets it when there was time for it, as with
    /// [`try_embed`](Self::try_embed): nobody waits.
    pub fn embed_later(
        &self,
        prompt: &PromptText,
        late: impl FnOnce(Arc<[f32]>) + Send + 'static,
    ) -> Option<Arc<[f32]>> {
        let key = prompt.words_hash();
        if let Some(known) = self.shared.cache.get(&key) {
            self.shared.count(Count::Cached);
            return Some(known);
        }
        if self.shared.leisure().grant(clock::monotonic()) {
            self.queue(key, prompt, None, late);
        } else {
            self.shared.count(Count::Spared);
        }
        None
    }

    /// Queues a prompt; false when there is no room.
    fn queue(
        &self,
        key: u64,
        prompt: &PromptText,
        reply: Option<oneshot::Sender<Embedding>>,
        late: impl FnOnce(Arc<[f32]>) + Send + 'static,
    ) -> bool {
        let job = Job {
            key,
            text: prompt.words().to_owned(),
            reply,
            late: Box::new(late),
        };
        let queued = self.queue.try_send(job).is_ok();
        if !queued {
            self.shared.count(Count::Dropped);
        }
        queued
    }

    /// What became of the prompts so far.
    #[must_use]
    pub fn counts(&self) -> EmbeddingCounts {
        let read = |count: Count| self.shared.counts[count as usize].load(Ordering::Relaxed);
        EmbeddingCounts {
            cached: read(Count::Cached),
            in_time: read(Count::InTime),
            late: read(Count::Late),
            dropped: read(Count::Dropped),
            spared: read(Count::Spared),
            failed: read(Count::Failed),
        }
    }
}

impl Shared {
    fn leisure(&self) -> MutexGuard<'_, Leisure> {
        self.leisure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, count: Count) {
        self.counts[count as usize].fetch_add(1, Ordering::Relaxed);
    }
}

fn work(mut embedder: Box<dyn Embedder>, jobs: &Mutex<Receiver<Job>>, shared: &Shared) {
    loop {
        // The lock is held while waiting: the thread that has it takes the next job, the others queue behind it.
        let next = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = next else { return };
        let embedding = match shared.cache.get(&job.key) {
            Some(known) => known,
            None => match embed(&mut *embedder, &job.text, shared) {
                Ok(embedding) => embedding,
                Err(cause) => {
                    shared.count(Count::Failed);
                    tracing::warn!(%cause, bytes = job.text.len(), "a prompt could not be embedded");
                    continue;
                }
            },
        };
        shared.cache.insert(job.key, Arc::clone(&embedding));
        let left = match job.reply {
            Some(reply) => reply.send(embedding).err(),
            None => Some(embedding),
        };
        if let Some(embedding) = left {
            shared.count(Count::Late);
            (job.late)(embedding);
        }
    }
}

/// A panic inside the model costs one prompt, not the thread.
fn embed(embedder: &mut dyn Embedder, text: &str, shared: &Shared) -> Result<Embedding, String> {
    let began = clock::monotonic();
    let embedded = catch_unwind(AssertUnwindSafe(|| embedder.embed(text)));
    shared
        .leisure()
        .took(clock::monotonic().saturating_duration_since(began));
    match embedded {
        Ok(Ok(embedding)) => Ok(embedding.into()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("the model panicked".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::features::EmbedError;

    /// Embeds a text as its length; waits for a permit first, so that tests decide when an embedding is done.
    struct Gated {
        permits: mpsc::Receiver<()>,
    }

    impl Embedder for Gated {
        fn embed(&mut self, text: &str) -> Result<Vec<f32>, EmbedError> {
            self.permits.recv().map_err(|cause| EmbedError::Runtime {
                cause: cause.to_string(),
            })?;
            assert_ne!(text, "panic", "asked to");
            Ok(vec![text.len() as f32])
        }

        fn dimensions(&self) -> usize {
            1
        }

        fn name(&self) -> &'static str {
            "gated"
        }
    }

    const LONG: Duration = Duration::from_secs(20);

    fn pool(queue: usize) -> (EmbeddingPool, mpsc::Sender<()>) {
        let (permit, permits) = mpsc::channel();
        let embedders: Vec<Box<dyn Embedder>> = vec![Box::new(Gated { permits })];
        (
            EmbeddingPool::start(
                embedders,
                PoolSettings {
                    queue,
                    cached: 16,
                    background_percent: 1,
                },
            )
            .unwrap(),
            permit,
        )
    }

    fn ignore(_: Arc<[f32]>) {}

    #[tokio::test]
    async fn an_embedding_in_time_is_returned_and_then_cached() {
        let (pool, permit) = pool(4);
        permit.send(()).unwrap();
        let prompt = PromptText::plain("hello");
        assert_eq!(
            pool.try_embed(&prompt, LONG, ignore).await.as_deref(),
            Some(&[5.0][..])
        );
        assert_eq!(
            pool.try_embed(&prompt, Duration::ZERO, ignore).await.as_deref(),
            Some(&[5.0][..])
        );
        let counts = pool.counts();
        assert_eq!((counts.in_time, counts.cached), (1, 1));
    }

    #[tokio::test]
    async fn a_late_embedding_reaches_the_callback() {
        let (pool, permit) = pool(4);
        let (tell, told) = mpsc::channel();
        let late = move |embedding: Arc<[f32]>| tell.send(embedding).unwrap();
        assert_eq!(
            pool.try_embed(&PromptText::plain("later"), Duration::ZERO, late)
                .await,
            None
        );
        permit.send(()).unwrap();
        assert_eq!(told.recv_timeout(LONG).unwrap().as_ref(), [5.0]);
        assert_eq!(pool.counts().late, 1);
    }

    #[test]
    fn what_nobody_waits_for_takes_no_more_than_its_share() {
        let (pool, permit) = pool(64);
        let (tell, told) = mpsc::channel();
        let ask = |index: usize| {
            let tell = tell.clone();
            let late = move |embedding: Arc<[f32]>| tell.send(embedding).unwrap();
            pool.embed_later(&PromptText::plain(&format!("prompt {index}")), late)
        };
        // A hundredth of a processor, and two seconds of it ahead: four prompts of 6 ms.
        assert!((0..50).all(|index| ask(index).is_none()));
        let counts = pool.counts();
        assert!((40..=46).contains(&counts.spared), "{counts:?}");
        for _ in counts.spared..50 {
            permit.send(()).unwrap();
            assert_eq!(told.recv_timeout(LONG).unwrap().as_ref(), [8.0]);
        }
        assert_eq!(ask(0).as_deref(), Some(&[8.0][..]), "known by now");
        assert_eq!(pool.counts().late, 50 - counts.spared);
    }

    #[tokio::test]
    async fn a_full_queue_drops_at_once() {
        let (pool, permit) = pool(1);
        let mut dropped = 0;
        for index in 0..4 {
            let prompt = PromptText::plain(&format!("prompt {index}"));
            pool.try_embed(&prompt, Duration::ZERO, ignore).await;
            dropped = pool.counts().dropped;
        }
        assert!(
            (2..=3).contains(&dropped),
            "one in hand at most and one waiting, of four: {dropped} dropped"
        );
        drop(permit);
    }

    #[tokio::test]
    async fn failures_and_panics_cost_one_prompt() {
        let (pool, permit) = pool(4);
        permit.send(()).unwrap();
        assert_eq!(
            pool.try_embed(&PromptText::plain("panic"), LONG, ignore).await,
            None
        );
        permit.send(()).unwrap();
        assert!(
            pool.try_embed(&PromptText::plain("fine"), LONG, ignore)
                .await
                .is_some()
        );
        drop(permit);
        assert_eq!(
            pool.try_embed(&PromptText::plain("no permit"), LONG, ignore)
                .await,
            None
        );
        assert_eq!(pool.counts().failed, 2);
    }
}
