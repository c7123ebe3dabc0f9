//! From the log's rows to what the policy learns.

use std::sync::Arc;

use crate::arm::ArmId;
use crate::context::Features;
use crate::feedback::QUALITY;
use crate::learner::codec::{self, Kept};
use crate::policy::learner::ContextualLearner;
use crate::policy::{
    ArmScore, Candidate, Contexts, Demands, Learner as _, Logged, Observation, Revision, Round, UsageSample,
};
use crate::pricing::Corrections;
use crate::store::{DecisionRow, FROM_CACHE, LateRow, LoggedAttempt, LoggedFeedback, Served};
use crate::telemetry::{QualityKey, QualitySample, Telemetry};

/// A score that comes later than this after its decision says nothing of the arm's present state.
const LATE_MS: i64 = 3_600_000;
/// Weight of an explicit score.
const EXPLICIT: f64 = 1.0;

/// Versions of the feature projections in use. Statistics never cross versions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Versions {
    /// Of the text view.
    pub text: u32,
    /// Of the embedding view; 0 when there is none.
    pub embedding: u32,
}

impl Versions {
    /// `features` without those of another projection: statistics never cross versions.
    #[must_use]
    pub fn only(&self, mut features: Features) -> Features {
        if features.text_version != self.text {
            features.text = Arc::from([]);
        }
        if features.embedding_version != self.embedding {
            features.embedding = None;
        }
        features
    }
}

/// Features of an embedding that came after the decision that they belong to.
#[derive(Clone, Debug, PartialEq)]
pub struct Late(Vec<f32>);

impl Late {
    /// Decodes a row of the log. `None` when it belongs to another projection.
    #[must_use]
    pub fn read(row: &LateRow, versions: &Versions) -> Option<Self> {
        let (floats, rest) = row.features.as_chunks::<4>();
        let whole = rest.is_empty() && !floats.is_empty() && row.version == versions.embedding;
        whole.then(|| Self(floats.iter().map(|float| f32::from_le_bytes(*float)).collect()))
    }
}

/// Features as [`LateRow`] keeps them.
#[must_use]
pub fn encode_late(features: &[f32]) -> Vec<u8> {
    features.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// A logged decision, decoded.
#[derive(Debug)]
pub struct Lesson<'a> {
    row: &'a DecisionRow,
    kept: Kept,
    arms: Vec<ArmId>,
    scores: Vec<ArmScore>,
}

impl<'a> Lesson<'a> {
    /// Decodes a row. `None` when it holds nothing to learn from: a damaged context, or one of another version.
    #[must_use]
    pub fn read(row: &'a DecisionRow, versions: &Versions) -> Option<Self> {
        let mut kept = codec::decode(row.feature_version, &row.context).ok()?;
        kept.features = versions.only(kept.features);
        let arms = row
            .candidates
            .iter()
            .map(|candidate| candidate.arm.clone())
            .collect();
        let scores = kept.options.iter().map(|option| option.score).collect();
        Some(Self {
            row,
            kept,
            arms,
            scores,
        })
    }

    /// The route that decided.
    #[must_use]
    pub fn route(&self) -> &str {
        &self.row.route
    }

