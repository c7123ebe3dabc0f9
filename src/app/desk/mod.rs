//! The desk of experiments and figures: follows the log behind the requests, as the learner does, tells the
//! experiments what became of those that they enrolled, keeps the dashboard's figures, and writes experiment reports.
//!
//! The experiments' state is saved with the place in the log that it has counted, so that after a crash each
//! attempt and each score is counted exactly once. Requests only read the published table.

mod books;
mod rounds;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};

use crate::app::desk::books::Books;
use crate::app::families::Evidence;
use crate::app::reports::About;
use crate::app::triggers::Seen;
use crate::arm::ArmId;
use crate::clock;
use crate::config::{self, Config};
use crate::experiments::{
    Definition, DefinitionError, Enrolment, Event, Experiments, Intervention, InterventionError, Origin,
    Rested, Table, Terms, Trigger, Variant,
};
use crate::report::Provenance;
use crate::report::command::EXPERIMENTS_STATE as STATE;
use crate::report::dashboard::{BudgetView, ExperimentList, Ledger, Overview};
use crate::store::{EventRow, StateRow, Store, StoreError};
use crate::telemetry::Telemetry;
use crate::units::UnixMs;

pub(super) use rounds::follow;

/// Entries of the log read at once.
const CHUNK: u32 = 50;
/// Version of the saved state.
const STATE_VERSION: u32 = 1;

/// What a decision's `detail` says, where there is anything to say.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Detail {
    /// Its place in an experiment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enrolment: Option<Enrolment>,
    /// Tokens of the prompt that the drawn arm had read before in the same conversation; the learner reads it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix_tokens: Option<u64>,
    /// The budgets' accounts that it counts for, by budget and subject.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub budgets: Vec<(String, String)>,
}

/// The desk.
pub struct Desk {
    pub(super) telemetry: Arc<Telemetry>,
    pub(super) store: Store,
    table: ArcSwap<Table>,
    books: Mutex<Books>,
}

