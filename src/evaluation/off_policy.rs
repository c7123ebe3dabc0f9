//! What another policy would have scored, from decisions logged with their propensities.

use serde::{Deserialize, Serialize};

use super::sequence::{ConfidenceSequence, Interval};

/// Effective samples below which an estimate is shown but no verdict is given.
pub const MIN_ESS: f64 = 100.0;
/// Default upper limit of an importance weight.
pub const DEFAULT_CLIP: f64 = 50.0;
/// Share of the evaluated policy above which what the log cannot support makes IPS and SNIPS too wrong to be read.
pub const MAX_UNSUPPORTED: f64 = 0.01;

/// One logged decision as seen by the policy under evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoggedDecision {
    /// Probability in (0, 1] with which the logging policy chose the arm that it chose.
    pub propensity: f64,
    /// Probability in [0, 1] with which the evaluated policy would have chosen that arm.
    pub target: f64,
    /// What was observed: a score in [0, 1], or a cost.
    pub reward: f64,
    /// A model's prediction of the reward of the chosen arm, made without this reward.
    pub predicted: f64,
    /// The same model's prediction averaged over the evaluated policy's arms: `Σ_a π_e(a|x) q̂(x, a)`.
    pub predicted_target: f64,
    /// What the log cannot support of the evaluated policy here: see [`unsupported`].
    pub unsupported: f64,
}

/// Share of the evaluated policy that no weight up to `clip` can stand for, over all arms of one decision:
/// `Σ_a (π_e(a|x) - clip p(a|x))₊`, from pairs of (π_e, p). An arm that the log never draws counts in full, one that it draws
/// hardly ever by what its cut weight leaves out. Unlike what the drawn arms' weights show, this is known though no such arm
/// was ever drawn.
///
/// Sachdeva, Su and Joachims, *Off-policy bandits with deficient support*, KDD 2020: that mass is a bias of IPS whatever the
/// size of the log, for what it would have earned counts as 0.
#[must_use]
pub fn unsupported(shares: impl Iterator<Item = (f64, f64)>, clip: f64) -> f64 {
    shares
        .map(|(target, logged)| (target - clip * logged).max(0.0))
        .sum()
}

/// What is estimated, and how a prediction of it errs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reward {
    /// Rewards lie in `[0, range]`.
    range: f64,
    /// By a factor, or by a difference.
    by_factor: bool,
}

impl Reward {
    /// A score in [0, 1], whose prediction is so much too high or too low.
    pub const SCORE: Self = Self {
        range: 1.0,
        by_factor: false,
    };

    /// Dollars, `dearest` at most, whose prediction is so many times too high or too low.
    #[must_use]
    pub const fn cost(dearest: f64) -> Self {
        Self {
            range: dearest,
            by_factor: true,
        }
    }

    /// The most that a mean can be, whatever is still to come: no score is above 1, but a call may cost more than any before.
    const fn most(self) -> f64 {
        if self.by_factor { f64::INFINITY } else { self.range }
    }
}

/// An off-policy estimate in three forms.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct OffPolicyEstimate {
    /// Decisions used.
    pub decisions: u64,
    /// Inverse propensity score: `mean(w r)`. Unbiased without clipping where the log supports the policy, but the widest:
    /// shown for completeness.
    pub ips: Interval,
    /// Self-normalised: `Σ w r / Σ w`. Of the supported share alone.
    pub snips: Interval,
    /// Doubly robust: `mean(Σ_a π_e q̂_a + w (r - q̂))` of scores, `mean(Σ_a π_e q̂_a) · Σ w r / Σ w q̂` of costs. The one
    /// to read.
    pub dr: Interval,
    /// Effective samples `(Σ w)² / Σ w²`.
    pub ess: f64,
    /// Share of decisions whose weight was clipped.
    pub clipped: f64,
    /// Upper bound of what clipping can have moved the IPS and, of scores, the DR estimate: `mean((w - clip)₊)` times the
    /// range of the reward.
    pub bias_bound: f64,
    /// Mean share of the policy that the log cannot support: see [`unsupported`]. DR goes by predictions alone there.
    pub unsupported: f64,
    /// Whether that is at most [`MAX_UNSUPPORTED`]. If not, `ips` and `snips` are biased by more than their intervals tell.
    pub supported: bool,
    /// Whether `ess` is at least [`MIN_ESS`]. If not, the log says too little about this policy.
    pub enough: bool,
}

