//! What an experiment has seen: sums that can be added to, revised, saved and read.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use super::UNIT_RANGE;
use super::reading::Checks;
use crate::evaluation::allocation::{neyman, track_and_stop};
use crate::evaluation::health::{Propensities, Rates, equal_unit_rates, multiple_exposure, propensity_ratio};
use crate::evaluation::moments::{MIN_UNITS, Moments, UnitTotals};
use crate::evaluation::spread::LogCounts;

/// Slices kept at most; later ones are not opened.
const MAX_SLICES: usize = 64;
/// Gaps of means below this count as this when traffic is split among more than two arms.
const MIN_GAP: f64 = 0.005;

/// What one request of an arm came to, once its attempts are over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Exposure {
    /// The arm's own answer was served. False if it failed, or a fallback or hedge took its place.
    pub clean: bool,
    /// Nothing can be said of the arm: a hedge began before it, the client went away, or the request itself was at
    /// fault. Neither an answer nor an error.
    #[serde(default)]
    pub censored: bool,
    /// The arm refused to answer.
    pub refused: bool,
    /// Dollars paid for the arm's own attempts.
    pub cost_usd: Option<f64>,
    /// Time to its first token.
    pub ttft_ms: Option<f64>,
    /// Time to its last token.
    pub total_ms: Option<f64>,
}

/// Sums of one arm.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ArmSums {
    /// Requests over.
    pub exposures: u64,
    /// Requests that it served itself.
    pub clean: u64,
    /// Scored answers of its own.
    pub scored: u64,
    /// Scores.
    pub quality: Moments,
    /// Dollars.
    pub cost: Moments,
    /// 1 for each failed request.
    pub errors: Moments,
    /// 1 for each slow first token.
    pub slow: Moments,
    /// 1 for each refusal.
    pub refusals: Moments,
    /// Chosen against logged propensities.
    pub propensities: Propensities,
    /// First tokens.
    pub ttft: LogCounts,
    /// Whole answers.
    pub total: LogCounts,
    /// Of the answers, those to units that may come again. State saved before they were told apart has none, and
    /// its answers count one by one.
    #[serde(default)]
    returning: Returning,
}

/// How often the units that may come again score their answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Returning {
    answers: u64,
    scored: u64,
    rates: Rates,
}

impl ArmSums {
    /// How often its answers are scored: each unit's own share once, and every answer to whom is no unit of several.
    fn rates(&self) -> Rates {
        let mut rates = self.returning.rates;
        rates += Rates::singles(
            self.scored.saturating_sub(self.returning.scored),
            self.clean.saturating_sub(self.returning.answers),
        );
        rates
    }
}

/// A unit that may come again.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Unit {
    arm: usize,
    probability: f64,
    scores: UnitTotals,
    several: bool,
    /// Answers of its arm.
    #[serde(default)]
    answers: u64,
    /// Those that were scored.
    #[serde(default)]
    scored: u64,
}

/// The identity of a sample: which unit, in which arm, chosen how, known beforehand.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample<'a> {
    /// Index of the arm.
    pub arm: usize,
    /// Probability of that arm, in (0, 1].
    pub probability: f64,
    /// Hash of a unit that may come again; `None` if each sample is a unit of its own.
    pub unit: Option<u64>,
    /// Quality expected before the assignment, for CUPED; 0 if there is none.
    pub covariate: f64,
    /// `dimension=value` slices it belongs to.
    #[serde(borrow)]
    pub slices: Vec<&'a str>,
}

/// The sums of an experiment: everything needed to go on after a restart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AbSums {
    /// By arm, the control first.
    pub arms: Vec<ArmSums>,
    slices: BTreeMap<String, Vec<SliceSums>>,
    units: HashMap<u64, Unit>,
    several: u64,
}

/// Sums of one arm in one slice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SliceSums {
    /// Requests that the arm served itself.
    pub clean: u64,
    /// Scores.
    pub quality: Moments,
}

