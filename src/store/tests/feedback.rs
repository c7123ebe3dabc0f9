//! Scores: each rater counts once, each answer once.

use super::*;

#[tokio::test]
async fn a_score_counts_once_and_a_new_one_replaces_it() {
    let (dir, store) = fresh();
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
    let (_dir, store) = fresh();
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
    let (_dir, store) = fresh();
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
    let (_dir, store) = fresh();
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
