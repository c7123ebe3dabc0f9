//! A second attempt beside a slow one, under paused time.

use std::sync::Arc;
use std::time::Duration;

use super::testing::Step::{End, Hang, Text, Wait};
use super::testing::{Scripted, answered, good, plan, request, roles, stage, stage_with};
use super::*;
use crate::clock;
use crate::completion::Usage;
use crate::units::Usd;

#[tokio::test(start_paused = true)]
async fn the_missions_case_a_stalled_primary_is_overtaken_after_its_budget() {
    for stream in [false, true] {
        let stage = stage();
        let stalled = Scripted::new([vec![Wait(10_000), Text("late"), End]]);
        let start = clock::monotonic();
        let plan = Plan {
            ttft_budget: Some(Duration::from_secs(2)),
            ..plan(stream, &[&stalled, &good()])
        };
        let (served, text) = answered(&stage, plan).await;
        assert_eq!(clock::monotonic() - start, Duration::from_millis(2100));
        assert_eq!(
            (text.as_str(), served.hedged, served.role),
            ("good", true, Role::Hedge)
        );
        assert_eq!(served.fallback_from.unwrap().as_str(), "p0/m");
        assert_eq!(
            roles(&stage),
            [
                (Role::Primary, Outcome::Cancelled(Cancellation::LostHedge)),
                (Role::Hedge, Outcome::Succeeded)
            ]
        );
        let lost = &stage.ledger.records()[0];
        assert_eq!((lost.ttft, lost.total), (None, Duration::from_millis(2100)));
        assert_eq!(
            lost.usage,
            Some(Usage {
                input: 11,
                output: 0,
                estimated: true,
                ..Usage::default()
            })
        );
        let tried: Vec<_> = served.tried.iter().map(|tried| tried.cancelled).collect();
        assert_eq!(tried, [Some(Cancellation::LostHedge), None]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_primary_that_begins_while_the_hedge_runs_wins() {
    let stage = stage();
    let slow = Scripted::new([vec![Wait(2050), Text("primary"), Wait(500), End]]);
    let plan = Plan {
        ttft_budget: Some(Duration::from_secs(2)),
        ..plan(true, &[&slow, &good()])
    };
    let (served, text) = answered(&stage, plan).await;
    assert_eq!(
        (text.as_str(), served.hedged, served.fallback_from),
        ("primary", true, None)
    );
    assert_eq!(
        roles(&stage),
        [
            (Role::Primary, Outcome::Succeeded),
            (Role::Hedge, Outcome::Cancelled(Cancellation::LostHedge))
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_learned_delay_hedges_without_a_budget() {
    struct Knows;
    impl LatencyOracle for Knows {
        fn quantile(&self, question: &LatencyQuestion<'_>, _: f64) -> Option<Duration> {
            (question.provider == "p0").then_some(Duration::from_millis(700))
        }
    }
    let stage = stage_with(Arc::new(Knows));
    let start = clock::monotonic();
    let (served, _) = answered(&stage, plan(true, &[&Scripted::new([vec![Hang]]), &good()])).await;
    assert!(served.hedged);
    assert_eq!(clock::monotonic() - start, Duration::from_millis(800));
}

#[tokio::test(start_paused = true)]
async fn no_hedge_for_tools_unless_asked_nor_beyond_the_money() {
    let stall = || Scripted::new([vec![Wait(10_000), Text("late"), End]]);
    let hedging = |tools: bool, asked: bool, max_cost: Option<i64>| {
        let mut plan = plan(false, &[&stall(), &good()]);
        let mut request = request(false);
        if tools {
            request.tools = vec![crate::request::Tool {
                name: "pay".to_owned(),
                description: None,
                parameters: None,
                strict: None,
                cache_control: None,
            }];
        }
        plan.request = Arc::new(request);
        plan.hedge.asked = asked;
        plan.ttft_budget = Some(Duration::from_secs(2));
        plan.max_cost = max_cost.map(Usd::from_nanos);
        plan
    };
    let stage = stage();
    for (tools, asked, max_cost, hedged) in [
        (false, false, None, true),
        (true, false, None, false),
        (true, true, None, true),
        (false, false, Some(19_999_999), false),
        (false, false, Some(20_000_000), true),
    ] {
        let (served, _) = answered(&stage, hedging(tools, asked, max_cost)).await;
        assert_eq!(served.hedged, hedged, "{tools} {asked} {max_cost:?}");
    }
}
