//! What no router could do: choices by the recorded outcomes themselves.

use super::Settings;
use crate::policy::route::{Terms, solve};
use crate::policy::solver::{Offer, Rounds};
use crate::replay::dataset::Dataset;
use crate::replay::metrics::{Point, Run, Step, hull, mean};
use crate::replay::world::World;

/// Chooses by the recorded outcomes themselves, at the price of a dollar that meets the objective in hindsight.
pub(super) fn oracle(world: &World, settings: &Settings) -> Run {
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
pub(super) fn zero_router(world: &World, settings: &Settings) -> Run {
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
