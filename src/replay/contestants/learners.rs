//! The learners behind the contestants, each with what it knows before the first prompt.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Contestant, Settings, Trial, typical_cost};
use crate::arm::ArmId;
use crate::policy::category_table::Categories;
use crate::policy::linear::LinearPrior;
use crate::policy::linucb::{LinUcbSettings, UcbPrior};
use crate::policy::route::{Objective, RouteSettings};
use crate::policy::seed::{CATEGORY_SHRINKAGE, LabelledOutcome, SeedBuilder};
use crate::policy::{
    ArmFacts, CategoryTable, ContextualLearner, EpsilonGreedy, Fixed, Learner, LinUcb, Random, View,
};
use crate::replay::dataset::Prompt;
use crate::replay::meter::Meter;
use crate::replay::nearest::Nearest;
use crate::replay::views::Rows;
use crate::replay::world::{ROUTE, contexts};

/// The learner of a contestant; `number` tells routers apart that share the traffic.
pub(super) fn learner(
    contestant: Contestant,
    trial: &Trial,
    settings: &Settings,
    meter: &Meter,
    number: usize,
) -> Box<dyn Learner> {
    let dataset = &trial.world.dataset;
    match contestant {
        Contestant::Random => Box::new(Random),
        Contestant::Single(model) => Box::new(Fixed::new(dataset.models[model].clone())),
        Contestant::EpsilonGreedy => {
            let lambda = match settings.route.objective {
                Objective::Weighted { lambda } => lambda,
                _ => 0.0,
            };
            Box::new(EpsilonGreedy::new(settings.route.exploration, lambda))
        }
        Contestant::LinUcb => Box::new(linucb(trial, settings, meter)),
        Contestant::Knn => Box::new(nearest(trial, settings, meter)),
        Contestant::CategoryTable => {
            let all = trial.seed.prompts.iter().chain(&dataset.prompts);
            let categories = Arc::new(Categories::new(
                all.filter_map(|prompt| prompt.category.as_deref()),
            ));
            let row = |prompt: usize| {
                categories
                    .indicator(trial.seed.prompts[prompt].category.as_deref())
                    .into()
            };
            let rows: Rows = Arc::new((0..trial.seed.prompts.len()).map(row).collect());
            // The table's cells are shrunk as a table's should be, not as weights on features of a prompt are.
            let mut settings = settings.clone();
            settings.seed.ridge = Some(CATEGORY_SHRINKAGE);
            let inner = contextual(
                contestant,
                trial,
                &settings,
                meter,
                &rows,
                categories.dimensions(),
            );
            Box::new(CategoryTable::new(categories, inner))
        }
        _ => {
            let dimensions = trial.world.features.first().map_or(1, |features| features.len());
            let mut learner = contextual(
                contestant,
                trial,
                settings,
                meter,
                &trial.seed_features,
                dimensions,
            );
            if trial.world.replicas.merge_every > 0 {
                learner.share_as(&format!("replica-{number}"), 1);
            }
            Box::new(learner)
        }
    }
}

/// The category that a contestant may see. Surface and shuffled features must stand alone, and the table has its
/// categories as features already.
fn category(contestant: Contestant, prompt: &Prompt) -> Option<&str> {
    contestant
        .sees_categories()
        .then_some(prompt.category.as_deref())?
}

