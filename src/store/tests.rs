use std::borrow::Cow;
use std::sync::OnceLock;

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
async fn enrolments_are_read_once_in_order_and_others_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let noted = |id: &str, experiment: Option<&str>| DecisionRow {
        experiment: experiment.map(Into::into),
        detail: Some(format!("about {id}")),
        ..decision(id)
    };
    for row in [
        noted("d1", Some("x=control")),
        noted("d2", None),
        noted("d3", Some("x=treatment")),
    ] {
        assert!(store.log_decision(row));
    }
    store.flush().await.unwrap();
    let (last, first) = store.reader().enrolments_since(0).unwrap();
    assert_eq!(first, ["about d1", "about d3"]);
    assert!(store.log_decision(noted("d4", None)));
    store.flush().await.unwrap();
    let (later, none) = store.reader().enrolments_since(last).unwrap();
    assert!(later > last && none.is_empty());
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

/// One answer, three raters: ann .8, bob .4 (mean .6), ann .2 in place of .8 (.3), eve 1 (1.6 / 3). Each entry tells what the
/// mean was before, as the log was then.
#[tokio::test]
async fn an_answer_is_one_observation_whoever_and_however_many_score_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.log_decision(decision("d1"));
    store.log_decision(decision("d2"));
    for (id, rater, score) in [
        ("d1", "ann", 0.8),
        ("d1", "bob", 0.4),
        ("d2", "bob", 0.1),
        ("d1", "ann", 0.2),
        ("d1", "eve", 1.0),
    ] {
        store.record_feedback(feedback(id, rater, score)).await.unwrap();
    }
    let other = FeedbackRow {
        metric: "style".to_owned(),
        ..feedback("d1", "ann", 0.9)
    };
    store.record_feedback(other).await.unwrap();
    let expected = [
        (0.8, None),
        (0.6, Some(0.8)),
        (0.1, None),
        (0.3, Some(0.6)),
        (1.6 / 3.0, Some(0.3)),
        (0.9, None),
    ];
    let close = |found: Option<f64>, wanted: Option<f64>| match (found, wanted) {
        (Some(found), Some(wanted)) => f64::abs(found - wanted) < 1e-12,
        (found, wanted) => found == wanted,
    };
    // Read whole or from the middle.
    for from in 0..expected.len() {
        let log = store.reader().feedback_since(from as i64, 100).unwrap();
        assert_eq!(log.len(), expected.len() - from);
        for (entry, (mean, before)) in log.iter().zip(&expected[from..]) {
            let stood = entry.mean_before.map(|(_, mean)| mean);
            assert!(
                close(Some(entry.mean), Some(*mean)) && close(stood, *before),
                "{entry:?}"
            );
        }
    }
    store.close();
}

fn episode_decision(id: &str, episode: &str) -> DecisionRow {
    DecisionRow {
        episode: Some(episode.into()),
        ..decision(id)
    }
}

#[tokio::test]
async fn a_score_for_an_episode_counts_for_each_of_its_decisions_so_far() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for id in ["d1", "d2", "d3"] {
        store.log_decision(episode_decision(id, "e1"));
    }
    store.log_decision(episode_decision("other", "e2"));
    let first = store.record_feedback(feedback("e1", "ann", 0.5)).await.unwrap();
    assert_eq!((first.decision.as_ref(), first.decisions), ("d3", 3));
    // The client repeats itself after the episode went on: the new decision was not meant.
    store.log_decision(episode_decision("d4", "e1"));
    let again = store.record_feedback(feedback("e1", "ann", 0.5)).await.unwrap();
    assert!(again.duplicate && again.feedback_id == first.feedback_id && again.decisions == 3);
    assert!(store.reader().scores("d4").unwrap().is_empty());
    // A revision is about the whole episode as it is now.
    let revised = store.record_feedback(feedback("e1", "ann", 1.0)).await.unwrap();
    assert!(revised.revised && revised.previous == Some(0.5) && revised.decisions == 4);
    for id in ["d1", "d2", "d3", "d4"] {
        let scores = store.reader().scores(id).unwrap();
        assert_eq!((scores.len(), scores[0].score), (1, 1.0), "{id}");
    }
    assert!(store.reader().scores("other").unwrap().is_empty());
    let newest: Vec<_> = store.reader().episode("e1", 2).unwrap();
    assert_eq!(
        newest.iter().map(|row| row.id.as_ref()).collect::<Vec<_>>(),
        ["d4", "d3"]
    );
    store.close();
}

