//! What other policies would have cost and scored, from the logged propensities.

use super::parts::OffPolicyLine;
use super::{LoggedCandidate, RoutingRow};
use crate::arm::ArmId;
use crate::evaluation::off_policy::{
    DEFAULT_CLIP, LoggedDecision, MIN_ESS, Reward, doubly_robust, estimate, unsupported,
};
use crate::evaluation::sequence::{ConfidenceSequence, Interval};

/// Decisions below which a line would be noise without an interval.
const MIN_DECISIONS: usize = 30;

/// A policy to be judged: its probability of a candidate among those of a row.
type Policy<'a> = Box<dyn Fn(&RoutingRow, &LoggedCandidate) -> f64 + 'a>;

/// The router as it ran, each single arm, and an even split.
#[must_use]
pub fn lines(rows: &[&RoutingRow], arms: &[&str], sequence: &ConfidenceSequence) -> Vec<OffPolicyLine> {
    let mut policies: Vec<(String, Policy<'_>)> = vec![(
        "the router, as it ran".to_owned(),
        Box::new(|_, candidate| candidate.propensity),
    )];
    for arm in arms {
        let id = ArmId::new(arm);
        let name = format!("always {arm}");
        policies.push((
            name,
            Box::new(move |_, candidate| f64::from(u8::from(candidate.arm == id))),
        ));
    }
    policies.push((
        "an even split".to_owned(),
        Box::new(|row, _| 1.0 / row.candidates.len() as f64),
    ));
    policies
        .into_iter()
        .filter_map(|(name, policy)| line(&name, rows, &policy, sequence))
        .collect()
}

/// One policy; `None` if no row can be used. Rows where it has no candidate to choose are left out.
fn line(
    name: &str,
    rows: &[&RoutingRow],
    policy: &Policy<'_>,
    sequence: &ConfidenceSequence,
) -> Option<OffPolicyLine> {
    let scored: Vec<LoggedDecision> = usable(rows)
        .filter_map(|row| weigh(row, policy, row.score?, &|candidate| candidate.expected_quality))
        .collect();
    let priced: Vec<LoggedDecision> = usable(rows)
        .filter_map(|row| {
            weigh(row, policy, row.cost?.dollars(), &|candidate| {
                candidate.expected_cost.dollars()
            })
        })
        .collect();
    let dearest = priced.iter().map(|row| row.reward).fold(0.0, f64::max);
    if scored.len() < MIN_DECISIONS || priced.len() < MIN_DECISIONS {
        return None;
    }
    let quality = estimate(&scored, DEFAULT_CLIP, Reward::SCORE, sequence).ok()?;
    let cost = estimate(&priced, DEFAULT_CLIP, Reward::cost(dearest), sequence).ok()?;
    Some(OffPolicyLine {
        policy: name.to_owned(),
        decisions: quality.decisions,
        ess: quality.ess,
        enough: quality.ess >= MIN_ESS,
        quality: quality.dr,
        quality_snips: if quality.snips.estimate.is_finite() {
            quality.snips.estimate
        } else {
            0.0
        },
        cost_usd: cost.dr,
        bias_bound: quality.bias_bound,
        unsupported: quality.unsupported,
    })
}

/// The router's quality minus that of always using `reference`: a doubly robust estimate of the *difference* on
/// the same decisions, so that what both have in common falls out. `None` if the log says too little about
/// the reference (effective samples below 100).
pub(super) fn difference(
    rows: &[&RoutingRow],
    reference: &ArmId,
    sequence: &ConfidenceSequence,
) -> Option<(Interval, u64)> {
    let always: Policy<'_> = Box::new(|_, candidate| f64::from(u8::from(&candidate.arm == reference)));
    let own: Policy<'_> = Box::new(|_, candidate| candidate.propensity);
    let quality = |candidate: &LoggedCandidate| candidate.expected_quality;
    let (mut routed, mut others) = (Vec::new(), Vec::new());
    for row in usable(rows) {
        let Some(score) = row.score else { continue };
        let both = weigh(row, &own, score, &quality).zip(weigh(row, &always, score, &quality));
        let Some((router, other)) = both else { continue };
        routed.push(router);
        others.push(other);
    }
    let judged = estimate(&others, DEFAULT_CLIP, Reward::SCORE, sequence)
        .ok()
        .filter(|found| found.enough)?;
    let values = |rows: &[LoggedDecision]| doubly_robust(rows.iter(), DEFAULT_CLIP, Reward::SCORE);
    let above = values(&routed).above(&values(&others), sequence);
    Some((above, judged.decisions))
}

fn usable<'a>(rows: &'a [&'a RoutingRow]) -> impl Iterator<Item = &'a RoutingRow> {
    rows.iter()
        .copied()
        .filter(|row| row.on_policy() && row.candidates.len() > 1)
}

/// `None` if the policy chooses none of the row's candidates, or the drawn arm is not among them.
fn weigh(
    row: &RoutingRow,
    policy: &Policy<'_>,
    reward: f64,
    predict: &dyn Fn(&LoggedCandidate) -> f64,
) -> Option<LoggedDecision> {
    let drawn = row.candidates.iter().find(|candidate| candidate.arm == row.arm)?;
    let shares: Vec<f64> = row
        .candidates
        .iter()
        .map(|candidate| policy(row, candidate))
        .collect();
    let sum: f64 = shares.iter().sum();
    if sum <= 0.0 {
        return None;
    }
    let predicted_target: f64 = row
        .candidates
        .iter()
        .zip(&shares)
        .map(|(candidate, share)| share / sum * predict(candidate))
        .sum();
    let candidates = row.candidates.iter().zip(&shares);
    let lacking = unsupported(
        candidates.map(|(candidate, share)| (share / sum, candidate.propensity)),
        DEFAULT_CLIP,
    );
    Some(LoggedDecision {
        propensity: row.propensity.filter(|propensity| *propensity > 0.0)?,
        target: policy(row, drawn) / sum,
        reward,
        predicted: predict(drawn),
        predicted_target,
        unsupported: lacking,
    })
}
