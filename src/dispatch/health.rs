//! Health and load of everything that serves: a circuit and a latency average for each deployment and model, and a
//! circuit for each key.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dashmap::DashMap;
use serde::Serialize;
use tokio::sync::Notify;

use crate::arm::ArmId;
use crate::clock;
use crate::dispatch::balance::{PeakEwma, Standing};
use crate::dispatch::draws::Draws;
use crate::dispatch::plan::Deployment;
use crate::failure::{AttemptError, FailureKind, FaultSource};
use crate::telemetry::circuit::{Admission, Circuit, CircuitRules, CircuitState, TripReason};

/// A provider is left alone no longer than this, whatever it asks for.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// What `/v1/telemetry` shows of one deployment and model.
#[derive(Clone, Debug, Serialize)]
pub struct HealthRow {
    /// The provider.
    pub provider: Arc<str>,
    /// The deployment: the provider, with the key's label.
    pub deployment: Arc<str>,
    /// The arm.
    pub model: ArmId,
    /// Where its circuit stands.
    pub state: CircuitState,
    /// Why it opened, while it has not recovered.
    pub reason: Option<String>,
    /// The last failure that counted against it.
    pub last_failure: Option<FailureKind>,
    /// When its rest ends, from now.
    pub retry_in_ms: Option<u64>,
    /// Share of successes in the circuit's window.
    pub success_rate: Option<f64>,
    /// Calls in the circuit's window.
    pub requests: u32,
    /// Calls in flight.
    pub in_flight: u32,
    /// Moving peak average of the time to first token, once seen.
    pub ttft_ewma_ms: Option<f64>,
    /// Where the key's circuit stands.
    pub key: CircuitState,
}

/// All lanes and keys.
pub(super) struct Health {
    rules: CircuitRules,
    lanes: DashMap<(Arc<str>, ArmId), Arc<Lane>>,
    keys: DashMap<Arc<str>, Arc<Mutex<Circuit>>>,
}

/// One model at one deployment. Its key's circuit is shared with the deployment's other models.
pub(super) struct Lane {
    provider: Arc<str>,
    deployment: Arc<str>,
    arm: ArmId,
    in_flight: AtomicU32,
    /// Told of every place that becomes free, where places are counted.
    freed: Notify,
    vitals: Mutex<Vitals>,
    key: Arc<Mutex<Circuit>>,
}

struct Vitals {
    circuit: Circuit,
    /// Whole answers and streams: their first signs of life are different things.
    latency: [PeakEwma; 2],
    last_failure: Option<FailureKind>,
}

/// The place of one call among those in flight; given back when dropped.
pub(super) struct Slot {
    lane: Arc<Lane>,
    /// Somebody may wait for it.
    counted: bool,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.lane.in_flight.fetch_sub(1, Ordering::AcqRel);
        if self.counted {
            self.lane.freed.notify_one();
        }
    }
}

/// What a failure did to the circuits, for the log.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Tripped {
    Lane(TripReason),
    Key(TripReason),
}

impl Health {
    pub(super) fn new(rules: CircuitRules) -> Self {
        Self {
            rules,
            lanes: DashMap::new(),
            keys: DashMap::new(),
        }
    }

    pub(super) fn lane(&self, deployment: &Deployment, arm: &ArmId) -> Arc<Lane> {
        let id = (deployment.name.clone(), arm.clone());
        if let Some(lane) = self.lanes.get(&id) {
            return lane.clone();
        }
        let key = self
            .keys
            .entry(deployment.name.clone())
            .or_insert_with(|| Arc::new(Mutex::new(Circuit::new(self.rules))))
            .clone();
        let lane = Lane {
            provider: deployment.provider.clone(),
            deployment: deployment.name.clone(),
            arm: arm.clone(),
            in_flight: AtomicU32::new(0),
            freed: Notify::new(),
            vitals: Mutex::new(Vitals {
                circuit: Circuit::new(self.rules),
                latency: [PeakEwma::unseen(clock::monotonic()); 2],
                last_failure: None,
            }),
            key,
        };
        self.lanes.entry(id).or_insert_with(|| Arc::new(lane)).clone()
    }

    /// Whether the arm can be sent nothing now by any of its deployments. What was never called is not known to be ill.
    pub(super) fn is_shut(&self, arm: &ArmId, deployments: &[Arc<Deployment>], now: Instant) -> bool {
        let shut = |deployment: &Arc<Deployment>| {
            let lane = self.lanes.get(&(deployment.name.clone(), arm.clone()));
            lane.is_some_and(|lane| lane.is_shut(now))
        };
        !deployments.is_empty() && deployments.iter().all(shut)
    }

    pub(super) fn rows(&self, now: Instant) -> Vec<HealthRow> {
        let lanes: Vec<Arc<Lane>> = self.lanes.iter().map(|entry| entry.value().clone()).collect();
        let mut rows: Vec<HealthRow> = lanes.iter().map(|lane| lane.row(now)).collect();
        rows.sort_by(|a, b| (&a.deployment, &a.model).cmp(&(&b.deployment, &b.model)));
        rows
    }
}

