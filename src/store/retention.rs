//! What is kept, and for how long.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, params};

use super::insert::Sequences;
use crate::units::UnixMs;

/// Answers under idempotency keys are kept for so long.
pub(super) const IDEMPOTENCY: Duration = Duration::from_secs(24 * 3600);
/// Decisions deleted in one transaction, so that nobody waits long for the writer.
const STEP: i64 = 2_000;
/// A learned state that was not saved for so long has no owner any more.
const ABANDONED: Duration = Duration::from_secs(24 * 3600);

/// Limits of the log. The oldest decisions go first, each with its attempts and scores. Never deleted are scores
/// that a stored learned state has not yet learned from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Decisions, attempts, scores and events older than this are deleted.
    pub age: Duration,
    /// Decisions kept at most.
    pub decisions: u64,
    /// Bytes of the log at most: when the file holds more, the oldest decisions are deleted and their space used
    /// again. The file itself does not shrink.
    pub bytes: u64,
}

impl Default for Retention {
    /// 90 days, ten million decisions, 20 GB.
    fn default() -> Self {
        Self {
            age: Duration::from_secs(90 * 24 * 3600),
            decisions: 10_000_000,
            bytes: 20_000_000_000,
        }
    }
}

/// Deletes the next few of what is over the limits, in one small transaction. True when there is more.
pub(super) fn step(
    connection: &Connection,
    path: &Path,
    sequences: Sequences,
    keep: &Retention,
    now: UnixMs,
) -> rusqlite::Result<bool> {
    let oldest = before(now, keep.age);
    let last = last_to_delete(connection, keep, oldest, now)?;
    let delete = || -> rusqlite::Result<()> {
        connection.execute_batch("BEGIN IMMEDIATE")?;
        sequences.save(connection)?;
        forget_answers(connection, now)?;
        connection.execute("DELETE FROM events WHERE at < ?1", [oldest])?;
        if let Some(last) = last {
            delete_decisions(connection, last)?;
        }
        connection.execute_batch("COMMIT")
    };
    if let Err(error) = delete() {
        if !connection.is_autocommit() {
            // The first error is the one worth telling.
            let _ = connection.execute_batch("ROLLBACK");
        }
        return Err(error);
    }
    if wal_bytes(path) > WAL_TOO_LONG {
        // Does not wait for readers: what they still need is moved in a later round.
        connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))?;
    }
    Ok(last.is_some())
}

/// Deletes answers whose idempotency keys have run out.
pub(super) fn forget_answers(connection: &Connection, now: UnixMs) -> rusqlite::Result<()> {
    connection
        .execute(
            "DELETE FROM idempotency WHERE at < ?1",
            [before(now, IDEMPOTENCY)],
        )
        .map(drop)
}

/// Deletes decisions up to `last` with their scores and attempts, and attempts of that time whose decision was
/// never stored.
fn delete_decisions(connection: &Connection, last: i64) -> rusqlite::Result<()> {
    let last_attempt: Option<i64> = connection
        .prepare_cached(
            "SELECT max(a.seq) FROM decisions d JOIN attempts a ON a.decision = d.id WHERE d.seq <= ?1",
        )?
        .query_row([last], |row| row.get(0))?;
    for table in ["feedback", "scores", "episode_scores", "late_embeddings"] {
        connection
            .prepare_cached(&format!(
                "DELETE FROM {table} WHERE decision IN (SELECT id FROM decisions WHERE seq <= ?1)"
            ))?
            .execute([last])?;
    }
    connection
        .prepare_cached("DELETE FROM decisions WHERE seq <= ?1")?
        .execute([last])?;
    connection
        .prepare_cached(
            "DELETE FROM attempts WHERE seq <= ?1
             AND NOT EXISTS (SELECT 1 FROM decisions d WHERE d.id = attempts.decision)",
        )?
        .execute([last_attempt])
        .map(drop)
}

fn before(now: UnixMs, age: Duration) -> i64 {
    now.0
        .saturating_sub(i64::try_from(age.as_millis()).unwrap_or(i64::MAX))
}

/// The last decision of the next step; `None` when nothing is over the limits.
fn last_to_delete(
    connection: &Connection,
    keep: &Retention,
    oldest: i64,
    now: UnixMs,
) -> rusqlite::Result<Option<i64>> {
    let (first, count): (Option<i64>, i64) = connection.query_row(
        "SELECT min(seq), coalesce(max(seq) - min(seq) + 1, 0) FROM decisions",
        [],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    let Some(first) = first else { return Ok(None) };
    let step_end = first + STEP - 1;
    let over_count = count - i64::try_from(keep.decisions).unwrap_or(i64::MAX);
    let by_count = (over_count > 0).then(|| first + over_count - 1);
    let by_bytes = (used_bytes(connection)? > keep.bytes).then_some(step_end);
    // Decisions are logged in the order of time, give or take a clock that was set.
    let by_age: Option<i64> = connection.query_row(
        "SELECT max(seq) FROM decisions WHERE seq <= ?1 AND at < ?2",
        params![step_end, oldest],
        |row| row.get(0),
    )?;
    let last = by_count.max(by_bytes).max(by_age).map(|last| last.min(step_end));
    let Some(last) = last else { return Ok(None) };
    // What a learned state has yet to learn from stays. A state that nobody saves any more holds nothing up.
    let unlearned: Option<i64> = connection.query_row(
        "SELECT min(d.seq) FROM feedback f JOIN decisions d ON d.id = f.decision
         WHERE f.seq > (SELECT min(last_feedback_seq) FROM states WHERE at >= ?1)",
        [before(now, ABANDONED)],
        |row| row.get(0),
    )?;
    let last = unlearned.map_or(last, |unlearned| last.min(unlearned - 1));
    Ok((last >= first).then_some(last))
}

/// Bytes of the file that hold something.
fn used_bytes(connection: &Connection) -> rusqlite::Result<u64> {
    let pragma = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let used = (pragma("page_count")? - pragma("freelist_count")?) * pragma("page_size")?;
    Ok(u64::try_from(used).unwrap_or(0))
}

/// Limits the file's size: beyond it every write fails as on a full disk. `None` lifts the limit. What the file holds
/// already it may go on to hold.
pub(super) fn limit_size(connection: &Connection, bytes: Option<u64>) -> rusqlite::Result<()> {
    let page: i64 = connection.pragma_query_value(None, "page_size", |row| row.get(0))?;
    let pages = bytes.map_or(i64::from(u32::MAX - 1), |bytes| {
        (i64::try_from(bytes).unwrap_or(i64::MAX) / page.max(1)).max(1)
    });
    connection.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()))
}

/// The write-ahead log is moved into the file as far as readers allow when it is longer than this.
const WAL_TOO_LONG: u64 = 64 << 20;

fn wal_bytes(path: &Path) -> u64 {
    let mut wal = path.as_os_str().to_owned();
    wal.push("-wal");
    std::fs::metadata(wal).map(|file| file.len()).unwrap_or(0)
}

/// Moves the write-ahead log into the database and cuts it to nothing, unless a reader still needs it.
pub(super) fn checkpoint(connection: &Connection) -> rusqlite::Result<()> {
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
}
