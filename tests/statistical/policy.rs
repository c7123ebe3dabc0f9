//! The contextual policy in a simulated world where the truth is known: drift, price changes, budgets, regret.
//!
//! Three arms like those of 2025: cheap, solid, dear. Whether an arm answers depends on two hidden traits of the
//! prompt that the features show. Every test uses fixed seeds; its accepted range says how often chance alone would
//! leave it.

use pointsman::arm::ArmId;
use pointsman::policy::route::{Objective, RouteSettings};
use pointsman::policy::{
    Candidate, ContextualLearner, Demands, Learner, Logged, Observation, Random, Round, UsageSample, decide,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::seeded::{self, COSTS, Prompt, ROUTE, arms, contexts};

const DIMENSIONS: usize = 8;

fn prompt(rng: &mut ChaCha8Rng) -> Prompt {
    let mut features: Vec<f32> = (0..DIMENSIONS).map(|_| rng.gen_range(-1.0..1.0)).collect();
    features[0] = 1.0;
    let (hard, code) = (f64::from(features[1]), f64::from(features[2]));
    let quality = [
        0.72 - 0.22 * hard - 0.04 * code,
        0.88 - 0.08 * hard + 0.02 * code,
        0.92 - 0.04 * hard,
    ];
    Prompt { features, quality }
}

fn learner(settings: RouteSettings, labelled: usize) -> ContextualLearner {
    seeded::learner(settings, DIMENSIONS, prompt, labelled, labelled)
}

/// One request's result.
struct Step {
    arm: usize,
    cost: f64,
    quality: f64,
    /// Against the best arm of this prompt at one quality point a dollar.
    regret: f64,
}

/// Drives a learner; `world` may change quality and price of the arms at any request, the latter announced.
fn drive(
    learner: &mut dyn Learner,
    requests: usize,
    seed: u64,
    world: impl Fn(usize, &mut [f64; 3], &mut [f64; 3]),
) -> Vec<Step> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let ids = arms();
    let mut before = COSTS;
    (0..requests)
        .map(|request| {
            let Prompt {
                features,
                mut quality,
            } = prompt(&mut rng);
            let mut prices = COSTS;
            world(request, &mut quality, &mut prices);
            for arm in 0..3 {
                if prices[arm] != before[arm] {
                    learner.price_changed(&ids[arm], prices[arm] / before[arm]);
                }
            }
            before = prices;
            let candidates: Vec<Candidate<'_>> = ids
                .iter()
                .zip(prices)
                .map(|(arm, cost_usd)| Candidate {
                    arm,
                    cost_usd,
                    latency_ms: 0.0,
                })
                .collect();
            let round = Round {
                route: ROUTE,
                contexts: contexts(&features),
                category: None,
                candidates: &candidates,
                demands: Demands::default(),
            };
            let decision = decide(&*learner.snapshot(), &round, &mut rng);
            assert!(decision.propensity > 0.0);
            learner.record_round(&round, &decision);
            let arm = decision.chosen;
            let seq = request as u64 + 1;
            learner.record_usage(&UsageSample {
                seq,
                route: ROUTE,
                arm: &ids[arm],
                contexts: round.contexts,
                category: None,
                output_tokens: None,
                input_tokens: None,
                cached_tokens: None,
                prefix_tokens: 0,
                cost_usd: prices[arm],
                expected_cost_usd: prices[arm],
                ends_request: true,
            });
            learner.record_reward(&Observation {
                seq,
                route: ROUTE,
                arm: &ids[arm],
                contexts: round.contexts,
                category: None,
                reward: f64::from(rng.gen_bool(quality[arm])),
                weight: 1.0,
                propensity: decision.propensity,
                logged: Some(Logged {
                    arms: &ids,
                    scores: &decision.scores,
                    lambda: decision.lambda,
                }),
                late: false,
                revises: None,
            });
            let value = |arm: usize| quality[arm] - prices[arm];
            Step {
                arm,
                cost: prices[arm],
                quality: quality[arm],
                regret: (0..3).map(value).fold(f64::MIN, f64::max) - value(arm),
            }
        })
        .collect()
}

fn within(budget: f64) -> RouteSettings {
    RouteSettings {
        objective: Objective::MaxQuality,
        budget_usd: Some(budget),
        ..RouteSettings::default()
    }
}

const NOTHING: fn(usize, &mut [f64; 3], &mut [f64; 3]) = |_, _, _| {};

fn mean(steps: &[Step], pick: fn(&Step) -> f64) -> f64 {
    steps.iter().map(pick).sum::<f64>() / steps.len() as f64
}

/// The alarm may be wrong at most once in 10,000 requests on average; over 60,000 requests 12 alarms have a chance of
/// 0.02 under that rate (Poisson, mean 6).
#[test]
fn a_quiet_world_raises_few_alarms() {
    let alarms: u64 = (0..10)
        .map(|seed| {
            let mut learner = learner(within(2e-3), 500);
            drive(&mut learner, 6000, seed, NOTHING);
            learner.alarms()
        })
        .sum();
    assert!(alarms <= 12, "{alarms} alarms in 60,000 requests");
}

/// A pacer that sees costs one request late cannot be exact; 2 % is what the product promises on any phase. Below, the
/// cap on every 200 requests leaves some unspent where one answer of the dear arm is 4 % of what they may spend: chance
/// alone would take one window in six beyond it. .949 when this was written.
#[test]
fn a_budget_is_spent_and_not_overspent() {
    for (seed, budget) in [(1, 1e-4), (2, 3e-4), (3, 2e-3)] {
        let mut learner = learner(within(budget), 300);
        let used = mean(&drive(&mut learner, 4000, seed, NOTHING), |step| step.cost) / budget;
        assert!((0.94..=1.02).contains(&used), "{used} of {budget}");
    }
}

