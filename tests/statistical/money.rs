//! Pacing in a simulated world: a day's budget on a bursty day, with the policy that the server asks.
//!
//! Three models; each answer costs what was expected times a log-normal factor that is a third too high on average (what
//! is expected is never quite right), the traffic of each hour is random around a bursty day's, and days differ in level.

use jiff::tz::TimeZone;
use pointsman::policy::route::{Objective, RouteSettings};
use pointsman::policy::{Candidate, Demands, Learner, Policy, Round, decide};
use pointsman::pricing::budget::{BudgetRule, Budgets, OnExhausted, Parties, Period, Scope};
use pointsman::units::{UnixMs, Usd};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::seeded::{COSTS, Prompt, ROUTE, arms, contexts, learner};

/// Requests of an average day in each hour: a quiet night, a morning rush, a lunch lull, an evening storm.
const HOURS: [f64; 24] = [
    5.0, 3.0, 2.0, 2.0, 3.0, 10.0, 40.0, 150.0, 400.0, 300.0, 120.0, 90.0, 60.0, 80.0, 110.0, 130.0, 160.0,
    220.0, 500.0, 900.0, 450.0, 150.0, 60.0, 20.0,
];
const HOUR_MS: i64 = 3_600_000;
/// Midnight of a Monday.
const BEGIN_MS: i64 = 1_794_787_200_000;
const LEVELS: [f64; 4] = [1.0, 1.0, 1.3, 0.75];
/// Dollars a request that an average day affords: between the cheap and the solid model.
const AFFORDED: f64 = 3e-4;
/// What answers cost over what was expected, on average.
const MISJUDGED: f64 = 1.33;

/// A prompt: how hard it is, and the probability that each model answers well.
fn prompt(rng: &mut ChaCha8Rng) -> Prompt {
    let hard: f64 = rng.gen_range(-1.0..1.0);
    Prompt {
        features: vec![1.0, hard as f32],
        quality: [0.70 - 0.25 * hard, 0.88 - 0.08 * hard, 0.92 - 0.04 * hard],
    }
}

#[derive(Default)]
struct Day {
    /// Over the budget.
    spent: f64,
    quality: f64,
    cost: [f64; 24],
    requests: [f64; 24],
    /// Requests that only the cheapest could serve.
    exhausted: f64,
}

/// The least dollars a request of an hour over these days, over the mean of all hours: of hours with at least twenty
/// requests a day. An hour of a single day is mostly the luck of a few dear draws.
fn least(days: &[Day]) -> f64 {
    let cost = |hour: usize| days.iter().map(|day| day.cost[hour]).sum::<f64>();
    let asked = |hour: usize| days.iter().map(|day| day.requests[hour]).sum::<f64>();
    let whole = (0..24).map(cost).sum::<f64>() / (0..24).map(asked).sum::<f64>();
    let busy = (0..24).filter(|&hour| asked(hour) >= 20.0 * days.len() as f64);
    busy.map(|hour| cost(hour) / asked(hour) / whole)
        .fold(f64::INFINITY, f64::min)
}

fn dollars(dollars: f64) -> Usd {
    Usd::from_dollars(dollars).unwrap_or(Usd::MAX)
}

fn normal(rng: &mut ChaCha8Rng) -> f64 {
    (0..12).map(|_| rng.gen_range(0.0..1.0)).sum::<f64>() - 6.0
}