impl Lane {
    /// Whether a call may be sent now, by the key's circuit and by the model's.
    pub(super) fn admit(&self, now: Instant, draws: &Draws) -> Admission {
        let key = lock(&self.key).admit(now, draws.next());
        if !matches!(key, Admission::Pass | Admission::Probe) {
            return key;
        }
        let own = lock(&self.vitals).circuit.admit(now, draws.next());
        match (key, own) {
            (Admission::Probe, Admission::Pass) => Admission::Probe,
            (Admission::Probe, Admission::Refused | Admission::AskedToWait(_)) => {
                lock(&self.key).release_probe();
                own
            }
            _ => own,
        }
    }

    /// When the provider's own request to be left alone ends, if there is one in force.
    pub(super) fn asked_to_wait(&self, now: Instant, draws: &Draws) -> Option<Instant> {
        match self.admit(now, draws) {
            Admission::AskedToWait(until) => Some(until),
            Admission::Probe => {
                self.release_probe();
                None
            }
            Admission::Pass | Admission::Refused => None,
        }
    }

    pub(super) fn release_probe(&self) {
        lock(&self.key).release_probe();
        lock(&self.vitals).circuit.release_probe();
    }

    pub(super) fn is_resting(&self, now: Instant) -> bool {
        lock(&self.vitals).circuit.rests_until(now).is_some() || lock(&self.key).rests_until(now).is_some()
    }

    fn is_shut(&self, now: Instant) -> bool {
        lock(&self.vitals).circuit.is_shut(now) || lock(&self.key).is_shut(now)
    }

    /// The time to first token as of now: the moving peak average, fading while nothing is sent here, so that a
    /// lane that was slow is tried again. `None` while nothing was seen.
    pub(super) fn recent_ttft(&self, now: Instant, stream: bool) -> Option<Duration> {
        lock(&self.vitals).latency[usize::from(stream)].faded(now)
    }

    /// Where it stands beside the model's other deployments.
    pub(super) fn standing(&self, now: Instant, stream: bool) -> Standing {
        lock(&self.vitals).latency[usize::from(stream)].standing(now, self.in_flight())
    }

    pub(super) fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// A place for one more call, unless `limit` are in flight. Taken before the call is sent, so that the limit is
    /// never exceeded, however many ask at once.
    pub(super) fn enter(self: &Arc<Self>, limit: Option<u32>) -> Option<Slot> {
        let most = limit.unwrap_or(u32::MAX);
        let more = |count: u32| (count < most).then(|| count.saturating_add(1));
        self.in_flight
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, more)
            .ok()?;
        Some(Slot {
            lane: Arc::clone(self),
            counted: limit.is_some(),
        })
    }

    /// Resolves when a place has become free. Whoever is told and leaves the place to others must say so with
    /// [`pass_on`](Self::pass_on).
    pub(super) async fn freed(&self) {
        self.freed.notified().await;
    }

    /// Tells the next who waits, if there is a place left.
    pub(super) fn pass_on(&self, limit: u32) {
        if self.in_flight() < limit {
            self.freed.notify_one();
        }
    }

    /// The answer began `ttft` after it was sent at `sent`. True if this ended an outage.
    pub(super) fn succeeded(&self, now: Instant, sent: Instant, ttft: Duration, stream: bool) -> bool {
        lock(&self.key).succeeded(now, sent);
        let mut vitals = lock(&self.vitals);
        vitals.latency[usize::from(stream)].observe(now, ttft);
        vitals.circuit.succeeded(now, sent)
    }

    /// The call was given up after `waited` without a sign of life.
    pub(super) fn given_up(&self, now: Instant, waited: Duration, stream: bool) {
        lock(&self.vitals).latency[usize::from(stream)].observe_at_least(now, waited);
    }

    /// The call failed. Only the upstream's faults count, and a refused key marks the key.
    pub(super) fn failed(
        &self,
        now: Instant,
        sent: Instant,
        error: &AttemptError,
        draws: &Draws,
    ) -> Option<Tripped> {
        if let Some(wait) = error.retry_after {
            let until = now + wait.min(LONGEST_WAIT);
            match error.fault {
                FaultSource::Credentials if error.quota_exhausted => lock(&self.key).ask_to_wait(until),
                // A refused key is not accepted later, and whoever asks next is told of the key, not to wait.
                FaultSource::Credentials => {}
                FaultSource::Upstream => lock(&self.vitals).circuit.ask_to_wait(until),
                FaultSource::Client | FaultSource::Internal => {}
            }
        }
        match error.fault {
            FaultSource::Client | FaultSource::Internal => None,
            FaultSource::Credentials => {
                let reason = if error.quota_exhausted {
                    TripReason::QuotaExhausted
                } else {
                    TripReason::KeyRejected
                };
                // A quota may be the model's or the account's: both rest.
                if error.quota_exhausted {
                    let mut vitals = lock(&self.vitals);
                    vitals.last_failure = Some(error.kind);
                    vitals.circuit.trip(now, sent, reason, draws.next());
                }
                let tripped = lock(&self.key).trip(now, sent, reason, draws.next());
                tripped.then_some(Tripped::Key(reason))
            }
            FaultSource::Upstream => self.failed_upstream(now, sent, error, draws),
        }
    }

    fn failed_upstream(
        &self,
        now: Instant,
        sent: Instant,
        error: &AttemptError,
        draws: &Draws,
    ) -> Option<Tripped> {
        let mut vitals = lock(&self.vitals);
        vitals.last_failure = Some(error.kind);
        if error.quota_exhausted {
            let reason = TripReason::QuotaExhausted;
            let tripped = vitals.circuit.trip(now, sent, reason, draws.next());
            return tripped.then_some(Tripped::Lane(reason));
        }
        // A provider that says when to come back is obeyed, which already takes it out of the way: it is healthy.
        if error.kind == FailureKind::RateLimitExceeded && error.retry_after.is_some() {
            vitals.circuit.release_probe();
            return None;
        }
        let reason = vitals.circuit.failed(now, sent, draws.next());
        reason.map(Tripped::Lane)
    }

    fn row(&self, now: Instant) -> HealthRow {
        let key = lock(&self.key);
        let (key_state, key_reason, key_rest) = (key.state(now), key.reason(now), key.rests_until(now));
        drop(key);
        let vitals = lock(&self.vitals);
        let circuit = &vitals.circuit;
        let rate = circuit.success_rate(now);
        HealthRow {
            provider: self.provider.clone(),
            deployment: self.deployment.clone(),
            model: self.arm.clone(),
            state: circuit.state(now),
            reason: circuit
                .reason(now)
                .or(key_reason)
                .map(|reason| reason.to_string()),
            last_failure: vitals.last_failure,
            retry_in_ms: circuit
                .rests_until(now)
                .max(key_rest)
                .map(|until| u64::try_from((until - now).as_millis()).unwrap_or(u64::MAX)),
            success_rate: rate.map(|(rate, _)| rate),
            requests: rate.map_or(0, |(_, requests)| requests),
            in_flight: self.in_flight(),
            ttft_ewma_ms: vitals.latency[1].seen_ms(),
            key: key_state,
        }
    }
}

