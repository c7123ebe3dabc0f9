//! Writes log entries. Statements are prepared once and kept by the connection.

use rusqlite::{Connection, params};

use super::codec;
use super::queue::Entry;
use super::rows::{AttemptRow, DecisionRow, DocRow, LateRow, StateRow};

/// The next free place in each log.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sequences {
    pub(super) decisions: i64,
    pub(super) attempts: i64,
    pub(super) feedback: i64,
    pub(super) events: i64,
    pub(super) late: i64,
}

/// The logs that have places, by table name.
pub(super) const LOGS: [&str; 5] = ["decisions", "attempts", "feedback", "events", "late_embeddings"];

impl Sequences {
    /// Goes on after the last place ever used, also if retention has deleted that row since.
    pub(super) fn load(connection: &Connection) -> rusqlite::Result<Self> {
        let next = |table: &str| -> rusqlite::Result<i64> {
            let query = format!(
                "SELECT 1 + max((SELECT coalesce(max(seq), 0) FROM {table}),
                                (SELECT coalesce(max(last), 0) FROM sequences WHERE name = '{table}'))"
            );
            connection.query_row(&query, [], |row| row.get(0))
        };
        Ok(Self {
            decisions: next(LOGS[0])?,
            attempts: next(LOGS[1])?,
            feedback: next(LOGS[2])?,
            events: next(LOGS[3])?,
            late: next(LOGS[4])?,
        })
    }

    /// Notes the last places used; called before rows are deleted.
    pub(super) fn save(self, connection: &Connection) -> rusqlite::Result<()> {
        let last = [
            self.decisions,
            self.attempts,
            self.feedback,
            self.events,
            self.late,
        ];
        let mut note = connection.prepare_cached(
            "INSERT INTO sequences (name, last) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET last = ?2",
        )?;
        for (log, next) in LOGS.iter().zip(last) {
            note.execute(params![log, next - 1])?;
        }
        Ok(())
    }
}

fn bump(next: &mut i64) -> i64 {
    let seq = *next;
    *next += 1;
    seq
}

pub(super) fn entry(
    connection: &Connection,
    sequences: &mut Sequences,
    entry: &Entry,
) -> rusqlite::Result<()> {
    match entry {
        Entry::Decision(row) => decision(connection, &mut sequences.decisions, row),
        Entry::Attempt(row) => attempt(connection, &mut sequences.attempts, row),
        Entry::Late(row) => late(connection, &mut sequences.late, row),
        Entry::Event(row) => connection
            .prepare_cached(
                "INSERT INTO events (seq, at, kind, subject, detail) VALUES (?1, ?2, ?3, ?4, ?5)",
            )?
            .execute(params![
                bump(&mut sequences.events),
                row.at.0,
                row.kind,
                row.subject,
                row.detail
            ])
            .map(drop),
        Entry::Idempotent(row) => connection
            .prepare_cached(
                "INSERT INTO idempotency (key, at, body_hash, answer) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (key) DO UPDATE SET at = ?2, body_hash = ?3, answer = ?4",
            )?
            .execute(params![row.key, row.at.0, row.body_hash, row.answer])
            .map(drop),
        Entry::Spend { scope, period, nanos } => connection
            .prepare_cached(
                "INSERT INTO ledger (scope, period, nanos) VALUES (?1, ?2, ?3)
                 ON CONFLICT (scope, period) DO UPDATE SET nanos = nanos + ?3",
            )?
            .execute(params![scope, period, nanos])
            .map(drop),
    }
}

fn decision(connection: &Connection, next: &mut i64, row: &DecisionRow) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO decisions
             (seq, id, at, episode, user, route, strategy, category, arm, propensity, explored,
              expected_cost_nanos, expected_quality, experiment, input_tokens, stream, feature_version,
              context, candidates, detail)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20)",
        )?
        .execute(params![
            bump(next),
            row.id,
            row.at.0,
            row.episode,
            row.user,
            row.route,
            row.strategy,
            row.category,
            row.arm.as_str(),
            row.propensity,
            row.explored,
            row.expected_cost.nanos(),
            row.expected_quality,
            row.experiment,
            row.input_tokens,
            row.stream,
            row.feature_version,
            row.context,
            codec::encode(&row.candidates),
            row.detail,
        ])
        .map(drop)
}

