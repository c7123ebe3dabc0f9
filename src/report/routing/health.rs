//! Whether the log can be trusted.

use std::collections::BTreeMap;

use super::RoutingRow;
use super::parts::{ArmFigures, HealthLine, Totals};
use crate::evaluation::health::{Check, Health, Propensities, equal_rates, propensity_ratio};
use crate::evaluation::moments::MIN_UNITS;
use crate::report::format;

/// The checks, failed ones first.
pub(super) fn health(rows: &[&RoutingRow], totals: &Totals, arms: &[ArmFigures]) -> Vec<HealthLine> {
    let share = |part: u64, whole: u64| {
        if whole == 0 {
            0.0
        } else {
            part as f64 / whole as f64
        }
    };
    let judge = |value: f64, limit: f64, enough: bool| match (enough, value > limit) {
        (false, _) => Health::TooFew,
        (true, true) => Health::Failed,
        (true, false) => Health::Passed,
    };
    let enough = totals.requests as f64 >= MIN_UNITS;
    let line = |name: &str, health, detail| HealthLine {
        name: name.to_owned(),
        health,
        detail,
    };
    let drawn = draw_check(rows, arms);
    let rates: Vec<(u64, u64)> = arms
        .iter()
        .map(|arm| (arm.scored, arm.drawn - arm.failed))
        .collect();
    let feedback = equal_rates(&rates);
    let unpriced = share(totals.unpriced, totals.requests);
    let failed = share(totals.requests - totals.served, totals.requests);
    let fallbacks = share(totals.fallbacks, totals.requests);
    let mut lines = vec![
        line(
            "Draws match the logged propensities",
            drawn.health,
            format!(
                "largest deviation {:.1} standard deviations (p = {:.3})",
                drawn.statistic, drawn.p_value
            ),
        ),
        line(
            "Scores come equally often from every model",
            feedback.health,
            format!(
                "{} of answers are scored; difference between models p = {:.3}",
                format::percent(share(totals.scored, totals.served)),
                feedback.p_value
            ),
        ),
        line(
            "Costs are known",
            judge(unpriced, 0.01, enough),
            format!("{} of requests lack a price or usage", format::percent(unpriced)),
        ),
        line(
            "Requests are served",
            judge(failed, 0.01, enough),
            format!("{} failed on every candidate", format::percent(failed)),
        ),
        line(
            "Fallbacks are rare",
            judge(fallbacks, 0.05, enough),
            format!("{} were served by a fallback", format::percent(fallbacks)),
        ),
    ];
    let rank = |health: Health| match health {
        Health::Failed => 0,
        Health::TooFew => 1,
        Health::Passed => 2,
    };
    lines.sort_by_key(|line| rank(line.health));
    lines
}

/// Sample-ratio mismatch of the draws against the logged propensities.
fn draw_check(rows: &[&RoutingRow], arms: &[ArmFigures]) -> Check {
    let mut sums: BTreeMap<&str, Propensities> = arms
        .iter()
        .map(|arm| (arm.arm.as_str(), Propensities::default()))
        .collect();
    for row in rows.iter().filter(|row| row.propensity.is_some()) {
        for candidate in &row.candidates {
            if let Some(sum) = sums.get_mut(candidate.arm.as_str()) {
                sum.record(candidate.arm == row.arm, candidate.propensity);
            }
        }
    }
    propensity_ratio(&sums.into_values().collect::<Vec<_>>())
}
