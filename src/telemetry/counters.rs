//! Counts since the start that only grow, for `/metrics`: what a scraper turns into rates by itself. Windows tell how
//! things are now; these tell how much there was, to the nano-dollar.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use dashmap::DashMap;

pub use super::histogram::{Buckets, Histogram};
use super::series::Ending;
use crate::arm::ArmId;
use crate::completion::Usage;
use crate::failure::FailureKind;
use crate::units::Usd;

/// Upper bounds of the latency histograms' buckets, in microseconds: 50 ms to 5 minutes.
pub const LATENCY_BOUNDS: [u64; 12] = [
    50_000,
    100_000,
    200_000,
    500_000,
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
    20_000_000,
    60_000_000,
    120_000_000,
    300_000_000,
];

/// Upper bounds of the overhead's buckets, in microseconds: 50 µs to 100 ms.
pub const OVERHEAD_BOUNDS: [u64; 11] = [
    50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000,
];

/// Classes of tokens. They do not overlap: their sum is every token that was used.
pub const TOKEN_CLASSES: [&str; 8] = [
    "input",
    "cached_input",
    "cache_write_5m",
    "cache_write_1h",
    "audio_input",
    "output",
    "reasoning",
    "audio_output",
];

/// How an attempt can end: with an answer, by each kind of failure, or cut off by us.
pub const OUTCOMES: usize = 1 + FailureKind::ALL.len() + 3;

/// What one model at one provider did.
#[derive(Debug)]
pub struct ArmCounts {
    /// Attempts by role (primary, retry, fallback, hedge) and outcome.
    outcomes: [[AtomicU64; OUTCOMES]; 4],
    tokens: [AtomicU64; TOKEN_CLASSES.len()],
    cost_nanos: AtomicI64,
    prompt_cache_saved_nanos: AtomicI64,
    prompt_cache_paid_nanos: AtomicI64,
    unpriced: AtomicU64,
    estimated: AtomicU64,
    /// Time to the first token of streams.
    pub ttft: Histogram<12>,
    /// Time to the end of answers that came.
    pub total: Histogram<12>,
}

/// What a provider's prompt cache came to in a call, beside the price of plain input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PromptCacheUse {
    /// What the input that was read from it cost less.
    pub saved: Usd,
    /// What the input that was written to it cost more.
    pub paid: Usd,
}

/// An attempt that is over, as it is counted.
#[derive(Clone, Copy, Debug)]
pub struct Counted<'a> {
    /// The provider called.
    pub provider: &'a Arc<str>,
    /// The model.
    pub arm: &'a ArmId,
    /// Its role: 0 primary, 1 retry, 2 fallback, 3 hedge.
    pub role: usize,
    /// How it ended.
    pub ending: Ending,
    /// Tokens it used.
    pub usage: Option<Usage>,
    /// What it cost; `None`: the price is unknown.
    pub cost: Option<Usd>,
    /// What the provider's prompt cache made cheaper and dearer in it.
    pub prompt_cache: PromptCacheUse,
    /// Time to the first token, of a stream.
    pub ttft: Option<Duration>,
    /// From its start to its end.
    pub total: Duration,
}

impl ArmCounts {
    fn new() -> Self {
        Self {
            outcomes: [const { [const { AtomicU64::new(0) }; OUTCOMES] }; 4],
            tokens: [const { AtomicU64::new(0) }; TOKEN_CLASSES.len()],
            cost_nanos: AtomicI64::new(0),
            prompt_cache_saved_nanos: AtomicI64::new(0),
            prompt_cache_paid_nanos: AtomicI64::new(0),
            unpriced: AtomicU64::new(0),
            estimated: AtomicU64::new(0),
            ttft: Histogram::new(&LATENCY_BOUNDS),
            total: Histogram::new(&LATENCY_BOUNDS),
        }
    }

