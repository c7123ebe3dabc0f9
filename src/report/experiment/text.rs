//! The words and rows that the page and the text have in common.

use super::{ExperimentReport, dollars, scores, signed};
use crate::evaluation::ab::{Hypothesis, Reading, Standing};
use crate::evaluation::health::{ALARM_P, Check, Health};
use crate::evaluation::moments::Difference;
use crate::evaluation::sequence::Interval;
use crate::experiments::{ArmView, Event, EventKind, Split, StickyBy};
use crate::report::format::{count, level, millis, moment, percent, score, span, usd};
use crate::report::page::{Figure, Tone};

pub(super) fn subtitle(report: &ExperimentReport) -> String {
    let view = &report.experiment;
    let until = view.ended.map_or_else(|| "now, still running".to_owned(), moment);
    let length = view
        .ended
        .unwrap_or(report.provenance.generated)
        .since(view.started)
        .as_millis() as f64;
    format!(
        "{}, from {} to {until} ({})",
        view.definition.statement,
        moment(view.started),
        span(length)
    )
}

pub(super) fn key_figures(report: &ExperimentReport) -> Vec<Figure> {
    let view = &report.experiment;
    let threshold = view.definition.design.hypothesis.threshold();
    let figure = |label: &str, value: String, note: String, tone| Figure {
        label: label.to_owned(),
        value,
        note,
        tone,
    };
    let quality = of_first(view.telling());
    let difference = match quality {
        Some(found) => {
            let interval = found.interval;
            let tone = if interval.low > threshold {
                Tone::Good
            } else if interval.high < threshold {
                Tone::Bad
            } else {
                Tone::Plain
            };
            let level = level(1.0 - view.definition.design.alpha);
            let since = later(report).map_or_else(String::new, |later| format!("; {later}"));
            let note = format!(
                "{level} interval {:+.3} to {:+.3}; must lie above {threshold}{since}",
                interval.low, interval.high
            );
            figure(
                "Difference of the score",
                format!("{:+.3}", interval.estimate),
                note,
                tone,
            )
        }
        None => figure(
            "Difference of the score",
            "–".to_owned(),
            "needs 30 scores in each arm".to_owned(),
            Tone::Plain,
        ),
    };
    let mut figures = vec![difference];
    match &report.savings {
        Some(savings) => {
            let tone = if savings.per_request.low > 0.0 {
                Tone::Good
            } else if savings.per_request.high < 0.0 {
                Tone::Bad
            } else {
                Tone::Plain
            };
            let note = format!(
                "interval {} to {}; {}",
                percent(savings.share.low),
                percent(savings.share.high),
                usd_signed(savings.per_request.estimate)
            );
            figures.push(figure(
                "Saved on a request",
                percent(savings.share.estimate),
                note,
                tone,
            ));
            if let Some(month) = savings.month_at_full_traffic {
                let note = format!(
                    "in 30 days at today's rate; interval {} to {}",
                    usd(month.low),
                    usd(month.high)
                );
                figures.push(figure("At 100 % of the traffic", usd(month.estimate), note, tone));
            }
        }
        None => figures.push(figure(
            "Saved on a request",
            "–".to_owned(),
            "needs 30 priced requests in each arm".to_owned(),
            Tone::Plain,
        )),
    }
    let exposures: u64 = view.arms.iter().map(|arm| arm.exposures).sum();
    let scored: u64 = view.arms.iter().map(|arm| arm.scored).sum();
    let note = format!(
        "of {} requests; it ends at {} scores at the latest",
        count(exposures),
        count(view.definition.design.max_samples)
    );
    figures.push(figure("Scored", count(scored), note, Tone::Plain));
    figures
}

fn of_first(reading: &Reading) -> Option<Difference> {
    reading.comparisons.first()?.quality
}

/// What the scores have come to since the end, if any came: they are counted and decide nothing.
pub(super) fn later(report: &ExperimentReport) -> Option<String> {
    let view = &report.experiment;
    let decided = view.decided.as_ref()?;
    let more = view
        .reading
        .units
        .checked_sub(decided.units)
        .filter(|more| *more > 0)?;
    let now = of_first(&view.reading)?.interval;
    Some(format!(
        "with {} more that came after the end {:+.3} ({:+.3} to {:+.3})",
        count(more),
        now.estimate,
        now.low,
        now.high
    ))
}

pub(super) fn usd_signed(dollars: f64) -> String {
    format!("{} a request", usd(dollars))
}

fn shares(interval: &Interval) -> String {
    crate::report::format::interval(interval, percent)
}

