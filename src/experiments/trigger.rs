//! Events in the router that start an experiment by themselves.

use serde::{Deserialize, Serialize};

use super::definition::{Definition, Origin, Split, Variant, milli};
use super::hypothesis::{gain, no_worse};
use super::retrial;
use crate::arm::ArmId;
use crate::evaluation::ab::Hypothesis;
use crate::units::UnixMs;

/// On what terms an automatic experiment may run: the route's own, and what is known when it starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Terms {
    /// How much worse the treatment may be, in (0, 1).
    pub margin: f64,
    /// Whether only a higher score is a gain: the route aims at quality alone, or the treatment is the dearer one.
    pub superior: bool,
    /// Share of the route's traffic that it may use, in (0, 1].
    pub traffic: f64,
    /// Scores after which it ends without a verdict.
    pub max_samples: u64,
    /// A first token later than this is slow, where that is guarded.
    pub slow_ms: f64,
}

/// Something happened that is worth an experiment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "trigger")]
pub enum Trigger {
    /// A model is new in a route: is it no worse than the reference, or better if it is the dearer one?
    NewModel {
        /// The route.
        route: String,
        /// The new model.
        model: ArmId,
        /// The model that serves as the measure: the best so far.
        reference: ArmId,
    },
    /// A model's scores moved: is it still no worse than the reference?
    Drift {
        /// The route.
        route: String,
        /// The model.
        model: ArmId,
        /// The measure.
        reference: ArmId,
    },
    /// A model that was left out for a drift has rested: is it near enough to the reference again?
    Retrial {
        /// The route.
        route: String,
        /// The model.
        model: ArmId,
        /// The measure.
        reference: ArmId,
        /// How far below its measure it had been found.
        fall: f64,
    },
    /// A price change made `cheaper` cheaper than `dearer`: can it take its place?
    RankingFlip {
        /// The route.
        route: String,
        /// Now the cheaper.
        cheaper: ArmId,
        /// Until now the cheaper.
        dearer: ArmId,
    },
    /// New features or a new classifier: does routing by them score higher, or keep the quality at less cost (where
    /// quality is the route's aim: does it score higher)?
    NewFeatures {
        /// The route.
        route: String,
        /// What is compared with: the former features, or the views that did not change (`text`, `none`).
        current: String,
        /// The views that the new ones are among: `text` or `embedding`.
        fresh: String,
        /// Which version is new, for the experiment's name.
        version: String,
    },
    /// The margin was changed: a wider one must save and lose no more than it may, a narrower one must score higher.
    MarginChanged {
        /// The route.
        route: String,
        /// Before.
        from: f64,
        /// Now.
        to: f64,
    },
    /// A cheaper model family may do as well as the one that serves most prompts of a category.
    Families {
        /// The route.
        route: String,
        /// The category.
        category: String,
        /// The family that serves most of its prompts.
        used: String,
        /// The cheaper one.
        cheaper: String,
        /// What was expected, in words.
        reason: String,
    },
}

impl Trigger {
    /// The route that it is about.
    #[must_use]
    pub fn route(&self) -> &str {
        match self {
            Self::NewModel { route, .. }
            | Self::Drift { route, .. }
            | Self::Retrial { route, .. }
            | Self::RankingFlip { route, .. }
            | Self::NewFeatures { route, .. }
            | Self::MarginChanged { route, .. }
            | Self::Families { route, .. } => route,
        }
    }

