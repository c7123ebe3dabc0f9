//! An experiment's life: let in, looked at after each sample, moved, decided, ended.

use std::sync::Arc;

use super::definition::{Definition, Origin, Split, StickyBy, Variant};
use super::engine::{Experiments, Record};
use super::event::EventKind;
use super::table::Ruling;
use super::view::{Phase, Point};
use crate::evaluation::ab::{AbSums, Reading, Verdict, read};
use crate::evaluation::assignment::Ramp;
use crate::units::UnixMs;

/// Scored units between two moves of an adaptive split.
const REALLOCATE_EVERY: u64 = 50;
/// Steps in which a sticky adaptive experiment takes in its part of the traffic.
const RAMP_STEPS: f64 = 5.0;
/// Points of the series kept at most; every other is dropped when there are more.
const MAX_POINTS: usize = 240;
/// Finished experiments kept at most.
const MAX_FINISHED: usize = 200;

impl Experiments {
    /// The lowest free part of the layer that is wide enough.
    pub(super) fn room(&self, definition: &Definition) -> Option<f64> {
        let same_layer =
            |record: &&Record| record.ended.is_none() && record.definition.layer == definition.layer;
        let mut taken: Vec<(f64, f64)> = self
            .records
            .iter()
            .filter(same_layer)
            .map(|record| (record.ramp.start(), record.limit))
            .collect();
        taken.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut free = 0.0;
        for (start, end) in taken {
            if start - free >= definition.coverage - 1e-9 {
                break;
            }
            free = f64::max(free, end);
        }
        (1.0 - free >= definition.coverage - 1e-9).then_some(free)
    }

    /// Lets the first units in. The caller has checked that there is room.
    pub(super) fn open(&mut self, definition: Definition, now: UnixMs) {
        let Some(start) = self.room(&definition) else {
            return;
        };
        let limit = (start + definition.coverage).min(1.0);
        // Sticky units keep their arm, so an adaptive split can only move with units that are let in later.
        let in_steps = definition.split == Split::Adaptive && definition.sticky_by != StickyBy::Request;
        let until = if in_steps {
            start + definition.coverage / RAMP_STEPS
        } else {
            limit
        };
        let k = definition.variants.len();
        let salt = format!("{}\u{1f}{}", definition.name, definition.defined.0);
        let Ok(ramp) = Ramp::new(&salt, start, until.min(1.0), vec![1.0 / k as f64; k]) else {
            return;
        };
        self.log(now, &definition.name, EventKind::Started);
        self.records.push(Record {
            sums: AbSums::new(k),
            definition: Arc::new(definition),
            ramp,
            limit,
            phase: Phase::Running,
            started: now,
            ended: None,
            series: Vec::new(),
            ruling: None,
            reallocated_at: 0,
            unhealthy: false,
            stride: 1,
            decided: None,
            moot: false,
        });
        self.generation += 1;
    }

    pub(super) fn end(&mut self, index: usize, phase: Phase, now: UnixMs) {
        let record = &mut self.records[index];
        record.phase = phase;
        record.ended = Some(now);
        self.generation += 1;
        while self
            .records
            .iter()
            .filter(|record| record.ended.is_some())
            .count()
            > MAX_FINISHED
        {
            // Oldest first; what is still in force stays.
            let oldest = self
                .records
                .iter()
                .position(|record| record.ended.is_some() && record.ruling.is_none());
            let Some(oldest) = oldest else { break };
            self.records.remove(oldest);
        }
        let mut next = 0;
        while next < self.waiting.len() {
            if self.room(&self.waiting[next]).is_some() {
                let definition = self.waiting.remove(next);
                self.open(definition, now);
            } else {
                next += 1;
            }
        }
    }

