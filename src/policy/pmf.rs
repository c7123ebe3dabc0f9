//! A pmf over candidates, its exploration floor, and the draw.

use rand::{Rng, RngCore};

/// Probabilities of a policy's own choice, and the exploration floor that is mixed in:
/// P(a) = floor(a) + (1 - sum of the floor) own(a).
#[derive(Clone, Debug, PartialEq)]
pub struct Pmf {
    own: Vec<f64>,
    floor: Vec<f64>,
}

/// One draw.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Draw {
    /// Index of the arm.
    pub index: usize,
    /// Its probability, floor mixed in.
    pub propensity: f64,
    /// Whether the floor made the draw.
    pub explored: bool,
}

impl Pmf {
    /// From weights that need not sum to 1, without a floor. Negative and non-finite weights count as none; if
    /// nothing is left, every arm is as likely.
    #[must_use]
    pub fn from_weights(mut weights: Vec<f64>) -> Self {
        for weight in &mut weights {
            if !weight.is_finite() || *weight < 0.0 {
                *weight = 0.0;
            }
        }
        let sum: f64 = weights.iter().sum();
        if sum > 0.0 {
            weights.iter_mut().for_each(|weight| *weight /= sum);
        } else {
            let each = 1.0 / weights.len().max(1) as f64;
            weights.fill(each);
        }
        Self {
            own: weights,
            floor: Vec::new(),
        }
    }

    /// All on one arm of `arms`.
    #[must_use]
    pub fn certain(index: usize, arms: usize) -> Self {
        let mut own = vec![0.0; arms];
        if let Some(weight) = own.get_mut(index) {
            *weight = 1.0;
        }
        Self {
            own,
            floor: Vec::new(),
        }
    }

    /// `other`'s own choice with probability `share`, else this one's; the floors are left out.
    #[must_use]
    pub fn mixed(&self, other: &Self, share: f64) -> Self {
        let own = self.own.iter().zip(&other.own);
        Self::from_weights(own.map(|(a, b)| a * (1.0 - share) + b * share).collect())
    }

    /// Mixes a floor in: one probability an arm, each not negative. A floor that sums to more than 1/2 is scaled
    /// down to 1/2, so that exploring never rules.
    #[must_use]
    pub fn with_floor(mut self, mut floor: Vec<f64>) -> Self {
        let sum: f64 = floor.iter().sum();
        if sum > 0.5 {
            floor.iter_mut().for_each(|weight| *weight *= 0.5 / sum);
        }
        self.floor = floor;
        self
    }

    /// Probability that the floor makes the draw.
    #[must_use]
    pub fn exploration(&self) -> f64 {
        self.floor.iter().sum()
    }

    /// Number of arms.
    #[must_use]
    pub fn len(&self) -> usize {
        self.own.len()
    }

    /// Whether there is no arm.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.own.is_empty()
    }

    /// P(arm), floor mixed in.
    #[must_use]
    pub fn probability(&self, index: usize) -> f64 {
        let own = self.own.get(index).copied().unwrap_or(0.0);
        let floor = self.floor.get(index).copied().unwrap_or(0.0);
        floor + (1.0 - self.exploration()) * own
    }

    /// P(arm) of every arm, floor mixed in.
    #[must_use]
    pub fn probabilities(&self) -> Vec<f64> {
        let rest = 1.0 - self.exploration();
        (0..self.own.len())
            .map(|index| self.floor.get(index).copied().unwrap_or(0.0) + rest * self.own[index])
            .collect()
    }

    /// Draws one arm with one random number.
    pub fn draw(&self, rng: &mut dyn RngCore) -> Draw {
        let exploration = self.exploration();
        let mut left: f64 = rng.gen_range(0.0..1.0);
        let explored = left < exploration;
        let weights = if explored { &self.floor } else { &self.own };
        if !explored {
            left = (left - exploration) / (1.0 - exploration);
        }
        // Rounding may leave a hair after the last arm: it belongs to the last one with any weight.
        let mut index = weights.iter().rposition(|&weight| weight > 0.0).unwrap_or(0);
        for (position, &weight) in weights.iter().enumerate() {
            if left < weight {
                index = position;
                break;
            }
            left -= weight;
        }
        Draw {
            index,
            propensity: self.probability(index),
            explored,
        }
    }
}