    /// The experiment that it asks for.
    #[must_use]
    pub fn definition(&self, terms: &Terms, now: UnixMs) -> Definition {
        let arm = |arm: &ArmId| Variant::Model(arm.clone());
        let (route, name, control, treatment, hypothesis, origin) = match self {
            Self::NewModel {
                route,
                model,
                reference,
            } => (
                route,
                name_of("new", route, model),
                arm(reference),
                arm(model),
                worth(terms),
                Origin::NewModel,
            ),
            Self::Drift {
                route,
                model,
                reference,
            } => (
                route,
                name_of("drift", route, model),
                arm(reference),
                arm(model),
                worth(terms),
                Origin::Drift,
            ),
            Self::Retrial {
                route,
                model,
                reference,
                fall,
            } => (
                route,
                name_of("retrial", route, model),
                arm(reference),
                arm(model),
                no_worse(retrial::margin(terms.margin, *fall)),
                Origin::Retrial,
            ),
            Self::RankingFlip {
                route,
                cheaper,
                dearer,
            } => (
                route,
                name_of("price", route, cheaper),
                arm(dearer),
                arm(cheaper),
                no_worse(terms.margin),
                Origin::PriceChange,
            ),
            Self::NewFeatures {
                route,
                current,
                fresh,
                version,
            } => (
                route,
                format!("features-{version}"),
                Variant::Features(current.clone()),
                Variant::Features(fresh.clone()),
                if terms.superior {
                    Hypothesis::Superior
                } else {
                    gain(terms.margin)
                },
                Origin::Features,
            ),
            Self::MarginChanged { route, from, to } => (
                route,
                format!("margin-{route}-{to}"),
                Variant::MarginMilli(milli(*from)),
                Variant::MarginMilli(milli(*to)),
                if to > from {
                    gain(*to)
                } else {
                    Hypothesis::Superior
                },
                Origin::Margin,
            ),
            Self::Families {
                route,
                category,
                used,
                cheaper,
                ..
            } => (
                route,
                format!("families-{route}-{category}-{cheaper}-for-{used}"),
                Variant::Family(used.clone()),
                Variant::Family(cheaper.clone()),
                no_worse(terms.margin),
                Origin::Families,
            ),
        };
        let variants = vec![
            ("control".to_owned(), control),
            ("treatment".to_owned(), treatment),
        ];
        let mut definition = Definition::new(&plain(&name), route, variants, hypothesis, origin, now);
        definition.coverage = terms.traffic;
        definition.split = Split::Adaptive;
        definition.design.max_samples = terms.max_samples;
        definition.design.slow_ms = Some(terms.slow_ms);
        if let Self::Drift { .. } | Self::Retrial { .. } = self {
            // It was in use, as slow as it is: what is asked is how good it is. Whoever is slow at the moment is left to
            // the policy and the dispatcher.
            definition.design.slow_ms = None;
        }
        if let Self::Families { category, reason, .. } = self {
            // Prompts of different categories are different prompts: each category is a layer of its own.
            definition.layer = format!("{route}/{category}");
            definition.reason = Some(reason.clone());
            definition.limit_to(Some(category.clone()));
        }
        if let Self::Retrial { model, reference, .. } = self {
            // It may be dearer than its measure: what is asked is whether it is well again.
            definition.design.guardrails.cost_ratio = None;
            definition.coverage = terms.traffic.min(retrial::COVERAGE);
            definition.design.max_samples = terms.max_samples.min(retrial::MAX_SAMPLES);
            definition.layer = format!("{route}/{}", definition.name);
            let margin = -hypothesis.threshold();
            definition.statement = format!(
                "the mean quality of {model}, which had fallen, is no more than {margin:.3} below that of {reference} again"
            );
        }
        definition
    }
}

/// What makes the treatment worth having.
fn worth(terms: &Terms) -> Hypothesis {
    if terms.superior {
        Hypothesis::Superior
    } else {
        no_worse(terms.margin)
    }
}

/// The route is part of the name unless it is the usual one: a model may be new in several.
fn name_of(what: &str, route: &str, model: &ArmId) -> String {
    if route == "auto" {
        format!("{what}-{model}")
    } else {
        format!("{what}-{route}-{model}")
    }
}

/// A name for headers and files: what is not plain becomes a dash.
fn plain(name: &str) -> String {
    name.chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') {
                c
            } else {
                '-'
            }
        })
        .collect()
}
