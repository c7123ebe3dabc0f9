//! What a policy is asked, what it answers and what it learns from.

use serde::{Deserialize, Serialize};

use super::Pmf;
use crate::arm::ArmId;

/// Which frozen projection made a feature vector. Each view has its own statistics per arm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum View {
    /// Surface features and hashed words: always there.
    Text,
    /// Sentence embedding: there when it was ready in time.
    Embedding,
}

impl View {
    /// Every view, in the order of [`Self::index`].
    pub const ALL: [Self; 2] = [Self::Text, Self::Embedding];

    /// Position in arrays with one entry per view.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// The feature vectors of one request. The first entry of each is 1, for the intercept.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Contexts<'a> {
    /// [`View::Text`].
    pub text: Option<&'a [f32]>,
    /// [`View::Embedding`].
    pub embedding: Option<&'a [f32]>,
    /// Buckets of the prompt's words ([`WordSet`](crate::context::WordSet)), for the length of its answers. Empty where
    /// they are not known.
    pub words: &'a [u16],
}

impl<'a> Contexts<'a> {
    /// The features of one view.
    #[must_use]
    pub const fn of(&self, view: View) -> Option<&'a [f32]> {
        match view {
            View::Text => self.text,
            View::Embedding => self.embedding,
        }
    }

    /// The features of `preferred` when they are there, else of another view.
    #[must_use]
    pub fn best_of(&self, preferred: View) -> Option<(View, &'a [f32])> {
        std::iter::once(preferred)
            .chain(View::ALL)
            .find_map(|view| Some((view, self.of(view)?)))
    }
}

/// An eligible arm with what it is expected to cost and to take for this request.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate<'a> {
    /// The arm.
    pub arm: &'a ArmId,
    /// Expected dollars of this request, all tokens and fees together. Not negative, finite.
    pub cost_usd: f64,
    /// Expected milliseconds to the answer that the objective counts (0: no latency term).
    pub latency_ms: f64,
}

/// What one request asks of the policy beyond its route's settings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Demands {
    /// Hard floor on expected quality, in [0,1].
    pub quality_floor: Option<f64>,
    /// Margin in place of the route's, in quality points.
    pub quality_margin: Option<f64>,
    /// Probability with which a floor must hold, in (0,1). `None`: the route's.
    pub confidence: Option<f64>,
    /// Whether this request may be used to explore.
    pub explore: bool,
    /// Dollars that it should cost on average, so that the budgets it counts for last; the least of theirs. `None`: no
    /// budget.
    pub target_usd: Option<f64>,
    /// Whether somebody reads the scores: the uncertainty of every candidate is then exact, and not a bound where the
    /// candidate cannot win anyway.
    pub explain: bool,
}

impl Default for Demands {
    fn default() -> Self {
        Self {
            quality_floor: None,
            quality_margin: None,
            confidence: None,
            explore: true,
            target_usd: None,
            explain: false,
        }
    }
}

/// One request to decide.
#[derive(Clone, Debug)]
pub struct Round<'a> {
    /// Name of the route, whose objective and budget apply.
    pub route: &'a str,
    /// The views that are ready.
    pub contexts: Contexts<'a>,
    /// The prompt's category, if the classifier named one.
    pub category: Option<&'a str>,
    /// Eligible arms; never empty.
    pub candidates: &'a [Candidate<'a>],
    /// The request's own wishes.
    pub demands: Demands,
}

/// What a policy thinks of one candidate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ArmScore {
    /// Expected quality, drift included, in about [0,1].
    pub mean: f64,
    /// Standard deviation of that expectation (not of a single answer).
    pub sd: f64,
    /// Expected dollars.
    pub cost_usd: f64,
    /// `mean` less the prices of cost and of excess latency: what is maximised.
    pub value: f64,
    /// Whether it met the request's quality floor (true when there is none).
    pub capable: bool,
}

/// Who decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// The contextual scores.
    Contextual,
    /// The best mix that looks at no prompt: champion until the contextual scores beat it.
    StaticMix,
    /// A baseline or a fixed rule.
    Baseline,
}

