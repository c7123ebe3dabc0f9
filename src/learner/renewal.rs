//! New features and seeds while requests run, and embeddings that came too late for their decisions.

use super::lessons::{self, Late, Versions};
use super::signals;
use super::worker::{CHUNK, Worker};
use crate::policy::learner::ContextualLearner;
use crate::policy::seed::LogMark;
use crate::store::{FROM_CACHE, LoggedFeedback, StoreError};

/// Chunks of the log that are learned before another seed is taken up: a million entries.
const MOST_LOOKS: usize = 4_000;

/// Other features or another seed for a learner that runs.
pub struct Renewal {
    /// A learner under them, with every arm and route, that has learned nothing.
    pub fresh: ContextualLearner,
    /// Versions of the features.
    pub versions: Versions,
    /// Called once it is in force, or with the reason why it is not. On the learner's thread: it must be quick.
    pub done: Box<dyn FnOnce(Result<(), String>) + Send>,
}

impl Worker {
    /// Goes on under the features and the seed of `fresh`. What was observed stays with views whose projection is the
    /// same. A seed that was fitted from this very log holds what was observed up to a place in it: only what came
    /// after that is learned on top, so that nothing counts twice.
    pub(super) fn take_up(&mut self, fresh: ContextualLearner, versions: Versions) -> Result<(), StoreError> {
        // What training has read must be behind the learner, so that it can be told from what came after.
        for _ in 0..MOST_LOOKS {
            if !self.look()? {
                break;
            }
        }
        let marks = fresh.seed().map(|seed| seed.learned.clone()).unwrap_or_default();
        let log = self.store.reader().identity()?;
        let own = marks.into_iter().find(|mark| {
            mark.log == log
                && mark.feedback_seq <= self.status.feedback_seq
                && mark.attempt_seq <= self.status.attempt_seq
        });
        match own {
            Some(mark) => {
                let relearned = self.relearn(fresh, &mark, &versions)?;
                self.learner.replace_arms(relearned);
            }
            None => self.learner.renew(fresh),
        }
        self.versions = versions;
        self.unsaved = true;
        Ok(())
    }

    /// `fresh` after what the log holds from `mark` to where the learner is. It has no routes: what they have learned of
    /// spending and of the policy itself is not learned again.
    fn relearn(
        &self,
        mut fresh: ContextualLearner,
        mark: &LogMark,
        versions: &Versions,
    ) -> Result<ContextualLearner, StoreError> {
        fresh.forget_routes();
        let reader = self.store.reader();
        let rounds = self.rounds_since(mark)?;
        fresh.begin_at(
            self.learner.clock().saturating_sub(rounds),
            mark.feedback_seq.unsigned_abs(),
            mark.attempt_seq.unsigned_abs(),
            mark.late_seq.unsigned_abs(),
        );
        // Late embeddings first: a score that is learned below then finds the one that belongs to it.
        let mut late_seq = mark.late_seq;
        while late_seq < self.status.late_seq {
            let page = reader.late_since(late_seq, CHUNK)?;
            let Some(last) = page.last() else { break };
            late_seq = last.seq;
            for logged in page.iter().filter(|logged| logged.seq <= self.status.late_seq) {
                let Some(late) = Late::read(&logged.late, versions) else {
                    continue;
                };
                let seq = logged.seq.unsigned_abs();
                for score in logged
                    .feedback
                    .iter()
                    .filter(|score| score.seq <= mark.feedback_seq)
                {
                    lessons::late_score(&mut fresh, score, versions, &late, seq);
                }
                fresh.late_read(seq);
            }
        }
        let mut noticed = signals::Signals::default();
        let mut attempt_seq = mark.attempt_seq;
        while attempt_seq < self.status.attempt_seq {
            let page = reader.attempts_since(attempt_seq, CHUNK)?;
            let Some(last) = page.last() else { break };
            attempt_seq = last.seq;
            for logged in page.iter().filter(|logged| logged.seq <= self.status.attempt_seq) {
                lessons::usage(&mut fresh, logged, versions);
                noticed.attempt(&mut fresh, logged, versions);
            }
            fresh.solve_if_due();
        }
        let mut feedback_seq = mark.feedback_seq;
        while feedback_seq < self.status.feedback_seq {
            let page = reader.feedback_since(feedback_seq, CHUNK)?;
            let Some(last) = page.last() else { break };
            feedback_seq = last.seq;
            for logged in page
                .iter()
                .filter(|logged| logged.seq <= self.status.feedback_seq)
            {
                let late = self.late_for(logged, versions)?;
                let seq = logged.seq.unsigned_abs();
                lessons::score(&mut fresh, logged, versions, late.as_ref(), seq);
            }
        }
        drop(fresh.take_events());
        Ok(fresh)
    }

    /// Decisions carried out since `mark`: the policy's clock counts them.
    fn rounds_since(&self, mark: &LogMark) -> Result<u64, StoreError> {
        let (mut seq, mut rounds) = (mark.attempt_seq, 0);
        while seq < self.status.attempt_seq {
            let page = self.store.reader().attempts_since(seq, CHUNK)?;
            let Some(last) = page.last() else { break };
            seq = last.seq;
            let first = page.iter().filter(|logged| {
                logged.attempt.number == 1
                    && logged.attempt.role != FROM_CACHE
                    && logged.seq <= self.status.attempt_seq
            });
            rounds += first.count() as u64;
        }
        Ok(rounds)
    }

    /// Learns from embeddings that came after their decisions. A score that was learned before gets its due on the
    /// embedding view here; one that is still to come finds the embedding by [`late_of`](Self::late_of). Which of the
    /// two holds follows from the places that were read, so that it is the same after a crash.
    pub(super) fn look_late(&mut self) -> Result<bool, StoreError> {
        let page = self.store.late_since(self.status.late_seq, CHUNK)?;
        for logged in &page {
            let seq = logged.seq.unsigned_abs();
            if let Some(late) = Late::read(&logged.late, &self.versions) {
                let learned = logged
                    .feedback
                    .iter()
                    .filter(|score| score.seq <= self.status.feedback_seq);
                for score in learned {
                    let counted = lessons::late_score(&mut self.learner, score, &self.versions, &late, seq);
                    self.status.late_scores += u64::from(counted);
                }
            }
            self.learner.late_read(seq);
            self.status.late_seq = logged.seq;
        }
        Ok(!page.is_empty())
    }

    /// The late embedding of a score's decision, if it has been read by now.
    pub(super) fn late_of(&self, logged: &LoggedFeedback) -> Result<Option<Late>, StoreError> {
        self.late_for(logged, &self.versions)
    }

    fn late_for(&self, logged: &LoggedFeedback, versions: &Versions) -> Result<Option<Late>, StoreError> {
        if versions.embedding == 0 || self.status.late_seq == 0 || !lessons::on_policy(logged) {
            return Ok(None);
        }
        let found = self.store.reader().late_of(&logged.decision.id)?;
        Ok(found
            .filter(|(seq, _)| *seq <= self.status.late_seq)
            .and_then(|(_, row)| Late::read(&row, versions)))
    }
}