#[tokio::test]
async fn a_batch_answers_each_score() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.log_decision(decision("d1"));
    let rows = vec![
        feedback("d1", "ann", 0.5),
        feedback("nobody", "ann", 0.5),
        feedback("d1", "ann", 1.5),
        feedback("d1", "ann", f64::NAN),
        feedback("d1", "ann", 0.5),
        feedback("d1", "ann", 0.25),
    ];
    let acks = store.record_feedback_batch(rows).await;
    assert!(acks[0].as_ref().is_ok_and(|ack| !ack.duplicate));
    assert!(matches!(&acks[1], Err(RecordError::UnknownId { id }) if id == "nobody"));
    assert!(matches!(acks[2], Err(RecordError::OutOfRange { score }) if score == 1.5));
    assert!(matches!(acks[3], Err(RecordError::OutOfRange { .. })));
    assert!(acks[4].as_ref().is_ok_and(|ack| ack.duplicate));
    assert!(
        acks[5]
            .as_ref()
            .is_ok_and(|ack| ack.revised && ack.previous == Some(0.5))
    );
    assert_eq!(store.reader().feedback_since(0, 10).unwrap().len(), 2);
    assert_eq!(store.record_feedback_batch(Vec::new()).await, Vec::new());
    store.close();
}

#[tokio::test]
async fn the_learner_reads_who_served() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.log_decision(decision("d1"));
    // Before the request is finished.
    store.record_feedback(feedback("d1", "ann", 0.5)).await.unwrap();
    assert_eq!(store.reader().feedback_since(0, 10).unwrap()[0].served, None);
    let lost = AttemptRow {
        served: false,
        outcome: "rate_limit_exceeded".into(),
        usage: None,
        cost: None,
        ttft_ms: None,
        finish: None,
        upstream_id: None,
        ..attempt("d1", 1)
    };
    let fallback = AttemptRow {
        arm: ArmId::new("q/b"),
        role: "fallback".into(),
        ..attempt("d1", 2)
    };
    store.log_attempt(lost.clone());
    store.log_attempt(fallback.clone());
    store.flush().await.unwrap();
    let served = store.reader().feedback_since(0, 10).unwrap()[0].served.clone();
    assert_eq!(
        served,
        Some(Served {
            arm: ArmId::new("q/b"),
            role: "fallback".to_owned()
        })
    );
    let attempts = store.reader().attempts_since(0, 10).unwrap();
    assert_eq!(
        attempts.iter().map(|entry| &*entry.attempt).collect::<Vec<_>>(),
        [&lost, &fallback]
    );
    assert_eq!(attempts[1].decision.as_deref(), Some(&decision("d1")));
    assert!(
        store
            .reader()
            .attempts_since(attempts[1].seq, 10)
            .unwrap()
            .is_empty()
    );
    store.close();
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

#[tokio::test]
async fn a_damaged_state_falls_back_to_the_one_before() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    assert_eq!(store.reader().state("policy").unwrap(), None);
    for generation in 1..=3_u8 {
        store
            .save_state(state(&[generation; 100], i64::from(generation)))
            .await
            .unwrap();
    }
    assert_eq!(store.reader().state("policy").unwrap(), Some(state(&[3; 100], 3)));
    store.close();
    let direct = rusqlite::Connection::open(dir.path().join(FILE)).unwrap();
    let kept: i64 = direct
        .query_row("SELECT count(*) FROM states", [], |row| row.get(0))
        .unwrap();
    assert_eq!(kept, 2);
    direct
        .execute("UPDATE states SET bytes = x'00' WHERE generation = 3", [])
        .unwrap();
    drop(direct);
    let store = open(dir.path());
    assert_eq!(store.reader().state("policy").unwrap(), Some(state(&[2; 100], 2)));
    // A new one is newer than the damaged one.
    store.save_state(state(&[4; 100], 4)).await.unwrap();
    assert_eq!(store.reader().state("policy").unwrap(), Some(state(&[4; 100], 4)));
    store.close();
}

