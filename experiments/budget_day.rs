//! Does a day's budget last through a bursty day, and what does pacing buy beside a cap alone?
//!
//! Recorded outcomes are asked for at the hours of a bursty day, for several days in a row. Paced: the policy is given
//! the dollars per request that the account's pacer says, as the server does every half minute. Capped: the policy has
//! the same objective, the best quality, without a budget, until the money is gone and the cheapest model serves alone.
//! See `budget_day.md` for the result.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Parser;
use jiff::tz::TimeZone;
use pointsman::policy::arm_model::LearningSettings;
use pointsman::policy::route::{Objective, RouteSettings};
use pointsman::policy::seed::{LabelledOutcome, SeedBuilder, SeedSettings};
use pointsman::policy::{
    self, ArmFacts, Candidate, Contexts, ContextualLearner, Demands, Learner, Observation, Round, UsageSample,
};
use pointsman::pricing::budget::{BudgetRule, Budgets, OnExhausted, Parties, Period, Scope};
use pointsman::replay::dataset::{Dataset, Prompt};
use pointsman::units::{UnixMs, Usd};
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const ROUTE: &str = "auto";
/// Share of a day's requests in each hour: a quiet night, a morning rush, a lunch lull, an evening storm.
const HOURS: [u32; 24] = [
    5, 3, 2, 2, 3, 10, 40, 150, 400, 300, 120, 90, 60, 80, 110, 130, 160, 220, 500, 900, 450, 150, 60, 20,
];
const HOUR_MS: i64 = 3_600_000;
/// Milliseconds between two looks at the pace, as the server takes them.
const PACE_MS: i64 = 30_000;
/// How much busier or quieter each day is than the first.
const LEVELS: [f64; 5] = [1.0, 1.0, 1.3, 0.7, 1.0];

#[derive(Parser)]
struct Args {
    /// Recorded outcomes with the splits `val` (to begin with) and `test` (to decide)
    dataset: PathBuf,
    /// Dollars a request that a day of usual size affords
    #[arg(long, value_delimiter = ',', default_value = "0.00023,0.00066,0.0019")]
    usd_per_request: Vec<f64>,
    /// Orders of the prompts
    #[arg(long, default_value_t = 5)]
    seeds: u64,
    /// Where the table is written
    #[arg(long, default_value = "experiments/budget_day.table.md")]
    out: PathBuf,
}

/// One day of one way.
#[derive(Clone, Default)]
struct Day {
    spent: f64,
    quality: [f64; 24],
    cost: [f64; 24],
    requests: [f64; 24],
}

fn main() -> Result<()> {
    let args = Args::parse();
    let all = Dataset::read(&args.dataset).with_context(|| format!("reading {}", args.dataset.display()))?;
    let seed = all.clone().split("val", &args.dataset)?;
    let test = all.split("test", &args.dataset)?.aligned(&seed.models);
    let mut out = String::from(
        "| dollars a request | way | spent of the budget, days 1 to 5 | worst hour's dollars a request over the day's, day 1 / later | mean quality | worst hour's quality |\n\
         | --- | --- | --- | --- | ---: | ---: |\n",
    );
    for &usd in &args.usd_per_request {
        for paced in [true, false] {
            let mut days: Vec<Vec<Day>> = Vec::new();
            for order in 0..args.seeds {
                days.push(run(&seed, &test, usd, paced, order));
            }
            out += &line(usd, paced, &days);
        }
    }
    std::fs::write(&args.out, &out).with_context(|| format!("writing {}", args.out.display()))?;
    std::io::stdout()
        .write_all(out.as_bytes())
        .context("writing to the screen")
}

