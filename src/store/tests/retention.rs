//! What is deleted, and when.

use super::*;

#[tokio::test]
async fn retention_deletes_the_oldest_and_never_uses_a_place_twice() {
    let (dir, store) = fresh();
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
    let (_dir, store) = fresh();
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
