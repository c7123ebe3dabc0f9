//! `[[experiments]]`: A/B splits that start with the configuration.

use super::models::Placed;
use super::read::{Ledger, Place, Section};
use super::routes::Route;
use crate::arm::ArmId;

/// What an experiment sets out to show of the treatment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Hypothesis {
    /// Better than the control.
    Superior,
    /// Worse by no more than the margin, in (0, 1).
    NonInferior {
        /// How much worse is still acceptable.
        margin: f64,
    },
}

/// How units are split over the arms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// Evenly.
    Fixed,
    /// By what is learned on the way.
    Adaptive,
}

/// What stays with one arm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StickyBy {
    /// Nothing: each request is drawn anew.
    Request,
    /// A user.
    User,
    /// A session.
    Session,
}

/// An experiment.
#[derive(Clone, Debug, PartialEq)]
pub struct Experiment {
    /// Its name, in headers and reports.
    pub name: String,
    /// The route on which it runs.
    pub route: String,
    /// The prompt category it is limited to. `None`: any.
    pub category: Option<String>,
    /// The arms by their names, `control` first; at least two.
    pub arms: Vec<(String, ArmId)>,
    /// The feedback metric that it judges by.
    pub metric: String,
    /// What it sets out to show.
    pub hypothesis: Hypothesis,
    /// How units are split.
    pub split: Split,
    /// What stays with one arm.
    pub sticky_by: StickyBy,
}

/// An experiment as read, its names not yet looked up.
pub(super) struct RawExperiment {
    experiment: Option<Experiment>,
    names: Vec<(String, Place)>,
    route: Place,
    place: Place,
}

impl RawExperiment {
    /// Every model that it names.
    pub(super) fn models(&self) -> impl Iterator<Item = &(String, Place)> {
        self.names.iter()
    }
}

pub(super) fn raw(section: &Section<'_>) -> RawExperiment {
    let name = section.required_string("name", "it stands in headers and reports");
    if let Some(name) = name.as_deref().filter(|name| !is_plain(name)) {
        section.problem(
            "name",
            format!("is \"{name}\", but must be letters, digits, - and _: it names a directory"),
        );
    }
    let route = section.required_string("route", "the route on which it runs");
    let category = section.string("category").filter(|category| category != "any");
    let mut arms = section.string_table("arms");
    arms.sort_by_key(|(name, _)| name != "control");
    if arms.len() < 2 || arms[0].0 != "control" {
        section.problem(
            "arms",
            "needs control = \"provider/model\" and at least one arm beside it, such as treatment",
        );
    }
    let metric = section.string("metric").unwrap_or_else(|| "quality".into());
    let superior = section
        .word("hypothesis", &[("superior", true), ("non_inferior", false)])
        .unwrap_or(true);
    let margin = section.number("margin", 0.000_1..=0.999_9);
    if superior && section.contains("margin") {
        section.problem("margin", "has a meaning only with hypothesis = \"non_inferior\"");
    }
    if !superior && !section.contains("margin") {
        section.problem(
            "",
            "`margin` is missing; how much worse is still acceptable, such as 0.02",
        );
    }
    let hypothesis = match margin {
        Some(margin) if !superior => Hypothesis::NonInferior { margin },
        _ => Hypothesis::Superior,
    };
    let split = section
        .word("split", &[("fixed", Split::Fixed), ("adaptive", Split::Adaptive)])
        .unwrap_or(Split::Adaptive);
    let units = [
        ("request", StickyBy::Request),
        ("user", StickyBy::User),
        ("session", StickyBy::Session),
    ];
    let sticky_by = section.word("sticky_by", &units).unwrap_or(StickyBy::Request);
    section.done();
    let names = arms
        .iter()
        .map(|(arm, model)| {
            let mut place = section.place_of("arms");
            place.path = format!("{}.{arm}", place.path);
            (model.clone(), place)
        })
        .collect();
    let experiment = name.zip(route).map(|(name, route)| Experiment {
        name,
        route,
        category,
        arms: arms
            .into_iter()
            .map(|(arm, model)| (arm, ArmId::new(&model)))
            .collect(),
        metric,
        hypothesis,
        split,
        sticky_by,
    });
    RawExperiment {
        experiment,
        names,
        route: section.place_of("route"),
        place: section.place_of("name"),
    }
}

fn is_plain(name: &str) -> bool {
    name.bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
}

/// The experiments, with unique names and routes that exist.
pub(super) fn check(
    raw: Vec<RawExperiment>,
    routes: &[Route],
    models: &[Placed],
    ledger: &Ledger<'_>,
) -> Vec<Experiment> {
    let mut experiments: Vec<Experiment> = Vec::new();
    for RawExperiment {
        experiment,
        route: route_place,
        place,
        names,
    } in raw
    {
        let Some(experiment) = experiment else { continue };
        if experiments.iter().any(|other| other.name == experiment.name) {
            let message = format!("\"{}\" is the name of another experiment too", experiment.name);
            ledger.report_at(&place, message);
        }
        match routes.iter().find(|route| route.name == experiment.route) {
            None => {
                let message = format!("\"{}\" is not a route of this file", experiment.route);
                ledger.report_at(&route_place, message);
            }
            Some(route) => {
                for (id, place) in &names {
                    let served = models.iter().any(|placed| placed.model.arm.id.as_str() == id);
                    if served && !route.models.iter().any(|model| model.as_str() == id) {
                        let message = format!(
                            "\"{id}\" is not a model of route \"{}\"; add it there",
                            route.name
                        );
                        ledger.report_at(place, message);
                    }
                }
            }
        }
        experiments.push(experiment);
    }
    experiments
}
