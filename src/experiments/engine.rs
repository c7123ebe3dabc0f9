//! The one owner of every experiment. What happens to one on its way is in `life`, what ends it from outside in
//! `overtaken`, what people do to one in `intervention`.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::definition::{Definition, DefinitionError, FeatureVersions, Origin, Variant};
use super::event::{Event, EventKind};
use super::intervention::{Intervention, InterventionError};
use super::retrial::Rest;
use super::table::{Enrolment, Entry, Ruled, Ruling, Table};
use super::trigger::{Terms, Trigger};
use super::view::{ExperimentView, Phase, Point, view};
use crate::evaluation::ab::{AbSums, Exposure, Reading};
use crate::evaluation::assignment::Ramp;
use crate::units::UnixMs;

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
    /// What it said when it ended by its own rule. Scores that come later are counted and decide nothing.
    #[serde(default)]
    pub(super) decided: Option<Reading>,
    /// It ended because a model of it was left out: its question was not answered, and may be asked again at any time.
    #[serde(default)]
    pub(super) moot: bool,
}

/// Every experiment: running, waiting and finished.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Experiments {
    pub(super) records: Vec<Record>,
    pub(super) waiting: Vec<Definition>,
    pub(super) generation: u64,
    /// What the configuration has asked already, by the experiment's name and its date: asked once.
    #[serde(default)]
    overridden: Vec<(String, i64, Intervention)>,
    /// The models that were left out for a drift, by the name of its experiment.
    #[serde(default)]
    pub(super) rests: BTreeMap<String, Rest>,
    /// The place in the log of decisions up to which enrolments are counted; `None` before the first look.
    #[serde(default)]
    enrolled_until: Option<i64>,
    #[serde(skip)]
    events: Vec<Event>,
    /// What looks at prompts now.
    #[serde(skip)]
    features: Option<FeatureVersions>,
}

