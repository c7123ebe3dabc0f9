//! How many of the latest calls succeeded.

use std::time::{Duration, Instant};

/// Slices of the window.
const SLICES: usize = 6;

/// Successes and failures of the last window, in slices that are dropped as they age.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Window {
    slices: [(u32, u32); SLICES],
    /// Start of the newest slice; it is the first of the array.
    newest: Option<Instant>,
}

impl Window {
    pub(super) fn add(&mut self, now: Instant, length: Duration, success: bool) {
        self.turn(now, length);
        let (good, bad) = &mut self.slices[0];
        *(if success { good } else { bad }) += 1;
    }

    pub(super) fn at(mut self, now: Instant, length: Duration) -> Self {
        self.turn(now, length);
        self
    }

    fn turn(&mut self, now: Instant, length: Duration) {
        let slice = length / SLICES as u32;
        let Some(newest) = self.newest else {
            self.newest = Some(now);
            return;
        };
        let gone = now.saturating_duration_since(newest).as_nanos() / slice.as_nanos().max(1);
        let turns = usize::try_from(gone).map_or(SLICES, |gone| gone.min(SLICES));
        if turns == 0 {
            return;
        }
        self.slices.rotate_right(turns);
        self.slices[..turns].fill((0, 0));
        self.newest = Some(if turns == SLICES {
            now
        } else {
            newest + slice * turns as u32
        });
    }

    pub(super) fn rate(&self) -> Option<(f64, u32)> {
        let (good, bad) = self
            .slices
            .iter()
            .fold((0, 0), |(good, bad), slice| (good + slice.0, bad + slice.1));
        let requests: u32 = good + bad;
        (requests > 0).then(|| (f64::from(good) / f64::from(requests), requests))
    }
}