/// Exploration floor per dollar: f(a) = min(epsilon / K, rho B / (K c(a))), so that exploring spends at most the
/// share `rho` of the budget `budget_usd` per request, whatever an arm costs. Without a budget, epsilon / K.
///
/// A uniform floor of 1 % spent 17 % of a tight budget on the dearest arm where prices span a factor of 500.
#[must_use]
pub fn floor_per_dollar(
    costs_usd: impl ExactSizeIterator<Item = f64>,
    epsilon: f64,
    rho: f64,
    budget_usd: Option<f64>,
) -> Vec<f64> {
    let arms = costs_usd.len().max(1) as f64;
    costs_usd
        .map(|cost| match budget_usd {
            Some(budget) if cost > 0.0 => (epsilon / arms).min(rho * budget / (arms * cost)),
            _ => epsilon / arms,
        })
        .collect()
}

/// Number of cells of the grid in [`probability_of_best`].
const CELLS: usize = 32;

/// Probability that each of independent normal variables with `means` and `sds` is the largest, to about 0.01;
/// exact as a pmf: it sums to 1.
///
/// P(a) = sum over cells of a common grid of \[Phi_a(right) - Phi_a(left)\] times the product over b != a of the
/// mean of Phi_b at the two ends. Arms that cannot reach the best one's lower end are left out. An arm with sd 0
/// is a point mass.
#[must_use]
pub fn probability_of_best(means: &[f64], sds: &[f64]) -> Vec<f64> {
    let mut best = vec![0.0; means.len()];
    let reach = |sign: f64| {
        means
            .iter()
            .zip(sds)
            .map(|(mean, sd)| mean + sign * 4.0 * sd)
            .fold(f64::NEG_INFINITY, f64::max)
    };
    let (low, high) = (reach(-1.0), reach(1.0));
    let contenders: Vec<usize> = (0..means.len())
        .filter(|&arm| means[arm] + 4.0 * sds[arm] >= low)
        .collect();
    if let [only] = contenders[..] {
        best[only] = 1.0;
        return best;
    }
    let width = ((high - low) / CELLS as f64).max(1e-12);
    let mut left: Vec<f64> = contenders
        .iter()
        .map(|&arm| normal_cdf_at(low, means[arm], sds[arm]))
        .collect();
    // Mass below the grid belongs to nobody: the best arm's own lower end is its start.
    let mut right = left.clone();
    for cell in 1..=CELLS {
        let edge = low + width * cell as f64;
        for (slot, &arm) in right.iter_mut().zip(&contenders) {
            *slot = normal_cdf_at(edge, means[arm], sds[arm]);
        }
        for (own, &arm) in contenders.iter().enumerate() {
            let mass = right[own] - left[own];
            if mass <= 0.0 {
                continue;
            }
            let others: f64 = (0..contenders.len())
                .filter(|&other| other != own)
                .map(|other| 0.5 * (left[other] + right[other]))
                .product();
            best[arm] += mass * others;
        }
        std::mem::swap(&mut left, &mut right);
    }
    let sum: f64 = best.iter().sum();
    if sum > 0.0 {
        best.iter_mut().for_each(|share| *share /= sum);
    } else if let Some(top) = argmax(means) {
        best[top] = 1.0;
    }
    best
}

/// Index of the largest number; the first of equals. `None` if there is none.
#[must_use]
pub fn argmax(numbers: &[f64]) -> Option<usize> {
    let mut top = None;
    for (index, &number) in numbers.iter().enumerate() {
        if top.is_none_or(|best: usize| number > numbers[best]) {
            top = Some(index);
        }
    }
    top
}

fn normal_cdf_at(point: f64, mean: f64, sd: f64) -> f64 {
    if sd <= 0.0 {
        return if point >= mean { 1.0 } else { 0.0 };
    }
    normal_cdf((point - mean) / sd)
}

