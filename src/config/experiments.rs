//! `[[experiments]]`: A/B splits that start with the configuration, and what it asks of those that run.

use std::collections::BTreeMap;

use super::Config;
use super::models::Placed;
use super::problem::Problems;
use super::read::{Ledger, Place, Section};
use super::routes::Route;
use crate::arm::ArmId;

/// Policies that an arm may route by: the router's own, the best mix that looks at no prompt, always the cheapest
/// candidate, chance.
pub const POLICIES: [&str; 4] = ["contextual", "static_mix", "cheapest", "random"];
/// What of a prompt an arm may route by: everything that is ready in time, the words and surface alone, nothing.
pub const FEATURES: [&str; 3] = ["embedding", "text", "none"];

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

/// What an arm of an experiment does with a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Treatment {
    /// `provider/model`: calls this model.
    Model(ArmId),
    /// `family:NAME`: routes among the route's models of this family.
    Family(String),
    /// `policy:NAME`: routes by one of [`POLICIES`].
    Policy(String),
    /// `margin:Q`: routes with this quality margin, in [0, 1].
    Margin(f64),
    /// `features:NAME`: routes by one of [`FEATURES`].
    Features(String),
    /// `categories:code=provider/model,...`: each category to its model, the others as the router does.
    Categories(BTreeMap<String, ArmId>),
    /// `router`: the router as it is.
    Router,
}

impl Treatment {
    /// Reads an arm as it is written.
    ///
    /// # Errors
    /// What it must be, to stand after the arm's text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let one_of = |word: &str, words: &[&str]| {
            if words.contains(&word) {
                Ok(word.to_owned())
            } else {
                Err(format!("must be one of {}", words.join(", ")))
            }
        };
        Ok(match text.split_once(':') {
            None if text == "router" => Self::Router,
            Some(("family", name)) if !name.is_empty() => Self::Family(name.to_owned()),
            Some(("policy", name)) => Self::Policy(one_of(name, &POLICIES)?),
            Some(("features", name)) => Self::Features(one_of(name, &FEATURES)?),
            Some(("margin", number)) => {
                let margin = number.parse::<f64>().ok().filter(|m| (0.0..=1.0).contains(m));
                Self::Margin(margin.ok_or("must be a number from 0 to 1")?)
            }
            Some(("categories", pairs)) => {
                let read = |pair: &str| {
                    let (category, model) = pair.split_once('=')?;
                    let (category, model) = (category.trim(), model.trim());
                    (!category.is_empty() && model.contains('/'))
                        .then(|| (category.to_owned(), ArmId::new(model)))
                };
                let pairs: Option<BTreeMap<_, _>> = pairs.split(',').map(read).collect();
                Self::Categories(pairs.ok_or("must be written categories:code=provider/model,...")?)
            }
            _ if text.contains('/') => Self::Model(ArmId::new(text)),
            _ => {
                return Err(
                    "must be provider/model, family:NAME, policy:NAME, margin:Q, features:NAME, \
                     categories:code=provider/model,... or router"
                        .to_owned(),
                );
            }
        })
    }

    /// The models that it names.
    pub fn models(&self) -> impl Iterator<Item = &ArmId> {
        let (one, many) = match self {
            Self::Model(model) => (Some(model), None),
            Self::Categories(table) => (None, Some(table.values())),
            _ => (None, None),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }
}

/// As it is written.
impl std::fmt::Display for Treatment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Model(model) => write!(f, "{model}"),
            Self::Family(name) => write!(f, "family:{name}"),
            Self::Policy(name) => write!(f, "policy:{name}"),
            Self::Margin(margin) => write!(f, "margin:{margin}"),
            Self::Features(name) => write!(f, "features:{name}"),
            Self::Categories(table) => {
                let pairs: Vec<String> = table.iter().map(|(c, m)| format!("{c}={m}")).collect();
                write!(f, "categories:{}", pairs.join(","))
            }
            Self::Router => f.write_str("router"),
        }
    }
}

/// What a treatment must not make worse, as differences to the control. `None`: the engine's own limit.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Guards {
    /// More failed requests, as a share.
    pub errors: Option<f64>,
    /// More slow first tokens, as a share.
    pub slow: Option<f64>,
    /// More refusals, as a share.
    pub refusals: Option<f64>,
    /// Cost of the treatment over that of the control.
    pub cost_ratio: Option<f64>,
    /// A first token later than this is slow.
    pub slow_ms: Option<f64>,
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
    pub arms: Vec<(String, Treatment)>,
    /// The feedback metric that it judges by.
    pub metric: String,
    /// What it sets out to show.
    pub hypothesis: Hypothesis,
    /// How units are split.
    pub split: Split,
    /// What stays with one arm.
    pub sticky_by: StickyBy,
    /// Share of the layer's traffic that takes part, in (0, 1].
    pub traffic: f64,
    /// Experiments of one layer never share a request or user. `None`: the route's.
    pub layer: Option<String>,
    /// Error rate of the whole experiment, in (0, 0.5].
    pub error_rate: Option<f64>,
    /// Scores after which it ends without a verdict.
    pub max_samples: Option<u64>,
    /// Chance of a verdict by then below which it ends at once, in [0, 0.5].
    pub futility: Option<f64>,
    /// What must not get worse.
    pub guards: Guards,
}

/// What the configuration asks of an experiment that runs or ran, whoever started it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    /// The experiment.
    pub name: String,
    /// What.
    pub action: OverrideAction,
}

/// What may be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OverrideAction {
    /// End it; the control stays.
    Stop,
    /// End it and ship this arm.
    Ship(String),
    /// Take back what was shipped or ruled out.
    Undo,
}

