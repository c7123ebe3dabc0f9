//! Pacing: what one request may cost now so that the period's money lasts exactly until its end.
//!
//! target = money left / requests still to come. The requests to come are forecast from the account's own past:
//! a profile of arrivals over the slots of a period, learned from the periods before and scaled to today's level;
//! in the first period, from the rate so far and the rate of the last slot. A burst then lowers the
//! target for everyone a little instead of leaving nothing for the hours after it. The first period cannot foresee its
//! bursts: an hour of it may get a seventh of the mean. Keeping money back for each slot to come was tried on six shapes
//! of a day and helped none.
//!
//! What requests really cost is compared with what they were to cost, and the next targets are corrected by it: a
//! router that cannot meet its target exactly would spend too fast at first and starve the end, or the reverse.

use serde::{Deserialize, Serialize};

/// Slots of a period: the finest that a month's days, a day's hours and an hour's five minutes need.
pub(super) const MAX_SLOTS: usize = 31;

/// Weight of the last period in the learned profile.
const PROFILE_GAIN: f64 = 0.4;
/// Requests that the learned level counts for against today's.
const LEVEL_PRIOR: f64 = 20.0;

/// Arrivals of one account.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Arrivals {
    /// Requests in each slot of this period.
    counts: Vec<f64>,
    /// Mean requests in each slot of the periods before; empty: there was none.
    profile: Vec<f64>,
}

impl Arrivals {
    /// Counts a request at this fraction of the period, in [0, 1).
    pub(super) fn count(&mut self, fraction: f64, slots: usize) {
        self.counts.resize(slots.min(MAX_SLOTS), 0.0);
        let slot = slot(fraction, self.counts.len());
        if let Some(count) = self.counts.get_mut(slot) {
            *count += 1.0;
        }
    }

    /// Requests so far.
    pub(super) fn seen(&self) -> f64 {
        self.counts.iter().sum()
    }

    /// Closes the period: its counts become part of the profile. A period without requests teaches nothing.
    pub(super) fn roll(&mut self) {
        let counts = std::mem::take(&mut self.counts);
        if counts.iter().all(|count| *count == 0.0) {
            return;
        }
        if self.profile.len() != counts.len() {
            self.profile = counts;
            return;
        }
        for (mean, count) in self.profile.iter_mut().zip(counts) {
            *mean += PROFILE_GAIN * (count - *mean);
        }
    }

    /// Requests still to come in this period, seen from this fraction of it.
    pub(super) fn to_come(&self, fraction: f64, slots: usize) -> f64 {
        let fraction = fraction.clamp(0.0, 1.0);
        if self.profile.len() == slots {
            self.by_profile(fraction)
        } else {
            self.by_rate(fraction, slots)
        }
    }

    fn by_profile(&self, fraction: f64) -> f64 {
        let slots = self.profile.len();
        let now = slot(fraction, slots);
        let into = (fraction * slots as f64 - now as f64).clamp(0.0, 1.0);
        let past: f64 = self.profile[..now].iter().sum::<f64>() + into * self.profile[now];
        let rest: f64 = self.profile.iter().sum::<f64>() - past;
        let level = (self.seen() + LEVEL_PRIOR) / (past + LEVEL_PRIOR);
        level * rest
    }

    /// Requests a slot, by those within the last slot's time.
    fn rate(&self, fraction: f64, slots: usize) -> f64 {
        let now = slot(fraction, slots);
        let into = (fraction * slots as f64 - now as f64).clamp(0.0, 1.0);
        let at = |slot: usize| self.counts.get(slot).copied().unwrap_or(0.0);
        let before = now.checked_sub(1).map_or(0.0, at);
        at(now) + (1.0 - into) * before
    }

