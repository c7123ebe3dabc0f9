//! What is kept beside the log: states, documents, answers, spend and events.

use super::*;

#[tokio::test]
async fn a_damaged_state_falls_back_to_the_one_before() {
    let (dir, store) = fresh();
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
    let (_dir, store) = fresh();
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
