//! What is written to the log: every change of every experiment.

use serde::{Deserialize, Serialize};

use super::definition::Definition;
use crate::evaluation::ab::Verdict;
use crate::units::UnixMs;

/// One change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// When.
    pub at: UnixMs,
    /// Of which experiment.
    pub experiment: String,
    /// What.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// What changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum EventKind {
    /// Defined, hypothesis and all, before the first sample.
    Defined {
        /// The whole definition.
        definition: Box<Definition>,
    },
    /// Defined, but its layer is full.
    Waiting,
    /// First units are let in.
    Started,
    /// The split or the part of traffic was changed.
    Reallocated {
        /// New share of each arm.
        shares: Vec<f64>,
        /// Share of the layer that takes part.
        coverage: f64,
    },
    /// A health check failed, or passes again.
    Health {
        /// Whether a check fails.
        failed: bool,
    },
    /// It came to an end by its own rule.
    Decided {
        /// What it came to.
        verdict: Verdict,
        /// Scored units.
        units: u64,
    },
    /// The model that it left out is asked about again later.
    Resting {
        /// After so long.
        rest_ms: i64,
    },
    /// The model that it left out is let in again, because a retrial found it near enough.
    Readmitted,
    /// What it had left out is a candidate again.
    Reopened {
        /// Why.
        reason: String,
    },
    /// Somebody ended, shipped or undid it.
    Overridden {
        /// What was asked.
        intervention: String,
        /// Why, in their words.
        reason: String,
    },
}

/// In words, for reports and the terminal.
impl std::fmt::Display for EventKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Defined { definition } => write!(f, "defined: {}", definition.statement),
            Self::Waiting => f.write_str("waits until its layer has room"),
            Self::Started => f.write_str("first units let in"),
            Self::Reallocated { shares, coverage } => {
                let shares: Vec<String> = shares
                    .iter()
                    .map(|share| format!("{:.0} %", 100.0 * share))
                    .collect();
                write!(
                    f,
                    "split moved to {} on {:.0} % of the traffic",
                    shares.join(" / "),
                    100.0 * coverage
                )
            }
            Self::Health { failed: true } => f.write_str("a health check fails: no verdict until it passes"),
            Self::Health { failed: false } => f.write_str("the health checks pass again"),
            Self::Decided { verdict, units } => {
                let what = match verdict {
                    Verdict::Ship { .. } => "ship",
                    Verdict::Harm => "stop for harm",
                    _ => "no verdict, and going on is not worth it",
                };
                write!(f, "decided after {units} scores: {what}")
            }
            Self::Resting { rest_ms } => {
                let hours = *rest_ms as f64 / 3.6e6;
                write!(f, "the model rests; it is asked about again in {hours:.0} h")
            }
            Self::Readmitted => f.write_str("a retrial found the model near enough: it is let in again"),
            Self::Reopened { reason } => write!(f, "what it left out is let in again: {reason}"),
            Self::Overridden { intervention, reason } => write!(f, "by hand: {intervention} ({reason})"),
        }
    }
}
