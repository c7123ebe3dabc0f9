//! The report of one experiment: what was compared, is it over, what did it save, how sure is that, what to do.

mod checks;
mod html;
mod logged;
mod markdown;
mod questions;
mod tables;
mod text;

pub use logged::{Logged, read as read_log};

use serde::{Deserialize, Serialize};

use super::format::{count, dearer, level, moment, percent, score, span, usd};
use super::{Provenance, Rendered, ReportError};
use crate::evaluation::ab::{Hypothesis, Standing, Verdict};
use crate::evaluation::sequence::Interval;
use crate::experiments::{Event, ExperimentView, Phase};

/// Name and version of the JSON form. The number rises when a member changes meaning or goes.
pub const SCHEMA: &str = "pointsman.report.experiment/2";

const MONTH_MS: f64 = 30.0 * 86_400_000.0;

/// The report, as it stands in `report.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExperimentReport {
    /// [`SCHEMA`].
    pub schema: String,
    /// Who made it, when, with which configuration.
    pub provenance: Provenance,
    /// What to do, in a sentence or two.
    pub outcome: Outcome,
    /// What the treatment saves.
    pub savings: Option<Savings>,
    /// What the decision log says beside it. `None` if it was not asked.
    pub logged: Option<Logged>,
    /// Everything that the experiment says: definition, health, differences, arms, slices, series, raw sums.
    pub experiment: ExperimentView,
    /// Every change of it, oldest first.
    pub events: Vec<Event>,
}

/// The answer to "is it over, and what should I do".
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// `ship`, `stop_for_harm`, `readmitted`, `futile`, `stopped`, `undone`, `unhealthy` or `not_enough_data`.
    pub verdict: String,
    /// In words.
    pub sentence: String,
    /// About so many more requests until the interval decides.
    pub more_needed: Option<u64>,
    /// The same in days at today's rate.
    pub days_needed: Option<f64>,
    /// Chance that a running one comes to a verdict by its end.
    #[serde(default)]
    pub chance: Option<f64>,
}

/// Dollars that the treatment saves against the control; negative if it costs more.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Savings {
    /// A request, with an interval that holds at every sample.
    pub per_request: Interval,
    /// As a share of what the control costs.
    pub share: Interval,
    /// On the treatment's requests until now.
    pub so_far: Interval,
    /// In thirty days, if the treatment had all of this traffic, at today's rate. `None` before there is a rate.
    pub month_at_full_traffic: Option<Interval>,
}

/// Makes the figures.
#[must_use]
pub fn report(view: &ExperimentView, events: &[Event], provenance: &Provenance) -> ExperimentReport {
    ExperimentReport {
        schema: SCHEMA.to_owned(),
        provenance: provenance.clone(),
        outcome: outcome(view, provenance),
        savings: savings(view, provenance),
        logged: None,
        experiment: view.clone(),
        events: events
            .iter()
            .filter(|event| event.experiment == view.definition.name)
            .cloned()
            .collect(),
    }
}

/// Renders the three files.
///
/// # Errors
/// If a plot or the JSON cannot be made.
pub fn render(report: &ExperimentReport) -> Result<Rendered, ReportError> {
    Ok(Rendered {
        markdown: markdown::render(report),
        html: html::render(report)?,
        json: serde_json::to_string_pretty(report)?,
    })
}

/// Requests of the experiment a millisecond.
fn rate(view: &ExperimentView, provenance: &Provenance) -> Option<f64> {
    let until = view.ended.unwrap_or(provenance.generated);
    let length = until.since(view.started).as_millis() as f64;
    let requests: u64 = view.arms.iter().map(|arm| arm.exposures).sum();
    (length > 0.0 && requests > 0).then(|| requests as f64 / length)
}

fn savings(view: &ExperimentView, provenance: &Provenance) -> Option<Savings> {
    let comparison = view.reading.comparisons.first()?;
    let per_request = comparison.cost?.interval.times(-1.0);
    let treatment = view.arms.get(comparison.arm)?;
    let control = view.arms.first()?.cost_usd?.estimate;
    let all = rate(view, provenance).map(|rate| rate / view.coverage.max(1e-9) * MONTH_MS);
    Some(Savings {
        per_request,
        // A request cannot save more than all that it costs.
        share: per_request
            .times(if control > 0.0 { 1.0 / control } else { 0.0 })
            .clamp(f64::NEG_INFINITY, 1.0),
        so_far: per_request.times(treatment.exposures as f64),
        month_at_full_traffic: all.map(|requests| per_request.times(requests)),
    })
}

