//! Tables, their migrations, and the settings of a connection.

use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::error::StoreError;

/// Each entry brings the schema from its index to the next version. Entries are never edited once released.
const MIGRATIONS: [&str; 2] = [FIRST, SECOND];

/// `seq` numbers are handed out by the writer and never used twice, also after old rows were deleted.
/// The latest score of each (decision, metric, rater) stands in `scores`; `feedback` only ever grows.
const FIRST: &str = "
CREATE TABLE decisions (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    at INTEGER NOT NULL,
    episode TEXT,
    user TEXT,
    route TEXT NOT NULL,
    strategy TEXT NOT NULL,
    category TEXT NOT NULL,
    arm TEXT NOT NULL,
    propensity REAL NOT NULL,
    explored INTEGER NOT NULL,
    expected_cost_nanos INTEGER NOT NULL,
    expected_quality REAL NOT NULL,
    experiment TEXT,
    input_tokens INTEGER NOT NULL,
    stream INTEGER NOT NULL,
    feature_version INTEGER NOT NULL,
    context BLOB NOT NULL,
    candidates BLOB NOT NULL,
    detail TEXT
);
CREATE INDEX decisions_by_time ON decisions (at);
CREATE INDEX decisions_by_episode ON decisions (episode) WHERE episode IS NOT NULL;

CREATE TABLE attempts (
    seq INTEGER PRIMARY KEY,
    decision TEXT NOT NULL,
    number INTEGER NOT NULL,
    at INTEGER NOT NULL,
    arm TEXT NOT NULL,
    provider TEXT NOT NULL,
    role TEXT NOT NULL,
    outcome TEXT NOT NULL,
    served INTEGER NOT NULL,
    stream INTEGER NOT NULL,
    ttft_ms REAL,
    total_ms REAL NOT NULL,
    input_tokens INTEGER,
    cached_input_tokens INTEGER,
    cache_write_5m_tokens INTEGER,
    cache_write_1h_tokens INTEGER,
    audio_input_tokens INTEGER,
    output_tokens INTEGER,
    reasoning_tokens INTEGER,
    audio_output_tokens INTEGER,
    usage_estimated INTEGER,
    cost_nanos INTEGER,
    finish TEXT,
    upstream_id TEXT,
    text_bytes INTEGER NOT NULL,
    detail TEXT
);
CREATE INDEX attempts_by_decision ON attempts (decision);
CREATE INDEX attempts_by_upstream_id ON attempts (upstream_id) WHERE upstream_id IS NOT NULL;

CREATE TABLE feedback (
    seq INTEGER PRIMARY KEY,
    decision TEXT NOT NULL,
    metric TEXT NOT NULL,
    rater TEXT NOT NULL,
    score REAL NOT NULL,
    previous REAL,
    previous_at INTEGER,
    at INTEGER NOT NULL,
    target TEXT NOT NULL,
    comment TEXT,
    tags TEXT
);
CREATE INDEX feedback_by_decision ON feedback (decision);
CREATE TABLE scores (
    decision TEXT NOT NULL,
    metric TEXT NOT NULL,
    rater TEXT NOT NULL,
    score REAL NOT NULL,
    at INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    PRIMARY KEY (decision, metric, rater)
) WITHOUT ROWID;
CREATE TABLE episode_scores (
    episode TEXT NOT NULL,
    metric TEXT NOT NULL,
    rater TEXT NOT NULL,
    score REAL NOT NULL,
    at INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    decision TEXT NOT NULL,
    decisions INTEGER NOT NULL,
    PRIMARY KEY (episode, metric, rater)
) WITHOUT ROWID;
CREATE INDEX episode_scores_by_decision ON episode_scores (decision);

CREATE TABLE states (
    name TEXT NOT NULL,
    generation INTEGER NOT NULL,
    at INTEGER NOT NULL,
    version INTEGER NOT NULL,
    last_feedback_seq INTEGER NOT NULL,
    last_attempt_seq INTEGER NOT NULL,
    checksum INTEGER NOT NULL,
    bytes BLOB NOT NULL,
    PRIMARY KEY (name, generation)
);
CREATE TABLE events (
    seq INTEGER PRIMARY KEY,
    at INTEGER NOT NULL,
    kind TEXT NOT NULL,
    subject TEXT NOT NULL,
    detail TEXT NOT NULL
);
CREATE TABLE docs (
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    at INTEGER NOT NULL,
    json TEXT NOT NULL,
    PRIMARY KEY (kind, name)
);
CREATE TABLE idempotency (
    key TEXT PRIMARY KEY,
    at INTEGER NOT NULL,
    body_hash BLOB NOT NULL,
    answer BLOB NOT NULL
);
CREATE INDEX idempotency_by_time ON idempotency (at);
CREATE TABLE ledger (
    scope TEXT NOT NULL,
    period TEXT NOT NULL,
    nanos INTEGER NOT NULL,
    PRIMARY KEY (scope, period)
) WITHOUT ROWID;
CREATE TABLE sequences (
    name TEXT PRIMARY KEY,
    last INTEGER NOT NULL
) WITHOUT ROWID;
";

