//! Whether an experiment fits the routes and models of its configuration.

use super::super::Config;
use super::super::models::Placed;
use super::super::problem::Problems;
use super::super::read::{Ledger, Section};
use super::super::routes::Route;
use super::raw::{RawExperiment, raw};
use super::{Experiment, Override, Treatment};
use crate::arm::ArmId;

/// What is known of the models: whether one is there, and which families there are.
struct Known<'a> {
    /// Id and family.
    models: Vec<(&'a str, &'a str)>,
    routes: &'a [Route],
}

/// The experiments, with unique names and routes that exist; and what is asked of others.
pub(in crate::config) fn check(
    raw: Vec<RawExperiment>,
    routes: &[Route],
    models: &[Placed],
    ledger: &Ledger<'_>,
) -> (Vec<Experiment>, Vec<Override>) {
    let known = Known {
        models: models
            .iter()
            .map(|placed| (placed.model.arm.id.as_str(), &*placed.model.arm.family))
            .collect(),
        routes,
    };
    let mut experiments: Vec<Experiment> = Vec::new();
    let mut overrides = Vec::new();
    for mut raw in raw {
        overrides.extend(raw.wish.take());
        let Some(experiment) = raw.experiment.take() else {
            continue;
        };
        if experiments.iter().any(|other| other.name == experiment.name) {
            let message = format!("\"{}\" is the name of another experiment too", experiment.name);
            ledger.report_at(&raw.place, message);
        }
        known.check(&experiment, &raw, ledger);
        experiments.push(experiment);
    }
    (experiments, overrides)
}

impl Known<'_> {
    fn check(&self, experiment: &Experiment, raw: &RawExperiment, ledger: &Ledger<'_>) {
        let Some(route) = self.routes.iter().find(|route| route.name == experiment.route) else {
            let message = format!("\"{}\" is not a route of this file", experiment.route);
            ledger.report_at(&raw.route, message);
            return;
        };
        let of_route = |id: &str| route.models.iter().any(|model| model.as_str() == id);
        // A model against a model needs no more than the two. Where an arm is the router itself, a model that it may
        // not choose would be compared with something else than it is part of.
        let needs_route = experiment
            .arms
            .iter()
            .any(|(_, treatment)| !matches!(treatment, Treatment::Model(_)));
        for (id, place) in &raw.names {
            let served = self.models.iter().any(|(known, _)| known == id);
            if needs_route && served && !of_route(id) {
                let message = format!(
                    "\"{id}\" is not a model of route \"{}\"; add it there, or let every arm be a model",
                    route.name
                );
                ledger.report_at(place, message);
            }
        }
        for (_, treatment) in &experiment.arms {
            let Treatment::Family(family) = treatment else {
                continue;
            };
            let found = self.models.iter().any(|(id, of)| of == family && of_route(id));
            if !found {
                let mut families: Vec<&str> = self
                    .models
                    .iter()
                    .filter(|(id, _)| of_route(id))
                    .map(|(_, family)| *family)
                    .collect();
                families.sort_unstable();
                families.dedup();
                let message = format!(
                    "family \"{family}\" has no model on route \"{}\"; its families are {}",
                    route.name,
                    families.join(", ")
                );
                ledger.report_at(&raw.arms, message);
            }
        }
    }
}

impl Config {
    /// Checks an experiment that is asked for while the program runs, `text` being the TOML of one
    /// `[[experiments]]` section, against this configuration.
    ///
    /// # Errors
    /// Everything that is wrong with it, each problem with its path.
    pub fn experiment(&self, text: &str) -> Result<Experiment, Problems> {
        let ledger = Ledger::new(text);
        let (table, errors) = toml::de::DeTable::parse_recoverable(text);
        for error in errors {
            ledger.report("", error.span(), format!("not valid: {}", error.message()));
        }
        let raw = raw(&Section::root(&ledger, &table));
        for (name, place) in &raw.names {
            if self.model(&ArmId::new(name)).is_none() {
                ledger.report_at(place, format!("\"{name}\" is not a model of the configuration"));
            }
        }
        if raw.wish.is_some() {
            ledger.report(
                "override",
                None,
                "is for the configuration; POST to the experiment's own path",
            );
        }
        let known = Known {
            models: self.arms().map(|arm| (arm.id.as_str(), &*arm.family)).collect(),
            routes: &self.routes,
        };
        if let Some(experiment) = &raw.experiment {
            known.check(experiment, &raw, &ledger);
        }
        let experiment = raw.experiment;
        let mut problems = ledger.into_problems();
        // Lines are those of a text that the caller never wrote.
        problems.iter_mut().for_each(|problem| problem.line = None);
        match experiment {
            Some(experiment) if problems.is_empty() => Ok(experiment),
            _ => Err(Problems(problems)),
        }
    }
}
