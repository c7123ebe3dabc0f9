//! What another policy would have scored, from decisions logged with their propensities.

use serde::{Deserialize, Serialize};

use super::sequence::{ConfidenceSequence, Interval};

/// Effective samples below which an estimate is shown but no verdict is given.
pub const MIN_ESS: f64 = 100.0;
/// Default upper limit of an importance weight.
pub const DEFAULT_CLIP: f64 = 50.0;

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
}

/// An off-policy estimate in three forms.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct OffPolicyEstimate {
    /// Decisions used.
    pub decisions: u64,
    /// Inverse propensity score: `mean(w r)`. Unbiased without clipping, but the widest: shown for completeness.
    pub ips: Interval,
    /// Self-normalised: `Σ w r / Σ w`.
    pub snips: Interval,
    /// Doubly robust, self-normalised: `mean(Σ_a π_e q̂_a) + Σ w (r - q̂) / Σ w`, cut at 0. The one to read.
    pub dr: Interval,
    /// Effective samples `(Σ w)² / Σ w²`.
    pub ess: f64,
    /// Share of decisions whose weight was clipped.
    pub clipped: f64,
    /// Upper bound of what clipping can have moved an estimate: the part of the weight that was cut, times how far apart
    /// what it weighs can lie.
    pub bias_bound: f64,
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

/// Estimates the mean reward of a policy from decisions of another one. Rewards lie in `[0, range]` (1 for scores).
/// `sequence` gives the intervals, which hold at every length of the log: the rows are martingale differences whatever
/// the logging policy learned on the way, and what is self-normalised is so to first order.
///
/// IPS: Horvitz and Thompson 1952; SNIPS: Swaminathan and Joachims, NIPS 2015; DR: Dudík, Langford and Li, *Doubly
/// robust policy evaluation and learning*, ICML 2011, with the weights normalised as in Thomas and Brunskill,
/// *Data-efficient off-policy policy evaluation for reinforcement learning*, ICML 2016. Without that a prediction that
/// is off by a constant does not cancel: its share in the first term is 1, in the second the mean weight, which is 1 in
/// the long run only. Costs predicted at three times what they were came out below 0 where the mean weight was above
/// 1.5. What no mean reward can be is cut off; that moves an estimate towards the truth and an interval off nothing true.
/// Weights are cut at `clip` (1 or more).
///
/// # Errors
/// If there are no rows, a propensity is outside (0, 1], or `clip` is below 1.
pub fn estimate(
    rows: &[LoggedDecision],
    clip: f64,
    range: f64,
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
    let corrections = corrections(rows.iter(), clip);
    let dr = spread(
        rows.iter()
            .zip(&corrections)
            .map(|(row, correction)| row.predicted_target + correction),
        sequence,
    )
    .clamp(0.0, f64::INFINITY);
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
        Interval::around(value, around.half_width())
    } else {
        Interval {
            estimate: f64::NAN,
            low: f64::NEG_INFINITY,
            high: f64::INFINITY,
        }
    };
    let ess = if squares > 0.0 { sum * sum / squares } else { 0.0 };
    let residuals = rows.iter().map(|row| row.reward - row.predicted);
    let apart = residuals.clone().fold(f64::MIN, f64::max) - residuals.fold(f64::MAX, f64::min);
    let whole = sum + over;
    let bias_bound = if over > 0.0 {
        over * (range / n.min(whole)).max(apart / whole)
    } else {
        0.0
    };
    Ok(OffPolicyEstimate {
        decisions: rows.len() as u64,
        ips,
        snips,
        dr,
        ess,
        clipped: clipped as f64 / n,
        bias_bound,
        enough: ess >= MIN_ESS,
    })
}

/// What the weighted residuals add to each row's prediction: `δ + n w (r - q̂ - δ) / Σ w`, of which
/// `δ = Σ w (r - q̂) / Σ w` is the mean and the rest the influence of the row. 0 where no row has weight.
fn corrections<'a>(rows: impl Iterator<Item = &'a LoggedDecision> + Clone, clip: f64) -> Vec<f64> {
    let weighed = rows.map(|row| {
        let weight = (row.target / row.propensity).min(clip);
        (weight, row.reward - row.predicted)
    });
    let (n, sum, total) = weighed
        .clone()
        .fold((0.0, 0.0, 0.0), |(n, sum, total), (weight, residual)| {
            (n + 1.0, sum + weight, total + weight * residual)
        });
    let mean = if sum > 0.0 { total / sum } else { 0.0 };
    let scale = if sum > 0.0 { n / sum } else { 0.0 };
    weighed
        .map(|(weight, residual)| mean + scale * weight * (residual - mean))
        .collect()
}

