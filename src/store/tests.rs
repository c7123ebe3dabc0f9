mod feedback;
mod kept;
mod log;
mod retention;

use std::borrow::Cow;
use std::sync::OnceLock;

use tempfile::TempDir;

use super::*;
use crate::arm::ArmId;
use crate::clock;
use crate::completion::Usage;
use crate::feedback::Target;

/// One moment for the whole run: today's, because the writer cleans up by the clock.
pub(super) fn now() -> UnixMs {
    static NOW: OnceLock<UnixMs> = OnceLock::new();
    *NOW.get_or_init(clock::wall)
}

pub(crate) fn decision(id: &str) -> DecisionRow {
    DecisionRow {
        id: id.into(),
        at: now(),
        episode: None,
        user: Some("user-1".into()),
        route: "auto".into(),
        strategy: Cow::Borrowed("thompson"),
        category: "code".into(),
        arm: ArmId::new("p/a"),
        propensity: 0.75,
        explored: false,
        expected_cost: Usd::from_nanos(1_234),
        expected_quality: 0.9,
        experiment: Some("x=control".into()),
        input_tokens: 100,
        stream: true,
        feature_version: 3,
        context: vec![1, 2, 3],
        candidates: vec![CandidateRow {
            arm: ArmId::new("p/a"),
            propensity: 0.75,
            quality: 0.9,
            deviation: 0.05,
            cost: Usd::from_nanos(1_234),
        }],
        detail: None,
    }
}

pub(crate) fn attempt(decision: &str, number: u32) -> AttemptRow {
    AttemptRow {
        decision: decision.into(),
        number,
        at: now(),
        arm: ArmId::new("p/a"),
        provider: "p".into(),
        role: Cow::Borrowed("primary"),
        outcome: Cow::Borrowed("succeeded"),
        served: true,
        stream: true,
        ttft_ms: Some(120.5),
        total_ms: 900.0,
        usage: Some(Usage {
            input: 100,
            cached_input: 20,
            output: 40,
            ..Usage::default()
        }),
        cost: Some(Usd::from_nanos(2_000)),
        finish: Some(Cow::Borrowed("stop")),
        upstream_id: Some(format!("up-{decision}")),
        text_bytes: 160,
        detail: None,
    }
}

fn feedback(target: &str, rater: &str, score: f64) -> FeedbackRow {
    FeedbackRow {
        target: Target::Any(target.to_owned()),
        metric: "quality".to_owned(),
        rater: rater.to_owned(),
        score,
        comment: None,
        tags: None,
        at: now(),
    }
}

pub(super) fn open(dir: &Path) -> Store {
    Store::open(dir, now()).unwrap()
}

/// A store in a folder of its own, which goes with the guard.
fn fresh() -> (TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    (dir, store)
}

fn state(bytes: &[u8], seq: i64) -> StateRow {
    StateRow {
        name: "policy".to_owned(),
        at: now(),
        version: 1,
        last_feedback_seq: seq,
        last_attempt_seq: seq,
        bytes: bytes.to_vec(),
    }
}
