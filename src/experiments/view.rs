//! An experiment as shown to people and programs: what `GET /v1/experiments` answers and what its report is made of.

use serde::{Deserialize, Serialize};

use super::definition::Definition;
use super::engine::Record;
use super::retrial::Rest;
use super::table::Ruling;
use crate::evaluation::ab::{AbSums, ArmSums, Reading, UNIT_RANGE, Verdict, read};
use crate::evaluation::health::{Check, Health};
use crate::evaluation::moments::{Difference, Moments, difference, mean_interval};
use crate::evaluation::multiplicity::benjamini_hochberg;
use crate::evaluation::sequence::{ConfidenceSequence, Interval};
use crate::units::UnixMs;

/// False-discovery rate of the slices.
const SLICE_RATE: f64 = 0.05;
/// Scores of an arm in a category below which the category says nothing of its own.
const MIN_STRATUM: f64 = 5.0;
/// Values below which a 99th percentile is only the largest.
const MIN_P99: u64 = 100;

/// Where an experiment is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "phase")]
pub enum Phase {
    /// Units are let in.
    Running,
    /// Over: this arm is in use.
    Shipped {
        /// Its index.
        arm: usize,
    },
    /// Over: the treatments do harm.
    StoppedForHarm,
    /// Over: no difference worth knowing was found.
    Futile,
    /// Ended by hand, by the configuration or because a model of it was left out.
    Stopped,
    /// What it had changed was taken back.
    Undone,
    /// Over: the model that it left out is let in again, because a retrial found it near enough.
    Readmitted,
}

/// A moment of the series.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// When.
    pub at: UnixMs,
    /// Scored units by then.
    pub units: u64,
    /// Difference of each treatment.
    pub differences: Vec<Option<Interval>>,
    /// Share of each arm.
    pub shares: Vec<f64>,
}

/// One arm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ArmView {
    /// Its name.
    pub name: String,
    /// What it does.
    pub variant: String,
    /// Its share of the units let in now.
    pub share: f64,
    /// Requests over.
    pub exposures: u64,
    /// Requests that it served itself.
    pub clean: u64,
    /// Scores.
    pub scored: u64,
    /// Mean score.
    pub quality: Option<Interval>,
    /// Dollars a request.
    pub cost_usd: Option<Interval>,
    /// Share of requests that failed or that a fallback or hedge had to serve.
    pub errors: Option<Interval>,
    /// Share of refusals.
    pub refusals: Option<Interval>,
    /// Time to the first token.
    pub ttft_samples: u64,
    /// Its median.
    pub ttft_p50_ms: Option<f64>,
    /// Its 99th percentile; `None` below 100 values.
    pub ttft_p99_ms: Option<f64>,
    /// Time to the last token: median.
    pub total_p50_ms: Option<f64>,
    /// Its 99th percentile; `None` below 100 values.
    pub total_p99_ms: Option<f64>,
    /// Raw sums of the scores, to recompute everything.
    pub quality_sums: Moments,
    /// Raw sums of the costs.
    pub cost_sums: Moments,
}

/// One slice, first treatment against control.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SliceView {
    /// `dimension=value`.
    pub name: String,
    /// Scored units in both arms.
    pub units: u64,
    /// The difference; `None` with too few scores.
    pub difference: Option<Interval>,
    /// Always-valid p-value of "no difference".
    pub p_value: f64,
    /// Whether it stands after Benjamini–Hochberg over all slices.
    pub significant: bool,
}

/// One experiment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExperimentView {
    /// As defined before the first sample.
    pub definition: Definition,
    /// Where it is.
    #[serde(flatten)]
    pub phase: Phase,
    /// When units were first let in.
    pub started: UnixMs,
    /// When it ended.
    pub ended: Option<UnixMs>,
    /// Health, differences and verdict, with every score that has come.
    pub reading: Reading,
    /// The same when it ended by its own rule: what the decision rests on.
    #[serde(default)]
    pub decided: Option<Reading>,
    /// The arms, control first.
    pub arms: Vec<ArmView>,
    /// The slices.
    pub slices: Vec<SliceView>,
    /// The first treatment's difference with every category weighted by its share of the answers, scored or
    /// not: what it would be if scores went missing at random within a category.
    pub weighted_difference: Option<Interval>,
    /// Interval and split over time.
    pub series: Vec<Point>,
    /// What it asks of routing.
    pub ruling: Option<Ruling>,
    /// Of a drift: when the model that it left out is asked about again, or was let in.
    #[serde(default)]
    pub rest: Option<Rest>,
    /// Share of the layer's traffic that takes part.
    pub coverage: f64,
}