impl Desk {
    /// Takes up what was saved, and starts the configuration's experiments.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn restore(
        store: Store,
        telemetry: Arc<Telemetry>,
        config: &Config,
        about: About,
        now: UnixMs,
    ) -> Result<Self, StoreError> {
        let reader = store.reader();
        let saved = reader.state(STATE)?.filter(|row| row.version == STATE_VERSION);
        let (attempt_seq, feedback_seq) = saved
            .as_ref()
            .map_or((0, 0), |row| (row.last_attempt_seq, row.last_feedback_seq));
        let experiments = saved.and_then(|row| match serde_json::from_slice(&row.bytes) {
            Ok(experiments) => Some(experiments),
            Err(error) => {
                tracing::error!(%error, "the experiments' saved state is damaged; they start anew");
                None
            }
        });
        let seen = Seen::read(reader)?;
        let mut experiments: Experiments = experiments.unwrap_or_default();
        if let Some(features) = about.features {
            experiments.look_with(features);
        }
        if experiments.enrolled_until().is_none() {
            // A state that has not counted decisions yet has counted what ended until now.
            experiments.have_enrolled_until(reader.enrolments_since(i64::MAX)?.0);
        }
        let desk = Self {
            telemetry,
            store,
            table: ArcSwap::default(),
            books: Mutex::new(Books {
                experiments,
                ledger: Ledger::new(env!("CARGO_PKG_VERSION"), about.simulated, now),
                about,
                references: HashMap::new(),
                evidence: Evidence::default(),
                seen,
                unlogged: Vec::new(),
                fresh: Vec::new(),
                attempt_seq,
                feedback_seq,
                generation: 0,
                unsaved: false,
            }),
        };
        desk.configure(config, now);
        Ok(desk)
    }

    /// Brings the experiments in line with the configuration.
    pub fn configure(&self, config: &Config, now: UnixMs) {
        let definitions: Vec<Definition> = config
            .experiments
            .iter()
            .map(|section| Definition::from_config(section, Origin::Config, now))
            .collect();
        let overrides: Vec<(String, Intervention)> = config.overrides.iter().map(intervention).collect();
        let mut books = self.books();
        if let Err(error) = books.experiments.configure(&definitions, now) {
            tracing::warn!(%error, "an experiment of the configuration does not start");
        }
        if let Err(error) = books.experiments.override_all(&overrides, now) {
            tracing::warn!(%error, "the configuration asks of an experiment what cannot be done");
        }
        self.publish(&mut books);
    }

    /// What is known of the configuration in force.
    pub fn describe(&self, about: About) {
        self.books().about = about;
    }

    /// Who takes part in what.
    #[must_use]
    pub fn table(&self) -> Arc<Table> {
        self.table.load_full()
    }

    /// Starts an experiment on something that happened; its name, unless it is asked already.
    pub fn trigger(&self, trigger: &Trigger, terms: &Terms, now: UnixMs) -> Option<String> {
        let mut books = self.books();
        let started = books.experiments.trigger(trigger, terms, now);
        self.publish(&mut books);
        started
    }

    /// Starts an experiment that somebody asks for while the program runs; it stays when the configuration is read
    /// again.
    ///
    /// # Errors
    /// If it is not valid, or its name is taken by one that has not ended.
    pub fn start(&self, experiment: &config::Experiment, now: UnixMs) -> Result<(), DefinitionError> {
        let definition = Definition::from_config(experiment, Origin::Api, now);
        let mut books = self.books();
        books.experiments.start(definition, now)?;
        self.publish(&mut books);
        Ok(())
    }

    /// The route's always-best baseline, if it is known by now, and how much more is expected of it than of `other`.
    pub(super) fn best(&self, route: &str, other: &ArmId) -> Option<(ArmId, f64)> {
        let books = self.books();
        let reference = books.references.get(route)?;
        let best = reference.best()?;
        let lead = reference.mean(best)? - reference.mean(other)?;
        Some((best.clone(), lead))
    }

    /// What was decided and scored in each category of prompts.
    pub(super) fn evidence<T>(&self, read: impl FnOnce(&Evidence) -> T) -> T {
        read(&self.books().evidence)
    }

    /// The models that were left out for a drift and have rested.
    pub(super) fn rested(&self, now: UnixMs) -> Vec<Rested> {
        self.books().experiments.rested(now)
    }

    /// Whether a finished experiment leaves `model` out of `route`.
    pub(super) fn leaves_out(&self, route: &str, model: &ArmId) -> bool {
        self.books().experiments.leaves_out(route, model)
    }

    /// Lets `model` in again, whose price has fallen, if that was all that kept it out of `route`; whether it was.
    pub(super) fn reopen(&self, route: &str, model: &ArmId, allowed: f64, now: UnixMs) -> bool {
        let mut books = self.books();
        let open = books.experiments.reopen(route, model, allowed, now);
        self.publish(&mut books);
        open
    }

    /// The routes and categories in which model families are compared, or wait to be.
    pub(super) fn compared_families(&self) -> Vec<(String, String)> {
        let books = self.books();
        let open = books.experiments.families();
        open.map(|definition| {
            let category = definition.category.clone().unwrap_or_default();
            (definition.route.clone(), category)
        })
        .collect()
    }

    /// Version of the embedding view that was there when the router was last looked at.
    pub(super) fn known_embedding(&self) -> Option<u32> {
        self.books().seen.as_ref().map(Seen::embedding)
    }

    /// Remembers what the router is like; what it was like before, if that is something else.
    pub(super) fn remember(&self, seen: &Seen) -> Option<Option<Seen>> {
        let mut books = self.books();
        (books.seen.as_ref() != Some(seen)).then(|| books.seen.replace(seen.clone()))
    }

    /// Whether `variant` is asked for by an experiment that runs, or can be asked for by taking back what one did.
    #[must_use]
    pub fn may_need(&self, variant: &Variant) -> bool {
        self.books().experiments.may_need(variant)
    }

    /// Does what somebody asks of an experiment.
    ///
    /// # Errors
    /// If there is none of that name or it does not allow that.
    pub fn intervene(
        &self,
        name: &str,
        intervention: &Intervention,
        reason: &str,
        now: UnixMs,
    ) -> Result<(), InterventionError> {
        let mut books = self.books();
        books.experiments.intervene(name, intervention, reason, now)?;
        self.publish(&mut books);
        Ok(())
    }

    /// `GET /v1/experiments`.
    #[must_use]
    pub fn list(&self) -> ExperimentList {
        let books = self.books();
        ExperimentList {
            experiments: books.experiments.views(),
            waiting: books.experiments.waiting().map(str::to_owned).collect(),
        }
    }

    /// `GET /v1/overview`.
    #[must_use]
    pub fn overview(&self, now: UnixMs, budgets: Vec<BudgetView>, reports: Vec<String>) -> Overview {
        self.books().ledger.overview(now, budgets, reports)
    }

    /// Reads on in the log until its end.
    ///
    /// # Errors
    /// When the log cannot be read; what was read before is counted.
    pub fn look(&self) -> Result<(), StoreError> {
        loop {
            let (attempt_seq, feedback_seq, enrolled_until) = {
                let books = self.books();
                let enrolled_until = books.experiments.enrolled_until().unwrap_or(0);
                (books.attempt_seq, books.feedback_seq, enrolled_until)
            };
            // Scores before attempts before decisions: a score in hand has its decision and its attempt in the log already.
            let scores = self.store.feedback_since(feedback_seq, CHUNK)?;
            let attempts = self.store.attempts_since(attempt_seq, CHUNK)?;
            let enrolments = self.store.enrolments_since(enrolled_until)?;
            let more = scores.len() == CHUNK as usize || attempts.len() == CHUNK as usize;
            let mut books = self.books();
            books.enrol(enrolments);
            attempts.iter().for_each(|entry| books.attempt(entry));
            scores.iter().for_each(|entry| books.score(entry));
            self.publish(&mut books);
            if !more {
                return Ok(());
            }
            drop(books);
            std::thread::yield_now();
        }
    }

    /// The changes since the last call, all of them in the log.
    fn fresh(&self) -> Vec<Event> {
        std::mem::take(&mut self.books().fresh)
    }

    /// Saves what changed, so that what somebody was told has happened is still so after a crash.
    ///
    /// # Errors
    /// When the database cannot be written; it is tried again with the next save.
    pub async fn keep(&self) -> Result<(), StoreError> {
        let Some(row) = self.unsaved(clock::wall()) else {
            return Ok(());
        };
        let saved = self.store.save_state(row).await;
        if saved.is_err() {
            self.books().unsaved = true;
        }
        saved
    }

    /// The state to save, if it changed since the last call.
    pub(super) fn unsaved(&self, now: UnixMs) -> Option<StateRow> {
        let mut books = self.books();
        if !std::mem::take(&mut books.unsaved) {
            return None;
        }
        let bytes = serde_json::to_vec(&books.experiments).ok()?;
        Some(StateRow {
            name: STATE.to_owned(),
            at: now,
            version: STATE_VERSION,
            last_feedback_seq: books.feedback_seq,
            last_attempt_seq: books.attempt_seq,
            bytes,
        })
    }

    fn provenance(&self, now: UnixMs) -> Provenance {
        self.books().about.provenance(now)
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Logs what changed and lets requests see it, in this order: the log is written in the order it is given, so a
    /// hypothesis stands in it before the first decision that it concerns.
    fn publish(&self, books: &mut Books) {
        let changes = books.experiments.take_events();
        books.unsaved |= !changes.is_empty();
        books.unlogged.extend(changes);
        while let Some(event) = books.unlogged.first() {
            let taken = self.store.log_event(EventRow {
                at: event.at,
                kind: "experiment".into(),
                subject: event.experiment.clone(),
                detail: serde_json::to_string(event).unwrap_or_default(),
            });
            if !taken {
                return;
            }
            let event = books.unlogged.remove(0);
            tracing::info!(experiment = event.experiment, "{}", event.kind);
            books.fresh.push(event);
        }
        if books.generation != books.experiments.generation() {
            books.generation = books.experiments.generation();
            books.unsaved = true;
            self.table.store(Arc::new(books.experiments.table()));
        }
    }
}

fn intervention(wish: &config::Override) -> (String, Intervention) {
    let asked = match &wish.action {
        config::OverrideAction::Stop => Intervention::Stop,
        config::OverrideAction::Ship(arm) => Intervention::Ship { arm: arm.clone() },
        config::OverrideAction::Undo => Intervention::Undo,
    };
    (wish.name.clone(), asked)
}