/// Why there is no estimate.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum OffPolicyError {
    /// Nothing logged.
    #[error("no logged decision with a score; send traffic and feedback first")]
    Empty,
    /// A propensity that cannot be.
    #[error(
        "decision {index} has propensity {propensity}; it must lie in (0, 1], so this row must be left out"
    )]
    Propensity {
        /// Which row.
        index: usize,
        /// What it says.
        propensity: f64,
    },
    /// A weight limit that cannot be.
    #[error("the weight limit is {clip}; it must be at least 1")]
    Clip {
        /// What was given.
        clip: f64,
    },
}

/// Estimates the mean reward of a policy from decisions of another one. `sequence` gives the intervals, which hold at
/// every length of the log: the rows are martingale differences whatever the logging policy learned on the way, and ratios
/// are means of such to first order.
///
/// IPS: Horvitz and Thompson 1952; SNIPS: Swaminathan and Joachims, NIPS 2015; DR: Dudík, Langford and Li, *Doubly
/// robust policy evaluation and learning*, ICML 2011, of costs as a ratio (see [`doubly_robust`]). Weights are cut at `clip`
/// (1 or more).
///
/// # Errors
/// If there are no rows, a propensity is outside (0, 1], or `clip` is below 1.
pub fn estimate(
    rows: &[LoggedDecision],
    clip: f64,
    reward: Reward,
    sequence: &ConfidenceSequence,
) -> Result<OffPolicyEstimate, OffPolicyError> {
    if rows.is_empty() {
        return Err(OffPolicyError::Empty);
    }
    if clip.is_nan() || clip < 1.0 {
        return Err(OffPolicyError::Clip { clip });
    }
    if let Some((index, row)) = rows
        .iter()
        .enumerate()
        .find(|(_, row)| !(row.propensity > 0.0 && row.propensity <= 1.0))
    {
        return Err(OffPolicyError::Propensity {
            index,
            propensity: row.propensity,
        });
    }
    let n = rows.len() as f64;
    let weights: Vec<f64> = rows
        .iter()
        .map(|row| (row.target / row.propensity).min(clip))
        .collect();
    let sum: f64 = weights.iter().sum();
    let squares: f64 = weights.iter().map(|w| w * w).sum();
    let over: f64 = rows
        .iter()
        .map(|row| (row.target / row.propensity - clip).max(0.0))
        .sum();
    let clipped = rows
        .iter()
        .filter(|row| row.target / row.propensity > clip)
        .count();

    let ips = spread(rows.iter().zip(&weights).map(|(row, w)| w * row.reward), sequence);
    // A mean lies where what it is of does. What is cut off an interval holds the truth never, so it errs no more often.
    let dr = doubly_robust(rows.iter(), clip, reward)
        .interval(sequence)
        .clamp(0.0, reward.most());
    let snips = if sum > 0.0 {
        let value = rows
            .iter()
            .zip(&weights)
            .map(|(row, w)| w * row.reward)
            .sum::<f64>()
            / sum;
        // Linearised about the value: influence n·w(r - value)/Σw.
        let around = spread(
            rows.iter()
                .zip(&weights)
                .map(|(row, w)| n * w * (row.reward - value) / sum),
            sequence,
        );
        Interval::around(value, around.half_width()).clamp(0.0, reward.most())
    } else {
        Interval {
            estimate: f64::NAN,
            low: f64::NEG_INFINITY,
            high: f64::INFINITY,
        }
    };
    let unsupported = rows.iter().map(|row| row.unsupported).sum::<f64>() / n;
    let ess = if squares > 0.0 { sum * sum / squares } else { 0.0 };
    Ok(OffPolicyEstimate {
        decisions: rows.len() as u64,
        ips,
        snips,
        dr,
        ess,
        clipped: clipped as f64 / n,
        bias_bound: over / n * reward.range,
        unsupported,
        supported: unsupported <= MAX_UNSUPPORTED,
        enough: ess >= MIN_ESS,
    })
}

/// A doubly robust estimate, with a value for each row whose spread is its error.
#[derive(Clone, Debug)]
pub struct Robust {
    mean: f64,
    values: Vec<f64>,
}

