//! `[[routes]]`: names that a client may ask for, and how their models are chosen.

use std::collections::BTreeSet;
use std::time::Duration;

use super::budgets;
use super::models::Placed;
use super::read::{Ledger, Place, Section};
use crate::arm::{ArmId, Modality};
use crate::candidates::{Rule, When};
use crate::features::Category;
use crate::pricing::budget::{BudgetRule, Scope};
use crate::units::Usd;

/// What counts as capable.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum QualityRule {
    /// Expected quality no more than this below the best model's, in [0, 1].
    Margin(f64),
    /// Expected quality of at least this, in [0, 1].
    Floor(f64),
}

/// What a route aims at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Objective {
    /// The cheapest model that is good enough.
    CheapestCapable {
        /// What is good enough.
        quality: QualityRule,
        /// With at least this probability, in [0.5, 1).
        confidence: f64,
    },
    /// The best model, within the budget if there is one.
    MaxQuality,
    /// quality − lambda × dollars − latency_weight × excess latency.
    Weighted {
        /// Quality points that a dollar is worth.
        lambda: f64,
        /// Quality points lost for each time budget that the answer is late by.
        latency_weight: f64,
    },
}

/// Whether and how often a second model is asked when the first is slow.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hedge {
    /// Whether.
    pub enabled: bool,
    /// At most this share of requests, in [0, 1].
    pub max_rate: f64,
}

/// Whether and how long answers are kept for requests that come again.
#[derive(Clone, Debug, PartialEq)]
pub struct CacheRule {
    /// How long an answer may be given again.
    pub ttl: Duration,
    /// Memory for the answers of the route.
    pub max_bytes: u64,
    /// Whether an answer to one client, or user, may be given to another.
    pub shared: bool,
    /// Whether answers are given to questions that mean the same, too. `None`: only to equal ones.
    pub semantic: Option<SemanticRule>,
}

/// When two questions mean the same.
#[derive(Clone, Debug, PartialEq)]
pub struct SemanticRule {
    /// Least cosine of their embeddings.
    pub threshold: f64,
    /// The same for prompts of a category.
    pub categories: Vec<(&'static str, f64)>,
    /// Questions remembered.
    pub most: usize,
}

impl SemanticRule {
    /// The threshold for a prompt of `category`.
    #[must_use]
    pub fn threshold(&self, category: &str) -> f64 {
        let own = self.categories.iter().find(|(name, _)| *name == category);
        own.map_or(self.threshold, |(_, threshold)| *threshold)
    }
}

/// Which experiments a route may start by itself, and how much of it they may use.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AutoExperiments {
    /// Whether any.
    pub enabled: bool,
    /// Whether also comparisons of model families in single categories of prompts, where they may pay.
    pub families: bool,
    /// Share of the route's traffic that one may use, in (0, 1].
    pub traffic: f64,
    /// How much worse a treatment may be, in (0, 1). `None`: the route's quality margin.
    pub margin: Option<f64>,
    /// Scores after which one ends without a verdict.
    pub max_samples: u64,
}

impl Default for AutoExperiments {
    fn default() -> Self {
        Self {
            enabled: true,
            families: true,
            traffic: 0.2,
            margin: None,
            max_samples: 10_000,
        }
    }
}

/// A name that clients may ask for.
#[derive(Clone, Debug)]
pub struct Route {
    /// The model name in the request.
    pub name: String,
    /// Its models, each once; never empty.
    pub models: Vec<ArmId>,
    /// What it aims at.
    pub objective: Objective,
    /// Most that a request may cost.
    pub max_cost: Option<Usd>,
    /// When the first token must have come, before a hedge is sent. `None`: learned, per model.
    pub ttft_budget: Option<Duration>,
    /// When the whole answer must have come, or a stream have begun.
    pub deadline: Duration,
    /// When a stream that has begun must be complete. The same, unless no deadline is set: an answer that flows is none
    /// that hangs.
    pub stream_deadline: Duration,
    /// Hedging.
    pub hedge: Hedge,
    /// Its own budget; it is among the configuration's budgets too.
    pub budget: Option<BudgetRule>,
    /// Fixed order of fallbacks. `None`: the policy's own ranking.
    pub fallbacks: Option<Vec<ArmId>>,
    /// Plain rules before the policy; the first that matches holds.
    pub rules: Vec<Rule>,
    /// Answers kept. `None`: none are.
    pub cache: Option<CacheRule>,
    /// Experiments that start by themselves.
    pub experiments: AutoExperiments,
}

