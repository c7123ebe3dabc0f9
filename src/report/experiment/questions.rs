//! A newcomer's questions, answered in the order in which they come up.

use super::text::{later, usd_signed};
use super::{ExperimentReport, Savings, found, is_no_worse, of_category};
use crate::evaluation::ab::Hypothesis;
use crate::evaluation::health::Health;
use crate::experiments::{ArmView, Origin, Phase, StickyBy};
use crate::report::format::{count, dearer, level, moment, percent, span, usd};

/// Questions with their answers.
pub(super) fn questions(report: &ExperimentReport) -> Vec<(&'static str, String)> {
    vec![
        ("What was compared?", compared(report)),
        ("Is it over?", over(report)),
        ("What does it save?", saved(report)),
        ("How sure is that?", sure(report)),
        ("What should I do?", advice(report)),
    ]
}

fn compared(report: &ExperimentReport) -> String {
    let view = &report.experiment;
    let arms: Vec<String> = view
        .arms
        .iter()
        .map(|arm| format!("{} ({})", arm.variant, arm.name))
        .collect();
    let unit = match view.definition.sticky_by {
        StickyBy::Request => "Each request",
        StickyBy::User => "Each user",
        StickyBy::Session => "Each session",
    };
    let what = of_category(view);
    format!(
        "{} on the route “{}”{what}. {unit} was given to one of them by lot, on {} of the traffic.",
        arms.join(" and "),
        view.definition.route,
        level(view.definition.coverage)
    )
}

fn over(report: &ExperimentReport) -> String {
    let view = &report.experiment;
    let when = view
        .ended
        .map_or_else(String::new, |ended| format!(" since {}", moment(ended)));
    match view.phase {
        Phase::Running => {
            let outcome = &report.outcome;
            let Some(more) = outcome.more_needed else {
                return "No.".to_owned();
            };
            let when = outcome.days_needed.map_or_else(String::new, |days| {
                format!(", {} at today's rate", span(days * 86_400_000.0))
            });
            let likely = outcome.chance.map_or_else(String::new, |chance| {
                format!("; it comes to a verdict with a chance of {}", percent(chance))
            });
            format!("No. About {} more requests{when}{likely}.", count(more))
        }
        Phase::Shipped { arm } => {
            let name = view.arms.get(arm).map_or("", |arm| arm.variant.as_str());
            format!("Yes{when}: {name} is in use{}.", of_category(view))
        }
        Phase::StoppedForHarm => format!("Yes{when}: it was stopped, because the treatment did harm."),
        Phase::Futile if is_no_worse(view) => {
            format!("Yes{when}: the treatment is no worse, but nothing is gained by it.")
        }
        Phase::Futile => format!("Yes{when}, without a verdict: the scores did not settle it."),
        Phase::Stopped => format!("Yes{when}: it was ended before it came to a verdict."),
        Phase::Undone => format!("Yes{when}, and what it had changed was taken back."),
        Phase::Readmitted => {
            format!("Yes{when}: the treatment did harm and was left out, and is let in again.")
        }
    }
}

fn saved(report: &ExperimentReport) -> String {
    let Some(Savings {
        per_request,
        share,
        so_far,
        month_at_full_traffic,
    }) = &report.savings
    else {
        return "Not known yet: 30 priced requests in each arm are needed.".to_owned();
    };
    let more = per_request.estimate < 0.0;
    let mut answer = if more {
        format!(
            "Nothing: the treatment costs {} ({}).",
            dearer(share.estimate),
            usd_signed(-per_request.estimate)
        )
    } else {
        format!(
            "{} of the cost ({}): {} on the treatment's requests until now",
            percent(share.estimate),
            usd_signed(per_request.estimate),
            usd(so_far.estimate)
        )
    };
    if let (Some(month), false) = (month_at_full_traffic, more) {
        answer += &format!(
            ", and {} to {} in 30 days, were all traffic like it and served so.",
            usd(month.low),
            usd(month.high)
        );
    } else if !more {
        answer.push('.');
    }
    answer
}

fn sure(report: &ExperimentReport) -> String {
    let view = &report.experiment;
    let checks = &view.reading.checks;
    let failed = [
        &checks.sample_ratio,
        &checks.feedback_rate,
        &checks.multiple_exposure,
    ]
    .iter()
    .any(|check| check.health == Health::Failed);
    if failed {
        return "Not at all: a health check fails, see below. Until it is understood no figure here counts."
            .to_owned();
    }
    let scored: u64 = view.arms.iter().map(|arm: &ArmView| arm.scored).sum();
    format!(
        "Mean score of treatment minus control: {}, from {} scores{}. The interval holds with {} however often one looks.",
        found(view, 1),
        count(view.decided.as_ref().map_or(scored, |decided| decided.units)),
        later(report).map_or_else(String::new, |later| format!("; {later}")),
        level(1.0 - view.definition.design.alpha)
    )
}

fn advice(report: &ExperimentReport) -> String {
    let view = &report.experiment;
    let name = &view.definition.name;
    let undo = format!("POST /v1/experiments/{name} with {{\"action\": \"undo\"}} takes it back");
    match view.phase {
        Phase::Running if report.outcome.verdict == "unhealthy" => {
            "Find out why the check fails: a client that retries, a filter before the router, scores that come from one arm's users only.".to_owned()
        }
        Phase::Running => "Nothing. It ends by itself, by its rule or at its size.".to_owned(),
        Phase::Shipped { .. } => format!("Nothing. If you disagree, {undo}."),
        Phase::StoppedForHarm | Phase::Futile if view.definition.origin == Origin::Retrial => {
            "Nothing: the treatment stays left out, and is asked about again after a longer rest.".to_owned()
        }
        Phase::StoppedForHarm if view.rest.is_some() => {
            format!("Nothing: the treatment is left out until it is well again. If you disagree, {undo}; {{\"action\": \"stop\"}} leaves it out for good.")
        }
        Phase::StoppedForHarm if view.ruling.is_some() => {
            format!("Nothing: the treatment is left out. If you disagree, {undo}.")
        }
        Phase::StoppedForHarm => "Keep the control.".to_owned(),
        Phase::Futile if view.ruling.is_some() => {
            format!("Nothing: the control stays in use. If you want the treatment all the same, {undo}.")
        }
        Phase::Futile if matches!(view.definition.design.hypothesis, Hypothesis::Gain { .. }) => {
            "Nothing.".to_owned()
        }
        Phase::Futile => {
            "Choose by cost or by taste, or ask again with a wider margin. The control stays until then.".to_owned()
        }
        Phase::Stopped => "Nothing. Start it again under another name if the question is still open.".to_owned(),
        Phase::Undone | Phase::Readmitted => "Nothing.".to_owned(),
    }
}
