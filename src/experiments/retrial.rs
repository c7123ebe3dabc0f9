//! The way back of a model that a drift's experiment left out. What was bad once need not stay bad, and whoever is not
//! asked cannot say so: after a rest a small experiment, a *retrial*, asks whether the model is near enough again. If it
//! is, it is let in; if not, it rests twice as long, as a circuit does. A fall soon after it was let in rests longer too,
//! so that nothing flaps.
//!
//! What somebody does by hand goes before all of this: after `stop` nothing is asked again, after `undo` or `ship`
//! nothing is left to ask.

use serde::{Deserialize, Serialize};

use super::definition::{Definition, Origin, Variant};
use super::engine::Experiments;
use super::event::EventKind;
use super::repriced::excludes;
use super::table::Ruling;
use super::trigger::Trigger;
use super::view::Phase;
use crate::arm::ArmId;
use crate::units::UnixMs;

const HOUR_MS: i64 = 3_600_000;
/// How long a model rests before it is asked about for the first time, and at most.
const SHORTEST_REST_MS: i64 = HOUR_MS;
const LONGEST_REST_MS: i64 = 7 * 24 * HOUR_MS;
/// Share of the traffic that a retrial takes at most; half of it goes to the model.
pub(super) const COVERAGE: f64 = 0.1;
/// Scores at which a retrial ends at the latest.
pub(super) const MAX_SAMPLES: u64 = 2_000;
/// How much further than the route's margin below its measure a model may be to be let in.
const SLACK: f64 = 0.1;

/// What is remembered of a model that a drift's experiment left out.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rest {
    /// How far below its measure it was found.
    pub fall: f64,
    /// How long it rests now.
    pub rest_ms: i64,
    /// When it is asked about again.
    pub until: UnixMs,
    /// Retrials since that did not let it in.
    pub failed: u32,
    /// When it was let in again.
    pub readmitted: Option<UnixMs>,
}

impl Rest {
    fn begun(fall: f64, rest_ms: i64, now: UnixMs) -> Self {
        Self {
            fall,
            rest_ms,
            until: UnixMs(now.0 + rest_ms),
            failed: 0,
            readmitted: None,
        }
    }

    fn longer(self) -> i64 {
        (2 * self.rest_ms).min(LONGEST_REST_MS)
    }
}

/// How far below its measure a model may be that is to be let in: half of what it fell beyond the route's `margin` must
/// be made up for, and all but [`SLACK`]. To show the margin itself would take thousands of scores of a model that is well
/// again; what is left the policy learns, as of any model that it uses.
pub(super) fn margin(margin: f64, fall: f64) -> f64 {
    let beyond = fall - margin;
    // What was left out for errors or refusals did not fall.
    let slack = if beyond > 0.0 { 0.5 * beyond } else { SLACK };
    margin + slack.min(SLACK)
}

impl Experiments {
    /// The models that were left out for a drift and have rested: the [`Trigger::Retrial`] of each, without its measure.
    #[must_use]
    pub fn rested(&self, now: UnixMs) -> Vec<Rested> {
        let due = self
            .rests
            .iter()
            .filter(|(_, rest)| rest.readmitted.is_none() && rest.until <= now);
        due.filter_map(|(name, rest)| {
            let record = self
                .records
                .iter()
                .find(|record| record.definition.name == *name)?;
            let Some(Ruling::Exclude {
                variant: Variant::Model(model),
            }) = &record.ruling
            else {
                return None;
            };
            let route = record.definition.route.clone();
            self.retrial(&route, model).is_none().then(|| Rested {
                route,
                model: model.clone(),
                fall: rest.fall,
            })
        })
        .collect()
    }

    /// The models that a finished experiment leaves out of this route for every prompt.
    #[must_use]
    pub fn leaves_out(&self, route: &str, model: &ArmId) -> bool {
        self.records.iter().any(|record| excludes(record, route, model))
    }

    /// The retrial of this model that runs or waits.
    fn retrial(&self, route: &str, model: &ArmId) -> Option<&Definition> {
        let running = self.records.iter().filter(|record| record.ended.is_none());
        running
            .map(|record| record.definition.as_ref())
            .chain(&self.waiting)
            .find(|definition| definition.origin == Origin::Retrial && is_about(definition, route, model))
    }

