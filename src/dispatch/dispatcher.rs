//! The dispatcher: what all requests share, and the way in.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::arm::ArmId;
use crate::dispatch::answer::{Answer, DispatchFailure};
use crate::dispatch::draws::Draws;
use crate::dispatch::health::{Health, HealthRow};
use crate::dispatch::hedge::HedgeBucket;
use crate::dispatch::in_flight::InFlight;
use crate::dispatch::latency::LatencyOracle;
use crate::dispatch::plan::{Deployment, Plan};
use crate::dispatch::race::Race;
use crate::dispatch::record::Books;
use crate::dispatch::retry::RetryBudget;
use crate::telemetry::circuit::CircuitRules;

/// What holds for every request, beside its own plan.
///
/// | name | default | purpose |
/// | --- | --- | --- |
/// | `circuit` | Finagle's | when a provider's model is left alone |
/// | `idle_timeout` | 30 s | longest silence inside a stream that has begun |
/// | `longest_wait` | 5 s | a `retry-after` up to this is waited out when nothing else can serve; a longer one is told to the client |
/// | `seed` | 0 | of the jitter and the load balance |
#[derive(Clone, Copy, Debug)]
pub struct DispatchRules {
    /// When a provider's model is left alone.
    pub circuit: CircuitRules,
    /// Longest silence inside a stream that has begun.
    pub idle_timeout: Duration,
    /// Longest `retry-after` that is waited out when nothing else can serve.
    pub longest_wait: Duration,
    /// Of the jitter and the load balance.
    pub seed: u64,
}

impl Default for DispatchRules {
    fn default() -> Self {
        Self {
            circuit: CircuitRules::default(),
            idle_timeout: Duration::from_secs(30),
            longest_wait: Duration::from_secs(5),
            seed: 0,
        }
    }
}

/// Carries out plans. Cheap to clone; clones share health and budgets.
#[derive(Clone)]
pub struct Dispatcher(Arc<Shared>);

pub(super) struct Shared {
    pub(super) rules: DispatchRules,
    pub(super) books: Arc<dyn Books>,
    pub(super) latency: Arc<dyn LatencyOracle>,
    pub(super) health: Health,
    pub(super) hedges: Mutex<HedgeBucket>,
    pub(super) retries: Mutex<RetryBudget>,
    pub(super) draws: Draws,
    pub(super) in_flight: InFlight,
}

impl Dispatcher {
    /// A dispatcher that tells `books` of every attempt and asks `latency` when to hedge.
    #[must_use]
    pub fn new(rules: DispatchRules, books: Arc<dyn Books>, latency: Arc<dyn LatencyOracle>) -> Self {
        Self(Arc::new(Shared {
            rules,
            books,
            latency,
            health: Health::new(rules.circuit),
            hedges: Mutex::default(),
            retries: Mutex::default(),
            draws: Draws::new(rules.seed),
            in_flight: InFlight::default(),
        }))
    }

    /// Answers the request within its budget. Dropping the future, or the stream it resolves to, cancels whatever
    /// is running upstream; every attempt is told to the books all the same.
    ///
    /// # Errors
    /// When every candidate failed, the time or the money ran out, or the request is bad for all of them.
    pub async fn run(&self, plan: Plan) -> Result<Answer, DispatchFailure> {
        Race::new(self.0.clone(), plan).run().await
    }

    /// Health of everything that was called so far, by deployment and model.
    #[must_use]
    pub fn health(&self, now: Instant) -> Vec<HealthRow> {
        self.0.health.rows(now)
    }

    /// Whether no deployment of the arm admits a call now: each one's circuit is open, or its probe is out.
    #[must_use]
    pub fn is_shut(&self, arm: &ArmId, deployments: &[Arc<Deployment>], now: Instant) -> bool {
        self.0.health.is_shut(arm, deployments, now)
    }

    /// Requests being answered, streams that are still flowing among them.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.0.in_flight.count()
    }

    /// Resolves as soon as no request is being answered: for a graceful shutdown.
    pub async fn idle(&self) {
        self.0.in_flight.idle().await;
    }

    /// Hedges that may be sent right now.
    #[must_use]
    pub fn hedge_stock(&self) -> f64 {
        lock(&self.0.hedges).stock()
    }
}

/// A poisoned lock still holds a consistent value: every critical section here leaves it so.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
