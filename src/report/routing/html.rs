//! The routing report as a page.

use maud::{Markup, PreEscaped, html};

use super::parts::RoutingReport;
use super::summary::ALPHA;
use super::text::{
    ARM_HEAD, METHOD, OPE_HEAD, PROVIDER_HEAD, arm_rows, key_figures, ope_rows, provider_rows, subtitle,
    total_rows,
};
use crate::evaluation::sequence::Interval;
use crate::report::page::{self, banner, check_list, figures};
use crate::report::plot::{self, Axes, Line, Row, Scale};
use crate::report::{ReportError, page::table};

pub(super) fn render(report: &RoutingReport) -> Result<String, ReportError> {
    let plots = plots(report)?;
    let tone = match report.outcome.verdict.as_str() {
        "saving" => "good",
        "losing_quality" | "unhealthy" => "bad",
        _ => "plain",
    };
    let lines: Vec<(&str, _, String)> = report
        .health
        .iter()
        .map(|line| (line.name.as_str(), line.health, line.detail.clone()))
        .collect();
    let body = html! {
        h1 { "Routing report" }
        p.sub { (subtitle(report)) }
        (banner(&report.provenance))
        p.verdict.(tone) { (report.outcome.sentence) }
        (figures(&key_figures(report)))
        h2 { "Can the figures be trusted?" }
        (check_list(&lines))
        h2 { "Over time" }
        div.plots { (plots) }
        h2 { "Models" }
        (table("Each model as drawn by the router. Quality counts only answers that the model gave itself, not a fallback.", ARM_HEAD, &arm_rows(report)))
        h2 { "Speed by provider" }
        (table("Over the answers served. A 99th percentile needs 100 samples.", PROVIDER_HEAD, &provider_rows(report)))
        @if !report.off_policy.is_empty() {
            h2 { "What would another policy have done?" }
            p.note { "Estimated from this log by the probabilities with which each model was drawn (doubly robust). Below 100 effective samples the log says too little, and the line is no basis for a decision." }
            (table("The same requests under other policies.", OPE_HEAD, &ope_rows(report)))
        }
        h2 { "Raw totals" }
        p.note { "To recompute everything above." }
        (table("Sums over the whole log.", &["what", "total"], &total_rows(report)))
        (method())
    };
    Ok(page::page("Routing report", &report.provenance, &body))
}

fn plots(report: &RoutingReport) -> Result<Markup, ReportError> {
    let timeline = &report.timeline;
    let xs: Vec<f64> = timeline.at.iter().map(|at| at.0 as f64).collect();
    let along = |values: &[f64]| xs.iter().copied().zip(values.iter().copied()).collect::<Vec<_>>();
    let where_known = |values: &[Option<f64>]| -> Vec<(f64, f64)> {
        let pairs = xs.iter().zip(values);
        pairs.filter_map(|(x, value)| Some((*x, (*value)?))).collect()
    };
    let axes = |label: &str, y, y_range| Axes {
        label: label.to_owned(),
        x: Scale::Time,
        y,
        y_range,
    };
    let line = |points, colour| Line {
        points,
        band: Vec::new(),
        colour,
    };
    let top = |lines: &[Line]| {
        let points = lines.iter().flat_map(|line| &line.points);
        points.fold(1e-9, |most: f64, point| most.max(point.1)) * 1.08
    };

    let dollars =
        |label, lines: &[Line]| plot::lines(&axes(label, Scale::Usd, Some((0.0, top(lines)))), lines);
    let spent = dollars(
        "Money spent so far, against the baseline",
        &[
            line(along(&timeline.baseline_usd), 7),
            line(along(&timeline.spent_usd), 0),
        ],
    )?;
    let each = dollars(
        "Cost of a request, against the baseline",
        &[
            line(where_known(&timeline.baseline_per_request), 7),
            line(where_known(&timeline.cost_per_request), 0),
        ],
    )?;
    let shares = plot::stacked(
        &axes("Share of each model over time", Scale::Share, None),
        &xs,
        &timeline.shares,
    )?;
    let known: Vec<(f64, _)> = xs
        .iter()
        .copied()
        .zip(&timeline.quality)
        .filter_map(|(x, q)| Some((x, (*q)?)))
        .collect();
    let quality = Line {
        points: known.iter().map(|(x, q)| (*x, q.estimate)).collect(),
        band: known.iter().map(|(x, q)| (*x, q.low, q.high)).collect(),
        colour: 2,
    };
    let quality = plot::lines(
        &axes(
            "Mean score so far with its interval",
            Scale::Score,
            Some(score_range(&known)),
        ),
        &[quality],
    )?;
    let reference = report.reference.as_deref().unwrap_or("the best model");
    let legend = [("spent".to_owned(), 0), (format!("always {reference}"), 7)];
    let arms: Vec<(String, usize)> = timeline
        .arms
        .iter()
        .enumerate()
        .map(|(i, arm)| (arm.clone(), i))
        .collect();
    let rows: Vec<Row> = report
        .arms
        .iter()
        .enumerate()
        .filter_map(|(i, arm)| {
            Some(Row {
                label: arm.arm.clone(),
                interval: arm.quality?,
                colour: i.min(page::SERIES - 1),
            })
        })
        .collect();
    let by_model = if rows.is_empty() {
        None
    } else {
        Some(plot::intervals(
            "Quality of each model",
            Scale::Score,
            &rows,
            &[],
        )?)
    };
    let speed = speed(report)?;
    Ok(html! {
        (page::plot("Spend so far", "Against the expected cost of the baseline on the same requests.", &spent, &legend))
        (page::plot("Cost of a request", "Mean over each stretch of time.", &each, &legend))
        (page::plot("Share of models", "Of the requests in each stretch of time.", &shares, &arms))
        (page::plot("Quality so far", "Mean score; the band holds at every moment at once.", &quality, &[]))
        @if let Some(svg) = by_model { (page::plot("Quality by model", "As scored where the router used it: models see different prompts, so this does not rank them.", &svg, &[])) }
        @if let Some(svg) = speed { (page::plot("First token by provider", "From the median (dot) to the 99th percentile.", &svg, &[])) }
    })
}

/// Median to 99th percentile of the first token by provider; nothing until one has a hundred samples.
fn speed(report: &RoutingReport) -> Result<Option<String>, ReportError> {
    let rows: Vec<Row> = report
        .providers
        .iter()
        .enumerate()
        .filter_map(|(colour, provider)| {
            let (p50, p99) = provider.ttft_p50_ms.zip(provider.ttft_p99_ms)?;
            let interval = Interval {
                estimate: p50,
                low: p50,
                high: p99,
            };
            Some(Row {
                label: provider.provider.clone(),
                interval,
                colour,
            })
        })
        .collect();
    if rows.is_empty() {
        return Ok(None);
    }
    plot::intervals("Time to the first token by provider", Scale::Millis, &rows, &[]).map(Some)
}

/// The part of [0, 1] that the later half of the intervals needs.
fn score_range(known: &[(f64, Interval)]) -> (f64, f64) {
    let late = &known[known.len() / 2..];
    let low = late.iter().map(|(_, q)| q.low).fold(1.0, f64::min);
    let high = late.iter().map(|(_, q)| q.high).fold(0.0, f64::max);
    if low >= high {
        (0.0, 1.0)
    } else {
        ((low - 0.05).max(0.0), (high + 0.05).min(1.0))
    }
}

fn method() -> Markup {
    html! {
        details {
            summary { "How these figures are made" }
            @for paragraph in METHOD { p { (PreEscaped(paragraph)) } }
            p { "Error rate of each interval: " (ALPHA) "." }
        }
    }
}
