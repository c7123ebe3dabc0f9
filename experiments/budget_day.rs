//! Does a day's budget last through a bursty day, and what does pacing buy beside a cap alone?
//!
//! Recorded outcomes are asked for at the hours of a bursty day, for several days in a row. Paced: each request is told
//! what it should cost by the account that it counts for, as the server tells it. Capped: the policy has the same
//! objective, the best quality, and knows of no budget until the money is gone; then the cheapest model serves alone.
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
    self, ArmFacts, Candidate, Contexts, ContextualLearner, Demands, Learner, Observation, Policy, Round,
    UsageSample,
};
use pointsman::pricing::budget::{BudgetRule, Budgets, OnExhausted, Parties, Period, Scope};
use pointsman::replay::dataset::{Dataset, Prompt};
use pointsman::units::{UnixMs, Usd};
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const ROUTE: &str = "auto";
/// Requests of an average day in each hour: a quiet night, a morning rush, a lunch lull, an evening storm.
const HOURS: [f64; 24] = [
    5.0, 3.0, 2.0, 2.0, 3.0, 10.0, 40.0, 150.0, 400.0, 300.0, 120.0, 90.0, 60.0, 80.0, 110.0, 130.0, 160.0,
    220.0, 500.0, 900.0, 450.0, 150.0, 60.0, 20.0,
];
const HOUR_MS: i64 = 3_600_000;
/// Midnight of a Monday.
const BEGIN_MS: i64 = 1_794_787_200_000;
/// How much busier or quieter each day is than the average one.
const LEVELS: [f64; 5] = [1.0, 1.0, 1.3, 0.7, 1.0];
/// Standard deviation of the logarithm of each hour's traffic around its expected one.
const HOUR_NOISE: f64 = 0.25;
/// Requests below which an hour is too short to speak of.
const BUSY: f64 = 20.0;
/// Requests between two snapshots of the policy.
const SNAPSHOT_EVERY: u64 = 25;

#[derive(Parser)]
struct Args {
    /// Recorded outcomes with the splits `val` (to begin with) and `test` (to decide)
    dataset: PathBuf,
    /// Dollars a request that an average day affords
    #[arg(long, value_delimiter = ',', default_value = "0.00023,0.00066,0.0019,0.0053")]
    usd_per_request: Vec<f64>,
    /// Orders of the prompts, each with traffic of its own
    #[arg(long, default_value_t = 10)]
    seeds: u64,
    /// Where the table is written
    #[arg(long, default_value = "experiments/budget_day.table.md")]
    out: PathBuf,
}