impl Route {
    /// Quality points that may be lost by its objective; the default where that is not what it aims at.
    #[must_use]
    pub fn margin(&self) -> f64 {
        match self.objective {
            Objective::CheapestCapable {
                quality: QualityRule::Margin(margin),
                ..
            } => margin,
            _ => DEFAULT_MARGIN,
        }
    }
}

const DEFAULT_DEADLINE: Duration = Duration::from_secs(60);
const DEFAULT_STREAM_DEADLINE: Duration = Duration::from_secs(600);
const DEFAULT_MARGIN: f64 = 0.02;
const DEFAULT_CONFIDENCE: f64 = 0.9;
const DEFAULT_HEDGE: Hedge = Hedge {
    enabled: true,
    max_rate: 0.05,
};

const DEFAULT_CACHE_SECONDS: u64 = 300;
const DEFAULT_CACHE_BYTES: u64 = 64 << 20;
const DEFAULT_COSINE: f64 = 0.97;
const DEFAULT_QUESTIONS: usize = 1_000;
/// Least and most that a route's answers may take.
const CACHE_BYTES: std::ops::RangeInclusive<u64> = 65_536..=(1 << 40);

/// A route as read, its names not yet looked up.
pub(super) struct RawRoute {
    route: Option<Route>,
    names: Vec<(String, Place)>,
    place: Place,
}

impl RawRoute {
    /// Every model that it names.
    pub(super) fn models(&self) -> impl Iterator<Item = &(String, Place)> {
        self.names.iter()
    }
}

fn ids(names: &[(String, Place)]) -> Vec<ArmId> {
    names.iter().map(|(name, _)| ArmId::new(name)).collect()
}

pub(super) fn raw(section: &Section<'_>) -> RawRoute {
    let name = section.required_string("name", "it is what clients ask for, such as \"auto\"");
    let models = model_list(section, "models");
    if models.is_none() && !section.contains("models") {
        section.problem("", "`models` is missing; the models that this route may choose");
    }
    let fallbacks = model_list(section, "fallbacks");
    let rule_sections = section.sections("rules");
    let rules: Vec<_> = rule_sections.iter().map(rule).collect();
    let objective = objective(section);
    let max_cost = section.positive_usd("max_cost_usd");
    let ttft_budget = section.integer("ttft_budget_ms", 1..=3_600_000);
    let deadline = section
        .integer("deadline_ms", 1..=3_600_000)
        .map(Duration::from_millis);
    let hedge = section.section("hedge").map_or(DEFAULT_HEDGE, |section| {
        let hedge = Hedge {
            enabled: section.bool("enabled").unwrap_or(DEFAULT_HEDGE.enabled),
            max_rate: section
                .number("max_rate", 0.0..=1.0)
                .unwrap_or(DEFAULT_HEDGE.max_rate),
        };
        section.done();
        hedge
    });
    let experiments = section
        .section("experiments")
        .map_or_else(AutoExperiments::default, |section| auto_experiments(&section));
    let budget = section.section("budget").and_then(|inner| {
        let route = name.clone().unwrap_or_default();
        let rule = budgets::rule(&inner, format!("route {route}"), Scope::Route, Some(route));
        inner.done();
        rule
    });
    let cache = section.section("cache").map(|inner| cache(&inner));
    section.done();
    let mut names = models.clone().unwrap_or_default();
    names.extend(fallbacks.iter().flatten().cloned());
    names.extend(rules.iter().flat_map(|(_, names)| names.iter().cloned()));
    let route = name.zip(models).map(|(name, models)| Route {
        name,
        models: ids(&models),
        objective,
        max_cost,
        ttft_budget: ttft_budget.map(Duration::from_millis),
        deadline: deadline.unwrap_or(DEFAULT_DEADLINE),
        stream_deadline: deadline.unwrap_or(DEFAULT_STREAM_DEADLINE),
        hedge,
        budget,
        fallbacks: fallbacks.as_deref().map(ids),
        rules: rules
            .into_iter()
            .map(|(when, names)| Rule {
                when,
                models: ids(&names),
            })
            .collect(),
        cache,
        experiments,
    });
    RawRoute {
        route,
        names,
        place: section.place_of("name"),
    }
}

