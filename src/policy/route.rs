//! One route's objective, its recent rounds, and the price of a dollar that follows from both.

use serde::{Deserialize, Serialize};

use super::guard::{Audit, Guard};
use super::pacer::Pacer;
use super::solver::{Means, Rounds};
use crate::arm::ArmId;

/// What a route maximises.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "objective", rename_all = "snake_case")]
pub enum Objective {
    /// Least cost with a *mean* quality no more than `margin` below the best single arm's.
    CheapestCapable {
        /// In quality points.
        margin: f64,
    },
    /// Best quality, whatever it costs (within a budget, if there is one).
    MaxQuality,
    /// Quality less `lambda` times dollars.
    Weighted {
        /// Quality points per dollar.
        lambda: f64,
    },
}

/// A route's settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RouteSettings {
    /// What is maximised.
    pub objective: Objective,
    /// Dollars allowed per request, on average. The dearer of the objective's and the budget's price of a dollar
    /// holds.
    pub budget_usd: Option<f64>,
    /// Probability with which a quality floor must hold, in (0,1).
    pub confidence: f64,
    /// Quality floor of every request, in \[0,1\].
    pub quality_floor: Option<f64>,
    /// Quality points that a latency of twice the target costs.
    pub latency_weight: f64,
    /// Latency that costs nothing, in milliseconds.
    pub latency_target_ms: f64,
    /// Quality points by which predictions are too good after the best of them was picked, added to what a margin asks
    /// for. On recorded outcomes (two halves of a seed, each predicted from the other) choices that were predicted to
    /// lose nothing lost .005.
    pub optimism: f64,
    /// Exploration floor, as a share of requests.
    pub exploration: f64,
    /// Exploration floor, as a share of spend.
    pub exploration_spend: f64,
    /// Quality points that the exploration floor may give up per request, each arm an equal part: what is known to be
    /// far worse is drawn the more seldom.
    pub exploration_regret: f64,
    /// Share of requests that go to an arm that may be the best, to hold the promised margin against; 0: no audit.
    pub audit_share: f64,
    /// That arm. `None`: whichever may be the best by what is believed; the margin is held against the one that is
    /// believed best.
    pub reference: Option<ArmId>,
    /// Thompson noise on the weights, in standard deviations.
    pub weights_noise: f64,
    /// Thompson noise on the drift, in standard deviations.
    pub drift_noise: f64,
    /// Thompson noise on what the weights leave open of the mean quality over recent prompts of an arm without a prior of
    /// its own, in standard deviations.
    pub level_noise: f64,
    /// Routers that share the traffic and the budget, each with an account of its own.
    pub routers: u32,
    /// Whether the contextual scores serve from the start (a seed has proven them).
    pub proven: bool,
    /// Whether the guard may put the static mix in charge.
    pub guarded: bool,
}

impl Default for RouteSettings {
    fn default() -> Self {
        Self {
            objective: Objective::CheapestCapable { margin: 0.02 },
            budget_usd: None,
            confidence: 0.9,
            quality_floor: None,
            latency_weight: 0.0,
            latency_target_ms: 2000.0,
            optimism: 0.005,
            exploration: 0.01,
            exploration_spend: 0.01,
            exploration_regret: 0.0003,
            audit_share: 0.0,
            reference: None,
            weights_noise: 0.05,
            drift_noise: 0.5,
            level_noise: 0.7,
            routers: 1,
            proven: true,
            guarded: true,
        }
    }
}

impl RouteSettings {
    /// Thompson noise on the level of an arm, from the variance of its drift and that of its mean quality.
    #[must_use]
    pub fn level_sd(&self, drift: f64, level: f64) -> f64 {
        (self.drift_noise.powi(2) * drift + self.level_noise.powi(2) * level).sqrt()
    }
}

/// Margins for which a price of a dollar is kept ready, for requests that ask for their own.
pub const MARGINS: [f64; 7] = [0.0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2];

/// The least price of a dollar whose mean cost is kept ready, how many there are above it, and how close they lie: up to
/// a million quality points a dollar, where nothing but money counts.
const CHEAPEST_DOLLAR: f64 = 1e-2;
const PRICES: i32 = 32;
const PRICES_A_DECADE: f64 = 4.0;

/// What was solved on the recent rounds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Solution {
    /// Price of a dollar before the pacer's correction. `None` before the first solution.
    pub lambda: Option<f64>,
    /// Price of a dollar for each of [`MARGINS`].
    pub by_margin: [f64; MARGINS.len()],
    /// Mean dollars at prices of a dollar that rise evenly in their logarithm: (mean dollars, price).
    pub by_cost: Vec<(f64, f64)>,
    /// Mean quality and cost of each arm, by its index.
    pub by_arm: Vec<(Means, usize)>,
    /// Mean dollars expected at `lambda`.
    pub mean_cost_usd: f64,
    /// Rounds it was solved on.
    pub rounds: usize,
}

