//! What the dispatcher is given: a decision that has been made, and the budget it must be carried out within.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::arm::{Arm, ArmId};
use crate::providers::Upstream;
use crate::request::ChatRequest;
use crate::units::Usd;

/// A decision to be carried out. Retries, fallbacks and hedges share its one deadline, one count of attempts and
/// one sum of money.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The decision this carries out; every attempt's record names it.
    pub decision_id: Arc<str>,
    /// What the client asks for.
    pub request: Arc<ChatRequest>,
    /// The primary first, then the fallback order. All of them fit the request: `candidates` saw to that.
    pub candidates: Vec<PlannedArm>,
    /// So many of the candidates, from the first, stand in an order that somebody asked for: the drawn one and
    /// those that the client or the route names. The others are in the policy's order, and one that is slow at the
    /// moment moves behind the rest.
    pub fixed: usize,
    /// When the whole answer must have come, or a stream have begun, by the clock of [`crate::clock::monotonic`].
    pub deadline: Instant,
    /// When a stream that has begun must be complete.
    pub stream_deadline: Instant,
    /// When the first token must have come, before a hedge is sent. `None`: learned from the arm's own latency.
    pub ttft_budget: Option<Duration>,
    /// Whether and how often a hedge may be sent.
    pub hedge: HedgeRule,
    /// Most that all attempts together may be expected to cost. `None`: no limit.
    pub max_cost: Option<Usd>,
    /// Most attempts of any kind. `None`: each deployment of each candidate once, and one retry.
    pub max_attempts: Option<u32>,
    /// Our estimate of the input tokens: for the latency model, and for what a cancelled attempt has used.
    pub input_tokens: u32,
    /// The arm that has answered the conversation so far, where that is known: for any other one, what belongs to a
    /// provider's own conversation is foreign.
    pub history: Option<ArmId>,
}

/// A candidate arm with the deployments that serve it.
#[derive(Clone, Debug)]
pub struct PlannedArm {
    /// The arm.
    pub arm: Arc<Arm>,
    /// Providers and keys that serve it, usually one; never empty.
    pub deployments: Vec<Arc<Deployment>>,
    /// What this request is expected to cost here.
    pub expected_cost: Usd,
}

/// One provider with one key of ours. Health and load are kept by the dispatcher under `name`, so that they
/// survive a reload of the configuration that builds new deployments.
pub struct Deployment {
    /// The provider's name, as in logs, headers and statistics.
    pub provider: Arc<str>,
    /// Unique among deployments; the provider's name, with the key's label when it has several (`openai#2`).
    pub name: Arc<str>,
    /// Its adapter.
    pub upstream: Arc<dyn Upstream>,
    /// Most calls in flight for each arm. When there are so many, another deployment or candidate is asked, and if
    /// there is none the request waits for a place. `None`: no limit.
    pub max_in_flight: Option<u32>,
}

impl Deployment {
    /// A provider with a single key and no limit of its own.
    #[must_use]
    pub fn new(provider: &str, upstream: Arc<dyn Upstream>) -> Self {
        Self {
            provider: Arc::from(provider),
            name: Arc::from(provider),
            upstream,
            max_in_flight: None,
        }
    }
}

impl fmt::Debug for Deployment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deployment")
            .field("name", &self.name)
            .field("max_in_flight", &self.max_in_flight)
            .finish_non_exhaustive()
    }
}

/// Whether and how often a slow first token is answered with a second attempt on another arm.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HedgeRule {
    /// Whether this request may be hedged at all.
    pub enabled: bool,
    /// The client asked for it: a request with tools is then hedged too.
    pub asked: bool,
    /// Most hedges per request in the long run, in [0,1]; 0.02 to 0.05 is usual.
    pub max_rate: f64,
}

impl Default for HedgeRule {
    fn default() -> Self {
        Self {
            enabled: true,
            asked: false,
            max_rate: 0.05,
        }
    }
}
