//! What ends an experiment before its own rule does: the configuration says something else, or a model of it is left out.

use super::definition::{Definition, FORMER, Origin, Variant};
use super::engine::{Experiments, Record};
use super::table::Ruling;
use super::view::Phase;
use crate::arm::ArmId;
use crate::units::UnixMs;

impl Experiments {
    /// Ends what older experiments asked or ruled about the same setting: the configuration has said something else. Of
    /// features, what was compared with the former ones: those are others by now.
    pub(super) fn supersede(&mut self, by: &Definition, now: UnixMs) {
        let about = |definition: &Definition| {
            definition.origin == by.origin
                && definition.route == by.route
                && definition.name != by.name
                && (definition.origin == Origin::Margin || definition.has_former())
        };
        self.waiting.retain(|waiting| !about(waiting));
        // What won against the former look at prompts goes on.
        let lifted = |ruling: &Ruling| {
            by.origin == Origin::Margin
                || matches!(ruling, Ruling::Replace { by: Variant::Features(view), .. } if view == FORMER)
        };
        let stands = |record: &Record| record.ended.is_none() || record.ruling.as_ref().is_some_and(lifted);
        let older: Vec<usize> = (0..self.records.len())
            .filter(|&index| about(&self.records[index].definition) && stands(&self.records[index]))
            .collect();
        for index in older {
            let record = &mut self.records[index];
            record.ruling = None;
            let name = record.definition.name.clone();
            if record.ended.is_none() {
                // Not `end`: that would let waiting ones in and may drop records while their places are in hand.
                record.phase = Phase::Stopped;
                record.ended = Some(now);
            }
            self.generation += 1;
            self.log_stop(now, &name, format!("superseded by {}", by.name));
        }
    }

    /// Ends what the router itself asks of a model that `by` has just left out, also where the model is only what another
    /// one is measured by: it would go on answering that part of the traffic.
    pub(super) fn ask_nothing_of(&mut self, route: &str, model: &ArmId, by: &str, now: UnixMs) {
        let out = Variant::Model(model.clone());
        let about = |definition: &Definition| {
            definition.origin.automatic()
                && definition.name != by
                && definition.route == route
                && definition.variants.iter().any(|(_, variant)| *variant == out)
        };
        let running = self.records.iter().filter(|record| record.ended.is_none());
        let asked: Vec<String> = running
            .map(|record| record.definition.as_ref())
            .chain(&self.waiting)
            .filter(|definition| about(definition))
            .map(|definition| definition.name.clone())
            .collect();
        self.waiting.retain(|waiting| !about(waiting));
        for name in asked {
            if let Some(index) = self.running(&name) {
                self.records[index].moot = true;
                self.end(index, Phase::Stopped, now);
            }
            self.log_stop(now, &name, format!("{model} was left out by {by}"));
        }
    }
}
