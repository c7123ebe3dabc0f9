//! What an experiment is, written down before its first sample.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::hypothesis::{self, statement};
use crate::arm::{Arm, ArmId};
use crate::config;
use crate::evaluation::ab::{Design, Guardrails, Hypothesis};
use crate::units::UnixMs;

/// Error rate of an experiment unless it says otherwise.
pub const ALPHA: f64 = 0.05;
/// Scored units near which the interval is tightest.
pub const PLANNED: u64 = 500;
/// Scored units after which an experiment ends.
const MAX_SAMPLES: u64 = 10_000;
/// Half-width below which nothing worth knowing is left to learn.
const MIN_EFFECT: f64 = 0.005;
/// Chance of a verdict below which an experiment ends without one.
const FUTILITY: f64 = 0.2;
/// A first token later than this is slow, unless something better is known.
pub(super) const SLOW_MS: f64 = 5_000.0;
/// Least share of an arm.
const FLOOR: f64 = 0.1;

/// The features, classifier and learned policy that were in use before the last change of them.
pub const FORMER: &str = "former";
/// Features variant: routes by the embedding view where it was ready in time.
pub const EMBEDDING: &str = "embedding";

/// What an arm of an experiment does with a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", content = "value")]
pub enum Variant {
    /// Calls this model.
    Model(ArmId),
    /// Routes among the models of this family.
    Family(String),
    /// Routes by this policy.
    Policy(String),
    /// Routes with this quality margin, in thousandths of a quality point.
    MarginMilli(u32),
    /// Routes by this much of the prompt: `embedding` (all that is ready in time), `text`, `none`; or by [`FORMER`].
    Features(String),
    /// Calls this model for each category, and for others does as the router does.
    Categories(BTreeMap<String, ArmId>),
    /// Routes as the router does at the time.
    Current,
}

impl std::fmt::Display for Variant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Model(arm) => write!(f, "{arm}"),
            Self::Family(family) => write!(f, "the {family} family"),
            Self::Policy(policy) => write!(f, "policy {policy}"),
            Self::MarginMilli(milli) => write!(f, "a quality margin of {}", f64::from(*milli) / 1000.0),
            Self::Features(view) => match view.as_str() {
                FORMER => f.write_str("routing by the former look at prompts"),
                "none" => f.write_str("routing that looks at no prompt"),
                "text" => f.write_str("routing by words and surface alone"),
                _ => f.write_str("routing by everything known of the prompt"),
            },
            Self::Categories(table) => {
                let pairs: Vec<String> = table.iter().map(|(c, m)| format!("{c} → {m}")).collect();
                write!(f, "a table ({})", pairs.join(", "))
            }
            Self::Current => f.write_str("the router as it is"),
        }
    }
}

impl Variant {
    /// Whether it names models: the others say how to choose among all of them.
    #[must_use]
    pub fn names_models(&self) -> bool {
        matches!(self, Self::Model(_) | Self::Family(_))
    }

    /// Whether it names this very model, or its family.
    #[must_use]
    pub fn names(&self, arm: &Arm) -> bool {
        match self {
            Self::Model(model) => *model == arm.id,
            Self::Family(family) => **family == *arm.family,
            _ => false,
        }
    }
}

impl From<&config::Treatment> for Variant {
    fn from(treatment: &config::Treatment) -> Self {
        match treatment.clone() {
            config::Treatment::Model(model) => Self::Model(model),
            config::Treatment::Family(family) => Self::Family(family),
            config::Treatment::Policy(policy) => Self::Policy(policy),
            config::Treatment::Margin(margin) => Self::MarginMilli(milli(margin)),
            config::Treatment::Features(view) => Self::Features(view),
            config::Treatment::Categories(table) => Self::Categories(table),
            config::Treatment::Router => Self::Current,
        }
    }
}

/// A margin in thousandths.
pub(super) fn milli(margin: f64) -> u32 {
    (margin.clamp(0.0, 1.0) * 1000.0).round() as u32
}

/// How units are split.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// Evenly, to the end.
    Fixed,
    /// By what is learned on the way.
    Adaptive,
}

/// What stays with one arm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StickyBy {
    /// Each request is its own unit.
    Request,
    /// A user.
    User,
    /// A session.
    Session,
}

/// Who started it, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// The configuration.
    Config,
    /// A call to the API.
    Api,
    /// A model is new in a route.
    NewModel,
    /// A model's scores moved.
    Drift,
    /// A price change turned the ranking over.
    PriceChange,
    /// New features or a new classifier.
    Features,
    /// The quality margin was changed.
    Margin,
    /// A cheaper model family may do in a category of prompts.
    Families,
    /// A model that was left out for a drift has rested.
    Retrial,
}

