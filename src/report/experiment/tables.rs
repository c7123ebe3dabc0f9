//! The rows of every table that the page and the text have in common, each below its head.

use super::{ExperimentReport, dollars, scores, signed};
use crate::evaluation::ab::Hypothesis;
use crate::evaluation::moments::Moments;
use crate::evaluation::sequence::Interval;
use crate::experiments::{ArmView, Split, StickyBy};
use crate::report::format::{count, interval, level, millis, moment, percent, score, usd};

fn shares(shown: &Interval) -> String {
    interval(shown, percent)
}

pub(super) const ARM_HEAD: &[&str] = &[
    "arm",
    "model",
    "requests",
    "scored",
    "score",
    "a request",
    "failed",
    "refused",
    "share now",
];

pub(super) fn arm_rows(report: &ExperimentReport) -> Vec<Vec<String>> {
    let dash = |text: Option<String>| text.unwrap_or_else(|| "–".to_owned());
    report
        .experiment
        .arms
        .iter()
        .map(|arm| {
            vec![
                arm.name.clone(),
                arm.variant.clone(),
                count(arm.exposures),
                count(arm.scored),
                dash(arm.quality.as_ref().map(scores)),
                dash(arm.cost_usd.as_ref().map(dollars)),
                dash(arm.errors.as_ref().map(shares)),
                dash(arm.refusals.as_ref().map(shares)),
                percent(arm.share),
            ]
        })
        .collect()
}

pub(super) const SPEED_HEAD: &[&str] = &[
    "arm",
    "first token p50",
    "p99",
    "whole answer p50",
    "p99",
    "samples",
];

pub(super) fn speed_rows(report: &ExperimentReport) -> Vec<Vec<String>> {
    let time = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), millis);
    let row = |arm: &ArmView| {
        vec![
            arm.name.clone(),
            time(arm.ttft_p50_ms),
            time(arm.ttft_p99_ms),
            time(arm.total_p50_ms),
            time(arm.total_p99_ms),
            count(arm.ttft_samples),
        ]
    };
    report.experiment.arms.iter().map(row).collect()
}

pub(super) const GUARD_HEAD: &[&str] = &["guardrail", "arm", "difference", "limit", "verdict"];

pub(super) fn guard_rows(report: &ExperimentReport) -> Vec<Vec<String>> {
    let view = &report.experiment;
    let arm = |index: usize| {
        view.arms
            .get(index)
            .map_or_else(String::new, |arm| arm.name.clone())
    };
    let mut rows = Vec::new();
    for comparison in &view.reading.comparisons {
        for guardrail in &comparison.guardrails {
            let interval = guardrail.difference.interval;
            let verdict = if interval.low > guardrail.limit {
                "broken"
            } else if interval.estimate > guardrail.limit {
                "in doubt"
            } else {
                "kept"
            };
            let cost = guardrail.name == "cost";
            let shown = if cost {
                dollars(&interval)
            } else {
                signed(&interval)
            };
            let limit = if cost {
                usd(guardrail.limit)
            } else {
                format!("{:+.3}", guardrail.limit)
            };
            rows.push(vec![
                guardrail.name.clone(),
                arm(comparison.arm),
                shown,
                limit,
                verdict.to_owned(),
            ]);
        }
    }
    rows
}

pub(super) const SLICE_HEAD: &[&str] = &["slice", "scored", "difference", "p", "stands among all slices?"];

pub(super) fn slice_rows(report: &ExperimentReport) -> Vec<Vec<String>> {
    let shown = report
        .experiment
        .slices
        .iter()
        .filter(|slice| slice.difference.is_some());
    shown
        .map(|slice| {
            vec![
                slice.name.clone(),
                count(slice.units),
                slice.difference.as_ref().map_or_else(String::new, signed),
                format!("{:.4}", slice.p_value),
                if slice.significant { "yes" } else { "no" }.to_owned(),
            ]
        })
        .collect()
}

/// The slices that say nothing yet.
pub(super) fn small_slices(report: &ExperimentReport) -> Option<String> {
    let slices = report.experiment.slices.iter();
    let small: Vec<String> = slices
        .filter(|slice| slice.difference.is_none())
        .map(|slice| format!("{} ({})", slice.name, count(slice.units)))
        .collect();
    (!small.is_empty()).then(|| format!("Too few scores to tell: {}.", small.join(", ")))
}

pub(super) const OFF_POLICY_HEAD: &[&str] = &[
    "policy",
    "decisions",
    "worth as many samples as",
    "score",
    "a request",
    "enough?",
];

