//! The log of decisions with what became of each, page by page.

use std::collections::VecDeque;

use rusqlite::params;

use super::columns;
use super::error::StoreError;
use super::read::Reader;
use super::rows::Joined;
use crate::units::UnixMs;

/// Decisions read at a time. Small, so that whoever reads a long log leaves the processor to requests in between.
const PAGE: i64 = 50;

/// Iterates over decisions in the order of time. Ends after the first error.
#[derive(Debug)]
pub struct JoinedLog {
    reader: Reader,
    /// The time and place of the last decision read.
    after: (i64, i64),
    to: UnixMs,
    page: VecDeque<Joined>,
    finished: bool,
}

impl JoinedLog {
    pub(super) fn new(reader: Reader, from: UnixMs, to: UnixMs) -> Self {
        Self {
            reader,
            after: (from.0, 0),
            to,
            page: VecDeque::new(),
            finished: false,
        }
    }

    fn turn(&mut self) -> Result<(), StoreError> {
        std::thread::yield_now();
        let ((at, seq), to) = (self.after, self.to.0);
        let page = self.reader.with(|connection| {
            let mut query = connection.prepare_cached(&format!(
                "SELECT seq, {} FROM decisions WHERE (at, seq) > (?1, ?2) AND at < ?3 ORDER BY at, seq LIMIT ?4",
                columns::DECISION
            ))?;
            let rows = query.query_map(params![at, seq, to, PAGE], |row| {
                columns::join(connection, row.get(0)?, columns::read_decision(row, 1)?)
            })?;
            rows.collect::<rusqlite::Result<VecDeque<_>>>()
        })?;
        self.finished = (page.len() as i64) < PAGE;
        if let Some(last) = page.back() {
            self.after = (last.decision.at.0, last.seq);
        }
        self.page = page;
        Ok(())
    }
}

impl Iterator for JoinedLog {
    type Item = Result<Joined, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.page.is_empty()
            && !self.finished
            && let Err(error) = self.turn()
        {
            self.finished = true;
            return Some(Err(error));
        }
        self.page.pop_front().map(Ok)
    }
}
