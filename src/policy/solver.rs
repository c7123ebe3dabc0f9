//! The price of a dollar: lambda in `quality - lambda cost`, solved on a reservoir of recent rounds.

/// Quality and cost of one arm in one recent round.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Offer {
    /// Index of the arm.
    pub arm: usize,
    /// Expected quality.
    pub quality: f64,
    /// What decides beside the cost: quality, a draw's noise, less a latency penalty.
    pub value: f64,
    /// Expected dollars.
    pub cost_usd: f64,
}

/// Recent rounds: the offers of each, one after another in one flat list.
#[derive(Clone, Debug, Default)]
pub struct Rounds {
    offers: Vec<Offer>,
    ends: Vec<usize>,
}

/// Mean quality and mean dollars of a choice over rounds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Means {
    /// Mean expected quality of what was chosen.
    pub quality: f64,
    /// Mean dollars of what was chosen.
    pub cost_usd: f64,
}

impl Rounds {
    /// Adds a round; one without offers is left out.
    pub fn push(&mut self, offers: impl IntoIterator<Item = Offer>) {
        self.offers.extend(offers);
        if self.offers.len() > self.ends.last().copied().unwrap_or(0) {
            self.ends.push(self.offers.len());
        }
    }

    /// Number of rounds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The offers of each round.
    pub fn iter(&self) -> impl Iterator<Item = &[Offer]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts
            .zip(&self.ends)
            .map(|(start, &end)| &self.offers[start..end])
    }

    /// What choosing the best `value - lambda cost` in every round comes to.
    #[must_use]
    pub fn at(&self, lambda: f64) -> Means {
        let mut means = Means::default();
        for offers in self.iter() {
            let mut best = offers[0];
            let mut best_value = best.value - lambda * best.cost_usd;
            for offer in &offers[1..] {
                let value = offer.value - lambda * offer.cost_usd;
                if value > best_value {
                    (best, best_value) = (*offer, value);
                }
            }
            means.quality += best.quality;
            means.cost_usd += best.cost_usd;
        }
        let rounds = self.len().max(1) as f64;
        means.quality /= rounds;
        means.cost_usd /= rounds;
        means
    }

    /// Mean quality and cost of each arm over the rounds that offer it, with the number of those rounds.
    #[must_use]
    pub fn by_arm(&self) -> Vec<(Means, usize)> {
        let arms = self.offers.iter().map(|offer| offer.arm + 1).max().unwrap_or(0);
        let mut sums = vec![(Means::default(), 0_usize); arms];
        for offer in &self.offers {
            let (means, rounds) = &mut sums[offer.arm];
            means.quality += offer.quality;
            means.cost_usd += offer.cost_usd;
            *rounds += 1;
        }
        for (means, rounds) in &mut sums {
            let rounds = (*rounds).max(1) as f64;
            means.quality /= rounds;
            means.cost_usd /= rounds;
        }
        sums
    }

    /// Largest mean quality of an arm that at least half of the rounds offer.
    #[must_use]
    pub fn best_single(&self) -> Option<f64> {
        self.by_arm()
            .into_iter()
            .filter(|(_, rounds)| 2 * rounds >= self.len())
            .map(|(means, _)| means.quality)
            .reduce(f64::max)
    }

    /// The smallest lambda whose mean cost is at most `budget_usd`; 0 when the budget does not bind, and the
    /// largest lambda when not even the cheapest arms fit.
    #[must_use]
    pub fn lambda_for_budget(&self, budget_usd: f64) -> f64 {
        self.smallest_lambda(|means| means.cost_usd <= budget_usd)
    }

    /// The largest lambda whose mean quality is still at least `quality`; 0 when none is.
    #[must_use]
    pub fn lambda_for_quality(&self, quality: f64) -> f64 {
        if self.at(0.0).quality < quality {
            return 0.0;
        }
        // Both fall as lambda grows, so the first lambda that falls short bounds the answer from above.
        let short = self.smallest_lambda(|means| means.quality < quality);
        short / STEP_RATIO
    }

    fn smallest_lambda(&self, reached: impl Fn(Means) -> bool) -> f64 {
        if self.is_empty() || reached(self.at(0.0)) {
            return 0.0;
        }
        let (mut low, mut high) = (LEAST.ln(), MOST.ln());
        for _ in 0..BISECTIONS {
            let middle = 0.5 * (low + high);
            if reached(self.at(middle.exp())) {
                high = middle;
            } else {
                low = middle;
            }
        }
        high.exp()
    }
}

/// Quality points per dollar: below the first money is no object, above the second nothing but money is.
const LEAST: f64 = 1e-4;
const MOST: f64 = 1e9;
/// Halvings of ln(MOST / LEAST) = 30: the answer is good to 3e-8 of itself.
const BISECTIONS: u32 = 30;
/// Just more than the last bisection step, to come back to the near side of a jump.
const STEP_RATIO: f64 = 1.000_000_1;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn offer(arm: usize, quality: f64, cost_usd: f64) -> Offer {
        Offer {
            arm,
            quality,
            value: quality,
            cost_usd,
        }
    }

    /// Round 1: +0.4 for +2 dollars (0.2 a dollar). Round 2: +0.1 for +2 (0.05 a dollar).
    fn two_rounds() -> Rounds {
        let mut rounds = Rounds::default();
        rounds.push([offer(0, 0.4, 1.0), offer(1, 0.8, 3.0)]);
        rounds.push([offer(0, 0.7, 1.0), offer(1, 0.8, 3.0)]);
        rounds
    }

    #[test]
    fn a_budget_of_two_buys_the_better_bargain_only() {
        let lambda = two_rounds().lambda_for_budget(2.0);
        assert!((lambda - 0.05).abs() < 1e-6, "{lambda}");
        assert_eq!(two_rounds().lambda_for_budget(3.0), 0.0);
        assert!(two_rounds().lambda_for_budget(0.5) > 1e8);
    }

    #[test]
    fn cheapest_capable_stops_before_quality_falls_short() {
        let rounds = two_rounds();
        assert_eq!(rounds.best_single(), Some(0.8));
        // Giving up round 2's dear arm costs 0.05 on average; giving up both costs 0.25.
        let lambda = rounds.lambda_for_quality(0.8 - 0.06);
        assert!((lambda - 0.2).abs() < 1e-6, "{lambda}");
        assert!((rounds.at(lambda).quality - 0.75).abs() < 1e-9);
        assert!((rounds.at(lambda).cost_usd - 2.0).abs() < 1e-9);
    }

    proptest! {
        #[test]
        fn dearer_dollars_never_cost_more(
            rounds in prop::collection::vec(
                prop::collection::vec((0.0..1.0_f64, 1e-6..1e-1_f64), 1..6), 1..40),
            lambdas in (0.0..1e4_f64, 0.0..1e4_f64),
            budget in 1e-6..1e-1_f64,
        ) {
            let mut all = Rounds::default();
            for offers in rounds {
                all.push(offers.into_iter().enumerate().map(|(arm, (q, c))| offer(arm, q, c)));
            }
            let (low, high) = (lambdas.0.min(lambdas.1), lambdas.0.max(lambdas.1));
            prop_assert!(all.at(high).cost_usd <= all.at(low).cost_usd + 1e-12);
            prop_assert!(all.at(high).quality <= all.at(low).quality + 1e-12);
            let spent = all.at(all.lambda_for_budget(budget)).cost_usd;
            let least = all.at(MOST).cost_usd;
            prop_assert!(spent <= budget.max(least) + 1e-12);
        }
    }
}
