//! What the program writes to the log by itself: each decision with all that it was made from, and what happens besides.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::app::Parts;
use crate::app::desk::{Desk, Detail};
use crate::app::live::Live;
use crate::app::prepare::Prepared;
use crate::clock;
use crate::learner::codec::{CONTEXT_FORMAT, Kept, KeptOption, encode};
use crate::policy::drift::Change;
use crate::policy::learner::DriftEvent;
use crate::request::ChatRequest;
use crate::store::{CandidateRow, DecisionRow, EventRow, Store};

impl Parts {
    /// Logs something that happened.
    pub fn log_event(&self, kind: &'static str, subject: &str, detail: serde_json::Value) {
        self.store.log_event(EventRow {
            at: clock::wall(),
            kind: kind.into(),
            subject: subject.to_owned(),
            detail: detail.to_string(),
        });
    }

    /// Logs a decision, before any attempt at it.
    pub fn log_decision(&self, prepared: &Prepared, request: &ChatRequest) {
        if let Some(session) = &prepared.decided.session {
            self.sessions
                .decided(session.held, session.incumbent != *prepared.decided.arm());
        }
        let look = &prepared.look;
        self.counters
            .looked(&prepared.decided.route, look.took, look.saved, look.unable as u64);
        self.store.log_decision(decision_row(prepared, request));
        prepared.account.ledger().decided(&self.store);
        if let Some(late) = &prepared.late {
            late.decided(&prepared.decided.id, &self.store);
        }
    }
}

fn decision_row(prepared: &Prepared, request: &ChatRequest) -> DecisionRow {
    let decided = &prepared.decided;
    let decision = &decided.decision;
    let score = |index: usize| decision.scores.get(index).copied().unwrap_or_default();
    let candidates = decided.arms.iter().zip(&decided.expected).enumerate();
    let kept = Kept {
        features: decided.features.clone(),
        lambda: decision.lambda,
        strategy: decision.strategy,
        kind: Some(prepared.look.kind),
        options: decided
            .latency_ms
            .iter()
            .enumerate()
            .map(|(index, &latency)| KeptOption {
                latency_ms: latency as f32,
                score: score(index),
            })
            .collect(),
    };
    DecisionRow {
        id: Arc::clone(&decided.id),
        at: decided.at,
        episode: prepared.episode.clone(),
        user: request.user.as_deref().map(Arc::from),
        route: Arc::clone(&decided.route),
        strategy: decided.strategy.to_string().into(),
        category: decided.category.clone().unwrap_or_else(|| Arc::from("")),
        arm: decided.arm().clone(),
        propensity: decision.propensity,
        explored: decision.explored,
        expected_cost: decided.expected().cost,
        // What is no number would be refused by the database, and the decision lost with it.
        expected_quality: Some(score(decision.chosen).mean)
            .filter(|mean| mean.is_finite())
            .unwrap_or_default(),
        experiment: prepared.experiment.clone(),
        input_tokens: decided.input_tokens,
        stream: request.stream,
        feature_version: CONTEXT_FORMAT,
        context: encode(&kept),
        candidates: candidates
            .map(|(index, (arm, expected))| CandidateRow {
                arm: arm.clone(),
                propensity: decision.pmf.get(index).copied().unwrap_or(0.0) as f32,
                quality: score(index).mean as f32,
                deviation: score(index).sd as f32,
                cost: expected.cost,
            })
            .collect(),
        detail: detail(prepared),
    }
}

/// What else is logged of a decision; nothing for most.
fn detail(prepared: &Prepared) -> Option<String> {
    let session = prepared.decided.session.as_ref();
    let detail = Detail {
        enrolment: prepared.enrolment.clone(),
        prefix_tokens: session
            .map(|session| session.prefix_tokens)
            .filter(|&tokens| tokens > 0),
        budgets: prepared.account.ledger().accounts(),
    };
    let empty = detail.enrolment.is_none() && detail.prefix_tokens.is_none() && detail.budgets.is_empty();
    (!empty).then(|| serde_json::to_string(&detail).ok()).flatten()
}

/// Logs drifts, and lets experiments know of those that are for the worse.
pub(super) fn drift_log(
    store: Store,
    desk: Arc<Desk>,
    live: Arc<ArcSwap<Live>>,
) -> Box<dyn FnMut(&DriftEvent) + Send> {
    Box::new(move |event| {
        tracing::warn!(arm = %event.arm, level = event.level, change = ?event.change, "quality of an arm has drifted");
        if event.change == Change::Down {
            desk.drifted(&event.arm, &live.load().config, clock::wall());
        }
        store.log_event(EventRow {
            at: clock::wall(),
            kind: "drift".into(),
            subject: event.arm.to_string(),
            detail: serde_json::json!({"change": format!("{:?}", event.change), "level": event.level})
                .to_string(),
        });
    })
}