/// Five days in a row.
fn run(seed: &Dataset, test: &Dataset, usd: f64, paced: bool, order: u64) -> Vec<Day> {
    let mut rng = ChaCha8Rng::seed_from_u64(order);
    let costs = Costs::of(seed);
    let mut learner = learner(seed, &costs);
    let mut settings = RouteSettings {
        objective: Objective::MaxQuality,
        ..RouteSettings::default()
    };
    learner.ensure_route(ROUTE, settings.clone());
    let requests: f64 = HOURS.iter().map(|hour| f64::from(*hour)).sum();
    let limit = usd * requests;
    let budgets = Budgets::new(vec![BudgetRule {
        name: "day".into(),
        scope: Scope::All,
        subject: None,
        limit: Usd::from_dollars(limit).unwrap_or(Usd::MAX),
        period: Period::Day,
        zone: TimeZone::UTC,
        on_exhausted: OnExhausted::Cheapest,
    }]);
    let mut prompts: Vec<&Prompt> = test.prompts.iter().collect();
    let mut next = prompts.len();
    let (mut seq, mut looked) = (0u64, i64::MIN);
    let mut days = Vec::new();
    for (number, level) in LEVELS.into_iter().enumerate() {
        let mut day = Day::default();
        for (hour, share) in HOURS.into_iter().enumerate() {
            let count = (f64::from(share) * level).round() as i64;
            for turn in 0..count {
                let within = turn * HOUR_MS / count;
                let now = UnixMs(
                    1_795_000_000_000 / 86_400_000 * 86_400_000
                        + (number as i64 * 24 + hour as i64) * HOUR_MS
                        + within,
                );
                if next >= prompts.len() {
                    prompts.shuffle(&mut rng);
                    next = 0;
                }
                let prompt = prompts[next];
                next += 1;
                seq += 1;
                let Ok(standing) = budgets.standing(now, &Parties::default()) else {
                    continue;
                };
                let target = standing.target.map_or(0.0, Usd::dollars);
                if paced && target > 0.0 && now.0 - looked >= PACE_MS {
                    looked = now.0;
                    settings.budget_usd = Some(target);
                    learner.ensure_route(ROUTE, settings.clone());
                }
                let call = ask(
                    &mut learner,
                    &costs,
                    test,
                    prompt,
                    standing.cheapest_only,
                    seq,
                    &mut rng,
                );
                let expected = Usd::from_dollars(call.expected).unwrap_or(Usd::ZERO);
                if let Ok(hold) = budgets.reserve(now, &Parties::default(), expected) {
                    let cost = Usd::from_dollars(call.cost).unwrap_or(Usd::ZERO);
                    hold.book(cost, &"call".into(), 1);
                }
                day.spent += call.cost / limit;
                day.cost[hour] += call.cost;
                day.quality[hour] += call.reward;
                day.requests[hour] += 1.0;
            }
        }
        days.push(day);
    }
    days
}

struct Called {
    expected: f64,
    cost: f64,
    reward: f64,
}

/// Decides one prompt, and learns from what the drawn model did.
fn ask(
    learner: &mut ContextualLearner,
    costs: &Costs,
    test: &Dataset,
    prompt: &Prompt,
    cheapest_only: bool,
    seq: u64,
    rng: &mut ChaCha8Rng,
) -> Called {
    let category = prompt.category.as_deref();
    let mut offered: Vec<usize> = (0..test.models.len())
        .filter(|&model| prompt.outcomes[model].is_some())
        .collect();
    if cheapest_only {
        let cost = |model: &usize| costs.expect(*model, category);
        offered.sort_by(|a, b| cost(a).total_cmp(&cost(b)));
        offered.truncate(1);
    }
    let candidates: Vec<Candidate<'_>> = offered
        .iter()
        .map(|&model| Candidate {
            arm: &test.models[model],
            cost_usd: costs.expect(model, category),
            latency_ms: 0.0,
        })
        .collect();
    let contexts = Contexts {
        text: Some(&[1.0]),
        embedding: None,
    };
    let round = Round {
        route: ROUTE,
        contexts,
        category,
        candidates: &candidates,
        demands: Demands::default(),
    };
    let decision = policy::decide(&*learner.snapshot(), &round, rng);
    learner.record_round(&round, &decision);
    let model = offered[decision.chosen];
    let (cost, reward) =
        prompt.outcomes[model].map_or((0.0, 0.0), |outcome| (outcome.cost_usd, outcome.score));
    let expected = candidates[decision.chosen].cost_usd;
    learner.record_usage(&UsageSample {
        seq,
        route: ROUTE,
        arm: &test.models[model],
        contexts,
        category,
        output_tokens: None,
        input_tokens: None,
        cached_tokens: None,
        prefix_tokens: 0,
        cost_usd: cost,
        expected_cost_usd: expected,
        ends_request: true,
    });
    // A tenth of the answers is scored.
    if rng.gen_bool(0.1) {
        learner.record_reward(&Observation {
            seq,
            route: ROUTE,
            arm: &test.models[model],
            contexts,
            category,
            reward,
            weight: 1.0,
            propensity: decision.propensity,
            logged: None,
            late: false,
            revises: None,
        });
    }
    Called {
        expected,
        cost,
        reward,
    }
}

/// Mean dollars of each model in each category, shrunk to the model's own.
struct Costs {
    all: Vec<f64>,
    by: Vec<BTreeMap<String, (f64, f64)>>,
}

