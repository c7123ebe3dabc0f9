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

/// Slices of the success-rate window.
const SLICES: usize = 6;

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

/// Successes and failures of the last window, in slices that are dropped as they age.
#[derive(Clone, Copy, Debug, Default)]
struct Window {
    slices: [(u32, u32); SLICES],
    /// Start of the newest slice; it is the first of the array.
    newest: Option<Instant>,
}

impl Window {
    fn add(&mut self, now: Instant, length: Duration, success: bool) {
        self.turn(now, length);
        let (good, bad) = &mut self.slices[0];
        *(if success { good } else { bad }) += 1;
    }

    fn at(mut self, now: Instant, length: Duration) -> Self {
        self.turn(now, length);
        self
    }

    fn turn(&mut self, now: Instant, length: Duration) {
        let slice = length / SLICES as u32;
        let Some(newest) = self.newest else {
            self.newest = Some(now);
            return;
        };
        let gone = now.saturating_duration_since(newest).as_nanos() / slice.as_nanos().max(1);
        let turns = usize::try_from(gone).map_or(SLICES, |gone| gone.min(SLICES));
        if turns == 0 {
            return;
        }
        self.slices.rotate_right(turns);
        self.slices[..turns].fill((0, 0));
        self.newest = Some(if turns == SLICES {
            now
        } else {
            newest + slice * turns as u32
        });
    }