    /// Attempts with this role that ended so.
    #[must_use]
    pub fn attempts(&self, role: usize, outcome: usize) -> u64 {
        let counts = self.outcomes.get(role).and_then(|counts| counts.get(outcome));
        counts.map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// Tokens by class, in the order of [`TOKEN_CLASSES`].
    #[must_use]
    pub fn tokens(&self) -> [u64; TOKEN_CLASSES.len()] {
        std::array::from_fn(|class| self.tokens[class].load(Ordering::Relaxed))
    }

    /// What all attempts of known price have cost.
    #[must_use]
    pub fn cost(&self) -> Usd {
        Usd::from_nanos(self.cost_nanos.load(Ordering::Relaxed))
    }

    /// What the provider's prompt cache made cheaper, and what writing to it cost.
    #[must_use]
    pub fn prompt_cache(&self) -> PromptCacheUse {
        let read = |nanos: &AtomicI64| Usd::from_nanos(nanos.load(Ordering::Relaxed));
        PromptCacheUse {
            saved: read(&self.prompt_cache_saved_nanos),
            paid: read(&self.prompt_cache_paid_nanos),
        }
    }

    /// Attempts that used something at an unknown price.
    #[must_use]
    pub fn unpriced(&self) -> u64 {
        self.unpriced.load(Ordering::Relaxed)
    }

    /// Attempts whose tokens are our estimate.
    #[must_use]
    pub fn estimated(&self) -> u64 {
        self.estimated.load(Ordering::Relaxed)
    }

    fn count(&self, attempt: &Counted<'_>) {
        let role = attempt.role.min(self.outcomes.len() - 1);
        self.outcomes[role][place(attempt.ending)].fetch_add(1, Ordering::Relaxed);
        match attempt.cost {
            Some(cost) => {
                self.cost_nanos.fetch_add(cost.nanos(), Ordering::Relaxed);
            }
            None => {
                self.unpriced.fetch_add(1, Ordering::Relaxed);
            }
        }
        let PromptCacheUse { saved, paid } = attempt.prompt_cache;
        self.prompt_cache_saved_nanos
            .fetch_add(saved.nanos(), Ordering::Relaxed);
        self.prompt_cache_paid_nanos
            .fetch_add(paid.nanos(), Ordering::Relaxed);
        if let Some(usage) = &attempt.usage {
            for (sum, tokens) in self.tokens.iter().zip(apart(usage)) {
                if tokens > 0 {
                    sum.fetch_add(tokens, Ordering::Relaxed);
                }
            }
            self.estimated
                .fetch_add(u64::from(usage.estimated), Ordering::Relaxed);
        }
        if let Some(ttft) = attempt.ttft {
            self.ttft.observe(ttft);
        }
        if attempt.ending == Ending::Succeeded {
            self.total.observe(attempt.total);
        }
    }
}

/// Tokens by class without overlaps, parts that claim more than their whole being cut as the bill cuts them.
fn apart(usage: &Usage) -> [u64; TOKEN_CLASSES.len()] {
    let mut input = usage.input;
    let mut take = |wanted: u64| {
        let taken = wanted.min(input);
        input -= taken;
        taken
    };
    let [cached, short, long, audio] = [
        usage.cached_input,
        usage.cache_write_5m,
        usage.cache_write_1h,
        usage.audio_input,
    ]
    .map(&mut take);
    let reasoning = usage.reasoning.min(usage.output);
    let spoken = usage.audio_output.min(usage.output - reasoning);
    let output = usage.output - reasoning - spoken;
    [input, cached, short, long, audio, output, reasoning, spoken]
}

/// Where an ending is counted.
const fn place(ending: Ending) -> usize {
    match ending {
        Ending::Succeeded => 0,
        Ending::Failed(kind) => 1 + kind as usize,
        Ending::LostHedge => OUTCOMES - 3,
        Ending::ClientGone => OUTCOMES - 2,
        Ending::Deadline => OUTCOMES - 1,
    }
}

/// The word of an outcome in metrics, as it stands in the log.
#[must_use]
pub fn outcome_word(outcome: usize) -> &'static str {
    match outcome {
        0 => "succeeded",
        _ if outcome == OUTCOMES - 3 => "lost_hedge",
        _ if outcome == OUTCOMES - 2 => "client_gone",
        _ if outcome == OUTCOMES - 1 => "deadline",
        _ => FailureKind::ALL
            .get(outcome - 1)
            .map_or("other", |kind| kind.as_str()),
    }
}

