//! Checks that come before any result: if the traffic was not split as designed, or one arm's scores go missing
//! more often, the difference of means measures something else.

use std::ops::{AddAssign, SubAssign};

use serde::{Deserialize, Serialize};

use super::special::chi_square_tail;

/// Below this p-value a mismatch is an alarm: what a check may raise in error over all time, however often it is looked
/// at.
pub const ALARM_P: f64 = 0.01;
/// The same for a check that is looked at once.
const ALARM_ONCE_P: f64 = 0.001;
/// Variance at which [`always_valid`] is tightest: that of a hundred assignments to two even arms.
const TIGHTEST: f64 = 25.0;
/// Expected samples per arm below which a chi-square test says nothing.
pub const MIN_EXPECTED: f64 = 8.0;
/// Share of units seen in more than one arm above which assignment is broken.
pub const MAX_MULTIPLE_EXPOSURE: f64 = 0.01;

/// What a check found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// Nothing wrong.
    Passed,
    /// Something is wrong: no verdict until it is understood.
    Failed,
    /// Too little data to tell.
    TooFew,
}

/// A check with its figures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// What was found.
    pub health: Health,
    /// The test's statistic: chi-square, or the largest |z|.
    pub statistic: f64,
    /// Probability of so large a statistic if all is well, in [0, 1].
    pub p_value: f64,
}

impl Check {
    const TOO_FEW: Self = Self {
        health: Health::TooFew,
        statistic: 0.0,
        p_value: 1.0,
    };

    fn at(statistic: f64, p_value: f64, alarm: f64) -> Self {
        let health = if p_value < alarm {
            Health::Failed
        } else {
            Health::Passed
        };
        Self {
            health,
            statistic,
            p_value,
        }
    }
}

/// Sample-ratio mismatch against a fixed design: Pearson's chi-square of the counts with the designed shares
/// (Fabijan et al., *Diagnosing sample ratio mismatch in online controlled experiments*, KDD 2019). Arms with a
/// zero share must have no samples. Too few below [`MIN_EXPECTED`] expected in any arm.
#[must_use]
pub fn sample_ratio(counts: &[u64], shares: &[f64]) -> Check {
    let total: u64 = counts.iter().sum();
    let sum: f64 = shares.iter().sum();
    if counts.len() != shares.len() || counts.len() < 2 || sum <= 0.0 {
        return Check::TOO_FEW;
    }
    if counts
        .iter()
        .zip(shares)
        .any(|(count, share)| *share <= 0.0 && *count > 0)
    {
        return Check {
            health: Health::Failed,
            statistic: f64::MAX,
            p_value: 0.0,
        };
    }
    let cells: Vec<(f64, f64)> = counts
        .iter()
        .zip(shares)
        .filter(|(_, share)| **share > 0.0)
        .map(|(count, share)| (*count as f64, share / sum * total as f64))
        .collect();
    if cells.len() < 2 || cells.iter().any(|(_, expected)| *expected < MIN_EXPECTED) {
        return Check::TOO_FEW;
    }
    let statistic: f64 = cells
        .iter()
        .map(|(count, expected)| (count - expected).powi(2) / expected)
        .sum();
    let p_value = chi_square_tail(statistic, cells.len() as f64 - 1.0);
    Check::at(statistic, p_value, ALARM_ONCE_P)
}

/// One arm's count beside the sum of the probabilities with which it was chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Propensities {
    /// Times chosen.
    pub chosen: f64,
    /// Σ π over every assignment, whoever was chosen.
    pub expected: f64,
    /// Σ π(1-π) over every assignment.
    pub variance: f64,
}

impl Propensities {
    /// Records one assignment in which this arm had probability `propensity`.
    pub fn record(&mut self, chosen: bool, propensity: f64) {
        self.chosen += f64::from(u8::from(chosen));
        self.expected += propensity;
        self.variance += propensity * (1.0 - propensity);
    }
}

/// Sample-ratio mismatch against logged propensities, for a split that moves: `z_a = (n_a - Σ π_a) /
/// sqrt(Σ π_a(1-π_a))` for each arm, whose p-value holds at every sample at once; the smallest counts, Bonferroni over
/// the arms. Too few while the variance is below [`MIN_EXPECTED`] in every arm.
#[must_use]
pub fn propensity_ratio(arms: &[Propensities]) -> Check {
    let tested: Vec<(f64, f64)> = arms
        .iter()
        .filter(|arm| arm.variance >= MIN_EXPECTED)
        .map(|arm| {
            (
                (arm.chosen - arm.expected).abs() / arm.variance.sqrt(),
                arm.variance,
            )
        })
        .collect();
    let Some(largest) = tested.iter().map(|(z, _)| *z).reduce(f64::max) else {
        return Check::TOO_FEW;
    };
    Check::at(largest, smallest_of(&tested), ALARM_P)
}

