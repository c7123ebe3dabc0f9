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
fn it_is_shut_while_it_rests_and_while_its_probe_is_out() {
    let t = start();
    let mut circuit = tripped(t);
    assert!(circuit.is_shut(t + 4 * SEC));
    let back = t + 5 * SEC;
    assert!(!circuit.is_shut(back), "somebody must be the probe");
    assert_eq!(circuit.admit(back, 0.0), Admission::Probe);
    assert!(circuit.is_shut(back));
    assert!(circuit.succeeded(back + SEC, back));
    assert!(
        !circuit.is_shut(back + SEC),
        "a growing share of traffic passes from here"
    );
    circuit.ask_to_wait(back + 9 * SEC);
    assert!(circuit.is_shut(back + 8 * SEC) && !circuit.is_shut(back + 9 * SEC));
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