/// A provider and a model of it.
pub type Key = (Arc<str>, ArmId);

/// All counters. Shared by reference. Labels are names of the configuration, never a client's words, so that there are
/// never many.
#[derive(Debug)]
pub struct Counters {
    arms: DashMap<Key, Arc<ArmCounts>>,
    answers: DashMap<(&'static str, u16), AtomicU64>,
    overhead: Histogram<11>,
    look: Histogram<11>,
    /// By route.
    looks: DashMap<Arc<str>, Arc<LookCounts>>,
}

/// What looking at requests before they were sent came to, on one route.
#[derive(Debug, Default)]
pub struct LookCounts {
    saved_nanos: AtomicI64,
    unable: AtomicU64,
}

impl LookCounts {
    /// What the drawn models were expected to cost less than the dearest that could have served.
    #[must_use]
    pub fn saved(&self) -> Usd {
        Usd::from_nanos(self.saved_nanos.load(Ordering::Relaxed))
    }

    /// Models that were left out because they could not have taken the request.
    #[must_use]
    pub fn unable(&self) -> u64 {
        self.unable.load(Ordering::Relaxed)
    }
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            arms: DashMap::new(),
            answers: DashMap::new(),
            overhead: Histogram::new(&OVERHEAD_BOUNDS),
            look: Histogram::new(&OVERHEAD_BOUNDS),
            looks: DashMap::new(),
        }
    }
}

impl Counters {
    /// Counts an attempt that is over.
    pub fn attempt(&self, attempt: &Counted<'_>) {
        let key = (Arc::clone(attempt.provider), attempt.arm.clone());
        if let Some(counts) = self.arms.get(&key) {
            return counts.count(attempt);
        }
        let counts = Arc::clone(&self.arms.entry(key).or_insert_with(|| Arc::new(ArmCounts::new())));
        counts.count(attempt);
    }

