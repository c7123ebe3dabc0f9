//! Reading: lookups, the logs from a place on, and the joined log for reports.
//!
//! Readers have connections of their own and see what is committed; they never hold the writer up. Calls take
//! microseconds (lookups) to milliseconds (pages) and block: run them off the request's path.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::columns;
use super::error::StoreError;
use super::insert;
use super::joined::JoinedLog;
use super::raters::Stood;
use super::record;
use super::retention::IDEMPOTENCY;
use super::rows::{
    DecisionRow, DocRow, EventRow, IdempotentRow, Joined, LateRow, LoggedAttempt, LoggedFeedback, LoggedLate,
    ScoreRow, Served, StateRow,
};
use super::schema;
use crate::units::{UnixMs, Usd};

/// Connections kept open for the next reader.
const KEPT: usize = 4;

/// Reads the database. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Reader {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
}

impl Reader {
    /// Opens the database of a data directory for reading, beside a server that may be running.
    ///
    /// # Errors
    /// [`StoreError::Missing`] when there is none yet; [`StoreError::Corrupt`], [`StoreError::NewerSchema`].
    pub fn open(data_dir: &Path) -> Result<Self, StoreError> {
        let path = data_dir.join(super::FILE);
        let connection = schema::open_reader(&path)?;
        if !schema::is_current(&path, &connection)? {
            // Of an earlier version: brought up to date as a server would.
            drop(connection);
            let _lock = super::lock(data_dir)?;
            drop(schema::open_writer(&path)?);
        }
        Ok(Self::at(path))
    }

    pub(super) fn at(path: PathBuf) -> Self {
        let idle = Mutex::default();
        Self {
            shared: Arc::new(Shared { path, idle }),
        }
    }

