//! The experiment report as text.

use super::ExperimentReport;
use super::checks::checks;
use super::questions::questions;
use super::tables::{
    ARM_HEAD, GUARD_HEAD, OFF_POLICY_HEAD, SLICE_HEAD, SPEED_HEAD, TOTAL_HEAD, arm_rows, design_rows,
    guard_rows, off_policy_rows, slice_rows, small_slices, speed_rows, total_rows,
};
use super::text::{METHOD, happened, key_figures, standing, subtitle};
use crate::report::page::{SIMULATED, check_word, markdown_table};

pub(super) fn render(report: &ExperimentReport) -> String {
    let view = &report.experiment;
    let mut out = format!(
        "# Experiment {}\n\n{}.\n\n",
        view.definition.name,
        subtitle(report)
    );
    if report.provenance.simulated {
        out += &format!("> {SIMULATED}\n\n");
    }
    out += &format!("**{}**\n\n", report.outcome.sentence);
    for (question, answer) in questions(report) {
        out += &format!("- **{question}** {answer}\n");
    }
    out.push('\n');
    let figures: Vec<Vec<String>> = key_figures(report)
        .into_iter()
        .map(|figure| vec![figure.label, figure.value, figure.note])
        .collect();
    out += &markdown_table(&["", "figure", "how sure"], &figures);
    out += "\n## Can the figures be trusted?\n\n";
    for (name, health, detail) in checks(report) {
        out += &format!("- {}: {name} ({detail})\n", check_word(health));
    }
    let mut section = |title: &str, head: &[&str], rows: &[Vec<String>]| {
        if !rows.is_empty() {
            out += &format!("\n## {title}\n\n{}", markdown_table(head, rows));
        }
    };
    section("Arms", ARM_HEAD, &arm_rows(report));
    section("Speed", SPEED_HEAD, &speed_rows(report));
    section("Guardrails", GUARD_HEAD, &guard_rows(report));
    section("Where does it differ?", SLICE_HEAD, &slice_rows(report));
    section(
        "What would another policy have cost and scored?",
        OFF_POLICY_HEAD,
        &off_policy_rows(report),
    );
    section(
        "What was asked",
        &["", "fixed before the first sample"],
        &design_rows(report),
    );
    section("Raw totals", TOTAL_HEAD, &total_rows(report));
    if let Some(small) = small_slices(report) {
        out += &format!("\n{small}\n");
    }
    out += "\n## What happened\n\n";
    for line in happened(report) {
        out += &format!("- {line}\n");
    }
    for comparison in &view.reading.comparisons {
        let name = view.arms.get(comparison.arm).map_or("", |arm| arm.name.as_str());
        out += &format!("- Hypothesis for {name}: {}\n", standing(comparison.standing));
    }
    out += "\n## How these figures are made\n\n";
    for paragraph in METHOD {
        out += &format!("{paragraph}\n\n");
    }
    out += &report.provenance.line();
    out
}
