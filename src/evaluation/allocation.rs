//! How to split traffic between arms so that the comparison ends soonest, with a floor for each.

/// Neyman's split of two or more arms: shares proportional to the standard deviations, which minimises the
/// variance of a difference of means (Neyman, *On the two different aspects of the representative method*, JRSS
/// 1934). Each arm keeps at least `floor` (cut to 1/K). Equal shares if no deviation is positive and finite.
#[must_use]
pub fn neyman(deviations: &[f64], floor: f64) -> Vec<f64> {
    let usable = |deviation: &f64| {
        if deviation.is_finite() {
            deviation.max(0.0)
        } else {
            0.0
        }
    };
    let sum: f64 = deviations.iter().map(usable).sum();
    let k = deviations.len() as f64;
    let shares = deviations
        .iter()
        .map(|deviation| {
            if sum > 0.0 {
                usable(deviation) / sum
            } else {
                1.0 / k
            }
        })
        .collect();
    with_floor(shares, floor)
}

/// The split under which the best of K normal arms is told from the others soonest: the weights of Garivier and
/// Kaufmann, *Optimal best arm identification with fixed confidence*, COLT 2016. It minimises the largest
/// `(σ_i²/w_i + σ_L²/w_L) / gap_i²` over the challengers i of the leader L.
///
/// For a given leader's share and level t every challenger's share is `σ_i² / (t·gap_i² - σ_L²/w_L)`; t follows
/// by bisection (shares sum to 1) and the leader's share by golden section, as the level is convex in it. Gaps
/// below `min_gap` count as `min_gap`, so that a tie does not take all traffic. Two arms give [`neyman`]. Each
/// arm keeps at least `floor` (cut to 1/K). Fewer than two arms, or lengths that differ: equal shares.
#[must_use]
pub fn track_and_stop(means: &[f64], variances: &[f64], min_gap: f64, floor: f64) -> Vec<f64> {
    let k = means.len();
    if k < 2 || variances.len() != k || means.iter().chain(variances).any(|value| !value.is_finite()) {
        return vec![1.0 / k.max(1) as f64; k];
    }
    let leader = (0..k).max_by(|a, b| means[*a].total_cmp(&means[*b])).unwrap_or(0);
    let min_gap = min_gap.max(1e-6);
    let challengers: Vec<(f64, f64)> = (0..k)
        .filter(|arm| *arm != leader)
        .map(|arm| {
            (
                variances[arm].max(1e-12),
                (means[leader] - means[arm]).max(min_gap).powi(2),
            )
        })
        .collect();
    let own = variances[leader].max(1e-12);
    let (mut low, mut high) = (1e-6, 1.0 - 1e-6);
    let ratio = (5f64.sqrt() - 1.0) / 2.0;
    for _ in 0..80 {
        let (a, b) = (high - ratio * (high - low), low + ratio * (high - low));
        if level(a, own, &challengers) < level(b, own, &challengers) {
            high = b;
        } else {
            low = a;
        }
    }
    let share = 0.5 * (low + high);
    let reached = level(share, own, &challengers);
    let mut others = challengers
        .iter()
        .map(|(variance, gap)| variance / (reached * gap - own / share));
    let shares = (0..k)
        .map(|arm| {
            if arm == leader {
                share
            } else {
                others.next().unwrap_or(0.0)
            }
        })
        .collect();
    with_floor(shares, floor)
}

/// The level t at which the challengers' shares and the leader's `share` sum to 1.
fn level(share: f64, own: f64, challengers: &[(f64, f64)]) -> f64 {
    let least = challengers
        .iter()
        .map(|(_, gap)| own / share / gap)
        .fold(0.0, f64::max);
    let taken = |t: f64| {
        challengers
            .iter()
            .map(|(v, gap)| v / (t * gap - own / share))
            .sum::<f64>()
    };
    let mut high = least.max(1e-300) * 2.0;
    for _ in 0..200 {
        if taken(high) <= 1.0 - share {
            break;
        }
        high *= 2.0;
    }
    let mut low = least;
    for _ in 0..80 {
        let middle = 0.5 * (low + high);
        if taken(middle) > 1.0 - share {
            low = middle;
        } else {
            high = middle;
        }
    }
    high
}

