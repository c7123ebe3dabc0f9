//! Circuits: when to leave a failing provider alone, and how to come back to it without a stampede.
//!
//! The rule is Finagle's failure accrual: a circuit opens after five failures in a row, or when fewer than 80 % of
//! at least five calls in the last 30 seconds succeeded. It rests for an exponentially growing, equal-jittered time,
//! lets one live request through as a probe, and after the probe's success takes a slowly growing share of traffic.
//!
//! What counts as an observation: an answer that began (success), and an upstream fault before or after that
//! (failure). A client's bad request, an attempt that lost a hedge and a client that went away say nothing about
//! health and are not recorded. A verdict on a call that was sent before the present state began is ignored: the
//! long stream that ends well in the middle of an outage does not end the outage.

use std::fmt;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::success_rate::Window;

/// When a circuit opens and how it closes again.
///
/// | name | default | purpose |
/// | --- | --- | --- |
/// | `consecutive_failures` | 5 | opens after so many failures in a row |
/// | `window` | 30 s | how far back the success rate looks |
/// | `min_requests` | 5 | fewer calls in the window say nothing about the rate |
/// | `min_success_rate` | 0.8 | opens below this |
/// | `shortest_rest` | 5 s | least rest after opening |
/// | `longest_rest` | 300 s | most rest, however often it reopened |
/// | `ramp` | 30 s | from the probe's success to full traffic |
/// | `ramp_start` | 0.1 | share of traffic right after the probe |
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CircuitRules {
    /// Opens after so many failures in a row.
    pub consecutive_failures: u32,
    /// How far back the success rate looks.
    pub window: Duration,
    /// Fewer calls in the window say nothing about the rate.
    pub min_requests: u32,
    /// Opens below this success rate, in [0,1].
    pub min_success_rate: f64,
    /// Least rest after opening.
    pub shortest_rest: Duration,
    /// Most rest.
    pub longest_rest: Duration,
    /// From the probe's success to full traffic.
    pub ramp: Duration,
    /// Share of traffic right after the probe, in [0,1].
    pub ramp_start: f64,
}

impl Default for CircuitRules {
    fn default() -> Self {
        Self {
            consecutive_failures: 5,
            window: Duration::from_secs(30),
            min_requests: 5,
            min_success_rate: 0.8,
            shortest_rest: Duration::from_secs(5),
            longest_rest: Duration::from_secs(300),
            ramp: Duration::from_secs(30),
            ramp_start: 0.1,
        }
    }
}

/// Why a circuit opened.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum TripReason {
    /// So many failures in a row.
    ConsecutiveFailures(u32),
    /// Too few successes in the window.
    SuccessRate {
        /// Share of successes, in [0,1].
        rate: f64,
        /// Calls in the window.
        requests: u32,
    },
    /// The account's quota is exhausted.
    QuotaExhausted,
    /// The provider refused our key.
    KeyRejected,
    /// The probe failed.
    ProbeFailed,
}

impl fmt::Display for TripReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ConsecutiveFailures(n) => write!(f, "{n} failures in a row"),
            Self::SuccessRate { rate, requests } => {
                write!(f, "{:.0} % of the last {requests} calls succeeded", rate * 100.0)
            }
            Self::QuotaExhausted => f.write_str("the account's quota is exhausted"),
            Self::KeyRejected => f.write_str("the provider refused our key"),
            Self::ProbeFailed => f.write_str("the probe failed"),
        }
    }
}

/// Whether a call may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Yes.
    Pass,
    /// Yes, as the one probe of a half-open circuit. Whoever is given this must end it with a verdict or with
    /// [`Circuit::release_probe`].
    Probe,
    /// Better not: the circuit is open, or its probe is out, or the ramp has no room for this call.
    Refused,
    /// No: the provider asked to be left alone until then.
    AskedToWait(Instant),
}