    /// Counts an answer to a request on `path` with this HTTP status.
    pub fn answered(&self, path: &'static str, status: u16) {
        let key = (path, status);
        if let Some(count) = self.answers.get(&key) {
            count.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.answers
            .entry(key)
            .or_default()
            .fetch_add(1, Ordering::Relaxed);
    }

    /// Counts what we took ourselves of a request's time.
    pub fn overhead(&self, span: Duration) {
        self.overhead.observe(span);
    }

    /// Counts a look at a request of `route`: how long it took, what the choice was expected to save beside the dearest
    /// model that could have served, and how many models it left out because they could not have.
    pub fn looked(&self, route: &Arc<str>, span: Duration, saved: Usd, unable: u64) {
        self.look.observe(span);
        let known = self.looks.get(route).map(|counts| Arc::clone(&counts));
        let counts = known.unwrap_or_else(|| Arc::clone(&self.looks.entry(Arc::clone(route)).or_default()));
        counts.saved_nanos.fetch_add(saved.nanos(), Ordering::Relaxed);
        counts.unable.fetch_add(unable, Ordering::Relaxed);
    }

    /// Time spent looking.
    #[must_use]
    pub fn look_times(&self) -> Buckets {
        self.look.read()
    }

    /// What the looks came to by route, sorted.
    #[must_use]
    pub fn looks(&self) -> Vec<(Arc<str>, Arc<LookCounts>)> {
        let mut looks: Vec<_> = self
            .looks
            .iter()
            .map(|entry| (Arc::clone(entry.key()), Arc::clone(entry.value())))
            .collect();
        looks.sort_by(|a, b| a.0.cmp(&b.0));
        looks
    }

    /// Every provider and model with its counts, sorted.
    #[must_use]
    pub fn arms(&self) -> Vec<(Key, Arc<ArmCounts>)> {
        let mut arms: Vec<_> = self
            .arms
            .iter()
            .map(|entry| (entry.key().clone(), Arc::clone(entry.value())))
            .collect();
        arms.sort_by(|a, b| a.0.cmp(&b.0));
        arms
    }

    /// Answers by path and status, sorted.
    #[must_use]
    pub fn answers(&self) -> Vec<((&'static str, u16), u64)> {
        let mut answers: Vec<_> = self
            .answers
            .iter()
            .map(|entry| (*entry.key(), entry.value().load(Ordering::Relaxed)))
            .collect();
        answers.sort_unstable();
        answers
    }

    /// Our own share of requests' time.
    #[must_use]
    pub fn overheads(&self) -> Buckets {
        self.overhead.read()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt<'a>(provider: &'a Arc<str>, arm: &'a ArmId, ending: Ending) -> Counted<'a> {
        Counted {
            provider,
            arm,
            role: 0,
            ending,
            usage: Some(Usage {
                input: 100,
                cached_input: 60,
                cache_write_5m: 50,
                output: 10,
                reasoning: 4,
                ..Usage::default()
            }),
            cost: Some(Usd::from_nanos(7)),
            prompt_cache: PromptCacheUse::default(),
            ttft: None,
            total: Duration::from_millis(70),
        }
    }

    #[test]
    fn token_classes_do_not_overlap() {
        let counters = Counters::default();
        let (provider, arm) = (Arc::from("p"), ArmId::new("p/m"));
        counters.attempt(&attempt(&provider, &arm, Ending::Succeeded));
        let (_, counts) = counters.arms().remove(0);
        // 60 cached, 40 of the 50 written (more are not left), 6 of the 10 visible.
        assert_eq!(counts.tokens(), [0, 60, 40, 0, 0, 6, 4, 0]);
        assert_eq!(counts.tokens().iter().sum::<u64>(), 110);
    }

    #[test]
    fn every_ending_has_its_own_place_and_word() {
        let mut endings = vec![
            Ending::Succeeded,
            Ending::LostHedge,
            Ending::ClientGone,
            Ending::Deadline,
        ];
        endings.extend(FailureKind::ALL.map(Ending::Failed));
        let mut words: Vec<&str> = endings
            .iter()
            .map(|ending| outcome_word(place(*ending)))
            .collect();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), OUTCOMES);
        assert_eq!(
            outcome_word(place(Ending::Failed(FailureKind::Timeout))),
            "timeout"
        );
        let counters = Counters::default();
        let (provider, arm) = (Arc::from("p"), ArmId::new("p/m"));
        for ending in &endings {
            counters.attempt(&attempt(&provider, &arm, *ending));
        }
        let (_, counts) = counters.arms().remove(0);
        assert!((0..OUTCOMES).all(|outcome| counts.attempts(0, outcome) == 1));
        assert_eq!(counts.cost(), Usd::from_nanos(7 * OUTCOMES as i64));
        assert_eq!(counts.total.read().count, 1, "failures have no time to an answer");
    }

    #[test]
    fn buckets_are_cumulative_and_what_is_longest_is_in_the_count_alone() {
        let histogram = Histogram::new(&LATENCY_BOUNDS);
        for ms in [50, 51, 400, 1_000_000] {
            histogram.observe(Duration::from_millis(ms));
        }
        let read = histogram.read();
        assert_eq!(
            read.up_to[..4],
            [(50_000, 1), (100_000, 2), (200_000, 2), (500_000, 3)]
        );
        assert_eq!((read.up_to[11].1, read.count), (3, 4));
        assert_eq!(read.sum_us, 1_000_501_000);
    }
}
