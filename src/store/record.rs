//! What a score does to the log: new, repeated, revised, of an episode.
//!
//! One score counts for each (decision, metric, rater). The log only grows; an entry that replaces an earlier score
//! holds that score too, so that whoever learns from the log takes the old one out and puts the new one in, once.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::rows::{FeedbackAck, FeedbackRow};
use crate::feedback::{Target, decision_in};

/// Decisions of one episode that a score reaches: the newest so many.
const EPISODE_REACH: i64 = 64;

/// The decision with this id: as it is, as a response id, or as the provider's id of an answer.
pub(super) fn find_decision(connection: &Connection, id: &str) -> rusqlite::Result<Option<Arc<str>>> {
    let mut by_id = connection.prepare_cached("SELECT id FROM decisions WHERE id = ?1")?;
    for candidate in [id, decision_in(id)] {
        if let Some(found) = by_id.query_row([candidate], |row| row.get(0)).optional()? {
            return Ok(Some(found));
        }
    }
    let mut by_upstream = connection.prepare_cached(
        "SELECT d.id FROM attempts a JOIN decisions d ON d.id = a.decision
         WHERE a.upstream_id = ?1 ORDER BY a.seq DESC LIMIT 1",
    )?;
    by_upstream.query_row([id], |row| row.get(0)).optional()
}

/// The newest decisions of an episode, newest first.
pub(super) fn find_episode(
    connection: &Connection,
    episode: &str,
    limit: i64,
) -> rusqlite::Result<Vec<Arc<str>>> {
    let mut query = connection
        .prepare_cached("SELECT id FROM decisions WHERE episode = ?1 ORDER BY seq DESC LIMIT ?2")?;
    let rows = query.query_map(params![episode, limit], |row| row.get(0))?;
    rows.collect()
}

/// A score that stands.
struct Standing {
    score: f64,
    at: i64,
    seq: i64,
}

impl Standing {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            score: row.get(0)?,
            at: row.get(1)?,
            seq: row.get(2)?,
        })
    }
}

/// Records one score inside the writer's transaction. `next` is the next free place in the log. `None`: no such id.
pub(super) fn record(
    connection: &Connection,
    next: &mut i64,
    row: &FeedbackRow,
) -> rusqlite::Result<Option<FeedbackAck>> {
    if let Target::Any(id) = &row.target
        && let Some(decision) = find_decision(connection, id)?
    {
        return record_one(connection, next, &decision, row).map(Some);
    }
    record_episode(connection, next, row.target.id(), row)
}

fn record_one(
    connection: &Connection,
    next: &mut i64,
    decision: &Arc<str>,
    row: &FeedbackRow,
) -> rusqlite::Result<FeedbackAck> {
    let standing = connection
        .prepare_cached(
            "SELECT score, at, seq FROM scores WHERE decision = ?1 AND metric = ?2 AND rater = ?3",
        )?
        .query_row(params![decision, row.metric, row.rater], Standing::read)
        .optional()?;
    if let Some(standing) = &standing
        && standing.score == row.score
    {
        return Ok(ack(standing.seq, Arc::clone(decision), true, None));
    }
    let seq = *next;
    connection
        .prepare_cached(
            "INSERT INTO feedback
             (seq, decision, metric, rater, score, previous, previous_at, at, target, comment, tags)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
        )?
        .execute(params![
            seq,
            decision,
            row.metric,
            row.rater,
            row.score,
            standing.as_ref().map(|standing| standing.score),
            standing.as_ref().map(|standing| standing.at),
            row.at.0,
            row.target.id(),
            row.comment,
            row.tags,
        ])?;
    connection
        .prepare_cached(
            "INSERT INTO scores (decision, metric, rater, score, at, seq) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT (decision, metric, rater) DO UPDATE SET score = ?4, at = ?5, seq = ?6",
        )?
        .execute(params![decision, row.metric, row.rater, row.score, row.at.0, seq])?;
    *next += 1;
    let previous = standing.map(|standing| standing.score);
    Ok(ack(seq, Arc::clone(decision), false, previous))
}

/// A score for an episode counts for each of its decisions so far. Sent again unchanged it is a duplicate even if the
/// episode went on meanwhile: a client that repeats itself must not score what it had not seen.
fn record_episode(
    connection: &Connection,
    next: &mut i64,
    episode: &str,
    row: &FeedbackRow,
) -> rusqlite::Result<Option<FeedbackAck>> {
    let standing = connection
        .prepare_cached(
            "SELECT score, at, seq, decision, decisions FROM episode_scores
             WHERE episode = ?1 AND metric = ?2 AND rater = ?3",
        )?
        .query_row(params![episode, row.metric, row.rater], |row| {
            Ok((
                Standing::read(row)?,
                row.get::<_, Arc<str>>(3)?,
                row.get::<_, i64>(4)?,
            ))
        })
        .optional()?;
    if let Some((standing, decision, decisions)) = &standing
        && standing.score == row.score
    {
        let mut ack = ack(standing.seq, Arc::clone(decision), true, None);
        ack.decisions = *decisions as usize;
        return Ok(Some(ack));
    }
    let decisions = find_episode(connection, episode, EPISODE_REACH)?;
    let mut newest = None;
    for decision in &decisions {
        let one = record_one(connection, next, decision, row)?;
        newest.get_or_insert(one);
    }
    let Some(mut ack) = newest else { return Ok(None) };
    ack.decisions = decisions.len();
    ack.duplicate = false;
    ack.revised = standing.is_some();
    ack.previous = standing.map(|(standing, ..)| standing.score);
    connection
        .prepare_cached(
            "INSERT INTO episode_scores (episode, metric, rater, score, at, seq, decision, decisions)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
             ON CONFLICT (episode, metric, rater)
             DO UPDATE SET score = ?4, at = ?5, seq = ?6, decision = ?7, decisions = ?8",
        )?
        .execute(params![
            episode,
            row.metric,
            row.rater,
            row.score,
            row.at.0,
            ack.seq,
            ack.decision,
            decisions.len() as i64,
        ])?;
    Ok(Some(ack))
}

fn ack(seq: i64, decision: Arc<str>, duplicate: bool, previous: Option<f64>) -> FeedbackAck {
    FeedbackAck {
        feedback_id: format!("fb-{seq}"),
        seq,
        decision,
        decisions: 1,
        duplicate,
        revised: previous.is_some(),
        previous,
    }
}