fn outcome(view: &ExperimentView, provenance: &Provenance) -> Outcome {
    let say = |verdict: &str, sentence: String| Outcome {
        verdict: verdict.to_owned(),
        sentence,
        more_needed: None,
        days_needed: None,
        chance: None,
    };
    let name = |arm: usize| {
        view.arms
            .get(arm)
            .map_or_else(String::new, |arm| arm.variant.clone())
    };
    let found = |arm: usize| found(view, arm);
    let saves = savings(view, provenance).map_or_else(String::new, |savings| {
        if savings.per_request.estimate >= 0.0 {
            format!(
                " The treatment saves {} of the cost.",
                percent(savings.share.estimate)
            )
        } else {
            format!(" The treatment costs {}.", dearer(savings.share.estimate))
        }
    });
    match view.phase {
        Phase::Shipped { arm }
            if view
                .decided
                .iter()
                .flat_map(|decided| &decided.comparisons)
                .any(|c| c.arm == arm && c.standing == Standing::Holds) =>
        {
            let holds = match view.definition.design.hypothesis {
                Hypothesis::NonInferior { margin } => {
                    format!("{} is no more than {margin} below {}", name(arm), name(0))
                }
                Hypothesis::Gain { margin, saving } if !is_better(view, arm) => format!(
                    "{} is no more than {margin} below {}, and costs at least {} less",
                    name(arm),
                    name(0),
                    level(saving)
                ),
                Hypothesis::Superior | Hypothesis::Gain { .. } => {
                    format!("{} scores higher than {}", name(arm), name(0))
                }
            };
            say(
                "ship",
                format!(
                    "It is over, and the hypothesis holds: {holds}{}, {}.{saves} It is in use; nothing needs to be done. To take it back, ask for “undo”.",
                    of_category(view),
                    found(arm)
                ),
            )
        }
        Phase::Shipped { arm } => say(
            "ship",
            format!(
                "It is over: {} was shipped by hand, {}.{saves}",
                name(arm),
                found(arm)
            ),
        ),
        Phase::StoppedForHarm => {
            let broken = view
                .telling()
                .comparisons
                .iter()
                .flat_map(|c| &c.guardrails)
                .find(|g| g.difference.interval.low > g.limit);
            let why = broken.map_or_else(
                || found(1),
                |guardrail| format!("the guardrail “{}” was broken", guardrail.name),
            );
            say(
                "stop_for_harm",
                format!(
                    "It is over: {} is worse than {} by more than allowed ({why}); {} stays, do not use {} here.{}",
                    name(1),
                    name(0),
                    name(0),
                    name(1),
                    resting(view)
                ),
            )
        }
        Phase::Futile => say("futile", futile(view) + &saves),
        Phase::Stopped => say(
            "stopped",
            format!(
                "It was ended before it came to a verdict ({}), and changes nothing.",
                found(1)
            ),
        ),
        Phase::Undone => say(
            "undone",
            format!(
                "What it had changed was taken back; {} is in use again.",
                // What was ruled out, or gave way to the control, without having been shipped.
                name(usize::from(view.decided.as_ref().is_some_and(
                    |decided| !matches!(decided.verdict, Verdict::Ship { .. })
                )))
            ),
        ),
        Phase::Readmitted => say(
            "readmitted",
            format!(
                "It is over: {} was left out, because it was worse than {} by more than allowed ({}), until a retrial found it near enough again{}. It is in use; nothing needs to be done.",
                name(1),
                name(0),
                found(1),
                view.rest
                    .and_then(|rest| rest.readmitted)
                    .map_or_else(String::new, |at| format!(" on {}", moment(at)))
            ),
        ),
        Phase::Running => running(view, provenance, &found(1)),
    }
}

/// When a model that was left out for a drift is asked about again.
fn resting(view: &ExperimentView) -> String {
    let Some(rest) = view.rest.filter(|rest| rest.readmitted.is_none()) else {
        return String::new();
    };
    let before = match rest.failed {
        0 => String::new(),
        1 => ", for the second time".to_owned(),
        failed => format!(", after {failed} times in vain"),
    };
    format!(
        " It is asked about again by itself from {}{before}, on a small part of the traffic.",
        moment(rest.until)
    )
}

/// The end without a verdict, in words.
fn futile(view: &ExperimentView) -> String {
    let name = |arm: usize| view.arms.get(arm).map_or("", |arm| arm.variant.as_str());
    let (found, improbable, staying) = (found(view, 1), improbable(view), name(staying(view)));
    let scores = count(view.telling().units);
    let Hypothesis::Gain { margin, saving } = view.definition.design.hypothesis else {
        return format!(
            "It is over without a verdict: {scores} scored requests did not settle it ({found}){improbable}; {staying} stays. Choose by cost, or widen the margin and ask again."
        );
    };
    let (treatment, control, saving) = (name(1), name(0), level(saving));
    let shown = if is_no_worse(view) {
        format!(
            "{treatment} is no more than {margin} below {control} ({found}), but was shown neither to score higher nor to cost at least {saving} less"
        )
    } else {
        format!(
            "{treatment} was shown neither to score higher than {control}, nor to be no more than {margin} below at a cost that is lower by {saving} or more ({found})"
        )
    };
    format!(
        "It is over, and nothing is gained that {scores} scored requests could show: {shown}{improbable}; {staying} stays."
    )
}