/// Mean reward of the logging policy itself, with the model's prediction as a control variate:
/// `mean(Σ_a p(a|x) q̂_a + r - q̂)`. The second of each pair is `Σ_a p(a|x) q̂_a`.
#[must_use]
pub fn logged_value(rows: &[(LoggedDecision, f64)], sequence: &ConfidenceSequence) -> Interval {
    spread(
        rows.iter()
            .map(|(row, logged)| logged + row.reward - row.predicted),
        sequence,
    )
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
/// share cancels: `mean(Σ_a (π_e - p) q̂_a) + Σ w (r - q̂) / Σ w - mean(r - q̂)`. Exactly 0 where both are the same.
///
/// Two policies that hardly differ do so in rare rows only, and a handful of rows has no normal mean: below
/// [`MIN_ESS`] differing decisions the interval is that of two separate estimates, which is wider and safe.
#[must_use]
pub fn contrast(rows: &[(LoggedDecision, f64)], clip: f64, sequence: &ConfidenceSequence) -> Contrast {
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
    let corrections = corrections(rows.iter().map(|(row, _)| row), clip);
    let corrected = rows.iter().zip(&corrections);
    let paired = spread(
        corrected.clone().map(|((row, logged), correction)| {
            row.predicted_target - logged + correction - (row.reward - row.predicted)
        }),
        sequence,
    );
    let enough = differing >= MIN_ESS;
    let gain = if enough {
        paired
    } else {
        let own = spread(
            corrected.map(|((row, _), correction)| row.predicted_target + correction),
            sequence,
        );
        let width = own.half_width() + logged_value(rows, sequence).half_width();
        Interval::around(paired.estimate, width)
    };
    Contrast {
        gain,
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
        let found = estimate(&rows, 50.0, 1.0, &sequence).unwrap();
        assert!((found.ips.estimate - 2.5 / 3.0).abs() < 1e-12);
        assert!((found.snips.estimate - 2.5 / 3.0).abs() < 1e-12);
        assert!((found.dr.estimate - 2.3 / 3.0).abs() < 1e-12);
        assert!((found.ess - 1.8).abs() < 1e-12);
        assert!(!found.enough && found.clipped == 0.0 && found.bias_bound == 0.0);
        // Against a log of its own value .6, .5, .5: log (.6 + .4 + .5 + .5 + .5 - .1)/3 = .8; gain: (.1 + .4) +
        // (-.1 - .5) + (0 + 0) = -.1, over 3.
        let pairs = [(rows[0], 0.6), (rows[1], 0.5), (rows[2], 0.5)];
        assert!((logged_value(&pairs, &sequence).estimate - 0.8).abs() < 1e-12);
        // w - 1 is 1, -1 and 0: two decisions differ, too few for a paired interval.
        let against = contrast(&pairs, 50.0, &sequence);
        assert!((against.gain.estimate + 0.1 / 3.0).abs() < 1e-12);
        assert!((against.differing - 2.0).abs() < 1e-12 && !against.paired);
        // Cut at 1.5: one weight of three loses .5.
        let cut = estimate(&rows, 1.5, 1.0, &sequence).unwrap();
        assert!((cut.bias_bound - 0.5 / 3.0).abs() < 1e-12 && (cut.clipped - 1.0 / 3.0).abs() < 1e-12);
    }

    /// Every call costs 1 and was predicted to cost 3; the weights are 2 in the mean. The plain estimate is
    /// 3 + 2 (1 - 3) = -1.
    #[test]
    fn a_prediction_that_is_off_everywhere_cancels_whatever_the_weights_are() {
        let sequence = ConfidenceSequence::new(0.05, 100).unwrap();
        let rows: Vec<LoggedDecision> = (0..200)
            .map(|i| row(0.25, [0.25, 0.75][i % 2], 1.0, 3.0, 3.0))
            .collect();
        let found = estimate(&rows, 50.0, 1.0, &sequence).unwrap();
        assert!((found.dr.estimate - 1.0).abs() < 1e-12, "{found:?}");
        assert!((found.dr.estimate - found.snips.estimate).abs() < 1e-12);
        let pairs: Vec<(LoggedDecision, f64)> = rows.iter().map(|row| (*row, 3.0)).collect();
        let against = contrast(&pairs, 50.0, &sequence);
        assert!(against.gain.estimate.abs() < 1e-12, "{against:?}");
        // A log of the policy's own decisions leaves nothing to tell apart.
        let same: Vec<(LoggedDecision, f64)> = (0..200)
            .map(|i| (row(0.5, 0.5, f64::from(i % 3), 0.5, 0.7), 0.7))
            .collect();
        let none = contrast(&same, 50.0, &sequence).gain;
        assert!(none.estimate.abs() < 1e-12);
    }

    #[test]
    fn a_mean_of_costs_is_not_below_zero() {
        let sequence = ConfidenceSequence::new(0.05, 100).unwrap();
        // Predicted at 3 where it was tried and at .1 where it would be used: .1 + (1 - 3) = -1.9.
        let rows = vec![row(0.5, 0.5, 1.0, 3.0, 0.1); 200];
        let found = estimate(&rows, 50.0, 1.0, &sequence).unwrap();
        assert_eq!((found.dr.estimate, found.dr.low), (0.0, 0.0));
    }

    #[test]
    fn refuses_what_cannot_be_weighted() {
        let sequence = ConfidenceSequence::new(0.05, 100).unwrap();
        assert_eq!(estimate(&[], 50.0, 1.0, &sequence), Err(OffPolicyError::Empty));
        let bad = [row(0.0, 1.0, 1.0, 0.0, 0.0)];
        assert!(matches!(
            estimate(&bad, 50.0, 1.0, &sequence),
            Err(OffPolicyError::Propensity { index: 0, .. })
        ));
        let good = [row(0.5, 1.0, 1.0, 0.0, 0.0)];
        assert!(matches!(
            estimate(&good, 0.5, 1.0, &sequence),
            Err(OffPolicyError::Clip { .. })
        ));
    }

    #[test]
    fn a_policy_that_the_log_never_tried_is_refused() {
        let sequence = ConfidenceSequence::new(0.05, 100).unwrap();
        let rows = vec![row(0.9, 0.0, 1.0, 0.5, 0.5); 1000];
        let found = estimate(&rows, 50.0, 1.0, &sequence).unwrap();
        assert!(found.snips.estimate.is_nan() && found.ess == 0.0 && !found.enough);
    }
}