fn attempt(connection: &Connection, next: &mut i64, row: &AttemptRow) -> rusqlite::Result<()> {
    let usage = row.usage.as_ref();
    // Token counts beyond 2^63 do not occur.
    let tokens = |count: fn(&crate::completion::Usage) -> u64| usage.map(|usage| count(usage) as i64);
    connection
        .prepare_cached(
            "INSERT INTO attempts
             (seq, decision, number, at, arm, provider, role, outcome, served, stream, ttft_ms, total_ms,
              input_tokens, cached_input_tokens, cache_write_5m_tokens, cache_write_1h_tokens,
              audio_input_tokens, output_tokens, reasoning_tokens, audio_output_tokens, usage_estimated,
              cost_nanos, finish, upstream_id, text_bytes, detail)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19,
                     ?20, ?21, ?22, ?23, ?24, ?25, ?26)",
        )?
        .execute(params![
            bump(next),
            row.decision,
            row.number,
            row.at.0,
            row.arm.as_str(),
            row.provider,
            row.role,
            row.outcome,
            row.served,
            row.stream,
            row.ttft_ms,
            row.total_ms,
            tokens(|usage| usage.input),
            tokens(|usage| usage.cached_input),
            tokens(|usage| usage.cache_write_5m),
            tokens(|usage| usage.cache_write_1h),
            tokens(|usage| usage.audio_input),
            tokens(|usage| usage.output),
            tokens(|usage| usage.reasoning),
            tokens(|usage| usage.audio_output),
            usage.map(|usage| usage.estimated),
            row.cost.map(|cost| cost.nanos()),
            row.finish,
            row.upstream_id,
            row.text_bytes as i64,
            row.detail,
        ])
        .map(drop)
}

/// Without its decision, which a full queue may have dropped, it says nothing.
fn late(connection: &Connection, next: &mut i64, row: &LateRow) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO late_embeddings (seq, decision, version, features)
             SELECT ?1, ?2, ?3, ?4 WHERE EXISTS (SELECT 1 FROM decisions WHERE id = ?2)",
        )?
        .execute(params![bump(next), row.decision, row.version, row.features])
        .map(drop)
}

/// Generations of a learned state that are kept.
const KEPT_STATES: i64 = 2;

pub(super) fn state(connection: &Connection, row: &StateRow) -> rusqlite::Result<()> {
    let generation: i64 = connection
        .prepare_cached("SELECT 1 + coalesce(max(generation), 0) FROM states WHERE name = ?1")?
        .query_row([&row.name], |row| row.get(0))?;
    connection
        .prepare_cached(
            "INSERT INTO states
             (name, generation, at, version, last_feedback_seq, last_attempt_seq, checksum, bytes)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?
        .execute(params![
            row.name,
            generation,
            row.at.0,
            row.version,
            row.last_feedback_seq,
            row.last_attempt_seq,
            checksum(&row.bytes),
            row.bytes,
        ])?;
    connection
        .prepare_cached("DELETE FROM states WHERE name = ?1 AND generation <= ?2")?
        .execute(params![row.name, generation - KEPT_STATES])
        .map(drop)
}

/// Tells a state that was written whole from one that was not.
pub(super) fn checksum(bytes: &[u8]) -> i64 {
    i64::from_le_bytes(xxhash_rust::xxh3::xxh3_64(bytes).to_le_bytes())
}

pub(super) fn doc(connection: &Connection, row: &DocRow) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO docs (kind, name, at, json) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (kind, name) DO UPDATE SET at = ?3, json = ?4",
        )?
        .execute(params![row.kind, row.name, row.at.0, row.json])
        .map(drop)
}

pub(super) fn drop_doc(connection: &Connection, kind: &str, name: &str) -> rusqlite::Result<()> {
    connection
        .prepare_cached("DELETE FROM docs WHERE kind = ?1 AND name = ?2")?
        .execute([kind, name])
        .map(drop)
}