impl Origin {
    /// Whether the router started it by itself.
    #[must_use]
    pub fn automatic(self) -> bool {
        !matches!(self, Self::Config | Self::Api)
    }

    /// Whether its verdict is between its very arms, so that the one takes the other's place. Of what the router starts
    /// on an event, the policy has learned from every sample and the treatment is what the configuration says: it is
    /// adopted. But what holds of a family in one category, a policy that shares what it learns among all prompts need
    /// not take up.
    #[must_use]
    pub fn replaces(self) -> bool {
        !self.automatic() || self == Self::Families
    }
}

/// Versions of what looks at prompts; 0 for what is not there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeatureVersions {
    /// The text view's projection.
    pub text: u32,
    /// The embedding view's.
    pub embedding: u32,
    /// The category classifier's.
    pub classifier: u32,
}

impl std::fmt::Display for FeatureVersions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let part = |version: u32| match version {
            0 => "off".to_owned(),
            version => format!("{version:08x}"),
        };
        let (text, embedding) = (part(self.text), part(self.embedding));
        write!(
            f,
            "text view {text}, embedding view {embedding}, category classifier {}",
            part(self.classifier)
        )
    }
}

/// An experiment as defined before its first sample.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Definition {
    /// Its name, in headers, paths and reports.
    pub name: String,
    /// The route on which it runs.
    pub route: String,
    /// The prompt category it is limited to. `None`: any.
    pub category: Option<String>,
    /// Experiments of one layer never share a unit; those of different layers are independent. The route's name
    /// unless they cannot disturb each other.
    pub layer: String,
    /// The arms by name, the control first; two or more.
    pub variants: Vec<(String, Variant)>,
    /// The feedback metric that it judges by.
    pub metric: String,
    /// The hypothesis in words.
    pub statement: String,
    /// How units are split.
    pub split: Split,
    /// What stays with one arm.
    pub sticky_by: StickyBy,
    /// Share in (0, 1] of the layer's units that take part.
    pub coverage: f64,
    /// Statistics, fixed too.
    pub design: Design,
    /// Who started it.
    pub origin: Origin,
    /// What was expected of it, where the router weighed that.
    #[serde(default)]
    pub reason: Option<String>,
    /// When it was defined.
    pub defined: UnixMs,
    /// What looked at prompts when it was defined; `None` where that was not kept.
    #[serde(default)]
    pub features: Option<FeatureVersions>,
}

/// Why a definition is refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum DefinitionError {
    /// Not usable as a file name and header value.
    #[error("the name {name:?} may hold letters, digits, '-', '_' and '.' only, and must not begin with '.'")]
    Name {
        /// What was given.
        name: String,
    },
    /// Too few arms.
    #[error("an experiment needs a control and at least one treatment; {given} arms were given")]
    Arms {
        /// How many.
        given: usize,
    },
    /// A figure out of range.
    #[error("{field} is {value}; it must lie in {range}")]
    Range {
        /// Which one.
        field: &'static str,
        /// What was given.
        value: f64,
        /// What is allowed.
        range: &'static str,
    },
    /// The name is taken.
    #[error("an experiment {name:?} exists already; choose another name, or stop that one")]
    Exists {
        /// The name.
        name: String,
    },
    /// The layer is full.
    #[error("layer {layer:?} has {free} of its traffic left and the experiment wants {wanted}; it waits")]
    Full {
        /// The layer.
        layer: String,
        /// What is left.
        free: f64,
        /// What is wanted.
        wanted: f64,
    },
}

impl Definition {
    /// Whether an arm goes by the embedding view.
    #[must_use]
    pub fn embeds(&self, arm: usize) -> bool {
        let variant = self.variants.get(arm).map(|(_, variant)| variant);
        matches!(variant, Some(Variant::Features(view)) if view == EMBEDDING)
    }

    /// Whether the router does as the treatment says since before it began: what was changed is what is in force, and
    /// the experiment asks whether it was right. Nobody goes by the embedding view until it has won.
    #[must_use]
    pub fn is_in_force(&self) -> bool {
        matches!(self.origin, Origin::Features | Origin::Margin) && !self.embeds(1)
    }

    /// Whether it compares with what looked at prompts before.
    #[must_use]
    pub fn has_former(&self) -> bool {
        let former =
            |(_, variant): &(String, Variant)| matches!(variant, Variant::Features(view) if view == FORMER);
        self.variants.iter().any(former)
    }

