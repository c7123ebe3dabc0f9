//! The replayed world: prompts with features, what each model did, and one pass of a policy over them.

use std::sync::Arc;
use std::time::Instant;

use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::dataset::Dataset;
use super::dynamics::Audited;
use super::meter::Meter;
use super::metrics::{Run, Step};
use super::scenario::{Feedback, Order, Replicas, Resolved, conditions};
use super::views::{Rows, Words};
use crate::arm::ArmId;
use crate::policy::lognormal::Asked;
use crate::policy::{
    self, ArmScore, Candidate, Contexts, Demands, Learner, Logged, Observation, Round, UsageSample,
};

/// Name of the one route of a replay.
pub const ROUTE: &str = "auto";

/// Prompts in the order of the dataset, with one feature vector each.
#[derive(Clone, Debug)]
pub struct World {
    /// The prompts and outcomes.
    pub dataset: Arc<Dataset>,
    /// Features of each prompt, by the text view.
    pub features: Rows,
    /// Words of each prompt.
    pub words: Words,
    /// By the transformer's view, where it is replayed beside the text view.
    pub embedded: Option<Rows>,
    /// What changes on the way.
    pub changes: Vec<Resolved>,
    /// When scores come.
    pub feedback: Feedback,
    /// In which order prompts come.
    pub order: Order,
    /// Whether the policy is told a prompt's category.
    pub categories: bool,
    /// How many routers share the traffic.
    pub replicas: Replicas,
}

/// One router: what it learns, and what it expects calls to cost.
pub struct Router {
    /// The policy's mutable side.
    pub learner: Box<dyn Learner>,
    /// Costs.
    pub meter: Meter,
}

/// A score on its way.
struct Pending {
    /// The router that decided.
    router: usize,
    due: usize,
    prompt: usize,
    model: usize,
    reward: f64,
    propensity: f64,
    arms: Vec<ArmId>,
    scores: Vec<ArmScore>,
    lambda: f64,
}

impl World {
    /// The order of the prompts for one seed.
    #[must_use]
    pub fn stream(&self, seed: u64) -> Vec<usize> {
        let mut stream: Vec<usize> = (0..self.dataset.prompts.len()).collect();
        if self.order != Order::Recorded {
            stream.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
        }
        if self.order == Order::ByCategory {
            stream.sort_by_key(|&prompt| self.dataset.prompts[prompt].category.clone());
        }
        stream
    }

