//! What routing reads: who takes part in which experiment, and what was decided before. Immutable and cheap to
//! share; no lock, no clock.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::definition::{Definition, EMBEDDING, StickyBy, Variant};
use crate::arm::ArmId;
use crate::evaluation::ab::Sample;
use crate::evaluation::assignment::{Ramp, place};

/// The keys of a request that a unit can be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unit<'a> {
    /// The request's own id; always there.
    pub request: &'a str,
    /// The user, if the client named one.
    pub user: Option<&'a str>,
    /// The session, if there is one.
    pub session: Option<&'a str>,
}

/// A request's place in an experiment: kept with the decision in the log, given back with each outcome and score.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Enrolment {
    /// The experiment.
    pub experiment: String,
    /// When it was defined: tells it from an earlier one of the same name.
    pub defined: i64,
    /// Index of the arm.
    pub arm: usize,
    /// Its name.
    pub arm_name: String,
    /// What to do with the request.
    pub variant: Variant,
    /// What each arm does, the control first.
    #[serde(default)]
    pub variants: Vec<Variant>,
    /// Probability in (0, 1] of this arm for this unit.
    pub probability: f64,
    /// Probability of each arm for this unit.
    pub shares: Vec<f64>,
    /// Hash of the unit if it may come again.
    pub unit: Option<u64>,
    /// Quality that the arms were expected to reach on this prompt: set by routing, for CUPED. 0 if unknown.
    #[serde(default)]
    pub covariate: f64,
    /// `dimension=value` slices: category, language, length, tenant. Set by routing.
    #[serde(default)]
    pub slices: Vec<String>,
}

impl Enrolment {
    /// `name=arm`, as in the header `x-router-experiment`.
    #[must_use]
    pub fn header(&self) -> String {
        format!("{}={}", self.experiment, self.arm_name)
    }

    pub(super) fn sample(&self) -> Sample<'_> {
        Sample {
            arm: self.arm,
            probability: self.probability,
            unit: self.unit,
            covariate: self.covariate,
            slices: self.slices.iter().map(String::as_str).collect(),
        }
    }
}

/// What a finished experiment asks of routing, until it is undone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "ruling")]
pub enum Ruling {
    /// Wherever `of` would be used, use `by`.
    Replace {
        /// The control that was beaten.
        of: Variant,
        /// The treatment that was shipped.
        by: Variant,
    },
    /// An experiment that the router started by itself ended well: what it has learned on the way is in the policy
    /// already, which uses the treatment as any other. Kept so that it can be undone.
    Adopt {
        /// The treatment that was shipped.
        variant: Variant,
    },
    /// Do not use this variant.
    Exclude {
        /// The treatment that did harm.
        variant: Variant,
    },
}

/// A running experiment as routing sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) definition: Arc<Definition>,
    pub(super) ramp: Ramp,
}

/// Rulings of one route and category.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Ruled {
    pub(super) experiment: String,
    pub(super) route: String,
    pub(super) category: Option<String>,
    pub(super) ruling: Ruling,
}

/// Every running experiment and every ruling.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    pub(super) entries: Vec<Entry>,
    pub(super) rulings: Vec<Ruled>,
}

impl Table {
    /// The arm of `unit` for a request of this route and category; `None` if it takes part in nothing. Pure: the
    /// same unit gets the same answer from the same table, on every replica. A request is in one experiment of
    /// its route at most: the oldest that takes it.
    #[must_use]
    pub fn assign(&self, unit: &Unit<'_>, route: &str, category: Option<&str>) -> Option<Enrolment> {
        self.entries.iter().find_map(|entry| {
            let definition = &entry.definition;
            let concerned = definition.route == route
                && definition
                    .category
                    .as_deref()
                    .is_none_or(|wanted| Some(wanted) == category);
            if !concerned {
                return None;
            }
            let (key, comes_again) = key(unit, definition.sticky_by);
            let in_layer = place(&layer_salt(&definition.layer), key);
            let (arm, probability) = entry.ramp.assign(in_layer, key)?;
            let (arm_name, variant) = definition.variants.get(arm)?;
            Some(Enrolment {
                experiment: definition.name.clone(),
                defined: definition.defined.0,
                arm,
                arm_name: arm_name.clone(),
                variant: variant.clone(),
                variants: definition
                    .variants
                    .iter()
                    .map(|(_, variant)| variant.clone())
                    .collect(),
                probability,
                shares: entry.ramp.shares_at(in_layer).to_vec(),
                unit: comes_again.then(|| hash(key)),
                covariate: 0.0,
                slices: Vec::new(),
            })
        })
    }

