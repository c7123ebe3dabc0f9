//! Why an arm cannot or may not take a request.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::arm::{ArmId, Modality};
use crate::units::Usd;

/// Why an arm was refused.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Refusal {
    /// It does not accept this kind of content.
    Modality(Modality),
    /// Prompt and answer do not fit its window.
    ContextWindow {
        /// Tokens of the prompt, by estimate, and of the answer.
        needed: u64,
        /// Its window.
        window: u32,
    },
    /// The client allows a longer answer than it can give.
    OutputLimit {
        /// The client's limit.
        asked: u32,
        /// Its own.
        most: u32,
    },
    /// It cannot call tools.
    Tools,
    /// It cannot be given tools of this kind.
    ForeignTools,
    /// It cannot be held to JSON.
    StructuredOutput,
    /// The client's `provider` preferences leave its provider out.
    Provider,
    /// A rule of the route sends the request elsewhere.
    Rule,
    /// Its price is unknown, and the request has a limit on cost.
    UnknownPrice,
    /// Its list price is above the client's `max_price`.
    MaxPrice,
    /// The request is expected to cost more than it may.
    MaxCost {
        /// The expected cost.
        expected: Usd,
        /// The limit.
        limit: Usd,
    },
    /// A budget is spent, and another arm is cheaper.
    BudgetSpent,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Modality(modality) => write!(f, "does not accept {modality}"),
            Self::ContextWindow { needed, window } => {
                write!(f, "about {needed} tokens do not fit its window of {window}")
            }
            Self::OutputLimit { asked, most } => {
                write!(f, "answers with at most {most} tokens, {asked} were asked for")
            }
            Self::Tools => f.write_str("cannot call tools"),
            Self::ForeignTools => f.write_str("takes function tools only"),
            Self::StructuredOutput => f.write_str("cannot be held to JSON"),
            Self::Provider => f.write_str("its provider is left out by the request"),
            Self::Rule => f.write_str("a rule of the route sends this request elsewhere"),
            Self::UnknownPrice => f.write_str("its price is unknown and the cost is limited"),
            Self::MaxPrice => f.write_str("its list price is above the request's max_price"),
            Self::MaxCost { expected, limit } => {
                write!(
                    f,
                    "is expected to cost ${expected}, more than the limit of ${limit}"
                )
            }
            Self::BudgetSpent => f.write_str("the budget is spent and another model is cheaper"),
        }
    }
}

impl Refusal {
    /// Whether the arm could not have taken the request, whatever it may cost.
    #[must_use]
    pub const fn is_inability(&self) -> bool {
        matches!(
            self,
            Self::Modality(_)
                | Self::ContextWindow { .. }
                | Self::OutputLimit { .. }
                | Self::Tools
                | Self::ForeignTools
                | Self::StructuredOutput
        )
    }
}

/// As its sentence.
impl Serialize for Refusal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// An arm that was refused.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Refused {
    /// The arm.
    #[serde(rename = "model")]
    pub arm: ArmId,
    /// The first reason found.
    #[serde(rename = "excluded")]
    pub reason: Refusal,
}
