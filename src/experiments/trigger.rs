//! Events in the router that start an experiment by themselves.

use serde::{Deserialize, Serialize};

use super::definition::{Definition, Origin, Split, Variant};
use crate::arm::ArmId;
use crate::evaluation::ab::Hypothesis;
use crate::units::UnixMs;

/// On what terms an automatic experiment may run: the route's own, and what is known when it starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Terms {
    /// How much worse the treatment may be, in (0, 1).
    pub margin: f64,
    /// Share of the route's traffic that it may use, in (0, 1].
    pub traffic: f64,
    /// Scores after which it ends without a verdict.
    pub max_samples: u64,
    /// A first token later than this is slow.
    pub slow_ms: f64,
}

/// Something happened that is worth an experiment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "trigger")]
pub enum Trigger {
    /// A model is new in a route: is it no worse than the reference?
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
    /// A price change made `cheaper` cheaper than `dearer`: can it take its place?
    RankingFlip {
        /// The route.
        route: String,
        /// Now the cheaper.
        cheaper: ArmId,
        /// Until now the cheaper.
        dearer: ArmId,
    },
    /// New features or a new classifier: does routing by them score higher?
    NewFeatures {
        /// The route.
        route: String,
        /// In use.
        current: String,
        /// New.
        fresh: String,
    },
    /// The margin was changed: is routing with the new one no worse than `to`?
    MarginChanged {
        /// The route.
        route: String,
        /// Before.
        from: f64,
        /// Now.
        to: f64,
    },
}

impl Trigger {
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
                format!("new-{model}"),
                arm(reference),
                arm(model),
                no_worse(terms.margin),
                Origin::NewModel,
            ),
            Self::Drift {
                route,
                model,
                reference,
            } => (
                route,
                format!("drift-{model}"),
                arm(reference),
                arm(model),
                no_worse(terms.margin),
                Origin::Drift,
            ),
            Self::RankingFlip {
                route,
                cheaper,
                dearer,
            } => (
                route,
                format!("price-{cheaper}"),
                arm(dearer),
                arm(cheaper),
                no_worse(terms.margin),
                Origin::PriceChange,
            ),
            Self::NewFeatures {
                route,
                current,
                fresh,
            } => (
                route,
                format!("features-{fresh}"),
                Variant::Features(current.clone()),
                Variant::Features(fresh.clone()),
                Hypothesis::Superior,
                Origin::Features,
            ),
            Self::MarginChanged { route, from, to } => (
                route,
                format!("margin-{to}"),
                Variant::MarginMilli(milli(*from)),
                Variant::MarginMilli(milli(*to)),
                no_worse(to.max(*from)),
                Origin::Margin,
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
        definition
    }
}

fn no_worse(margin: f64) -> Hypothesis {
    Hypothesis::NonInferior {
        margin: margin.clamp(0.001, 1.0),
    }
}

fn milli(margin: f64) -> u32 {
    (margin.clamp(0.0, 1.0) * 1000.0).round() as u32
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
