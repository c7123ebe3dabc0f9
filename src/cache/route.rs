//! One route's cache.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry as Slot;
use moka::sync::Cache;
use serde::Serialize;

use super::meaning::{Meaning, Meanings};
use super::tape::{Lead, Playback, Tape};
use super::{Entry, Key, Mode, Wish};
use crate::completion::FinishReason;
use crate::config::CacheRule;
use crate::units::{UnixMs, Usd};

/// Bytes of an entry beside its answer.
const OVERHEAD: usize = 512;
/// Decisions of which it is remembered what they were answered with.
const REMEMBERED: u64 = 16_384;

/// Answers of one route.
#[derive(Debug)]
pub struct RouteCache {
    rule: CacheRule,
    version: String,
    kept: Cache<Key, Arc<Entry>>,
    meanings: Option<Meanings>,
    flights: DashMap<Key, Arc<Tape>>,
    /// Decision → what it was answered with, and by which decision that was made.
    answered: Cache<Arc<str>, (Key, Arc<str>)>,
    counters: Arc<Counters>,
}

/// What a look came to.
#[derive(Debug)]
pub enum Found {
    /// An answer that is there.
    Kept(Playback),
    /// One that somebody else has asked for.
    Coming(Playback),
    /// None: the answer is to be asked for, and to be recorded with this.
    Nothing(Lead),
}

/// Counts since the start.
#[derive(Debug, Default)]
pub(super) struct Counters {
    hits: AtomicU64,
    alike: AtomicU64,
    joined: AtomicU64,
    misses: AtomicU64,
    refreshes: AtomicU64,
    bypassed: AtomicU64,
    kept: AtomicU64,
    not_kept: AtomicU64,
    evicted: AtomicU64,
    saved_nanos: AtomicI64,
}

