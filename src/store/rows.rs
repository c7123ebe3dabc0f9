//! What is stored, in plain rows. Feature vectors are opaque bytes here: only `learner` can read them.

use std::borrow::Cow;
use std::sync::Arc;

use crate::arm::ArmId;
use crate::completion::Usage;
use crate::feedback::{Feedback, Target};
use crate::units::{UnixMs, Usd};

/// Strategy of decisions, and role of attempts, that gave an answer which was there already: no draw was made and no
/// provider called.
pub const FROM_CACHE: &str = "cache";

/// One decision, logged before the call.
#[derive(Clone, Debug, PartialEq)]
pub struct DecisionRow {
    /// The decision's id. The response's id is `chatcmpl-` and this.
    pub id: Arc<str>,
    /// When it was made.
    pub at: UnixMs,
    /// The episode or session it belongs to.
    pub episode: Option<Arc<str>>,
    /// The client's user.
    pub user: Option<Arc<str>>,
    /// The route asked for, or the model if one was named.
    pub route: Arc<str>,
    /// How it was made: the policy's name, `rule`, `named`, ...
    pub strategy: Cow<'static, str>,
    /// The prompt's category.
    pub category: Arc<str>,
    /// The arm that was drawn. Another may have served: see [`AttemptRow::served`].
    pub arm: ArmId,
    /// P(arm | context) under the policy that drew.
    pub propensity: f64,
    /// Whether the exploration floor chose.
    pub explored: bool,
    /// Expected cost of the drawn arm.
    pub expected_cost: Usd,
    /// Expected quality of the drawn arm, in [0,1].
    pub expected_quality: f64,
    /// `name=arm` of the experiment that it takes part in.
    pub experiment: Option<Arc<str>>,
    /// Estimated tokens of the prompt.
    pub input_tokens: u32,
    /// Whether a stream was asked for.
    pub stream: bool,
    /// Version of the features in `context`.
    pub feature_version: u32,
    /// The context, as the learner encodes it.
    pub context: Vec<u8>,
    /// Every arm that was in the draw.
    pub candidates: Vec<CandidateRow>,
    /// Anything further, as JSON.
    pub detail: Option<String>,
}

/// One arm of a draw.
#[derive(Clone, Debug, PartialEq)]
pub struct CandidateRow {
    /// The arm.
    pub arm: ArmId,
    /// P(arm | context).
    pub propensity: f32,
    /// Expected quality in [0,1].
    pub quality: f32,
    /// Its standard deviation.
    pub deviation: f32,
    /// Expected cost.
    pub cost: Usd,
}

/// One attempt, logged when it is over.
#[derive(Clone, Debug, PartialEq)]
pub struct AttemptRow {
    /// The decision that was carried out.
    pub decision: Arc<str>,
    /// 1 for the first of the request.
    pub number: u32,
    /// When it was sent.
    pub at: UnixMs,
    /// The arm called.
    pub arm: ArmId,
    /// The provider called.
    pub provider: Arc<str>,
    /// `primary`, `retry`, `fallback` or `hedge`.
    pub role: Cow<'static, str>,
    /// `succeeded`, or the word of the failure or the cancellation.
    pub outcome: Cow<'static, str>,
    /// Whether this attempt's answer went to the client.
    pub served: bool,
    /// Whether the answer was streamed.
    pub stream: bool,
    /// Milliseconds to the first meaningful event.
    pub ttft_ms: Option<f64>,
    /// Milliseconds to the end.
    pub total_ms: f64,
    /// Tokens used.
    pub usage: Option<Usage>,
    /// What it cost; `None` when no price is known.
    pub cost: Option<Usd>,
    /// Why the answer ended.
    pub finish: Option<Cow<'static, str>>,
    /// The provider's id of the answer.
    pub upstream_id: Option<String>,
    /// Bytes of visible text.
    pub text_bytes: u64,
    /// Anything further (the provider's code, free quality signals), as JSON.
    pub detail: Option<String>,
}

impl AttemptRow {
    /// What an answer that was there already would have cost again; an unknown price counts as nothing. `None` for
    /// calls of a provider.
    #[must_use]
    pub fn saved(&self) -> Option<Usd> {
        if self.role != FROM_CACHE {
            return None;
        }
        let detail: Option<serde_json::Value> = self
            .detail
            .as_deref()
            .and_then(|detail| serde_json::from_str(detail).ok());
        let nanos = detail.and_then(|detail| detail["cache"]["saved_nanos"].as_i64());
        Some(Usd::from_nanos(nanos.unwrap_or(0)))
    }
}

/// An embedding that came after its decision was made and logged.
#[derive(Clone, Debug, PartialEq)]
pub struct LateRow {
    /// The decision.
    pub decision: Arc<str>,
    /// Version of the projection.
    pub version: u32,
    /// The features, as the learner encodes them.
    pub features: Vec<u8>,
}

/// One entry of the log of late embeddings, with its decision and all scores that came for it, in order.
#[derive(Clone, Debug, PartialEq)]
pub struct LoggedLate {
    /// Place in the log.
    pub seq: i64,
    /// The embedding.
    pub late: LateRow,
    /// The scores.
    pub feedback: Vec<LoggedFeedback>,
}