#[tokio::test]
async fn documents_answers_spend_and_events() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let doc = |name: &str, json: &str| DocRow {
        kind: "experiment".to_owned(),
        name: name.to_owned(),
        at: now(),
        json: json.to_owned(),
    };
    store.put_doc(doc("b", "{}")).await.unwrap();
    store.put_doc(doc("a", "1")).await.unwrap();
    store.put_doc(doc("a", "2")).await.unwrap();
    assert_eq!(
        store.reader().docs("experiment").unwrap(),
        [doc("a", "2"), doc("b", "{}")]
    );
    store.drop_doc("experiment", "a").await.unwrap();
    assert_eq!(store.reader().doc("experiment", "a").unwrap(), None);

    let answer = IdempotentRow {
        key: "k".to_owned(),
        at: now(),
        body_hash: vec![7; 32],
        answer: b"answer".to_vec(),
    };
    store.keep_answer(answer.clone());
    for _ in 0..3 {
        store.add_spend("route/auto", "2023-11-14", Usd::from_nanos(5));
    }
    store.log_event(EventRow {
        at: now(),
        kind: "price".into(),
        subject: "p/a".to_owned(),
        detail: "{}".to_owned(),
    });
    store.flush().await.unwrap();
    let reader = store.reader();
    assert_eq!(reader.idempotent("k", now()).unwrap(), Some(answer));
    assert_eq!(
        reader
            .idempotent("k", now().plus(Duration::from_secs(86_400)))
            .unwrap(),
        None
    );
    assert_eq!(
        reader.spent("route/auto", "2023-11-14").unwrap(),
        Usd::from_nanos(15)
    );
    assert_eq!(reader.spent("route/auto", "2023-11-15").unwrap(), Usd::ZERO);
    let later = UnixMs(now().0 + 1);
    assert_eq!(reader.events(Some("price"), now(), later, 10).unwrap().len(), 1);
    assert_eq!(reader.events(Some("circuit"), now(), later, 10).unwrap().len(), 0);
    assert_eq!(reader.events(None, later, UnixMs(i64::MAX), 10).unwrap().len(), 0);
    store.close();
}

#[tokio::test]
async fn the_joined_log_comes_in_order_and_whole() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let count = 1_234_i64;
    for index in 0..count {
        let id = format!("d{index}");
        // Two decisions a millisecond, logged out of order.
        let at = UnixMs(now().0 + (index ^ 1) / 2);
        store.log_decision(DecisionRow { at, ..decision(&id) });
        store.log_attempt(attempt(&id, 2));
        store.log_attempt(attempt(&id, 1));
    }
    store.record_feedback(feedback("d0", "ann", 0.5)).await.unwrap();
    let all: Vec<Joined> = store
        .reader()
        .log(now(), UnixMs(i64::MAX))
        .collect::<Result<_, _>>()
        .unwrap();
    assert_eq!(all.len() as i64, count);
    assert!(all.is_sorted_by_key(|joined| (joined.decision.at, joined.seq)));
    assert!(
        all.iter()
            .all(|joined| joined.attempts.iter().map(|a| a.number).eq([1, 2]))
    );
    assert_eq!(all.iter().map(|joined| joined.scores.len()).sum::<usize>(), 1);
    let part = store
        .reader()
        .log(UnixMs(now().0 + 10), UnixMs(now().0 + 20))
        .count();
    assert_eq!(part, 20);
    store.close();
}