    /// A drift's experiment has just left a model out, `fall` below its measure.
    pub(super) fn rest(&mut self, name: &str, fall: f64, now: UnixMs) {
        let before = self.rests.get(name).copied();
        // Soon after it was let in: that was too early.
        let again = before.filter(|rest| {
            rest.readmitted
                .is_some_and(|readmitted| now.0 - readmitted.0 < LONGEST_REST_MS)
        });
        let rest_ms = again.map_or(SHORTEST_REST_MS, Rest::longer);
        let rest = Rest::begun(fall, rest_ms, now);
        self.rests.insert(name.to_owned(), rest);
        self.log(now, name, EventKind::Resting { rest_ms });
    }

    /// A retrial has ended by its own rule: the model is let in, or rests for longer.
    pub(super) fn judge(&mut self, retrial: &Definition, well: bool, now: UnixMs) {
        let Some(name) = self.left_out_by(retrial) else {
            return;
        };
        let Some(rest) = self.rests.get_mut(&name) else {
            return;
        };
        if well {
            rest.readmitted = Some(now);
            self.lift(&name, Phase::Readmitted);
            self.log(now, &name, EventKind::Readmitted);
            return;
        }
        let longer = Rest::begun(rest.fall, rest.longer(), now);
        *rest = Rest {
            failed: rest.failed + 1,
            ..longer
        };
        let rest_ms = rest.rest_ms;
        self.log(now, &name, EventKind::Resting { rest_ms });
    }

    /// Nothing is asked any more about what the experiment `name` left out; a retrial that runs or waits ends. Whether
    /// there was anything to ask.
    pub(super) fn ask_no_more(&mut self, name: &str, now: UnixMs) -> bool {
        let asked = self
            .rests
            .remove(name)
            .is_some_and(|rest| rest.readmitted.is_none());
        let record = self.records.iter().find(|record| record.definition.name == name);
        let model = record.and_then(|record| match record.definition.variants.as_slice() {
            [_, (_, Variant::Model(model))] => Some((record.definition.route.clone(), model.clone())),
            _ => None,
        });
        let open = model.filter(|_| asked).and_then(|(route, model)| {
            self.retrial(&route, &model)
                .map(|definition| definition.name.clone())
        });
        if let Some(open) = open {
            self.waiting.retain(|waiting| waiting.name != open);
            if let Some(index) = self.running(&open) {
                self.end(index, Phase::Stopped, now);
            }
        }
        asked
    }

    /// The drift's experiment that left out what `retrial` asks about.
    pub(super) fn left_out_by(&self, retrial: &Definition) -> Option<String> {
        let [_, (_, Variant::Model(model))] = retrial.variants.as_slice() else {
            return None;
        };
        let mut drifts = self.records.iter().map(|record| record.definition.as_ref());
        drifts
            .find(|definition| {
                definition.origin == Origin::Drift && is_about(definition, &retrial.route, model)
            })
            .map(|definition| definition.name.clone())
    }

    /// Takes back what the experiment `name` ruled.
    pub(super) fn lift(&mut self, name: &str, phase: Phase) {
        if let Some(record) = self
            .records
            .iter_mut()
            .find(|record| record.definition.name == name)
        {
            record.ruling = None;
            record.phase = phase;
            self.generation += 1;
        }
    }
}

fn is_about(definition: &Definition, route: &str, model: &ArmId) -> bool {
    let treatment = definition.variants.get(1).map(|(_, variant)| variant);
    definition.route == route && matches!(treatment, Some(Variant::Model(treated)) if treated == model)
}

/// A model that has rested.
#[derive(Clone, Debug, PartialEq)]
pub struct Rested {
    /// Where it was left out.
    pub route: String,
    /// The model.
    pub model: ArmId,
    /// How far below its measure it was found.
    pub fall: f64,
}

impl Rested {
    /// What asks about it again, by the measure of `reference`.
    #[must_use]
    pub fn trigger(&self, reference: &ArmId) -> Trigger {
        Trigger::Retrial {
            route: self.route.clone(),
            model: self.model.clone(),
            reference: reference.clone(),
            fall: self.fall,
        }
    }
}
