//! Everything that is replayed side by side: the policy and its baselines.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::Deserialize;

use super::dataset::{Dataset, Prompt};
use super::meter::{Meter, Row};
use super::metrics::{Point, Run, Step, hull, mean};
use super::nearest::Nearest;
use super::scenario::Replicas;
use super::views::Rows;
use super::world::{ROUTE, Router, World, text_only};
use crate::policy::arm_model::LearningSettings;
use crate::policy::category_table::Categories;
use crate::policy::linear::LinearPrior;
use crate::policy::linucb::{LinUcbSettings, UcbPrior};
use crate::policy::route::{Objective, RouteSettings, Terms, solve};
use crate::policy::seed::{CATEGORY_SHRINKAGE, LabelledOutcome, Seed, SeedBuilder, SeedSettings};
use crate::policy::solver::{Offer, Rounds};
use crate::policy::{
    ArmFacts, CategoryTable, ContextualLearner, EpsilonGreedy, Fixed, Learner, LinUcb, Random,
};

/// A policy that can be replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Contestant {
    /// The contextual policy.
    Contextual,
    /// The contextual policy on the text view, where another one is replayed.
    TextView,
    /// The contextual policy as one router, where several share the traffic.
    OneReplica,
    /// The contextual policy as several routers that tell each other nothing.
    Apart,
    /// The contextual policy, that learns nothing after its seed.
    Offline,
    /// The contextual policy on length and format alone.
    SurfaceOnly,
    /// The contextual policy with every prompt's features taken from another prompt.
    Shuffled,
    /// Category by model table.
    CategoryTable,
    /// k nearest neighbours.
    Knn,
    /// `LinUCB` with forgetting and a primal-dual pacer (ParetoBandit).
    LinUcb,
    /// Epsilon-greedy on running means.
    EpsilonGreedy,
    /// Any model.
    Random,
    /// Always the model of this column.
    Single(usize),
    /// The best choice in hindsight.
    Oracle,
    /// The best mix of models in hindsight that looks at no prompt.
    ZeroRouter,
}

impl Contestant {
    /// Its key among the baselines.
    #[must_use]
    pub fn key(self, dataset: &Dataset) -> String {
        match self {
            Self::Contextual => "contextual".to_owned(),
            Self::Offline => "offline".to_owned(),
            Self::SurfaceOnly => "surface_only".to_owned(),
            Self::Shuffled => "shuffled".to_owned(),
            Self::CategoryTable => "category_table".to_owned(),
            Self::Knn => "knn".to_owned(),
            Self::LinUcb => "linucb_forgetting".to_owned(),
            Self::EpsilonGreedy => "epsilon_greedy".to_owned(),
            Self::TextView => "text_view".to_owned(),
            Self::OneReplica => "one_replica".to_owned(),
            Self::Apart => "replicas_apart".to_owned(),
            Self::Random => "random".to_owned(),
            Self::Single(model) => format!("single:{}", dataset.models[model]),
            Self::Oracle => "oracle".to_owned(),
            Self::ZeroRouter => "zero_router".to_owned(),
        }
    }

    /// Whether its decisions depend on the price of a dollar: only then is a sweep more than one point.
    #[must_use]
    pub const fn has_objective(self) -> bool {
        !matches!(self, Self::Random | Self::Single(_))
    }
}

/// Seed prompts and the world that follows them.
#[derive(Clone, Debug)]
pub struct Trial {
    /// Labelled prompts, all outcomes known.
    pub seed: Arc<Dataset>,
    /// Their features.
    pub seed_features: Arc<Vec<Arc<[f32]>>>,
    /// The prompts to decide.
    pub world: World,
    /// The shipped prior, where there are no seed prompts.
    pub prior: Option<Arc<Seed>>,
    /// Columns without a seed.
    pub unseeded: Vec<usize>,
    /// Where the surface features begin in a feature vector.
    pub surface_offset: usize,
    /// The same of the text view, where another one is replayed.
    pub text: Option<TextRows>,
}

/// A trial's prompts through the text view.
#[derive(Clone, Debug)]
pub struct TextRows {
    /// Features of the seed prompts.
    pub seed: Rows,
    /// Of the prompts to decide.
    pub stream: Rows,
    /// Where the surface features begin.
    pub surface_offset: usize,
    /// The shipped prior, where there are no seed prompts.
    pub prior: Option<Arc<Seed>>,
}

impl Contestant {
    /// Whether it is the policy itself, with all that it may know of a prompt.
    const fn sees_categories(self) -> bool {
        matches!(
            self,
            Self::Contextual | Self::Offline | Self::TextView | Self::OneReplica | Self::Apart
        )
    }

    /// The routers that it is.
    fn replicas(self, asked: Replicas) -> Replicas {
        match self {
            Self::Contextual => asked,
            Self::Apart => Replicas {
                merge_every: 0,
                ..asked
            },
            _ => Replicas::default(),
        }
    }
}