impl AbSums {
    /// No samples of `arms` arms.
    #[must_use]
    pub fn new(arms: usize) -> Self {
        Self {
            arms: vec![ArmSums::default(); arms],
            slices: BTreeMap::new(),
            units: HashMap::new(),
            several: 0,
        }
    }

    /// An assignment: `shares` are the probabilities of every arm at the time. A unit that comes again was drawn once,
    /// so it counts once: its requests all go the same way, and would make a fair split look broken.
    pub fn assign(&mut self, sample: &Sample<'_>, shares: &[f64]) {
        let Some(hash) = sample.unit else {
            self.drawn(sample.arm, shares);
            return;
        };
        match self.units.entry(hash) {
            Entry::Vacant(vacant) => {
                vacant.insert(Unit {
                    arm: sample.arm,
                    probability: sample.probability,
                    scores: UnitTotals::default(),
                    several: false,
                    answers: 0,
                    scored: 0,
                });
                self.drawn(sample.arm, shares);
            }
            Entry::Occupied(occupied) => {
                let unit = occupied.into_mut();
                if unit.arm != sample.arm && !unit.several {
                    unit.several = true;
                    self.several += 1;
                }
            }
        }
    }

    fn drawn(&mut self, drawn: usize, shares: &[f64]) {
        for (index, (arm, share)) in self.arms.iter_mut().zip(shares).enumerate() {
            arm.propensities.record(index == drawn, *share);
        }
    }

    /// The end of a request.
    pub fn expose(&mut self, sample: &Sample<'_>, exposure: &Exposure, slow_ms: Option<f64>) {
        let Some(arm) = self.arms.get_mut(sample.arm) else {
            return;
        };
        let one = |value: bool| {
            Moments::of(
                UnitTotals::one(f64::from(u8::from(value)), 0.0),
                sample.probability,
            )
        };
        arm.exposures += 1;
        if !exposure.censored {
            arm.errors += one(!exposure.clean);
        }
        if let Some(ttft) = exposure.ttft_ms {
            arm.ttft.record(ttft);
            if let Some(limit) = slow_ms {
                arm.slow += one(ttft > limit);
            }
        }
        if let Some(cost) = exposure.cost_usd {
            arm.cost += Moments::of(UnitTotals::one(cost, 0.0), sample.probability);
        }
        if exposure.clean {
            self.answered(sample, exposure);
        }
    }

    /// The arm served after all, at its second attempt: the error counted for the first is taken back. What both
    /// cost stays.
    pub fn redeem(&mut self, sample: &Sample<'_>, exposure: &Exposure) {
        let Some(arm) = self.arms.get_mut(sample.arm) else {
            return;
        };
        let one = |value| Moments::of(UnitTotals::one(value, 0.0), sample.probability);
        arm.errors -= one(1.0);
        arm.errors += one(0.0);
        if let Some(ttft) = exposure.ttft_ms {
            arm.ttft.record(ttft);
        }
        self.answered(sample, exposure);
    }

    /// The arm's own answer was served.
    fn answered(&mut self, sample: &Sample<'_>, exposure: &Exposure) {
        let Some(arm) = self.arms.get_mut(sample.arm) else {
            return;
        };
        let one = |value: bool| {
            Moments::of(
                UnitTotals::one(f64::from(u8::from(value)), 0.0),
                sample.probability,
            )
        };
        arm.clean += 1;
        arm.refusals += one(exposure.refused);
        if let Some(total) = exposure.total_ms {
            arm.total.record(total);
        }
        for name in &sample.slices {
            if let Some(slice) = self.slice(name, sample.arm) {
                slice.clean += 1;
            }
        }
        self.returned(sample, 1, 0);
    }