impl Robust {
    fn interval(&self, sequence: &ConfidenceSequence) -> Interval {
        let around = spread(self.values.iter().copied(), sequence);
        Interval::around(self.mean, around.half_width())
    }

    /// What it is above `other`, an estimate on the same rows: what both have in common falls out.
    #[must_use]
    pub fn above(&self, other: &Self, sequence: &ConfidenceSequence) -> Interval {
        let both = self.values.iter().zip(&other.values);
        Self {
            mean: self.mean - other.mean,
            values: both.map(|(own, other)| own - other).collect(),
        }
        .interval(sequence)
    }
}

/// The doubly robust estimate of `rows`, weights cut at `clip`. With `B = mean(Σ_a π_e q̂_a)`:
///
/// - scores: `B + mean(w (r - q̂))`, the mean of rows that are martingale differences about the truth;
/// - costs: `B · R`, `R = Σ w r / Σ w q̂`: the ratio estimator (Cochran, *Sampling techniques*, 1977, chapter 6).
///
/// Both are right where the weights or the predictions are. In the first form what a prediction is off by counts once in
/// B and the mean weight's times in the correction, which is 1 in the long run only: one rare draw with a weight of 50,
/// of a model whose cost was expected at four times what it was, made a mean cost of 200 decisions negative. A ratio of
/// what is above 0 is above 0. What its rows are worth is linearised, each by what R would change without it (the
/// jackknife): else few heavy rows would seem surer than they are.
#[must_use]
pub fn doubly_robust<'a>(
    rows: impl Iterator<Item = &'a LoggedDecision> + Clone,
    clip: f64,
    reward: Reward,
) -> Robust {
    let weight = |row: &LoggedDecision| (row.target / row.propensity).min(clip);
    let (mut n, mut base, mut got, mut expected) = (0.0, 0.0, 0.0, 0.0);
    for row in rows.clone() {
        let weight = weight(row);
        n += 1.0;
        base += row.predicted_target;
        got += weight * row.reward;
        expected += weight * row.predicted;
    }
    let base = base / n;
    if reward.by_factor && expected > 0.0 {
        let factor = got / expected;
        let value = |row: &LoggedDecision| {
            let own = weight(row);
            let others = (expected - own * row.predicted).max(1e-9 * expected);
            let change = own * (row.reward - factor * row.predicted) / others;
            factor * row.predicted_target + base * n * change
        };
        Robust {
            mean: base * factor,
            values: rows.map(value).collect(),
        }
    } else {
        let value = |row: &LoggedDecision| row.predicted_target + weight(row) * (row.reward - row.predicted);
        Robust {
            mean: base + (got - expected) / n,
            values: rows.map(value).collect(),
        }
    }
}

/// Mean reward of the logging policy itself, with the model's prediction as a control variate: [`doubly_robust`] with
/// weights of 1, within what a mean reward can be. The second of each pair is `Σ_a p(a|x) q̂_a`.
#[must_use]
pub fn logged_value(
    rows: &[(LoggedDecision, f64)],
    reward: Reward,
    sequence: &ConfidenceSequence,
) -> Interval {
    logged(rows, reward).interval(sequence).clamp(0.0, reward.most())
}

fn logged(rows: &[(LoggedDecision, f64)], reward: Reward) -> Robust {
    let own: Vec<LoggedDecision> = rows
        .iter()
        .map(|(row, logged)| LoggedDecision {
            target: row.propensity,
            predicted_target: *logged,
            ..*row
        })
        .collect();
    doubly_robust(own.iter(), 1.0, reward)
}

/// How a policy compares with the one that made the log.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Contrast {
    /// Mean reward of the evaluated policy less that of the logging policy.
    pub gain: Interval,
    /// Effective decisions in which the two differ, `(Σ (w-1)²)² / Σ (w-1)⁴`: what the difference rests on.
    pub differing: f64,
    /// Whether `differing` is at least [`MIN_ESS`], so that `gain` is the interval of the paired difference.
    pub paired: bool,
}

