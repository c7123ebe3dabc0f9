//! The store against the world: a killed process, another process, damaged files, a full disk.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use pointsman::arm::ArmId;
use pointsman::clock;
use pointsman::feedback::Target;
use pointsman::store::{
    AttemptRow, DecisionRow, FeedbackRow, Reader, RecordError, Settings, StateRow, Store, StoreError,
};
use pointsman::units::{UnixMs, Usd};

const ALL: (UnixMs, UnixMs) = (UnixMs(0), UnixMs(i64::MAX));

fn decision(id: &str, context: usize) -> DecisionRow {
    DecisionRow {
        id: id.into(),
        at: clock::wall(),
        episode: None,
        user: None,
        route: "auto".into(),
        strategy: Cow::Borrowed("thompson"),
        category: "code".into(),
        arm: ArmId::new("p/a"),
        propensity: 1.0,
        explored: false,
        expected_cost: Usd::ZERO,
        expected_quality: 0.5,
        experiment: None,
        input_tokens: 10,
        stream: false,
        feature_version: 1,
        context: vec![7; context],
        candidates: Vec::new(),
        detail: None,
    }
}

fn attempt(decision: &str) -> AttemptRow {
    AttemptRow {
        decision: decision.into(),
        number: 1,
        at: clock::wall(),
        arm: ArmId::new("p/a"),
        provider: "p".into(),
        role: Cow::Borrowed("primary"),
        outcome: Cow::Borrowed("succeeded"),
        served: true,
        stream: false,
        ttft_ms: None,
        total_ms: 10.0,
        usage: None,
        cost: None,
        finish: None,
        upstream_id: None,
        text_bytes: 1,
        detail: None,
    }
}

fn score(decision: &str, score: f64) -> FeedbackRow {
    FeedbackRow {
        target: Target::Any(decision.to_owned()),
        metric: "quality".to_owned(),
        rater: "ann".to_owned(),
        score,
        comment: None,
        tags: None,
        at: clock::wall(),
    }
}

/// Where the writing child finds its directory and its round; absent in an ordinary run of the tests.
const CHILD_DIR: &str = "POINTSMAN_TEST_STORE_DIR";
const CHILD_ROUND: &str = "POINTSMAN_TEST_STORE_ROUND";

/// Not a test of its own: [`no_acknowledged_score_is_lost_or_doubled_by_a_kill`] runs it in a process that it kills.
/// Logs requests as fast as it can and prints each score once it is acknowledged.
#[tokio::test]
async fn writes_until_killed() {
    let Ok(dir) = std::env::var(CHILD_DIR) else { return };
    let round: u32 = std::env::var(CHILD_ROUND).unwrap().parse().unwrap();
    let store = Store::open(Path::new(&dir), clock::wall()).unwrap();
    let mut out = std::io::stdout();
    // Bounded, should nobody kill it.
    for index in 0..200_000_u32 {
        let id = format!("r{round}-{index}");
        store.log_decision(decision(&id, 200));
        store.log_attempt(attempt(&id));
        let scores = vec![score(&id, 0.25), score(&id, 0.25), score(&id, 0.75)];
        let acks = store.record_feedback_batch(scores).await;
        assert!(acks.iter().all(Result::is_ok), "{acks:?}");
        // State is saved between scores, as the learner does.
        if index % 16 == 0 {
            let seq = acks[2].as_ref().unwrap().seq;
            let state = StateRow {
                name: "policy".to_owned(),
                at: clock::wall(),
                version: 1,
                last_feedback_seq: seq,
                last_attempt_seq: 0,
                bytes: seq.to_le_bytes().repeat(5_000),
            };
            store.save_state(state).await.unwrap();
            writeln!(out, "saved {seq}").unwrap();
        }
        writeln!(out, "acknowledged {id}").unwrap();
        out.flush().unwrap();
    }
}