    /// One pass: decide, see the chosen model's outcome only, learn, go on. `routers` take the requests by turns. `clock`
    /// reads the time around each decision; `learns` is false for a policy that must stay as it is.
    pub fn run(&self, routers: &mut [Router], learns: bool, seed: u64, clock: fn() -> Instant) -> Run {
        let models = &self.dataset.models;
        let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x5eed);
        let mut run = Run::default();
        let mut pending: Vec<Pending> = Vec::new();
        let mut now = conditions(&self.changes, models.len(), 0);
        let mut seq = 0;
        for (request, prompt) in self.stream(seed).into_iter().enumerate() {
            let before = std::mem::replace(&mut now, conditions(&self.changes, models.len(), request));
            for router in &mut *routers {
                announce(&mut *router.learner, models, &before, &now);
            }
            let turn = request % routers.len();
            let Router { learner, meter } = &mut routers[turn];
            let record = &self.dataset.prompts[prompt];
            let asked = Asked {
                features: &self.features[prompt],
                category: record.category.as_deref(),
                words: self.words[prompt].buckets(),
            };
            let offered: Vec<usize> = (0..models.len())
                .filter(|&model| record.outcomes[model].is_some() && now[model].present)
                .collect();
            if offered.is_empty() {
                continue;
            }
            let candidates: Vec<Candidate<'_>> = offered
                .iter()
                .map(|&model| Candidate {
                    arm: &models[model],
                    cost_usd: meter.expect(model, &asked) * now[model].price * now[model].misjudged,
                    latency_ms: 0.0,
                })
                .collect();
            let contexts = contexts(prompt, &self.features, self.embedded.as_ref());
            let round = Round {
                route: ROUTE,
                contexts,
                category: record.category.as_deref().filter(|_| self.categories),
                candidates: &candidates,
                demands: Demands::default(),
            };
            let deciding = learner.snapshot();
            let start = clock();
            let decision = policy::decide(&*deciding, &round, &mut rng);
            run.decide_ns
                .push(u64::try_from((clock() - start).as_nanos()).unwrap_or(u64::MAX));
            learner.record_round(&round, &decision);

            let model = offered[decision.chosen];
            let Some(outcome) = record.outcomes[model] else {
                continue;
            };
            let reward = (outcome.score * now[model].score_factor).clamp(0.0, 1.0);
            let cost_usd = outcome.cost_usd * now[model].price;
            let best = offered
                .iter()
                .filter_map(|&other| Some(record.outcomes[other]?.score * now[other].score_factor))
                .fold(0.0, f64::max);
            run.steps.push(Step {
                model,
                reward,
                cost_usd,
                best: best.min(1.0),
                explored: decision.explored,
            });
            meter.learn(model, &asked, outcome.cost_usd);
            learner.record_usage(&UsageSample {
                seq: request as u64 + 1,
                route: ROUTE,
                arm: &models[model],
                contexts,
                category: record.category.as_deref(),
                output_tokens: None,
                input_tokens: None,
                cached_tokens: None,
                prefix_tokens: 0,
                cost_usd,
                expected_cost_usd: candidates[decision.chosen].cost_usd,
                ends_request: true,
            });
            if learns && rng.gen_bool(self.feedback_probability(reward)) {
                pending.push(Pending {
                    router: turn,
                    due: request + self.delay(&mut rng),
                    prompt,
                    model,
                    reward,
                    propensity: decision.propensity,
                    arms: offered.iter().map(|&offer| models[offer].clone()).collect(),
                    scores: decision.scores,
                    lambda: decision.lambda,
                });
            }
            let (arrived, waiting) = pending
                .into_iter()
                .partition(|score: &Pending| score.due <= request);
            pending = waiting;
            for score in arrived {
                seq += 1;
                self.deliver(&mut *routers[score.router].learner, &score, seq);
            }
            if self.replicas.merge_every > 0 && (request + 1) % self.replicas.merge_every == 0 {
                exchange(routers);
            }
        }
        let alarms = routers.iter().map(|router| router.learner.alarms()).sum::<u64>();
        run.alarms = usize::try_from(alarms).unwrap_or(usize::MAX);
        run.audit = routers.first_mut().and_then(audited);
        run
    }

    fn deliver(&self, learner: &mut dyn Learner, score: &Pending, seq: u64) {
        let logged = Logged {
            arms: &score.arms,
            scores: &score.scores,
            lambda: score.lambda,
        };
        learner.record_reward(&Observation {
            seq,
            route: ROUTE,
            arm: &self.dataset.models[score.model],
            contexts: contexts(score.prompt, &self.features, self.embedded.as_ref()),
            category: self.dataset.prompts[score.prompt]
                .category
                .as_deref()
                .filter(|_| self.categories),
            reward: score.reward,
            weight: 1.0,
            propensity: score.propensity,
            logged: (!score.scores.is_empty()).then_some(logged),
            late: false,
            revises: None,
        });
    }

    fn feedback_probability(&self, reward: f64) -> f64 {
        if self.feedback.complaints_only {
            0.1 + 0.4 * (1.0 - reward)
        } else {
            self.feedback.rate.clamp(0.0, 1.0)
        }
    }

    /// Geometric with the scenario's mean, in requests.
    fn delay(&self, rng: &mut ChaCha8Rng) -> usize {
        if self.feedback.delay <= 0.0 {
            return 0;
        }
        let uniform: f64 = rng.gen_range(f64::MIN_POSITIVE..1.0);
        let success = 1.0 / (1.0 + self.feedback.delay);
        (uniform.ln() / (1.0 - success).ln()) as usize
    }
}

/// Every router tells every other what it has learned since it last did.
fn exchange(routers: &mut [Router]) {
    if routers.len() < 2 {
        return;
    }
    let deltas: Vec<_> = routers
        .iter_mut()
        .filter_map(|router| router.learner.contextual()?.take_delta())
        .collect();
    for learner in routers
        .iter_mut()
        .filter_map(|router| router.learner.contextual())
    {
        for delta in &deltas {
            // Its own is refused, which is right.
            let _ = learner.merge(delta);
        }
    }
}

/// What the audit of the route has found, where there is one.
fn audited(router: &mut Router) -> Option<Audited> {
    let memory = router.learner.contextual()?.route_memory(ROUTE)?;
    let difference = memory.audit.difference();
    (difference.mean() != 0.0).then(|| Audited {
        difference: difference.mean(),
        half_width: difference.half_width(),
        margin_scale: memory.audit.scale(),
    })
}

/// Tells the learner of changes that a router knows at once: prices and presence.
fn announce(
    learner: &mut dyn Learner,
    models: &[ArmId],
    before: &[super::scenario::Conditions],
    now: &[super::scenario::Conditions],
) {
    let mut appeared = false;
    for ((model, before), now) in models.iter().zip(before).zip(now) {
        if (now.price - before.price).abs() > f64::EPSILON {
            learner.price_changed(model, now.price / before.price);
        }
        appeared |= before.present != now.present;
    }
    if appeared {
        learner.arms_changed();
    }
}

/// The contexts of a replayed prompt.
#[must_use]
pub fn contexts<'a>(prompt: usize, features: &'a Rows, embedded: Option<&'a Rows>) -> Contexts<'a> {
    Contexts {
        text: Some(&features[prompt]),
        embedding: embedded.map(|rows| &*rows[prompt]),
        // What a call costs is the meter's to say.
        words: &[],
    }
}
