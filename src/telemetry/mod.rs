//! Sliding windows of latency, errors, scores and health.
//!
//! Every attempt that ends is recorded once ([`Telemetry::record`]) into the windows of its series: one for each
//! provider, model, kind of answer (streamed or whole) and size of prompt. An observation is an attempt on one
//! provider, not a request: a hedged request gives two. Windows hold HDR histograms, so merging slots, threads
//! and replicas is addition.
//!
//! Three ways to read, none of which makes a writer wait for more than a pointer swap:
//! - [`Telemetry::view`]: distributions computed by the last [`Telemetry::publish`], without any lock. For the
//!   request's path.
//! - [`Telemetry::snapshot`]: everything, as JSON for people.
//! - [`Telemetry::quantile`]: one series, up to this moment.
//!
//! What is not known is not made up: see [`Curve::quantile`] for small samples and [`latencies`] for attempts that
//! were cut off.

pub mod circuit;
pub mod counters;
mod histogram;
pub mod latencies;
pub mod lognormal;
mod quality;
mod series;
mod sketch;
mod snapshot;
mod success_rate;
mod view;
pub mod windows;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use dashmap::DashMap;
use serde::{Deserialize, Serialize};

pub use self::counters::{Counted, Counters, PromptCacheUse};
pub use self::latencies::{Curve, Latencies, Observed, Quantile};
pub use self::lognormal::LogNormal;
pub use self::quality::{QualityKey, QualitySample, Scores};
pub use self::series::{Ending, InputSize, Sample, SeriesKey};
pub use self::sketch::Sketch;
pub use self::snapshot::{
    CancelledRow, InFlightRow, Percentiles, QualityRow, ScoreRow, SeriesRow, Snapshot, Stats, Status,
};
pub use self::view::{Latency, Question, View};

use self::series::{Series, Tally, lock};
use self::windows::Windows;
use crate::arm::ArmId;
use crate::units::UnixMs;

/// Series kept when nothing else is said. A busy one takes some 400 kB, a quiet one a few kilobytes.
pub const DEFAULT_SERIES: usize = 256;

/// Which of the three latencies of a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// Time to the first meaningful event.
    Ttft,
    /// Mean gap between two tokens of an answer.
    InterToken,
    /// Time to the whole answer.
    Total,
}

/// All windows. Shared by reference; every method takes `&self`.
#[derive(Debug)]
pub struct Telemetry {
    series: DashMap<SeriesKey, Arc<Series>>,
    overflow: Series,
    overflowed: AtomicU64,
    limit: usize,
    quality: DashMap<QualityKey, Mutex<Windows<Scores>>>,
    in_flight: DashMap<(Arc<str>, ArmId), Arc<AtomicU64>>,
    view: ArcSwap<View>,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self::new(DEFAULT_SERIES)
    }
}