/// Where a circuit stands, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CircuitState {
    /// All traffic passes.
    Closed,
    /// It rests.
    Open,
    /// One probe may pass.
    HalfOpen,
    /// A growing share of traffic passes.
    Recovering,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    Closed,
    Open { until: Instant },
    HalfOpen { probing: bool },
    Recovering,
}

/// The health of one provider and model, or of one key.
#[derive(Clone, Debug)]
pub struct Circuit {
    rules: CircuitRules,
    phase: Phase,
    /// When the present phase began; `None` before the first trip. Recovering and the closed phase after it count
    /// as one.
    since: Option<Instant>,
    reason: Option<TripReason>,
    asked_until: Option<Instant>,
    failures_in_a_row: u32,
    /// How often it opened without having fully recovered in between.
    reopened: u32,
    window: Window,
}

impl Circuit {
    /// A closed circuit.
    #[must_use]
    pub fn new(rules: CircuitRules) -> Self {
        Self {
            rules,
            phase: Phase::Closed,
            since: None,
            reason: None,
            asked_until: None,
            failures_in_a_row: 0,
            reopened: 0,
            window: Window::default(),
        }
    }

    /// Whether a call may be sent now; `draw`, uniform in [0,1), decides on the ramp.
    pub fn admit(&mut self, now: Instant, draw: f64) -> Admission {
        if let Some(until) = self.asked_until.filter(|until| now < *until) {
            return Admission::AskedToWait(until);
        }
        self.settle_ramp(now);
        match self.phase {
            Phase::Closed => Admission::Pass,
            Phase::Open { until } if now < until => Admission::Refused,
            Phase::HalfOpen { probing: true } => Admission::Refused,
            Phase::Open { .. } => {
                self.enter(now, Phase::HalfOpen { probing: true });
                Admission::Probe
            }
            Phase::HalfOpen { probing: false } => {
                self.phase = Phase::HalfOpen { probing: true };
                Admission::Probe
            }
            Phase::Recovering if draw < self.ramp_share(now) => Admission::Pass,
            Phase::Recovering => Admission::Refused,
        }
    }

    /// An answer to a call sent at `sent` began. True if this closed an open circuit.
    pub fn succeeded(&mut self, now: Instant, sent: Instant) -> bool {
        if self.is_stale(sent) {
            return false;
        }
        self.failures_in_a_row = 0;
        match self.phase {
            Phase::Closed | Phase::Recovering => {
                self.window.add(now, self.rules.window, true);
                self.settle_ramp(now);
                false
            }
            Phase::Open { .. } | Phase::HalfOpen { .. } => {
                self.window = Window::default();
                self.enter(now, Phase::Recovering);
                true
            }
        }
    }

    /// A call sent at `sent` failed by the upstream's fault. The reason, if this opened the circuit; `draw`,
    /// uniform in [0,1), jitters the rest.
    pub fn failed(&mut self, now: Instant, sent: Instant, draw: f64) -> Option<TripReason> {
        if self.is_stale(sent) {
            return None;
        }
        match self.phase {
            Phase::Open { .. } => None,
            Phase::HalfOpen { .. } => Some(self.open(now, TripReason::ProbeFailed, draw)),
            Phase::Closed | Phase::Recovering => {
                self.settle_ramp(now);
                self.failures_in_a_row += 1;
                self.window.add(now, self.rules.window, false);
                let reason = self.verdict()?;
                Some(self.open(now, reason, draw))
            }
        }
    }

    /// Opens at once, whatever was counted: for an exhausted quota or a refused key. A trip by a call that was
    /// sent before the present rest began changes nothing.
    pub fn trip(&mut self, now: Instant, sent: Instant, reason: TripReason, draw: f64) -> bool {
        if self.is_stale(sent) || matches!(self.phase, Phase::Open { .. }) {
            return false;
        }
        self.open(now, reason, draw);
        true
    }

    /// The provider asks to be left alone until `until`.
    pub fn ask_to_wait(&mut self, until: Instant) {
        self.asked_until = Some(self.asked_until.map_or(until, |asked| asked.max(until)));
    }

