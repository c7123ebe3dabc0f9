//! The words and rows that the page and the text have in common.

use super::parts::{RoutingReport, Totals};
use crate::report::format::{self, count, interval, millis, percent, saved_of, score, usd};
use crate::report::page::{Figure, Tone};
use crate::units::Usd;

pub(super) fn subtitle(report: &RoutingReport) -> String {
    match (report.since, report.until) {
        (Some(since), Some(until)) => format!(
            "{} requests from {} to {} ({}), compared with always using {}",
            count(report.totals.requests),
            format::moment(since),
            format::moment(until),
            format::span((until.0 - since.0) as f64),
            report.reference.as_deref().unwrap_or("the best model"),
        ),
        _ => "No requests yet.".to_owned(),
    }
}

pub(super) fn key_figures(report: &RoutingReport) -> Vec<Figure> {
    let figure = |label: &str, value: String, note: String, tone| Figure {
        label: label.to_owned(),
        value,
        note,
        tone,
    };
    let totals = &report.totals;
    let (saved, saved_note, saved_tone) = match (report.saved, report.saved_share) {
        (Some(saved), Some(share)) => (
            usd(saved.estimate),
            format!(
                "{}; 95 % interval {} to {}",
                saved_of(share.estimate, &usd(totals.baseline_cost_usd.dollars())),
                usd(saved.low),
                usd(saved.high)
            ),
            if saved.low > 0.0 {
                Tone::Good
            } else if saved.high < 0.0 {
                Tone::Bad
            } else {
                Tone::Plain
            },
        ),
        _ => ("–".to_owned(), "needs 30 priced requests".to_owned(), Tone::Plain),
    };
    let quality = match report.quality {
        Some(quality) => (
            score(quality.estimate),
            format!(
                "95 % interval {} to {}, from {} scores",
                score(quality.low),
                score(quality.high),
                count(totals.scored)
            ),
        ),
        None => ("–".to_owned(), format!("{} of 30 scores", count(totals.scored))),
    };
    let reference = report.reference.as_deref().unwrap_or("the best model");
    let versus = match report.quality_difference {
        Some(d) => {
            let tone = if d.low > -report.margin {
                Tone::Good
            } else if d.high < -report.margin {
                Tone::Bad
            } else {
                Tone::Plain
            };
            (
                format!("{:+.3}", d.estimate),
                format!(
                    "95 % interval {:+.3} to {:+.3}; margin {}",
                    d.low, d.high, report.margin
                ),
                tone,
            )
        }
        None => (
            "–".to_owned(),
            "too few draws of it to tell".to_owned(),
            Tone::Plain,
        ),
    };
    let (spent, spent_note) = spent(totals);
    let rate = totals.scored as f64 / totals.served.max(1) as f64;
    let mut figures = vec![
        figure("Saved so far", saved, saved_note, saved_tone),
        figure("Spent", spent, spent_note, Tone::Plain),
        figure("Quality", quality.0, quality.1, Tone::Plain),
        figure(
            &format!("Quality against {reference}"),
            versus.0,
            versus.1,
            versus.2,
        ),
        figure(
            "Answers scored",
            percent(rate),
            format!("{} of {}", count(totals.scored), count(totals.served)),
            Tone::Plain,
        ),
    ];
    if totals.cache_hits > 0 {
        figures.push(figure(
            "Saved by the cache",
            usd(totals.cache_saved_usd.dollars()),
            format!(
                "{} more requests were given an answer that was there",
                count(totals.cache_hits)
            ),
            Tone::Good,
        ));
    }
    figures
}

/// What was spent and what it came to a request. What is unknown is said, and never counts as nothing.
fn spent(totals: &Totals) -> (String, String) {
    let priced = totals.requests - totals.unpriced;
    let mean = (totals.cost_usd - totals.partly_known_usd).dollars() / priced as f64;
    let each = format!("{} a request", usd(mean));
    match totals.unpriced_attempts {
        0 => (usd(totals.cost_usd.dollars()), each),
        unknown => {
            let plural = if unknown == 1 { "" } else { "s" };
            let rest = format!("plus {} attempt{plural} of unknown cost", count(unknown));
            if totals.cost_usd == Usd::ZERO && priced == 0 {
                ("unknown".to_owned(), rest)
            } else {
                (usd(totals.cost_usd.dollars()), format!("{each}; {rest}"))
            }
        }
    }
}