/// A contextual learner, seeded and rehearsed on the seed prompts (`rows` are their features).
fn contextual(
    contestant: Contestant,
    trial: &Trial,
    settings: &Settings,
    meter: &Meter,
    rows: &Rows,
    dimensions: usize,
) -> ContextualLearner {
    let dataset = &trial.world.dataset;
    let embedded = trial.seed_embedded.as_ref();
    let mut builder = SeedBuilder::default();
    for (place, prompt) in trial.seed.prompts.iter().enumerate() {
        for (model, outcome) in prompt.outcomes.iter().enumerate() {
            if let Some(outcome) = outcome.filter(|_| !trial.unseeded.contains(&model)) {
                builder.add(&LabelledOutcome {
                    model: dataset.models[model].as_str(),
                    category: category(contestant, prompt),
                    contexts: contexts(place, rows, embedded),
                    reward: outcome.score,
                    length: None,
                    cost_usd: Some(outcome.cost_usd),
                });
            }
        }
    }
    let seed = if trial.seed.prompts.is_empty() {
        trial.prior.clone()
    } else {
        Some(Arc::new(builder.build(&settings.seed, BTreeMap::new())))
    };
    let of_embeddings = trial.world.embedded.as_ref().and_then(|rows| rows.first());
    let mut learning = settings.learning;
    if of_embeddings.is_some() {
        learning.preferred = View::Embedding;
    }
    let dimensions = [Some(dimensions), of_embeddings.map(|row| row.len())];
    let mut learner = ContextualLearner::new(learning, dimensions, BTreeMap::new(), seed);
    let arms = dataset.models.iter().enumerate().map(|(model, id)| ArmFacts {
        id: id.clone(),
        family: String::new(),
        typical_cost_usd: typical_cost(trial, model),
    });
    learner.ensure_arms(&arms.collect::<Vec<_>>());
    learner.ensure_route(
        ROUTE,
        RouteSettings {
            routers: trial.world.replicas.count as u32,
            ..settings.route.clone()
        },
    );
    // The latest 512 seed prompts stand for the traffic to come.
    let skip = rows.len().saturating_sub(512);
    for (place, prompt) in trial.seed.prompts.iter().enumerate().skip(skip) {
        let asked = trial.seed_asked(place);
        let category = category(contestant, prompt);
        let offers: Vec<_> = dataset
            .models
            .iter()
            .enumerate()
            .map(|(model, id)| (id.clone(), meter.expect(model, &asked)))
            .collect();
        learner.rehearse(ROUTE, &contexts(place, rows, embedded), category, &offers);
    }
    learner.known_change();
    learner
}

fn nearest(trial: &Trial, settings: &Settings, meter: &Meter) -> Nearest {
    let models = &trial.world.dataset.models;
    let mut nearest = Nearest::new(settings.route.clone(), models);
    for (prompt, features) in trial.seed.prompts.iter().zip(trial.seed_features.iter()) {
        for (model, outcome) in prompt.outcomes.iter().enumerate() {
            if let Some(outcome) = outcome {
                nearest.add(&models[model], features, outcome.score);
            }
        }
    }
    for place in (0..trial.seed.prompts.len()).rev().take(256) {
        let asked = trial.seed_asked(place);
        let costs: Vec<f64> = (0..models.len())
            .map(|model| meter.expect(model, &asked))
            .collect();
        nearest.rehearse(asked.features, &costs);
    }
    nearest
}

fn linucb(trial: &Trial, settings: &Settings, meter: &Meter) -> LinUcb {
    let dimensions = trial.world.features.first().map_or(1, |features| features.len());
    let prior = |(model, id): (usize, &ArmId)| {
        let mut sums = LinearPrior::around(&vec![0.0; dimensions], 0.0);
        let mut prompts = 0.0;
        let mut cost = 0.0;
        for (place, prompt) in trial.seed.prompts.iter().enumerate() {
            if let Some(outcome) = prompt.outcomes[model] {
                let asked = trial.seed_asked(place);
                sums.add(asked.features, outcome.score, 1.0);
                cost += meter.expect(model, &asked);
                prompts += 1.0;
            }
        }
        let mean_cost = if prompts > 0.0 {
            cost / prompts
        } else {
            typical_cost(trial, model)
        };
        UcbPrior {
            arm: id.clone(),
            // Dollars of a request over its thousands of tokens: recorded answers run to about a thousand.
            price: mean_cost,
            offline: (prompts > 0.0).then_some((sums, prompts)),
            dimensions,
        }
    };
    let priors: Vec<UcbPrior> = trial.world.dataset.models.iter().enumerate().map(prior).collect();
    let cost_weight = match settings.route.objective {
        // In the published form the weight is on the normalised price: a sweep varies it over its useful range.
        Objective::Weighted { lambda } => (lambda.max(1e-3).ln() / 10.0 + 0.5).clamp(0.0, 2.0),
        _ => LinUcbSettings::default().cost_weight,
    };
    let settings = LinUcbSettings {
        budget_usd: settings.route.budget_usd,
        cost_weight,
        ..LinUcbSettings::default()
    };
    LinUcb::new(settings, &priors)
}