fn semantic(section: &Section<'_>) -> SemanticRule {
    const COSINES: std::ops::RangeInclusive<f64> = 0.5..=1.0;
    let categories = section.section("categories").map(|inner| {
        let own = Category::ALL.iter().filter_map(|category| {
            let threshold = inner.number(category.name(), COSINES)?;
            Some((category.name(), threshold))
        });
        let own = own.collect();
        inner.done();
        own
    });
    let most = section.integer("max_entries", 1..=100_000);
    let rule = SemanticRule {
        threshold: section.number("threshold", COSINES).unwrap_or(DEFAULT_COSINE),
        categories: categories.unwrap_or_default(),
        most: most
            .and_then(|most| usize::try_from(most).ok())
            .unwrap_or(DEFAULT_QUESTIONS),
    };
    section.done();
    rule
}

fn cache(section: &Section<'_>) -> CacheRule {
    let rule = CacheRule {
        ttl: Duration::from_secs(
            section
                .integer("ttl_seconds", 1..=31_536_000)
                .unwrap_or(DEFAULT_CACHE_SECONDS),
        ),
        max_bytes: section
            .integer("max_bytes", CACHE_BYTES)
            .unwrap_or(DEFAULT_CACHE_BYTES),
        shared: section.bool("shared").unwrap_or(false),
        semantic: section.section("semantic").map(|inner| semantic(&inner)),
    };
    section.done();
    rule
}

fn auto_experiments(section: &Section<'_>) -> AutoExperiments {
    let usual = AutoExperiments::default();
    let read = AutoExperiments {
        enabled: section.bool("enabled").unwrap_or(usual.enabled),
        families: section.bool("families").unwrap_or(usual.families),
        traffic: section.number("traffic", 0.01..=1.0).unwrap_or(usual.traffic),
        margin: section.number("margin", 0.001..=0.999),
        max_samples: section
            .integer("max_samples", 100..=10_000_000)
            .unwrap_or(usual.max_samples),
    };
    section.done();
    read
}

/// A list of model ids without repetition; `None` when absent or empty.
fn model_list(section: &Section<'_>, key: &'static str) -> Option<Vec<(String, Place)>> {
    let names = section.strings(key)?;
    if names.is_empty() {
        section.problem(key, "must name at least one model");
        return None;
    }
    let mut seen = BTreeSet::new();
    for (name, place) in &names {
        if !seen.insert(name.as_str()) {
            section
                .ledger()
                .report_at(place, format!("\"{name}\" is in the list twice"));
        }
    }
    Some(names)
}

fn objective(section: &Section<'_>) -> Objective {
    let words = [("cheapest_capable", 0), ("max_quality", 1), ("weighted", 2)];
    let which = section.word("objective", &words).unwrap_or(0);
    let margin = section.number("quality_margin", 0.0..=1.0);
    let floor = section.number("quality_floor", 0.0..=1.0);
    let confidence = section.number("confidence", 0.5..=0.999_9);
    let lambda = section.number("lambda", 0.0..=f64::INFINITY);
    let latency_weight = section.number("latency_weight", 0.0..=f64::INFINITY);
    if margin.is_some() && floor.is_some() {
        section.problem(
            "quality_floor",
            "stands beside quality_margin; write only one of them",
        );
    }
    let only_for = |key: &str, belongs: u8, name: &str| {
        if which != belongs && section.contains(key) {
            section.problem(key, format!("has a meaning only with objective = \"{name}\""));
        }
    };
    for key in ["quality_margin", "quality_floor", "confidence"] {
        only_for(key, 0, "cheapest_capable");
    }
    only_for("lambda", 2, "weighted");
    only_for("latency_weight", 2, "weighted");
    match which {
        0 => Objective::CheapestCapable {
            quality: floor.map_or(
                QualityRule::Margin(margin.unwrap_or(DEFAULT_MARGIN)),
                QualityRule::Floor,
            ),
            confidence: confidence.unwrap_or(DEFAULT_CONFIDENCE),
        },
        1 => Objective::MaxQuality,
        _ => {
            if !section.contains("lambda") {
                section.problem(
                    "",
                    "`lambda` is missing; the quality points that a dollar is worth",
                );
            }
            Objective::Weighted {
                lambda: lambda.unwrap_or(0.0),
                latency_weight: latency_weight.unwrap_or(0.0),
            }
        }
    }
}