/// A poisoned lock is still a consistent circuit: every method leaves it so.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch::testing::{Scripted, error};

    fn lanes() -> (Health, Arc<Lane>, Arc<Lane>) {
        let health = Health::new(CircuitRules::default());
        let deployment = Deployment::new("p", Arc::new(Scripted::default()));
        let small = health.lane(&deployment, &ArmId::new("p/small"));
        let large = health.lane(&deployment, &ArmId::new("p/large"));
        (health, small, large)
    }

    #[test]
    fn a_refused_key_stops_every_model_behind_it_and_marks_none() {
        let (health, small, large) = lanes();
        let (now, draws) = (crate::clock::monotonic(), Draws::new(1));
        let refused = AttemptError {
            fault: FaultSource::Credentials,
            ..error(FailureKind::ProviderUnavailable)
        };
        assert_eq!(
            small.failed(now, now, &refused, &draws),
            Some(Tripped::Key(TripReason::KeyRejected))
        );
        assert_eq!(large.admit(now, &draws), Admission::Refused);
        let rows = health.rows(now);
        assert!(
            rows.iter()
                .all(|row| row.state == CircuitState::Closed && row.key == CircuitState::Open)
        );
    }

    #[test]
    fn a_failing_model_leaves_its_siblings_alone() {
        let (_health, small, large) = lanes();
        let (now, draws) = (crate::clock::monotonic(), Draws::new(1));
        for _ in 0..5 {
            small.failed(now, now, &error(FailureKind::ProviderUnavailable), &draws);
        }
        assert_eq!(small.admit(now, &draws), Admission::Refused);
        assert_eq!(large.admit(now, &draws), Admission::Pass);
    }

    #[test]
    fn bad_requests_never_count() {
        let (_health, small, _) = lanes();
        let (now, draws) = (crate::clock::monotonic(), Draws::new(1));
        let bad = AttemptError {
            fault: FaultSource::Client,
            ..error(FailureKind::InvalidRequest)
        };
        for _ in 0..100 {
            assert_eq!(small.failed(now, now, &bad, &draws), None);
        }
        assert_eq!(small.admit(now, &draws), Admission::Pass);
    }

    #[test]
    fn an_exhausted_quota_opens_at_once_and_a_plain_rate_limit_is_waited_out() {
        let (_health, small, large) = lanes();
        let (now, draws) = (crate::clock::monotonic(), Draws::new(1));
        let limited = AttemptError {
            retry_after: Some(Duration::from_secs(3)),
            ..error(FailureKind::RateLimitExceeded)
        };
        assert_eq!(small.failed(now, now, &limited, &draws), None);
        assert_eq!(
            small.admit(now, &draws),
            Admission::AskedToWait(now + Duration::from_secs(3))
        );
        let quota = AttemptError {
            quota_exhausted: true,
            ..error(FailureKind::RateLimitExceeded)
        };
        assert_eq!(
            large.failed(now, now, &quota, &draws),
            Some(Tripped::Lane(TripReason::QuotaExhausted))
        );
        assert_eq!(large.admit(now, &draws), Admission::Refused);
    }
}
