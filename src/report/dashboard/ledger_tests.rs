use super::*;
use crate::store::CandidateRow;

fn decision(id: &str, at: i64, arm: &str) -> DecisionRow {
    let candidate = |arm: &str, quality, nanos| CandidateRow {
        arm: ArmId::new(arm),
        propensity: 0.5,
        quality,
        deviation: 0.1,
        cost: Usd::from_nanos(nanos),
    };
    DecisionRow {
        id: id.into(),
        at: UnixMs(at),
        episode: None,
        user: None,
        route: "auto".into(),
        strategy: "contextual".into(),
        category: "code".into(),
        arm: ArmId::new(arm),
        propensity: 0.5,
        explored: false,
        expected_cost: Usd::from_nanos(100),
        expected_quality: 0.8,
        experiment: None,
        input_tokens: 10,
        stream: false,
        feature_version: 1,
        context: Vec::new(),
        candidates: vec![candidate("a/small", 0.8, 100), candidate("b/large", 0.9, 1000)],
        detail: None,
    }
}

fn attempt(id: &str, at: i64, arm: &str, nanos: i64, served: bool) -> AttemptRow {
    AttemptRow {
        decision: id.into(),
        number: 1,
        at: UnixMs(at),
        arm: ArmId::new(arm),
        provider: "a".into(),
        role: "primary".into(),
        outcome: "succeeded".into(),
        served,
        stream: false,
        ttft_ms: Some(10.0),
        total_ms: 20.0,
        usage: None,
        cost: Some(Usd::from_nanos(nanos)),
        finish: None,
        upstream_id: None,
        text_bytes: 1,
        detail: None,
    }
}

#[test]
fn a_request_is_compared_once_with_all_that_it_cost() {
    let mut ledger = Ledger::new("0", false, UnixMs(0));
    ledger.decided(&decision("1", 10, "a/small"));
    ledger.attempted(&attempt("1", 20, "a/small", 40, false));
    ledger.attempted(&attempt("1", 30, "b/large", 900, true));
    ledger.attempted(&attempt("1", 40, "a/small", 7, false));
    ledger.scored("1", "quality", 0.5, None, UnixMs(50));
    ledger.scored("1", "quality", 1.0, Some(0.5), UnixMs(60));
    ledger.scored("1", "speed", 0.0, None, UnixMs(60));
    let overview = ledger.overview(UnixMs(100), Vec::new(), Vec::new());
    assert_eq!(overview.spent_usd, Usd::from_nanos(947));
    assert_eq!(
        (overview.compared_usd, overview.baseline_usd),
        (Usd::from_nanos(947), Usd::from_nanos(900))
    );
    assert_eq!((overview.scored, overview.mean_score), (1, Some(1.0)));
    assert_eq!(overview.reference.as_deref(), Some("b/large"));
    let recent = &overview.recent[0];
    assert_eq!(
        recent.why,
        "90 % cheaper; expected quality 0.80 against 0.90 of b/large"
    );
    assert_eq!(
        (recent.served.clone(), recent.score),
        (Some(ArmId::new("b/large")), Some(1.0))
    );
}

#[test]
fn all_requests_are_compared_with_the_one_best_however_late_it_shows() {
    let mut ledger = Ledger::new("0", false, UnixMs(0));
    for i in 0..4i64 {
        let id = i.to_string();
        let mut row = decision(&id, i * 60_000, "a/small");
        // At first the small one is thought to be the best.
        row.candidates[1].quality = if i == 0 { 0.7 } else { 1.0 };
        ledger.decided(&row);
        ledger.attempted(&attempt(&id, i * 60_000, "a/small", 40, true));
    }
    let overview = ledger.overview(UnixMs(1_000_000), Vec::new(), Vec::new());
    assert_eq!(overview.reference.as_deref(), Some("b/large"));
    assert_eq!(
        (overview.compared_usd, overview.baseline_usd),
        (Usd::from_nanos(160), Usd::from_nanos(4_000))
    );
}

#[test]
fn an_answer_of_an_unknown_cost_is_not_compared() {
    let mut ledger = Ledger::new("0", false, UnixMs(0));
    ledger.decided(&decision("1", 10, "a/small"));
    let free = AttemptRow {
        cost: None,
        ..attempt("1", 20, "a/small", 0, true)
    };
    ledger.attempted(&free);
    let overview = ledger.overview(UnixMs(100), Vec::new(), Vec::new());
    assert_eq!(
        (overview.compared_usd, overview.baseline_usd),
        (Usd::ZERO, Usd::ZERO)
    );
}

/// A lost hedge of an unknown price, before the answer or after it: the request's cost is unknown, not what the rest
/// of it cost.
#[test]
fn an_attempt_of_an_unknown_cost_leaves_its_request_out_of_the_comparison() {
    for late in [false, true] {
        let mut ledger = Ledger::new("0", false, UnixMs(0));
        ledger.decided(&decision("1", 10, "a/small"));
        ledger.decided(&decision("2", 10, "a/small"));
        let lost = AttemptRow {
            cost: None,
            ..attempt("1", if late { 40 } else { 20 }, "b/large", 0, false)
        };
        let served = attempt("1", 30, "a/small", 40, true);
        let order = if late { [served, lost] } else { [lost, served] };
        order.iter().for_each(|row| ledger.attempted(row));
        ledger.attempted(&attempt("2", 50, "a/small", 60, true));
        let overview = ledger.overview(UnixMs(100), Vec::new(), Vec::new());
        let nanos = [overview.spent_usd, overview.compared_usd, overview.baseline_usd].map(Usd::nanos);
        assert_eq!((nanos, overview.unpriced_attempts), ([100, 60, 1_000], 1));
        let told = |recent: &RecentDecision| (recent.cost_usd.map(Usd::nanos), recent.cost_unknown);
        assert_eq!(
            overview.recent.iter().map(told).collect::<Vec<_>>(),
            [(Some(60), false), (None, true)]
        );
    }
}

#[test]
fn no_quality_beyond_what_a_score_can_be_is_shown() {
    let mut row = decision("1", 10, "a/small");
    row.expected_quality = 1.01;
    row.candidates[1].quality = 1.05;
    assert_eq!(
        why(&row),
        "90 % cheaper; expected quality 1.00 against 1.00 of b/large"
    );
}

#[test]
fn the_series_stays_bounded_and_loses_nothing() {
    let mut ledger = Ledger::new("0", false, UnixMs(0));
    for i in 0..10_000i64 {
        let id = i.to_string();
        let arm = if i % 4 == 0 { "b/large" } else { "a/small" };
        ledger.decided(&decision(&id, i * 1_000, arm));
        ledger.attempted(&attempt(&id, i * 1_000, "a/small", 100, true));
    }
    let overview = ledger.overview(UnixMs(10_000_000), Vec::new(), Vec::new());
    assert!(overview.points.len() <= MAX_POINTS && overview.points.len() > MAX_POINTS / 3);
    assert_eq!(
        overview.points.iter().map(|point| point.requests).sum::<u64>(),
        10_000
    );
    assert_eq!(
        overview.points.iter().map(|point| point.drawn[0]).sum::<u64>(),
        2_500
    );
    assert_eq!(
        overview
            .points
            .iter()
            .map(|point| point.baseline_usd)
            .sum::<Usd>(),
        overview.baseline_usd
    );
    assert_eq!((overview.last_minute, overview.recent.len()), (60, RECENT));
    assert!(ledger.open.len() <= REMEMBERED);
}
