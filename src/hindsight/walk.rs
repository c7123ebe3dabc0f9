//! From the decision log to rows that an off-policy estimate takes.

use crate::arm::ArmId;
use crate::evaluation::off_policy::{LoggedDecision, unsupported};
use crate::feedback::QUALITY;
use crate::learner::{Lesson, Versions};
use crate::policy::learner::ContextualLearner;
use crate::policy::{ArmScore, Candidate, Decision, Learner, Logged, Observation, Proposal, Strategy};
use crate::store::{Joined, StoreError};

/// One scored decision as both policies saw it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Row {
    /// For the score.
    pub quality: LoggedDecision,
    /// Predicted score averaged over the log's own probabilities: `Σ_a p(a|x) q̂(x, a)`.
    pub logged_quality: f64,
    /// For the dollars; `None` when the answer's cost is unknown.
    pub cost: Option<LoggedDecision>,
    /// Expected dollars averaged over the log's own probabilities.
    pub logged_cost: f64,
}

/// Decisions that say nothing about another policy, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct LeftOut {
    /// One candidate only: there was no choice.
    pub no_choice: u64,
    /// No score has come.
    pub unscored: u64,
    /// Another model than the drawn one answered (a fallback or a hedge): its score is not the drawn one's.
    pub other_answered: u64,
    /// The propensity is missing or cannot be.
    pub no_propensity: u64,
    /// The model that is always asked could not have been: what it would have done is not what another one would.
    pub not_a_candidate: u64,
}

impl LeftOut {
    /// All of them.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.no_choice + self.unscored + self.other_answered + self.no_propensity + self.not_a_candidate
    }
}

/// What the walk found.
#[derive(Clone, Debug, Default)]
pub struct Walked {
    /// Scored decisions with a choice.
    pub rows: Vec<Row>,
    /// The others.
    pub left_out: LeftOut,
    /// Scored and all decisions of each drawn arm: uneven shares bias every estimate.
    pub scored: std::collections::BTreeMap<ArmId, (u64, u64)>,
}

/// Goes through the log: asks `target` and the `model` of the scores, then lets both learn. `route`: only this one; `clip`:
/// where weights will be cut; `always`: the one model that `target` asks, if it does.
///
/// # Errors
/// When the log cannot be read.
pub fn walk(
    log: impl Iterator<Item = Result<Joined, StoreError>>,
    route: Option<&str>,
    always: Option<&ArmId>,
    clip: f64,
    versions: &Versions,
    target: &mut dyn Learner,
    model: &mut ContextualLearner,
) -> Result<Walked, StoreError> {
    let mut walked = Walked::default();
    for joined in log {
        let joined = joined?;
        if route.is_none_or(|route| *joined.decision.route == *route) {
            step(&joined, always, clip, versions, target, model, &mut walked);
        }
    }
    Ok(walked)
}

/// The mean score of a decision, if its drawn arm was scored for its own answer.
fn reward(joined: &Joined, left_out: &mut LeftOut) -> Option<f64> {
    let decision = &joined.decision;
    let scores = joined.scores.iter().filter(|score| *score.metric == *QUALITY);
    let (sum, count) = scores.fold((0.0, 0.0), |(sum, count), score| (sum + score.score, count + 1.0));
    let served = joined.attempts.iter().find(|attempt| attempt.served);
    let own = served.is_none_or(|attempt| {
        attempt.arm == decision.arm && matches!(attempt.role.as_ref(), "primary" | "retry")
    });
    if count == 0.0 {
        left_out.unscored += 1;
    } else if !own {
        left_out.other_answered += 1;
    } else if !(decision.propensity > 0.0 && decision.propensity <= 1.0) {
        left_out.no_propensity += 1;
    } else {
        return Some(sum / count);
    }
    None
}

