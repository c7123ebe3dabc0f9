//! What the desk has counted: the log's entries, told to the experiments and added to the dashboard's figures.

use std::collections::HashMap;
use std::sync::Arc;

use crate::app::desk::Detail;
use crate::app::families::Evidence;
use crate::app::reports::About;
use crate::app::triggers::Seen;
use crate::dispatch::Cancellation;
use crate::experiments::{Enrolment, Event, Experiments, Exposure};
use crate::failure::FailureKind;
use crate::feedback::QUALITY;
use crate::report::dashboard::Ledger;
use crate::report::log::Reference;
use crate::store::{AttemptRow, DecisionRow, LoggedAttempt, LoggedFeedback};

/// What was counted so far.
pub(super) struct Books {
    pub(super) experiments: Experiments,
    pub(super) ledger: Ledger,
    pub(super) about: About,
    /// The always-best baseline of each route.
    pub(super) references: HashMap<Arc<str>, Reference>,
    /// What the comparisons of model families start from.
    pub(super) evidence: Evidence,
    /// What the router was like when it was last looked at.
    pub(super) seen: Option<Seen>,
    /// Changes that the log has not taken yet; the table they belong to waits for them.
    pub(super) unlogged: Vec<Event>,
    /// Changes that are logged and not yet in a report.
    pub(super) fresh: Vec<Event>,
    pub(super) attempt_seq: i64,
    pub(super) feedback_seq: i64,
    pub(super) generation: u64,
    pub(super) unsaved: bool,
}

impl Books {
    /// Counts who was given to which arm.
    pub(super) fn enrol(&mut self, (until, details): (i64, Vec<String>)) {
        let before = self.experiments.enrolled_until();
        if before == Some(until) {
            return;
        }
        for detail in &details {
            if let Some(enrolment) = serde_json::from_str::<Detail>(detail)
                .ok()
                .and_then(|detail| detail.enrolment)
            {
                self.experiments.enrolled(&enrolment);
                self.unsaved = true;
            }
        }
        self.experiments.have_enrolled_until(until);
    }

    /// Counts a call that is over, with its decision where that is in the log.
    pub(super) fn attempt(&mut self, entry: &LoggedAttempt) {
        self.attempt_seq = entry.seq;
        let attempt = &entry.attempt;
        if let Some(decision) = &entry.decision {
            let reference = self.references.entry(Arc::clone(&decision.route)).or_default();
            reference.observe(&decision.candidates);
            self.ledger.decided(decision);
            if attempt.number == 1 {
                self.evidence.decided(decision);
            }
            self.expose(decision, attempt);
        }
        self.ledger.attempted(attempt);
    }

    /// Tells the experiment what became of the assigned arm: the first attempt, and the same arm's next one if that
    /// served. What a fallback or a hedge did is no answer of the assigned arm, and no failure of it either.
    fn expose(&mut self, decision: &DecisionRow, attempt: &AttemptRow) {
        let own = attempt.arm == decision.arm;
        let redeems = attempt.number > 1 && own && attempt.role == "retry" && succeeded(attempt);
        if attempt.number != 1 && !redeems {
            return;
        }
        let Some(enrolment) = enrolment(decision) else {
            return;
        };
        // An arm that was passed over because its circuit was open has failed its request, at no cost.
        let exposure = if own {
            exposure(attempt)
        } else {
            Exposure::default()
        };
        if redeems {
            self.experiments.redeemed(&enrolment, &exposure, attempt.at);
        } else {
            self.experiments.exposed(&enrolment, &exposure, attempt.at);
        }
        self.unsaved = true;
    }

    /// Counts a score, once an answer: the mean of its raters.
    pub(super) fn score(&mut self, entry: &LoggedFeedback) {
        self.feedback_seq = entry.seq;
        let decision = &entry.decision;
        let before = entry.mean_before.map(|(_, mean)| mean);
        self.ledger
            .scored(&decision.id, &entry.metric, entry.mean, before, entry.at);
        let own = entry.served.as_ref().is_some_and(|served| {
            served.arm == decision.arm && matches!(served.role.as_str(), "primary" | "retry")
        });
        if own && *entry.metric == *QUALITY {
            self.evidence.scored(decision, entry.mean, before);
        }
        if own && let Some(enrolment) = enrolment(decision) {
            self.experiments
                .scored(&enrolment, &entry.metric, entry.mean, before, entry.at);
            self.unsaved = true;
        }
    }
}

fn enrolment(decision: &DecisionRow) -> Option<Enrolment> {
    decision.experiment.as_ref()?;
    let detail: Detail = serde_json::from_str(decision.detail.as_deref()?).ok()?;
    detail.enrolment
}

fn succeeded(attempt: &AttemptRow) -> bool {
    attempt.served && attempt.outcome == "succeeded"
}

/// Whether an attempt's end says nothing of its arm: somebody else ended it, or the request itself was bad.
fn is_censored(outcome: &str) -> bool {
    use FailureKind::{ContentPolicyViolation, ContextLengthExceeded, InvalidRequest};
    let ours = [Cancellation::LostHedge, Cancellation::ClientGone].map(Cancellation::as_str);
    let clients = [InvalidRequest, ContextLengthExceeded, ContentPolicyViolation].map(FailureKind::as_str);
    ours.contains(&outcome) || clients.contains(&outcome)
}

fn exposure(attempt: &AttemptRow) -> Exposure {
    let signals: Option<serde_json::Value> = attempt
        .detail
        .as_deref()
        .and_then(|detail| serde_json::from_str(detail).ok());
    Exposure {
        clean: succeeded(attempt),
        censored: is_censored(&attempt.outcome),
        refused: signals.is_some_and(|signals| signals["refused"] == true),
        cost_usd: attempt.cost.map(crate::units::Usd::dollars),
        ttft_ms: attempt.ttft_ms,
        total_ms: Some(attempt.total_ms),
    }
}
