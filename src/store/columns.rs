//! Rows of tables as rows of [`super::rows`].

use std::borrow::Cow;

use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row};

use super::codec;
use super::rows::{AttemptRow, DecisionRow, Joined, ScoreRow};
use crate::arm::ArmId;
use crate::completion::Usage;
use crate::units::{UnixMs, Usd};

/// Columns that [`read_decision`] expects.
pub(super) const DECISION: &str =
    "id, at, episode, user, route, strategy, category, arm, propensity, explored,
    expected_cost_nanos, expected_quality, experiment, input_tokens, stream, feature_version, context,
    candidates, detail";

/// Columns that [`read_attempt`] expects.
pub(super) const ATTEMPT: &str =
    "decision, number, at, arm, provider, role, outcome, served, stream, ttft_ms,
    total_ms, input_tokens, cached_input_tokens, cache_write_5m_tokens, cache_write_1h_tokens,
    audio_input_tokens, output_tokens, reasoning_tokens, audio_output_tokens, usage_estimated, cost_nanos,
    finish, upstream_id, text_bytes, detail";

/// A decision and its place in the log.
pub(super) fn decision(connection: &Connection, id: &str) -> rusqlite::Result<Option<(i64, DecisionRow)>> {
    connection
        .prepare_cached(&format!("SELECT seq, {DECISION} FROM decisions WHERE id = ?1"))?
        .query_row([id], |row| Ok((row.get(0)?, read_decision(row, 1)?)))
        .optional()
}

/// The decision with its attempts and scores.
pub(super) fn join(connection: &Connection, seq: i64, decision: DecisionRow) -> rusqlite::Result<Joined> {
    let mut query = connection.prepare_cached(&format!(
        "SELECT {ATTEMPT} FROM attempts WHERE decision = ?1 ORDER BY seq"
    ))?;
    let mut attempts = query
        .query_map([&decision.id], |row| read_attempt(row, 0))?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    attempts.sort_by_key(|attempt| attempt.number);
    Ok(Joined {
        seq,
        attempts,
        scores: scores(connection, &decision.id)?,
        decision,
    })
}

/// The scores that count for a decision.
pub(super) fn scores(connection: &Connection, decision: &str) -> rusqlite::Result<Vec<ScoreRow>> {
    let mut query = connection
        .prepare_cached("SELECT metric, rater, score, at FROM scores WHERE decision = ?1 ORDER BY seq")?;
    let rows = query.query_map([decision], |row| {
        Ok(ScoreRow {
            metric: row.get(0)?,
            rater: row.get(1)?,
            score: row.get(2)?,
            at: UnixMs(row.get(3)?),
        })
    })?;
    rows.collect()
}

pub(super) fn read_decision(row: &Row<'_>, first: usize) -> rusqlite::Result<DecisionRow> {
    let column = |offset: usize| first + offset;
    let candidates = row.get_ref(column(17))?.as_blob()?;
    Ok(DecisionRow {
        id: row.get(column(0))?,
        at: UnixMs(row.get(column(1))?),
        episode: row.get(column(2))?,
        user: row.get(column(3))?,
        route: row.get(column(4))?,
        strategy: word(row, column(5))?,
        category: row.get(column(6))?,
        arm: arm(row, column(7))?,
        propensity: row.get(column(8))?,
        explored: row.get(column(9))?,
        expected_cost: Usd::from_nanos(row.get(column(10))?),
        expected_quality: row.get(column(11))?,
        experiment: row.get(column(12))?,
        input_tokens: row.get(column(13))?,
        stream: row.get(column(14))?,
        feature_version: row.get(column(15))?,
        context: row.get(column(16))?,
        candidates: codec::decode(candidates).ok_or_else(|| {
            rusqlite::Error::InvalidColumnType(column(17), "candidates".to_owned(), Type::Blob)
        })?,
        detail: row.get(column(18))?,
    })
}

pub(super) fn read_attempt(row: &Row<'_>, first: usize) -> rusqlite::Result<AttemptRow> {
    let column = |offset: usize| first + offset;
    let tokens = |offset: usize| -> rusqlite::Result<u64> {
        let count: Option<i64> = row.get(column(offset))?;
        Ok(u64::try_from(count.unwrap_or(0)).unwrap_or(0))
    };
    let estimated: Option<bool> = row.get(column(19))?;
    let usage = match estimated {
        None => None,
        Some(estimated) => Some(Usage {
            input: tokens(11)?,
            cached_input: tokens(12)?,
            cache_write_5m: tokens(13)?,
            cache_write_1h: tokens(14)?,
            audio_input: tokens(15)?,
            output: tokens(16)?,
            reasoning: tokens(17)?,
            audio_output: tokens(18)?,
            estimated,
        }),
    };
    let cost: Option<i64> = row.get(column(20))?;
    let finish: Option<String> = row.get(column(21))?;
    Ok(AttemptRow {
        decision: row.get(column(0))?,
        number: row.get(column(1))?,
        at: UnixMs(row.get(column(2))?),
        arm: arm(row, column(3))?,
        provider: row.get(column(4))?,
        role: word(row, column(5))?,
        outcome: word(row, column(6))?,
        served: row.get(column(7))?,
        stream: row.get(column(8))?,
        ttft_ms: row.get(column(9))?,
        total_ms: row.get(column(10))?,
        usage,
        cost: cost.map(Usd::from_nanos),
        finish: finish.map(Cow::Owned),
        upstream_id: row.get(column(22))?,
        text_bytes: tokens(23)?,
        detail: row.get(column(24))?,
    })
}

pub(super) fn arm(row: &Row<'_>, column: usize) -> rusqlite::Result<ArmId> {
    Ok(ArmId::new(row.get_ref(column)?.as_str()?))
}

fn word(row: &Row<'_>, column: usize) -> rusqlite::Result<Cow<'static, str>> {
    row.get::<_, String>(column).map(Cow::Owned)
}
