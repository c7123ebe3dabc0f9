//! The one owner of every experiment: starts, counts, decides, ends.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::definition::{Definition, DefinitionError, Origin, Split, StickyBy, Variant};
use super::event::{Event, EventKind};
use super::table::{Enrolment, Entry, Ruled, Ruling, Table};
use super::trigger::Trigger;
use super::view::{ExperimentView, Phase, Point, view};
use crate::evaluation::ab::{AbSums, Exposure, Reading, Verdict, read};
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

/// An experiment with all that it has seen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) definition: Arc<Definition>,
    pub(super) ramp: Ramp,
    /// Upper end of the part of the layer that is set aside.
    pub(super) limit: f64,
    pub(super) sums: AbSums,
    pub(super) phase: Phase,
    pub(super) started: UnixMs,
    pub(super) ended: Option<UnixMs>,
    pub(super) series: Vec<Point>,
    pub(super) ruling: Option<Ruling>,
    pub(super) reallocated_at: u64,
    pub(super) unhealthy: bool,
    /// Every how many scored units a point is added to the series.
    pub(super) stride: u64,
}

/// Every experiment: running, waiting and finished.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Experiments {
    records: Vec<Record>,
    waiting: Vec<Definition>,
    generation: u64,
    #[serde(skip)]
    events: Vec<Event>,
}

/// What somebody may do to an experiment by hand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "action")]
pub enum Intervention {
    /// End it; the control stays.
    Stop,
    /// End it and ship this arm, whatever the figures say.
    Ship {
        /// Name of the arm.
        arm: String,
    },
    /// Take back what was shipped or excluded.
    Undo,
}

/// Why an intervention is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InterventionError {
    /// No such experiment.
    #[error("there is no experiment {name:?}; GET /v1/experiments lists them")]
    Unknown {
        /// What was asked for.
        name: String,
    },
    /// It is over.
    #[error("the experiment {name:?} is over; only \"undo\" can be asked of it")]
    Over {
        /// Which.
        name: String,
    },
    /// No such arm.
    #[error("the experiment {name:?} has no arm {arm:?}; its arms are {arms}")]
    Arm {
        /// Which.
        name: String,
        /// What was asked for.
        arm: String,
        /// What there is.
        arms: String,
    },
    /// Nothing to take back.
    #[error("the experiment {name:?} changed nothing that could be undone")]
    NothingToUndo {
        /// Which.
        name: String,
    },
}

impl Experiments {
    /// Starts an experiment, or has it wait until its layer has room.
    ///
    /// # Errors
    /// If it is not valid, or its name is taken by one that has not ended.
    pub fn start(&mut self, definition: Definition, now: UnixMs) -> Result<(), DefinitionError> {
        definition.check()?;
        let taken = self.waiting.iter().any(|waiting| waiting.name == definition.name)
            || self
                .records
                .iter()
                .any(|record| record.definition.name == definition.name && record.ended.is_none());
        if taken {
            return Err(DefinitionError::Exists {
                name: definition.name,
            });
        }
        self.records
            .retain(|record| record.definition.name != definition.name);
        self.log(
            now,
            &definition.name,
            EventKind::Defined {
                definition: Box::new(definition.clone()),
            },
        );
        if self.room(&definition).is_none() {
            self.log(now, &definition.name, EventKind::Waiting);
            self.waiting.push(definition);
            return Ok(());
        }
        self.open(definition, now);
        Ok(())
    }

    /// Starts what an event in the router asks for. An automatic experiment on the same question that runs, waits
    /// or came to an end less than a day ago is not repeated: then nothing happens.
    pub fn trigger(&mut self, trigger: &Trigger, now: UnixMs) -> Option<String> {
        let definition = trigger.definition(now);
        let name = definition.name.clone();
        let recent = self.records.iter().any(|record| {
            let ended = record
                .ended
                .is_some_and(|ended| now.since(ended).as_secs() < 86_400);
            record.definition.name == name && (record.ended.is_none() || ended)
        });
        if recent {
            return None;
        }
        match self.start(definition, now) {
            Ok(()) => Some(name),
            Err(refused) => {
                tracing::debug!(experiment = name, %refused, "no automatic experiment");
                None
            }
        }
    }