impl Costs {
    fn of(seed: &Dataset) -> Self {
        let mut by = vec![BTreeMap::<String, (f64, f64)>::new(); seed.models.len()];
        let mut sums = vec![(0.0, 0.0); seed.models.len()];
        for prompt in &seed.prompts {
            for (model, outcome) in prompt.outcomes.iter().enumerate() {
                if let Some(outcome) = outcome {
                    let category = prompt.category.clone().unwrap_or_default();
                    let cell = by[model].entry(category).or_default();
                    *cell = (cell.0 + outcome.cost_usd, cell.1 + 1.0);
                    sums[model] = (sums[model].0 + outcome.cost_usd, sums[model].1 + 1.0);
                }
            }
        }
        let all = sums
            .into_iter()
            .map(|(sum, count): (f64, f64)| sum / count.max(1.0))
            .collect();
        Self { all, by }
    }

    fn expect(&self, model: usize, category: Option<&str>) -> f64 {
        let (sum, count) = self.by[model]
            .get(category.unwrap_or_default())
            .copied()
            .unwrap_or_default();
        (sum + 10.0 * self.all[model]) / (count + 10.0)
    }
}

fn learner(seed: &Dataset, costs: &Costs) -> ContextualLearner {
    let mut builder = SeedBuilder::default();
    let contexts = Contexts {
        text: Some(&[1.0]),
        embedding: None,
    };
    for prompt in &seed.prompts {
        for (model, outcome) in prompt.outcomes.iter().enumerate() {
            if let Some(outcome) = outcome {
                builder.add(&LabelledOutcome {
                    model: seed.models[model].as_str(),
                    category: prompt.category.as_deref(),
                    contexts,
                    reward: outcome.score,
                    length: None,
                    cost_usd: Some(outcome.cost_usd),
                });
            }
        }
    }
    let prior = Arc::new(builder.build(&SeedSettings::default(), BTreeMap::new()));
    let mut learner = ContextualLearner::new(
        LearningSettings::default(),
        [Some(1), None],
        BTreeMap::new(),
        Some(prior),
    );
    for (model, id) in seed.models.iter().enumerate() {
        learner.ensure_arm(&ArmFacts {
            id: id.clone(),
            family: String::new(),
            typical_cost_usd: costs.all[model],
        });
    }
    learner.ensure_route(ROUTE, RouteSettings::default());
    for prompt in seed.prompts.iter().rev().take(512) {
        let category = prompt.category.as_deref();
        let offers: Vec<_> = seed
            .models
            .iter()
            .enumerate()
            .map(|(model, id)| (id.clone(), costs.expect(model, category)))
            .collect();
        learner.rehearse(ROUTE, &contexts, category, &offers);
    }
    learner.known_change();
    learner
}

fn line(usd: f64, paced: bool, runs: &[Vec<Day>]) -> String {
    let mean = |values: &mut dyn Iterator<Item = f64>| {
        let (sum, count) = values.fold((0.0, 0.0), |(sum, count), value| (sum + value, count + 1.0));
        sum / f64::max(count, 1.0)
    };
    let spent: Vec<String> = (0..LEVELS.len())
        .map(|day| format!("{:.3}", mean(&mut runs.iter().map(|days| days[day].spent))))
        .collect();
    // Hours of at least twenty requests.
    let busy = |day: &Day| -> Vec<usize> { (0..24).filter(|&hour| day.requests[hour] >= 20.0).collect() };
    let worst = |day: &Day, of: &[f64; 24]| {
        let whole = of.iter().sum::<f64>() / day.requests.iter().sum::<f64>();
        let hours = busy(day).into_iter().map(|hour| of[hour] / day.requests[hour]);
        hours.fold(f64::INFINITY, f64::min) / whole
    };
    let starved = |range: std::ops::Range<usize>| {
        let days = runs.iter().flat_map(|days| days[range.clone()].iter());
        days.map(|day| worst(day, &day.cost))
            .fold(f64::INFINITY, f64::min)
    };
    let quality = |day: &Day| day.quality.iter().sum::<f64>() / day.requests.iter().sum::<f64>();
    let overall = mean(&mut runs.iter().flatten().map(quality));
    let lowest = mean(
        &mut runs
            .iter()
            .flatten()
            .map(|day| worst(day, &day.quality) * quality(day)),
    );
    format!(
        "| {usd:.2e} | {} | {} | {:.2} / {:.2} | {overall:.3} | {lowest:.3} |\n",
        if paced { "paced" } else { "cap only" },
        spent.join(", "),
        starved(0..1),
        starved(1..LEVELS.len()),
    )
}
