//! `[[experiments]]`: A/B splits that start with the configuration, and what it asks of those that run.

mod check;
mod raw;

use std::collections::BTreeMap;

pub(super) use check::check;
pub(super) use raw::{RawExperiment, raw};

use crate::arm::ArmId;

/// Policies that an arm may route by: the router's own, the best mix that looks at no prompt, always the cheapest
/// candidate, chance.
pub const POLICIES: [&str; 4] = ["contextual", "static_mix", "cheapest", "random"];
/// What of a prompt an arm may route by: everything that is ready in time, the words and surface alone, nothing.
pub const FEATURES: [&str; 3] = ["embedding", "text", "none"];

/// What an experiment sets out to show of the treatment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Hypothesis {
    /// Better than the control.
    Superior,
    /// Worse by no more than the margin, in (0, 1).
    NonInferior {
        /// How much worse is still acceptable.
        margin: f64,
    },
}

/// How units are split over the arms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// Evenly.
    Fixed,
    /// By what is learned on the way.
    Adaptive,
}

/// What stays with one arm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StickyBy {
    /// Nothing: each request is drawn anew.
    Request,
    /// A user.
    User,
    /// A session.
    Session,
}

/// What an arm of an experiment does with a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Treatment {
    /// `provider/model`: calls this model.
    Model(ArmId),
    /// `family:NAME`: routes among the route's models of this family.
    Family(String),
    /// `policy:NAME`: routes by one of [`POLICIES`].
    Policy(String),
    /// `margin:Q`: routes with this quality margin, in [0, 1].
    Margin(f64),
    /// `features:NAME`: routes by one of [`FEATURES`].
    Features(String),
    /// `categories:code=provider/model,...`: each category to its model, the others as the router does.
    Categories(BTreeMap<String, ArmId>),
    /// `router`: the router as it is.
    Router,
}

impl Treatment {
    /// Reads an arm as it is written.
    ///
    /// # Errors
    /// What it must be, to stand after the arm's text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let one_of = |word: &str, words: &[&str]| {
            if words.contains(&word) {
                Ok(word.to_owned())
            } else {
                Err(format!("must be one of {}", words.join(", ")))
            }
        };
        Ok(match text.split_once(':') {
            None if text == "router" => Self::Router,
            Some(("family", name)) if !name.is_empty() => Self::Family(name.to_owned()),
            Some(("policy", name)) => Self::Policy(one_of(name, &POLICIES)?),
            Some(("features", name)) => Self::Features(one_of(name, &FEATURES)?),
            Some(("margin", number)) => {
                let margin = number.parse::<f64>().ok().filter(|m| (0.0..=1.0).contains(m));
                Self::Margin(margin.ok_or("must be a number from 0 to 1")?)
            }
            Some(("categories", pairs)) => {
                let read = |pair: &str| {
                    let (category, model) = pair.split_once('=')?;
                    let (category, model) = (category.trim(), model.trim());
                    (!category.is_empty() && model.contains('/'))
                        .then(|| (category.to_owned(), ArmId::new(model)))
                };
                let pairs: Option<BTreeMap<_, _>> = pairs.split(',').map(read).collect();
                Self::Categories(pairs.ok_or("must be written categories:code=provider/model,...")?)
            }
            _ if text.contains('/') => Self::Model(ArmId::new(text)),
            _ => {
                return Err(
                    "must be provider/model, family:NAME, policy:NAME, margin:Q, features:NAME, \
                     categories:code=provider/model,... or router"
                        .to_owned(),
                );
            }
        })
    }

    /// The models that it names.
    pub fn models(&self) -> impl Iterator<Item = &ArmId> {
        let (one, many) = match self {
            Self::Model(model) => (Some(model), None),
            Self::Categories(table) => (None, Some(table.values())),
            _ => (None, None),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }
}

/// As it is written.
impl std::fmt::Display for Treatment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Model(model) => write!(f, "{model}"),
            Self::Family(name) => write!(f, "family:{name}"),
            Self::Policy(name) => write!(f, "policy:{name}"),
            Self::Margin(margin) => write!(f, "margin:{margin}"),
            Self::Features(name) => write!(f, "features:{name}"),
            Self::Categories(table) => {
                let pairs: Vec<String> = table.iter().map(|(c, m)| format!("{c}={m}")).collect();
                write!(f, "categories:{}", pairs.join(","))
            }
            Self::Router => f.write_str("router"),
        }
    }
}

/// What a treatment must not make worse, as differences to the control. `None`: the engine's own limit.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Guards {
    /// More failed requests, as a share.
    pub errors: Option<f64>,
    /// More slow first tokens, as a share.
    pub slow: Option<f64>,
    /// More refusals, as a share.
    pub refusals: Option<f64>,
    /// Cost of the treatment over that of the control.
    pub cost_ratio: Option<f64>,
    /// A first token later than this is slow.
    pub slow_ms: Option<f64>,
}

/// An experiment.
#[derive(Clone, Debug, PartialEq)]
pub struct Experiment {
    /// Its name, in headers and reports.
    pub name: String,
    /// The route on which it runs.
    pub route: String,
    /// The prompt category it is limited to. `None`: any.
    pub category: Option<String>,
    /// The arms by their names, `control` first; at least two.
    pub arms: Vec<(String, Treatment)>,
    /// The feedback metric that it judges by.
    pub metric: String,
    /// What it sets out to show.
    pub hypothesis: Hypothesis,
    /// How units are split.
    pub split: Split,
    /// What stays with one arm.
    pub sticky_by: StickyBy,
    /// Share of the layer's traffic that takes part, in (0, 1].
    pub traffic: f64,
    /// Experiments of one layer never share a request or user. `None`: the route's.
    pub layer: Option<String>,
    /// Error rate of the whole experiment, in (0, 0.5].
    pub error_rate: Option<f64>,
    /// Scores after which it ends without a verdict.
    pub max_samples: Option<u64>,
    /// Chance of a verdict by then below which it ends at once, in [0, 0.5].
    pub futility: Option<f64>,
    /// What must not get worse.
    pub guards: Guards,
}

/// What the configuration asks of an experiment that runs or ran, whoever started it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    /// The experiment.
    pub name: String,
    /// What.
    pub action: OverrideAction,
}

/// What may be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OverrideAction {
    /// End it; the control stays.
    Stop,
    /// End it and ship this arm.
    Ship(String),
    /// Take back what was shipped or ruled out.
    Undo,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arm_reads_as_it_is_written() {
        let arms = [
            "openai/gpt-4o-mini",
            "family:llama",
            "policy:static_mix",
            "margin:0.05",
            "features:text",
            "categories:code=a/1,maths=b/2",
            "router",
        ];
        for text in arms {
            assert_eq!(Treatment::parse(text).unwrap().to_string(), text);
        }
        for (wrong, hint) in [
            ("policy:best", "contextual"),
            ("margin:2", "0 to 1"),
            ("categories:code", "categories:"),
            ("gpt-4o", "provider/model"),
            ("features:all", "embedding"),
        ] {
            let must = Treatment::parse(wrong).unwrap_err();
            assert!(must.contains(hint), "{wrong}: {must}");
        }
    }
}
