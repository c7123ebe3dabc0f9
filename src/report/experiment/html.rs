//! The experiment report as a page.

use maud::{Markup, html};

use super::ExperimentReport;
use super::checks::checks;
use super::questions::questions;
use super::tables::{
    ARM_HEAD, GUARD_HEAD, OFF_POLICY_HEAD, SLICE_HEAD, SPEED_HEAD, TOTAL_HEAD, arm_rows, design_rows,
    guard_rows, off_policy_rows, slice_rows, small_slices, speed_rows, total_rows,
};
use super::text::{METHOD, happened, key_figures, subtitle};
use crate::report::ReportError;
use crate::report::page::{self, SERIES, banner, check_list, facts, figures, table};
use crate::report::plot::{self, Axes, Line, Row, Scale};

pub(super) fn render(report: &ExperimentReport) -> Result<String, ReportError> {
    let view = &report.experiment;
    let title = format!("Experiment {}", view.definition.name);
    let tone = match report.outcome.verdict.as_str() {
        "ship" => "good",
        "stop_for_harm" | "unhealthy" => "bad",
        _ => "plain",
    };
    let plots = plots(report)?;
    let guards = guard_rows(report);
    let (slices, policies) = (slice_rows(report), off_policy_rows(report));
    let body = html! {
        h1 { (title) }
        p.sub { (subtitle(report)) "." }
        (banner(&report.provenance))
        p.verdict.(tone) { (report.outcome.sentence) }
        dl.questions { @for (question, answer) in questions(report) { dt { (question) } dd { (answer) } } }
        (figures(&key_figures(report)))
        h2 { "Can the figures be trusted?" }
        (check_list(&checks(report)))
        h2 { "What was found" }
        (table("Each arm. Score and cost with intervals that hold at every sample.", ARM_HEAD, &arm_rows(report)))
        div.plots { (plots) }
        (table("Speed of each arm's own answers.", SPEED_HEAD, &speed_rows(report)))
        @if !guards.is_empty() {
            h2 { "Guardrails" }
            (table("What a treatment must not make worse: treatment minus control.", GUARD_HEAD, &guards))
        }
        @if !view.slices.is_empty() {
            h2 { "Where does it differ?" }
            p.note { "Among several slices one will look different by chance; the last column corrects for that (Benjamini–Hochberg at 5 %)." }
            @if !slices.is_empty() { (table("Difference in each part of the traffic.", SLICE_HEAD, &slices)) }
            @if let Some(small) = small_slices(report) { p.note { (small) } }
        }
        @if !policies.is_empty() {
            h2 { "What would another policy have cost and scored?" }
            p.note { "Estimated on all requests of the route in this time, from the probabilities that were logged with each decision (doubly robust). Where the log says too little about a policy, the last column says no." }
            (table("Other policies on the same requests.", OFF_POLICY_HEAD, &policies))
        }
        h2 { "What was asked" }
        (facts("Fixed before the first sample.", &design_rows(report)))
        h2 { "What happened" }
        (events(report))
        h2 { "Raw totals" }
        p.note { "The weighted sums behind the intervals are in report.json, under experiment.arms." }
        (table("Counts and plain means.", TOTAL_HEAD, &total_rows(report)))
        details { summary { "How these figures are made" } @for paragraph in METHOD { p { (paragraph) } } }
    };
    Ok(page::page(&title, &report.provenance, &body))
}

fn events(report: &ExperimentReport) -> Markup {
    html! {
        @if report.events.is_empty() { p.note { "No change is in the log." } }
        ul { @for line in happened(report) { li { (line) } } }
    }
}

fn plots(report: &ExperimentReport) -> Result<Markup, ReportError> {
    let view = &report.experiment;
    let threshold = view.definition.design.hypothesis.threshold();
    let series = &view.series;
    let first = series.first().map_or(0.0, |point| point.units as f64);
    let last = series.last().map_or(1.0, |point| point.units as f64);
    let mut lines = vec![Line {
        points: vec![(first, threshold), (last, threshold)],
        colour: 7,
        ..Line::default()
    }];
    let mut legend = vec![(format!("must lie above {threshold}"), 7)];
    for (index, arm) in view.arms.iter().skip(1).enumerate() {
        let known: Vec<(f64, crate::evaluation::sequence::Interval)> = series
            .iter()
            .filter_map(|point| Some((point.units as f64, (*point.differences.get(index)?)?)))
            .collect();
        lines.push(Line {
            points: known
                .iter()
                .map(|(x, interval)| (*x, interval.estimate))
                .collect(),
            band: known
                .iter()
                .map(|(x, interval)| (*x, interval.low, interval.high))
                .collect(),
            colour: index,
        });
        legend.push((format!("{} minus {}", arm.name, view.arms[0].name), index));
    }
    let widest = lines
        .iter()
        .flat_map(|line| line.band.iter().skip(line.band.len() / 4))
        .fold(threshold.abs() * 1.5 + 0.01, |widest, (_, low, high)| {
            widest.max(low.abs()).max(high.abs())
        });
    let axes = |label: &str, y, y_range| Axes {
        label: label.to_owned(),
        x: Scale::Count,
        y,
        y_range,
    };
    let difference = plot::lines(
        &axes(
            "Difference of the mean score over scored requests",
            Scale::Score,
            Some((-widest, widest)),
        ),
        &lines,
    )?;
    let xs: Vec<f64> = series.iter().map(|point| point.units as f64).collect();
    let shares: Vec<Vec<f64>> = (0..view.arms.len())
        .map(|arm| {
            series
                .iter()
                .map(|point| point.shares.get(arm).copied().unwrap_or(0.0))
                .collect()
        })
        .collect();
    let split = plot::stacked(
        &axes("Share of each arm over scored requests", Scale::Share, None),
        &xs,
        &shares,
    )?;
    let names: Vec<(String, usize)> = view
        .arms
        .iter()
        .enumerate()
        .map(|(i, arm)| (arm.name.clone(), i))
        .collect();
    let rows: Vec<Row> = view
        .slices
        .iter()
        .filter_map(|slice| {
            Some(Row {
                label: slice.name.clone(),
                interval: slice.difference?,
                colour: if slice.significant { 1 } else { 0 },
            })
        })
        .take(SERIES * 2)
        .collect();
    let forest = if rows.is_empty() {
        None
    } else {
        Some(plot::intervals(
            "Difference in each slice",
            Scale::Score,
            &rows,
            &[0.0, threshold],
        )?)
    };
    Ok(html! {
        (page::plot("Difference so far", "By scored requests; the band is the stopping rule.", &difference, &legend))
        (page::plot("Split", "Share of each arm as units were let in.", &split, &names))
        @if let Some(svg) = forest { (page::plot("Difference by slice", "Upright lines: no difference, and the margin.", &svg, &[])) }
    })
}