    /// The decision with this id: a decision id, a response id or a provider's id of an answer.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn decision(&self, id: &str) -> Result<Option<DecisionRow>, StoreError> {
        self.with(|connection| match record::find_decision(connection, id)? {
            Some(id) => columns::decision(connection, &id).map(|found| found.map(|(_, row)| row)),
            None => Ok(None),
        })
    }

    /// The decision with this very id.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub(super) fn decision_of(&self, id: &str) -> Result<Option<DecisionRow>, StoreError> {
        self.with(|connection| columns::decision(connection, id).map(|found| found.map(|(_, row)| row)))
    }

    /// A decision with its attempts and scores, by any of its ids.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn joined(&self, id: &str) -> Result<Option<Joined>, StoreError> {
        self.with(|connection| {
            let Some(id) = record::find_decision(connection, id)? else {
                return Ok(None);
            };
            let Some((seq, decision)) = columns::decision(connection, &id)? else {
                return Ok(None);
            };
            columns::join(connection, seq, decision).map(Some)
        })
    }

    /// The newest decisions of an episode, newest first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn episode(&self, episode: &str, limit: u32) -> Result<Vec<DecisionRow>, StoreError> {
        self.with(|connection| {
            let ids = record::find_episode(connection, episode, i64::from(limit))?;
            let rows = ids
                .iter()
                .map(|id| columns::decision(connection, id).map(|found| found.map(|(_, row)| row)));
            rows.filter_map(Result::transpose).collect()
        })
    }

    /// All decisions made from `from` on and before `to`, oldest first, with their attempts and scores. Read in
    /// pages: memory stays small and no lock is held between them.
    #[must_use]
    pub fn log(&self, from: UnixMs, to: UnixMs) -> JoinedLog {
        JoinedLog::new(self.clone(), from, to)
    }

    /// When the `count`-th newest decision was made; the beginning of time when there are fewer.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn newest_since(&self, count: u32) -> Result<UnixMs, StoreError> {
        let at: Option<i64> = self.with(|connection| {
            connection
                .prepare_cached("SELECT at FROM decisions ORDER BY at DESC, seq DESC LIMIT 1 OFFSET ?1")?
                .query_row([count.saturating_sub(1)], |row| row.get(0))
                .optional()
        })?;
        Ok(UnixMs(at.unwrap_or(0)))
    }

    /// The feedback log after place `seq`, at most `limit` entries, in order.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn feedback_since(&self, seq: i64, limit: u32) -> Result<Vec<LoggedFeedback>, StoreError> {
        self.with(|connection| {
            let mut query = connection.prepare_cached(
                "SELECT seq, at, metric, rater, score, previous, previous_at, decision FROM feedback
                 WHERE seq > ?1 ORDER BY seq LIMIT ?2",
            )?;
            let rows = query.query_map(params![seq, limit], |row| feedback(connection, row))?;
            rows.filter_map(Result::transpose).collect()
        })
    }

    /// The attempt log after place `seq`, at most `limit` entries, in order.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn attempts_since(&self, seq: i64, limit: u32) -> Result<Vec<LoggedAttempt>, StoreError> {
        self.with(|connection| {
            let mut query = connection.prepare_cached(&format!(
                "SELECT seq, {} FROM attempts WHERE seq > ?1 ORDER BY seq LIMIT ?2",
                columns::ATTEMPT
            ))?;
            let rows = query.query_map(params![seq, limit], |row| {
                let attempt = columns::read_attempt(row, 1)?;
                let decision = columns::decision(connection, &attempt.decision)?;
                Ok(LoggedAttempt {
                    seq: row.get(0)?,
                    attempt: Arc::new(attempt),
                    decision: decision.map(|(_, row)| Arc::new(row)),
                })
            })?;
            rows.collect()
        })
    }

    /// The log of late embeddings after place `seq`, at most `limit` entries, in order.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn late_since(&self, seq: i64, limit: u32) -> Result<Vec<LoggedLate>, StoreError> {
        self.with(|connection| {
            let mut query = connection.prepare_cached(
                "SELECT seq, decision, version, features FROM late_embeddings WHERE seq > ?1 ORDER BY seq LIMIT ?2",
            )?;
            let mut scores = connection.prepare_cached(
                "SELECT seq, at, metric, rater, score, previous, previous_at, decision FROM feedback
                 WHERE decision = ?1 ORDER BY seq",
            )?;
            let found = query
                .query_map(params![seq, limit], late)?
                .collect::<rusqlite::Result<Vec<_>>>()?;
            let join = |(seq, late): (i64, LateRow)| {
                let rows = scores.query_map([&late.decision], |row| feedback(connection, row))?;
                let feedback = rows.filter_map(Result::transpose).collect::<rusqlite::Result<_>>()?;
                Ok(LoggedLate { seq, late, feedback })
            };
            found.into_iter().map(join).collect()
        })
    }

    /// The late embedding of a decision, with its place in the log.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn late_of(&self, decision: &str) -> Result<Option<(i64, LateRow)>, StoreError> {
        self.with(|connection| {
            connection
                .prepare_cached(
                    "SELECT seq, decision, version, features FROM late_embeddings WHERE decision = ?1 ORDER BY seq LIMIT 1",
                )?
                .query_row([decision], late)
                .optional()
        })
    }

    /// The name by which what was trained on this log knows it again.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn identity(&self) -> Result<String, StoreError> {
        let row = self.doc("log", "identity")?;
        Ok(row.map_or_else(String::new, |row| row.json.trim_matches('"').to_owned()))
    }

    /// What is noted (`detail`) with each decision after place `seq` that is part of an experiment, in order, and the
    /// last place of the decisions then.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn enrolments_since(&self, seq: i64) -> Result<(i64, Vec<String>), StoreError> {
        self.with(|connection| {
            let last: i64 = connection
                .prepare_cached("SELECT coalesce(max(seq), 0) FROM decisions")?
                .query_row([], |row| row.get(0))?;
            let mut query = connection.prepare_cached(
                "SELECT detail FROM decisions WHERE seq > ?1 AND seq <= ?2 AND experiment IS NOT NULL
                 AND detail IS NOT NULL ORDER BY seq",
            )?;
            let rows = query.query_map(params![seq, last], |row| row.get(0))?;
            Ok((last, rows.collect::<rusqlite::Result<_>>()?))
        })
    }

    /// The last place of the attempt log that is durable; 0 when it is empty.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn last_attempt(&self) -> Result<i64, StoreError> {
        self.with(|connection| {
            connection
                .prepare_cached("SELECT coalesce(max(seq), 0) FROM attempts")?
                .query_row([], |row| row.get(0))
        })
    }

    /// The last place of the log of late embeddings; 0 when it is empty.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn last_late(&self) -> Result<i64, StoreError> {
        self.with(|connection| {
            connection
                .prepare_cached("SELECT coalesce(max(seq), 0) FROM late_embeddings")?
                .query_row([], |row| row.get(0))
        })
    }

    /// The scores that count for a decision.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn scores(&self, decision: &str) -> Result<Vec<ScoreRow>, StoreError> {
        self.with(|connection| columns::scores(connection, decision))
    }

    /// The newest state of that name that is whole. A damaged one is passed over with a warning: the one before it
    /// is older, and what came since is in the logs.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn state(&self, name: &str) -> Result<Option<StateRow>, StoreError> {
        let generations = self.with(|connection| {
            let mut query = connection.prepare_cached(
                "SELECT at, version, last_feedback_seq, last_attempt_seq, bytes, checksum FROM states
                 WHERE name = ?1 ORDER BY generation DESC",
            )?;
            let rows = query.query_map([name], |row| {
                let state = StateRow {
                    name: name.to_owned(),
                    at: UnixMs(row.get(0)?),
                    version: row.get(1)?,
                    last_feedback_seq: row.get(2)?,
                    last_attempt_seq: row.get(3)?,
                    bytes: row.get(4)?,
                };
                Ok((state, row.get::<_, i64>(5)?))
            })?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        })?;
        for (state, checksum) in generations {
            if insert::checksum(&state.bytes) == checksum {
                return Ok(Some(state));
            }
            tracing::warn!(
                name,
                taken_at_ms = state.at.0,
                "the learned state is damaged; falling back to the one before and learning anew what came since"
            );
        }
        Ok(None)
    }

    /// Events of a kind, or of all, from `from` on and before `to`, oldest first, at most `limit`.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn events(
        &self,
        kind: Option<&str>,
        from: UnixMs,
        to: UnixMs,
        limit: u32,
    ) -> Result<Vec<EventRow>, StoreError> {
        self.with(|connection| {
            let mut query = connection.prepare_cached(
                "SELECT at, kind, subject, detail FROM events
                 WHERE at >= ?1 AND at < ?2 AND (?3 IS NULL OR kind = ?3) ORDER BY seq LIMIT ?4",
            )?;
            let rows = query.query_map(params![from.0, to.0, kind, limit], |row| {
                Ok(EventRow {
                    at: UnixMs(row.get(0)?),
                    kind: row.get::<_, String>(1)?.into(),
                    subject: row.get(2)?,
                    detail: row.get(3)?,
                })
            })?;
            rows.collect()
        })
    }

    /// A document.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn doc(&self, kind: &str, name: &str) -> Result<Option<DocRow>, StoreError> {
        self.with(|connection| {
            connection
                .prepare_cached("SELECT kind, name, at, json FROM docs WHERE kind = ?1 AND name = ?2")?
                .query_row([kind, name], doc)
                .optional()
        })
    }

    /// All documents of a kind, by name.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn docs(&self, kind: &str) -> Result<Vec<DocRow>, StoreError> {
        self.with(|connection| {
            let mut query = connection
                .prepare_cached("SELECT kind, name, at, json FROM docs WHERE kind = ?1 ORDER BY name")?;
            let rows = query.query_map([kind], doc)?;
            rows.collect()
        })
    }

    /// The answer kept under an idempotency key, unless it is older than 24 hours.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn idempotent(&self, key: &str, now: UnixMs) -> Result<Option<IdempotentRow>, StoreError> {
        let row = self.with(|connection| {
            connection
                .prepare_cached("SELECT key, at, body_hash, answer FROM idempotency WHERE key = ?1")?
                .query_row([key], |row| {
                    Ok(IdempotentRow {
                        key: row.get(0)?,
                        at: UnixMs(row.get(1)?),
                        body_hash: row.get(2)?,
                        answer: row.get(3)?,
                    })
                })
                .optional()
        })?;
        Ok(row.filter(|row| now.since(row.at) < IDEMPOTENCY))
    }

    /// What was spent in a scope (a route, a key, all) within a period, both as their owner names them.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn spent(&self, scope: &str, period: &str) -> Result<Usd, StoreError> {
        let nanos = self.with(|connection| {
            connection
                .prepare_cached("SELECT nanos FROM ledger WHERE scope = ?1 AND period = ?2")?
                .query_row([scope, period], |row| row.get(0))
                .optional()
        })?;
        Ok(Usd::from_nanos(nanos.unwrap_or(0)))
    }

    /// Runs a query on an idle connection, or on a new one.
    pub(super) fn with<T>(
        &self,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        let idle = || self.shared.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = idle().pop();
        let connection = match kept {
            Some(connection) => connection,
            None => schema::open_reader(&self.shared.path)?,
        };
        let answer = query(&connection).map_err(|error| StoreError::from_sql(&self.shared.path, &error));
        let mut idle = idle();
        if answer.is_ok() && idle.len() < KEPT {
            idle.push(connection);
        }
        answer
    }
}