/// What a solution must take into account beside the route's settings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Terms {
    /// Dollars that the exploration floor is expected to spend per request.
    pub explored_usd: f64,
    /// The audit's factor on the margin.
    pub margin_scale: f64,
    /// What the next requests may cost on average; `None`: the route's budget.
    pub allowed_usd: Option<f64>,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            explored_usd: 0.0,
            margin_scale: 1.0,
            allowed_usd: None,
        }
    }
}

/// Solves a route's objective on its recent rounds.
#[must_use]
pub fn solve(settings: &RouteSettings, rounds: &Rounds, terms: &Terms) -> Solution {
    if rounds.is_empty() {
        return Solution::default();
    }
    let reference = rounds.best_single();
    let for_margin = |margin: f64| {
        let promised = margin * if margin > 0.0 { terms.margin_scale } else { 1.0 };
        reference.map_or(0.0, |best| {
            rounds.lambda_for_quality(best - promised + settings.optimism)
        })
    };
    let mut by_margin = [0.0; MARGINS.len()];
    let own = match settings.objective {
        Objective::CheapestCapable { margin } => {
            by_margin = MARGINS.map(for_margin);
            for_margin(margin)
        }
        Objective::MaxQuality => 0.0,
        Objective::Weighted { lambda } => lambda.max(0.0),
    };
    let paced = settings.budget_usd.map_or(0.0, |budget| {
        let allowed = terms.allowed_usd.unwrap_or(budget) - terms.explored_usd;
        rounds.lambda_for_budget(allowed.max(0.0))
    });
    let lambda = own.max(paced);
    let by_cost = (0..=PRICES)
        .map(|step| CHEAPEST_DOLLAR * 10f64.powf(f64::from(step) / PRICES_A_DECADE))
        .map(|price| (rounds.at(price).cost_usd, price))
        .collect();
    Solution {
        lambda: Some(lambda),
        by_margin,
        by_cost,
        by_arm: rounds.by_arm(),
        mean_cost_usd: rounds.at(lambda).cost_usd,
        rounds: rounds.len(),
    }
}

/// Quality points by which another arm must be believed better for the audit to go over to it.
const CLEARLY_BETTER: f64 = 0.01;

impl Solution {
    /// Index of the arm with the largest mean quality among those that at least half of the rounds offer; `present` as
    /// long as none is clearly better.
    #[must_use]
    pub fn best_arm(&self, present: Option<usize>) -> Option<usize> {
        let (best, quality) = self.offered().max_by(|a, b| a.1.total_cmp(&b.1))?;
        let near = |&(arm, own): &(usize, f64)| Some(arm) == present && own >= quality - CLEARLY_BETTER;
        Some(self.offered().find(near).map_or(best, |(arm, _)| arm))
    }

