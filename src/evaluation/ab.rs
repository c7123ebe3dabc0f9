//! One experiment's statistics and its verdict. The design is fixed before the first sample; the interval that is
//! shown *is* the stopping rule; health comes before any result.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use super::allocation::{neyman, track_and_stop};
use super::health::{Check, Health, Propensities, equal_rates, multiple_exposure, propensity_ratio};
use super::moments::{Difference, Moments, UnitTotals, difference};
use super::sequence::{ConfidenceSequence, SequenceError};
use super::spread::LogCounts;

/// The range of scores and of shares.
pub const UNIT_RANGE: Option<(f64, f64)> = Some((0.0, 1.0));
/// Slices kept at most; later ones are not opened.
const MAX_SLICES: usize = 64;
/// Samples needed are not forecast beyond this.
const HORIZON: u64 = 1_000_000;
/// Gaps of means below this count as this when traffic is split among more than two arms.
const MIN_GAP: f64 = 0.005;

/// What an experiment sets out to show of each treatment.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Hypothesis {
    /// Its mean is above the control's.
    Superior,
    /// Its mean is no more than `margin` below the control's.
    NonInferior {
        /// In (0, 1).
        margin: f64,
    },
}

impl Hypothesis {
    /// The difference (treatment minus control) above which the hypothesis holds.
    #[must_use]
    pub fn threshold(&self) -> f64 {
        match self {
            Self::Superior => 0.0,
            Self::NonInferior { margin } => -margin,
        }
    }
}

/// What a treatment must not make worse, as differences to the control. A guardrail whose interval lies above its
/// limit stops the experiment for harm; one whose estimate does keeps a treatment from being shipped.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Guardrails {
    /// More failed requests, as a share.
    pub errors: f64,
    /// More slow first tokens, as a share; slow is above [`Design::slow_ms`].
    pub slow: f64,
    /// More refusals, as a share.
    pub refusals: f64,
    /// Cost of the treatment over that of the control. `None`: not guarded.
    pub cost_ratio: Option<f64>,
}

impl Default for Guardrails {
    fn default() -> Self {
        Self {
            errors: 0.02,
            slow: 0.02,
            refusals: 0.02,
            cost_ratio: None,
        }
    }
}

/// The design, fixed before the first sample.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Design {
    /// Number of arms, two or more; the first is the control.
    pub arms: usize,
    /// What is to be shown.
    pub hypothesis: Hypothesis,
    /// Error rate in (0, 1) of the whole experiment, shared evenly by the treatments (Bonferroni).
    pub alpha: f64,
    /// Scored units near which the interval is tightest.
    pub planned: u64,
    /// Scored units at which it ends without a verdict.
    pub max_samples: u64,
    /// Half-width of the interval below which nothing worth knowing is left to learn.
    pub min_effect: f64,
    /// What must not get worse.
    pub guardrails: Guardrails,
    /// A first token later than this is slow. `None`: not guarded.
    pub slow_ms: Option<f64>,
    /// Least share of each arm under adaptive allocation.
    pub floor: f64,
}

/// What one request of an arm came to, once its attempts are over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Exposure {
    /// The arm's own answer was served. False if it failed, or a fallback or hedge took its place.
    pub clean: bool,
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
}

/// A unit that may come again.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Unit {
    arm: usize,
    probability: f64,
    scores: UnitTotals,
    several: bool,
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

/// Where a treatment stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Not decided.
    Open,
    /// The hypothesis holds and no guardrail is in the way.
    Holds,
    /// The hypothesis is refuted.
    Refuted,
    /// A guardrail is broken.
    Harmful,
}

/// A guardrail's comparison.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GuardrailResult {
    /// `errors`, `slow`, `refusals` or `cost`.
    pub name: String,
    /// Treatment minus control.
    pub difference: Difference,
    /// The difference allowed.
    pub limit: f64,
}