    /// After a sample: the series, the split, the verdict.
    pub(super) fn reconsider(&mut self, name: &str, now: UnixMs) {
        let Some(index) = self.running(name) else { return };
        let record = &mut self.records[index];
        let definition = Arc::clone(&record.definition);
        let Ok(reading) = read(&definition.design, &record.sums) else {
            return;
        };
        remember(record, &reading, now);
        let failed = reading.verdict == Verdict::Unhealthy;
        let health_changed = failed != record.unhealthy;
        record.unhealthy = failed;
        let ended = match reading.verdict {
            Verdict::Ship { arm } => {
                // Nobody goes by the embedding view until it is told to.
                record.ruling = if definition.origin.replaces() || definition.embeds(arm) {
                    replacement(&definition, arm)
                } else {
                    adoption(&definition, arm)
                };
                Some(Phase::Shipped { arm })
            }
            Verdict::Harm => {
                // What a retrial asks about is left out already.
                let rules = definition.origin.automatic() && definition.origin != Origin::Retrial;
                record.ruling = exclusion(&definition).filter(|_| rules);
                Some(Phase::StoppedForHarm)
            }
            Verdict::Unhealthy if reading.units < definition.design.max_samples => None,
            Verdict::Futile | Verdict::Unhealthy => {
                record.ruling = incumbent(&definition);
                Some(Phase::Futile)
            }
            Verdict::Running { .. } => None,
        };
        let moved = if ended.is_none() {
            reallocate(record, reading.units)
        } else {
            None
        };
        if health_changed {
            self.log(now, name, EventKind::Health { failed });
        }
        if let Some((shares, coverage)) = moved {
            self.generation += 1;
            self.log(now, name, EventKind::Reallocated { shares, coverage });
        }
        if let Some(phase) = ended {
            let (verdict, units) = (reading.verdict, reading.units);
            let quality = reading.comparisons.first().and_then(|found| found.quality);
            self.records[index].decided = Some(reading);
            // What somebody asked, or a retrial, rules nothing: nothing has changed about the model then.
            if let Some(Ruling::Exclude {
                variant: Variant::Model(model),
            }) = self.records[index].ruling.clone()
            {
                self.ask_nothing_of(&definition.route, &model, name, now);
            }
            // What ended meanwhile may have moved its place.
            if let Some(index) = self.running(name) {
                self.end(index, phase, now);
            }
            self.log(now, name, EventKind::Decided { verdict, units });
            match definition.origin {
                Origin::Drift if verdict == Verdict::Harm => {
                    let fall = quality.map_or(0.0, |found| (-found.interval.estimate).max(0.0));
                    self.rest(name, fall, now);
                }
                Origin::Retrial => self.judge(&definition, matches!(verdict, Verdict::Ship { .. }), now),
                _ => {}
            }
        }
    }
}

/// Adds a point to the series, thinning it when it is full.
fn remember(record: &mut Record, reading: &Reading, now: UnixMs) {
    if reading.units == 0 || !reading.units.is_multiple_of(record.stride) {
        return;
    }
    if record
        .series
        .last()
        .is_some_and(|last| last.units == reading.units)
    {
        return;
    }
    let differences = reading
        .comparisons
        .iter()
        .map(|c| c.quality.map(|quality| quality.interval))
        .collect();
    let shares = record
        .ramp
        .bands()
        .last()
        .map_or_else(Vec::new, |band| band.shares.clone());
    record.series.push(Point {
        at: now,
        units: reading.units,
        differences,
        shares,
    });
    if record.series.len() > MAX_POINTS {
        let mut index = 0;
        record.series.retain(|_| {
            index += 1;
            index % 2 == 0
        });
        record.stride *= 2;
    }
}

/// Moves an adaptive split; the new shares and coverage, if it moved.
fn reallocate(record: &mut Record, units: u64) -> Option<(Vec<f64>, f64)> {
    if record.definition.split != Split::Adaptive || units < record.reallocated_at + REALLOCATE_EVERY {
        return None;
    }
    record.reallocated_at = units;
    let shares = record.sums.shares(record.definition.design.floor);
    if record.definition.sticky_by == StickyBy::Request {
        record.ramp.resplit(shares.clone()).ok()?;
    } else {
        let step = record.definition.coverage / RAMP_STEPS;
        let until = (record.ramp.reach() + step).min(record.limit);
        record.ramp.widen(until, shares.clone()).ok()?;
    }
    Some((shares, record.ramp.reach() - record.ramp.start()))
}

fn adoption(definition: &Definition, arm: usize) -> Option<Ruling> {
    let (_, variant) = definition.variants.get(arm)?;
    Some(Ruling::Adopt {
        variant: variant.clone(),
    })
}

pub(super) fn replacement(definition: &Definition, arm: usize) -> Option<Ruling> {
    let (_, of) = definition.variants.first()?;
    let (_, by) = definition.variants.get(arm)?;
    (of != by).then(|| Ruling::Replace {
        of: of.clone(),
        by: by.clone(),
    })
}

/// Without a verdict the former look at prompts stays, which the new one had to beat. Where it was not at hand, the
/// control only stood in for it.
fn incumbent(definition: &Definition) -> Option<Ruling> {
    (definition.origin == Origin::Features && definition.has_former())
        .then(|| exclusion(definition))
        .flatten()
}

/// Leaves the treatment out: a model or family is not used, another way of routing gives way to the control. Of one
/// treatment only: with several, nothing says that each did harm on its own in every use.
pub(super) fn exclusion(definition: &Definition) -> Option<Ruling> {
    match definition.variants.as_slice() {
        [_, (_, treatment)] if treatment.names_models() => Some(Ruling::Exclude {
            variant: treatment.clone(),
        }),
        [(_, control), (_, treatment)] => Some(Ruling::Replace {
            of: treatment.clone(),
            by: control.clone(),
        }),
        _ => None,
    }
}