impl ExperimentView {
    /// What its end rests on, or what it says now while it runs or where somebody ended it.
    #[must_use]
    pub fn telling(&self) -> &Reading {
        self.decided.as_ref().unwrap_or(&self.reading)
    }
}

pub(super) fn view(record: &Record, rest: Option<&Rest>) -> ExperimentView {
    let definition = record.definition.as_ref();
    let sums = &record.sums;
    let shares = record
        .ramp
        .bands()
        .last()
        .map_or_else(Vec::new, |band| band.shares.clone());
    let sequence = ConfidenceSequence::new(definition.design.alpha, definition.design.planned).ok();
    let arms = definition
        .variants
        .iter()
        .zip(&sums.arms)
        .enumerate()
        .map(|(index, ((name, variant), arm))| {
            let share = shares.get(index).copied().unwrap_or(0.0);
            arm_view(name, &variant.to_string(), share, arm, sequence.as_ref())
        })
        .collect();
    ExperimentView {
        definition: definition.clone(),
        phase: record.phase,
        started: record.started,
        ended: record.ended,
        reading: read(&definition.design, sums).unwrap_or_else(|_| nothing()),
        decided: record.decided.clone(),
        arms,
        slices: sequence
            .as_ref()
            .map_or_else(Vec::new, |sequence| slices(sums, sequence)),
        weighted_difference: sequence.as_ref().and_then(|sequence| weighted(sums, sequence)),
        series: record.series.clone(),
        ruling: record.ruling.clone(),
        // Not of an experiment that asks anew.
        rest: rest.filter(|_| record.ended.is_some()).copied(),
        coverage: record.ramp.reach() - record.ramp.start(),
    }
}

/// A design that was checked has a reading; this stands for one that was not.
fn nothing() -> Reading {
    let none = Check {
        health: Health::TooFew,
        statistic: 0.0,
        p_value: 1.0,
    };
    let checks = crate::evaluation::ab::Checks {
        sample_ratio: none.clone(),
        feedback_rate: none.clone(),
        multiple_exposure: none,
    };
    Reading {
        units: 0,
        checks,
        comparisons: Vec::new(),
        verdict: Verdict::Running { more: None },
    }
}

fn arm_view(
    name: &str,
    variant: &str,
    share: f64,
    arm: &ArmSums,
    sequence: Option<&ConfidenceSequence>,
) -> ArmView {
    let interval = |sums: &Moments, range| sequence.and_then(|sequence| mean_interval(sums, sequence, range));
    let p99 = |counts: &crate::evaluation::spread::LogCounts| {
        if counts.count() < MIN_P99 {
            None
        } else {
            counts.quantile(0.99)
        }
    };
    ArmView {
        name: name.to_owned(),
        variant: variant.to_owned(),
        share,
        exposures: arm.exposures,
        clean: arm.clean,
        scored: arm.scored,
        quality: interval(&arm.quality, UNIT_RANGE),
        cost_usd: interval(&arm.cost, None),
        errors: interval(&arm.errors, UNIT_RANGE),
        refusals: interval(&arm.refusals, UNIT_RANGE),
        ttft_samples: arm.ttft.count(),
        ttft_p50_ms: arm.ttft.quantile(0.5),
        ttft_p99_ms: p99(&arm.ttft),
        total_p50_ms: arm.total.quantile(0.5),
        total_p99_ms: p99(&arm.total),
        quality_sums: arm.quality,
        cost_sums: arm.cost,
    }
}