    /// So many more answers to a unit that may come again, and scores of them.
    fn returned(&mut self, sample: &Sample<'_>, answers: u64, scored: u64) {
        let known = sample.unit.and_then(|hash| self.units.get_mut(&hash));
        let Some(unit) = known.filter(|unit| unit.arm == sample.arm) else {
            return;
        };
        let Some(arm) = self.arms.get_mut(sample.arm) else {
            return;
        };
        let all = &mut arm.returning;
        all.rates -= Rates::of(unit.scored, unit.answers);
        unit.answers += answers;
        unit.scored += scored;
        all.rates += Rates::of(unit.scored, unit.answers);
        all.answers += answers;
        all.scored += scored;
    }

    /// A score in [0, 1] of an answer that the arm gave itself; `previous` is the score it replaces.
    pub fn score(&mut self, sample: &Sample<'_>, score: f64, previous: Option<f64>) {
        if sample.arm >= self.arms.len() {
            return;
        }
        let single = |value| Moments::of(UnitTotals::one(value, sample.covariate), sample.probability);
        for name in &sample.slices {
            if let Some(slice) = self.slice(name, sample.arm) {
                slice.quality += single(score);
                if let Some(old) = previous {
                    slice.quality -= single(old);
                }
            }
        }
        let first = u64::from(previous.is_none());
        self.returned(sample, 0, first);
        let arm = &mut self.arms[sample.arm];
        arm.scored += first;
        let known = sample.unit.and_then(|hash| self.units.get_mut(&hash));
        let Some(unit) = known.filter(|unit| unit.arm == sample.arm) else {
            arm.quality += single(score);
            if let Some(old) = previous {
                arm.quality -= single(old);
            }
            return;
        };
        arm.quality -= Moments::of(unit.scores, unit.probability);
        unit.scores.value += score - previous.unwrap_or(0.0);
        if previous.is_none() {
            unit.scores.count += 1.0;
            unit.scores.covariate += sample.covariate;
        }
        arm.quality += Moments::of(unit.scores, unit.probability);
    }

    fn slice(&mut self, name: &str, arm: usize) -> Option<&mut SliceSums> {
        if !self.slices.contains_key(name) {
            if self.slices.len() >= MAX_SLICES {
                return None;
            }
            self.slices
                .insert(name.to_owned(), vec![SliceSums::default(); self.arms.len()]);
        }
        self.slices.get_mut(name)?.get_mut(arm)
    }

    /// The slices by name, each with one entry an arm.
    pub fn slices(&self) -> impl Iterator<Item = (&str, &[SliceSums])> {
        self.slices
            .iter()
            .map(|(name, arms)| (name.as_str(), arms.as_slice()))
    }

    /// Scored units in all arms.
    #[must_use]
    pub fn units(&self) -> f64 {
        self.arms.iter().map(|arm| arm.quality.units()).sum()
    }

    /// The checks.
    #[must_use]
    pub fn checks(&self) -> Checks {
        let propensities: Vec<Propensities> = self.arms.iter().map(|arm| arm.propensities).collect();
        let rates: Vec<Rates> = self.arms.iter().map(ArmSums::rates).collect();
        Checks {
            sample_ratio: propensity_ratio(&propensities),
            feedback_rate: equal_unit_rates(&rates),
            multiple_exposure: multiple_exposure(self.several, self.units.len() as u64),
        }
    }

    /// The split that ends the experiment soonest: Neyman's for two arms, track-and-stop for more. Even while an
    /// arm has fewer than thirty scored units.
    #[must_use]
    pub fn shares(&self, floor: f64) -> Vec<f64> {
        let k = self.arms.len();
        if self.arms.iter().any(|arm| arm.quality.units() < MIN_UNITS) {
            return vec![1.0 / k.max(1) as f64; k];
        }
        let deviations: Vec<f64> = self
            .arms
            .iter()
            .map(|arm| arm.quality.deviation(UNIT_RANGE))
            .collect();
        if k == 2 {
            return neyman(&deviations, floor);
        }
        let means: Vec<f64> = self.arms.iter().map(|arm| arm.quality.mean()).collect();
        let variances: Vec<f64> = deviations.iter().map(|deviation| deviation * deviation).collect();
        track_and_stop(&means, &variances, MIN_GAP, floor)
    }
}
