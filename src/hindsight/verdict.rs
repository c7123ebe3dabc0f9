//! From rows to figures and one sentence.

use std::fmt::Write as _;

use serde::Serialize;

use super::walk::{LeftOut, Row, Walked};
use crate::evaluation::health::{Check, Health, equal_rates};
use crate::evaluation::off_policy::{
    self, Contrast, LoggedDecision, MIN_ESS, OffPolicyError, OffPolicyEstimate, Reward,
};
use crate::evaluation::sequence::{ConfidenceSequence, Interval, SequenceError};

/// What can be said of the policy against the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Its mean score is higher.
    Better,
    /// It is lower.
    Worse,
    /// The interval of the difference contains 0.
    NoDifference,
    /// Too few effective samples: the log says too little about this policy.
    Refused,
}

/// All figures of one evaluation.
#[derive(Clone, Debug, Serialize)]
pub struct Evaluation {
    /// The policy's name.
    pub policy: String,
    /// Scored decisions that were used.
    pub decisions: u64,
    /// Decisions that say nothing, by reason.
    pub left_out: LeftOut,
    /// Mean score.
    pub quality: OffPolicyEstimate,
    /// Mean score of what the log's policy did.
    pub logged_quality: Interval,
    /// The policy's mean score less the log's, doubly robust on both sides.
    pub gain: Contrast,
    /// Mean dollars; `None` when no cost is known.
    pub cost_usd: Option<OffPolicyEstimate>,
    /// Mean dollars of what the log's policy did.
    pub logged_cost_usd: Option<Interval>,
    /// The policy's mean dollars less the log's.
    pub extra_cost_usd: Option<Contrast>,
    /// Whether scores come as often for one arm as for another.
    pub scored_alike: Check,
    /// What can be said.
    pub verdict: Verdict,
}