    /// A definition with this project's defaults: α = .05 with the interval tightest near 500 scores, 10,000
    /// scores at most, all traffic of the route, sticky by request, split evenly.
    #[must_use]
    pub fn new(
        name: &str,
        route: &str,
        variants: Vec<(String, Variant)>,
        hypothesis: Hypothesis,
        origin: Origin,
        now: UnixMs,
    ) -> Self {
        let guardrails = Guardrails {
            cost_ratio: hypothesis::cost_ratio(hypothesis),
            ..Guardrails::default()
        };
        let statement = statement(&variants, hypothesis, "quality", None);
        Self {
            name: name.to_owned(),
            route: route.to_owned(),
            category: None,
            layer: route.to_owned(),
            design: Design {
                arms: variants.len(),
                hypothesis,
                alpha: ALPHA,
                planned: PLANNED,
                max_samples: MAX_SAMPLES,
                min_effect: MIN_EFFECT,
                futility: FUTILITY,
                guardrails,
                slow_ms: Some(SLOW_MS),
                floor: FLOOR,
            },
            variants,
            metric: "quality".to_owned(),
            statement,
            split: Split::Fixed,
            sticky_by: StickyBy::Request,
            coverage: 1.0,
            origin,
            reason: None,
            defined: now,
            features: None,
        }
    }

    /// The definition of an `[[experiments]]` section, or of one that the API was given.
    #[must_use]
    pub fn from_config(experiment: &config::Experiment, origin: Origin, now: UnixMs) -> Self {
        let variants: Vec<(String, Variant)> = experiment
            .arms
            .iter()
            .map(|(name, treatment)| (name.clone(), Variant::from(treatment)))
            .collect();
        let mut definition = Self::new(
            &experiment.name,
            &experiment.route,
            variants,
            experiment.hypothesis.into(),
            origin,
            now,
        );
        definition.metric.clone_from(&experiment.metric);
        definition.limit_to(experiment.category.clone());
        definition.split = match experiment.split {
            config::Split::Fixed => Split::Fixed,
            config::Split::Adaptive => Split::Adaptive,
        };
        definition.sticky_by = match experiment.sticky_by {
            config::StickyBy::Request => StickyBy::Request,
            config::StickyBy::User => StickyBy::User,
            config::StickyBy::Session => StickyBy::Session,
        };
        definition.coverage = experiment.traffic;
        if let Some(layer) = &experiment.layer {
            definition.layer.clone_from(layer);
        }
        let design = &mut definition.design;
        design.alpha = experiment.error_rate.unwrap_or(design.alpha);
        design.max_samples = experiment.max_samples.unwrap_or(design.max_samples);
        design.futility = experiment.futility.unwrap_or(design.futility);
        let (guards, limits) = (&experiment.guards, &mut design.guardrails);
        limits.errors = guards.errors.unwrap_or(limits.errors);
        limits.slow = guards.slow.unwrap_or(limits.slow);
        limits.refusals = guards.refusals.unwrap_or(limits.refusals);
        limits.cost_ratio = guards.cost_ratio.or(limits.cost_ratio);
        design.slow_ms = guards.slow_ms.or(design.slow_ms);
        definition
    }

    /// Whether it takes what other experiments leave of the traffic: what somebody changed or asked for goes first.
    pub(super) fn gives_way(&self) -> bool {
        matches!(self.origin, Origin::Families | Origin::Retrial)
    }

    /// Limits it to a category of prompts, and says so in the hypothesis. `None`: any.
    pub(super) fn limit_to(&mut self, category: Option<String>) {
        let (variants, hypothesis) = (&self.variants, self.design.hypothesis);
        self.statement = statement(variants, hypothesis, &self.metric, category.as_deref());
        self.category = category;
    }

    /// Checks names and ranges.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), DefinitionError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if self.name.is_empty() || self.name.starts_with('.') || !self.name.chars().all(plain) {
            return Err(DefinitionError::Name {
                name: self.name.clone(),
            });
        }
        if self.variants.len() < 2 || self.design.arms != self.variants.len() {
            return Err(DefinitionError::Arms {
                given: self.variants.len(),
            });
        }
        within("coverage", self.coverage, 1.0, "(0, 1]")?;
        within("alpha", self.design.alpha, 0.5, "(0, 0.5]")?;
        within("planned", self.design.planned as f64, 1e9, "[1, 10^9]")?;
        hypothesis::check(self.design.hypothesis)
    }

    /// The same experiment, whatever its dates, its wording and what looks at prompts: a configuration read again does
    /// not restart it.
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        Self {
            defined: other.defined,
            features: other.features,
            statement: other.statement.clone(),
            ..self.clone()
        } == *other
    }
}

/// Refuses what does not lie in (0, `most`].
pub(super) fn within(
    field: &'static str,
    value: f64,
    most: f64,
    range: &'static str,
) -> Result<(), DefinitionError> {
    if value > 0.0 && value <= most {
        Ok(())
    } else {
        Err(DefinitionError::Range { field, value, range })
    }
}