/// Standard normal distribution function, to 1e-7: Abramowitz and Stegun (1964), 26.2.17.
#[must_use]
pub fn normal_cdf(z: f64) -> f64 {
    let t = 1.0 / (1.0 + 0.231_641_9 * z.abs());
    let poly = t
        * (0.319_381_530
            + t * (-0.356_563_782 + t * (1.781_477_937 + t * (-1.821_255_978 + t * 1.330_274_429))));
    let tail = 0.398_942_280_401_432_7 * (-0.5 * z * z).exp() * poly;
    if z >= 0.0 { 1.0 - tail } else { tail }
}

/// The z with `normal_cdf(z) = probability`, for a probability in (0, 1); by bisection, to 1e-9.
#[must_use]
pub fn normal_quantile(probability: f64) -> f64 {
    let (mut low, mut high) = (-9.0, 9.0);
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        if normal_cdf(middle) < probability {
            low = middle;
        } else {
            high = middle;
        }
    }
    0.5 * (low + high)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    #[test]
    fn the_normal_distribution_matches_the_tables() {
        assert!((normal_cdf(0.0) - 0.5).abs() < 1e-7);
        assert!((normal_cdf(1.96) - 0.975_002_1).abs() < 1e-6);
        assert!((normal_quantile(0.9) - 1.281_551_6).abs() < 1e-5);
    }

    #[test]
    fn two_normals_race_as_the_closed_form_says() {
        // P(X > Y) = Phi((0.5 - 0.4) / sqrt(0.1^2 + 0.05^2)) = Phi(0.894427) = 0.81445.
        let best = probability_of_best(&[0.5, 0.4], &[0.1, 0.05]);
        assert!((best[0] - 0.814_45).abs() < 0.01, "{best:?}");
    }

    #[test]
    fn certainty_goes_to_the_larger_mean() {
        assert_eq!(probability_of_best(&[0.5, 0.7], &[0.0, 0.0]), [0.0, 1.0]);
    }

    #[test]
    fn exploration_spends_at_most_its_share_of_the_budget() {
        let costs = [2.9e-5, 5.3e-4, 1.5e-2];
        let floor = floor_per_dollar(costs.into_iter(), 0.02, 0.02, Some(2.3e-4));
        let spent: f64 = floor.iter().zip(costs).map(|(share, cost)| share * cost).sum();
        assert!(spent <= 0.02 * 2.3e-4 + 1e-12, "{spent}");
        assert!(floor.iter().all(|&share| share > 0.0));
    }

    #[test]
    fn draws_follow_the_probabilities() {
        let pmf = Pmf::from_weights(vec![3.0, 0.0, 1.0]).with_floor(vec![0.0, 0.1, 0.0]);
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let mut counts = [0_u32; 3];
        for _ in 0..20_000 {
            let draw = pmf.draw(&mut rng);
            assert_eq!(draw.explored, draw.index == 1);
            counts[draw.index] += 1;
        }
        // 0.675, 0.1, 0.225; a share's standard error is at most 0.0033, and 4.5 of them fail once in 150,000.
        for (count, expected) in counts.iter().zip([0.675, 0.1, 0.225]) {
            assert!(
                (f64::from(*count) / 20_000.0 - expected).abs() < 0.015,
                "{counts:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn a_pmf_sums_to_one_and_keeps_its_floor(
            weights in prop::collection::vec(-1.0..5.0_f64, 1..20),
            floor in prop::collection::vec(0.0..0.02_f64, 20),
        ) {
            let floor = floor[..weights.len()].to_vec();
            let pmf = Pmf::from_weights(weights).with_floor(floor.clone());
            let all = pmf.probabilities();
            prop_assert!((all.iter().sum::<f64>() - 1.0).abs() < 1e-9);
            for (probability, least) in all.iter().zip(floor) {
                prop_assert!(*probability >= least);
            }
        }

        #[test]
        fn the_race_is_a_pmf(
            arms in prop::collection::vec((-1.0..1.0_f64, 0.0..0.3_f64), 1..20),
        ) {
            let (means, sds): (Vec<f64>, Vec<f64>) = arms.into_iter().unzip();
            let best = probability_of_best(&means, &sds);
            prop_assert!((best.iter().sum::<f64>() - 1.0).abs() < 1e-9);
            prop_assert!(best.iter().all(|share| *share >= 0.0));
        }
    }
}