/// Settings that all contestants share.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Objective, budget and exploration.
    pub route: RouteSettings,
    /// How arms learn.
    pub learning: LearningSettings,
    /// How the seed binds.
    pub seed: SeedSettings,
}

/// Replays one contestant over one trial.
pub fn run(
    contestant: Contestant,
    trial: &Trial,
    settings: &Settings,
    seed: u64,
    clock: fn() -> Instant,
) -> Run {
    match contestant {
        Contestant::Oracle => return oracle(&trial.world, settings),
        Contestant::ZeroRouter => return zero_router(&trial.world, settings),
        _ => {}
    }
    let mut trial = featured(contestant, trial, seed);
    trial.world.categories = contestant.sees_categories() || contestant == Contestant::CategoryTable;
    trial.world.replicas = contestant.replicas(trial.world.replicas);
    let meter = meter(&trial, settings);
    let mut routers: Vec<Router> = (0..trial.world.replicas.count)
        .map(|number| Router {
            learner: learner(contestant, &trial, settings, &meter, number),
            meter: meter.clone(),
        })
        .collect();
    let learns = contestant != Contestant::Offline;
    trial.world.run(&mut routers, learns, seed, clock)
}

/// The trial with the features that a contestant sees.
fn featured(contestant: Contestant, trial: &Trial, seed: u64) -> Trial {
    let surface = |features: &Arc<Vec<Arc<[f32]>>>| {
        let cut = |row: &Arc<[f32]>| {
            let rest = row.get(trial.surface_offset..).unwrap_or(&[]);
            std::iter::once(1.0).chain(rest.iter().copied()).collect()
        };
        Arc::new(features.iter().map(cut).collect())
    };
    let shuffled = |features: &Arc<Vec<Arc<[f32]>>>| {
        let mut rows = (**features).clone();
        rows.shuffle(&mut ChaCha8Rng::seed_from_u64(seed ^ 0x00ff));
        Arc::new(rows)
    };
    let mut own = trial.clone();
    match contestant {
        Contestant::SurfaceOnly => {
            own.world.features = surface(&trial.world.features);
            own.seed_features = surface(&trial.seed_features);
            own.prior = None;
        }
        Contestant::Shuffled => {
            own.world.features = shuffled(&trial.world.features);
            own.seed_features = shuffled(&trial.seed_features);
        }
        Contestant::TextView => {
            if let Some(text) = &trial.text {
                own.seed_features = Arc::clone(&text.seed);
                own.world.features = Arc::clone(&text.stream);
                own.surface_offset = text.surface_offset;
                own.prior.clone_from(&text.prior);
            }
        }
        _ => {}
    }
    own
}

fn meter(trial: &Trial, settings: &Settings) -> Meter {
    let models = trial.world.dataset.models.len();
    let dimensions = trial.world.features.first().map_or(1, |features| features.len());
    let rows = trial
        .seed
        .prompts
        .iter()
        .zip(trial.seed_features.iter())
        .map(|(prompt, features)| {
            let cost = |model: usize| {
                let seeded = !trial.unseeded.contains(&model);
                prompt.outcomes[model]
                    .filter(|_| seeded)
                    .map(|outcome| outcome.cost_usd)
            };
            Row {
                features,
                category: prompt.category.as_deref(),
                costs: (0..models).map(cost).collect(),
            }
        });
    let typical: Vec<f64> = (0..models).map(|model| typical_cost(trial, model)).collect();
    Meter::new(models, dimensions, rows, &typical, settings.seed.most_prompts)
}

/// Mean cost of a model over the prompts to decide: stands for what its price list says beforehand.
fn typical_cost(trial: &Trial, model: usize) -> f64 {
    let prompts = trial.world.dataset.prompts.iter();
    let costs: Vec<f64> = prompts
        .filter_map(|prompt| Some(prompt.outcomes[model]?.cost_usd))
        .collect();
    mean(&costs)
}