/// An always-valid p-value of the standardised sum `z` of variance `variance` (Robbins' normal mixture, inverted):
/// under the null hypothesis it falls below α at any time with probability α at most.
fn always_valid(z: f64, variance: f64) -> f64 {
    let grown = variance / TIGHTEST;
    ((1.0 + grown).sqrt() * (-0.5 * z * z * grown / (1.0 + grown)).exp()).min(1.0)
}

/// The smallest p-value of the arms' (z, variance), Bonferroni over them; two arms are one test, seen from both sides.
fn smallest_of(tested: &[(f64, f64)]) -> f64 {
    let tests = if tested.len() == 2 { 1 } else { tested.len() } as f64;
    let smallest = tested.iter().map(|(z, variance)| always_valid(*z, *variance));
    (smallest.fold(1.0, f64::min) * tests).min(1.0)
}

/// How often the units of an arm hit, each with the part of its own trials: one unit, one voice, however busy it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    units: f64,
    sum: f64,
    squares: f64,
}

impl Rates {
    /// One unit with this many trials; nothing without any.
    #[must_use]
    pub fn of(hits: u64, trials: u64) -> Self {
        if trials == 0 {
            return Self::default();
        }
        let rate = hits.min(trials) as f64 / trials as f64;
        Self {
            units: 1.0,
            sum: rate,
            squares: rate * rate,
        }
    }

    /// As many units as trials, each with one of its own.
    #[must_use]
    pub fn singles(hits: u64, trials: u64) -> Self {
        let hits = hits.min(trials) as f64;
        Self {
            units: trials as f64,
            sum: hits,
            squares: hits,
        }
    }
}

impl AddAssign for Rates {
    fn add_assign(&mut self, other: Self) {
        self.units += other.units;
        self.sum += other.sum;
        self.squares += other.squares;
    }
}

impl SubAssign for Rates {
    fn sub_assign(&mut self, other: Self) {
        self.units -= other.units;
        self.sum -= other.sum;
        self.squares -= other.squares;
    }
}

/// Whether the arms' rates (scores per exposure, exposures per assignment) differ, where every trial is a unit of its
/// own: `(hits, trials)` of each arm.
#[must_use]
pub fn equal_rates(arms: &[(u64, u64)]) -> Check {
    let rates: Vec<Rates> = arms
        .iter()
        .map(|(hits, trials)| Rates::singles(*hits, *trials))
        .collect();
    equal_unit_rates(&rates)
}

/// Whether the mean rates of the arms' units differ. The statistic is `Σ_a (S_a - n_a r)² / (n_a s²)`, r and s² the mean
/// and variance of all units' rates: with one trial a unit the chi-square of the 2 × K table of hits and misses. The
/// p-value is that of each arm against all, which holds at every sample at once.
#[must_use]
pub fn equal_unit_rates(arms: &[Rates]) -> Check {
    let mut all = Rates::default();
    arms.iter().for_each(|arm| all += *arm);
    if arms.len() < 2 || all.units < 1.0 {
        return Check::TOO_FEW;
    }
    let rate = all.sum / all.units;
    let spread = all.squares / all.units - rate * rate;
    // Everybody hits alike. Sums that were taken back are not exact.
    if spread < 1e-9 {
        return Check {
            health: Health::Passed,
            statistic: 0.0,
            p_value: 1.0,
        };
    }
    let smallest = arms
        .iter()
        .map(|arm| arm.units * rate.min(1.0 - rate))
        .fold(f64::MAX, f64::min);
    if smallest < MIN_EXPECTED {
        return Check::TOO_FEW;
    }
    let off = |arm: &Rates| arm.sum - arm.units * rate;
    let statistic: f64 = arms
        .iter()
        .map(|arm| off(arm).powi(2) / (arm.units * spread))
        .sum();
    let tested: Vec<(f64, f64)> = arms
        .iter()
        .map(|arm| {
            let units = arm.units * (1.0 - arm.units / all.units);
            // The mixture is tightest at a number of units, whatever their spread: they count as if each were 0 or 1.
            let as_of_one = units * rate * (1.0 - rate);
            (off(arm).abs() / (units * spread).sqrt(), as_of_one)
        })
        .collect();
    Check::at(statistic, smallest_of(&tested), ALARM_P)
}