/// A score to be recorded.
#[derive(Clone, Debug, PartialEq)]
pub struct FeedbackRow {
    /// What is scored.
    pub target: Target,
    /// The metric.
    pub metric: String,
    /// Who scored.
    pub rater: String,
    /// In [0,1].
    pub score: f64,
    /// Free text.
    pub comment: Option<String>,
    /// Further tags, as a JSON object.
    pub tags: Option<String>,
    /// When it came.
    pub at: UnixMs,
}

impl FeedbackRow {
    /// A checked score that came `now`.
    #[must_use]
    pub fn new(feedback: Feedback, now: UnixMs) -> Self {
        let tags = &feedback.tags;
        Self {
            tags: (!tags.is_empty())
                .then(|| serde_json::to_string(tags).ok())
                .flatten(),
            target: feedback.target,
            metric: feedback.metric,
            rater: feedback.rater,
            score: feedback.score,
            comment: feedback.comment,
            at: now,
        }
    }
}

/// A score is durable.
#[derive(Clone, Debug, PartialEq)]
pub struct FeedbackAck {
    /// Id of the record. A duplicate has the id of the first.
    pub feedback_id: String,
    /// Place in the log; of a duplicate, the first's.
    pub seq: i64,
    /// The decision that was scored; of an episode, its newest.
    pub decision: Arc<str>,
    /// Decisions of the episode that were scored; 1 otherwise.
    pub decisions: usize,
    /// The same rater gave the same score before: nothing was added.
    pub duplicate: bool,
    /// It replaces an earlier score of the same rater.
    pub revised: bool,
    /// That earlier score.
    pub previous: Option<f64>,
}

/// One entry of the append-only feedback log, with the decision it is about.
#[derive(Clone, Debug, PartialEq)]
pub struct LoggedFeedback {
    /// Place in the log.
    pub seq: i64,
    /// When it came.
    pub at: UnixMs,
    /// The metric.
    pub metric: Arc<str>,
    /// Who scored.
    pub rater: Arc<str>,
    /// In [0,1].
    pub score: f64,
    /// The score of the same rater for the same metric and decision that this one replaces, and when it came.
    pub previous: Option<(UnixMs, f64)>,
    /// Mean of what each rater has said last of this answer by this metric, with `score`: one observation, whoever and
    /// however many score it.
    pub mean: f64,
    /// That mean before, and when it came about; `None` for an answer's first score. Subtract it, then add `mean`.
    pub mean_before: Option<(UnixMs, f64)>,
    /// The decision.
    pub decision: DecisionRow,
    /// Who served it; `None` while the request runs, or when nothing was served.
    pub served: Option<Served>,
}

/// The attempt whose answer the client got.
#[derive(Clone, Debug, PartialEq)]
pub struct Served {
    /// The arm.
    pub arm: ArmId,
    /// `primary`, `retry`, `fallback` or `hedge`.
    pub role: String,
}

/// One entry of the attempt log, with its decision where that is still kept.
#[derive(Clone, Debug, PartialEq)]
pub struct LoggedAttempt {
    /// Place in the log.
    pub seq: i64,
    /// The attempt.
    pub attempt: Arc<AttemptRow>,
    /// The decision that it carried out.
    pub decision: Option<Arc<DecisionRow>>,
}

/// The score that counts now: one for each decision, metric and rater.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoreRow {
    /// The metric.
    pub metric: Arc<str>,
    /// Who scored.
    pub rater: Arc<str>,
    /// In [0,1].
    pub score: f64,
    /// When it came.
    pub at: UnixMs,
}

/// A decision with all that became of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Joined {
    /// Place in the log.
    pub seq: i64,
    /// The decision.
    pub decision: DecisionRow,
    /// Its attempts, in order.
    pub attempts: Vec<AttemptRow>,
    /// The scores that count.
    pub scores: Vec<ScoreRow>,
}

/// Something that happened: a price changed, a circuit opened, a configuration took effect.
#[derive(Clone, Debug, PartialEq)]
pub struct EventRow {
    /// When.
    pub at: UnixMs,
    /// What kind: `price`, `circuit`, `config`, `experiment`, ...
    pub kind: Cow<'static, str>,
    /// About what: an arm, a route, an experiment.
    pub subject: String,
    /// The particulars, as JSON.
    pub detail: String,
}

/// Learned state, as its owner encodes it.
#[derive(Clone, Debug, PartialEq)]
pub struct StateRow {
    /// Whose state.
    pub name: String,
    /// When it was taken.
    pub at: UnixMs,
    /// Version of the encoding.
    pub version: u32,
    /// The last entry of the feedback log that it has learned from.
    pub last_feedback_seq: i64,
    /// The last entry of the attempt log that it has learned from.
    pub last_attempt_seq: i64,
    /// The state.
    pub bytes: Vec<u8>,
}

/// An answer kept under a client's idempotency key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotentRow {
    /// The client and its key, as the server composes them.
    pub key: String,
    /// When the request came. Kept for 24 hours from then.
    pub at: UnixMs,
    /// Hash of the request's body: another body under the same key is a conflict.
    pub body_hash: Vec<u8>,
    /// The answer, as the server encodes it.
    pub answer: Vec<u8>,
}

/// A document of one of the rooms above: an experiment's state, a report's figures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DocRow {
    /// What kind of document.
    pub kind: String,
    /// Its name, unique within its kind.
    pub name: String,
    /// When it was last written.
    pub at: UnixMs,
    /// The document.
    pub json: String,
}
