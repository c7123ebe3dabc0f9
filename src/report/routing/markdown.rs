//! The routing report as text.

use super::parts::RoutingReport;
use super::text::{
    ARM_HEAD, METHOD, OPE_HEAD, PROVIDER_HEAD, arm_rows, key_figures, ope_rows, provider_rows, subtitle,
    total_rows,
};
use crate::report::page::{SIMULATED, check_word, markdown_table};

pub(super) fn render(report: &RoutingReport) -> String {
    let mut out = format!("# Routing report\n\n{}\n\n", subtitle(report));
    if report.provenance.simulated {
        out += &format!("> {SIMULATED}\n\n");
    }
    out += &format!("**{}**\n\n", report.outcome.sentence);
    let figures: Vec<Vec<String>> = key_figures(report)
        .into_iter()
        .map(|figure| vec![figure.label, figure.value, figure.note])
        .collect();
    out += &markdown_table(&["", "figure", "how sure"], &figures);
    out += "\n## Can the figures be trusted?\n\n";
    for line in &report.health {
        out += &format!("- {}: {} ({})\n", check_word(line.health), line.name, line.detail);
    }
    out += "\n## Models\n\n";
    out += &markdown_table(ARM_HEAD, &arm_rows(report));
    out += "\n## Speed by provider\n\n";
    out += &markdown_table(PROVIDER_HEAD, &provider_rows(report));
    if !report.off_policy.is_empty() {
        out += "\n## What would another policy have done?\n\n";
        out += &markdown_table(OPE_HEAD, &ope_rows(report));
    }
    out += "\n## Raw totals\n\n";
    out += &markdown_table(&["what", "total"], &total_rows(report));
    out += "\n## How these figures are made\n\n";
    for paragraph in METHOD {
        out += &format!("{paragraph}\n\n");
    }
    out += &report.provenance.line();
    out
}
