//! Three arms like those of 2025 (cheap, solid, dear) and a policy that has seen labelled prompts of each.

use std::collections::BTreeMap;
use std::sync::Arc;

use pointsman::arm::ArmId;
use pointsman::policy::route::RouteSettings;
use pointsman::policy::seed::{LabelledOutcome, SeedBuilder, SeedSettings};
use pointsman::policy::{ArmFacts, Contexts, ContextualLearner};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

pub const ROUTE: &str = "auto";
/// Dollars of a request on each arm.
pub const COSTS: [f64; 3] = [3e-5, 5e-4, 1.5e-2];

/// One prompt: its features and the probability that each arm answers well.
pub struct Prompt {
    pub features: Vec<f32>,
    pub quality: [f64; 3],
}

pub fn arms() -> [ArmId; 3] {
    ["sim/cheap", "sim/solid", "sim/dear"].map(ArmId::new)
}

pub const fn contexts(features: &[f32]) -> Contexts<'_> {
    Contexts {
        text: Some(features),
        embedding: None,
        words: &[],
    }
}

/// A learner that is seeded with `labelled` prompts like `prompt`'s, of which it takes the first `rehearsed` for the
/// traffic to come.
pub fn learner(
    settings: RouteSettings,
    dimensions: usize,
    prompt: fn(&mut ChaCha8Rng) -> Prompt,
    labelled: usize,
    rehearsed: usize,
) -> ContextualLearner {
    let mut rng = ChaCha8Rng::seed_from_u64(99);
    let mut builder = SeedBuilder::default();
    let prompts: Vec<Prompt> = (0..labelled).map(|_| prompt(&mut rng)).collect();
    for prompt in &prompts {
        for (arm, &quality) in arms().iter().zip(&prompt.quality) {
            builder.add(&LabelledOutcome {
                model: arm.as_str(),
                category: None,
                contexts: contexts(&prompt.features),
                reward: f64::from(rng.gen_bool(quality)),
                length: None,
                cost_usd: None,
            });
        }
    }
    let seed = builder.build(&SeedSettings::default(), BTreeMap::new());
    let mut learner = ContextualLearner::new(
        Default::default(),
        [Some(dimensions), None],
        BTreeMap::new(),
        Some(Arc::new(seed)),
    );
    let facts = arms().into_iter().zip(COSTS).map(|(id, cost)| ArmFacts {
        id,
        family: String::new(),
        typical_cost_usd: cost,
    });
    learner.ensure_arms(&facts.collect::<Vec<_>>());
    learner.ensure_route(ROUTE, settings);
    for prompt in prompts.iter().take(rehearsed) {
        let offers: Vec<(ArmId, f64)> = arms().into_iter().zip(COSTS).collect();
        learner.rehearse(ROUTE, &contexts(&prompt.features), None, &offers);
    }
    learner.known_change();
    learner
}