/// Embeddings that came after their decisions, and a name by which what was trained on this log knows it again.
const SECOND: &str = "
CREATE TABLE late_embeddings (
    seq INTEGER PRIMARY KEY,
    decision TEXT NOT NULL,
    version INTEGER NOT NULL,
    features BLOB NOT NULL
);
CREATE INDEX late_embeddings_by_decision ON late_embeddings (decision);
INSERT INTO docs (kind, name, at, json) VALUES ('log', 'identity', 0, '\"' || lower(hex(randomblob(16))) || '\"');
";

/// How long a connection waits for a lock of another program.
const BUSY: Duration = Duration::from_secs(5);
/// Up to this size the whole file is checked when it is opened; it takes some 50 ms.
const CHECK_UP_TO: u64 = 32 << 20;
/// The log file is cut back to this size after a checkpoint.
const WAL_LIMIT: i64 = 64 << 20;

/// The connection of the one writer: creates the file if need be, checks it and brings the schema up to date.
pub(super) fn open_writer(path: &Path) -> Result<Connection, StoreError> {
    let size = nothing_waits(path)?;
    let begin = || -> rusqlite::Result<Connection> {
        let connection = Connection::open(path)?;
        connection.busy_timeout(BUSY)?;
        connection.set_prepared_statement_cache_capacity(64);
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
        Ok(connection)
    };
    let failed = |error| StoreError::from_sql(path, &error);
    let connection = begin().map_err(failed)?;
    ours(path, &connection)?;
    let set_up = || -> rusqlite::Result<()> {
        connection.pragma_update(None, "journal_mode", "wal")?;
        connection.pragma_update(None, "synchronous", "normal")?;
        connection.pragma_update(None, "journal_size_limit", WAL_LIMIT)?;
        connection.pragma_update(None, "temp_store", "memory")?;
        connection.pragma_update(None, "cache_size", -4096)?;
        keep_plans(&connection)
    };
    set_up().map_err(failed)?;
    if size > 0 && size <= CHECK_UP_TO {
        check(path, &connection)?;
    }
    migrate(path, &connection)?;
    Ok(connection)
}

/// The file's size, 0 when there is none. Refuses an empty one with a write-ahead log: SQLite deletes that unread.
fn nothing_waits(path: &Path) -> Result<u64, StoreError> {
    let size = |path: &Path| std::fs::metadata(path).map_or(0, |file| file.len());
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    if path.exists() && size(path) == 0 && size(Path::new(&log)) > 0 {
        return Err(StoreError::Emptied {
            path: path.display().to_string(),
        });
    }
    Ok(size(path))
}

/// Refuses a file with tables that no version of ours made, before anything is changed in it.
fn ours(path: &Path, connection: &Connection) -> Result<(), StoreError> {
    let tables: i64 = connection
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(|error| StoreError::from_sql(path, &error))?;
    if tables > 0 && version(path, connection)? == 0 {
        return Err(StoreError::Foreign {
            path: path.display().to_string(),
        });
    }
    Ok(())
}

/// A connection that cannot write.
pub(super) fn open_reader(path: &Path) -> Result<Connection, StoreError> {
    if !path.exists() {
        return Err(StoreError::Missing {
            path: path.display().to_string(),
        });
    }
    nothing_waits(path)?;
    let attempt = || -> rusqlite::Result<Connection> {
        // Not read-only for SQLite: a reader of a write-ahead log must be able to make its index.
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(BUSY)?;
        connection.set_prepared_statement_cache_capacity(32);
        connection.pragma_update(None, "query_only", true)?;
        connection.pragma_update(None, "cache_size", -1024)?;
        keep_plans(&connection)?;
        Ok(connection)
    };
    attempt().map_err(|error| StoreError::from_sql(path, &error))
}

/// Without it a prepared statement is planned anew, at the cost of parsing it, whenever another value is bound to it.
fn keep_plans(connection: &Connection) -> rusqlite::Result<()> {
    connection
        .set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)
        .map(drop)
}

/// The schema's version in the file. Refuses one from the future.
pub(super) fn version(path: &Path, connection: &Connection) -> Result<usize, StoreError> {
    let found: i64 = connection
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .map_err(|error| StoreError::from_sql(path, &error))?;
    usize::try_from(found)
        .ok()
        .filter(|version| *version <= MIGRATIONS.len())
        .ok_or_else(|| StoreError::NewerSchema {
            path: path.display().to_string(),
            found,
            known: MIGRATIONS.len() as i64,
        })
}

/// Whether the file needs [`open_writer`] before it can be read.
pub(super) fn is_current(path: &Path, connection: &Connection) -> Result<bool, StoreError> {
    Ok(version(path, connection)? == MIGRATIONS.len())
}

fn migrate(path: &Path, connection: &Connection) -> Result<(), StoreError> {
    let from = version(path, connection)?;
    for (index, migration) in MIGRATIONS.iter().enumerate().skip(from) {
        let step = format!(
            "BEGIN IMMEDIATE; {migration} PRAGMA user_version = {}; COMMIT;",
            index + 1
        );
        connection.execute_batch(&step).map_err(|error| {
            // The first error is the one worth telling.
            let _ = connection.execute_batch("ROLLBACK");
            StoreError::from_sql(path, &error)
        })?;
    }
    Ok(())
}

fn check(path: &Path, connection: &Connection) -> Result<(), StoreError> {
    let found: String = connection
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .map_err(|error| StoreError::from_sql(path, &error))?;
    if found == "ok" {
        return Ok(());
    }
    Err(StoreError::Corrupt {
        path: path.display().to_string(),
        detail: found,
    })
}