/// The days of one way, under the traffic of `seed`.
fn days(policy: &dyn Policy, paced: bool, seed: u64) -> Vec<Day> {
    let (mut rng, mut traffic) = (
        ChaCha8Rng::seed_from_u64(seed),
        ChaCha8Rng::seed_from_u64(seed + 1_000),
    );
    let limit = AFFORDED * HOURS.iter().sum::<f64>();
    let budgets = Budgets::new(vec![BudgetRule {
        name: "day".into(),
        scope: Scope::All,
        subject: None,
        limit: dollars(limit),
        period: Period::Day,
        zone: TimeZone::UTC,
        on_exhausted: OnExhausted::Cheapest,
    }]);
    let arms = arms();
    let mut days = Vec::new();
    for (number, level) in LEVELS.into_iter().enumerate() {
        let mut day = Day::default();
        for (hour, expected) in HOURS.into_iter().enumerate() {
            let count = (expected * level * (0.25 * normal(&mut traffic) - 0.03).exp()).round() as i64;
            for turn in 0..count {
                let since = (number as i64 * 24 + hour as i64) * HOUR_MS + turn * HOUR_MS / count;
                let now = UnixMs(BEGIN_MS + since);
                let Prompt { features, quality } = prompt(&mut rng);
                let Ok(standing) = budgets.standing(now, &Parties::default()) else {
                    continue;
                };
                // As the server offers them: what fits into what is left, and the cheapest in any case.
                let room = standing.room.map_or(f64::INFINITY, Usd::dollars);
                let offered = 1 + COSTS[1..].iter().filter(|&&cost| cost <= room).count();
                let candidates: Vec<Candidate<'_>> = (0..offered)
                    .map(|arm| Candidate {
                        arm: &arms[arm],
                        cost_usd: COSTS[arm],
                        latency_ms: 0.0,
                    })
                    .collect();
                let round = Round {
                    route: ROUTE,
                    contexts: contexts(&features),
                    category: None,
                    candidates: &candidates,
                    demands: Demands {
                        target_usd: standing.target.filter(|_| paced).map(Usd::dollars),
                        ..Demands::default()
                    },
                };
                let chosen = decide(policy, &round, &mut rng).chosen;
                // Log-normal with mean one, times what is misjudged.
                let cost = COSTS[chosen] * MISJUDGED * (0.6 * normal(&mut rng) - 0.18).exp();
                if let Ok(hold) = budgets.reserve(now, &Parties::default(), dollars(COSTS[chosen])) {
                    hold.book(dollars(cost), &"d".into(), 1);
                }
                day.spent += cost / limit;
                day.cost[hour] += cost;
                day.requests[hour] += 1.0;
                day.quality += quality[chosen];
                day.exhausted += f64::from(u8::from(standing.cheapest_only()));
            }
        }
        day.quality /= day.requests.iter().sum::<f64>();
        days.push(day);
    }
    days
}

/// The budget is met within 2 % each day, no hour is starved, and the money buys more than when it is spent until it is
/// gone. Seeds are fixed: forty days of each way.
#[test]
fn a_days_budget_lasts_through_bursts_and_buys_more_than_a_cap() {
    let settings = RouteSettings {
        objective: Objective::MaxQuality,
        ..RouteSettings::default()
    };
    let learner = learner(settings, 2, prompt, 600, 256);
    let policy = learner.snapshot();
    let (mut first, mut later, mut capped) = (Vec::new(), Vec::new(), Vec::new());
    for seed in 1..=10 {
        let mut paced = days(&*policy, true, seed);
        for (number, day) in paced.iter().enumerate() {
            assert!(
                (0.98..=1.02).contains(&day.spent),
                "seed {seed}, day {number}: {}",
                day.spent
            );
            // The first day cannot foresee its storm, but it leaves money for it.
            let requests: f64 = day.requests.iter().sum();
            assert!(
                day.exhausted <= 0.01 * requests,
                "seed {seed}, day {number}: {}",
                day.exhausted
            );
        }
        first.push(paced.remove(0));
        later.append(&mut paced);
        capped.append(&mut days(&*policy, false, seed));
    }
    let (unforeseen, foreseen, cap) = (least(&first), least(&later), least(&capped));
    assert!(unforeseen > 0.3, "an hour of the first day got {unforeseen}");
    assert!(foreseen > 0.7, "an hour got {foreseen}");
    assert!(cap < 0.2, "a cap alone leaves {cap}");
    let quality = |days: &mut dyn Iterator<Item = &Day>| {
        let (sum, count) = days.fold((0.0, 0.0), |(sum, count), day| (sum + day.quality, count + 1.0));
        sum / count
    };
    let paced = quality(&mut first.iter().chain(&later));
    let capped = quality(&mut capped.iter());
    assert!(paced > capped + 0.03, "paced {paced}, capped {capped}");
}