#[test]
fn no_acknowledged_score_is_lost_or_doubled_by_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = Vec::new();
    for round in 0..4 {
        let mut saved = 0_i64;
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store::writes_until_killed", "--nocapture"])
            .env(CHILD_DIR, dir.path())
            .env(CHILD_ROUND, round.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let before = acknowledged.len();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        for line in lines {
            let line = line.unwrap();
            if let Some(id) = line.strip_prefix("acknowledged ") {
                acknowledged.push(id.to_owned());
            } else if let Some(seq) = line.strip_prefix("saved ") {
                saved = seq.parse().unwrap();
            }
            // Killed in the middle of its work; what it said until then is still read.
            if acknowledged.len() == before + 40 + 17 * round as usize {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(acknowledged.len() >= before + 40, "the child ended by itself");
        check(dir.path(), &acknowledged, saved);
    }
}

/// Opens the database as a restart does and looks at everything that was acknowledged.
fn check(dir: &Path, acknowledged: &[String], saved: i64) {
    let store = Store::open(dir, clock::wall()).unwrap();
    let log = store.reader().feedback_since(0, 1_000_000).unwrap();
    assert!(log.is_sorted_by(|a, b| a.seq < b.seq));
    let mut entries: BTreeMap<&str, Vec<(f64, Option<f64>)>> = BTreeMap::new();
    for entry in &log {
        let previous = entry.previous.map(|(_, score)| score);
        entries
            .entry(&entry.decision.id)
            .or_default()
            .push((entry.score, previous));
    }
    for id in acknowledged {
        assert_eq!(entries[id.as_str()], [(0.25, None), (0.75, Some(0.25))], "{id}");
        assert_eq!(
            store.reader().joined(id).unwrap().unwrap().attempts.len(),
            1,
            "{id}"
        );
    }
    // A batch that was not acknowledged is there whole or not at all.
    for (id, entries) in &entries {
        assert_eq!(entries.len(), 2, "{id}");
    }
    let state = store.reader().state("policy").unwrap().unwrap();
    assert!(
        state.last_feedback_seq >= saved,
        "{} {saved}",
        state.last_feedback_seq
    );
    assert_eq!(state.bytes, state.last_feedback_seq.to_le_bytes().repeat(5_000));
    // Sent again after the restart, a score counts no second time.
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let last = acknowledged.last().unwrap();
    let again = runtime
        .block_on(store.record_feedback(score(last, 0.75)))
        .unwrap();
    assert!(again.duplicate, "{again:?}");
    store.close();
}

#[test]
fn a_second_process_is_told_to_stay_away() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), clock::wall()).unwrap();
    let refused = Store::open(dir.path(), clock::wall());
    let Err(error @ StoreError::InUse { .. }) = refused else {
        panic!("{refused:?}")
    };
    let text = error.to_string();
    assert!(
        text.contains("pointsman.lock") && text.contains("server.data_dir"),
        "{text}"
    );
    // Reports may be read meanwhile.
    assert_eq!(Reader::open(dir.path()).unwrap().log(ALL.0, ALL.1).count(), 0);
    store.close();
    Store::open(dir.path(), clock::wall()).unwrap().close();
}

#[tokio::test]
async fn a_database_locked_by_another_program_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), clock::wall()).unwrap();
    store.log_decision(decision("d1", 0));
    store.flush().await.unwrap();
    let path = store.path().to_owned();
    let other = rusqlite::Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let refused = store.record_feedback(score("d1", 0.5)).await;
    let Err(RecordError::Store(error @ StoreError::Locked { .. })) = refused else {
        panic!("{refused:?}")
    };
    assert!(error.to_string().contains("pointsman.db"), "{error}");
    assert!(store.stats().error.is_some());
    other.execute_batch("ROLLBACK").unwrap();
    assert!(!store.record_feedback(score("d1", 0.5)).await.unwrap().duplicate);
    assert_eq!(store.stats().error, None);
    store.close();
}