fn slices(sums: &AbSums, sequence: &ConfidenceSequence) -> Vec<SliceView> {
    let found: Vec<(String, u64, Option<Difference>)> = sums
        .slices()
        .filter_map(|(name, arms)| {
            let (control, treatment) = (arms.first()?, arms.get(1)?);
            let units = (control.quality.units() + treatment.quality.units()) as u64;
            let found = difference(&control.quality, &treatment.quality, sequence, UNIT_RANGE);
            Some((name.to_owned(), units, found))
        })
        .collect();
    let p_values: Vec<f64> = found
        .iter()
        .map(|(_, _, difference)| {
            difference.map_or(1.0, |d| {
                sequence.p_value(d.interval.estimate, 0.0, d.units, d.variance)
            })
        })
        .collect();
    let significant = benjamini_hochberg(&p_values, SLICE_RATE);
    found
        .into_iter()
        .zip(p_values)
        .zip(significant)
        .map(|(((name, units, difference), p_value), significant)| SliceView {
            name,
            units,
            difference: difference.map(|difference| difference.interval),
            p_value,
            significant,
        })
        .collect()
}

/// Post-stratification over the `category=` slices: `Σ_c W_c · (mean_t,c - mean_0,c)`, W_c the share of the answers in
/// c, scored or not; its variance is `Σ_c W_c² (V_t,c + V_0,c)`. Over the categories with enough scores in both arms;
/// `None` if those are less than half of the answers.
fn weighted(sums: &AbSums, sequence: &ConfidenceSequence) -> Option<Interval> {
    let (mut all, mut answers, mut units) = (0.0, 0.0, 0.0);
    let mut strata: Vec<(f64, f64, f64)> = Vec::new();
    for (_, arms) in sums.slices().filter(|(name, _)| name.starts_with("category=")) {
        let (control, treatment) = (arms.first()?, arms.get(1)?);
        let weight = (control.clean + treatment.clean) as f64;
        all += weight;
        let (own, other) = (&control.quality, &treatment.quality);
        if own.units() < MIN_STRATUM || other.units() < MIN_STRATUM {
            continue;
        }
        let variance = own.mean_variance(0.0, UNIT_RANGE) + other.mean_variance(0.0, UNIT_RANGE);
        strata.push((weight, other.mean() - own.mean(), variance));
        answers += weight;
        units += own.units() + other.units();
    }
    if answers <= 0.0 || answers < 0.5 * all {
        return None;
    }
    let mean = strata
        .iter()
        .map(|(w, difference, _)| w * difference)
        .sum::<f64>()
        / answers;
    let variance = strata
        .iter()
        .map(|(w, _, variance)| w * w * variance)
        .sum::<f64>()
        / (answers * answers);
    Some(sequence.interval(mean, units, units * variance))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::ab::{Exposure, Sample};

    /// Two categories, in which the treatment is .1 better and .1 worse. Answers are half and half, but of the second
    /// category only one in five is scored: unweighted, the treatment looks better than it is.
    #[test]
    fn scores_that_go_missing_by_category_are_weighed_back() {
        let mut sums = AbSums::new(2);
        for i in 0..4_000u64 {
            let (arm, category) = ((i % 2) as usize, (i / 2 % 2) as usize);
            let slices = vec![["category=easy", "category=hard"][category]];
            let sample = Sample {
                arm,
                probability: 0.5,
                unit: None,
                covariate: 0.0,
                slices,
            };
            sums.assign(&sample, &[0.5, 0.5]);
            let exposure = Exposure {
                clean: true,
                ..Exposure::default()
            };
            sums.expose(&sample, &exposure, None);
            if category == 0 || i / 4 % 5 == 0 {
                let score = [[0.6, 0.5], [0.7, 0.4]][arm][category];
                sums.score(&sample, score, None);
            }
        }
        let sequence = ConfidenceSequence::new(0.05, 500).unwrap();
        let plain = difference(
            &sums.arms[0].quality,
            &sums.arms[1].quality,
            &sequence,
            UNIT_RANGE,
        );
        // 1,000 and 200 scores an arm: (1000 · .1 - 200 · .1) / 1200.
        assert!((plain.unwrap().interval.estimate - 0.0667).abs() < 1e-3);
        let weighted = weighted(&sums, &sequence).unwrap();
        assert!(weighted.estimate.abs() < 1e-9, "{weighted:?}");
        assert!(weighted.contains(0.0) && weighted.half_width() < 0.1);
    }
}
