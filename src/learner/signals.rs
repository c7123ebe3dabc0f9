//! Free quality signals from the log: how answers end, and whether the same is asked again at once.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

use super::lessons::{Lesson, Versions};
use crate::arm::ArmId;
use crate::feedback::QUALITY;
use crate::policy::learner::ContextualLearner;
use crate::policy::signals::Signal;
use crate::store::{DecisionRow, LoggedAttempt, LoggedFeedback};

/// Answers that a score is still joined with its signal for.
const REMEMBERED: usize = 10_000;
/// The same prompt of the same user or session within this time means that its answer was not good enough.
const AGAIN_MS: i64 = 60_000;

/// What was noticed of the latest answers.
#[derive(Default)]
pub(super) struct Signals {
    answers: HashMap<Arc<str>, Noticed>,
    order: VecDeque<Arc<str>>,
    /// The latest prompt of each user or session.
    latest: HashMap<Arc<str>, Asked>,
}

struct Noticed {
    signal: Signal,
    expected: f64,
    who: Option<Arc<str>>,
}

struct Asked {
    decision: Arc<str>,
    arm: ArmId,
    at_ms: i64,
    prompt: u64,
}

impl Signals {
    /// Learns from how an answer ended. Only the drawn arm's own answer counts.
    pub(super) fn attempt(
        &mut self,
        learner: &mut ContextualLearner,
        logged: &LoggedAttempt,
        versions: &Versions,
    ) {
        let attempt = &logged.attempt;
        let Some(row) = logged.decision.as_ref() else {
            return;
        };
        let own =
            attempt.served && attempt.arm == row.arm && matches!(attempt.role.as_ref(), "primary" | "retry");
        let (true, Some(finish)) = (own, attempt.finish.as_deref()) else {
            return;
        };
        let Some(lesson) = Lesson::read(row, versions) else {
            return;
        };
        self.again(learner, row, &lesson);
        let signal = Signal::of_answer(finish, attempt.text_bytes);
        learner.record_signal(&row.arm, &lesson.contexts(), lesson.category(), signal);
        self.remember(row, signal);
    }

    /// Whether the same was asked just before: the answer that it got was not wanted.
    fn again(&mut self, learner: &mut ContextualLearner, row: &DecisionRow, lesson: &Lesson<'_>) {
        let Some(who) = who(row) else { return };
        let contexts = lesson.contexts();
        let Some(features) = contexts.text else { return };
        // The words alone could be those of the next turn: the whole request must be as long as it was.
        let length = row.input_tokens.to_le_bytes();
        let bytes: Vec<u8> = features
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .chain(length)
            .collect();
        let asked = Asked {
            decision: Arc::clone(&row.id),
            arm: row.arm.clone(),
            at_ms: row.at.0,
            prompt: xxh3_64(&bytes),
        };
        let before = self.latest.insert(who, asked);
        let Some(before) = before.filter(|before| {
            *before.decision != *row.id
                && before.prompt == xxh3_64(&bytes)
                && (0..=AGAIN_MS).contains(&(row.at.0 - before.at_ms))
        }) else {
            return;
        };
        learner.record_signal(&before.arm, &contexts, lesson.category(), Signal::Regenerated);
        if let Some(noticed) = self.answers.get_mut(&before.decision) {
            noticed.signal = Signal::Regenerated;
        }
    }

    fn remember(&mut self, row: &DecisionRow, signal: Signal) {
        let noticed = Noticed {
            signal,
            expected: row.expected_quality,
            who: who(row),
        };
        if self.answers.insert(Arc::clone(&row.id), noticed).is_none() {
            self.order.push_back(Arc::clone(&row.id));
        }
        while self.order.len() > REMEMBERED {
            let Some(oldest) = self.order.pop_front() else {
                return;
            };
            let gone = self.answers.remove(&oldest).and_then(|noticed| noticed.who);
            if let Some(who) = gone
                && self
                    .latest
                    .get(&who)
                    .is_some_and(|asked| asked.decision == oldest)
            {
                self.latest.remove(&who);
            }
        }
    }

    /// Tells the learner what a signal was worth, once its answer is scored.
    pub(super) fn scored(&mut self, learner: &mut ContextualLearner, logged: &LoggedFeedback) {
        if *logged.metric == *QUALITY
            && logged.mean_before.is_none()
            && let Some(noticed) = self.answers.get(&logged.decision.id)
        {
            learner.signal_scored(noticed.signal, logged.score - noticed.expected);
        }
    }
}

/// Who asks: the session, or else the user.
fn who(row: &DecisionRow) -> Option<Arc<str>> {
    row.episode.as_ref().or(row.user.as_ref()).map(Arc::clone)
}