#[tokio::test]
async fn a_damaged_file_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), clock::wall()).unwrap();
    let path = store.path().to_owned();
    for index in 0..2_000 {
        store.log_decision(decision(&format!("d{index}"), 100));
    }
    store.flush().await.unwrap();
    store.close();
    drop(store);
    let whole = std::fs::read(&path).unwrap();

    let mut scribbled = whole.clone();
    let middle = scribbled.len() / 2;
    scribbled[middle..middle + 20_000].fill(0xAB);
    let cut = whole[..whole.len() / 3].to_vec();
    let text = b"this is no database, but something the user would not like to lose".to_vec();
    for damaged in [scribbled, cut, text] {
        std::fs::write(&path, &damaged).unwrap();
        let refused = Store::open(dir.path(), clock::wall());
        let Err(error @ StoreError::Corrupt { .. }) = refused else {
            panic!("{refused:?}")
        };
        let message = error.to_string();
        assert!(
            message.contains("pointsman.db") && message.contains("move it aside"),
            "{message}"
        );
        assert_eq!(std::fs::read(&path).unwrap(), damaged);
    }
    std::fs::write(&path, &whole).unwrap();
    let store = Store::open(dir.path(), clock::wall()).unwrap();
    assert_eq!(store.reader().log(ALL.0, ALL.1).count(), 2_000);
    store.close();
}

#[test]
fn a_file_of_a_later_version_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), clock::wall()).unwrap();
    let path = store.path().to_owned();
    store.close();
    let direct = rusqlite::Connection::open(&path).unwrap();
    direct.pragma_update(None, "user_version", 99).unwrap();
    drop(direct);
    for refused in [
        Store::open(dir.path(), clock::wall()).map(drop),
        Reader::open(dir.path()).map(drop),
    ] {
        assert!(
            matches!(&refused, Err(StoreError::NewerSchema { found: 99, .. })),
            "{refused:?}"
        );
    }
}

#[test]
fn another_programs_database_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pointsman.db");
    let theirs = rusqlite::Connection::open(&path).unwrap();
    theirs.execute_batch("CREATE TABLE decisions (a)").unwrap();
    drop(theirs);
    let before = std::fs::read(&path).unwrap();
    for refused in [
        Store::open(dir.path(), clock::wall()).map(drop),
        Reader::open(dir.path()).map(drop),
    ] {
        assert!(matches!(&refused, Err(StoreError::Foreign { .. })), "{refused:?}");
        let message = refused.unwrap_err().to_string();
        assert!(
            message.contains("server.data_dir") && message.lines().count() == 1,
            "{message}"
        );
    }
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[tokio::test]
async fn the_log_beside_an_emptied_database_is_not_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), clock::wall()).unwrap();
    store.log_decision(decision("d1", 100));
    store.flush().await.unwrap();
    let (path, log) = (store.path().to_owned(), dir.path().join("pointsman.db-wal"));
    let waits = std::fs::read(&log).unwrap();
    assert!(!waits.is_empty());
    store.close();
    // As after a crash of the machine: what was written last is in the log, and the file has lost its content.
    std::fs::write(&path, b"").unwrap();
    std::fs::write(&log, &waits).unwrap();
    let refused = Store::open(dir.path(), clock::wall());
    let Err(error @ StoreError::Emptied { .. }) = refused else {
        panic!("{refused:?}")
    };
    assert!(error.to_string().contains("pointsman.db-wal"), "{error}");
    assert_eq!(std::fs::read(&log).unwrap(), waits);
    std::fs::remove_file(&log).unwrap();
    // An empty file alone is what a start leaves that was killed at once.
    Store::open(dir.path(), clock::wall()).unwrap().close();
}