    /// Index and mean quality of the arms that at least half of the rounds offer.
    pub fn offered(&self) -> impl Iterator<Item = (usize, f64)> + '_ {
        let arms = self.by_arm.iter().enumerate();
        arms.filter(|(_, (_, rounds))| 2 * rounds >= self.rounds.max(1))
            .map(|(arm, (means, _))| (arm, means.quality))
    }

    /// Price of a dollar for a margin that a request asks for: linear between the [`MARGINS`].
    #[must_use]
    pub fn lambda_for_margin(&self, margin: f64) -> f64 {
        let above = MARGINS.iter().position(|&known| known >= margin);
        match above {
            Some(0) => self.by_margin[0],
            Some(right) => {
                let (low, high) = (MARGINS[right - 1], MARGINS[right]);
                let share = (margin - low) / (high - low);
                self.by_margin[right - 1] * (1.0 - share) + self.by_margin[right] * share
            }
            None => self.by_margin[MARGINS.len() - 1],
        }
    }

    /// Two prices of a dollar between which requests cost `target_usd` on average, and the share of requests that the
    /// higher one must decide for exactly that. (0, 0, 0) where they cost no more anyway.
    #[must_use]
    pub fn prices_for_cost(&self, target_usd: f64) -> (f64, f64, f64) {
        let Some(reached) = self.by_cost.iter().position(|&(cost, _)| cost <= target_usd) else {
            let most = self.by_cost.last().map_or(0.0, |&(_, price)| price);
            return (most, most, 1.0);
        };
        let Some(before) = reached.checked_sub(1) else {
            return (0.0, 0.0, 0.0);
        };
        let ((dear, low), (cheap, high)) = (self.by_cost[before], self.by_cost[reached]);
        (low, high, ((dear - target_usd) / (dear - cheap)).clamp(0.0, 1.0))
    }

    /// The best mix that looks at no prompt, as (arm index, probability): a point on the convex hull of the arms'
    /// (mean cost, mean quality) that the objective and the budget allow.
    #[must_use]
    pub fn static_mix(&self, settings: &RouteSettings, allowed_usd: Option<f64>) -> Vec<(usize, f64)> {
        let offered: Vec<(usize, Means)> = self
            .by_arm
            .iter()
            .enumerate()
            .filter(|(_, (_, rounds))| 2 * rounds >= self.rounds.max(1))
            .map(|(arm, (means, _))| (arm, *means))
            .collect();
        let hull = upper_hull(&offered);
        let Some(best) = hull.last().map(|(_, means)| means.quality) else {
            return Vec::new();
        };
        let budget = settings.budget_usd.map(|budget| allowed_usd.unwrap_or(budget));
        // Where the objective stops on the hull: a vertex and how far to go on to the next one.
        let (mut vertex, mut share) = match settings.objective {
            Objective::MaxQuality => (hull.len() - 1, 0.0),
            Objective::CheapestCapable { margin } => first_reaching(&hull, best - margin),
            Objective::Weighted { lambda } => {
                let values: Vec<f64> = hull
                    .iter()
                    .map(|(_, m)| m.quality - lambda * m.cost_usd)
                    .collect();
                (super::pmf::argmax(&values).unwrap_or(0), 0.0)
            }
        };
        if let Some(budget) = budget {
            let cost_at = |vertex: usize, share: f64| {
                let next = hull.get(vertex + 1).unwrap_or(&hull[vertex]).1.cost_usd;
                hull[vertex].1.cost_usd * (1.0 - share) + next * share
            };
            if cost_at(vertex, share) > budget {
                (vertex, share) = last_within(&hull, budget);
            }
        }
        let mut mix = vec![(hull[vertex].0, 1.0 - share)];
        if share > 0.0
            && let Some((arm, _)) = hull.get(vertex + 1)
        {
            mix.push((*arm, share));
        }
        mix
    }
}

/// First point along the hull whose quality reaches `quality`, as (vertex, share of the way to the next).
fn first_reaching(hull: &[(usize, Means)], quality: f64) -> (usize, f64) {
    for (vertex, pair) in hull.windows(2).enumerate() {
        let (here, next) = (pair[0].1.quality, pair[1].1.quality);
        if here >= quality {
            return (vertex, 0.0);
        }
        if next > quality {
            return (vertex, (quality - here) / (next - here));
        }
    }
    (hull.len().saturating_sub(1), 0.0)
}

/// Last point along the hull that costs at most `budget`.
fn last_within(hull: &[(usize, Means)], budget: f64) -> (usize, f64) {
    for vertex in 0..hull.len() {
        let here = hull[vertex].1.cost_usd;
        let Some((_, next)) = hull.get(vertex + 1) else {
            return (vertex, 0.0);
        };
        if next.cost_usd > budget {
            let share = (budget - here) / (next.cost_usd - here).max(1e-300);
            return (vertex, share.clamp(0.0, 1.0));
        }
    }
    (0, 0.0)
}

/// The non-decreasing upper convex hull of (cost, quality), from the cheapest arm to the best one.
fn upper_hull(arms: &[(usize, Means)]) -> Vec<(usize, Means)> {
    let mut sorted = arms.to_vec();
    sorted.sort_by(|(_, a), (_, b)| {
        a.cost_usd
            .total_cmp(&b.cost_usd)
            .then(b.quality.total_cmp(&a.quality))
    });
    let mut hull: Vec<(usize, Means)> = Vec::new();
    for (arm, means) in sorted {
        if hull.last().is_some_and(|(_, last)| means.quality <= last.quality) {
            continue;
        }
        while let [.., (_, a), (_, b)] = hull[..] {
            let before = (b.quality - a.quality) * (means.cost_usd - b.cost_usd);
            let after = (means.quality - b.quality) * (b.cost_usd - a.cost_usd);
            if before > after {
                break;
            }
            hull.pop();
        }
        hull.push((arm, means));
    }
    hull
}

