//! The health checks as the page and the text show them.

use super::{ExperimentReport, signed};
use crate::evaluation::health::{ALARM_P, Check, Health};
use crate::experiments::StickyBy;
use crate::report::format::percent;

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