    /// The probe ended without a verdict (it was cancelled, or the request was bad): another may go.
    pub fn release_probe(&mut self) {
        if let Phase::HalfOpen { probing } = &mut self.phase {
            *probing = false;
        }
    }

    /// Where it stands.
    #[must_use]
    pub fn state(&self, now: Instant) -> CircuitState {
        match self.phase {
            Phase::Closed => CircuitState::Closed,
            Phase::Open { until } if now < until => CircuitState::Open,
            Phase::Open { .. } | Phase::HalfOpen { .. } => CircuitState::HalfOpen,
            Phase::Recovering if self.ramp_share(now) >= 1.0 => CircuitState::Closed,
            Phase::Recovering => CircuitState::Recovering,
        }
    }

    /// Why it last opened, while it has not fully recovered.
    #[must_use]
    pub fn reason(&self, now: Instant) -> Option<TripReason> {
        self.reason.filter(|_| self.state(now) != CircuitState::Closed)
    }

    /// When the rest ends, of its own or asked for by the provider; `None` when it does not rest.
    #[must_use]
    pub fn rests_until(&self, now: Instant) -> Option<Instant> {
        let own = match self.phase {
            Phase::Open { until } => Some(until),
            _ => None,
        };
        own.max(self.asked_until).filter(|until| now < *until)
    }

    /// Whether it admits no call now, whatever a draw says: it rests, or its probe is out.
    #[must_use]
    pub fn is_shut(&self, now: Instant) -> bool {
        self.rests_until(now).is_some() || self.phase == Phase::HalfOpen { probing: true }
    }

    /// Share of successes and number of calls in the window.
    #[must_use]
    pub fn success_rate(&self, now: Instant) -> Option<(f64, u32)> {
        self.window.at(now, self.rules.window).rate()
    }

    fn is_stale(&self, sent: Instant) -> bool {
        self.since.is_some_and(|since| sent < since)
    }

    fn verdict(&self) -> Option<TripReason> {
        if self.failures_in_a_row >= self.rules.consecutive_failures {
            return Some(TripReason::ConsecutiveFailures(self.failures_in_a_row));
        }
        let (rate, requests) = self.window.rate()?;
        (requests >= self.rules.min_requests && rate < self.rules.min_success_rate)
            .then_some(TripReason::SuccessRate { rate, requests })
    }

    /// Rests `base/2 + draw * base/2` where `base = 2 * shortest * 2^reopened`, at most `longest`: equal jitter, so
    /// that the replicas of a proxy do not probe together.
    fn open(&mut self, now: Instant, reason: TripReason, draw: f64) -> TripReason {
        let base = self
            .rules
            .shortest_rest
            .saturating_mul(2_u32.saturating_pow(self.reopened.saturating_add(1)))
            .min(self.rules.longest_rest);
        let rest = base.mul_f64(0.5 + 0.5 * draw.clamp(0.0, 1.0));
        self.reopened = self.reopened.saturating_add(1);
        self.reason = Some(reason);
        self.failures_in_a_row = 0;
        self.window = Window::default();
        self.enter(now, Phase::Open { until: now + rest });
        reason
    }

    fn enter(&mut self, now: Instant, phase: Phase) {
        self.phase = phase;
        self.since = Some(now);
    }

    fn ramp_share(&self, now: Instant) -> f64 {
        let gone = self
            .since
            .map_or(Duration::MAX, |since| now.saturating_duration_since(since));
        if gone >= self.rules.ramp {
            return 1.0;
        }
        let start = self.rules.ramp_start;
        start + (1.0 - start) * gone.as_secs_f64() / self.rules.ramp.as_secs_f64()
    }

    fn settle_ramp(&mut self, now: Instant) {
        if self.phase == Phase::Recovering && self.ramp_share(now) >= 1.0 {
            self.phase = Phase::Closed;
            self.reason = None;
            self.reopened = 0;
        }
    }
}

#[cfg(test)]
#[path = "circuit_tests.rs"]
mod tests;