/// What a cache holds now and has done since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct CacheFigures {
    /// Requests that were given an answer that was there.
    pub hits: u64,
    /// Of those: answers to a question that meant the same.
    pub alike: u64,
    /// Requests that were given one that another was just waiting for.
    pub joined: u64,
    /// Requests that had to ask.
    pub misses: u64,
    /// Requests that wanted to ask.
    pub refreshes: u64,
    /// Requests that wanted nothing of it.
    pub bypassed: u64,
    /// Answers kept.
    pub kept: u64,
    /// Answers not kept: cut at the token limit, or filtered.
    pub not_kept: u64,
    /// Answers dropped for a bad score.
    pub evicted: u64,
    /// Answers there now, about.
    pub entries: u64,
    /// Their bytes, about.
    pub bytes: u64,
    /// Dollars that hits did not cost again; answers of unknown price not counted.
    pub saved_usd: Usd,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl RouteCache {
    pub(super) fn new(rule: CacheRule, version: String, counters: Option<Arc<Counters>>) -> Self {
        let weigh = |_: &Key, entry: &Arc<Entry>| {
            u32::try_from(entry.body.bytes().saturating_add(OVERHEAD)).unwrap_or(u32::MAX)
        };
        Self {
            kept: Cache::builder()
                .max_capacity(rule.max_bytes)
                .weigher(weigh)
                .time_to_live(rule.ttl)
                .build(),
            answered: Cache::builder()
                .max_capacity(REMEMBERED)
                .time_to_live(rule.ttl)
                .build(),
            meanings: rule
                .semantic
                .as_ref()
                .map(|semantic| Meanings::new(semantic.most)),
            flights: DashMap::new(),
            rule,
            version,
            counters: counters.unwrap_or_default(),
        }
    }

    pub(super) fn is_same(&self, version: &str) -> bool {
        self.version == version
    }

    pub(super) fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// How it was configured.
    #[must_use]
    pub fn rule(&self) -> &CacheRule {
        &self.rule
    }

    /// Looks for an answer, kept or coming. A refresh asks for itself: an answer that was begun before it came is
    /// not what it wants.
    #[must_use]
    pub fn find(self: &Arc<Self>, key: Key, wish: &Wish, now: UnixMs) -> Found {
        if wish.mode == Mode::Refresh {
            count(&self.counters.refreshes);
            return Found::Nothing(Lead::new(Arc::clone(self), key, Arc::default()));
        }
        let fresh = |entry: &Arc<Entry>| wish.max_age.is_none_or(|most| now.since(entry.at) <= most);
        let hit = |entry| {
            count(&self.counters.hits);
            Found::Kept(Playback::kept(entry))
        };
        if let Some(entry) = self.kept.get(&key).filter(fresh) {
            return hit(entry);
        }
        let lead = match self.flights.entry(key) {
            Slot::Occupied(flight) => {
                count(&self.counters.joined);
                return Found::Coming(Playback::of(Arc::clone(flight.get())));
            }
            Slot::Vacant(free) => {
                let tape = Arc::new(Tape::default());
                free.insert(Arc::clone(&tape));
                Lead::new(Arc::clone(self), key, tape)
            }
        };
        // Another flight may have landed since the first look.
        match self.kept.get(&key).filter(fresh) {
            Some(entry) => hit(entry),
            None => Found::Nothing(lead),
        }
    }

    /// Counts a request for which nothing was there.
    pub fn missed(&self) {
        count(&self.counters.misses);
    }

    /// Looks for the answer to a question that means the same: its key, and how alike they are.
    #[must_use]
    pub fn find_alike(&self, asked: &Meaning, wish: &Wish, now: UnixMs) -> Option<(Playback, Key, f32)> {
        let meanings = self.meanings.as_ref()?;
        let (key, cosine) = meanings.nearest(asked)?;
        let Some(entry) = self.kept.get(&key) else {
            meanings.forget(&key);
            return None;
        };
        if wish.max_age.is_some_and(|most| now.since(entry.at) > most) {
            return None;
        }
        count(&self.counters.hits);
        count(&self.counters.alike);
        Some((Playback::kept(entry), key, cosine))
    }

    /// A recording that nobody can follow, for who has followed another one that broke off.
    #[must_use]
    pub fn alone(self: &Arc<Self>, key: Key) -> Lead {
        Lead::new(Arc::clone(self), key, Arc::default())
    }

    /// Counts a request that wants nothing of the cache.
    pub fn bypass(&self) {
        count(&self.counters.bypassed);
    }

    /// Counts what an answer that was there would have cost, and remembers who was given it.
    pub fn served(&self, decision: &Arc<str>, key: Key, entry: &Entry) {
        let saved = entry.cost.map_or(0, Usd::nanos);
        self.counters.saved_nanos.fetch_add(saved, Ordering::Relaxed);
        self.remember(decision, key, entry);
    }

    fn remember(&self, decision: &Arc<str>, key: Key, entry: &Entry) {
        let value = (key, Arc::clone(&entry.origin.decision));
        self.answered.insert(Arc::clone(decision), value);
    }

    /// Keeps an answer that ended by itself.
    pub(super) fn keep(&self, key: Key, entry: &Arc<Entry>, meaning: Option<Meaning>) {
        if !matches!(entry.body.finish(), FinishReason::Stop | FinishReason::ToolCalls) {
            count(&self.counters.not_kept);
            return;
        }
        count(&self.counters.kept);
        self.kept.insert(key, Arc::clone(entry));
        if let (Some(meanings), Some(meaning)) = (&self.meanings, meaning) {
            meanings.remember(meaning, key);
        }
        self.remember(&entry.origin.decision, key, entry);
    }

    /// Ends a flight.
    pub(super) fn land(&self, key: &Key, tape: &Arc<Tape>) {
        self.flights.remove_if(key, |_, flight| Arc::ptr_eq(flight, tape));
    }

    /// Drops the answer that `decision` made or was given, unless there is another by now.
    pub(super) fn evict(&self, decision: &str) {
        let Some((key, origin)) = self.answered.get(decision) else {
            return;
        };
        if self
            .kept
            .get(&key)
            .is_some_and(|entry| entry.origin.decision == origin)
        {
            count(&self.counters.evicted);
            self.kept.invalidate(&key);
            if let Some(meanings) = &self.meanings {
                meanings.forget(&key);
            }
        }
    }

    /// What it holds and has done.
    #[must_use]
    pub fn figures(&self) -> CacheFigures {
        self.kept.run_pending_tasks();
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.counters;
        CacheFigures {
            hits: read(&counters.hits),
            alike: read(&counters.alike),
            joined: read(&counters.joined),
            misses: read(&counters.misses),
            refreshes: read(&counters.refreshes),
            bypassed: read(&counters.bypassed),
            kept: read(&counters.kept),
            not_kept: read(&counters.not_kept),
            evicted: read(&counters.evicted),
            entries: self.kept.entry_count(),
            bytes: self.kept.weighted_size(),
            saved_usd: Usd::from_nanos(counters.saved_nanos.load(Ordering::Relaxed)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::value::RawValue;

    use super::*;
    use crate::arm::ArmId;
    use crate::cache::Origin;
    use crate::completion::{Completion, Signals};

    const READ: Wish = Wish {
        mode: Mode::Read,
        max_age: None,
    };

    fn cache(max_bytes: u64) -> Arc<RouteCache> {
        let rule = CacheRule {
            ttl: Duration::from_secs(60),
            max_bytes,
            shared: false,
            semantic: None,
        };
        Arc::new(RouteCache::new(rule, String::new(), None))
    }

    fn key(number: u8) -> Key {
        Key([number; 32])
    }

    fn origin(number: u8) -> Origin {
        Origin {
            decision: number.to_string().into(),
            arm: ArmId::new("a/b"),
            provider: "a".into(),
            category: "".into(),
            expected_quality: 0.5,
        }
    }

    #[tokio::test]
    async fn nobody_joins_what_is_about_to_end() {
        let cache = cache(1 << 20);
        let Found::Nothing(lead) = cache.find(key(1), &READ, UnixMs(0)) else {
            panic!("there is an answer")
        };
        lead.begin(origin(1));
        let Found::Coming(follower) = cache.find(key(1), &READ, UnixMs(0)) else {
            panic!("the flight is not seen")
        };
        assert!(lead.goes_on());
        drop(follower);
        assert!(!lead.goes_on());
        // The flight has not landed yet, and what it said is no beginning for anybody.
        let Found::Coming(late) = cache.find(key(1), &READ, UnixMs(0)) else {
            panic!("the flight has landed")
        };
        assert!(matches!(late.begin().await, crate::cache::Begin::Broken));
        drop(lead);
        assert!(matches!(cache.find(key(1), &READ, UnixMs(0)), Found::Nothing(_)));
    }

    fn answer(cache: &Arc<RouteCache>, number: u8, finish: FinishReason, bytes: usize) {
        let Found::Nothing(lead) = cache.find(key(number), &READ, UnixMs(0)) else {
            panic!("there is an answer")
        };
        let origin = origin(number);
        let completion = Completion {
            upstream_id: None,
            choices: RawValue::from_string(format!("\"{}\"", "x".repeat(bytes))).unwrap(),
            extra: Vec::new(),
            usage: None,
            usage_extra: None,
            finish,
            signals: Signals::default(),
        };
        lead.whole(origin, &completion, Some(Usd::from_nanos(5)), UnixMs(1_000));
    }

    fn is_hit(cache: &Arc<RouteCache>, number: u8, wish: &Wish, now: i64) -> bool {
        matches!(cache.find(key(number), wish, UnixMs(now)), Found::Kept(_))
    }

    #[test]
    fn only_answers_that_ended_by_themselves_are_kept() {
        let cache = cache(1 << 20);
        for (number, finish, kept) in [
            (1, FinishReason::Stop, true),
            (2, FinishReason::ToolCalls, true),
            (3, FinishReason::Length, false),
            (4, FinishReason::ContentFilter, false),
        ] {
            answer(&cache, number, finish, 10);
            assert_eq!(is_hit(&cache, number, &READ, 2_000), kept, "{finish:?}");
        }
        assert!(cache.flights.is_empty());
        assert_eq!((cache.figures().kept, cache.figures().not_kept), (2, 2));
    }

    #[test]
    fn memory_is_bounded() {
        let cache = cache(65_536);
        for number in 0..200 {
            answer(&cache, number, FinishReason::Stop, 4_000);
        }
        let figures = cache.figures();
        assert!(figures.bytes <= 65_536 && figures.entries >= 8, "{figures:?}");
        answer(&cache, 255, FinishReason::Stop, 100_000);
        assert!(cache.figures().bytes <= 65_536);
    }

    #[test]
    fn an_answer_older_than_asked_for_is_none() {
        let cache = cache(1 << 20);
        answer(&cache, 1, FinishReason::Stop, 10);
        let young = Wish {
            max_age: Some(Duration::from_secs(2)),
            ..READ
        };
        assert!(is_hit(&cache, 1, &young, 3_000));
        assert!(!is_hit(&cache, 1, &young, 3_001));
    }

    #[test]
    fn a_bad_score_drops_the_answer_that_it_is_about_and_no_later_one() {
        let cache = cache(1 << 20);
        answer(&cache, 1, FinishReason::Stop, 10);
        let given: Arc<str> = Arc::from("given");
        let entry = cache.kept.get(&key(1)).unwrap();
        cache.served(&given, key(1), &entry);
        assert_eq!(cache.figures().saved_usd, Usd::from_nanos(5));
        cache.evict("nobody");
        assert!(is_hit(&cache, 1, &READ, 2_000));
        cache.evict("given");
        assert!(!is_hit(&cache, 1, &READ, 2_000));
        // What another decision answered since then stays.
        let mut later = Entry::clone(&entry);
        later.origin.decision = "later".into();
        cache.keep(key(1), &Arc::new(later), None);
        cache.evict("given");
        cache.evict("1");
        assert!(is_hit(&cache, 1, &READ, 2_000));
        cache.evict("later");
        assert!(!is_hit(&cache, 1, &READ, 2_000));
    }
}