/// Whether the scores of `arm` were higher when it ended.
fn is_better(view: &ExperimentView, arm: usize) -> bool {
    let mut comparisons = view.telling().comparisons.iter();
    let quality = comparisons.find(|c| c.arm == arm).and_then(|c| c.quality);
    quality.is_some_and(|quality| quality.interval.low > 0.0)
}

/// Whether the treatment is no worse than it may be, and gains nothing.
pub(super) fn is_no_worse(view: &ExperimentView) -> bool {
    let mut comparisons = view.telling().comparisons.iter();
    comparisons.any(|c| c.standing == Standing::NoWorse)
}

/// Index of the arm that is in use where nothing was shipped: the control, unless the treatment was in force before and
/// nothing was ruled about it.
fn staying(view: &ExperimentView) -> usize {
    usize::from(view.definition.is_in_force() && view.ruling.is_none())
}

/// To which prompts it is limited, in words; nothing where it is to none.
fn of_category(view: &ExperimentView) -> String {
    let category = view.definition.category.as_deref();
    category.map_or_else(String::new, |category| format!(" for prompts of “{category}”"))
}

/// Why one without a verdict ended before its size.
fn improbable(view: &ExperimentView) -> String {
    let max = view.definition.design.max_samples;
    let ended = view.telling();
    let chance = ended.comparisons.iter().filter_map(|c| c.chance).reduce(f64::max);
    match chance.filter(|_| ended.units < max) {
        Some(chance) => format!(
            ", and the chance that {} would was down to {}",
            count(max),
            percent(chance)
        ),
        None => String::new(),
    }
}

/// The difference of an arm to the control, in words: what the end rests on.
fn found(view: &ExperimentView, arm: usize) -> String {
    let comparison = view
        .telling()
        .comparisons
        .iter()
        .find(|comparison| comparison.arm == arm);
    comparison.and_then(|comparison| comparison.quality).map_or_else(
        || "too few scores for a difference".to_owned(),
        |quality| {
            let Interval { estimate, low, high } = quality.interval;
            format!("difference {estimate:+.3} ({low:+.3} to {high:+.3})")
        },
    )
}

fn running(view: &ExperimentView, provenance: &Provenance, found: &str) -> Outcome {
    if view.reading.verdict == Verdict::Unhealthy {
        return Outcome {
            verdict: "unhealthy".to_owned(),
            sentence:
                "It runs, and a health check fails: no verdict until that is understood. See below which one."
                    .to_owned(),
            more_needed: None,
            days_needed: None,
            chance: None,
        };
    }
    let exposures: u64 = view.arms.iter().map(|arm| arm.exposures).sum();
    let scored: u64 = view.arms.iter().map(|arm| arm.scored).sum();
    let feedback = scored as f64 / exposures.max(1) as f64;
    let end = view
        .definition
        .design
        .max_samples
        .saturating_sub(view.reading.units);
    let (scores, decides) = match view.reading.verdict {
        Verdict::Running { more: Some(more) } => (more, true),
        _ => (end, false),
    };
    let requests = if feedback > 0.0 {
        (scores as f64 / feedback).ceil() as u64
    } else {
        scores
    };
    let days = rate(view, provenance).map(|rate| requests as f64 / rate / 86_400_000.0);
    let when = days.map_or_else(String::new, |days| {
        format!(", {} at today's rate", span(days * 86_400_000.0))
    });
    let chance = view
        .reading
        .comparisons
        .iter()
        .filter_map(|c| c.chance)
        .reduce(f64::max);
    let likely = chance.map_or_else(String::new, |chance| {
        format!(
            " The chance that it comes to a verdict by its end is {}.",
            percent(chance)
        )
    });
    let sentence = if decides {
        format!(
            "Not enough data: about {} more requests{when}, if the difference stays as it is. So far: {found}.{likely} Nothing needs to be done.",
            count(requests)
        )
    } else {
        format!(
            "Not enough data. So far: {found}. It ends after about {} more requests{when}, at the latest.{likely} Nothing needs to be done.",
            count(requests)
        )
    };
    Outcome {
        verdict: "not_enough_data".to_owned(),
        sentence,
        more_needed: Some(requests),
        days_needed: days,
        chance,
    }
}

/// An interval with signs, for differences of scores.
fn signed(interval: &Interval) -> String {
    format!(
        "{:+.3} [{:+.3}, {:+.3}]",
        interval.estimate, interval.low, interval.high
    )
}

fn dollars(interval: &Interval) -> String {
    super::format::interval(interval, usd)
}

fn scores(interval: &Interval) -> String {
    super::format::interval(interval, score)
}

#[cfg(test)]
mod tests;
