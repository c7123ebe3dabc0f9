use std::borrow::Cow;

use super::*;
use crate::arm::ArmId;
use crate::completion::Usage;
use crate::feedback::Target;

/// A moment in 2023.
const NOW: UnixMs = UnixMs(1_700_000_000_000);

fn decision(id: &str) -> DecisionRow {
    DecisionRow {
        id: id.into(),
        at: NOW,
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

fn attempt(decision: &str, number: u32) -> AttemptRow {
    AttemptRow {
        decision: decision.into(),
        number,
        at: NOW,
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
        at: NOW,
    }
}

fn open(dir: &Path) -> Store {
    Store::open(dir, NOW).unwrap()
}

#[tokio::test]
async fn rows_come_back_as_they_went_in() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    assert!(store.log_decision(decision("d1")) && store.log_attempt(attempt("d1", 1)));
    store.flush().await.unwrap();
    let joined = store.reader().joined("chatcmpl-d1").unwrap().unwrap();
    assert_eq!(
        (joined.decision, joined.attempts),
        (decision("d1"), vec![attempt("d1", 1)])
    );
    for id in ["d1", "chatcmpl-d1", "up-d1"] {
        assert_eq!(store.reader().decision(id).unwrap(), Some(decision("d1")), "{id}");
    }
    assert_eq!(store.reader().decision("d2").unwrap(), None);
    store.close();
}

#[tokio::test]
async fn a_score_counts_once_and_a_new_one_replaces_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.log_decision(decision("d1"));
    let first = store
        .record_feedback(feedback("chatcmpl-d1", "ann", 0.5))
        .await
        .unwrap();
    assert!(!first.duplicate && !first.revised);
    store.close();

    let store = open(dir.path());
    let again = store.record_feedback(feedback("d1", "ann", 0.5)).await.unwrap();
    assert!(again.duplicate && again.feedback_id == first.feedback_id);
    let revised = store.record_feedback(feedback("d1", "ann", 1.0)).await.unwrap();
    assert!(revised.revised && revised.previous == Some(0.5));
    let other = store.record_feedback(feedback("d1", "bob", 0.0)).await.unwrap();
    assert!(!other.revised && !other.duplicate);
    let log = store.reader().feedback_since(0, 100).unwrap();
    let entries: Vec<_> = log
        .iter()
        .map(|entry| (entry.score, entry.previous.map(|(_, score)| score)))
        .collect();
    assert_eq!(entries, [(0.5, None), (1.0, Some(0.5)), (0.0, None)]);
    assert_eq!(*store.feedback_seq().borrow(), log[2].seq);
    let unknown = store.record_feedback(feedback("nobody", "ann", 0.5)).await;
    assert_eq!(unknown, Err(RecordError::UnknownId { id: "nobody".into() }));
    store.close();
}
