//! A sliding hour in two rings: six slots of ten seconds and, for what is older, twelve of five minutes.
//!
//! Slots are aligned to the epoch, so a ten-second slot lies in exactly one five-minute slot and moves into it
//! by a merge when it is a minute old. Nothing is recorded twice and only slots that hold something exist.
//!
//! The wall clock may jump. Forwards, slots simply age. Backwards, slots that now lie in the future are merged
//! into the current one: what was counted stays counted.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::units::UnixMs;

/// Width of a fine slot, in milliseconds.
const FINE_MS: i64 = 10_000;
/// Fine slots kept, the current one included.
const FINE_SLOTS: i64 = 6;
/// Fine slots in one coarse slot.
const FINE_PER_COARSE: i64 = 30;
/// Coarse slots kept, the current one included.
const COARSE_SLOTS: i64 = 12;

/// How far back [`Windows::recent`] looks: between 50 and 60 s, as the current slot has only begun.
pub const RECENT: Duration = Duration::from_millis((FINE_MS * FINE_SLOTS) as u64);
/// How far back [`Windows::all`] looks: between 55 and 60 minutes.
pub const SPAN: Duration = Duration::from_millis((FINE_MS * FINE_PER_COARSE * COARSE_SLOTS) as u64);

/// What can stand in a slot. `merge` must be associative and commutative with `default()` as its neutral
/// element, so that slots, shards and replicas may be added in any order.
pub trait Merge: Default {
    /// Adds what `other` holds.
    fn merge(&mut self, other: &Self);
}

/// The number of the ten-second slot that holds `now`.
#[must_use]
pub fn epoch(now: UnixMs) -> i64 {
    now.0.div_euclid(FINE_MS)
}

/// The two rings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Windows<T> {
    fine: Vec<(i64, T)>,
    coarse: Vec<(i64, T)>,
}

impl<T> Default for Windows<T> {
    fn default() -> Self {
        Self {
            fine: Vec::new(),
            coarse: Vec::new(),
        }
    }
}

impl<T: Merge> Windows<T> {
    /// Brings the rings to `now`: old fine slots become coarse, coarse slots older than [`SPAN`] are dropped.
    pub fn advance(&mut self, now: UnixMs) {
        let current = epoch(now);
        if self.fine.iter().all(|(at, _)| in_fine(*at, current))
            && self.coarse.iter().all(|(at, _)| in_coarse(*at, current))
        {
            return;
        }
        let (stay, leave): (Vec<_>, Vec<_>) = std::mem::take(&mut self.fine)
            .into_iter()
            .partition(|(at, _)| in_fine(*at, current));
        self.fine = stay;
        let (stay, old): (Vec<_>, Vec<_>) = std::mem::take(&mut self.coarse)
            .into_iter()
            .partition(|(at, _)| in_coarse(*at, current));
        self.coarse = stay;
        for (at, slot) in leave {
            self.put(now, at, slot);
        }
        let this_coarse = current.div_euclid(FINE_PER_COARSE);
        for (at, slot) in old {
            if at > this_coarse {
                add(&mut self.coarse, this_coarse, slot);
            }
        }
    }

    /// The slot for what happens `now`.
    pub fn current(&mut self, now: UnixMs) -> &mut T {
        self.advance(now);
        let at = epoch(now);
        let index = self
            .fine
            .iter()
            .position(|(slot, _)| *slot == at)
            .unwrap_or_else(|| {
                self.fine.push((at, T::default()));
                self.fine.len() - 1
            });
        &mut self.fine[index].1
    }

    /// The slot, fine or coarse, that holds what happened at `then`, if it is still kept.
    pub fn holding(&mut self, now: UnixMs, then: UnixMs) -> Option<&mut T> {
        self.advance(now);
        let fine = epoch(then);
        let coarse = fine.div_euclid(FINE_PER_COARSE);
        let slot = self.fine.iter_mut().find(|(at, _)| *at == fine);
        let slot = slot.or_else(|| self.coarse.iter_mut().find(|(at, _)| *at == coarse));
        slot.map(|(_, value)| value)
    }

    /// Adds a slot that was filled elsewhere during the ten-second slot `at`. One from the future joins the
    /// current slot, one older than [`SPAN`] is dropped.
    pub fn put(&mut self, now: UnixMs, at: i64, slot: T) {
        let current = epoch(now);
        let at = at.min(current);
        if in_fine(at, current) {
            add(&mut self.fine, at, slot);
        } else if in_coarse(at.div_euclid(FINE_PER_COARSE), current) {
            add(&mut self.coarse, at.div_euclid(FINE_PER_COARSE), slot);
        }
    }

    /// Everything of the last minute ([`RECENT`]).
    #[must_use]
    pub fn recent(&self, now: UnixMs) -> T {
        let current = epoch(now);
        merged(
            self.fine
                .iter()
                .filter(|(at, _)| *at > current - FINE_SLOTS)
                .map(|(_, slot)| slot),
        )
    }

    /// Everything of the last hour ([`SPAN`]).
    #[must_use]
    pub fn all(&self, now: UnixMs) -> T {
        let oldest = epoch(now).div_euclid(FINE_PER_COARSE) - COARSE_SLOTS;
        let fine = self
            .fine
            .iter()
            .filter(|(at, _)| at.div_euclid(FINE_PER_COARSE) > oldest);
        let coarse = self.coarse.iter().filter(|(at, _)| *at > oldest);
        merged(fine.chain(coarse).map(|(_, slot)| slot))
    }

