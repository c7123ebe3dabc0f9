//! The arrivals of one account: what it has seen of this period, and how many requests are still to come.
//!
//! A profile of arrivals over the slots of a period is learned from the periods before and scaled to today's level. In
//! the first period there is none: see [`outlook`]. What an account could not see of its first period, because it began
//! in the middle, is filled in as the rest of it suggests, and is replaced when it is seen.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use super::outlook::{self, Seen};

/// Slots of a period: the finest that a month's days, a day's hours and an hour's five minutes need.
const MAX_SLOTS: usize = 31;
/// Weight of the last period in the learned profile.
const PROFILE_GAIN: f64 = 0.4;
/// Requests that the learned level counts for against today's.
const LEVEL_PRIOR: f64 = 20.0;

/// Arrivals of one account.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Arrivals {
    /// Requests in each slot of this period.
    counts: Vec<f64>,
    /// The slot in which this period's first request came.
    #[serde(default)]
    first: usize,
    /// How much of that slot was over then, in [0, 1).
    #[serde(default)]
    begun: f64,
    /// Mean requests in each slot of the periods before; empty: there was none.
    profile: Vec<f64>,
    /// Slots at the beginning of the profile that were filled in.
    #[serde(default)]
    unseen: usize,
    /// What other accounts of the budget had learned when this one began: shares of the slots. Empty: nothing.
    #[serde(default)]
    peers: Vec<f64>,
}

impl Arrivals {
    /// Those of a new account beside others of the same budget.
    pub(super) fn beside(peers: Vec<f64>) -> Self {
        Self {
            peers,
            ..Self::default()
        }
    }

    /// Counts a request at this fraction of the period, in [0, 1).
    pub(super) fn count(&mut self, fraction: f64, slots: usize) {
        let slots = slots.min(MAX_SLOTS);
        let slot = slot(fraction, slots);
        if self.seen() <= 0.0 {
            self.first = slot;
            self.begun = into(fraction, slots);
        }
        self.counts.resize(slots, 0.0);
        if let Some(count) = self.counts.get_mut(slot) {
            *count += 1.0;
        }
    }

    /// Requests so far.
    pub(super) fn seen(&self) -> f64 {
        self.counts.iter().sum()
    }

    /// Whether what is to come is more than a guess from a few requests.
    pub(super) fn is_settled(&self) -> bool {
        !self.profile.is_empty() || self.seen() >= 3.0 * outlook::BURST
    }

    /// Closes the period: its counts become part of the profile. A period without requests teaches nothing.
    pub(super) fn roll(&mut self) {
        let mut counts = std::mem::take(&mut self.counts);
        if counts.iter().all(|count| *count == 0.0) {
            return;
        }
        if self.profile.len() != counts.len() {
            // Nobody was there, or nobody asked: that is not told apart.
            self.unseen = self.first;
            let expected = outlook::expected(counts.len(), &self.peers);
            let missed = |slot: usize| match slot.cmp(&self.first) {
                Ordering::Less => 1.0,
                Ordering::Equal => self.begun,
                Ordering::Greater => 0.0,
            };
            let shown = |(slot, share): (usize, &f64)| (1.0 - missed(slot)) * share;
            let level = counts.iter().sum::<f64>() / expected.iter().enumerate().map(shown).sum::<f64>();
            for (slot, (count, share)) in counts.iter_mut().zip(&expected).enumerate() {
                *count += missed(slot) * level * share;
            }
            self.profile = counts;
            self.peers = Vec::new();
            return;
        }
        for (slot, (mean, count)) in self.profile.iter_mut().zip(counts).enumerate() {
            let gain = if slot < self.unseen { 1.0 } else { PROFILE_GAIN };
            *mean += gain * (count - *mean);
        }
        self.unseen = 0;
    }

    /// The learned profile, once a whole period is in it.
    pub(super) fn profile(&self) -> Option<&[f64]> {
        (self.unseen == 0 && !self.profile.is_empty()).then_some(&self.profile)
    }