/// Whether too many units were seen in more than one arm: above [`MAX_MULTIPLE_EXPOSURE`] of `units`.
#[must_use]
pub fn multiple_exposure(in_several: u64, units: u64) -> Check {
    if units == 0 {
        return Check::TOO_FEW;
    }
    let share = in_several as f64 / units as f64;
    let health = if share > MAX_MULTIPLE_EXPOSURE {
        Health::Failed
    } else {
        Health::Passed
    };
    Check {
        health,
        statistic: share,
        p_value: 1.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_split_is_an_alarm() {
        // (821 - 875.5)² / 875.5 · 2 = 6.785, p = .0092: not yet; twice as many is.
        let once = sample_ratio(&[821, 930], &[0.5, 0.5]);
        assert!(
            (once.statistic - 6.785).abs() < 0.01 && (once.p_value - 0.0092).abs() < 2e-4,
            "{once:?}"
        );
        assert_eq!(once.health, Health::Passed);
        assert_eq!(sample_ratio(&[1642, 1860], &[0.5, 0.5]).health, Health::Failed);
        assert_eq!(sample_ratio(&[10, 2], &[0.5, 0.5]).health, Health::TooFew);
        assert_eq!(sample_ratio(&[10, 2], &[1.0, 0.0]).health, Health::Failed);
    }

    #[test]
    fn a_moving_split_is_judged_by_what_was_logged() {
        // 100 at .9 then 100 at .1: 100 expected of each, although no single design fits.
        let mut arm = Propensities::default();
        for i in 0..200 {
            let propensity = if i < 100 { 0.9 } else { 0.1 };
            arm.record(if i < 100 { i < 90 } else { i < 110 }, propensity);
        }
        assert!((arm.expected - 100.0).abs() < 1e-9 && (arm.variance - 18.0).abs() < 1e-9);
        assert_eq!(propensity_ratio(&[arm]).health, Health::Passed);
        // 22 more, of which each is .2357 deviations: z² = 26.89, of which 18 / (18 + 25) counts: sqrt(1.72) e^-5.628.
        let off = Propensities { chosen: 122.0, ..arm };
        let check = propensity_ratio(&[off]);
        assert!((check.statistic - 22.0 / 18f64.sqrt()).abs() < 1e-9);
        assert!((check.p_value - 0.00471).abs() < 1e-5, "{check:?}");
        assert_eq!(check.health, Health::Failed);
    }

    #[test]
    fn unequal_feedback_is_an_alarm() {
        // Pooled rate .35; (300-350)²/(350·.65)·2 = 21.98.
        let check = equal_rates(&[(300, 1000), (400, 1000)]);
        assert!((check.statistic - 21.978).abs() < 0.01, "{check:?}");
        // Variance 1000 · ½ · .35 · .65 = 113.75; sqrt(5.55) · e^(-.5 · 21.978 · 113.75 / 138.75) = 2.87e-4.
        assert!((check.p_value - 2.87e-4).abs() < 2e-6, "{check:?}");
        assert_eq!(check.health, Health::Failed);
        assert_eq!(equal_rates(&[(300, 1000), (310, 1000)]).health, Health::Passed);
        assert_eq!(equal_rates(&[(3, 10), (4, 10)]).health, Health::TooFew);
        assert_eq!(equal_rates(&[(10, 10), (10, 10)]).health, Health::Passed);
    }

    #[test]
    fn a_units_rate_counts_once_however_busy_it_is() {
        let arm = |rates: [u64; 2], trials: u64| {
            let mut arm = Rates::default();
            for unit in 0..100 {
                arm += Rates::of(rates[unit % 2] * trials, 10 * trials);
            }
            arm
        };
        // Rates of .2 and .6 against .3 and .7: mean .45, variance (.0625 + .0225 · 2 + .0625) / 4 = .0425; each arm is 5 off,
        // 25 / (100 · .0425) · 2 = 11.76.
        let check = equal_unit_rates(&[arm([2, 6], 1), arm([3, 7], 1)]);
        assert!((check.statistic - 11.765).abs() < 0.001, "{check:?}");
        // Time 50 · .45 · .55 = 12.375: sqrt(1.495) · e^(-.5 · 11.765 · .495 / 1.495) = .1743.
        assert!((check.p_value - 0.1743).abs() < 1e-4, "{check:?}");
        let busy = equal_unit_rates(&[arm([2, 6], 1), arm([3, 7], 1_000)]);
        assert!((busy.p_value - check.p_value).abs() < 1e-9, "{busy:?}");
        // Taken back, nothing is left of a unit.
        let (mut once, mut more) = (arm([2, 6], 1), arm([2, 6], 1));
        once += Rates::of(3, 4);
        more += Rates::of(2, 3);
        more -= Rates::of(2, 3);
        more += Rates::of(3, 4);
        assert!((once.sum - more.sum).abs() < 1e-9 && (once.squares - more.squares).abs() < 1e-9);
        assert_eq!(Rates::of(0, 0), Rates::default());
    }

    #[test]
    fn one_unit_in_two_arms_is_tolerated_many_are_not() {
        assert_eq!(multiple_exposure(1, 100).health, Health::Passed);
        assert_eq!(multiple_exposure(2, 100).health, Health::Failed);
        assert_eq!(multiple_exposure(0, 0).health, Health::TooFew);
    }
}
