//! Everything that is replayed side by side: the policy and its baselines.

mod hindsight;
mod learners;

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::Deserialize;

use super::dataset::Dataset;
use super::meter::{Meter, Row};
use super::metrics::{Run, mean};
use super::scenario::Replicas;
use super::views::{Rows, Words};
use super::world::{Router, World};
use crate::context::WordSet;
use crate::policy::arm_model::LearningSettings;
use crate::policy::lognormal::Asked;
use crate::policy::route::RouteSettings;
use crate::policy::seed::{Seed, SeedSettings};

pub use hindsight::single_points;

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
    /// Their features, by the text view.
    pub seed_features: Rows,
    /// Their words.
    pub seed_words: Words,
    /// By the transformer's view, where it is replayed beside the text view.
    pub seed_embedded: Option<Rows>,
    /// The prompts to decide.
    pub world: World,
    /// The shipped prior, where there are no seed prompts.
    pub prior: Option<Arc<Seed>>,
    /// Columns without a seed.
    pub unseeded: Vec<usize>,
    /// Where the surface features begin in a feature vector.
    pub surface_offset: usize,
    /// What calls are expected to cost at the start, once it was fitted: the same for every order and nearly every contestant.
    pub meter: Arc<OnceLock<Meter>>,
}

impl Trial {
    /// What is known of the seed prompt at `place` beforehand.
    fn seed_asked(&self, place: usize) -> Asked<'_> {
        Asked {
            features: &self.seed_features[place],
            category: self.seed.prompts[place].category.as_deref(),
            words: self.seed_words[place].buckets(),
        }
    }
}

impl Contestant {
    /// Whether it is the policy itself, with all that it may know of a prompt.
    const fn sees_categories(self) -> bool {
        matches!(
            self,
            Self::Contextual | Self::Offline | Self::TextView | Self::OneReplica | Self::Apart
        )
    }

    /// Whether it decides by the transformer's view too, where that is replayed.
    const fn sees_embeddings(self) -> bool {
        matches!(
            self,
            Self::Contextual | Self::Offline | Self::OneReplica | Self::Apart
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
        Contestant::Oracle => return hindsight::oracle(&trial.world, settings),
        Contestant::ZeroRouter => return hindsight::zero_router(&trial.world, settings),
        _ => {}
    }
    let mut trial = featured(contestant, trial, seed);
    trial.world.categories = contestant.sees_categories() || contestant == Contestant::CategoryTable;
    trial.world.replicas = contestant.replicas(trial.world.replicas);
    let meter = trial.meter.get_or_init(|| meter(&trial, settings));
    let mut routers: Vec<Router> = (0..trial.world.replicas.count)
        .map(|number| Router {
            learner: learners::learner(contestant, &trial, settings, meter, number),
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
    let mixed = |words: &Words| {
        let mut rows = (**words).clone();
        rows.shuffle(&mut ChaCha8Rng::seed_from_u64(seed ^ 0x00ff));
        Arc::new(rows)
    };
    let wordless = |words: &Words| Arc::new(vec![WordSet::default(); words.len()]);
    let mut own = trial.clone();
    if !contestant.sees_embeddings() {
        (own.seed_embedded, own.world.embedded) = (None, None);
    }
    match contestant {
        Contestant::SurfaceOnly => {
            own.world.features = surface(&trial.world.features);
            own.seed_features = surface(&trial.seed_features);
            own.world.words = wordless(&trial.world.words);
            own.seed_words = wordless(&trial.seed_words);
            own.prior = None;
            own.meter = Arc::default();
        }
        Contestant::Shuffled => {
            own.world.features = shuffled(&trial.world.features);
            own.seed_features = shuffled(&trial.seed_features);
            own.world.words = mixed(&trial.world.words);
            own.seed_words = mixed(&trial.seed_words);
            own.meter = Arc::default();
        }
        _ => {}
    }
    own
}

fn meter(trial: &Trial, settings: &Settings) -> Meter {
    let models = trial.world.dataset.models.len();
    let dimensions = trial.world.features.first().map_or(1, |features| features.len());
    let rows = trial.seed.prompts.iter().enumerate().map(|(place, prompt)| {
        let cost = |model: usize| {
            let seeded = !trial.unseeded.contains(&model);
            prompt.outcomes[model]
                .filter(|_| seeded)
                .map(|outcome| outcome.cost_usd)
        };
        Row {
            asked: trial.seed_asked(place),
            costs: (0..models).map(cost).collect(),
        }
    });
    let typical: Vec<f64> = (0..models).map(|model| typical_cost(trial, model)).collect();
    let rows: Vec<Row<'_>> = rows.collect();
    Meter::new(dimensions, &rows, &typical, settings.seed.most_prompts)
}

/// Mean cost of a model over the prompts to decide: stands for what its price list says beforehand.
fn typical_cost(trial: &Trial, model: usize) -> f64 {
    let prompts = trial.world.dataset.prompts.iter();
    let costs: Vec<f64> = prompts
        .filter_map(|prompt| Some(prompt.outcomes[model]?.cost_usd))
        .collect();
    mean(&costs)
}