    /// What finished experiments ask for on this route and category.
    pub fn rulings<'a>(
        &'a self,
        route: &'a str,
        category: Option<&'a str>,
    ) -> impl Iterator<Item = &'a Ruling> {
        self.rulings
            .iter()
            .filter(move |ruled| {
                ruled.route == route
                    && ruled
                        .category
                        .as_deref()
                        .is_none_or(|wanted| Some(wanted) == category)
            })
            .map(|ruled| &ruled.ruling)
    }

    /// How requests of this route and category that are in no experiment are to be routed, if a finished one has
    /// shipped another way than the router's own; the newest.
    #[must_use]
    pub fn way<'a>(&'a self, route: &'a str, category: Option<&'a str>) -> Option<&'a Variant> {
        self.rulings(route, category)
            .filter_map(|ruling| match ruling {
                Ruling::Replace { of, by } if !(of.names_models() && by.names_models()) => Some(by),
                _ => None,
            })
            .last()
    }

    /// Whether an experiment that runs, or a ruling that stands, asks for `variant`.
    #[must_use]
    pub fn goes_by(&self, variant: &Variant) -> bool {
        let running = self.entries.iter().flat_map(|entry| &entry.definition.variants);
        running.map(|(_, asked)| asked).any(|asked| asked == variant)
            || self.rulings.iter().any(
                |ruled| matches!(&ruled.ruling, Ruling::Replace { of, by } if of == variant || by == variant),
            )
    }

    /// Whether an experiment that runs on this route, or a ruling that stands there, goes by the embedding view: only
    /// then can a decision depend on it.
    #[must_use]
    pub fn embeds(&self, route: &str) -> bool {
        let mut running = self.entries.iter().map(|entry| &entry.definition);
        running.any(|definition| {
            definition.route == route && (0..definition.variants.len()).any(|arm| definition.embeds(arm))
        }) || self.rulings.iter().any(|ruled| {
            let by_it = |by: &Variant| matches!(by, Variant::Features(view) if view == EMBEDDING);
            ruled.route == route && matches!(&ruled.ruling, Ruling::Replace { by, .. } if by_it(by))
        })
    }

    /// The models that running experiments of this route set against each other, and those that finished ones put in
    /// another's place: they may serve there although the route does not name them.
    pub fn models<'a>(&'a self, route: &'a str) -> impl Iterator<Item = &'a ArmId> {
        let of_model = |variant: &'a Variant| match variant {
            Variant::Model(model) => Some(model),
            _ => None,
        };
        let running = self
            .entries
            .iter()
            .filter(move |entry| entry.definition.route == route);
        let running = running
            .map(move |entry| {
                entry
                    .definition
                    .variants
                    .iter()
                    .map(move |(_, variant)| of_model(variant))
            })
            .filter(|models| models.clone().all(|model| model.is_some()))
            .flatten()
            .flatten();
        let shipped = self.rulings.iter().filter(move |ruled| ruled.route == route);
        let shipped = shipped.filter_map(move |ruled| match &ruled.ruling {
            Ruling::Replace { by, .. } => of_model(by),
            _ => None,
        });
        running.chain(shipped)
    }

    /// Whether an experiment runs on this route, or a ruling stands there.
    #[must_use]
    pub fn concerns(&self, route: &str) -> bool {
        self.entries.iter().any(|entry| entry.definition.route == route)
            || self.rulings.iter().any(|ruled| ruled.route == route)
    }

    /// Whether nothing runs and nothing was ruled.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.rulings.is_empty()
    }
}

/// The unit's key, and whether it may come again. Without the key asked for, the next narrower one is used.
fn key<'a>(unit: &Unit<'a>, sticky_by: StickyBy) -> (&'a str, bool) {
    let named = match sticky_by {
        StickyBy::Request => None,
        StickyBy::Session => unit.session,
        StickyBy::User => unit.user.or(unit.session),
    };
    named.map_or((unit.request, false), |key| (key, true))
}

pub(super) fn layer_salt(layer: &str) -> String {
    format!("layer\u{1f}{layer}")
}

fn hash(key: &str) -> u64 {
    // The place has 53 random bits: as many as a float holds, and JSON keeps them.
    (place("unit", key) * (1u64 << 53) as f64) as u64
}