/// One day of one way.
#[derive(Clone, Default)]
struct Day {
    /// Over the budget.
    spent: f64,
    quality: [f64; 24],
    cost: [f64; 24],
    requests: [f64; 24],
    /// Requests that only the cheapest model could serve, because nothing was left.
    exhausted: f64,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let all = Dataset::read(&args.dataset).with_context(|| format!("reading {}", args.dataset.display()))?;
    let seed = all.clone().split("val", &args.dataset)?;
    let test = all.split("test", &args.dataset)?.aligned(&seed.models);
    let mut out = String::from(
        "| dollars a request | way | spent of the budget: first day, later days (worst) | least of an hour over the day's: first day, later days | requests without money | mean quality | least of an hour |\n\
         | ---: | --- | --- | --- | ---: | ---: | ---: |\n",
    );
    for &usd in &args.usd_per_request {
        for paced in [true, false] {
            let runs: Vec<Vec<Day>> = (0..args.seeds)
                .map(|order| run(&seed, &test, usd, paced, order))
                .collect();
            out += &line(usd, paced, &runs);
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
    // The traffic is the same for both ways.
    let mut traffic = ChaCha8Rng::seed_from_u64(1_000 + order);
    let costs = Costs::of(seed);
    let mut learner = learner(seed, &costs);
    learner.ensure_route(
        ROUTE,
        RouteSettings {
            objective: Objective::MaxQuality,
            ..RouteSettings::default()
        },
    );
    let limit = usd * HOURS.iter().sum::<f64>();
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
    let mut snapshot = learner.snapshot();
    let mut seq = 0u64;
    let mut days = Vec::new();
    for (number, level) in LEVELS.into_iter().enumerate() {
        let mut day = Day::default();
        for (hour, expected) in HOURS.into_iter().enumerate() {
            let noise = (HOUR_NOISE * normal(&mut traffic) - HOUR_NOISE * HOUR_NOISE / 2.0).exp();
            let count = (expected * level * noise).round() as i64;
            for turn in 0..count {
                let now =
                    UnixMs(BEGIN_MS + (number as i64 * 24 + hour as i64) * HOUR_MS + turn * HOUR_MS / count);
                if next >= prompts.len() {
                    prompts.shuffle(&mut rng);
                    next = 0;
                }
                let prompt = prompts[next];
                next += 1;
                seq += 1;
                if seq.is_multiple_of(SNAPSHOT_EVERY) {
                    snapshot = learner.snapshot();
                }
                let Ok(standing) = budgets.standing(now, &Parties::default()) else {
                    continue;
                };
                let asked = Asked {
                    target: standing.target.filter(|_| paced).map(Usd::dollars),
                    room: standing.room.map_or(f64::INFINITY, Usd::dollars),
                    seq,
                };
                let call = ask(&mut learner, &*snapshot, &costs, test, prompt, &asked, &mut rng);
                let expected = Usd::from_dollars(call.expected).unwrap_or(Usd::ZERO);
                if let Ok(hold) = budgets.reserve(now, &Parties::default(), expected) {
                    let cost = Usd::from_dollars(call.cost).unwrap_or(Usd::ZERO);
                    hold.book(cost, &"call".into(), 1);
                }
                day.spent += call.cost / limit;
                day.cost[hour] += call.cost;
                day.quality[hour] += call.reward;
                day.requests[hour] += 1.0;
                day.exhausted += f64::from(u8::from(standing.cheapest_only()));
            }
        }
        days.push(day);
    }
    days
}

fn normal(rng: &mut ChaCha8Rng) -> f64 {
    (0..12).map(|_| rng.gen_range(0.0..1.0)).sum::<f64>() - 6.0
}

struct Asked {
    /// Dollars that the request should cost on average.
    target: Option<f64>,
    /// Dollars left.
    room: f64,
    seq: u64,
}

struct Called {
    expected: f64,
    cost: f64,
    reward: f64,
}

/// Decides one prompt, and learns from what the drawn model did.
fn ask(
    learner: &mut ContextualLearner,
    policy: &dyn Policy,
    costs: &Costs,
    test: &Dataset,
    prompt: &Prompt,
    asked: &Asked,
    rng: &mut ChaCha8Rng,
) -> Called {
    let category = prompt.category.as_deref();
    let mut offered: Vec<usize> = (0..test.models.len())
        .filter(|&model| prompt.outcomes[model].is_some())
        .collect();
    // As the server offers them: what fits into what is left, and the cheapest in any case.
    let cost = |model: usize| costs.expect(model, category);
    let cheapest = offered
        .iter()
        .copied()
        .min_by(|&a, &b| cost(a).total_cmp(&cost(b)));
    offered.retain(|&model| Some(model) == cheapest || cost(model) <= asked.room);
    let candidates: Vec<Candidate<'_>> = offered
        .iter()
        .map(|&model| Candidate {
            arm: &test.models[model],
            cost_usd: costs.expect(model, category),
            latency_ms: 0.0,
        })
        .collect();
    let round = Round {
        route: ROUTE,
        contexts: CONTEXTS,
        category,
        candidates: &candidates,
        demands: Demands {
            target_usd: asked.target,
            ..Demands::default()
        },
    };
    let decision = policy::decide(policy, &round, rng);
    learner.record_round(&round, &decision);
    let model = offered[decision.chosen];
    let (cost, reward) =
        prompt.outcomes[model].map_or((0.0, 0.0), |outcome| (outcome.cost_usd, outcome.score));
    let expected = candidates[decision.chosen].cost_usd;
    learner.record_usage(&UsageSample {
        seq: asked.seq,
        route: ROUTE,
        arm: &test.models[model],
        contexts: CONTEXTS,
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
            seq: asked.seq,
            route: ROUTE,
            arm: &test.models[model],
            contexts: CONTEXTS,
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

/// The category alone tells prompts apart here: how well they are told apart is not the question.
const CONTEXTS: Contexts<'static> = Contexts {
    text: Some(&[1.0]),
    embedding: None,
    words: &[],
};

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
    for prompt in &seed.prompts {
        for (model, outcome) in prompt.outcomes.iter().enumerate() {
            if let Some(outcome) = outcome {
                builder.add(&LabelledOutcome {
                    model: seed.models[model].as_str(),
                    category: prompt.category.as_deref(),
                    contexts: CONTEXTS,
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
    let arms = seed.models.iter().enumerate().map(|(model, id)| ArmFacts {
        id: id.clone(),
        family: String::new(),
        typical_cost_usd: costs.all[model],
    });
    learner.ensure_arms(&arms.collect::<Vec<_>>());
    learner.ensure_route(ROUTE, RouteSettings::default());
    for prompt in seed.prompts.iter().rev().take(512) {
        let category = prompt.category.as_deref();
        let offers: Vec<_> = seed
            .models
            .iter()
            .enumerate()
            .map(|(model, id)| (id.clone(), costs.expect(model, category)))
            .collect();
        learner.rehearse(ROUTE, &CONTEXTS, category, &offers);
    }
    learner.known_change();
    learner
}

impl Day {
    fn all(&self) -> f64 {
        self.requests.iter().sum()
    }

    fn mean_quality(&self) -> f64 {
        self.quality.iter().sum::<f64>() / self.all()
    }
}

/// The least mean of an hour over these days, over the mean of all hours: hours with enough requests a day. An hour of a
/// single day is mostly the luck of a few dear draws.
fn least(days: &[&Day], of: impl Fn(&Day) -> &[f64; 24]) -> f64 {
    let sum = |hour: usize| days.iter().map(|day| of(day)[hour]).sum::<f64>();
    let asked = |hour: usize| days.iter().map(|day| day.requests[hour]).sum::<f64>();
    let whole = (0..24).map(sum).sum::<f64>() / (0..24).map(asked).sum::<f64>();
    let busy = (0..24).filter(|&hour| asked(hour) >= BUSY * days.len() as f64);
    busy.map(|hour| sum(hour) / asked(hour) / whole)
        .fold(f64::INFINITY, f64::min)
}

fn line(usd: f64, paced: bool, runs: &[Vec<Day>]) -> String {
    let days = |first: bool| {
        runs.iter()
            .flat_map(move |days| if first { &days[..1] } else { &days[1..] })
    };
    let all = || runs.iter().flatten();
    let mean = |values: &mut dyn Iterator<Item = f64>| {
        let (sum, count) = values.fold((0.0, 0.0), |(sum, count), value| (sum + value, count + 1.0));
        sum / f64::max(count, 1.0)
    };
    let spent = |first: bool| {
        let mut worst = 1.0;
        for day in days(first) {
            if f64::abs(day.spent - 1.0) > f64::abs(worst - 1.0) {
                worst = day.spent;
            }
        }
        format!("{:.3} ({worst:.3})", mean(&mut days(first).map(|day| day.spent)))
    };
    let starved = |first: bool| least(&days(first).collect::<Vec<_>>(), |day| &day.cost);
    let quality = mean(&mut all().map(Day::mean_quality));
    let lowest = least(&all().collect::<Vec<_>>(), |day| &day.quality) * quality;
    let requests: f64 = all().map(Day::all).sum();
    let exhausted: f64 = all().map(|day| day.exhausted).sum();
    format!(
        "| {usd:.2e} | {} | {}, {} | {:.2}, {:.2} | {:.1} % | {quality:.4} | {lowest:.3} |\n",
        if paced { "paced" } else { "cap only" },
        spent(true),
        spent(false),
        starved(true),
        starved(false),
        100.0 * exhausted / requests,
    )
}
