//! From the configuration to what the learner is told: arms, routes, objectives.

use std::collections::BTreeMap;

use crate::app::features::FeatureSet;
use crate::arm::ArmId;
use crate::completion::Usage;
use crate::config::{self, Config, QualityRule, Route};
use crate::features::embedding::EmbeddingView;
use crate::features::text::TextView;
use crate::policy::View;
use crate::policy::arm_model::LearningSettings;
use crate::policy::learner::{ArmFacts, ContextualLearner};
use crate::policy::route::{Objective, RouteSettings};
use crate::pricing::Units;
use crate::units::UnixMs;

/// A call of usual size, for telling arms' price tiers apart.
const TYPICAL: (u64, u64) = (500, 300);
/// Share of a route's requests that go to an arm that may be the best, to hold the promised margin against.
const AUDIT_SHARE: f64 = 0.02;

/// The learner before anything was learned here.
#[must_use]
pub fn learner(config: &Config, features: &FeatureSet) -> ContextualLearner {
    let mut learner = ContextualLearner::new(
        LearningSettings::default(),
        features.dimensions(),
        features.view_versions(),
        Some(features.seed()),
    );
    configure(&mut learner, config, UnixMs(i64::MAX));
    learner
}

/// The same for views that are no longer in use, without the seed, which is of those that are.
#[must_use]
pub fn former_learner(
    config: &Config,
    text: &TextView,
    embedding: Option<&EmbeddingView>,
) -> ContextualLearner {
    let mut versions = BTreeMap::from([(View::Text, text.version().to_string())]);
    versions.extend(embedding.map(|view| (View::Embedding, view.version().to_string())));
    let dimensions = [Some(text.dimensions()), embedding.map(EmbeddingView::dimensions)];
    let mut learner = ContextualLearner::new(LearningSettings::default(), dimensions, versions, None);
    configure(&mut learner, config, UnixMs(i64::MAX));
    learner
}

/// Tells a learner of every arm and route of `config`. What it knows it keeps.
pub fn configure(learner: &mut ContextualLearner, config: &Config, now: UnixMs) {
    let arms = config.arms().map(|arm| ArmFacts {
        id: arm.id.clone(),
        family: arm.family.to_string(),
        typical_cost_usd: typical_cost(config, &arm.id, now),
    });
    learner.ensure_arms(&arms.collect::<Vec<_>>());
    for route in &config.routes {
        learner.ensure_route(&route.name, settings(route));
    }
}

/// Dollars of a call of usual size; 0 when the price is unknown.
#[must_use]
pub fn typical_cost(config: &Config, arm: &ArmId, now: UnixMs) -> f64 {
    let usage = Usage {
        input: TYPICAL.0,
        output: TYPICAL.1,
        ..Usage::default()
    };
    config
        .prices
        .at(arm, now)
        .map_or(0.0, |tariff| tariff.cost(&usage, &Units::default()).dollars())
}

/// The same at list price, whatever the hour: windows open and close every day, and that is no change of prices.
/// `None` when the price is unknown.
#[must_use]
pub fn list_cost(config: &Config, arm: &ArmId, now: UnixMs) -> Option<f64> {
    let factor = config.prices.at(arm, now)?.multiplier().factor();
    (factor > 0.0).then(|| typical_cost(config, arm, now) / factor)
}

/// A route as the policy takes it.
#[must_use]
pub fn settings(route: &Route) -> RouteSettings {
    let mut settings = RouteSettings {
        audit_share: AUDIT_SHARE,
        ..RouteSettings::default()
    };
    if let Some(budget) = route.ttft_budget {
        settings.latency_target_ms = budget.as_secs_f64() * 1e3;
    }
    match route.objective {
        config::Objective::CheapestCapable { quality, confidence } => {
            settings.confidence = confidence;
            match quality {
                QualityRule::Margin(margin) => settings.objective = Objective::CheapestCapable { margin },
                // Every arm that reaches the floor is as good as any other: the cheapest of them.
                QualityRule::Floor(floor) => {
                    settings.objective = Objective::CheapestCapable { margin: 1.0 };
                    settings.quality_floor = Some(floor);
                }
            }
        }
        config::Objective::MaxQuality => settings.objective = Objective::MaxQuality,
        config::Objective::Weighted {
            lambda,
            latency_weight,
        } => {
            settings.objective = Objective::Weighted { lambda };
            settings.latency_weight = latency_weight;
        }
    }
    settings
}

/// The arm that savings are measured by: the dearest, which is what one would use without a router.
#[must_use]
pub fn reference(config: &Config, route: &Route, now: UnixMs) -> Option<ArmId> {
    let cost = |arm: &ArmId| typical_cost(config, arm, now);
    route
        .models
        .iter()
        .max_by(|a, b| cost(a).total_cmp(&cost(b)))
        .cloned()
}