impl Experiments {
    /// Starts an experiment, or has it wait until its layer has room.
    ///
    /// # Errors
    /// If it is not valid, or its name is taken by one that has not ended.
    pub fn start(&mut self, mut definition: Definition, now: UnixMs) -> Result<(), DefinitionError> {
        definition.check()?;
        definition.features = definition.features.or(self.features);
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

    /// From now on prompts are looked at by these: noted with each experiment that is defined.
    pub fn look_with(&mut self, features: FeatureVersions) {
        self.features = Some(features);
    }

    /// Starts what an event in the router asks for. An automatic experiment on the same question that runs or waits
    /// is not repeated, nor one that a measurement asks for and that came to an end not long ago (a drift or a price:
    /// a day, families: thirty): then nothing happens. What somebody changes in the configuration is always a new
    /// question.
    pub fn trigger(&mut self, trigger: &Trigger, terms: &Terms, now: UnixMs) -> Option<String> {
        let definition = trigger.definition(terms, now);
        let name = definition.name.clone();
        let rest_days = match definition.origin {
            Origin::Drift | Origin::PriceChange => 1,
            Origin::Families => 30,
            _ => 0,
        };
        let recent = self.records.iter().any(|record| {
            let ended = record
                .ended
                .is_some_and(|ended| now.since(ended).as_secs() < rest_days * 86_400);
            record.definition.name == name && (record.ended.is_none() || ended && !record.moot)
        });
        // What is left out already is found to have fallen: a retrial says so to the policy, which learns from it too.
        let fallen = match trigger {
            Trigger::Drift { route, model, .. } => self.leaves_out(route, model),
            _ => false,
        };
        if recent || fallen {
            return None;
        }
        if matches!(definition.origin, Origin::Margin | Origin::Features) {
            self.supersede(&definition, now);
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
                self.log_stop(now, &name, "no longer in the configuration".to_owned());
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

    /// Does what the configuration asks of single experiments, each once.
    ///
    /// # Errors
    /// The first that cannot be done; the others are.
    pub fn override_all(
        &mut self,
        wishes: &[(String, Intervention)],
        now: UnixMs,
    ) -> Result<(), InterventionError> {
        self.overridden.retain(|(name, _, intervention)| {
            wishes
                .iter()
                .any(|(wanted, asked)| wanted == name && asked == intervention)
        });
        let mut refused = Ok(());
        for (name, intervention) in wishes {
            let known = self
                .records
                .iter()
                .map(|record| record.definition.as_ref())
                .chain(&self.waiting)
                .find(|definition| definition.name == *name)
                .map(|definition| definition.defined.0);
            let Some(defined) = known else { continue };
            let asked = (name.clone(), defined, intervention.clone());
            if self.overridden.contains(&asked) {
                continue;
            }
            self.overridden.push(asked);
            refused = refused.and(self.intervene(name, intervention, "by the configuration", now));
        }
        refused
    }

    /// The place in the log of decisions up to which [`Self::enrolled`] was told; `None` before the first time.
    #[must_use]
    pub fn enrolled_until(&self) -> Option<i64> {
        self.enrolled_until
    }

    /// [`Self::enrolled`] was told of all decisions up to this place.
    pub fn have_enrolled_until(&mut self, seq: i64) {
        self.enrolled_until = Some(seq);
    }

    /// A request was enrolled. Call once a request, when its decision is logged: at its end the slower arm's would be
    /// missing, and the split look other than it is.
    pub fn enrolled(&mut self, enrolment: &Enrolment) {
        if let Some(record) = self.record(enrolment) {
            record.sums.assign(&enrolment.sample(), &enrolment.shares);
        }
    }

    /// The first attempt of an enrolled request is over. Call once a request.
    pub fn exposed(&mut self, enrolment: &Enrolment, exposure: &Exposure, now: UnixMs) {
        if let Some(record) = self.record(enrolment) {
            let slow_ms = record.definition.design.slow_ms;
            record.sums.expose(&enrolment.sample(), exposure, slow_ms);
            self.reconsider(&enrolment.experiment, now);
        }
    }

    /// The assigned arm, whose first attempt had failed, served at its second. Call after [`Self::exposed`].
    pub fn redeemed(&mut self, enrolment: &Enrolment, exposure: &Exposure, now: UnixMs) {
        if let Some(record) = self.record(enrolment) {
            record.sums.redeem(&enrolment.sample(), exposure);
            self.reconsider(&enrolment.experiment, now);
        }
    }

    /// A score in [0, 1] for an enrolled request; `previous` is the score of the same answer that it replaces.
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

    /// What routing reads. Build it anew whenever [`Self::generation`] has moved.
    #[must_use]
    pub fn table(&self) -> Table {
        let running = || self.records.iter().filter(|record| record.ended.is_none());
        let gives_way = |record: &&Record| record.definition.gives_way();
        let running = running()
            .filter(|record| !gives_way(record))
            .chain(running().filter(gives_way));
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
        let mut views: Vec<ExperimentView> = self.records.iter().map(|record| self.shown(record)).collect();
        views.sort_by_key(|view| (view.ended.is_some(), std::cmp::Reverse(view.started)));
        views
    }

    /// One of them.
    #[must_use]
    pub fn view(&self, name: &str) -> Option<ExperimentView> {
        self.records
            .iter()
            .find(|record| record.definition.name == name)
            .map(|record| self.shown(record))
    }

    fn shown(&self, record: &Record) -> ExperimentView {
        view(record, self.rests.get(&record.definition.name))
    }

    /// Whether `variant` is in an experiment that waits, runs, or changed something that can be taken back.
    #[must_use]
    pub fn may_need(&self, variant: &Variant) -> bool {
        let open = self
            .records
            .iter()
            .filter(|record| record.ended.is_none() || record.ruling.is_some())
            .map(|record| record.definition.as_ref());
        open.chain(&self.waiting)
            .flat_map(|definition| &definition.variants)
            .any(|(_, asked)| asked == variant)
    }

    /// The comparisons of model families that run or wait.
    pub fn families(&self) -> impl Iterator<Item = &Definition> {
        let running = self.records.iter().filter(|record| record.ended.is_none());
        running
            .map(|record| record.definition.as_ref())
            .chain(&self.waiting)
            .filter(|definition| definition.origin == Origin::Families)
    }

    /// Names of those that wait for room in their layer.
    pub fn waiting(&self) -> impl Iterator<Item = &str> {
        self.waiting.iter().map(|definition| definition.name.as_str())
    }

    /// Logs that something else than its own rule ended an experiment.
    pub(super) fn log_stop(&mut self, at: UnixMs, experiment: &str, reason: String) {
        let intervention = "stop".to_owned();
        self.log(at, experiment, EventKind::Overridden { intervention, reason });
    }

    pub(super) fn log(&mut self, at: UnixMs, experiment: &str, kind: EventKind) {
        self.events.push(Event {
            at,
            experiment: experiment.to_owned(),
            kind,
        });
    }

    pub(super) fn running(&self, name: &str) -> Option<usize> {
        self.records
            .iter()
            .position(|record| record.definition.name == name && record.ended.is_none())
    }

    fn record(&mut self, enrolment: &Enrolment) -> Option<&mut Record> {
        self.records.iter_mut().find(|record| {
            record.definition.name == enrolment.experiment && record.definition.defined.0 == enrolment.defined
        })
    }
}

#[cfg(test)]
#[path = "engine_tests/mod.rs"]
mod tests;
