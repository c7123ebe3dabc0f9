mod assignment;
mod life;
mod repriced;
mod retrials;
mod triggers;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::arm::ArmId;
use crate::evaluation::ab::Hypothesis;
use crate::experiments::table::Unit;

const TERMS: Terms = Terms {
    margin: 0.02,
    superior: false,
    traffic: 0.2,
    max_samples: 10_000,
    slow_ms: 2_000.0,
};

fn model(id: &str) -> Variant {
    Variant::Model(ArmId::new(id))
}

fn definition(name: &str, hypothesis: Hypothesis) -> Definition {
    let variants = vec![
        ("control".to_owned(), model("a/large")),
        ("treatment".to_owned(), model("b/small")),
    ];
    Definition::new(name, "auto", variants, hypothesis, Origin::Config, UnixMs(1))
}

/// Sends requests until the experiment ends, each scored 1 with its arm's rate; the number sent.
fn run(experiments: &mut Experiments, rates: [f64; 2], limit: u64, seed: u64) -> u64 {
    run_priced(experiments, rates, [0.01, 0.001], limit, seed)
}

/// The same where the arms cost about so many dollars a request.
fn run_priced(experiments: &mut Experiments, rates: [f64; 2], costs: [f64; 2], limit: u64, seed: u64) -> u64 {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    for i in 0..limit {
        let request = format!("{seed}-{i}");
        let now = UnixMs(1_000 + i as i64 * 100);
        let table = experiments.table();
        let unit = Unit {
            request: &request,
            ..Unit::default()
        };
        let Some(enrolment) = table.assign(&unit, "auto", Some("code")) else {
            if table.entries.is_empty() {
                return i;
            }
            continue;
        };
        experiments.enrolled(&enrolment);
        let exposure = Exposure {
            clean: true,
            cost_usd: Some(costs[enrolment.arm] * (0.75 + (i * 53 % 100) as f64 / 200.0)),
            ttft_ms: Some(300.0),
            ..Exposure::default()
        };
        experiments.exposed(&enrolment, &exposure, now);
        let score = f64::from(u8::from(rng.gen_bool(rates[enrolment.arm])));
        experiments.scored(&enrolment, "quality", score, None, now);
    }
    limit
}