pub(super) fn off_policy_rows(report: &ExperimentReport) -> Vec<Vec<String>> {
    let lines = report.logged.iter().flat_map(|logged| &logged.off_policy);
    lines
        .map(|line| {
            vec![
                line.policy.clone(),
                count(line.decisions),
                count(line.ess as u64),
                scores(&line.quality),
                dollars(&line.cost_usd),
                line.standing(),
            ]
        })
        .collect()
}

pub(super) fn design_rows(report: &ExperimentReport) -> Vec<Vec<String>> {
    let view = &report.experiment;
    let definition = &view.definition;
    let design = &definition.design;
    let row = |name: &str, value: String| vec![name.to_owned(), value];
    let rule = match design.hypothesis {
        Hypothesis::Superior => {
            "ship when the interval lies above 0; stop for harm when it lies below 0".to_owned()
        }
        Hypothesis::NonInferior { margin } => {
            format!("ship when the interval lies above -{margin}; stop for harm when it lies below -{margin}")
        }
        Hypothesis::Gain { margin, saving } => format!(
            "ship when the interval lies above 0, or above -{margin} while that of the cost lies below the control's less {}; stop for harm when it lies below -{margin}",
            level(saving)
        ),
    };
    let unit = match definition.sticky_by {
        StickyBy::Request => "a request",
        StickyBy::User => "a user",
        StickyBy::Session => "a session",
    };
    let split = match definition.split {
        Split::Fixed => "even".to_owned(),
        Split::Adaptive => format!("adaptive, at least {} an arm", level(design.floor)),
    };
    let started = serde_json::to_value(definition.origin)
        .ok()
        .and_then(|value| value.as_str().map(str::to_owned));
    let mut rows = vec![
        row("hypothesis", definition.statement.clone()),
        row("rule", rule),
        row("metric", definition.metric.clone()),
        row(
            "route and category",
            format!(
                "{}, {}",
                definition.route,
                definition.category.as_deref().unwrap_or("any")
            ),
        ),
        row("unit", unit.to_owned()),
        row("split", split),
        row(
            "traffic",
            format!("{} of layer “{}”", level(view.coverage), definition.layer),
        ),
        row(
            "error rate",
            format!(
                "{} for the whole experiment, however often one looks",
                level(design.alpha)
            ),
        ),
        row(
            "size",
            format!(
                "at most {} scores; also ends when the interval is narrower than ±{}{}",
                count(design.max_samples),
                design.min_effect,
                if design.futility > 0.0 {
                    let chance = level(design.futility);
                    format!(", or when the chance of a verdict by then is below {chance}")
                } else {
                    String::new()
                }
            ),
        ),
        row("started by", started.unwrap_or_default().replace('_', " ")),
        row("written down", moment(definition.defined)),
        row("prompts looked at by", looked_at_by(report)),
    ];
    rows.extend(
        definition
            .reason
            .iter()
            .map(|reason| row("expected beforehand", reason.clone())),
    );
    if let Some(quality) = view
        .reading
        .comparisons
        .first()
        .and_then(|comparison| comparison.quality)
        .filter(|quality| quality.theta != 0.0)
    {
        let reduction = percent(quality.variance_reduction);
        rows.push(row(
            "adjustment",
            format!(
                "CUPED on the expected score: θ = {:.3}, {reduction} less variance",
                quality.theta
            ),
        ));
    }
    rows
}

/// What looked at prompts when it was defined, and what does now if that is something else.
fn looked_at_by(report: &ExperimentReport) -> String {
    let Some(then) = report.experiment.definition.features else {
        return "not kept".to_owned();
    };
    match report.provenance.features.filter(|now| *now != then) {
        Some(now) => format!("{then}; when this report was made: {now}"),
        None => then.to_string(),
    }
}

pub(super) const TOTAL_HEAD: &[&str] = &[
    "arm",
    "requests",
    "served itself",
    "scored",
    "mean score",
    "mean cost",
];

pub(super) fn total_rows(report: &ExperimentReport) -> Vec<Vec<String>> {
    let row = |arm: &ArmView| {
        let mean = |sums: &Moments| {
            if sums.samples > 0.0 { sums.mean() } else { f64::NAN }
        };
        vec![
            arm.name.clone(),
            count(arm.exposures),
            count(arm.clean),
            count(arm.scored),
            score(mean(&arm.quality_sums)),
            usd(mean(&arm.cost_sums)),
        ]
    };
    report.experiment.arms.iter().map(row).collect()
}