    fn rate(&self) -> Option<(f64, u32)> {
        let (good, bad) = self
            .slices
            .iter()
            .fold((0, 0), |(good, bad), slice| (good + slice.0, bad + slice.1));
        let requests: u32 = good + bad;
        (requests > 0).then(|| (f64::from(good) / f64::from(requests), requests))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SEC: Duration = Duration::from_secs(1);

    fn start() -> Instant {
        crate::clock::monotonic()
    }

    fn tripped(at: Instant) -> Circuit {
        let mut circuit = Circuit::new(CircuitRules::default());
        for _ in 0..4 {
            assert_eq!(circuit.failed(at, at, 0.0), None);
        }
        assert_eq!(
            circuit.failed(at, at, 0.0),
            Some(TripReason::ConsecutiveFailures(5))
        );
        circuit
    }

    #[test]
    fn five_failures_in_a_row_open_it_and_four_do_not() {
        let t = start();
        let mut circuit = tripped(t);
        assert_eq!(circuit.state(t), CircuitState::Open);
        // draw 0 gives the least rest: 10 s / 2.
        assert_eq!(circuit.admit(t + 4 * SEC, 0.0), Admission::Refused);
        assert_eq!(circuit.admit(t + 5 * SEC, 0.0), Admission::Probe);
    }

    #[test]
    fn a_success_rate_below_four_fifths_opens_it() {
        let t = start();
        let mut circuit = Circuit::new(CircuitRules::default());
        // 4 of 5 is exactly 80 %: stays closed. 4 of 6 is 67 %: opens.
        for success in [true, true, false, true, true] {
            if success {
                circuit.succeeded(t, t);
            } else {
                assert_eq!(circuit.failed(t, t, 0.0), None);
            }
        }
        let reason = circuit.failed(t, t, 0.0);
        assert!(
            matches!(reason, Some(TripReason::SuccessRate { rate, requests: 6 }) if (rate - 4.0 / 6.0).abs() < 1e-12)
        );
    }

    #[test]
    fn failures_older_than_the_window_are_forgotten() {
        let t = start();
        let mut circuit = Circuit::new(CircuitRules::default());
        for _ in 0..3 {
            circuit.failed(t, t, 0.0);
        }
        circuit.succeeded(t, t);
        let later = t + 31 * SEC;
        for _ in 0..4 {
            circuit.succeeded(later, later);
        }
        assert_eq!(circuit.failed(later, later, 0.0), None);
        assert_eq!(circuit.success_rate(later), Some((0.8, 5)));
    }

    #[test]
    fn only_one_probe_goes_at_a_time() {
        let t = start();
        let mut circuit = tripped(t);
        let later = t + 6 * SEC;
        assert_eq!(circuit.admit(later, 0.0), Admission::Probe);
        assert_eq!(circuit.admit(later, 0.0), Admission::Refused);
        circuit.release_probe();
        assert_eq!(circuit.admit(later, 0.0), Admission::Probe);
    }

    #[test]
    fn each_failed_probe_doubles_the_rest_up_to_five_minutes() {
        let t = start();
        let mut circuit = tripped(t);
        let mut now = t;
        let mut rests = Vec::new();
        for _ in 0..9 {
            let until = circuit.rests_until(now).unwrap();
            rests.push((until - now).as_secs());
            now = until;
            assert_eq!(circuit.admit(now, 0.0), Admission::Probe);
            assert_eq!(circuit.failed(now, now, 1.0), Some(TripReason::ProbeFailed));
        }
        // The first was opened with draw 0 (5 s of 10), the others with draw 1: the whole base.
        assert_eq!(rests, [5, 20, 40, 80, 160, 300, 300, 300, 300]);
    }

    #[test]
    fn traffic_comes_back_slowly() {
        let t = start();
        let mut circuit = tripped(t);
        let back = t + 5 * SEC;
        assert_eq!(circuit.admit(back, 0.0), Admission::Probe);
        assert!(circuit.succeeded(back, back));
        assert_eq!(circuit.state(back), CircuitState::Recovering);
        assert_eq!(circuit.admit(back, 0.09), Admission::Pass);
        assert_eq!(circuit.admit(back, 0.11), Admission::Refused);
        // Half way up the ramp: 0.1 + 0.9 / 2.
        assert_eq!(circuit.admit(back + 15 * SEC, 0.54), Admission::Pass);
        assert_eq!(circuit.admit(back + 15 * SEC, 0.56), Admission::Refused);
        assert_eq!(circuit.admit(back + 30 * SEC, 0.999), Admission::Pass);
        assert_eq!(circuit.state(back + 30 * SEC), CircuitState::Closed);
        assert_eq!(circuit.reason(back + 30 * SEC), None);
    }

    #[test]
    fn verdicts_from_before_the_trip_change_nothing() {
        let t = start();
        let mut circuit = tripped(t + SEC);
        assert!(!circuit.succeeded(t + 2 * SEC, t));
        assert_eq!(circuit.state(t + 2 * SEC), CircuitState::Open);
        let probe = t + 7 * SEC;
        assert_eq!(circuit.admit(probe, 0.0), Admission::Probe);
        assert_eq!(circuit.failed(probe, t, 0.0), None);
        assert_eq!(circuit.state(probe), CircuitState::HalfOpen);
    }

    #[test]
    fn a_provider_that_asks_to_be_left_alone_is() {
        let t = start();
        let mut circuit = Circuit::new(CircuitRules::default());
        circuit.ask_to_wait(t + 3 * SEC);
        circuit.ask_to_wait(t + 2 * SEC);
        assert_eq!(
            circuit.admit(t + 2 * SEC, 0.0),
            Admission::AskedToWait(t + 3 * SEC)
        );
        assert_eq!(circuit.admit(t + 3 * SEC, 0.0), Admission::Pass);
    }

    proptest! {
        /// Whatever happens, a rest is over within five minutes, and once nothing is in flight the next
        /// call is admitted: no sequence of events shuts a provider out for good.
        #[test]
        fn never_shut_out_for_good(events in prop::collection::vec((0_u8..5, 0_u64..40_000, 0.0_f64..1.0), 1..200)) {
            let mut now = start();
            let mut circuit = Circuit::new(CircuitRules::default());
            let mut probing = false;
            for (event, wait_ms, draw) in events {
                now += Duration::from_millis(wait_ms);
                match event {
                    0 => { circuit.succeeded(now, now); probing = false; }
                    1 | 2 => { circuit.failed(now, now, draw); probing = false; }
                    3 => { circuit.trip(now, now, TripReason::QuotaExhausted, draw); probing = false; }
                    _ => match circuit.admit(now, draw) {
                        Admission::Probe => { prop_assert!(!probing); probing = true; }
                        Admission::Pass => prop_assert!(!probing),
                        Admission::Refused | Admission::AskedToWait(_) => {}
                    },
                }
                if let Some(until) = circuit.rests_until(now) {
                    prop_assert!(until - now <= Duration::from_secs(300));
                }
            }
            circuit.release_probe();
            prop_assert_ne!(circuit.admit(now + Duration::from_secs(301), 0.0), Admission::Refused);
        }
    }
}
