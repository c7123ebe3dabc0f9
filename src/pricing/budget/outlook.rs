//! How many requests are still to come in a period whose shape is not known yet: an account's first one.
//!
//! Every curve that a period's arrivals may follow gives its own answer, and they are averaged (in logarithms) by how
//! well the slots seen so far fit each. A curve's answer is a rate per unit of it, times what is left of it. The rate is
//! taken from the last slot's time and from the busy slots before: each slot counts by its requests, so that a lull after
//! the morning's rush is not taken for the evening. An account that began less than a slot ago goes by the time since its
//! first request.
//!
//! Money that is spent too early is gone and money that is kept can still be spent, so the answer leans to more requests
//! while more is to come than was seen, and then to fewer, by as much as the slots seen so far strayed from the curve. That is how
//! budgets are paced against a forecast that may be wrong: Agarwal et al., *Budget pacing for targeted online
//! advertisements at LinkedIn* (KDD 2014), spend along a forecast; Balseiro et al., *Robust budget pacing with a single
//! sample* (ICML 2023), do with a single day of it.

/// Arrivals in the hours of a day over those of its mean hour, where people ask: a quiet night, a busy day and evening.
/// By judgement; less pronounced than most, for it is scaled by what is seen.
const PEOPLES_DAY: [f64; 24] = [
    0.45, 0.28, 0.23, 0.19, 0.20, 0.28, 0.51, 0.85, 1.13, 1.30, 1.36, 1.36, 1.30, 1.36, 1.42, 1.42, 1.36,
    1.36, 1.42, 1.55, 1.60, 1.38, 1.02, 0.67,
];
/// Weights of the curves before anything is seen: the even one, people's day, and what other accounts of the same budget
/// have learned, where there are some.
const EVEN: f64 = 0.7;
const PEOPLE: f64 = 0.3;
const PEERS: f64 = 2.0;
/// Least of a learned curve in a slot, over its mean: nobody came there so far.
const LEAST: f64 = 0.05;

/// Standard deviation of the logarithm of a slot's arrivals around the curve, and the slots' worth of that belief.
const STRAY: f64 = 0.4;
const STRAY_SLOTS: f64 = 3.0;
/// Most that is believed of it.
const MOST_STRAY: f64 = 1.5;
/// Standard deviations by which the answer leans to more requests with a whole period to come, and to fewer with a whole
/// one seen.
const LEAN: f64 = 0.8;
/// Least weight of the last slot's rate, and slots before the end in which it falls to half.
const LEAST_RECENT: f64 = 0.4;
const RECENT_SLOTS: f64 = 9.0;
/// Requests that may come at once without being the rate.
pub(super) const BURST: f64 = 8.0;
/// Least time that requests are taken to have come in, in slots.
const LEAST_TIME: f64 = 1e-6;

/// Mean arrivals in each slot over those of the mean slot, and how far it is believed before anything is seen.
type Curve = (f64, Vec<f64>);

/// What has been seen of a period: requests in each slot, from the first one's moment (in slots) on, up to this fraction
/// of the period.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen<'a> {
    pub(super) counts: &'a [f64],
    pub(super) since: f64,
    pub(super) fraction: f64,
}

/// Requests to come in a period of `slots`; `peers` is the learned curve of other accounts, if there is one.
pub(super) fn to_come(seen: &Seen<'_>, slots: usize, peers: &[f64]) -> f64 {
    let answers: Vec<(f64, f64)> = curves(slots, peers)
        .iter()
        .map(|(weight, curve)| {
            let (evidence, requests) = by_curve(seen, curve);
            (weight.ln() + evidence, requests.max(1e-9).ln())
        })
        .collect();
    let best = answers
        .iter()
        .map(|(evidence, _)| *evidence)
        .fold(f64::NEG_INFINITY, f64::max);
    let (sum, weights) = answers
        .iter()
        .fold((0.0, 0.0), |(sum, weights), (evidence, answer)| {
            let weight = (evidence - best).exp();
            (sum + weight * answer, weights + weight)
        });
    (sum / weights).exp()
}

/// What a slot is expected to get over the mean slot, before anything is seen.
pub(super) fn expected(slots: usize, peers: &[f64]) -> Vec<f64> {
    let curves = curves(slots, peers);
    let weights: f64 = curves.iter().map(|(weight, _)| weight).sum();
    let mean = |slot: usize| {
        curves
            .iter()
            .map(|(weight, curve)| weight * curve[slot])
            .sum::<f64>()
            / weights
    };
    (0..slots).map(mean).collect()
}