/// Name, check and what its figure means.
pub(super) fn checks(report: &ExperimentReport) -> Vec<(&'static str, Health, String)> {
    let checks = &report.experiment.reading.checks;
    let multiple = if report.experiment.definition.sticky_by == StickyBy::Request {
        (
            "Nobody saw two arms",
            Health::Passed,
            "each request is a unit of its own".to_owned(),
        )
    } else {
        let share = percent(checks.multiple_exposure.statistic);
        (
            "Nobody saw two arms",
            checks.multiple_exposure.health,
            format!("{share} of units that came again"),
        )
    };
    let rates: Vec<String> = report
        .experiment
        .arms
        .iter()
        .map(|arm| {
            format!(
                "{} {}",
                arm.name,
                percent(arm.scored as f64 / arm.clean.max(1) as f64)
            )
        })
        .collect();
    vec![
        (
            "The split is as designed",
            checks.sample_ratio.health,
            p(&checks.sample_ratio),
        ),
        (
            "Answers are scored equally often",
            checks.feedback_rate.health,
            format!("{}; {}", rates.join(", "), p(&checks.feedback_rate)),
        ),
        multiple,
    ]
    .into_iter()
    .chain(exposure(report))
    .chain(missing(report))
    .collect()
}

/// Whether what was assigned was called, by the decision log.
fn exposure(report: &ExperimentReport) -> Option<(&'static str, Health, String)> {
    let logged = report.logged.as_ref()?;
    let arms = report
        .experiment
        .arms
        .iter()
        .zip(&logged.assigned)
        .zip(&logged.called);
    let rates: Vec<String> = arms
        .map(|((arm, assigned), called)| {
            format!(
                "{} {}",
                arm.name,
                percent(*called as f64 / (*assigned).max(1) as f64)
            )
        })
        .collect();
    let detail = format!("{}; {}", rates.join(", "), p(&logged.exposure));
    Some((
        "Assigned requests are called equally often",
        logged.exposure.health,
        detail,
    ))
}

/// Whether the difference stays when categories that are scored less are weighed up.
fn missing(report: &ExperimentReport) -> Option<(&'static str, Health, String)> {
    let weighted = report.experiment.weighted_difference?;
    let plain = report.experiment.reading.comparisons.first()?.quality?.interval;
    let health = if weighted.contains(plain.estimate) {
        Health::Passed
    } else {
        Health::Failed
    };
    let detail = format!("weighted by category, the difference is {}", signed(&weighted));
    Some(("Missing scores do not make the difference", health, detail))
}

fn p(check: &Check) -> String {
    format!(
        "p = {:.4}; alarm below {ALARM_P}, however often one looks",
        check.p_value
    )
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
                if line.enough { "yes" } else { "no" }.to_owned(),
            ]
        })
        .collect()
}

/// What happened, with the many moves of a split put together.
pub(super) fn happened(report: &ExperimentReport) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut moves = 0;
    for (index, event) in report.events.iter().enumerate() {
        let is_move = |event: &Event| matches!(event.kind, EventKind::Reallocated { .. });
        if is_move(event) && report.events.get(index + 1).is_some_and(is_move) {
            moves += 1;
            continue;
        }
        let before = if moves > 0 {
            format!(" (after {moves} smaller moves)")
        } else {
            String::new()
        };
        moves = 0;
        lines.push(format!("{}: {}{before}", moment(event.at), event.kind));
    }
    lines
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

pub(super) fn standing(standing: Standing) -> &'static str {
    match standing {
        Standing::Open => "open",
        Standing::Holds => "holds",
        Standing::Refuted => "refuted",
        Standing::Harmful => "harmful",
    }
}

pub(super) fn total_rows(report: &ExperimentReport) -> Vec<Vec<String>> {
    let row = |arm: &ArmView| {
        let mean = |sums: &crate::evaluation::moments::Moments| {
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

pub(super) const TOTAL_HEAD: &[&str] = &[
    "arm",
    "requests",
    "served itself",
    "scored",
    "mean score",
    "mean cost",
];

pub(super) const METHOD: &[&str] = &[
    "The interval shown is the stopping rule: an asymptotic confidence sequence on the difference of means, which holds at every sample at once. Looking often does not make it wrong.",
    "Only answers that an arm gave itself count for its score. A request that a fallback or a hedge had to serve counts as a failure of the arm.",
    "Each sample is weighted by the inverse of the probability with which its arm was chosen, so a split that moves while the traffic changes does not distort the comparison.",
];