    /// The views that can be learned from.
    #[must_use]
    pub fn contexts(&self) -> Contexts<'_> {
        Contexts {
            text: (!self.kept.features.text.is_empty()).then_some(&*self.kept.features.text),
            embedding: self.kept.features.embedding.as_deref(),
            words: self.kept.features.words.buckets(),
        }
    }

    /// The same with an embedding that came after the decision, if there is one.
    #[must_use]
    pub fn contexts_with<'b>(&'b self, late: Option<&'b Late>) -> Contexts<'b> {
        let mut contexts = self.contexts();
        contexts.embedding = contexts.embedding.or_else(|| late.map(|late| &*late.0));
        contexts
    }

    /// Milliseconds that were expected of the candidate at `index`; 0 when unknown.
    #[must_use]
    pub fn latency_ms(&self, index: usize) -> f64 {
        self.kept
            .options
            .get(index)
            .map_or(0.0, |option| option.latency_ms.into())
    }

    /// The candidates as the policy saw them.
    #[must_use]
    pub fn candidates(&self) -> Vec<Candidate<'_>> {
        let candidates = self.row.candidates.iter().enumerate();
        candidates
            .map(|(index, candidate)| Candidate {
                arm: &candidate.arm,
                cost_usd: candidate.cost.dollars(),
                latency_ms: self.latency_ms(index),
            })
            .collect()
    }

    /// The round that was decided among these [`candidates`](Self::candidates).
    #[must_use]
    pub fn round<'b>(&'b self, candidates: &'b [Candidate<'b>]) -> Round<'b> {
        Round {
            route: self.route(),
            contexts: self.contexts(),
            category: self.category(),
            candidates,
            demands: Demands::default(),
        }
    }

    /// The candidates with their expected dollars.
    pub fn offers(&self) -> impl Iterator<Item = (ArmId, f64)> {
        self.row
            .candidates
            .iter()
            .map(|candidate| (candidate.arm.clone(), candidate.cost.dollars()))
    }

    /// The prompt's category.
    #[must_use]
    pub fn category(&self) -> Option<&str> {
        (!self.row.category.is_empty()).then_some(&*self.row.category)
    }

    /// Whether the arm that was drawn is among the candidates.
    fn is_whole(&self) -> bool {
        self.arms.contains(&self.row.arm)
    }
}

/// Learns what an attempt used; the first one of a request also tells what was decided. An answer from the cache used
/// nothing, and was not decided.
pub(super) fn usage(learner: &mut ContextualLearner, logged: &LoggedAttempt, versions: &Versions) {
    if logged.attempt.role == FROM_CACHE {
        return;
    }
    let lesson = logged
        .decision
        .as_ref()
        .and_then(|row| Lesson::read(row, versions));
    let attempt = &logged.attempt;
    if let Some(lesson) = &lesson
        && attempt.number == 1
        && lesson.is_whole()
    {
        learner.note_round(&lesson.round(&lesson.candidates()));
    }
    // Cut-off answers say nothing of how long an answer is.
    let whole = attempt.finish.is_some();
    let reported = attempt.usage.filter(|usage| !usage.estimated && whole);
    let row = logged.decision.as_deref();
    // A fallback or a hedge was priced beside the drawn arm, if the policy could have drawn it.
    let priced = |row: &DecisionRow| {
        let candidate = row
            .candidates
            .iter()
            .find(|candidate| candidate.arm == attempt.arm);
        candidate.map(|candidate| candidate.cost.dollars())
    };
    let expected = row.and_then(priced).unwrap_or(0.0);
    learner.record_usage(&UsageSample {
        seq: logged.seq.unsigned_abs(),
        route: row.map_or("", |row| &row.route),
        arm: &attempt.arm,
        contexts: lesson.as_ref().map_or_else(Contexts::default, Lesson::contexts),
        category: lesson.as_ref().and_then(Lesson::category),
        output_tokens: reported.map(|usage| usage.output),
        input_tokens: reported.map(|usage| usage.input),
        cached_tokens: reported
            .map(|usage| (usage.cached_input, usage.cache_write_5m + usage.cache_write_1h)),
        prefix_tokens: row
            .filter(|row| row.arm == attempt.arm)
            .and_then(|row| row.detail.as_deref())
            .map_or(0, prefix_tokens),
        cost_usd: attempt.cost.map_or(expected, |cost| cost.dollars()),
        expected_cost_usd: expected,
        ends_request: attempt.served,
    });
}

/// Tokens that the drawn arm had read before in the same conversation, from a decision's detail.
fn prefix_tokens(detail: &str) -> u64 {
    let detail: Option<serde_json::Value> = serde_json::from_str(detail).ok();
    detail
        .and_then(|detail| detail["prefix_tokens"].as_u64())
        .unwrap_or(0)
}