fn curves(slots: usize, peers: &[f64]) -> Vec<Curve> {
    let mut curves = vec![(EVEN, vec![1.0; slots])];
    if slots == PEOPLES_DAY.len() {
        curves.push((PEOPLE, PEOPLES_DAY.to_vec()));
    }
    if peers.len() == slots {
        let mean = peers.iter().sum::<f64>() / slots as f64;
        curves.push((
            PEERS,
            peers.iter().map(|share| (share / mean).max(LEAST)).collect(),
        ));
    }
    curves
}

/// What a curve is held against.
struct View<'a> {
    seen: &'a Seen<'a>,
    curve: &'a [f64],
    /// The slot that is under way, and how much of it is over.
    now: usize,
    into: f64,
    /// The slot of the first request, and how much of it was over by then.
    first: usize,
    missed: f64,
}

/// The logarithm of how well the curve fits what is seen, and the requests to come by it.
fn by_curve(seen: &Seen<'_>, curve: &[f64]) -> (f64, f64) {
    let slots = curve.len() as f64;
    let place = seen.fraction.clamp(0.0, 1.0) * slots;
    let since = seen.since.clamp(0.0, place);
    let split = |place: f64| {
        let slot = (place as usize).min(curve.len() - 1);
        (slot, place - slot as f64)
    };
    let ((now, into), (first, missed)) = (split(place), split(since));
    let view = View {
        seen,
        curve,
        now,
        into,
        first,
        missed,
    };
    let (evidence, stray) = view.fit();
    let left = (1.0 - into) * curve[now] + curve[now + 1..].iter().sum::<f64>();
    let (time, horizon) = (place - since, slots - place);
    let lean = LEAN * (horizon - time) / slots;
    (evidence, view.rate(time, horizon) * left * (stray * lean).exp())
}

impl View<'_> {
    fn count(&self, slot: usize) -> f64 {
        self.seen.counts.get(slot).copied().unwrap_or(0.0)
    }

    /// The curve in a slot that is over, as far as it was seen.
    fn shown(&self, slot: usize) -> f64 {
        let missed = if slot == self.first { self.missed } else { 0.0 };
        (1.0 - missed) * self.curve[slot]
    }

    /// The first slot of which enough was seen to go by it alone.
    fn whole(&self) -> usize {
        self.first + usize::from(self.missed > 0.5)
    }

    /// How well the curve fits, and how far one slot's step to the next strays from the curve's, beyond what is chance with
    /// so few requests.
    fn fit(&self) -> (f64, f64) {
        let begin = self.whole() + 1;
        let mut squares = STRAY_SLOTS * STRAY * STRAY;
        for slot in begin..self.now {
            let (before, after) = (self.count(slot - 1) + 1.0, self.count(slot) + 1.0);
            let step = (after / before).ln() - (self.shown(slot) / self.shown(slot - 1)).ln();
            squares += (step * step - 1.0 / before - 1.0 / after).max(0.0);
        }
        let steps = STRAY_SLOTS + self.now.saturating_sub(begin) as f64;
        // Gaussian steps of unknown variance.
        let evidence = -0.5 * steps * squares.ln();
        (evidence, (squares / steps).sqrt().min(MOST_STRAY))
    }

    /// Requests per unit of the curve, seen for so many slots, with so many to come.
    fn rate(&self, time: f64, horizon: f64) -> f64 {
        let (now, into) = (self.now, self.into);
        let under_way = into * self.curve[now];
        if time < 1.0 {
            let requests: f64 = (self.first..=now).map(|slot| self.count(slot)).sum();
            let mean = if now == self.first {
                self.curve[now]
            } else {
                (self.shown(self.first) + under_way) / time
            };
            return requests / (mean * counted(time, requests));
        }
        // The last slot's time.
        let before = (1.0 - into) * self.curve[now - 1];
        let earlier = before * self.count(now - 1) / self.shown(now - 1);
        let recent = (self.count(now) + earlier) / (under_way + before);
        // The busy slots of all that were seen.
        let slots = (self.whole()..now).map(|slot| (self.count(slot), self.count(slot) / self.shown(slot)));
        let (sum, weights) = slots
            .chain([(self.count(now), recent)])
            .fold((0.0, 0.0), |(sum, weights), (count, rate)| {
                (sum + count * rate, weights + count)
            });
        let busy = if weights > 0.0 { sum / weights } else { recent };
        let weight = (1.0 / (1.0 + (horizon - 1.0).max(0.0) / RECENT_SLOTS)).max(LEAST_RECENT);
        weight * recent + (1.0 - weight) * busy
    }
}

/// The time, in slots, that the requests of less than a slot are taken to have come in. A few that come at once may be all
/// for a while, as a conversation's are, so the first one is taken for a slot's; the more there are, the more it is the
/// time that they did come in.
fn counted(time: f64, requests: f64) -> f64 {
    let trust = 1.0 - (-requests / BURST).exp();
    time.max(LEAST_TIME).powf(trust)
}
