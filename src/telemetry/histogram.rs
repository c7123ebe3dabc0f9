//! Durations counted in buckets, as Prometheus takes them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Durations counted in buckets.
#[derive(Debug)]
pub struct Histogram<const N: usize> {
    bounds: &'static [u64; N],
    /// One for each bound; what is longer than the last is in `count` alone.
    buckets: [AtomicU64; N],
    count: AtomicU64,
    sum_us: AtomicU64,
}

/// A histogram at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buckets {
    /// Upper bound in microseconds, and how many were no longer: cumulative, as Prometheus counts.
    pub up_to: Vec<(u64, u64)>,
    /// All of them.
    pub count: u64,
    /// Their sum, in microseconds.
    pub sum_us: u64,
}

impl<const N: usize> Histogram<N> {
    pub(super) fn new(bounds: &'static [u64; N]) -> Self {
        Self {
            bounds,
            buckets: [const { AtomicU64::new(0) }; N],
            count: AtomicU64::new(0),
            sum_us: AtomicU64::new(0),
        }
    }

    pub(super) fn observe(&self, span: Duration) {
        let us = u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        if let Some(bucket) = self.bounds.iter().position(|&bound| us <= bound) {
            self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        }
        self.sum_us.fetch_add(us, Ordering::Relaxed);
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    /// What it holds now. Taken while others write, so that a bucket may be one ahead of another.
    #[must_use]
    pub fn read(&self) -> Buckets {
        // The count is read first: a bucket may then hold more, and is cut to it, never less.
        let count = self.count.load(Ordering::Relaxed);
        let mut sum = 0u64;
        let up_to = self
            .bounds
            .iter()
            .zip(&self.buckets)
            .map(|(&bound, bucket)| {
                sum += bucket.load(Ordering::Relaxed);
                (bound, sum.min(count))
            })
            .collect();
        Buckets {
            up_to,
            count,
            sum_us: self.sum_us.load(Ordering::Relaxed),
        }
    }
}