/// `number` tells routers apart that share the traffic.
fn learner(
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
            let rows: Vec<Arc<[f32]>> = (0..trial.seed.prompts.len()).map(row).collect();
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
    rows: &[Arc<[f32]>],
    dimensions: usize,
) -> ContextualLearner {
    let dataset = &trial.world.dataset;
    let mut builder = SeedBuilder::default();
    for (prompt, features) in trial.seed.prompts.iter().zip(rows) {
        for (model, outcome) in prompt.outcomes.iter().enumerate() {
            if let Some(outcome) = outcome.filter(|_| !trial.unseeded.contains(&model)) {
                builder.add(&LabelledOutcome {
                    model: dataset.models[model].as_str(),
                    category: category(contestant, prompt),
                    contexts: text_only(features),
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
    let mut learner =
        ContextualLearner::new(settings.learning, [Some(dimensions), None], BTreeMap::new(), seed);
    for (model, id) in dataset.models.iter().enumerate() {
        learner.ensure_arm(&ArmFacts {
            id: id.clone(),
            family: String::new(),
            typical_cost_usd: typical_cost(trial, model),
        });
    }
    learner.ensure_route(ROUTE, settings.route.clone());
    // The latest 512 seed prompts stand for the traffic to come.
    let skip = rows.len().saturating_sub(512);
    let latest = trial
        .seed
        .prompts
        .iter()
        .zip(rows)
        .zip(trial.seed_features.iter())
        .skip(skip);
    for ((prompt, features), costs_from) in latest {
        let offers: Vec<_> = dataset
            .models
            .iter()
            .enumerate()
            .map(|(model, id)| {
                (
                    id.clone(),
                    meter.expect(model, costs_from, prompt.category.as_deref()),
                )
            })
            .collect();
        learner.rehearse(ROUTE, &text_only(features), category(contestant, prompt), &offers);
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
    for (prompt, features) in trial
        .seed
        .prompts
        .iter()
        .zip(trial.seed_features.iter())
        .rev()
        .take(256)
    {
        let costs: Vec<f64> = (0..models.len())
            .map(|model| meter.expect(model, features, prompt.category.as_deref()))
            .collect();
        nearest.rehearse(features, &costs);
    }
    nearest
}

fn linucb(trial: &Trial, settings: &Settings, meter: &Meter) -> LinUcb {
    let dimensions = trial.world.features.first().map_or(1, |features| features.len());
    let prior = |(model, id): (usize, &crate::arm::ArmId)| {
        let mut sums = LinearPrior::around(&vec![0.0; dimensions], 0.0);
        let mut prompts = 0.0;
        let mut cost = 0.0;
        for (prompt, features) in trial.seed.prompts.iter().zip(trial.seed_features.iter()) {
            if let Some(outcome) = prompt.outcomes[model] {
                sums.add(features, outcome.score, 1.0);
                cost += meter.expect(model, features, prompt.category.as_deref());
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

/// Chooses by the recorded outcomes themselves, at the price of a dollar that meets the objective in hindsight.
fn oracle(world: &World, settings: &Settings) -> Run {
    let mut rounds = Rounds::default();
    for prompt in &world.dataset.prompts {
        rounds.push(prompt.outcomes.iter().enumerate().filter_map(|(arm, outcome)| {
            let outcome = (*outcome)?;
            Some(Offer {
                arm,
                quality: outcome.score,
                value: outcome.score,
                cost_usd: outcome.cost_usd,
            })
        }));
    }
    let lambda = solve(&settings.route, &rounds, &Terms::default())
        .lambda
        .unwrap_or(0.0);
    let step = |offers: &[Offer]| {
        // Among equals the cheapest.
        let value = |offer: &Offer| offer.quality - lambda.max(1e-9) * offer.cost_usd;
        let chosen = offers.iter().max_by(|a, b| value(a).total_cmp(&value(b)))?;
        Some(Step {
            model: chosen.arm,
            reward: chosen.quality,
            cost_usd: chosen.cost_usd,
            best: offers.iter().map(|offer| offer.quality).fold(0.0, f64::max),
            explored: false,
        })
    };
    Run {
        steps: rounds.iter().filter_map(step).collect(),
        ..Run::default()
    }
}

/// Mean cost and quality of each model over the prompts that it answered.
#[must_use]
pub fn single_points(dataset: &Dataset) -> Vec<Point> {
    (0..dataset.models.len())
        .map(|model| {
            let outcomes = dataset.prompts.iter().filter_map(|prompt| prompt.outcomes[model]);
            let (scores, costs): (Vec<f64>, Vec<f64>) =
                outcomes.map(|outcome| (outcome.score, outcome.cost_usd)).unzip();
            Point {
                cost_usd: mean(&costs),
                quality: mean(&scores),
            }
        })
        .collect()
}

/// The best point of the single models' hull that the objective allows, as steps of expected reward and cost.
fn zero_router(world: &World, settings: &Settings) -> Run {
    let singles = single_points(&world.dataset);
    let column = |point: &Point| singles.iter().position(|single| single == point).unwrap_or(0);
    let hull = hull(&singles);
    let mut rounds = Rounds::default();
    rounds.push(hull.iter().map(|point| Offer {
        arm: column(point),
        quality: point.quality,
        value: point.quality,
        cost_usd: point.cost_usd,
    }));
    let solution = solve(&settings.route, &rounds, &Terms::default());
    let mix = solution.static_mix(&settings.route, None);
    let expected = |pick: fn(&Point) -> f64| {
        mix.iter()
            .map(|(arm, share)| share * pick(&singles[*arm]))
            .sum::<f64>()
    };
    let (reward, cost_usd) = (expected(|point| point.quality), expected(|point| point.cost_usd));
    let model = mix.first().map_or(0, |(arm, _)| *arm);
    let steps = world.dataset.prompts.iter().map(|prompt| Step {
        model,
        reward,
        cost_usd,
        best: prompt
            .outcomes
            .iter()
            .flatten()
            .map(|outcome| outcome.score)
            .fold(0.0, f64::max),
        explored: false,
    });
    Run {
        steps: steps.collect(),
        ..Run::default()
    }
}