/// Doubly robust mean reward of the evaluated policy less that of the logging policy, row by row, so that what both
/// share cancels. Exactly 0 where both are the same.
///
/// Two policies that hardly differ do so in rare rows only, and a handful of rows has no normal mean: below
/// [`MIN_ESS`] differing decisions the interval is that of two separate estimates, which is wider and safe.
#[must_use]
pub fn contrast(
    rows: &[(LoggedDecision, f64)],
    clip: f64,
    reward: Reward,
    sequence: &ConfidenceSequence,
) -> Contrast {
    let weight = |row: &LoggedDecision| (row.target / row.propensity).min(clip);
    let (squares, fourths) = rows.iter().fold((0.0, 0.0), |(squares, fourths), (row, _)| {
        let square = (weight(row) - 1.0).powi(2);
        (squares + square, fourths + square * square)
    });
    let differing = if fourths > 0.0 {
        squares * squares / fourths
    } else {
        0.0
    };
    let own = doubly_robust(rows.iter().map(|(row, _)| row), clip, reward);
    let log = logged(rows, reward);
    let paired = own.above(&log, sequence);
    let enough = differing >= MIN_ESS;
    let gain = if enough {
        paired
    } else {
        let width = own.interval(sequence).half_width() + log.interval(sequence).half_width();
        Interval::around(paired.estimate, width)
    };
    Contrast {
        gain: gain.clamp(-reward.most(), reward.most()),
        differing,
        paired: enough,
    }
}