/// An entry of the feedback log with its decision; `None` when that is gone. Columns: seq, at, metric, rater, score,
/// previous, previous_at, decision.
fn feedback(connection: &Connection, row: &Row<'_>) -> rusqlite::Result<Option<LoggedFeedback>> {
    let decision: Arc<str> = row.get(7)?;
    let Some((_, decision)) = columns::decision(connection, &decision)? else {
        return Ok(None);
    };
    let previous: Option<f64> = row.get(5)?;
    let previous_at: Option<i64> = row.get(6)?;
    let (seq, metric, score) = (row.get(0)?, row.get::<_, Arc<str>>(2)?, row.get(4)?);
    let stood = Stood::before(connection, &decision.id, &metric, seq)?;
    Ok(Some(LoggedFeedback {
        seq,
        at: UnixMs(row.get(1)?),
        metric,
        rater: row.get(3)?,
        score,
        mean: stood.with(score, previous),
        mean_before: stood.mean(previous),
        previous: previous_at.map(UnixMs).zip(previous),
        served: served(connection, &decision.id)?,
        decision,
    }))
}

fn late(row: &Row<'_>) -> rusqlite::Result<(i64, LateRow)> {
    Ok((
        row.get(0)?,
        LateRow {
            decision: row.get(1)?,
            version: row.get(2)?,
            features: row.get(3)?,
        },
    ))
}

fn served(connection: &Connection, decision: &str) -> rusqlite::Result<Option<Served>> {
    connection
        .prepare_cached("SELECT arm, role FROM attempts WHERE decision = ?1 AND served")?
        .query_row([decision], |row| {
            Ok(Served {
                arm: columns::arm(row, 0)?,
                role: row.get(1)?,
            })
        })
        .optional()
}

fn doc(row: &Row<'_>) -> rusqlite::Result<DocRow> {
    Ok(DocRow {
        kind: row.get(0)?,
        name: row.get(1)?,
        at: UnixMs(row.get(2)?),
        json: row.get(3)?,
    })
}