/// Scales `shares` to sum to 1 with at least `floor` (cut to 1/K) for each: arms below it are raised to it and
/// the others give in proportion.
#[must_use]
pub fn with_floor(mut shares: Vec<f64>, floor: f64) -> Vec<f64> {
    let k = shares.len();
    let floor = floor.clamp(0.0, 1.0 / k.max(1) as f64);
    let mut raised = vec![false; k];
    for _ in 0..k {
        let fixed = raised.iter().filter(|arm| **arm).count() as f64 * floor;
        let free: f64 = shares
            .iter()
            .zip(&raised)
            .filter(|(_, up)| !**up)
            .map(|(share, _)| share)
            .sum();
        let scale = if free > 0.0 { (1.0 - fixed) / free } else { 0.0 };
        let mut changed = false;
        for (share, up) in shares.iter_mut().zip(raised.iter_mut()).filter(|(_, up)| !**up) {
            *share *= scale;
            if *share < floor {
                (*share, *up, changed) = (floor, true, true);
            }
        }
        if !changed {
            break;
        }
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn neyman_follows_the_deviations() {
        let near = |shares: Vec<f64>, expected: [f64; 2]| {
            assert!(
                shares
                    .iter()
                    .zip(expected)
                    .all(|(share, e)| (share - e).abs() < 1e-12),
                "{shares:?}"
            );
        };
        near(neyman(&[0.3, 0.1], 0.0), [0.75, 0.25]);
        near(neyman(&[0.3, 0.0], 0.05), [0.95, 0.05]);
        assert_eq!(neyman(&[0.0, f64::NAN], 0.1), [0.5, 0.5]);
    }

    #[test]
    fn two_arms_are_neymans() {
        let shares = track_and_stop(&[0.8, 0.7], &[0.09, 0.01], 1e-3, 0.0);
        assert!((shares[0] - 0.75).abs() < 1e-4, "{shares:?}");
    }

    #[test]
    fn equal_challengers_give_the_leader_the_square_root_of_their_number() {
        // K - 1 = 4 equal challengers: w_L = sqrt(4) w_i, hence 2/6 and 1/6 each.
        let shares = track_and_stop(&[0.9, 0.5, 0.5, 0.5, 0.5], &[0.1; 5], 1e-3, 0.0);
        assert!((shares[0] - 1.0 / 3.0).abs() < 1e-3, "{shares:?}");
        assert!((shares[3] - 1.0 / 6.0).abs() < 1e-3, "{shares:?}");
    }

    #[test]
    fn near_rivals_get_more_than_far_ones() {
        let shares = track_and_stop(&[0.8, 0.78, 0.3], &[0.16; 3], 1e-3, 0.05);
        assert!(shares[1] > 0.4 && (shares[2] - 0.05).abs() < 1e-9, "{shares:?}");
    }

    proptest! {
        #[test]
        fn shares_sum_to_one_and_keep_their_floor(arms in proptest::collection::vec((0.0..1.0f64, 0.0..0.25f64), 2..9), floor in 0.0..0.1f64) {
            let (means, variances): (Vec<_>, Vec<_>) = arms.into_iter().unzip();
            for shares in [track_and_stop(&means, &variances, 1e-3, floor), neyman(&variances, floor)] {
                prop_assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-6, "{shares:?}");
                prop_assert!(shares.iter().all(|share| *share >= floor - 1e-12), "{shares:?}");
            }
        }

        #[test]
        fn no_other_split_of_three_arms_is_better(a in 0.0..1.0f64, b in 0.0..1.0f64, c in 0.0..1.0f64, first in 0.05..0.9f64, second in 0.05..0.9f64) {
            prop_assume!(first + second < 0.95);
            let means = [a, b, c];
            let variances = [0.2, 0.1, 0.05];
            let leader = (0..3).max_by(|i, j| means[*i].total_cmp(&means[*j])).unwrap();
            let worst = |w: &[f64]| (0..3).filter(|i| *i != leader)
                .map(|i| (variances[i] / w[i] + variances[leader] / w[leader]) / (means[leader] - means[i]).max(1e-3).powi(2))
                .fold(0.0, f64::max);
            let best = track_and_stop(&means, &variances, 1e-3, 0.0);
            prop_assert!(worst(&best) <= worst(&[first, second, 1.0 - first - second]) * 1.001);
        }
    }
}