pub(super) const ARM_HEAD: &[&str] = &[
    "model",
    "drawn",
    "share",
    "scored",
    "quality [95 %]",
    "cost",
    "a request",
    "failed",
];
pub(super) const PROVIDER_HEAD: &[&str] = &[
    "provider",
    "served",
    "first token p50",
    "p99",
    "samples",
    "whole answer p50",
    "p99",
    "samples",
];
pub(super) const OPE_HEAD: &[&str] = &[
    "policy",
    "quality [95 %]",
    "a request [95 %]",
    "effective samples",
    "enough?",
];

pub(super) fn arm_rows(report: &RoutingReport) -> Vec<Vec<String>> {
    report
        .arms
        .iter()
        .map(|arm| {
            vec![
                arm.arm.clone(),
                count(arm.drawn),
                percent(arm.share),
                count(arm.scored),
                arm.quality.map_or_else(
                    || format!("– ({} scores)", arm.scored),
                    |quality| interval(&quality, score),
                ),
                match arm.unpriced_attempts {
                    0 => usd(arm.cost_usd.dollars()),
                    _ if arm.priced == 0 => "unknown".to_owned(),
                    unknown => format!("{} + {} unknown", usd(arm.cost_usd.dollars()), count(unknown)),
                },
                if arm.priced == 0 {
                    "–".to_owned()
                } else {
                    usd(arm.cost_usd.dollars() / arm.priced as f64)
                },
                count(arm.failed),
            ]
        })
        .collect()
}

pub(super) fn provider_rows(report: &RoutingReport) -> Vec<Vec<String>> {
    let time = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), millis);
    report
        .providers
        .iter()
        .map(|p| {
            vec![
                p.provider.clone(),
                count(p.served),
                time(p.ttft_p50_ms),
                time(p.ttft_p99_ms),
                count(p.ttft_samples),
                time(p.total_p50_ms),
                time(p.total_p99_ms),
                count(p.total_samples),
            ]
        })
        .collect()
}

pub(super) fn ope_rows(report: &RoutingReport) -> Vec<Vec<String>> {
    report
        .off_policy
        .iter()
        .map(|line| {
            let shown = |text: String| if line.enough { text } else { "–".to_owned() };
            vec![
                line.policy.clone(),
                shown(interval(&line.quality, score)),
                shown(interval(&line.cost_usd, usd)),
                format!("{:.0} of {}", line.ess, count(line.decisions)),
                line.standing(),
            ]
        })
        .collect()
}

pub(super) fn total_rows(report: &RoutingReport) -> Vec<Vec<String>> {
    let t = &report.totals;
    let row = |name: &str, value: String| vec![name.to_owned(), value];
    let mut rows = vec![
        row("requests", count(t.requests)),
        row("served", count(t.served)),
        row("scored", count(t.scored)),
        row("sum of scores", format!("{:.4}", t.score_sum)),
        row("sum of squared scores", format!("{:.4}", t.score_square_sum)),
        row("spent", format!("${}", t.cost_usd)),
        row("requests with a baseline figure", count(t.compared)),
        row("spent on those", format!("${}", t.compared_cost_usd)),
        row("baseline on those", format!("${}", t.baseline_cost_usd)),
        row("requests of unknown cost", count(t.unpriced)),
        row("attempts of unknown cost, in no sum", count(t.unpriced_attempts)),
        row(
            "spent on requests of partly unknown cost",
            format!("${}", t.partly_known_usd),
        ),
        row("served by a fallback", count(t.fallbacks)),
        row("hedged", count(t.hedged)),
    ];
    if t.cache_hits > 0 {
        rows.push(row("more, answered from the cache", count(t.cache_hits)));
        rows.push(row("saved by the cache", format!("${}", t.cache_saved_usd)));
    }
    rows
}

/// The method in words, for the page and the text.
pub(super) const METHOD: &[&str] = &[
    "Intervals are asymptotic confidence sequences: they hold at every moment at once, so one may look as often as one likes and stop when they say so.",
    "The saving is the expected cost of the baseline on each request minus everything that the request did cost, lost hedges and failed attempts included. Its interval says how far the mean saving per request could be off for traffic like this.",
    "The quality against the baseline is a doubly robust estimate on answers that the drawn model gave itself; answers of a fallback never count for the model that was drawn.",
];