#[tokio::test]
async fn retention_deletes_the_oldest_and_never_uses_a_place_twice() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for index in 0..5_000 {
        store.log_decision(decision(&format!("d{index}")));
        store.log_attempt(attempt(&format!("d{index}"), 1));
    }
    store.log_attempt(attempt("dropped", 1));
    store.record_feedback(feedback("d1", "ann", 0.5)).await.unwrap();
    let last = store
        .record_feedback(feedback("d4999", "ann", 0.5))
        .await
        .unwrap();
    store.close();
    let retention = Retention {
        decisions: 10,
        ..Retention::default()
    };
    let settings = Settings {
        retention,
        ..Settings::default()
    };
    let store = Store::open_with(dir.path(), now(), settings).unwrap();
    store.prune(now()).await.unwrap();
    let left: Vec<_> = store
        .reader()
        .log(UnixMs(0), UnixMs(i64::MAX))
        .map(Result::unwrap)
        .collect();
    assert_eq!(left.len(), 10);
    assert_eq!(left[0].decision.id.as_ref(), "d4990");
    assert_eq!(store.reader().feedback_since(0, 10).unwrap().len(), 1);
    let attempts = store.reader().attempts_since(0, 100).unwrap();
    assert_eq!(attempts.len(), 11);

    // Everything goes by age; the places go on.
    store
        .prune(now().plus(Duration::from_secs(91 * 86_400)))
        .await
        .unwrap();
    assert_eq!(store.reader().log(UnixMs(0), UnixMs(i64::MAX)).count(), 0);
    store.close();
    let store = open(dir.path());
    store.log_decision(decision("fresh"));
    let next = store
        .record_feedback(feedback("fresh", "ann", 0.5))
        .await
        .unwrap();
    assert_eq!(next.seq, last.seq + 1);
    store.close();
}

#[tokio::test]
async fn retention_waits_for_the_learner() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.log_decision(decision("learned"));
    store.log_decision(decision("unlearned"));
    let learned = store
        .record_feedback(feedback("learned", "ann", 0.5))
        .await
        .unwrap();
    store
        .record_feedback(feedback("unlearned", "ann", 0.5))
        .await
        .unwrap();
    let later = now().plus(Duration::from_secs(100 * 86_400));
    store
        .save_state(StateRow {
            at: later,
            ..state(b"s", learned.seq)
        })
        .await
        .unwrap();
    store.prune(later).await.unwrap();
    let left: Vec<_> = store
        .reader()
        .log(UnixMs(0), later)
        .map(|row| row.unwrap().decision.id)
        .collect();
    assert_eq!(left, ["unlearned".into()]);
    store.close();
}

/// With the writer kept busy by a lock of our own, the queue fills up; what does not fit is counted, not waited for.
#[tokio::test]
async fn a_full_queue_drops_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings {
        queue: 100,
        ..Settings::default()
    };
    let store = Store::open_with(dir.path(), now(), settings).unwrap();
    let blocker = rusqlite::Connection::open(store.path()).unwrap();
    blocker.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut taken = 0;
    for index in 0..1_000 {
        taken += u64::from(store.log_decision(decision(&format!("d{index}"))));
    }
    store.log_attempt(attempt("d0", 1));
    let stats = store.stats();
    // One batch may already have been taken before the queue filled up again.
    assert!((100..=300).contains(&taken), "{taken}");
    assert_eq!(
        (stats.dropped_decisions, stats.dropped_others),
        (1_000 - taken, 1)
    );
    blocker.execute_batch("COMMIT").unwrap();
    store.flush().await.unwrap();
    assert_eq!(
        store.reader().log(UnixMs(0), UnixMs(i64::MAX)).count() as u64,
        taken
    );
    assert_eq!(store.stats().written, taken);
    store.close();
    assert!(!store.log_decision(decision("late")));
    assert_eq!(store.flush().await, Err(StoreError::Closed));
}

#[tokio::test]
async fn a_decision_logged_twice_is_refused_alone() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for id in ["d1", "d1", "d2"] {
        store.log_decision(decision(id));
    }
    store.flush().await.unwrap();
    assert_eq!(store.reader().log(UnixMs(0), UnixMs(i64::MAX)).count(), 2);
    assert_eq!(store.stats().rejected, 1);
    store.close();
}