/// Why there is no evaluation.
#[derive(Debug, thiserror::Error)]
pub enum EvaluateError {
    /// No row, or one that cannot be.
    #[error(transparent)]
    OffPolicy(#[from] OffPolicyError),
    /// An error rate that cannot be.
    #[error(transparent)]
    Sequence(#[from] SequenceError),
}

/// Estimates and judges. Weights are cut at `clip`; intervals err with probability `alpha`.
///
/// # Errors
/// When there is no scored decision with a choice, or a parameter is out of range.
pub fn judge(policy: &str, walked: &Walked, clip: f64, alpha: f64) -> Result<Evaluation, EvaluateError> {
    let sequence = ConfidenceSequence::new(alpha, (walked.rows.len() as u64).max(MIN_ESS as u64))?;
    let qualities: Vec<(LoggedDecision, f64)> = walked
        .rows
        .iter()
        .map(|row| (row.quality, row.logged_quality))
        .collect();
    let (quality, logged_quality, gain) = three(&qualities, clip, Reward::SCORE, &sequence)?;
    let costs: Vec<(LoggedDecision, f64)> = walked
        .rows
        .iter()
        .filter_map(|row: &Row| Some((row.cost?, row.logged_cost)))
        .collect();
    let dearest = costs.iter().map(|(row, _)| row.reward).fold(0.0, f64::max);
    let costs = three(&costs, clip, Reward::cost(dearest), &sequence).ok();
    let counts: Vec<(u64, u64)> = walked.scored.values().copied().collect();
    let verdict = match (
        quality.enough,
        gain.gain.low - quality.bias_bound,
        gain.gain.high + quality.bias_bound,
    ) {
        (false, ..) => Verdict::Refused,
        (_, low, _) if low > 0.0 => Verdict::Better,
        (.., high) if high < 0.0 => Verdict::Worse,
        _ => Verdict::NoDifference,
    };
    Ok(Evaluation {
        policy: policy.to_owned(),
        decisions: quality.decisions,
        left_out: walked.left_out,
        quality,
        logged_quality,
        gain,
        cost_usd: costs.as_ref().map(|(own, ..)| *own),
        logged_cost_usd: costs.as_ref().map(|(_, log, _)| *log),
        extra_cost_usd: costs.as_ref().map(|(.., extra)| *extra),
        scored_alike: equal_rates(&counts),
        verdict,
    })
}

fn three(
    rows: &[(LoggedDecision, f64)],
    clip: f64,
    reward: Reward,
    sequence: &ConfidenceSequence,
) -> Result<(OffPolicyEstimate, Interval, Contrast), OffPolicyError> {
    let plain: Vec<LoggedDecision> = rows.iter().map(|(row, _)| *row).collect();
    let own = off_policy::estimate(&plain, clip, reward, sequence)?;
    Ok((
        own,
        off_policy::logged_value(rows, reward, sequence),
        off_policy::contrast(rows, clip, reward, sequence),
    ))
}

impl Evaluation {
    /// The figures as a person reads them.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = String::new();
        let left = &self.left_out;
        let _ = write!(
            out,
            "{} on {} scored decisions; left out: {} without a score, {} without a choice, {} answered by another model, {} without a propensity",
            self.policy,
            self.decisions,
            left.unscored,
            left.no_choice,
            left.other_answered,
            left.no_propensity
        );
        if left.not_a_candidate > 0 {
            let _ = write!(out, ", {} for which it was no candidate", left.not_a_candidate);
        }
        out.push('\n');
        let _ = writeln!(out, "{:<12} {:>12}   interval at any time", "", "estimate");
        let mut block = |title: &str, own: &OffPolicyEstimate, log: &Interval, gain: &Interval| {
            for (name, interval) in [
                ("log", log),
                ("ips", &own.ips),
                ("snips", &own.snips),
                ("dr", &own.dr),
                ("dr less log", gain),
            ] {
                let biased = !own.supported && matches!(name, "ips" | "snips");
                let mark = if biased { "   biased" } else { "" };
                let _ = writeln!(out, "{:<12} {}{mark}", format!("{title}{name}"), line(interval));
            }
        };
        block("", &self.quality, &self.logged_quality, &self.gain.gain);
        if let (Some(own), Some(log), Some(extra)) =
            (&self.cost_usd, &self.logged_cost_usd, &self.extra_cost_usd)
        {
            block("$ ", own, log, &extra.gain);
        }
        let _ = writeln!(
            out,
            "effective samples: {:.0} of {}, of which {:.0} differ from the log; weights cut: {:.1} %, which moves an estimate by at most {:.4}",
            self.quality.ess,
            self.decisions,
            self.gain.differing,
            100.0 * self.quality.clipped,
            self.quality.bias_bound
        );
        if !self.quality.supported {
            let _ = writeln!(out, "caution: {}", self.lacking());
        }
        if self.scored_alike.health == Health::Failed {
            let _ = writeln!(
                out,
                "caution: scores come more often for some models than for others (p = {:.1e}); every estimate is of the scored requests only",
                self.scored_alike.p_value
            );
        }
        let _ = writeln!(out, "{}", self.sentence());
        out
    }

    /// What the log cannot say of the policy, and what to do.
    fn lacking(&self) -> String {
        format!(
            "the log supports all but {:.1} % of {}'s choices: those are of models that it drew never or hardly ever. ips and snips are biased by that and are no verdict; dr goes by predictions alone there. To know more, give those models traffic with an experiment, or evaluate a policy that keeps to what was tried",
            100.0 * self.quality.unsupported,
            self.policy
        )
    }

    /// The verdict in one sentence.
    #[must_use]
    pub fn sentence(&self) -> String {
        let gain = &self.gain.gain;
        match self.verdict {
            Verdict::Refused => format!(
                "verdict: none. {:.0} effective samples are fewer than {MIN_ESS:.0}: the log says too little about {}; let it explore more, or wait",
                self.quality.ess, self.policy
            ),
            Verdict::Better => format!(
                "verdict: {} scores higher than what was served, by {:.4} ({:.4} to {:.4})",
                self.policy, gain.estimate, gain.low, gain.high
            ),
            Verdict::Worse => format!(
                "verdict: {} scores lower than what was served, by {:.4} ({:.4} to {:.4})",
                self.policy, -gain.estimate, -gain.high, -gain.low
            ),
            Verdict::NoDifference => format!(
                "verdict: no difference to what was served can be told yet ({:.4} to {:.4} with what cut weights may move)",
                gain.low - self.quality.bias_bound,
                gain.high + self.quality.bias_bound
            ),
        }
    }
}

fn line(interval: &Interval) -> String {
    let digits = if interval.estimate.abs() < 0.05 { 6 } else { 4 };
    format!(
        "{:>12.digits$}   {:.digits$} to {:.digits$}",
        interval.estimate, interval.low, interval.high
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A log of two models out of three, as often the one as the other, against an even split of all three.
    fn walked(unsupported: f64) -> Walked {
        let row = |i: u32| {
            let quality = LoggedDecision {
                propensity: 0.5,
                target: 1.0 / 3.0,
                reward: f64::from(i % 2),
                predicted: 0.5,
                predicted_target: 0.5,
                unsupported,
            };
            Row {
                quality,
                logged_quality: 0.5,
                cost: None,
                logged_cost: 0.0,
            }
        };
        Walked {
            rows: (0..300).map(row).collect(),
            ..Walked::default()
        }
    }

    #[test]
    fn what_the_log_cannot_support_is_said_and_marks_ips_and_snips() {
        let found = judge("random", &walked(1.0 / 3.0), 50.0, 0.05).unwrap();
        // IPS: 2/3 of .5; DR lacks nothing, for the third model is predicted.
        assert!((found.quality.ips.estimate - 1.0 / 3.0).abs() < 1e-12);
        assert!((found.quality.dr.estimate - 0.5).abs() < 1e-12);
        let text = found.text();
        assert!(
            text.contains("supports all but 33.3 % of random's choices"),
            "{text}"
        );
        let biased: Vec<&str> = text.lines().filter(|line| line.ends_with("biased")).collect();
        assert!(
            biased.len() == 2 && biased[0].starts_with("ips ") && biased[1].starts_with("snips "),
            "{text}"
        );
        let json = serde_json::to_value(&found).unwrap();
        let share = json["quality"]["unsupported"].as_f64().unwrap();
        assert!((share - 1.0 / 3.0).abs() < 1e-12 && json["quality"]["supported"] == false);

        let found = judge("random", &walked(0.009), 50.0, 0.05).unwrap();
        assert!(found.quality.supported && !found.text().contains("biased"));
    }
}
