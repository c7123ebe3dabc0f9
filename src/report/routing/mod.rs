//! The routing report: what the router spent against always using the best model, what it was worth, and whether
//! the figures can be trusted. [`RoutingRow`] is what the log hands over, [`summarise`] makes the figures,
//! [`render`] the three files.

mod health;
mod html;
mod markdown;
pub mod off_policy;
mod outcome;
mod parts;
mod summary;
mod text;
mod timeline;

pub use parts::{
    ArmFigures, HealthLine, OffPolicyLine, Outcome, ProviderFigures, RoutingReport, Timeline, Totals,
};
pub use summary::summarise;

use crate::arm::ArmId;
use crate::units::{UnixMs, Usd};

use super::{Provenance, Rendered, ReportError};

/// Name and version of the JSON form. The number rises when a member changes meaning or goes.
pub const SCHEMA: &str = "pointsman.report.routing/1";

/// One arm that could have served a request, as logged with the decision.
#[derive(Clone, Debug, PartialEq)]
pub struct LoggedCandidate {
    /// Which.
    pub arm: ArmId,
    /// Probability in [0, 1] with which it was drawn.
    pub propensity: f64,
    /// Quality in [0, 1] that the router expected of it.
    pub expected_quality: f64,
    /// What the router expected it to cost.
    pub expected_cost: Usd,
}

/// One request as the log has it: the decision joined with its attempts and its scores.
#[derive(Clone, Debug, PartialEq)]
pub struct RoutingRow {
    /// When it was decided.
    pub at: UnixMs,
    /// The route asked for.
    pub route: String,
    /// Category of the prompt, if it was classified.
    pub category: Option<String>,
    /// The arm that the policy drew: the primary.
    pub arm: ArmId,
    /// The arm that served; `None` if all failed.
    pub served: Option<ArmId>,
    /// Probability in (0, 1] with which `arm` was drawn; `None` if the decision was no draw (a rule, a model named
    /// by the client).
    pub propensity: Option<f64>,
    /// Every arm of the draw. May be empty; then no off-policy estimate uses this row.
    pub candidates: Vec<LoggedCandidate>,
    /// All money that the request cost: every attempt, lost hedges too. `None` if a price was unknown.
    pub cost: Option<Usd>,
    /// The part of it that is known, also where the whole is not.
    pub known_cost: Usd,
    /// Attempts whose cost is unknown, whether they served or not.
    pub unpriced_attempts: u64,
    /// What the always-best baseline (the reference arm) was expected to cost on this very request.
    pub baseline_cost: Option<Usd>,
    /// Time to the first token.
    pub ttft_ms: Option<f64>,
    /// Time to the last token.
    pub total_ms: Option<f64>,
    /// Quality in [0, 1] as scored by the user; the mean, if several rated.
    pub score: Option<f64>,
    /// A fallback served.
    pub fallback: bool,
    /// A hedge was sent.
    pub hedged: bool,
    /// What an answer from the cache would have cost again; `None` for requests that were decided.
    pub saved_by_cache: Option<Usd>,
}

impl RoutingRow {
    /// Whether the score tells about the drawn arm: it served itself, by draw.
    fn on_policy(&self) -> bool {
        !self.fallback && self.propensity.is_some() && self.served.as_ref() == Some(&self.arm)
    }
}

/// What the report is asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Question {
    /// Who asks, when, with which configuration.
    pub provenance: Provenance,
    /// The always-best baseline: the arm whose expected cost is in the rows. `None` if it changed on the way.
    pub reference: Option<ArmId>,
    /// Quality that routing may lose against the reference, for the verdict. 0.02 unless configured.
    pub margin: f64,
}

/// Renders the three files.
///
/// # Errors
/// If a plot or the JSON cannot be made.
pub fn render(report: &RoutingReport) -> Result<Rendered, ReportError> {
    Ok(Rendered {
        markdown: markdown::render(report),
        html: html::render(report)?,
        json: serde_json::to_string_pretty(report)?,
    })
}

#[cfg(test)]
mod tests;