    /// Brings the experiments of the configuration in line with it: new ones start, changed ones start anew, those
    /// no longer in it are stopped. One that has ended stays ended.
    ///
    /// # Errors
    /// The first definition that is refused; the others are in force.
    pub fn configure(&mut self, definitions: &[Definition], now: UnixMs) -> Result<(), DefinitionError> {
        let of_config = |definition: &Definition| definition.origin == Origin::Config;
        let gone: Vec<String> = self
            .records
            .iter()
            .map(|record| record.definition.as_ref())
            .chain(&self.waiting)
            .filter(|old| of_config(old) && !definitions.iter().any(|new| new.same(old)))
            .map(|old| old.name.clone())
            .collect();
        for name in gone {
            self.waiting.retain(|waiting| waiting.name != name);
            if let Some(index) = self.running(&name) {
                self.end(index, Phase::Stopped, now);
                let reason = "no longer in the configuration".to_owned();
                self.log(
                    now,
                    &name,
                    EventKind::Overridden {
                        intervention: "stop".to_owned(),
                        reason,
                    },
                );
            }
        }
        let mut refused = Ok(());
        for definition in definitions {
            let known = self
                .records
                .iter()
                .map(|record| record.definition.as_ref())
                .chain(&self.waiting);
            if !known.into_iter().any(|old| old.same(definition)) {
                refused = refused.and(self.start(definition.clone(), now));
            }
        }
        refused
    }

    /// A request was enrolled. Call once a request, when its decision is logged.
    pub fn enrolled(&mut self, enrolment: &Enrolment) {
        if let Some(record) = self.record(enrolment) {
            record.sums.assign(&enrolment.sample(), &enrolment.shares);
        }
    }

    /// An enrolled request is over, all attempts included. Call once a request.
    pub fn exposed(&mut self, enrolment: &Enrolment, exposure: &Exposure, now: UnixMs) {
        if let Some(record) = self.record(enrolment) {
            let slow_ms = record.definition.design.slow_ms;
            record.sums.expose(&enrolment.sample(), exposure, slow_ms);
            self.reconsider(&enrolment.experiment, now);
        }
    }

    /// A score in [0, 1] for an enrolled request; `previous` is the score of the same rater that it replaces.
    /// Only for answers that the assigned arm gave itself: do not call it when a fallback or a hedge served.
    /// Scores of another metric are ignored. Late scores are counted after the end too, but decide nothing then.
    pub fn scored(
        &mut self,
        enrolment: &Enrolment,
        metric: &str,
        score: f64,
        previous: Option<f64>,
        now: UnixMs,
    ) {
        let Some(record) = self.record(enrolment) else {
            return;
        };
        if record.definition.metric != metric || !(0.0..=1.0).contains(&score) {
            return;
        }
        record.sums.score(&enrolment.sample(), score, previous);
        self.reconsider(&enrolment.experiment, now);
    }

    /// Does what somebody asks.
    ///
    /// # Errors
    /// If there is no such experiment or it does not allow that.
    pub fn intervene(
        &mut self,
        name: &str,
        intervention: &Intervention,
        reason: &str,
        now: UnixMs,
    ) -> Result<(), InterventionError> {
        if let Some(index) = self.waiting.iter().position(|waiting| waiting.name == name) {
            if *intervention == Intervention::Stop {
                self.waiting.remove(index);
                self.overridden(name, intervention, reason, now);
                return Ok(());
            }
            return Err(InterventionError::NothingToUndo {
                name: name.to_owned(),
            });
        }
        let unknown = || InterventionError::Unknown {
            name: name.to_owned(),
        };
        let index = self
            .records
            .iter()
            .position(|record| record.definition.name == name)
            .ok_or_else(unknown)?;
        let record = &mut self.records[index];
        let over = record.ended.is_some();
        match intervention {
            Intervention::Undo => {
                if record.ruling.take().is_none() {
                    return Err(InterventionError::NothingToUndo {
                        name: name.to_owned(),
                    });
                }
                record.phase = Phase::Undone;
                self.generation += 1;
            }
            _ if over => {
                return Err(InterventionError::Over {
                    name: name.to_owned(),
                });
            }
            Intervention::Stop => self.end(index, Phase::Stopped, now),
            Intervention::Ship { arm } => {
                let variants = &record.definition.variants;
                let Some(shipped) = variants.iter().position(|(known, _)| known == arm) else {
                    let arms: Vec<&str> = variants.iter().map(|(known, _)| known.as_str()).collect();
                    return Err(InterventionError::Arm {
                        name: name.to_owned(),
                        arm: arm.clone(),
                        arms: arms.join(", "),
                    });
                };
                record.ruling = replacement(&record.definition, shipped);
                self.end(index, Phase::Shipped { arm: shipped }, now);
            }
        }
        self.overridden(name, intervention, reason, now);
        Ok(())
    }