/// Mean and time-uniform interval of independent (or martingale-difference) values.
fn spread(values: impl Iterator<Item = f64> + Clone, sequence: &ConfidenceSequence) -> Interval {
    let (n, sum) = values
        .clone()
        .fold((0.0, 0.0), |(n, sum), value| (n + 1.0, sum + value));
    let mean = sum / n;
    let squares: f64 = values.map(|value| (value - mean).powi(2)).sum();
    let variance = if n > 1.0 {
        squares / (n - 1.0)
    } else {
        f64::INFINITY
    };
    sequence.interval(mean, n, variance)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(
        propensity: f64,
        target: f64,
        reward: f64,
        predicted: f64,
        predicted_target: f64,
    ) -> LoggedDecision {
        LoggedDecision {
            propensity,
            target,
            reward,
            predicted,
            predicted_target,
            unsupported: 0.0,
        }
    }

    /// Of few scores, all high but one, the plain interval of the log's own mean ends above 1, and of few low ones below 0.
    #[test]
    fn no_interval_of_a_mean_score_leaves_what_a_score_can_be() {
        let sequence = ConfidenceSequence::new(0.05, 100).unwrap();
        let one_apart = |usual: f64, other: f64| -> Vec<(LoggedDecision, f64)> {
            (0..40)
                .map(|i| {
                    let reward = if i == 1 { other } else { usual };
                    (row(0.5, f64::from(i % 2), reward, usual, usual), usual)
                })
                .collect()
        };
        for pairs in [one_apart(1.0, 0.0), one_apart(0.0, 1.0)] {
            let rows: Vec<LoggedDecision> = pairs.iter().map(|(row, _)| *row).collect();
            let found = estimate(&rows, 50.0, Reward::SCORE, &sequence).unwrap();
            let log = logged_value(&pairs, Reward::SCORE, &sequence);
            let plain = logged(&pairs, Reward::SCORE).interval(&sequence);
            assert!(plain.high > 1.0 || plain.low < 0.0, "{plain:?}");
            for interval in [log, found.dr, found.snips] {
                assert!(
                    0.0 <= interval.low && interval.low < interval.high,
                    "{interval:?}"
                );
                assert!(interval.high <= 1.0, "{interval:?}");
            }
            assert!((log.low - plain.low.max(0.0)).abs() < 1e-12);
            assert!((log.high - plain.high.min(1.0)).abs() < 1e-12);
            // The dearest call so far is no bound of the mean cost.
            let cost = logged_value(&pairs, Reward::cost(1.0), &sequence);
            assert!(
                cost.low >= 0.0 && cost.high > plain.high.min(1.0) - 1e-12,
                "{cost:?}"
            );
        }
    }

    #[test]
    fn a_worked_example() {
        // Weights 2, 0, 1: IPS (2·1 + 0 + 1·.5)/3 = .8333; SNIPS 2.5/3 = .8333; ESS 9/5 = 1.8.
        // DR: .7 + 2(1 - .6) = 1.5; .4 + 0 = .4; .5 + (.5 - .6) = .4; mean .76667.
        let rows = [
            row(0.5, 1.0, 1.0, 0.6, 0.7),
            row(0.5, 0.0, 1.0, 0.5, 0.4),
            row(0.4, 0.4, 0.5, 0.6, 0.5),
        ];
        let sequence = ConfidenceSequence::new(0.05, 100).unwrap();
        let found = estimate(&rows, 50.0, Reward::SCORE, &sequence).unwrap();
        assert!((found.ips.estimate - 2.5 / 3.0).abs() < 1e-12);
        assert!((found.snips.estimate - 2.5 / 3.0).abs() < 1e-12);
        assert!((found.dr.estimate - 2.3 / 3.0).abs() < 1e-12);
        assert!((found.ess - 1.8).abs() < 1e-12);
        assert!(!found.enough && found.clipped == 0.0 && found.bias_bound == 0.0);
        // Against a log of its own value .6, .5, .5: log (.6 + .4 + .5 + .5 + .5 - .1)/3 = .8; gain: (.1 + .4) +
        // (-.1 - .5) + (0 + 0) = -.1, over 3.
        let pairs = [(rows[0], 0.6), (rows[1], 0.5), (rows[2], 0.5)];
        assert!((logged_value(&pairs, Reward::SCORE, &sequence).estimate - 0.8).abs() < 1e-12);
        // w - 1 is 1, -1 and 0: two decisions differ, too few for a paired interval.
        let against = contrast(&pairs, 50.0, Reward::SCORE, &sequence);
        assert!((against.gain.estimate + 0.1 / 3.0).abs() < 1e-12);
        assert!((against.differing - 2.0).abs() < 1e-12 && !against.paired);
        // Cut at 1.5: one weight of three loses .5.
        let cut = estimate(&rows, 1.5, Reward::SCORE, &sequence).unwrap();
        assert!((cut.bias_bound - 0.5 / 3.0).abs() < 1e-12 && (cut.clipped - 1.0 / 3.0).abs() < 1e-12);
    }

    /// Every call costs 1 and was predicted to cost 3; the weights are 2 in the mean. By differences the estimate is
    /// 3 + 2 (1 - 3) = -1, which no mean cost can be.
    #[test]
    fn a_factor_cancels_in_costs_whatever_the_weights_are() {
        let sequence = ConfidenceSequence::new(0.05, 100).unwrap();
        let rows: Vec<LoggedDecision> = (0..200)
            .map(|i| row(0.25, [0.25, 0.75][i % 2], 1.0, 3.0, 3.0))
            .collect();
        let by_difference = estimate(&rows, 50.0, Reward::SCORE, &sequence).unwrap().dr;
        assert_eq!((by_difference.estimate, by_difference.low), (0.0, 0.0), "cut off");
        let found = estimate(&rows, 50.0, Reward::cost(1.0), &sequence).unwrap();
        assert!((found.dr.estimate - 1.0).abs() < 1e-12, "{found:?}");
        let pairs: Vec<(LoggedDecision, f64)> = rows.iter().map(|row| (*row, 3.0)).collect();
        let log = logged_value(&pairs, Reward::cost(1.0), &sequence);
        assert!((log.estimate - 1.0).abs() < 1e-12);
        let against = contrast(&pairs, 50.0, Reward::cost(1.0), &sequence);
        assert!(against.gain.estimate.abs() < 1e-12, "{against:?}");
    }

    /// 200 calls at .001 as expected, half of which the policy would have made too, and one at .003 that was expected at
    /// .012 and drawn with a probability of .02. By differences: (201 · .001 + 50 (.003 - .012)) / 201 = -.00124.
    #[test]
    fn one_rare_draw_makes_no_mean_cost_negative() {
        let sequence = ConfidenceSequence::new(0.05, 100).unwrap();
        let mut rows: Vec<LoggedDecision> = (0..200)
            .map(|i| row(0.5, [0.5, 0.0][i % 2], 0.001, 0.001, 0.001))
            .collect();
        rows.push(row(0.02, 1.0, 0.003, 0.012, 0.001));
        // The factor: (100 · .001 + 50 · .003) / (100 · .001 + 50 · .012) = .25 / .7.
        let found = estimate(&rows, 50.0, Reward::cost(0.003), &sequence).unwrap().dr;
        assert!((found.estimate - 0.001 * 0.25 / 0.7).abs() < 1e-12, "{found:?}");
        // Without that row it is 1: the interval knows.
        assert!(found.high > 0.001, "{found:?}");
    }

    /// 20 rows of the plain ratio: R = 1.5, B = 2. The jackknife's value of a row of weight 1, reward 1 and prediction 1:
    /// 1.5 · 2 + 2 · 20 · (1 - 1.5) / 19.
    #[test]
    fn a_row_is_worth_what_the_ratio_changes_without_it() {
        let rows: Vec<LoggedDecision> = (0..20)
            .map(|i| row(0.5, 0.5, [1.0, 2.0][i % 2], 1.0, 2.0))
            .collect();
        let found = doubly_robust(rows.iter(), 50.0, Reward::cost(2.0));
        assert!((found.mean - 3.0).abs() < 1e-12);
        assert!(
            (found.values[0] - (3.0 - 20.0 / 19.0)).abs() < 1e-12,
            "{:?}",
            found.values
        );
        assert!((found.values[1] - (3.0 + 20.0 / 19.0)).abs() < 1e-12);
    }

    /// Three arms, drawn with .9, .1 and never, are asked for evenly. Weights of at most 50 support the first two; with weights of
    /// at most 2 the second lacks .3333 - .2.
    #[test]
    fn what_the_log_never_draws_cannot_be_weighted() {
        let shares = || [0.9, 0.1, 0.0].into_iter().map(|logged| (1.0 / 3.0, logged));
        assert!((unsupported(shares(), 50.0) - 1.0 / 3.0).abs() < 1e-12);
        assert!((unsupported(shares(), 2.0) - (1.0 / 3.0 + 0.4 / 3.0)).abs() < 1e-12);
        // Every arm scores .9, and is predicted to. 90 draws of the first, 10 of the second: IPS (90 · .37037 + 10 · 3.3333)
        // · .9 / 100 = .6, a third short of the truth; DR is .9.
        let sequence = ConfidenceSequence::new(0.05, 100).unwrap();
        let drawn = |propensity: f64| LoggedDecision {
            unsupported: unsupported(shares(), 50.0),
            ..row(propensity, 1.0 / 3.0, 0.9, 0.9, 0.9)
        };
        let rows: Vec<_> = (0..100)
            .map(|i| drawn(if i % 10 == 0 { 0.1 } else { 0.9 }))
            .collect();
        let found = estimate(&rows, 50.0, Reward::SCORE, &sequence).unwrap();
        assert!((found.ips.estimate - 0.6).abs() < 1e-12 && (found.dr.estimate - 0.9).abs() < 1e-12);
        assert!((found.unsupported - 1.0 / 3.0).abs() < 1e-12 && !found.supported);
        // Two rows in three hundred that lack .9 and .6 are .005 of all: little enough.
        let mut few = vec![row(0.5, 0.5, 1.0, 1.0, 1.0); 298];
        few.extend([0.9, 0.6].map(|unsupported| LoggedDecision {
            unsupported,
            ..few[0]
        }));
        let found = estimate(&few, 50.0, Reward::SCORE, &sequence).unwrap();
        assert!((found.unsupported - 0.005).abs() < 1e-12 && found.supported);
    }

    #[test]
    fn refuses_what_cannot_be_weighted() {
        let sequence = ConfidenceSequence::new(0.05, 100).unwrap();
        assert_eq!(
            estimate(&[], 50.0, Reward::SCORE, &sequence),
            Err(OffPolicyError::Empty)
        );
        let bad = [row(0.0, 1.0, 1.0, 0.0, 0.0)];
        assert!(matches!(
            estimate(&bad, 50.0, Reward::SCORE, &sequence),
            Err(OffPolicyError::Propensity { index: 0, .. })
        ));
        let good = [row(0.5, 1.0, 1.0, 0.0, 0.0)];
        assert!(matches!(
            estimate(&good, 0.5, Reward::SCORE, &sequence),
            Err(OffPolicyError::Clip { .. })
        ));
    }

    #[test]
    fn a_policy_that_the_log_never_tried_is_refused() {
        let sequence = ConfidenceSequence::new(0.05, 100).unwrap();
        let rows = vec![row(0.9, 0.0, 1.0, 0.5, 0.5); 1000];
        let found = estimate(&rows, 50.0, Reward::SCORE, &sequence).unwrap();
        assert!(found.snips.estimate.is_nan() && found.ess == 0.0 && !found.enough);
    }
}