/// Learns how the provider counts: from calls of the drawn arm, for which the estimate was made, and only from what
/// the provider told.
pub(super) fn tokens(corrections: &mut Corrections, logged: &LoggedAttempt) {
    let attempt = &logged.attempt;
    let Some(row) = logged.decision.as_ref().filter(|row| row.arm == attempt.arm) else {
        return;
    };
    let told = attempt.usage.filter(|usage| !usage.estimated);
    if let (Some(usage), Some(kind)) = (told, codec::kind(row.feature_version, &row.context)) {
        corrections.learn(&row.arm, kind, row.input_tokens.into(), usage.input);
    }
}

/// Counts a score among those of who answered, once an answer.
pub(super) fn measure(telemetry: &Telemetry, logged: &LoggedFeedback) {
    let Some(served) = about(logged) else { return };
    let key = QualityKey {
        arm: served.arm.clone(),
        category: Arc::clone(&logged.decision.category),
    };
    telemetry.record_quality(
        logged.at,
        &QualitySample {
            key,
            score: logged.mean,
            replaces: logged.mean_before,
        },
    );
}

/// Who answered what the score is about. `None` for other metrics, and where nobody served: a failed transport is no
/// quality. Scores of an answer from the cache are repeated measures of one draw, not draws.
fn about(logged: &LoggedFeedback) -> Option<&Served> {
    let counts = *logged.metric == *QUALITY && logged.decision.strategy != FROM_CACHE;
    logged.served.as_ref().filter(|_| counts)
}

/// Whether the drawn arm itself gave the answer that was scored.
#[must_use]
pub fn on_policy(logged: &LoggedFeedback) -> bool {
    about(logged).is_some_and(|served| {
        served.arm == logged.decision.arm && matches!(served.role.as_str(), "primary" | "retry")
    })
}

/// Learns a score: the mean of an answer's raters, revised as more of them score it. Only the drawn arm can be rewarded, and only for its own answer: what a fallback or a hedge
/// answered says nothing about it. `seq`: its place in the order of learning.
pub(super) fn score(
    learner: &mut ContextualLearner,
    logged: &LoggedFeedback,
    versions: &Versions,
    late: Option<&Late>,
    seq: u64,
) {
    if let Some(lesson) = Lesson::read(&logged.decision, versions).filter(|_| on_policy(logged)) {
        let contexts = lesson.contexts_with(late);
        learner.record_reward(&observation(logged, &lesson, contexts, seq));
    }
}

/// Learns a score that was learned before, on the embedding that has come since.
pub(super) fn late_score(
    learner: &mut ContextualLearner,
    logged: &LoggedFeedback,
    versions: &Versions,
    late: &Late,
    seq: u64,
) -> bool {
    let Some(lesson) = Lesson::read(&logged.decision, versions).filter(|_| on_policy(logged)) else {
        return false;
    };
    if lesson.contexts().embedding.is_some() {
        return false;
    }
    let contexts = Contexts {
        text: None,
        embedding: Some(&late.0),
        words: &[],
    };
    learner.record_late(&observation(logged, &lesson, contexts, seq));
    true
}

fn observation<'a>(
    logged: &'a LoggedFeedback,
    lesson: &'a Lesson<'a>,
    contexts: Contexts<'a>,
    seq: u64,
) -> Observation<'a> {
    let row = &logged.decision;
    Observation {
        seq,
        route: lesson.route(),
        arm: &row.arm,
        contexts,
        category: lesson.category(),
        reward: logged.mean,
        weight: EXPLICIT,
        propensity: row.propensity,
        logged: (!lesson.scores.is_empty()).then_some(Logged {
            arms: &lesson.arms,
            scores: &lesson.scores,
            lambda: lesson.kept.lambda,
        }),
        late: logged.at.0 - row.at.0 > LATE_MS,
        revises: logged.mean_before.map(|(_, reward)| Revision {
            reward,
            weight: EXPLICIT,
        }),
    }
}