    /// Requests still to come in this period, seen from this fraction of it.
    pub(super) fn to_come(&self, fraction: f64, slots: usize) -> f64 {
        let fraction = fraction.clamp(0.0, 1.0);
        if self.profile.len() == slots {
            return self.by_profile(fraction);
        }
        if self.seen() <= 0.0 {
            return 0.0;
        }
        let seen = Seen {
            counts: &self.counts,
            since: self.first as f64 + self.begun,
            fraction,
        };
        outlook::to_come(&seen, slots, &self.peers)
    }

    fn by_profile(&self, fraction: f64) -> f64 {
        let slots = self.profile.len();
        let now = slot(fraction, slots);
        let into = into(fraction, slots);
        let sum = |slots: &[f64]| slots.iter().sum::<f64>();
        let rest = (1.0 - into) * self.profile[now] + sum(&self.profile[now + 1..]);
        // Today's level goes by the slots that the profile has seen.
        let known = self.unseen.min(now);
        let under_way = if now < self.unseen {
            0.0
        } else {
            into * self.profile[now]
        };
        let past = sum(&self.profile[known..now]) + under_way;
        let seen = if now < self.unseen {
            0.0
        } else {
            sum(self.counts.get(known..).unwrap_or_default())
        };
        (seen + LEVEL_PRIOR) / (past + LEVEL_PRIOR) * rest
    }
}

fn slot(fraction: f64, slots: usize) -> usize {
    ((fraction * slots as f64) as usize).min(slots.saturating_sub(1))
}

