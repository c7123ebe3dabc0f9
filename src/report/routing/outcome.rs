//! What the figures come to: the one sentence at the head of the report.

use super::RoutingRow;
use super::parts::{Outcome, RoutingReport};
use super::summary::scores;
use crate::evaluation::health::Health;
use crate::evaluation::moments::MIN_UNITS;
use crate::evaluation::sequence::{ConfidenceSequence, Interval};
use crate::report::format;

/// Half-width of the quality interval at which the report dares a verdict.
const PRECISE: f64 = 0.05;
/// Requests beyond which a forecast is not worth making.
const HORIZON: u64 = 1_000_000;

/// What it came to, in a sentence.
pub(super) fn outcome(
    report: &RoutingReport,
    rows: &[&RoutingRow],
    sequence: &ConfidenceSequence,
) -> Outcome {
    let say = |verdict: &str, sentence: String| Outcome {
        verdict: verdict.to_owned(),
        sentence,
        more_needed: None,
        days_needed: None,
    };
    if let Some(alarm) = report.health.iter().find(|line| line.health == Health::Failed) {
        let text = format!(
            "Look at the health checks first: “{}” failed ({}). The figures below may be off until it is understood.",
            alarm.name, alarm.detail
        );
        return say("unhealthy", text);
    }
    let wide = report
        .quality
        .is_none_or(|quality| quality.half_width() > PRECISE);
    let (Some(saved), Some(quality), false) = (report.saved, report.quality, wide) else {
        return not_enough(report, rows, sequence);
    };
    let reference = report.reference.as_deref().unwrap_or("the best model");
    let share = report.saved_share.map_or(f64::NAN, |interval| interval.estimate);
    let answer = format!("Answers score {}", within(&quality, format::score));
    let signed = |value: f64| format!("{value:+.3}");
    let always = format!("what always using {reference} would have cost");
    match report.quality_difference {
        Some(difference) if difference.high < -report.margin => say(
            "losing_quality",
            format!(
                "Routing scores {} below always using {reference}, more than the margin of {} allows. Narrow the \
                 quality margin, or name {reference} directly where quality matters.",
                format::score(-difference.estimate),
                report.margin
            ),
        ),
        _ if saved.low > 0.0 => {
            let compared = match report.quality_difference {
                Some(difference) if difference.low > -report.margin => format!(
                    "The difference to {reference} is {}: within the margin of {}. Keep it on.",
                    within(&difference, signed),
                    report.margin
                ),
                Some(difference) => format!(
                    "The difference to {reference} is {}: not yet sure to be within the margin of {}. Keep it on, \
                     and keep scoring.",
                    within(&difference, signed),
                    report.margin
                ),
                None => format!(
                    "There are too few scored draws of {reference} to compare the quality with it. Keep it on, and \
                     keep scoring."
                ),
            };
            let text = format!(
                "Routing saved {}. {answer}. {compared}",
                format::saved_of(share, &always)
            );
            say("saving", text)
        }
        _ if saved.high > 0.0 => say(
            "not_yet_sure",
            format!(
                "It is not yet sure whether routing saves money here: so far {} ({} to {}). {answer}. More requests \
                 will tell.",
                format::saved_of(share, &always),
                format::usd(saved.low),
                format::usd(saved.high)
            ),
        ),
        _ => say(
            "not_saving",
            format!(
                "Routing does not save money here ({}). {answer}. \
                 Widen the quality margin, add a cheaper model to the route, or name {reference} directly.",
                format::saved_of(share, &always)
            ),
        ),
    }
}

/// An interval in words.
fn within(interval: &Interval, each: impl Fn(f64) -> String) -> String {
    format!(
        "{} ({} to {})",
        each(interval.estimate),
        each(interval.low),
        each(interval.high)
    )
}

/// "Not enough data", with how much more it takes and how long that is at today's rate.
fn not_enough(report: &RoutingReport, rows: &[&RoutingRow], sequence: &ConfidenceSequence) -> Outcome {
    let sums = scores(rows);
    let variance = if sums.units() >= MIN_UNITS {
        sums.units() * sums.mean_variance(0.0, Some((0.0, 1.0)))
    } else {
        0.25
    };
    let needed = sequence
        .samples_for(PRECISE, variance, HORIZON)
        .unwrap_or(HORIZON);
    let scored = report.totals.scored;
    let more_scores = needed.saturating_sub(scored).max(1);
    let rate = (scored as f64 / report.totals.requests.max(1) as f64).max(0.01);
    let more = if scored == 0 {
        more_scores
    } else {
        (more_scores as f64 / rate).ceil() as u64
    };
    let span = report
        .until
        .zip(report.since)
        .map_or(0, |(until, since)| until.0 - since.0);
    let days = (span > 0 && report.totals.requests > 1)
        .then(|| more as f64 * span as f64 / report.totals.requests as f64 / 86_400_000.0);
    let at_rate = days.map_or(String::new(), |days| {
        format!(", {} at today's rate", format::span(days * 86_400_000.0))
    });
    let sentence = if scored == 0 {
        format!(
            "Not enough data: no answer has been scored yet. Post scores to /v1/feedback; about {} are needed.",
            format::count(more)
        )
    } else {
        format!(
            "Not enough data: about {} more requests{at_rate}.",
            format::count(more)
        )
    };
    Outcome {
        verdict: "not_enough_data".to_owned(),
        sentence,
        more_needed: Some(more),
        days_needed: days,
    }
}