/// What a route has learned that outlives a restart.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RouteMemory {
    /// Spending against the budget.
    pub pacer: Pacer,
    /// Who serves.
    pub guard: Guard,
    /// The margin's audit.
    pub audit: Audit,
    /// The arm that it compares with.
    #[serde(default)]
    pub audited: Option<ArmId>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_as_open_as_its_drift_and_its_weights() {
        let settings = RouteSettings {
            drift_noise: 0.5,
            level_noise: 0.4,
            ..RouteSettings::default()
        };
        // sqrt(.25 * .0036 + .16 * .01) = .05.
        assert!((settings.level_sd(0.0036, 0.01) - 0.05).abs() < 1e-12);
    }
    use crate::policy::solver::Offer;

    /// Arms at $1, $3, $9 with quality 0.6, 0.8, 0.9, and one at $5 with 0.7 that no mix wants.
    fn rounds() -> Rounds {
        let mut rounds = Rounds::default();
        for _ in 0..4 {
            rounds.push([(0, 0.6, 1.0), (1, 0.8, 3.0), (2, 0.9, 9.0), (3, 0.7, 5.0)].map(
                |(arm, quality, cost_usd)| Offer {
                    arm,
                    quality,
                    value: quality,
                    cost_usd,
                },
            ));
        }
        rounds
    }

    fn mix(objective: Objective, budget_usd: Option<f64>) -> Vec<(usize, f64)> {
        let settings = RouteSettings {
            objective,
            budget_usd,
            ..RouteSettings::default()
        };
        solve(&settings, &rounds(), &Terms::default()).static_mix(&settings, None)
    }

    #[test]
    fn the_static_mix_is_a_point_on_the_hull() {
        assert_eq!(mix(Objective::MaxQuality, Some(2.0)), [(0, 0.5), (1, 0.5)]);
        assert_eq!(mix(Objective::MaxQuality, Some(0.5)), [(0, 1.0)]);
        assert_eq!(mix(Objective::MaxQuality, Some(100.0)), [(2, 1.0)]);
        // 0.05 below the best is half of the way from 0.8 to 0.9.
        let capable = mix(Objective::CheapestCapable { margin: 0.05 }, None);
        assert_eq!((capable[0].0, capable[1].0), (1, 2));
        assert!((capable[1].1 - 0.5).abs() < 1e-9);
        // 0.2 points for 2 dollars are worth it at 0.05 a dollar, 0.1 for 6 are not.
        assert_eq!(mix(Objective::Weighted { lambda: 0.05 }, None), [(1, 1.0)]);
    }

    #[test]
    fn a_request_with_less_money_than_its_route_pays_more_for_a_dollar() {
        let settings = RouteSettings {
            objective: Objective::MaxQuality,
            ..RouteSettings::default()
        };
        let solution = solve(&settings, &rounds(), &Terms::default());
        assert_eq!(solution.lambda, Some(0.0));
        let rounds = rounds();
        for target in [8.0, 3.0, 2.5, 1.0] {
            let (low, high, share) = solution.prices_for_cost(target);
            let spent = rounds.at(low).cost_usd * (1.0 - share) + rounds.at(high).cost_usd * share;
            assert!((spent - target).abs() < 1e-9, "{spent} for {target}");
        }
        assert_eq!(
            solution.prices_for_cost(9.0),
            (0.0, 0.0, 0.0),
            "nothing costs more"
        );
        let (low, high, share) = solution.prices_for_cost(0.5);
        assert!(low > 1e5 && high > 1e5 && share == 1.0, "nothing costs so little");
        assert_eq!(Solution::default().prices_for_cost(1.0), (0.0, 0.0, 1.0));
    }

    #[test]
    fn the_audit_follows_the_best_arm_and_not_every_breath() {
        let solution = solve(&RouteSettings::default(), &rounds(), &Terms::default());
        assert_eq!(solution.best_arm(None), Some(2));
        assert_eq!(solution.best_arm(Some(1)), Some(2), "clearly better");
        let mut close = solution.clone();
        close.by_arm[1].0.quality = 0.895;
        assert_eq!(close.best_arm(Some(1)), Some(1));
        close.by_arm[1].1 = 1;
        assert_eq!(close.best_arm(Some(1)), Some(2), "no longer offered");
        assert_eq!(Solution::default().best_arm(None), None);
    }

    #[test]
    fn a_margin_between_two_known_ones_is_interpolated() {
        let solution = Solution {
            by_margin: [0.0, 1.0, 2.0, 4.0, 10.0, 20.0, 40.0],
            ..Solution::default()
        };
        assert!((solution.lambda_for_margin(0.015) - 3.0).abs() < 1e-9);
        assert!((solution.lambda_for_margin(0.5) - 40.0).abs() < 1e-9);
    }
}