/// How much of its slot is over.
fn into(fraction: f64, slots: usize) -> f64 {
    (fraction * slots as f64 - slot(fraction, slots) as f64).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts this many requests in each hour of a day, from one hour on and before another.
    fn hours(arrivals: &mut Arrivals, span: std::ops::Range<u32>, requests: impl Fn(u32) -> u32) {
        for hour in span {
            for i in 0..requests(hour) {
                let within = f64::from(i) / f64::from(requests(hour));
                arrivals.count((f64::from(hour) + within) / 24.0, 24);
            }
        }
    }

    #[test]
    fn a_steady_rate_is_continued() {
        let mut arrivals = Arrivals::default();
        for i in 0..600 {
            arrivals.count(f64::from(i) / 1_200.0, 24);
        }
        let to_come = arrivals.to_come(0.5, 24);
        assert!((to_come - 600.0).abs() < 60.0, "{to_come}");
    }

    #[test]
    fn a_quiet_night_is_not_taken_for_the_day_nor_a_lull_for_the_evening() {
        let mut arrivals = Arrivals::default();
        hours(&mut arrivals, 0..6, |_| 4);
        let to_come = arrivals.to_come(0.25, 24);
        assert!(to_come > 1.3 * 4.0 * 18.0, "{to_come}");
        hours(&mut arrivals, 6..12, |_| 200);
        hours(&mut arrivals, 12..14, |_| 50);
        let to_come = arrivals.to_come(14.0 / 24.0, 24);
        assert!((1_000.0..2_400.0).contains(&to_come), "{to_come}");
        // An hour has no night.
        let mut short = Arrivals::default();
        (0..40).for_each(|i| short.count(f64::from(i) / 160.0, 12));
        let to_come = short.to_come(0.25, 12);
        assert!((110.0..180.0).contains(&to_come), "{to_come}");
    }

    #[test]
    fn a_learned_profile_knows_the_evening_burst() {
        let storm = |scale: u32| move |hour| scale * if hour == 20 { 1_000 } else { 10 };
        let mut arrivals = Arrivals::default();
        hours(&mut arrivals, 0..24, storm(1));
        arrivals.roll();
        hours(&mut arrivals, 0..12, storm(2));
        // 12 hours seen at twice the level, 1 110 still to come at the level before: about twice that.
        let to_come = arrivals.to_come(0.5, 24);
        assert!((1_900.0..2_220.0).contains(&to_come), "{to_come}");
    }

    /// An account that began at noon knows nothing of the morning, and does not take it for empty.
    #[test]
    fn a_day_that_began_at_noon_is_filled_in_until_it_is_seen() {
        let mut arrivals = Arrivals::default();
        hours(&mut arrivals, 12..24, |_| 100);
        arrivals.roll();
        assert_eq!(arrivals.profile(), None);
        hours(&mut arrivals, 0..8, |_| 100);
        let to_come = arrivals.to_come(8.0 / 24.0, 24);
        assert!((1_400.0..1_800.0).contains(&to_come), "{to_come}");
        hours(&mut arrivals, 8..24, |_| 100);
        arrivals.roll();
        assert_eq!(arrivals.profile(), Some(&[100.0; 24][..]));
    }

    /// Half past twelve, and 50 requests until one: an hour of 100, of which half was not seen.
    #[test]
    fn the_hour_in_which_it_began_is_filled_in_too() {
        let mut arrivals = Arrivals::default();
        (0..50).for_each(|i| arrivals.count((12.5 + f64::from(i) / 100.0) / 24.0, 24));
        hours(&mut arrivals, 13..24, |_| 100);
        arrivals.roll();
        assert_eq!(arrivals.profile[13], 100.0);
        // Expected of the hour after noon are .3 * 1.30 + .7, a little less than of those after it.
        assert!((94.0..100.0).contains(&arrivals.profile[12]), "{arrivals:?}");
    }

    /// An hour's budget whose first request comes after 12 minutes, then 60 a second for 40 s: 2,400 in .1333 slots are
    /// 18,000 in one, 9.467 slots are to come, and .8 * .4 * (9.467 - .133) / 12 is leant to more.
    #[test]
    fn a_rate_is_taken_over_the_time_since_the_first_request() {
        let mut arrivals = Arrivals::default();
        let place = |seconds: f64| (720.0 + seconds) / 3_600.0;
        (0..2_400).for_each(|i| arrivals.count(place(f64::from(i) / 60.0), 12));
        let to_come = arrivals.to_come(place(40.0), 12);
        let expected = 18_000.0 * 9.4667 * 0.248_89_f64.exp();
        assert!((to_come / expected - 1.0).abs() < 1e-3, "{to_come} {expected}");
        // Into the next slot, for 200 s: 12,000 in .6667 slots.
        (2_400..12_000).for_each(|i| arrivals.count(place(f64::from(i) / 60.0), 12));
        let to_come = arrivals.to_come(place(200.0), 12);
        let expected = 18_000.0 * 8.9333 * (0.8 * 0.4 * 8.2667 / 12.0_f64).exp();
        assert!((to_come / expected - 1.0).abs() < 1e-3, "{to_come} {expected}");
        // Two requests at once are no rate: 1 - e^(-2/8) of the way, in logarithms, from a slot to a millionth of it.
        let mut pair = Arrivals::default();
        (0..2).for_each(|_| pair.count(0.0, 12));
        let expected = 2.0 * 1e6_f64.powf(1.0 - (-0.25_f64).exp()) * 12.0 * (0.8 * 0.4_f64).exp();
        assert!((pair.to_come(0.0, 12) / expected - 1.0).abs() < 1e-9);
    }

    /// The others ask once an hour, and 76 times after eight in the evening.
    #[test]
    fn the_first_day_goes_by_what_others_have_learned() {
        let evening = |hour| if hour == 20 { 76 } else { 1 };
        let day = (0..24).map(|hour| f64::from(evening(hour))).collect();
        let (mut alone, mut beside) = (Arrivals::default(), Arrivals::beside(day));
        let to_come = |arrivals: &mut Arrivals, span: std::ops::Range<u32>| {
            let until = f64::from(span.end) / 24.0;
            hours(arrivals, span, evening);
            arrivals.to_come(until, 24)
        };
        let (morning, told) = (to_come(&mut alone, 0..10), to_come(&mut beside, 0..10));
        assert!(
            morning < 30.0 && (45.0..120.0).contains(&told),
            "{morning} {told}"
        );
        let (night, told) = (to_come(&mut alone, 10..21), to_come(&mut beside, 10..21));
        assert!(night > 40.0 && told < 10.0, "{night} {told}");
    }

    #[test]
    fn nothing_seen_means_nothing_to_come() {
        assert_eq!(Arrivals::default().to_come(0.3, 24), 0.0);
        let mut arrivals = Arrivals::default();
        arrivals.roll();
        assert_eq!(arrivals, Arrivals::default());
    }
}