/// One treatment against the control.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Index of the treatment.
    pub arm: usize,
    /// Difference of quality; `None` while there are too few scores.
    pub quality: Option<Difference>,
    /// Difference of cost in dollars a request.
    pub cost: Option<Difference>,
    /// Guardrails with enough data.
    pub guardrails: Vec<GuardrailResult>,
    /// Where it stands.
    pub standing: Standing,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "verdict")]
pub enum Verdict {
    /// Go on. `more`: about so many more scored units until the interval decides, if the estimate stays.
    Running {
        /// `None`: further than the end of the experiment.
        more: Option<u64>,
    },
    /// Ship this treatment.
    Ship {
        /// Its index.
        arm: usize,
    },
    /// Every treatment is refuted or harmful: keep the control.
    Harm,
    /// The end was reached, or nothing worth knowing is left to learn: keep the control.
    Futile,
    /// A health check failed: no verdict until it is understood.
    Unhealthy,
}

/// The checks of an experiment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Checks {
    /// Sample-ratio mismatch against the logged propensities.
    pub sample_ratio: Check,
    /// Whether all arms are scored equally often.
    pub feedback_rate: Check,
    /// Units seen in more than one arm.
    pub multiple_exposure: Check,
}

impl Checks {
    /// Whether any check failed.
    #[must_use]
    pub fn failed(&self) -> bool {
        [&self.sample_ratio, &self.feedback_rate, &self.multiple_exposure]
            .iter()
            .any(|check| check.health == Health::Failed)
    }
}

