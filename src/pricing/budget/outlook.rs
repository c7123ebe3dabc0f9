//! How many requests are still to come in a period whose shape is not known yet: an account's first one.
//!
//! Every curve that a period's arrivals may follow gives its own answer, and they are averaged (in logarithms) by how
//! well the slots seen so far fit each. A curve's answer is a rate per unit of it, times what is left of it. The rate is
//! taken from the last slot's time and from the busy slots before: each slot counts by its requests, so that a lull after
//! the morning's rush is not taken for the evening.
//!
//! Money that is spent too early is gone and money that is kept can still be spent, so the answer leans to more requests
//! at the beginning and to fewer at the end, by as much as the slots seen so far strayed from the curve. That is how
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
/// Standard deviations by which the answer leans to more requests at the beginning, and to fewer at the end.
const LEAN: f64 = 0.8;
/// Least weight of the last slot's rate, and slots before the end in which it falls to half.
const LEAST_RECENT: f64 = 0.4;
const RECENT_SLOTS: f64 = 9.0;

/// Mean arrivals in each slot over those of the mean slot, and how far it is believed before anything is seen.
type Curve = (f64, Vec<f64>);

/// What has been seen of a period: requests in each slot, from this slot on, up to this fraction of the period.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen<'a> {
    pub(super) counts: &'a [f64],
    pub(super) first: usize,
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

/// The logarithm of how well the curve fits what is seen, and the requests to come by it.
fn by_curve(seen: &Seen<'_>, curve: &[f64]) -> (f64, f64) {
    let slots = curve.len();
    let place = seen.fraction.clamp(0.0, 1.0) * slots as f64;
    let now = (place as usize).min(slots - 1);
    let into = (place - now as f64).clamp(0.0, 1.0);
    let first = seen.first.min(now);
    let count = |slot: usize| seen.counts.get(slot).copied().unwrap_or(0.0);

    // How far one slot's step to the next strays from the curve's, beyond what is chance with so few requests.
    let mut squares = STRAY_SLOTS * STRAY * STRAY;
    for slot in first + 1..now {
        let (before, after) = (count(slot - 1) + 1.0, count(slot) + 1.0);
        let step = (after / before).ln() - (curve[slot] / curve[slot - 1]).ln();
        squares += (step * step - 1.0 / before - 1.0 / after).max(0.0);
    }
    let steps = STRAY_SLOTS + now.saturating_sub(first + 1) as f64;
    let stray = (squares / steps).sqrt().min(MOST_STRAY);
    // Gaussian steps of unknown variance.
    let evidence = -0.5 * steps * squares.ln();

    // A slot's worth of time is the least that a rate is taken over.
    let before = if now > first { now - 1 } else { now };
    let earlier = if now > first { count(before) } else { 0.0 };
    let recent = (count(now) + (1.0 - into) * earlier) / (into * curve[now] + (1.0 - into) * curve[before]);
    let past = (first..now).map(|slot| count(slot) * count(slot) / curve[slot]);
    let requests = (first..=now).map(count).sum::<f64>();
    if requests <= 0.0 {
        return (evidence, 0.0);
    }
    let busy = (past.sum::<f64>() + recent * count(now)) / requests;
    let horizon = slots as f64 - place;
    let weight = (1.0 / (1.0 + (horizon - 1.0).max(0.0) / RECENT_SLOTS)).max(LEAST_RECENT);
    let left = (1.0 - into) * curve[now] + curve[now + 1..].iter().sum::<f64>();
    let lean = LEAN * (2.0 * horizon / slots as f64 - 1.0);
    let to_come = (weight * recent + (1.0 - weight) * busy) * left * (stray * lean).exp();
    (evidence, to_come)
}