/// An experiment as read, its names not yet looked up.
pub(super) struct RawExperiment {
    experiment: Option<Experiment>,
    wish: Option<Override>,
    names: Vec<(String, Place)>,
    arms: Place,
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
            format!("is \"{name}\", but must be letters, digits, -, _ and .: it names a directory"),
        );
    }
    let mut raw = RawExperiment {
        experiment: None,
        wish: None,
        names: Vec::new(),
        arms: section.place_of("arms"),
        route: section.place_of("route"),
        place: section.place_of("name"),
    };
    if section.contains("override") {
        raw.wish = wish(section, name);
        return raw;
    }
    let route = section.required_string("route", "the route on which it runs");
    let category = section.string("category").filter(|category| category != "any");
    let arms = arms(section, &mut raw.names);
    let hypothesis = hypothesis(section);
    let split = section
        .word("split", &[("fixed", Split::Fixed), ("adaptive", Split::Adaptive)])
        .unwrap_or(Split::Adaptive);
    let units = [
        ("request", StickyBy::Request),
        ("user", StickyBy::User),
        ("session", StickyBy::Session),
    ];
    let experiment = |name, route| Experiment {
        name,
        route,
        category,
        arms,
        metric: section.string("metric").unwrap_or_else(|| "quality".into()),
        hypothesis,
        split,
        sticky_by: section.word("sticky_by", &units).unwrap_or(StickyBy::Request),
        traffic: section.number("traffic", 0.01..=1.0).unwrap_or(1.0),
        layer: section.string("layer"),
        error_rate: section.number("error_rate", 0.000_1..=0.5),
        max_samples: section.integer("max_samples", 100..=10_000_000),
        futility: section.number("futility", 0.0..=0.5),
        guards: guards(section),
    };
    raw.experiment = Some(experiment(
        name.clone().unwrap_or_default(),
        route.clone().unwrap_or_default(),
    ))
    .filter(|_| name.is_some() && route.is_some());
    section.done();
    raw
}

fn wish(section: &Section<'_>, name: Option<String>) -> Option<Override> {
    let words = [
        ("stop", OverrideAction::Stop),
        ("ship", OverrideAction::Ship(String::new())),
        ("undo", OverrideAction::Undo),
    ];
    let action = section.word("override", &words);
    let arm = section.string("arm");
    section.done();
    let action = match action? {
        OverrideAction::Ship(_) => {
            if arm.is_none() {
                section.problem(
                    "",
                    "`arm` is missing; the name of the arm to ship, such as \"treatment\"",
                );
            }
            OverrideAction::Ship(arm?)
        }
        other => other,
    };
    Some(Override { name: name?, action })
}

fn arms(section: &Section<'_>, names: &mut Vec<(String, Place)>) -> Vec<(String, Treatment)> {
    let mut written = section.string_table("arms");
    written.sort_by_key(|(name, _)| name != "control");
    if written.len() < 2 || written[0].0 != "control" {
        section.problem(
            "arms",
            "needs control = \"provider/model\" and at least one arm beside it, such as treatment",
        );
    }
    let mut arms = Vec::with_capacity(written.len());
    for (name, text) in written {
        let mut place = section.place_of("arms");
        place.path = format!("{}.{name}", place.path);
        match Treatment::parse(&text) {
            Ok(treatment) => {
                names.extend(treatment.models().map(|model| (model.to_string(), place.clone())));
                arms.push((name, treatment));
            }
            Err(must) => section
                .ledger()
                .report_at(&place, format!("is \"{text}\", but {must}")),
        }
    }
    for (index, (name, treatment)) in arms.iter().enumerate() {
        if arms[..index].iter().any(|(_, other)| other == treatment) {
            section.problem(
                "arms",
                format!("has the same \"{treatment}\" twice; {name} must differ from the other arms"),
            );
        }
    }
    arms
}

fn hypothesis(section: &Section<'_>) -> Hypothesis {
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
    match margin {
        Some(margin) if !superior => Hypothesis::NonInferior { margin },
        _ => Hypothesis::Superior,
    }
}

fn guards(section: &Section<'_>) -> Guards {
    section
        .section("guardrails")
        .map_or_else(Guards::default, |section| {
            let guards = Guards {
                errors: section.number("errors", 0.0..=1.0),
                slow: section.number("slow", 0.0..=1.0),
                refusals: section.number("refusals", 0.0..=1.0),
                cost_ratio: section.number("cost_ratio", 0.0..=1000.0),
                slow_ms: section.number("slow_ms", 1.0..=3_600_000.0),
            };
            section.done();
            guards
        })
}

fn is_plain(name: &str) -> bool {
    !name.starts_with('.')
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

/// What is known of the models: whether one is there, and which families there are.
struct Known<'a> {
    /// Id and family.
    models: Vec<(&'a str, &'a str)>,
    routes: &'a [Route],
}

/// The experiments, with unique names and routes that exist; and what is asked of others.
pub(super) fn check(
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arm_reads_as_it_is_written() {
        let arms = [
            "openai/gpt-4o-mini",
            "family:llama",
            "policy:static_mix",
            "margin:0.05",
            "features:text",
            "categories:code=a/1,maths=b/2",
            "router",
        ];
        for text in arms {
            assert_eq!(Treatment::parse(text).unwrap().to_string(), text);
        }
        for (wrong, hint) in [
            ("policy:best", "contextual"),
            ("margin:2", "0 to 1"),
            ("categories:code", "categories:"),
            ("gpt-4o", "provider/model"),
            ("features:all", "embedding"),
        ] {
            let must = Treatment::parse(wrong).unwrap_err();
            assert!(must.contains(hint), "{wrong}: {must}");
        }
    }
}