mod properties {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    /// What the learner makes of the log: it takes what is replaced out and puts the new mean in.
    fn means(log: &[LoggedFeedback]) -> HashMap<String, (i64, f64)> {
        let mut sums: HashMap<String, (i64, f64)> = HashMap::new();
        for entry in log {
            let sum = sums.entry(entry.decision.id.to_string()).or_default();
            if let Some((_, before)) = entry.mean_before {
                *sum = (sum.0 - 1, sum.1 - before);
            }
            *sum = (sum.0 + 1, sum.1 + entry.mean);
        }
        sums
    }

    /// The scores that stand: those that were replaced taken out.
    fn learned(log: &[LoggedFeedback]) -> HashMap<(String, String), (i64, f64)> {
        let mut sums: HashMap<(String, String), (i64, f64)> = HashMap::new();
        for entry in log {
            let sum = sums
                .entry((entry.decision.id.to_string(), entry.metric.to_string()))
                .or_default();
            if let Some((_, previous)) = entry.previous {
                *sum = (sum.0 - 1, sum.1 - previous);
            }
            *sum = (sum.0 + 1, sum.1 + entry.score);
        }
        sums
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// Scores of four raters for three decisions, in any order and split into any batches, each sent up to three
        /// times in a row: the sums over the log are those of the last score of each rater.
        #[test]
        fn joining_is_idempotent(
            sent in prop::collection::vec((0_usize..3, 0_usize..4, 0_u8..=4, 1_usize..=3), 1..40),
            batch in 1_usize..7,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let dir = tempfile::tempdir().unwrap();
            let store = open(dir.path());
            for index in 0..3 {
                store.log_decision(decision(&format!("d{index}")));
            }
            let mut last: HashMap<(usize, usize), f64> = HashMap::new();
            let mut rows = Vec::new();
            for (decision, rater, quarter, times) in &sent {
                let score = f64::from(*quarter) / 4.0;
                last.insert((*decision, *rater), score);
                for _ in 0..*times {
                    rows.push(feedback(&format!("chatcmpl-d{decision}"), &format!("r{rater}"), score));
                }
            }
            for rows in rows.chunks(batch) {
                for ack in runtime.block_on(store.record_feedback_batch(rows.to_vec())) {
                    ack.unwrap();
                }
            }
            let log = store.reader().feedback_since(0, 1_000).unwrap();
            let (sums, means) = (learned(&log), means(&log));
            for index in 0..3 {
                let scores = last.iter().filter(|((decision, _), _)| *decision == index);
                let expected = scores.fold((0, 0.0), |(n, sum), (_, score)| (n + 1, sum + score));
                let key = (format!("d{index}"), "quality".to_owned());
                // Quarters add up exactly.
                prop_assert_eq!(sums.get(&key).copied().unwrap_or((0, 0.0)), expected);
                if let Some((observations, mean)) = means.get(&key.0) {
                    prop_assert_eq!(*observations, 1);
                    prop_assert!((mean - expected.1 / expected.0 as f64).abs() < 1e-9);
                }
            }
            store.close();
        }

        /// The order in which different raters score makes no difference.
        #[test]
        fn joining_is_free_of_order(
            scores in prop::collection::vec(0_u8..=4, 1..12),
            keys in prop::collection::vec(any::<u32>(), 12),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let mut orders: Vec<Vec<usize>> = vec![(0..scores.len()).collect()];
            let mut shuffled = orders[0].clone();
            shuffled.sort_by_key(|index| keys[*index]);
            orders.push(shuffled);
            let mut sums = Vec::new();
            for order in orders {
                let dir = tempfile::tempdir().unwrap();
                let store = open(dir.path());
                store.log_decision(decision("d0"));
                let rows = order
                    .iter()
                    .map(|index| feedback("d0", &format!("r{index}"), f64::from(scores[*index]) / 4.0))
                    .collect();
                runtime.block_on(store.record_feedback_batch(rows));
                sums.push(learned(&store.reader().feedback_since(0, 1_000).unwrap()));
                store.close();
            }
            prop_assert_eq!(&sums[0], &sums[1]);
        }
    }
}