fn step(
    joined: &Joined,
    always: Option<&ArmId>,
    clip: f64,
    versions: &Versions,
    target: &mut dyn Learner,
    model: &mut ContextualLearner,
    walked: &mut Walked,
) {
    let decision = &joined.decision;
    let drawn = decision
        .candidates
        .iter()
        .position(|candidate| candidate.arm == decision.arm);
    let (Some(drawn), Some(lesson)) = (drawn, Lesson::read(decision, versions)) else {
        walked.left_out.no_propensity += 1;
        return;
    };
    if decision.candidates.len() < 2 {
        walked.left_out.no_choice += 1;
        return;
    }
    let candidates = lesson.candidates();
    let round = lesson.round(&candidates);
    let proposal = target.snapshot().propose(&round);
    let predicted = model.snapshot().propose(&round).scores;
    target.record_round(&round, &as_decision(&proposal, drawn, decision.propensity));
    model.record_round(&round, &as_decision(&proposal, drawn, decision.propensity));

    let (scored, all) = walked.scored.entry(decision.arm.clone()).or_default();
    *all += 1;
    let Some(reward) = reward(joined, &mut walked.left_out) else {
        return;
    };
    *scored += 1;
    if always.is_some_and(|arm| candidates.iter().all(|candidate| candidate.arm != arm)) {
        walked.left_out.not_a_candidate += 1;
    } else {
        walked.rows.push(row(
            joined,
            drawn,
            reward,
            &candidates,
            &predicted,
            &proposal,
            clip,
        ));
    }

    let arms: Vec<ArmId> = decision
        .candidates
        .iter()
        .map(|candidate| candidate.arm.clone())
        .collect();
    let seq = walked.rows.len() as u64 + walked.left_out.not_a_candidate;
    let observation = |scores| Observation {
        seq,
        route: lesson.route(),
        arm: &decision.arm,
        contexts: lesson.contexts(),
        category: lesson.category(),
        reward,
        weight: 1.0,
        propensity: decision.propensity,
        logged: scores,
        late: false,
        revises: None,
    };
    let logged = (!proposal.scores.is_empty()).then_some(Logged {
        arms: &arms,
        scores: &proposal.scores,
        lambda: proposal.lambda,
    });
    target.record_reward(&observation(logged));
    model.record_reward(&observation(None));
}

/// What was drawn, with what the policy under evaluation thinks of it.
fn as_decision(proposal: &Proposal, drawn: usize, propensity: f64) -> Decision {
    Decision {
        chosen: drawn,
        propensity,
        explored: false,
        pmf: proposal.pmf.probabilities(),
        scores: proposal.scores.clone(),
        lambda: proposal.lambda,
        strategy: Strategy::Baseline,
    }
}

fn row(
    joined: &Joined,
    drawn: usize,
    reward: f64,
    candidates: &[Candidate<'_>],
    predicted: &[ArmScore],
    proposal: &Proposal,
    clip: f64,
) -> Row {
    let quality = |index: usize| {
        predicted
            .get(index)
            .map_or(0.5, |score| score.mean.clamp(0.0, 1.0))
    };
    let cost = |index: usize| candidates[index].cost_usd;
    let over = |share: &dyn Fn(usize) -> f64, of: &dyn Fn(usize) -> f64| {
        (0..candidates.len())
            .map(|index| share(index) * of(index))
            .sum::<f64>()
    };
    let target = |index: usize| proposal.pmf.probability(index);
    let logged = &joined.decision.candidates;
    let log = |index: usize| {
        logged
            .get(index)
            .map_or(0.0, |candidate| f64::from(candidate.propensity))
    };
    let lacking = unsupported((0..candidates.len()).map(|arm| (target(arm), log(arm))), clip);
    let known = !joined.attempts.is_empty() && joined.attempts.iter().all(|attempt| attempt.cost.is_some());
    let spent = || {
        joined
            .attempts
            .iter()
            .filter_map(|attempt| attempt.cost)
            .sum::<crate::units::Usd>()
    };
    let of = |reward: f64, predicted: f64, predicted_target: f64| LoggedDecision {
        propensity: joined.decision.propensity,
        target: target(drawn),
        reward,
        predicted,
        predicted_target,
        unsupported: lacking,
    };
    Row {
        quality: of(reward, quality(drawn), over(&target, &quality)),
        logged_quality: over(&log, &quality),
        cost: known.then(|| of(spent().dollars(), cost(drawn), over(&target, &cost))),
        logged_cost: over(&log, &cost),
    }
}
