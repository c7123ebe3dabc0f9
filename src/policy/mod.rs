//! Policies: from a context to a probability for each eligible arm.
//!
//! A policy never draws. Deciding has three steps (as in Vowpal Wabbit's exploration library): a policy
//! *proposes* a pmf over the candidates, the exploration floor is *mixed in*, and one arm is *drawn* with the
//! caller's random numbers. So the propensity of the chosen arm is exact by construction and never zero.
//!
//! Reading and learning are apart. A [`Policy`] is immutable and decides without a lock; readers share it behind
//! an `Arc`. A [`Learner`] is owned by one writer, takes observations, and publishes policies.

mod gathered;
mod packed;
mod round;

pub mod arm_model;
pub mod category_table;
pub mod contextual;
pub mod drift;
pub mod epsilon_greedy;
pub mod guard;
pub mod learner;
pub mod linear;
pub mod linucb;
pub mod lognormal;
pub mod pacer;
pub mod pmf;
pub mod prompt_cache;
pub mod route;
pub mod seed;
mod shrinkage;
pub mod signals;
pub mod simple;
pub mod solver;
pub mod transfer;
pub mod word_weights;

use std::sync::Arc;

use rand::RngCore;

use crate::arm::ArmId;

pub use category_table::CategoryTable;
pub use contextual::Snapshot;
pub use epsilon_greedy::EpsilonGreedy;
pub use learner::{ArmFacts, ContextualLearner, DriftEvent, LoadError};
pub use linucb::LinUcb;
pub use pmf::Pmf;
pub use prompt_cache::{CachedInput, CachedShares, PromptCache};
pub use round::{
    ArmScore, Candidate, Contexts, Decision, Demands, Logged, Observation, Proposal, Revision, Round,
    Strategy, UsageSample, View,
};
pub use simple::{Fixed, Random};

/// Proposes a pmf for a round. Immutable and free of locks.
pub trait Policy: Send + Sync {
    /// The policy's name, by its paper where it has one.
    fn name(&self) -> &'static str;

    /// The probability of each candidate of `round`, with the scores it came from. `round.candidates` must not
    /// be empty.
    fn propose(&self, round: &Round<'_>) -> Proposal;

    /// The best mix that looks at no prompt, where the policy knows one.
    fn blind(&self, _round: &Round<'_>) -> Option<Proposal> {
        None
    }

    /// Tokens that `arm` is expected to write for this context, when the policy has learned it.
    fn output_tokens(&self, _arm: &ArmId, _contexts: &Contexts<'_>, _category: Option<&str>) -> Option<f64> {
        None
    }

    /// Standard deviation of the logarithm of what [`output_tokens`](Self::output_tokens) expects, once learned.
    fn output_spread(&self, _arm: &ArmId) -> Option<f64> {
        None
    }

    /// What `arm`'s provider is expected to read from its prompt cache, and to write to it, of `input` tokens of which
    /// the arm has read `prefix` before in the same conversation.
    fn cached_input(&self, _arm: &ArmId, _input: u64, _prefix: u64) -> CachedInput {
        CachedInput::default()
    }

    /// The learned shares behind [`cached_input`](Self::cached_input); `None` for an arm that is not known.
    fn cached_shares(&self, _arm: &ArmId) -> Option<CachedShares> {
        None
    }
}

/// Learns from outcomes. Owned by one writer.
pub trait Learner: Send {
    /// Takes a decided round into account before its outcome is known (reservoir, pacing, audit).
    fn record_round(&mut self, round: &Round<'_>, decision: &Decision);

    /// Takes a score into account. One whose `seq` is not above the last one seen is ignored, so that a log can
    /// be replayed over a saved state.
    fn record_reward(&mut self, observation: &Observation<'_>);

    /// Takes the usage and the price of a finished call into account, with the same rule for its own `seq`.
    fn record_usage(&mut self, sample: &UsageSample<'_>);

    /// The price of `arm` is `factor` times what it was. A policy that knows no prices need not care.
    fn price_changed(&mut self, _arm: &ArmId, _factor: f64) {}

    /// The set of arms changed.
    fn arms_changed(&mut self) {}

    /// The contextual learner behind it, for those who share or audit what it learns.
    fn contextual(&mut self) -> Option<&mut ContextualLearner> {
        None
    }

    /// Drift alarms raised so far.
    fn alarms(&self) -> u64 {
        0
    }

    /// What decides now, for readers.
    fn snapshot(&self) -> Arc<dyn Policy>;
}

/// Proposes, mixes the floor in and draws: the whole decision.
///
/// A proposal for a request that opted out of exploration carries no floor.
pub fn decide(policy: &dyn Policy, round: &Round<'_>, rng: &mut dyn RngCore) -> Decision {
    draw(policy.propose(round), rng)
}

/// Makes the draw of a proposal.
pub fn draw(proposal: Proposal, rng: &mut dyn RngCore) -> Decision {
    let draw = proposal.pmf.draw(rng);
    Decision {
        chosen: draw.index,
        propensity: draw.propensity,
        explored: draw.explored,
        pmf: proposal.pmf.probabilities(),
        scores: proposal.scores,
        lambda: proposal.lambda,
        strategy: proposal.strategy,
    }
}
