//! What kind of prompt it is.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The kind of a prompt, for rules, slices and experiments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Category {
    /// A customer asks how to do something with a product, an order, an account.
    SupportFaq,
    /// What a rule, a contract, a law or a company's policy says or allows.
    Policy,
    /// A customer is unhappy and wants a remedy.
    Complaint,
    /// Write, explain, fix or run program code.
    Code,
    /// Compute or prove.
    Maths,
    /// Puzzles, logic, common sense, plans under constraints.
    Reasoning,
    /// Take facts out of a given text, or bring it into a form.
    Extraction,
    /// Stories, poems, slogans, letters.
    Creative,
    /// From one language to another.
    Translation,
    /// Make a given text shorter.
    Summarisation,
    /// Act through tools: look up, book, send, navigate.
    ToolUse,
    /// Facts about the world and the sciences.
    Knowledge,
    /// Greetings and small talk.
    Chat,
    /// None of these with enough probability.
    Other,
}

/// A name that is no category.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("`{0}` is no category; known are {list}", list = Category::ALL.map(|category| category.name()).join(", "))]
pub struct UnknownCategory(pub String);

impl Category {
    /// Every category, `Other` last.
    pub const ALL: [Self; 14] = [
        Self::SupportFaq,
        Self::Policy,
        Self::Complaint,
        Self::Code,
        Self::Maths,
        Self::Reasoning,
        Self::Extraction,
        Self::Creative,
        Self::Translation,
        Self::Summarisation,
        Self::ToolUse,
        Self::Knowledge,
        Self::Chat,
        Self::Other,
    ];

    /// Categories that a classifier can learn: all but `Other`, which is the abstention.
    pub const LEARNED: usize = Self::ALL.len() - 1;

    /// Its name in configuration, headers and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::SupportFaq => "support_faq",
            Self::Policy => "policy",
            Self::Complaint => "complaint",
            Self::Code => "code",
            Self::Maths => "maths",
            Self::Reasoning => "reasoning",
            Self::Extraction => "extraction",
            Self::Creative => "creative",
            Self::Translation => "translation",
            Self::Summarisation => "summarisation",
            Self::ToolUse => "tool_use",
            Self::Knowledge => "knowledge",
            Self::Chat => "chat",
            Self::Other => "other",
        }
    }

    /// Its place in [`Category::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Category {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Category {
    type Err = UnknownCategory;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|category| category.name() == name)
            .ok_or_else(|| UnknownCategory(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_indices_agree() {
        for (index, category) in Category::ALL.into_iter().enumerate() {
            assert_eq!(category.index(), index);
            assert_eq!(category.name().parse(), Ok(category));
            assert_eq!(serde_json::to_value(category).unwrap(), category.name());
        }
        let error = "sport".parse::<Category>().unwrap_err().to_string();
        assert!(error.contains("sport") && error.contains("support_faq"));
    }
}