fn rule(section: &Section<'_>) -> (When, Vec<(String, Place)>) {
    let when = section.section("when").map_or_else(When::default, |when| {
        let modalities = [
            ("text", Modality::Text),
            ("image", Modality::Image),
            ("audio", Modality::Audio),
            ("video", Modality::Video),
            ("pdf", Modality::Pdf),
        ];
        let read = When {
            modality: when.word("modality", &modalities),
            category: when.string("category"),
            min_input_tokens: when.integer("min_input_tokens", 0..=u64::MAX),
            max_input_tokens: when.integer("max_input_tokens", 0..=u64::MAX),
            tools: when.bool("tools"),
            structured_output: when.bool("structured_output"),
            code: when.bool("code"),
            language: when.string("language"),
            header: when.string_table("header"),
            tag: when.string_table("tag"),
        };
        when.done();
        if let (Some(least), Some(most)) = (read.min_input_tokens, read.max_input_tokens)
            && least > most
        {
            when.problem(
                "min_input_tokens",
                "is more than max_input_tokens: nothing matches",
            );
        }
        read
    });
    if !section.contains("when") {
        section.problem(
            "",
            "`when` is missing; write when = {} for a rule that always holds",
        );
    }
    let models = model_list(section, "models");
    if models.is_none() && !section.contains("models") {
        section.problem("", "`models` is missing; where matching requests go");
    }
    section.done();
    (when, models.unwrap_or_default())
}

/// The routes, with unique names. With none in the file: `auto`, over every model.
pub(super) fn check(raw: Vec<RawRoute>, models: &[Placed], ledger: &Ledger<'_>) -> Vec<Route> {
    if raw.is_empty() {
        if models.is_empty() {
            ledger.report(
                "",
                None,
                "there is nothing to route to; add [[routes]] with models, or [[models]]",
            );
        }
        return vec![Route {
            name: "auto".into(),
            models: models.iter().map(|placed| placed.model.arm.id.clone()).collect(),
            objective: Objective::CheapestCapable {
                quality: QualityRule::Margin(DEFAULT_MARGIN),
                confidence: DEFAULT_CONFIDENCE,
            },
            max_cost: None,
            ttft_budget: None,
            deadline: DEFAULT_DEADLINE,
            stream_deadline: DEFAULT_STREAM_DEADLINE,
            hedge: DEFAULT_HEDGE,
            budget: None,
            fallbacks: None,
            rules: Vec::new(),
            cache: None,
            experiments: AutoExperiments::default(),
        }];
    }
    let mut routes: Vec<Route> = Vec::new();
    for RawRoute { route, place, .. } in raw {
        let Some(route) = route else { continue };
        if routes.iter().any(|other| other.name == route.name) {
            ledger.report_at(
                &place,
                format!("\"{}\" is the name of another route too", route.name),
            );
        }
        if models
            .iter()
            .any(|placed| placed.model.arm.id.as_str() == route.name)
        {
            ledger.report_at(&place, format!("\"{}\" is the id of a model too", route.name));
        }
        routes.push(route);
    }
    routes
}

/// A rule for a category that the classifier does not know works only for requests that name it themselves: worth a
/// word, because a misspelt one never matches.
pub(super) fn warn_categories(routes: &[Route], warnings: &Ledger<'_>) {
    for route in routes {
        for rule in &route.rules {
            let Some(category) = &rule.when.category else {
                continue;
            };
            if let Err(unknown) = category.parse::<Category>() {
                warnings.report(
                    &format!("routes.{}.rules", route.name),
                    None,
                    format!("{unknown}; the rule holds only for requests that name it in routing.category"),
                );
            }
        }
    }
}
