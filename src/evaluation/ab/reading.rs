//! What the sums say: health, differences, where each treatment stands, and what to do.

use serde::{Deserialize, Serialize};

use super::{AbSums, ArmSums, Design, Hypothesis, UNIT_RANGE};
use crate::evaluation::health::{Check, Health};
use crate::evaluation::moments::{Difference, difference};
use crate::evaluation::sequence::{ConfidenceSequence, SequenceError};
use crate::evaluation::special::normal_cdf;

/// Samples needed are not forecast beyond this.
const HORIZON: u64 = 1_000_000;

/// Where a treatment stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Not decided.
    Open,
    /// It is no worse than it may be, but it was shown neither to be better nor to save what it must.
    NoWorse,
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
    /// The same to what the control costs less the share that must be saved, where one must: below 0, it is saved.
    #[serde(default)]
    pub saving: Option<Difference>,
    /// Guardrails with enough data.
    pub guardrails: Vec<GuardrailResult>,
    /// Where it stands.
    pub standing: Standing,
    /// Chance that the interval decides by the end of the experiment; `None` while there are too few scores.
    #[serde(default)]
    pub chance: Option<f64>,
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
    /// The end was reached, or is hardly worth reaching: nothing that matters is left to learn, or a verdict has
    /// become improbable. Keep the control.
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
        // Sums of equal costs differ by rounding.
        let limit = (ratio - 1.0 + 1e-9) * control.cost.mean();
        guardrails.push(GuardrailResult {
            name: "cost".to_owned(),
            difference,
            limit,
        });
    }
    let saving = saving(design.hypothesis, control, treatment, sequence);
    let standing = standing(design, quality.as_ref(), saving.as_ref(), &guardrails);
    let chance = quality
        .as_ref()
        .map(|found| chance(design, found, saving.as_ref(), sums.units(), sequence));
    Comparison {
        arm,
        quality,
        cost,
        saving,
        guardrails,
        standing,
        chance,
    }
}

/// Cost of the treatment less `1 - saving` times that of the control, where the hypothesis asks for one.
fn saving(
    hypothesis: Hypothesis,
    control: &ArmSums,
    treatment: &ArmSums,
    sequence: &ConfidenceSequence,
) -> Option<Difference> {
    let Hypothesis::Gain { saving, .. } = hypothesis else {
        return None;
    };
    difference(&control.cost.times(1.0 - saving), &treatment.cost, sequence, None)
}

/// The chance that the interval decides by the end of the experiment. A gain is decided by more quality, or by less cost
/// at no less quality, as if scores and costs had nothing to do with each other. The chance only takes verdicts away.
fn chance(
    design: &Design,
    found: &Difference,
    saving: Option<&Difference>,
    units: f64,
    sequence: &ConfidenceSequence,
) -> f64 {
    let growth = design.max_samples as f64 / units.max(1.0);
    let (refuted, holds) = ahead(found, design.hypothesis.threshold(), growth, sequence);
    if !matches!(design.hypothesis, Hypothesis::Gain { .. }) {
        return refuted + holds;
    }
    let (_, better) = ahead(found, 0.0, growth, sequence);
    let saves = saving.map_or(0.0, |saving| ahead(saving, 0.0, growth, sequence).0);
    refuted + better + (holds - better) * saves
}

/// The chances that the interval of `growth` times the units lies below and above `threshold`, when the difference may be
/// anything to begin with: what is seen then lies around what is seen now with the variance `V · (1/n - 1/N)`, and
/// decides if it is further from the threshold than the half-width at N (predictive power; Spiegelhalter, Freedman and
/// Blackburn, *Monitoring clinical trials: conditional or predictive power?*, Controlled Clinical Trials 1986).
fn ahead(found: &Difference, threshold: f64, growth: f64, sequence: &ConfidenceSequence) -> (f64, f64) {
    let end = found.units * growth;
    if end <= found.units {
        return (0.0, 0.0);
    }
    let half_width = sequence.half_width(end, found.variance);
    let spread = (found.variance * (1.0 / found.units - 1.0 / end))
        .sqrt()
        .max(1e-12);
    let distance = found.interval.estimate - threshold;
    let below = normal_cdf(-(distance + half_width) / spread);
    (below, normal_cdf((distance - half_width) / spread))
}

/// Each claim is one side of a two-sided interval, so it is wrong with α/2 at most: "no worse" and "saves" must both be
/// shown, and "better" or "no worse and saves" are wrong with α together.
fn standing(
    design: &Design,
    quality: Option<&Difference>,
    saving: Option<&Difference>,
    guardrails: &[GuardrailResult],
) -> Standing {
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
            let gained = !matches!(design.hypothesis, Hypothesis::Gain { .. })
                || found.interval.low > 0.0
                || saving.is_some_and(|saving| saving.interval.high < 0.0);
            match (clear, gained) {
                (_, false) => Standing::NoWorse,
                (true, true) => Standing::Holds,
                (false, true) => Standing::Open,
            }
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
        .filter(|comparison| matches!(comparison.standing, Standing::Open | Standing::NoWorse))
        .collect();
    if open.is_empty() {
        return Verdict::Harm;
    }
    // A gain lies far from harm: little luck at the beginning would make both improbable.
    let early = matches!(design.hypothesis, Hypothesis::Gain { .. }) && units < design.planned;
    let settled = |comparison: &&Comparison| {
        // A narrow interval of the quality says nothing of what is saved.
        comparison.standing == Standing::Open
            && comparison
                .quality
                .is_some_and(|quality| quality.interval.half_width() < design.min_effect)
            || !early && comparison.chance.is_some_and(|chance| chance < design.futility)
    };
    if units >= design.max_samples || open.iter().all(settled) {
        return Verdict::Futile;
    }
    let needed = open
        .iter()
        .filter_map(|comparison| needed(design.hypothesis, comparison, units, sequence));
    let left = design.max_samples - units;
    Verdict::Running {
        more: needed.min().filter(|more| *more <= left),
    }
}

/// About so many more scored units until it is decided, if the estimates stay.
fn needed(
    hypothesis: Hypothesis,
    comparison: &Comparison,
    units: u64,
    sequence: &ConfidenceSequence,
) -> Option<u64> {
    let until = |found: &Difference, threshold: f64| {
        let gap = (found.interval.estimate - threshold).abs();
        let total = sequence.samples_for(gap, found.variance, HORIZON)?;
        // Costs are known of answers that nobody scores, too.
        let more = (total as f64 - found.units).max(1.0) * (units as f64 / found.units).min(1.0);
        Some(more.ceil() as u64)
    };
    let quality = comparison.quality.as_ref()?;
    let (estimate, threshold) = (quality.interval.estimate, hypothesis.threshold());
    let decided = until(quality, threshold);
    if !matches!(hypothesis, Hypothesis::Gain { .. }) || estimate < threshold {
        return decided;
    }
    let better = (estimate > 0.0).then(|| until(quality, 0.0)).flatten();
    let saving = comparison
        .saving
        .as_ref()
        .filter(|saving| saving.interval.estimate < 0.0);
    let saves = saving.and_then(|saving| until(saving, 0.0));
    let both = decided.zip(saves).map(|(decided, saves)| decided.max(saves));
    better.into_iter().chain(both).min()
}