    fn by_rate(&self, fraction: f64, slots: usize) -> f64 {
        let recent = self.rate(fraction, slots);
        let slots = slots as f64;
        // One slot's worth of time is the least that a rate is taken over.
        let mean = self.seen() / (fraction * slots).max(1.0);
        // The nearer the end, the more the last slot tells of what is left; a mean of busier hours before it
        // would keep money back that nobody comes for.
        let horizon = (1.0 - fraction) * slots;
        let weight = (1.0 / (1.0 + (horizon - 1.0).max(0.0) / 3.0)).max(0.5);
        (weight * recent + (1.0 - weight) * mean) * horizon
    }
}

/// Weight of one request in the running sums that compare what was spent with what was aimed at.
const AIM_GAIN: f64 = 0.01;
/// Requests' worth of perfect aim that the sums begin with.
const AIM_PRIOR: f64 = 20.0;
/// Bounds of the correction. Upwards it is small: a router that cannot or need not spend its target is no reason to
/// raise it, for when that changes it would spend far too fast.
const CORRECTION: (f64, f64) = (0.5, 1.2);

/// How what is spent compares with what was aimed at, over about the last hundred requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Aim {
    aimed: f64,
    spent: f64,
}

impl Aim {
    /// A request is to cost `target`.
    pub(super) fn take(&mut self, target: f64) {
        self.aimed += AIM_GAIN * (target - self.aimed);
        self.spent -= AIM_GAIN * self.spent;
    }

    /// A call has cost so much.
    pub(super) fn hit(&mut self, cost: f64) {
        self.spent += AIM_GAIN * cost;
    }

    /// `target`, corrected so that about as much will be spent.
    pub(super) fn correct(&self, target: f64) -> f64 {
        let prior = AIM_GAIN * AIM_PRIOR * target;
        let factor = (self.aimed + prior) / (self.spent + prior);
        let (least, most) = CORRECTION;
        target
            * if factor.is_finite() {
                factor.clamp(least, most)
            } else {
                1.0
            }
    }
}

fn slot(fraction: f64, slots: usize) -> usize {
    ((fraction * slots as f64) as usize).min(slots.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_rate_is_continued() {
        let mut arrivals = Arrivals::default();
        for i in 0..600 {
            arrivals.count(f64::from(i) / 1_200.0, 24);
        }
        let to_come = arrivals.to_come(0.5, 24);
        assert!((to_come - 600.0).abs() < 15.0, "{to_come}");
    }

    #[test]
    fn a_learned_profile_knows_the_evening_burst() {
        let mut arrivals = Arrivals::default();
        let day = |arrivals: &mut Arrivals, until: u32, scale: u32| {
            for hour in 0..until {
                let requests = if hour == 20 { 1_000 } else { 10 };
                for i in 0..requests * scale {
                    let within = f64::from(i) / f64::from(requests * scale);
                    arrivals.count((f64::from(hour) + within) / 24.0, 24);
                }
            }
        };
        day(&mut arrivals, 24, 1);
        arrivals.roll();
        day(&mut arrivals, 12, 2);
        // 12 hours seen at twice the level, 1 110 still to come at the level before: about twice that.
        let to_come = arrivals.to_come(0.5, 24);
        assert!((1_900.0..2_220.0).contains(&to_come), "{to_come}");
    }

    #[test]
    fn what_costs_more_than_it_should_is_aimed_lower() {
        let mut aim = Aim::default();
        assert_eq!(aim.correct(1.0), 1.0);
        let mut spent = 0.0;
        for _ in 0..1_000 {
            let target = aim.correct(1.0);
            aim.take(target);
            aim.hit(1.5 * target);
            spent += 1.5 * target;
        }
        assert!((0.95..1.1).contains(&(spent / 1_000.0)), "{spent}");
        // Nothing is spent at all: no reason to aim at more than a fifth above.
        (0..1_000).for_each(|_| aim.take(1.0));
        assert_eq!(aim.correct(1.0), 1.2);
    }

    #[test]
    fn nothing_seen_means_nothing_to_come() {
        assert_eq!(Arrivals::default().to_come(0.3, 24), 0.0);
        let mut arrivals = Arrivals::default();
        arrivals.roll();
        assert_eq!(arrivals, Arrivals::default());
    }
}
