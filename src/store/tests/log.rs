//! Decisions, attempts and what is read of them.

use super::*;

#[tokio::test]
async fn rows_come_back_as_they_went_in() {
    let (_dir, store) = fresh();
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
    let (_dir, store) = fresh();
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
async fn the_learner_reads_who_served() {
    let (_dir, store) = fresh();
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

#[tokio::test]
async fn the_joined_log_comes_in_order_and_whole() {
    let (_dir, store) = fresh();
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

/// With the writer kept busy by a lock of our own, a batch of one in its hands, the queue fills up; what does not fit is
/// counted, not waited for.
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
    assert!(store.log_decision(decision("held")));
    while store.stats().queued > 0 {
        std::thread::yield_now();
    }
    let taken = (0..1_000)
        .filter(|index| store.log_decision(decision(&format!("d{index}"))))
        .count();
    store.log_attempt(attempt("d0", 1));
    let stats = store.stats();
    assert_eq!(taken, 100);
    assert_eq!((stats.dropped_decisions, stats.dropped_others), (900, 1));
    blocker.execute_batch("COMMIT").unwrap();
    store.flush().await.unwrap();
    assert_eq!(store.reader().log(UnixMs(0), UnixMs(i64::MAX)).count(), 101);
    assert_eq!(store.stats().written, 101);
    store.close();
    assert!(!store.log_decision(decision("late")));
    assert_eq!(store.flush().await, Err(StoreError::Closed));
}

#[tokio::test]
async fn a_decision_logged_twice_is_refused_alone() {
    let (_dir, store) = fresh();
    for id in ["d1", "d1", "d2"] {
        store.log_decision(decision(id));
    }
    store.flush().await.unwrap();
    assert_eq!(store.reader().log(UnixMs(0), UnixMs(i64::MAX)).count(), 2);
    assert_eq!(store.stats().rejected, 1);
    store.close();
}
