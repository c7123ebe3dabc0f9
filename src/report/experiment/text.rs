//! The words that the page and the text have in common.

use super::ExperimentReport;
use crate::evaluation::ab::{Reading, Standing};
use crate::evaluation::moments::Difference;
use crate::experiments::{Event, EventKind};
use crate::report::format::{count, level, moment, saved, span, usd};
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
                saved(savings.share.low),
                saved(savings.share.high),
                usd_signed(savings.per_request.estimate)
            );
            figures.push(figure(
                "Saved on a request",
                saved(savings.share.estimate),
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

pub(super) fn standing(standing: Standing) -> &'static str {
    match standing {
        Standing::Open => "open",
        Standing::NoWorse => "no worse, and nothing gained",
        Standing::Holds => "holds",
        Standing::Refuted => "refuted",
        Standing::Harmful => "harmful",
    }
}

pub(super) const METHOD: &[&str] = &[
    "The interval shown is the stopping rule: an asymptotic confidence sequence on the difference of means, which holds at every sample at once. Looking often does not make it wrong.",
    "Only answers that an arm gave itself count for its score. A request that a fallback or a hedge had to serve counts as a failure of the arm.",
    "Each sample is weighted by the inverse of the probability with which its arm was chosen, so a split that moves while the traffic changes does not distort the comparison.",
];