/// Everything that an experiment says at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reading {
    /// Scored units in all arms.
    pub units: u64,
    /// Health.
    pub checks: Checks,
    /// Each treatment.
    pub comparisons: Vec<Comparison>,
    /// What to do.
    pub verdict: Verdict,
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

    /// An assignment: `shares` are the probabilities of every arm at the time.
    pub fn assign(&mut self, sample: &Sample<'_>, shares: &[f64]) {
        for (index, (arm, share)) in self.arms.iter_mut().zip(shares).enumerate() {
            arm.propensities.record(index == sample.arm, *share);
        }
        let Some(hash) = sample.unit else { return };
        let unit = self.units.entry(hash).or_insert(Unit {
            arm: sample.arm,
            probability: sample.probability,
            scores: UnitTotals::default(),
            several: false,
        });
        if unit.arm != sample.arm && !unit.several {
            unit.several = true;
            self.several += 1;
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
        arm.errors += one(!exposure.clean);
        if let Some(ttft) = exposure.ttft_ms {
            arm.ttft.record(ttft);
            if let Some(limit) = slow_ms {
                arm.slow += one(ttft > limit);
            }
        }
        if let Some(cost) = exposure.cost_usd {
            arm.cost += Moments::of(UnitTotals::one(cost, 0.0), sample.probability);
        }
        if !exposure.clean {
            return;
        }
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
        let arm = &mut self.arms[sample.arm];
        arm.scored += u64::from(previous.is_none());
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
        let rates: Vec<(u64, u64)> = self
            .arms
            .iter()
            .map(|arm| (arm.scored.min(arm.clean), arm.clean))
            .collect();
        Checks {
            sample_ratio: propensity_ratio(&propensities),
            feedback_rate: equal_rates(&rates),
            multiple_exposure: multiple_exposure(self.several, self.units.len() as u64),
        }
    }

    /// The split that ends the experiment soonest: Neyman's for two arms, track-and-stop for more. Even while an
    /// arm has fewer than thirty scored units.
    #[must_use]
    pub fn shares(&self, floor: f64) -> Vec<f64> {
        let k = self.arms.len();
        if self
            .arms
            .iter()
            .any(|arm| arm.quality.units() < super::moments::MIN_UNITS)
        {
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

/// Reads the experiment at this moment.
///
/// # Errors
/// If the design's α or planned size is out of range.
pub fn read(design: &Design, sums: &AbSums) -> Result<Reading, SequenceError> {
    let treatments = design.arms.saturating_sub(1).max(1) as f64;
    let sequence = ConfidenceSequence::new(design.alpha / treatments, design.planned)?;
    let checks = sums.checks();
    let comparisons: Vec<Comparison> = (1..sums.arms.len())
        .map(|arm| compare(design, sums, arm, &sequence))
        .collect();
    let units = sums.units() as u64;
    let verdict = if checks.failed() {
        Verdict::Unhealthy
    } else {
        verdict(design, units, &comparisons, &sequence)
    };
    Ok(Reading {
        units,
        checks,
        comparisons,
        verdict,
    })
}

fn compare(design: &Design, sums: &AbSums, arm: usize, sequence: &ConfidenceSequence) -> Comparison {
    let (control, treatment) = (&sums.arms[0], &sums.arms[arm]);
    let quality = difference(&control.quality, &treatment.quality, sequence, UNIT_RANGE);
    let cost = difference(&control.cost, &treatment.cost, sequence, None);
    let limits = &design.guardrails;
    let mut guardrails: Vec<GuardrailResult> = [
        ("errors", &control.errors, &treatment.errors, limits.errors),
        ("slow", &control.slow, &treatment.slow, limits.slow),
        (
            "refusals",
            &control.refusals,
            &treatment.refusals,
            limits.refusals,
        ),
    ]
    .into_iter()
    .filter_map(|(name, control, treatment, limit)| {
        let difference = difference(control, treatment, sequence, UNIT_RANGE)?;
        Some(GuardrailResult {
            name: name.to_owned(),
            difference,
            limit,
        })
    })
    .collect();
    if let Some((difference, ratio)) = cost.zip(limits.cost_ratio) {
        let limit = (ratio - 1.0) * control.cost.mean();
        guardrails.push(GuardrailResult {
            name: "cost".to_owned(),
            difference,
            limit,
        });
    }
    let standing = standing(design, quality.as_ref(), &guardrails);
    Comparison {
        arm,
        quality,
        cost,
        guardrails,
        standing,
    }
}

fn standing(design: &Design, quality: Option<&Difference>, guardrails: &[GuardrailResult]) -> Standing {
    if guardrails
        .iter()
        .any(|guardrail| guardrail.difference.interval.low > guardrail.limit)
    {
        return Standing::Harmful;
    }
    let threshold = design.hypothesis.threshold();
    match quality {
        Some(found) if found.interval.high < threshold => Standing::Refuted,
        Some(found) if found.interval.low > threshold => {
            let clear = guardrails
                .iter()
                .all(|guardrail| guardrail.difference.interval.estimate <= guardrail.limit);
            if clear { Standing::Holds } else { Standing::Open }
        }
        _ => Standing::Open,
    }
}

fn verdict(
    design: &Design,
    units: u64,
    comparisons: &[Comparison],
    sequence: &ConfidenceSequence,
) -> Verdict {
    let estimate = |comparison: &Comparison| {
        comparison
            .quality
            .map_or(f64::NEG_INFINITY, |quality| quality.interval.estimate)
    };
    let holding = comparisons
        .iter()
        .filter(|comparison| comparison.standing == Standing::Holds);
    if let Some(best) = holding.max_by(|a, b| estimate(a).total_cmp(&estimate(b))) {
        return Verdict::Ship { arm: best.arm };
    }
    let open: Vec<&Comparison> = comparisons
        .iter()
        .filter(|comparison| comparison.standing == Standing::Open)
        .collect();
    if open.is_empty() {
        return Verdict::Harm;
    }
    let settled = |comparison: &&Comparison| {
        comparison
            .quality
            .is_some_and(|quality| quality.interval.half_width() < design.min_effect)
    };
    if units >= design.max_samples || open.iter().all(settled) {
        return Verdict::Futile;
    }
    let threshold = design.hypothesis.threshold();
    let needed = open.iter().filter_map(|comparison| {
        let quality = comparison.quality?;
        let gap = (quality.interval.estimate - threshold).abs();
        let total = sequence.samples_for(gap, quality.variance, HORIZON)?;
        Some(total.saturating_sub(quality.units as u64).max(1))
    });
    let left = design.max_samples - units;
    Verdict::Running {
        more: needed.min().filter(|more| *more <= left),
    }
}

#[cfg(test)]
#[path = "ab_tests.rs"]
mod tests;
