//! An `[[experiments]]` section as it is written; what its names stand for is [checked](super::check) later.

use super::super::read::{Place, Section};
use super::{Experiment, Guards, Hypothesis, Override, OverrideAction, Split, StickyBy, Treatment};

/// Directories of the reports that are not an experiment's: of the routing report and of `pointsman replay`.
const TAKEN: [&str; 2] = ["routing", "replay"];

/// An experiment as read, its names not yet looked up.
pub(in crate::config) struct RawExperiment {
    pub(super) experiment: Option<Experiment>,
    pub(super) wish: Option<Override>,
    pub(super) names: Vec<(String, Place)>,
    pub(super) arms: Place,
    pub(super) route: Place,
    pub(super) place: Place,
}

impl RawExperiment {
    /// Every model that it names.
    pub(in crate::config) fn models(&self) -> impl Iterator<Item = &(String, Place)> {
        self.names.iter()
    }
}

pub(in crate::config) fn raw(section: &Section<'_>) -> RawExperiment {
    let name = section.required_string("name", "it stands in headers and reports");
    if let Some(name) = name.as_deref().filter(|name| !is_plain(name)) {
        section.problem(
            "name",
            format!("is \"{name}\", but must be letters, digits, -, _ and .: it names a directory"),
        );
    }
    if let Some(name) = name.as_deref().filter(|name| TAKEN.contains(name)) {
        section.problem(
            "name",
            format!("is \"{name}\", but the reports have a directory of that name already; choose another"),
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