    /// What routing reads. Build it anew whenever [`Self::generation`] has moved.
    #[must_use]
    pub fn table(&self) -> Table {
        let running = self.records.iter().filter(|record| record.ended.is_none());
        let ruled = self.records.iter().filter_map(|record| {
            let definition = &record.definition;
            Some(Ruled {
                experiment: definition.name.clone(),
                route: definition.route.clone(),
                category: definition.category.clone(),
                ruling: record.ruling.clone()?,
            })
        });
        Table {
            entries: running
                .map(|record| Entry {
                    definition: Arc::clone(&record.definition),
                    ramp: record.ramp.clone(),
                })
                .collect(),
            rulings: ruled.collect(),
        }
    }

    /// Rises whenever [`Self::table`] would say something else.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The changes since the last call, for the log.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// Every experiment as shown to people, running ones first.
    #[must_use]
    pub fn views(&self) -> Vec<ExperimentView> {
        let mut views: Vec<ExperimentView> = self.records.iter().map(view).collect();
        views.sort_by_key(|view| (view.ended.is_some(), std::cmp::Reverse(view.started)));
        views
    }

    /// One of them.
    #[must_use]
    pub fn view(&self, name: &str) -> Option<ExperimentView> {
        self.records
            .iter()
            .find(|record| record.definition.name == name)
            .map(view)
    }

    /// Names of those that wait for room in their layer.
    pub fn waiting(&self) -> impl Iterator<Item = &str> {
        self.waiting.iter().map(|definition| definition.name.as_str())
    }

    fn overridden(&mut self, name: &str, intervention: &Intervention, reason: &str, now: UnixMs) {
        let intervention = match intervention {
            Intervention::Stop => "stop".to_owned(),
            Intervention::Ship { arm } => format!("ship {arm}"),
            Intervention::Undo => "undo".to_owned(),
        };
        self.log(
            now,
            name,
            EventKind::Overridden {
                intervention,
                reason: reason.to_owned(),
            },
        );
    }

    fn log(&mut self, at: UnixMs, experiment: &str, kind: EventKind) {
        self.events.push(Event {
            at,
            experiment: experiment.to_owned(),
            kind,
        });
    }

    fn running(&self, name: &str) -> Option<usize> {
        self.records
            .iter()
            .position(|record| record.definition.name == name && record.ended.is_none())
    }

    fn record(&mut self, enrolment: &Enrolment) -> Option<&mut Record> {
        self.records.iter_mut().find(|record| {
            record.definition.name == enrolment.experiment && record.definition.defined.0 == enrolment.defined
        })
    }

    /// The lowest free part of the layer that is wide enough.
    fn room(&self, definition: &Definition) -> Option<f64> {
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
    fn open(&mut self, definition: Definition, now: UnixMs) {
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
        });
        self.generation += 1;
    }

    fn end(&mut self, index: usize, phase: Phase, now: UnixMs) {
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
    fn reconsider(&mut self, name: &str, now: UnixMs) {
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
                // An automatic experiment's samples have taught the policy already: it takes the treatment up by
                // itself. One that a person defined is a decision between these very arms.
                if !definition.origin.automatic() || !is_model(&definition, arm) {
                    record.ruling = replacement(&definition, arm);
                }
                Some(Phase::Shipped { arm })
            }
            Verdict::Harm => {
                record.ruling = exclusion(&definition);
                Some(Phase::StoppedForHarm)
            }
            Verdict::Futile => Some(Phase::Futile),
            Verdict::Unhealthy if reading.units >= definition.design.max_samples => Some(Phase::Futile),
            Verdict::Unhealthy | Verdict::Running { .. } => None,
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
            self.end(index, phase, now);
            self.log(
                now,
                name,
                EventKind::Decided {
                    verdict: reading.verdict,
                    units: reading.units,
                },
            );
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

fn is_model(definition: &Definition, arm: usize) -> bool {
    definition
        .variants
        .get(arm)
        .is_some_and(|(_, variant)| matches!(variant, Variant::Model(_)))
}

fn replacement(definition: &Definition, arm: usize) -> Option<Ruling> {
    let (_, of) = definition.variants.first()?;
    let (_, by) = definition.variants.get(arm)?;
    (of != by).then(|| Ruling::Replace {
        of: of.clone(),
        by: by.clone(),
    })
}

/// Of one treatment only: with several, nothing says that each did harm on its own in every use.
fn exclusion(definition: &Definition) -> Option<Ruling> {
    match definition.variants.as_slice() {
        [_, (_, treatment)] if definition.origin.automatic() => Some(Ruling::Exclude {
            variant: treatment.clone(),
        }),
        _ => None,
    }
}

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;
