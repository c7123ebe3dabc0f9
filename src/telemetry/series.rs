//! What is recorded for one kind of call, and where.
//!
//! A writer touches one of a few lanes of its series: a lock held for a handful of instructions over a small
//! slot of its own. A reader empties the lanes one after the other (a pointer swap under each lock) and does
//! its merging under a lock that no writer takes.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::latencies::{Latencies, Observed};
use super::sketch::Sketch;
use super::windows::{Merge, Windows, epoch};
use crate::arm::ArmId;
use crate::failure::FailureKind;
use crate::units::UnixMs;

/// How long a prompt is, roughly: prefill time grows with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InputSize {
    /// Up to 512 tokens.
    Small,
    /// Up to 4,096 tokens.
    Medium,
    /// Up to 32,768 tokens.
    Large,
    /// More.
    Huge,
}

impl InputSize {
    /// The bucket of a prompt of so many tokens.
    #[must_use]
    pub const fn of(input_tokens: u32) -> Self {
        match input_tokens {
            0..=512 => Self::Small,
            513..=4_096 => Self::Medium,
            4_097..=32_768 => Self::Large,
            _ => Self::Huge,
        }
    }

    /// The word used in snapshots.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Small => "small",
            Self::Medium => "medium",
            Self::Large => "large",
            Self::Huge => "huge",
        }
    }
}

/// What calls are told apart by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SeriesKey {
    /// The provider that was called (one arm may have several).
    pub provider: Arc<str>,
    /// The model, as `provider/model`.
    pub arm: ArmId,
    /// Streamed or whole.
    pub stream: bool,
    /// Size of the prompt.
    pub size: InputSize,
}

impl SeriesKey {
    /// The key of a call.
    #[must_use]
    pub fn new(provider: Arc<str>, arm: ArmId, stream: bool, input_tokens: u32) -> Self {
        Self {
            provider,
            arm,
            stream,
            size: InputSize::of(input_tokens),
        }
    }

    /// Where everything goes that came after the last series that fits into memory.
    #[must_use]
    pub(super) fn overflow() -> Self {
        Self {
            provider: Arc::from("other"),
            arm: ArmId::new("other/other"),
            stream: false,
            size: InputSize::Small,
        }
    }
}

/// How an attempt ended, as far as the books care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With an answer.
    Succeeded,
    /// With an error.
    Failed(FailureKind),
    /// We cut it off: another attempt won.
    LostHedge,
    /// We cut it off: the client left.
    ClientGone,
    /// We cut it off: the deadline came.
    Deadline,
}

/// One attempt that is over.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Its series.
    pub key: SeriesKey,
    /// How it ended.
    pub ending: Ending,
    /// Time to the first meaningful event, if one came. For a whole answer: time to the answer's headers, or
    /// nothing.
    pub ttft: Option<Duration>,
    /// From the start of the attempt to its end.
    pub total: Duration,
    /// Tokens of the answer, if known.
    pub output_tokens: Option<u64>,
}

impl Sample {
    /// What the attempt tells of the time to the first token: it came, or it had not come when we cut it off.
    /// An error tells nothing, however fast it came.
    fn first_token(&self) -> Option<Observed> {
        match (self.ttft, self.cut_off()) {
            (Some(ttft), _) => Some(Observed::Exact(ttft)),
            (None, true) if self.key.stream => Some(Observed::AtLeast(self.total)),
            (None, _) => None,
        }
    }

    /// What it tells of the time to the whole answer.
    fn whole(&self) -> Option<Observed> {
        match self.ending {
            Ending::Succeeded => Some(Observed::Exact(self.total)),
            _ if self.cut_off() => Some(Observed::AtLeast(self.total)),
            _ => None,
        }
    }

    /// The mean gap between two tokens of a streamed answer.
    fn inter_token(&self) -> Option<Duration> {
        let (ttft, tokens) = (self.ttft?, self.output_tokens?);
        let gaps = u32::try_from(tokens.checked_sub(1)?)
            .ok()
            .filter(|gaps| *gaps > 0)?;
        (self.key.stream && self.ending == Ending::Succeeded).then(|| self.total.saturating_sub(ttft) / gaps)
    }

    fn cut_off(&self) -> bool {
        matches!(
            self.ending,
            Ending::LostHedge | Ending::ClientGone | Ending::Deadline | Ending::Failed(FailureKind::Timeout)
        )
    }
}

/// Sums over some attempts; merges by addition.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Tally {
    pub(super) attempts: u64,
    pub(super) succeeded: u64,
    pub(super) failed: [u32; FailureKind::ALL.len()],
    pub(super) lost_hedges: u32,
    pub(super) clients_gone: u32,
    pub(super) deadlines: u32,
    pub(super) output_tokens: u64,
    pub(super) ttft: Latencies,
    pub(super) inter_token: Sketch,
    pub(super) total: Latencies,
}

impl Tally {
    pub(super) fn record(&mut self, sample: &Sample) {
        self.attempts += 1;
        match sample.ending {
            Ending::Succeeded => self.succeeded += 1,
            Ending::Failed(kind) => self.failed[kind as usize] += 1,
            Ending::LostHedge => self.lost_hedges += 1,
            Ending::ClientGone => self.clients_gone += 1,
            Ending::Deadline => self.deadlines += 1,
        }
        self.output_tokens += sample.output_tokens.unwrap_or(0);
        if let Some(ttft) = sample.first_token() {
            self.ttft.record(ttft);
        }
        if let Some(gap) = sample.inter_token() {
            self.inter_token.record(gap);
        }
        if let Some(total) = sample.whole() {
            self.total.record(total);
        }
    }