impl Telemetry {
    /// Empty windows for at most `limit` latency series and as many of quality.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            series: DashMap::new(),
            overflow: Series::default(),
            overflowed: AtomicU64::new(0),
            limit,
            quality: DashMap::new(),
            in_flight: DashMap::new(),
            view: ArcSwap::default(),
        }
    }

    /// Counts an attempt that ended `now`.
    pub fn record(&self, now: UnixMs, sample: &Sample) {
        if let Some(series) = self.series.get(&sample.key) {
            series.record(now, sample);
            return;
        }
        if self.series.len() >= self.limit {
            self.overflowed.fetch_add(1, Ordering::Relaxed);
            self.overflow.record(now, sample);
            return;
        }
        let series = Arc::clone(&self.series.entry(sample.key.clone()).or_default());
        series.record(now, sample);
    }

    /// Counts a score that arrived `now`. Scores beyond the limit of series are left to the store alone.
    pub fn record_quality(&self, now: UnixMs, sample: &QualitySample) {
        if !self.quality.contains_key(&sample.key) && self.quality.len() >= self.limit {
            return;
        }
        let windows = self.quality.entry(sample.key.clone()).or_default();
        quality::record(&mut lock(&windows), now, sample);
    }

    /// Counts an attempt as running until the guard is dropped.
    #[must_use]
    pub fn in_flight(&self, provider: &Arc<str>, arm: &ArmId) -> InFlight {
        let key = (Arc::clone(provider), arm.clone());
        let gauge = match self.in_flight.get(&key) {
            Some(gauge) => Arc::clone(&gauge),
            None => Arc::clone(&self.in_flight.entry(key).or_default()),
        };
        gauge.fetch_add(1, Ordering::Relaxed);
        InFlight(gauge)
    }

    /// The `q`-quantile of one series over the last hour. See [`Curve::quantile`] for `None`.
    #[must_use]
    pub fn quantile(&self, now: UnixMs, key: &SeriesKey, metric: Metric, q: f64) -> Option<Quantile> {
        let series = Arc::clone(&*self.series.get(key)?);
        let all = series.windows(now).all(now);
        match metric {
            Metric::Ttft => all.ttft.curve(),
            Metric::InterToken => view::gaps(&all.inter_token),
            Metric::Total => all.total.curve(),
        }
        .quantile(q)
    }

    /// What the last [`publish`](Self::publish) computed; never blocks.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        self.view.load_full()
    }

    /// Computes the view anew and forgets series that nothing was recorded to for an hour. Call it every second or
    /// so: it takes some tens of microseconds a series.
    pub fn publish(&self, now: UnixMs) -> Arc<View> {
        self.forget(now);
        let view = Arc::new(view::compute(now, &self.spans(now)));
        self.view.store(Arc::clone(&view));
        view
    }

    /// Everything, for people.
    #[must_use]
    pub fn snapshot(&self, now: UnixMs) -> Snapshot {
        let series = self.spans(now);
        let mut in_flight: Vec<InFlightRow> = self
            .in_flight
            .iter()
            .map(|entry| InFlightRow {
                provider: Arc::clone(&entry.key().0),
                model: entry.key().1.clone(),
                count: entry.value().load(Ordering::Relaxed),
            })
            .filter(|row| row.count > 0)
            .collect();
        in_flight.sort_by(|a, b| (&a.provider, &a.model).cmp(&(&b.provider, &b.model)));
        let mut scores: Vec<(QualityKey, Scores, Scores)> = self
            .quality
            .iter()
            .map(|entry| {
                let windows = lock(entry.value());
                (entry.key().clone(), windows.recent(now), windows.all(now))
            })
            .collect();
        scores.sort_by(|a, b| a.0.cmp(&b.0));
        Snapshot {
            at_ms: now,
            series: series
                .into_iter()
                .map(|(key, spans)| snapshot::series_row(key, &spans))
                .collect(),
            in_flight,
            quality: scores
                .into_iter()
                .map(|(key, recent, all)| snapshot::quality_row(key, recent, all))
                .collect(),
            series_limit: self.limit,
            overflowed: self.overflowed.load(Ordering::Relaxed),
        }
    }

    /// All windows, to be kept across a restart.
    #[must_use]
    pub fn export(&self, now: UnixMs) -> State {
        let series = self
            .handles()
            .into_iter()
            .map(|(key, series)| (key, series.windows(now).clone()))
            .collect();
        let quality = self
            .quality
            .iter()
            .map(|entry| (entry.key().clone(), lock(entry.value()).clone()))
            .collect();
        State { series, quality }
    }

    /// Adds windows that were exported before a restart, or by another replica. What is too old is dropped.
    pub fn absorb(&self, now: UnixMs, state: State) {
        for (key, windows) in state.series {
            if self.series.contains_key(&key) || self.series.len() < self.limit {
                let series = Arc::clone(&self.series.entry(key).or_default());
                series.absorb(now, windows);
            } else {
                self.overflow.absorb(now, windows);
            }
        }
        for (key, windows) in state.quality {
            if self.quality.contains_key(&key) || self.quality.len() < self.limit {
                lock(&self.quality.entry(key).or_default()).absorb(now, windows);
            }
        }
        self.forget(now);
    }

    /// Bytes on the heap that the windows take, roughly.
    #[must_use]
    pub fn heap_bytes(&self, now: UnixMs) -> usize {
        let series = self.handles().into_iter().map(|(_, series)| {
            let windows = series.windows(now);
            let slots = windows
                .slots()
                .map(|slot| size_of::<(i64, Tally)>() + slot.heap_bytes());
            size_of::<Series>() + slots.sum::<usize>()
        });
        series.sum()
    }

    fn handles(&self) -> Vec<(SeriesKey, Arc<Series>)> {
        let mut handles: Vec<_> = self
            .series
            .iter()
            .map(|entry| (entry.key().clone(), Arc::clone(entry.value())))
            .collect();
        handles.sort_by(|a, b| a.0.cmp(&b.0));
        handles
    }

    fn spans(&self, now: UnixMs) -> Vec<(SeriesKey, view::Spans)> {
        let read = |series: &Series| {
            let windows = series.windows(now);
            (windows.recent(now), windows.all(now))
        };
        let mut spans: Vec<_> = self
            .handles()
            .into_iter()
            .map(|(key, series)| (key, read(&series)))
            .collect();
        if self.overflowed.load(Ordering::Relaxed) > 0 {
            spans.push((SeriesKey::overflow(), read(&self.overflow)));
        }
        spans
    }

    /// A series whose windows hold nothing is forgotten, unless somebody is about to record to it.
    fn forget(&self, now: UnixMs) {
        self.series
            .retain(|_, series| Arc::strong_count(series) > 1 || !series.windows(now).is_empty());
        self.quality.retain(|_, windows| {
            let mut windows = lock(windows);
            windows.advance(now);
            !windows.is_empty()
        });
        self.in_flight
            .retain(|_, gauge| gauge.load(Ordering::Relaxed) > 0 || Arc::strong_count(gauge) > 1);
    }
}

/// An attempt that is running.
#[derive(Debug)]
pub struct InFlight(Arc<AtomicU64>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// All windows in a form that can be stored and sent.
#[derive(Debug, Serialize, Deserialize)]
pub struct State {
    series: Vec<(SeriesKey, Windows<Tally>)>,
    quality: Vec<(QualityKey, Windows<Scores>)>,
}

#[cfg(test)]
mod tests;