#[test]
fn a_report_without_a_database_says_what_to_run() {
    let dir = tempfile::tempdir().unwrap();
    let Err(error) = Reader::open(dir.path()) else {
        panic!("there is no database")
    };
    assert!(error.to_string().contains("pointsman serve"), "{error}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_full_disk_refuses_scores_keeps_serving_and_recovers() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings {
        queue: 500,
        ..Settings::default()
    };
    let store = Store::open_with(dir.path(), clock::wall(), settings).unwrap();
    store.log_decision(decision("d0", 1_000));
    store.record_feedback(score("d0", 0.5)).await.unwrap();
    store.limit_size(Some(1)).unwrap();
    for index in 1..=300 {
        assert!(store.log_decision(decision(&format!("d{index}"), 1_000)));
    }
    let refused = store.record_feedback(score("d0", 1.0)).await;
    assert!(
        matches!(&refused, Err(RecordError::Store(error @ StoreError::Full { .. })) if error.to_string().contains("no space")),
        "{refused:?}"
    );
    // Requests go on: entries are held up to the queue's capacity, then dropped and counted.
    for index in 301..=2_000 {
        store.log_decision(decision(&format!("d{index}"), 1_000));
    }
    assert!(store.flush().await.is_err());
    let stats = store.stats();
    assert!(stats.failures > 0 && stats.error.is_some(), "{stats:?}");
    // What is stored can still be read, and the refused score is not in it.
    assert_eq!(store.reader().scores("d0").unwrap()[0].score, 0.5);

    store.limit_size(None).unwrap();
    let ack = store.record_feedback(score("d0", 1.0)).await.unwrap();
    assert_eq!((ack.revised, ack.previous), (true, Some(0.5)));
    store.flush().await.unwrap();
    let stats = store.stats();
    let stored = store.reader().log(ALL.0, ALL.1).count() as u64;
    assert_eq!(stored + stats.dropped_decisions, 2_001, "{stats:?}");
    assert!(stored >= 301, "{stored}");
    assert_eq!(stats.error, None);
    store.close();
}

#[tokio::test]
async fn a_folder_deleted_under_a_server_is_noticed_and_no_score_is_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let store = Store::open(&data, clock::wall()).unwrap();
    store.log_decision(decision("d1", 0));
    store.record_feedback(score("d1", 0.5)).await.unwrap();
    assert_eq!(store.stats().error, None);
    let away = dir.path().join("away");
    std::fs::rename(&data, &away).unwrap();
    // By itself, although nobody asks for anything.
    let noticing = async {
        while store.stats().error.is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), noticing)
        .await
        .unwrap();
    let gone = async || match store.record_feedback(score("d1", 0.75)).await {
        Err(RecordError::Store(error @ StoreError::Gone { .. })) => error.to_string(),
        other => panic!("{other:?}"),
    };
    assert!(gone().await.contains("restart"), "{}", gone().await);
    // Another database in its place is not the one that is open.
    Store::open(&data, clock::wall()).unwrap().close();
    gone().await;
    std::fs::remove_dir_all(&data).unwrap();
    // Put back, it holds what was acknowledged and goes on.
    std::fs::rename(&away, &data).unwrap();
    let ack = store.record_feedback(score("d1", 0.75)).await.unwrap();
    assert_eq!((ack.revised, ack.previous), (true, Some(0.5)));
    assert_eq!(store.stats().error, None);
    store.close();
}

/// Scores that arrive together share a commit; each waits for the disk, not for the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_clients_share_commits() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), clock::wall()).unwrap();
    for index in 0..400 {
        store.log_decision(decision(&format!("d{index}"), 50));
    }
    store.flush().await.unwrap();
    let before = store.stats().commits;
    let clients: Vec<_> = (0..400)
        .map(|index| tokio::spawn(store.record_feedback(score(&format!("d{index}"), 0.5))))
        .collect();
    for client in clients {
        let ack = tokio::time::timeout(Duration::from_secs(60), client)
            .await
            .unwrap()
            .unwrap();
        assert!(ack.is_ok(), "{ack:?}");
    }
    let commits = store.stats().commits - before;
    assert!((1..=200).contains(&commits), "{commits} commits for 400 scores");
    assert_eq!(store.reader().feedback_since(0, 1_000).unwrap().len(), 400);
    store.close();
}
