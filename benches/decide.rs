//! What deciding and learning cost, without features: 57 features, 16 arms.

use std::collections::BTreeMap;
use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use pointsman::arm::ArmId;
use pointsman::policy::route::{Objective, RouteSettings};
use pointsman::policy::{
    ArmFacts, Candidate, Contexts, ContextualLearner, Demands, Learner, Observation, Round, UsageSample,
    decide,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const DIMENSIONS: usize = 57;
const ARMS: usize = 16;

fn features(rng: &mut ChaCha8Rng) -> Vec<f32> {
    let mut features: Vec<f32> = (0..DIMENSIONS).map(|_| rng.gen_range(-0.9..0.9)).collect();
    features[0] = 1.0;
    features
}

/// A learner that has seen 4,000 rewards on arms whose prices span a factor of 500.
fn trained() -> (ContextualLearner, Vec<ArmId>, Vec<f64>) {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let arms: Vec<ArmId> = (0..ARMS).map(|arm| ArmId::new(&format!("p/{arm}"))).collect();
    let costs: Vec<f64> = (0..ARMS)
        .map(|arm| 3e-5 * 500_f64.powf(arm as f64 / 15.0))
        .collect();
    let mut learner = ContextualLearner::new(
        Default::default(),
        [Some(DIMENSIONS), None],
        BTreeMap::new(),
        None,
    );
    let facts = arms.iter().zip(&costs).map(|(arm, cost)| ArmFacts {
        id: arm.clone(),
        family: String::new(),
        typical_cost_usd: *cost,
    });
    learner.ensure_arms(&facts.collect::<Vec<_>>());
    let settings = RouteSettings {
        objective: Objective::MaxQuality,
        budget_usd: Some(5e-4),
        ..RouteSettings::default()
    };
    learner.ensure_route("auto", settings);
    for seq in 1..=4000_u64 {
        let features = features(&mut rng);
        let arm = rng.gen_range(0..ARMS);
        let quality = 0.6 + 0.02 * arm as f64 + 0.1 * f64::from(features[1 + arm]);
        learner.record_reward(&observation(
            seq,
            &arms[arm],
            &features,
            f64::from(rng.gen_bool(quality.clamp(0.0, 1.0))),
        ));
    }
    (learner, arms, costs)
}

fn observation<'a>(seq: u64, arm: &'a ArmId, features: &'a [f32], reward: f64) -> Observation<'a> {
    Observation {
        seq,
        route: "auto",
        arm,
        contexts: contexts(features),
        category: Some("code"),
        reward,
        weight: 1.0,
        propensity: 0.5,
        logged: None,
        late: false,
        revises: None,
    }
}

const fn contexts(features: &[f32]) -> Contexts<'_> {
    Contexts {
        text: Some(features),
        embedding: None,
        words: &WORDS,
    }
}

/// Sixty words of a prompt.
const WORDS: [u16; 60] = {
    let mut words = [0; 60];
    let mut at = 0;
    while at < 60 {
        words[at] = at as u16 * 67;
        at += 1;
    }
    words
};

fn bench(criterion: &mut Criterion) {
    let (mut learner, arms, costs) = trained();
    let candidates: Vec<Candidate<'_>> = arms
        .iter()
        .zip(&costs)
        .map(|(arm, &cost_usd)| Candidate {
            arm,
            cost_usd,
            latency_ms: 0.0,
        })
        .collect();
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let prompts: Vec<Vec<f32>> = (0..512).map(|_| features(&mut rng)).collect();
    let round = |prompt: usize| Round {
        route: "auto",
        contexts: contexts(&prompts[prompt % prompts.len()]),
        category: Some("code"),
        candidates: &candidates,
        demands: Demands::default(),
    };
    for prompt in 0..512 {
        let decision = decide(&*learner.snapshot(), &round(prompt), &mut rng);
        learner.record_round(&round(prompt), &decision);
    }
    let snapshot = learner.snapshot();
    let mut at = 0;
    criterion.bench_function("decide d57 k16", |bench| {
        bench.iter(|| {
            at += 1;
            black_box(decide(&*snapshot, &round(at), &mut rng))
        });
    });
    let mut seq = 4000;
    criterion.bench_function("learn one reward d57", |bench| {
        bench.iter(|| {
            seq += 1;
            let arm = &arms[seq as usize % ARMS];
            learner.record_reward(&observation(
                seq,
                arm,
                &prompts[seq as usize % prompts.len()],
                1.0,
            ));
        });
    });
    let usage = |seq: u64| UsageSample {
        seq,
        route: "auto",
        arm: &arms[seq as usize % ARMS],
        contexts: contexts(&prompts[seq as usize % prompts.len()]),
        category: Some("code"),
        output_tokens: Some(200 + seq % 100),
        input_tokens: Some(300),
        cached_tokens: None,
        prefix_tokens: 0,
        cost_usd: 1e-3,
        expected_cost_usd: 1e-3,
        ends_request: true,
    };
    let mut attempts = 0;
    for _ in 0..4000 {
        attempts += 1;
        learner.record_usage(&usage(attempts));
    }
    criterion.bench_function("learn one length d57, 60 words", |bench| {
        bench.iter(|| {
            attempts += 1;
            learner.record_usage(&usage(attempts));
        });
    });
    let snapshot = learner.snapshot();
    criterion.bench_function("expected lengths k16, 60 words", |bench| {
        bench.iter(|| {
            at += 1;
            let contexts = contexts(&prompts[at % prompts.len()]);
            let of = |arm| snapshot.output_tokens(arm, &contexts, Some("code"));
            black_box(arms.iter().filter_map(of).sum::<f64>())
        });
    });
    criterion.bench_function("publish a snapshot k16", |bench| {
        bench.iter(|| black_box(learner.snapshot()))
    });
}

criterion_group!(benches, bench);
criterion_main!(benches);