/// The dear arm becomes as cheap as the solid one: being the better one, it must be used from the very next request
/// on, and once the price is back, spending must be back within the budget at once.
#[test]
fn a_known_price_change_is_used_at_once_and_leaves_no_debt() {
    let budget = 5e-4;
    let mut learner = learner(within(budget), 500);
    let steps = drive(&mut learner, 3000, 5, |request, _, prices| {
        if (1000..2000).contains(&request) {
            prices[2] = 4e-4;
        }
    });
    let dear = |steps: &[Step]| mean(steps, |step| f64::from(step.arm == 2));
    assert!(dear(&steps[900..1000]) < 0.1);
    assert!(dear(&steps[1000..1050]) > 0.5, "{}", dear(&steps[1000..1050]));
    let after = mean(&steps[2000..], |step| step.cost) / budget;
    assert!(
        after <= 1.02,
        "{after} of the budget after the price was restored"
    );
}

/// A silent drop of the solid arm from 0.88 to 0.45: within 150 requests its share must fall by half on average over
/// 10 seeds, and within 400 requests after the repair it must be back to half of its old share.
#[test]
fn a_silent_drop_is_routed_around_and_the_repair_is_found() {
    let (mut before, mut during, mut after) = (0.0, 0.0, 0.0);
    for seed in 0..10 {
        let mut learner = learner(within(6e-4), 500);
        let steps = drive(&mut learner, 2400, seed, |request, quality, _| {
            if (800..1600).contains(&request) {
                quality[1] *= 0.5;
            }
        });
        let solid = |range: std::ops::Range<usize>| mean(&steps[range], |step| f64::from(step.arm == 1));
        before += solid(600..800) / 10.0;
        during += solid(950..1600) / 10.0;
        after += solid(2000..2400) / 10.0;
    }
    assert!(before > 0.5, "{before}");
    assert!(during < 0.5 * before, "{before} {during}");
    assert!(after > 0.5 * before, "{before} {after}");
}

/// Regret against the best arm of each prompt, at one quality point a dollar, from 100 labelled prompts. Chance has a
/// mean regret near 0.074 here; ours was 0.017 when this was written, with a standard error of about 0.002.
#[test]
fn regret_is_far_below_chance() {
    let regret =
        |learner: &mut dyn Learner, seed| mean(&drive(learner, 2000, seed, NOTHING), |step| step.regret);
    let weighted = RouteSettings {
        objective: Objective::Weighted { lambda: 1.0 },
        ..RouteSettings::default()
    };
    for seed in 0..3 {
        let ours = regret(&mut learner(weighted.clone(), 100), seed);
        let random = regret(&mut Random, seed);
        assert!(ours < 0.5 * random, "{ours} {random}");
    }
}

/// Cheapest capable: the mean quality is at most the margin below the best arm's, less the optimism of an argmax over
/// estimates from 1,000 yes-or-no labels (0.016 when this was written) without an audit slice.
#[test]
fn cheapest_capable_keeps_its_margin_and_saves() {
    let settings = RouteSettings {
        objective: Objective::CheapestCapable { margin: 0.03 },
        ..RouteSettings::default()
    };
    let mut learner = learner(settings, 1000);
    let steps = drive(&mut learner, 4000, 11, NOTHING);
    // The dear arm's mean is 0.92.
    let quality = mean(&steps, |step| step.quality);
    assert!(quality > 0.92 - 0.03 - 0.025, "{quality}");
    assert!(mean(&steps, |step| step.cost) < 0.35 * COSTS[2]);
}

/// A prior from elsewhere that thinks little of the best arm, with 60 prompts behind it: the cheapest (0.72) is believed
/// best, so that nothing but money counts, and the dearest is as poor as it is thought to be. The audit goes to whoever may
/// be the best, and the solid arm (0.88) may: in each of ten orders the last 2,000 of 12,000 requests are answered better
/// than the cheapest answers, in nine by the solid arm nearly alone. An audit of the dearest frees none.
#[test]
fn what_was_thought_too_little_of_is_asked_again() {
    fn elsewhere(rng: &mut ChaCha8Rng) -> Prompt {
        let Prompt { features, quality } = prompt(rng);
        Prompt {
            features,
            quality: [quality[0], 0.6, 0.55],
        }
    }
    let late = |reference: Option<ArmId>, order: u64| {
        let settings = RouteSettings {
            audit_share: 0.02,
            reference,
            ..RouteSettings::default()
        };
        let mut learner = seeded::learner(settings, DIMENSIONS, elsewhere, 60, 60);
        let steps = drive(&mut learner, 12_000, order, |_, quality, _| quality[2] = 0.55);
        mean(&steps[10_000..], |step| step.quality)
    };
    let [_, _, dearest] = arms();
    let contender: Vec<f64> = (1..=10).map(|order| late(None, order)).collect();
    let fixed: Vec<f64> = (1..=10).map(|order| late(Some(dearest.clone()), order)).collect();
    assert!(contender.iter().all(|&quality| quality > 0.75), "{contender:?}");
    assert!(
        contender.iter().filter(|&&quality| quality > 0.86).count() >= 8,
        "{contender:?}"
    );
    assert!(fixed.iter().all(|&quality| quality < 0.75), "{fixed:?}");
}