    pub(super) fn heap_bytes(&self) -> usize {
        let sketches = [
            &self.ttft.observed,
            &self.ttft.censored,
            &self.inter_token,
            &self.total.observed,
            &self.total.censored,
        ];
        sketches.iter().map(|sketch| sketch.heap_bytes()).sum()
    }
}

impl Merge for Tally {
    fn merge(&mut self, other: &Self) {
        self.attempts += other.attempts;
        self.succeeded += other.succeeded;
        for (ours, theirs) in self.failed.iter_mut().zip(other.failed) {
            *ours = ours.saturating_add(theirs);
        }
        self.lost_hedges = self.lost_hedges.saturating_add(other.lost_hedges);
        self.clients_gone = self.clients_gone.saturating_add(other.clients_gone);
        self.deadlines = self.deadlines.saturating_add(other.deadlines);
        self.output_tokens += other.output_tokens;
        self.ttft.merge(&other.ttft);
        self.inter_token.merge(&other.inter_token);
        self.total.merge(&other.total);
    }
}

/// Writers spread over so many lanes.
const LANES: usize = 4;
/// Slots that wait in a lane before a writer folds them itself, when no reader comes by.
const SEALED: usize = 8;

#[derive(Debug, Default)]
struct Lane {
    epoch: i64,
    active: Tally,
    sealed: Vec<(i64, Tally)>,
}

/// The windows of one key.
#[derive(Debug, Default)]
pub(super) struct Series {
    lanes: [Mutex<Lane>; LANES],
    windows: Mutex<Windows<Tally>>,
}

impl Series {
    pub(super) fn record(&self, now: UnixMs, sample: &Sample) {
        let at = epoch(now);
        let crowded = {
            let mut lane = lock(&self.lanes[lane()]);
            if lane.epoch != at {
                seal(&mut lane);
                lane.epoch = at;
            }
            lane.active.record(sample);
            lane.sealed.len() > SEALED
        };
        if crowded {
            drop(self.windows(now));
        }
    }

    /// The windows with everything recorded so far.
    pub(super) fn windows(&self, now: UnixMs) -> MutexGuard<'_, Windows<Tally>> {
        let mut windows = lock(&self.windows);
        for lane in &self.lanes {
            let slots = {
                let mut lane = lock(lane);
                seal(&mut lane);
                std::mem::take(&mut lane.sealed)
            };
            for (at, slot) in slots {
                windows.put(now, at, slot);
            }
        }
        windows.advance(now);
        windows
    }

    pub(super) fn absorb(&self, now: UnixMs, windows: Windows<Tally>) {
        lock(&self.windows).absorb(now, windows);
    }
}

/// Puts the active slot of a lane away.
fn seal(lane: &mut Lane) {
    if lane.active.attempts == 0 {
        return;
    }
    let slot = std::mem::take(&mut lane.active);
    let at = lane.epoch;
    match lane.sealed.iter_mut().find(|(sealed, _)| *sealed == at) {
        Some((_, sealed)) => sealed.merge(&slot),
        None => lane.sealed.push((at, slot)),
    }
}

/// The lane of this thread. Which one it is has no influence on any figure, as lanes are added up.
fn lane() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static LANE: Cell<usize> = const { Cell::new(usize::MAX) };
    }
    LANE.with(|lane| {
        if lane.get() == usize::MAX {
            lane.set(NEXT.fetch_add(1, Ordering::Relaxed) % LANES);
        }
        lane.get()
    })
}

/// Sums stay sums when a thread dies while it holds the lock.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(ending: Ending, ttft: Option<u64>, total: u64, tokens: Option<u64>) -> Sample {
        Sample {
            key: SeriesKey::new(Arc::from("p"), ArmId::new("p/m"), true, 100),
            ending,
            ttft: ttft.map(Duration::from_millis),
            total: Duration::from_millis(total),
            output_tokens: tokens,
        }
    }

    #[test]
    fn what_each_ending_tells() {
        let mut tally = Tally::default();
        tally.record(&sample(Ending::Succeeded, Some(100), 1_100, Some(11)));
        tally.record(&sample(Ending::LostHedge, None, 2_000, None));
        tally.record(&sample(Ending::ClientGone, Some(120), 500, None));
        tally.record(&sample(
            Ending::Failed(FailureKind::RateLimitExceeded),
            None,
            5,
            None,
        ));
        tally.record(&sample(Ending::Failed(FailureKind::Timeout), None, 3_000, None));
        assert_eq!((tally.attempts, tally.succeeded), (5, 1));
        assert_eq!((tally.ttft.observed.count(), tally.ttft.censored.count()), (2, 2));
        assert_eq!(
            (tally.total.observed.count(), tally.total.censored.count()),
            (1, 3)
        );
        // 1,000 ms over ten gaps.
        let (gap, count) = tally.inter_token.buckets()[0];
        assert!(count == 1 && (gap - 100.0).abs() < 1.0, "{gap}");
        assert_eq!(tally.failed[FailureKind::Timeout as usize], 1);
    }

    #[test]
    fn a_series_without_readers_stays_small() {
        let series = Series::default();
        for step in 0..2_000_i64 {
            series.record(
                UnixMs(step * 10_000),
                &sample(Ending::Succeeded, Some(100), 200, None),
            );
            for lane in &series.lanes {
                assert!(lock(lane).sealed.len() <= SEALED + 1);
            }
        }
        let now = UnixMs(1_999 * 10_000);
        // The last hour: eleven whole coarse slots of 30 and what the current one holds.
        let current = 1_999 % 30 + 1;
        assert_eq!(series.windows(now).all(now).attempts, 11 * 30 + current);
    }
}