    /// Adds the slots of `other`, which was kept elsewhere (before a restart, in another replica).
    pub fn absorb(&mut self, now: UnixMs, other: Self) {
        self.advance(now);
        for (at, slot) in other.fine {
            self.put(now, at, slot);
        }
        let current = epoch(now).div_euclid(FINE_PER_COARSE);
        for (at, slot) in other.coarse {
            let at = at.min(current);
            if at > current - COARSE_SLOTS {
                add(&mut self.coarse, at, slot);
            }
        }
    }

    /// Whether no slot is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.fine.is_empty() && self.coarse.is_empty()
    }

    /// The slots kept, at most 18.
    pub fn slots(&self) -> impl Iterator<Item = &T> {
        self.fine.iter().chain(&self.coarse).map(|(_, slot)| slot)
    }
}

fn in_fine(at: i64, current: i64) -> bool {
    at <= current && at > current - FINE_SLOTS
}

fn in_coarse(at: i64, current: i64) -> bool {
    let current = current.div_euclid(FINE_PER_COARSE);
    at <= current && at > current - COARSE_SLOTS
}

fn add<T: Merge>(slots: &mut Vec<(i64, T)>, at: i64, value: T) {
    match slots.iter_mut().find(|(slot, _)| *slot == at) {
        Some((_, slot)) => slot.merge(&value),
        None => slots.push((at, value)),
    }
}

fn merged<'a, T: Merge + 'a>(slots: impl Iterator<Item = &'a T>) -> T {
    slots.fold(T::default(), |mut sum, slot| {
        sum.merge(slot);
        sum
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug, Default, PartialEq)]
    struct Count(u64);

    impl Merge for Count {
        fn merge(&mut self, other: &Self) {
            self.0 += other.0;
        }
    }

    const HOUR: i64 = 3_600_000;

    fn count(windows: &mut Windows<Count>, now: i64) {
        windows.current(UnixMs(now)).0 += 1;
    }

    #[test]
    fn a_minute_and_an_hour() {
        let mut windows = Windows::<Count>::default();
        let start = 1_000 * HOUR;
        count(&mut windows, start);
        count(&mut windows, start + 55_000);
        assert_eq!(windows.recent(UnixMs(start + 59_999)).0, 2);
        assert_eq!(windows.recent(UnixMs(start + 60_000)).0, 1);
        windows.advance(UnixMs(start + 200_000));
        assert_eq!(windows.recent(UnixMs(start + 200_000)).0, 0);
        assert_eq!(windows.all(UnixMs(start + 200_000)).0, 2);
        assert_eq!(windows.slots().count(), 1);
        assert_eq!(windows.all(UnixMs(start + HOUR - 1)).0, 2);
        assert_eq!(windows.all(UnixMs(start + HOUR)).0, 0);
        windows.advance(UnixMs(start + HOUR));
        assert!(windows.is_empty());
    }

    #[test]
    fn a_clock_set_back_loses_nothing() {
        let mut windows = Windows::<Count>::default();
        let start = 1_000 * HOUR;
        for step in 0..30 {
            count(&mut windows, start + step * 60_000);
        }
        count(&mut windows, start - 100 * HOUR);
        assert_eq!(windows.all(UnixMs(start - 100 * HOUR)).0, 31);
    }

    proptest! {
        /// Against the plain definition: an event counts while its coarse slot is one of the last twelve.
        #[test]
        fn keeps_what_is_recent_and_drops_what_is_old(steps in prop::collection::vec(0_i64..400_000, 1..200)) {
            let mut windows = Windows::<Count>::default();
            let mut events = Vec::new();
            let mut now = 77 * HOUR;
            for step in steps {
                now += step;
                count(&mut windows, now);
                events.push(now);
                let minute = events.iter().filter(|at| epoch(UnixMs(**at)) > epoch(UnixMs(now)) - 6).count();
                let hour = events.iter().filter(|at| *at / 300_000 > now / 300_000 - 12).count();
                prop_assert_eq!(windows.recent(UnixMs(now)).0, minute as u64);
                prop_assert_eq!(windows.all(UnixMs(now)).0, hour as u64);
                prop_assert!(windows.slots().count() <= 18);
            }
        }

        /// Any jumps: memory stays bounded, counts never exceed what was recorded, and within an hour of the
        /// last jump backwards nothing recorded since is missing.
        #[test]
        fn survives_clock_jumps(steps in prop::collection::vec(-8_000_000_i64..8_000_000, 1..100)) {
            let mut windows = Windows::<Count>::default();
            let mut now = 1_000 * HOUR;
            for (done, step) in steps.iter().enumerate() {
                let before = windows.all(UnixMs(now)).0;
                now += step;
                count(&mut windows, now);
                let after = windows.all(UnixMs(now)).0;
                prop_assert!(after >= 1 && after <= done as u64 + 1);
                if *step <= 0 {
                    prop_assert_eq!(after, before + 1);
                }
                prop_assert!(windows.slots().count() <= 18);
            }
        }

        /// Slots sealed in shards and put in later give the same windows as recording directly.
        #[test]
        fn late_slots_find_their_place(ages in prop::collection::vec(0_i64..3_000_000, 1..60)) {
            let now = UnixMs(500 * HOUR + 1_234_567);
            let mut events: Vec<i64> = ages.iter().map(|age| now.0 - age).collect();
            let mut late = Windows::<Count>::default();
            for at in &events {
                late.put(now, epoch(UnixMs(*at)), Count(1));
            }
            events.sort_unstable();
            let mut direct = Windows::<Count>::default();
            for at in &events {
                count(&mut direct, *at);
            }
            direct.advance(now);
            prop_assert_eq!(late.recent(now), direct.recent(now));
            prop_assert_eq!(late.all(now), direct.all(now));
        }
    }
}