impl Strategy {
    /// As written in headers and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Contextual => "contextual",
            Self::StaticMix => "static_mix",
            Self::Baseline => "baseline",
        }
    }
}

/// A pmf over the candidates and how it came about.
#[derive(Clone, Debug, PartialEq)]
pub struct Proposal {
    /// Probability of each candidate, with the exploration floor apart.
    pub pmf: Pmf,
    /// One score a candidate; empty for policies that have none.
    pub scores: Vec<ArmScore>,
    /// Price of a dollar in quality points.
    pub lambda: f64,
    /// Who proposes.
    pub strategy: Strategy,
}

/// The arm that was drawn, with everything that must be logged before the call.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// Index into the round's candidates.
    pub chosen: usize,
    /// P(chosen arm | context), exact.
    pub propensity: f64,
    /// Whether the exploration floor made the draw.
    pub explored: bool,
    /// Probability of every candidate, floor mixed in.
    pub pmf: Vec<f64>,
    /// One score a candidate; empty for policies that have none.
    pub scores: Vec<ArmScore>,
    /// Price of a dollar in quality points.
    pub lambda: f64,
    /// Who decided.
    pub strategy: Strategy,
}

/// The score that an earlier observation carried and a new one replaces.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Revision {
    /// The reward learned before.
    pub reward: f64,
    /// The weight it was learned with.
    pub weight: f64,
}

/// What the decision log kept of a decision, for judging the policy by its own log.
#[derive(Clone, Copy, Debug)]
pub struct Logged<'a> {
    /// The candidates, in the order of `scores`.
    pub arms: &'a [ArmId],
    /// Their scores at the time.
    pub scores: &'a [ArmScore],
    /// The price of a dollar at the time.
    pub lambda: f64,
}

/// A decision joined with its reward.
#[derive(Clone, Copy, Debug)]
pub struct Observation<'a> {
    /// Position in the feedback log, growing from 1. One that is not above the last one seen is ignored.
    pub seq: u64,
    /// Name of the route that decided.
    pub route: &'a str,
    /// The arm that the draw chose (never one that a fallback or hedge put in its place).
    pub arm: &'a ArmId,
    /// Features known by now: all views that were ever made for the request, not only the deciding one.
    pub contexts: Contexts<'a>,
    /// The prompt's category.
    pub category: Option<&'a str>,
    /// Quality in [0,1].
    pub reward: f64,
    /// Weight of the source: 1 for an explicit score, 0.5 for a thumb, 0.1 for an automatic signal.
    pub weight: f64,
    /// P(arm | context) at the time of the decision.
    pub propensity: f64,
    /// What the log kept of the decision; without it the guard learns nothing from this observation.
    pub logged: Option<Logged<'a>>,
    /// Whether the score came so late that it says nothing of the arm's present state: drift is then left alone.
    pub late: bool,
    /// What this score replaces, if the answer had been scored before. Drift is then left alone too.
    pub revises: Option<Revision>,
}

/// Usage and price of one finished call.
#[derive(Clone, Copy, Debug)]
pub struct UsageSample<'a> {
    /// Position in the attempt log, growing from 1. One that is not above the last one seen is ignored.
    pub seq: u64,
    /// Name of the route that paid.
    pub route: &'a str,
    /// The arm that was called.
    pub arm: &'a ArmId,
    /// The request's features.
    pub contexts: Contexts<'a>,
    /// The prompt's category.
    pub category: Option<&'a str>,
    /// Tokens written, if reported.
    pub output_tokens: Option<u64>,
    /// Tokens read, if reported.
    pub input_tokens: Option<u64>,
    /// Of those, read from the provider's prompt cache and written to it, if reported.
    pub cached_tokens: Option<(u64, u64)>,
    /// Tokens that the arm had read before in the same conversation.
    pub prefix_tokens: u64,
    /// What it cost.
    pub cost_usd: f64,
    /// What the decision expected it to cost; 0 when unknown.
    pub expected_cost_usd: f64,
    /// Whether this call ends its request: the pacer counts requests by it (a lost hedge spends, but is none).
    pub ends_request: bool,
}
