//! Circuits, retries, hedges and the balance as many requests at once meet them, under paused time.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;

use super::testing::{Scripted, Stage, Step, error, plan, stage};
use super::*;
use crate::clock;
use crate::failure::{AttemptError, FailureKind, Retry};
use crate::telemetry::circuit::CircuitState;
use Step::{Empty, End, Fail, Text, Wait};

fn good() -> Arc<Scripted> {
    Scripted::new([vec![Wait(100), Text("good"), End]])
}

/// Fails so often, then answers "back" after `wait` milliseconds.
fn sick_for(calls: usize, wait: u64) -> Arc<Scripted> {
    let failing = AttemptError {
        retry: Retry::NextArm,
        ..error(FailureKind::ProviderUnavailable)
    };
    let mut scripts = vec![vec![Fail(failing)]; calls];
    scripts.push(vec![Wait(wait), Text("back"), End]);
    Scripted::new(scripts)
}

async fn answer(stage: &Stage, plan: Plan) -> (Served, String) {
    match stage.dispatcher.run(plan).await.expect("an answer") {
        Answer::Whole(served, completion) => (served, completion.choices.get().to_owned()),
        Answer::Stream(..) => panic!("whole answers are asked for"),
    }
}

/// Who answered each of `count` requests sent at once to `first`, then `second`.
async fn at_once(stage: &Stage, count: usize, first: &Arc<Scripted>, second: &Arc<Scripted>) -> [usize; 2] {
    let runs = (0..count).map(|_| answer(stage, plan(false, &[first, second])));
    let answers = join_all(runs).await;
    let by_first = answers.iter().filter(|(served, _)| &*served.provider == "p0");
    let by_first = by_first.count();
    [by_first, count - by_first]
}

fn state(stage: &Stage) -> CircuitState {
    stage.dispatcher.health(clock::monotonic())[0].state
}

#[tokio::test(start_paused = true)]
async fn one_live_request_probes_and_traffic_comes_back_slowly() {
    let stage = stage();
    let (sick, good) = (sick_for(5, 400), good());
    for _ in 0..5 {
        assert_eq!(at_once(&stage, 1, &sick, &good).await, [0, 1]);
    }
    assert_eq!((state(&stage), sick.calls()), (CircuitState::Open, 5));
    assert_eq!(at_once(&stage, 50, &sick, &good).await, [0, 50]);
    // The first rest is five to ten seconds.
    tokio::time::advance(Duration::from_secs(10)).await;
    assert_eq!(at_once(&stage, 50, &sick, &good).await, [1, 49]);
    assert_eq!((state(&stage), sick.calls()), (CircuitState::Recovering, 6));
    // A tenth passes right after the probe; 2,000 draws give 200 with a standard deviation of 13.4, and these are
    // six of them.
    let [back, _] = at_once(&stage, 2000, &sick, &good).await;
    assert!((120..=285).contains(&back), "{back}");
    tokio::time::advance(Duration::from_secs(30)).await;
    assert_eq!(at_once(&stage, 100, &sick, &good).await, [100, 0]);
    assert_eq!(state(&stage), CircuitState::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_fails_sends_it_back_to_a_longer_rest() {
    let stage = stage();
    let (sick, good) = (sick_for(6, 100), good());
    for _ in 0..5 {
        at_once(&stage, 1, &sick, &good).await;
    }
    tokio::time::advance(Duration::from_secs(10)).await;
    assert_eq!(at_once(&stage, 20, &sick, &good).await, [0, 20]);
    assert_eq!(sick.calls(), 6, "one of them probed");
    let row = &stage.dispatcher.health(clock::monotonic())[0];
    assert_eq!(
        (row.state, row.reason.as_deref()),
        (CircuitState::Open, Some("the probe failed"))
    );
    // Ten to twenty seconds now, of which the other answers took a tenth of one.
    assert!(
        row.retry_in_ms
            .is_some_and(|rest| (9_800..=20_000).contains(&rest)),
        "{row:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_hedge_is_no_probe_and_needs_a_place() {
    let stage = stage();
    let stalling = || Scripted::new([vec![Wait(5_000), Text("late"), End]]);
    let hedged = |primary: &Arc<Scripted>, second: &Arc<Scripted>| {
        let mut plan = plan(false, &[primary, second]);
        plan.ttft_budget = Some(Duration::from_secs(1));
        plan
    };
    // The second one of this chain has failed, and must be probed first.
    let sick = sick_for(5, 100);
    for _ in 0..5 {
        let mut plan = plan(false, &[&sick, &good()]);
        plan.candidates.iter_mut().for_each(|candidate| {
            // It is `p1` in the chain below.
            let name = if &*candidate.arm.id.to_string() == "p0/m" {
                "p1"
            } else {
                "p0"
            };
            candidate.arm = testing::arm(&format!("{name}/m"));
            let upstream = candidate.deployments[0].upstream.clone();
            candidate.deployments = vec![Arc::new(Deployment::new(name, upstream))];
        });
        answer(&stage, plan).await;
    }
    tokio::time::advance(Duration::from_secs(10)).await;
    let stock = stage.dispatcher.hedge_stock();
    let (served, _) = answer(&stage, hedged(&stalling(), &sick)).await;
    assert_eq!((&*served.provider, served.hedged, sick.calls()), ("p0", false, 5));
    assert!(
        stage.dispatcher.hedge_stock() >= stock,
        "a hedge that was not sent is not spent"
    );

    let stage = testing::stage();
    let busy = Scripted::new([vec![Wait(3_000), Text("busy"), End]]);
    let limited = |mut plan: Plan| {
        let deployment = Deployment {
            max_in_flight: Some(1),
            ..Deployment::new("p1", busy.clone())
        };
        plan.candidates[1].deployments = vec![Arc::new(deployment)];
        plan
    };
    let sick = Scripted::new([vec![Fail(AttemptError {
        retry: Retry::NextArm,
        ..error(FailureKind::ProviderUnavailable)
    })]]);
    let (first, second) = tokio::join!(
        answer(&stage, limited(plan(false, &[&sick, &busy]))),
        answer(&stage, limited(hedged(&stalling(), &busy))),
    );
    assert_eq!((&*first.0.provider, &*second.0.provider), ("p1", "p0"));
    assert_eq!((second.0.hedged, busy.most_at_once()), (false, 1));
}

#[tokio::test(start_paused = true)]
async fn a_storm_is_retried_for_a_fifth_of_it() {
    let stage = stage();
    let sick = Scripted::new([vec![Fail(error(FailureKind::ProviderUnavailable))]]);
    let runs = (0..500).map(|_| stage.dispatcher.run(plan(false, &[&sick])));
    let answers = join_all(runs).await;
    assert!(answers.iter().all(Result::is_err));
    // 0.2 * 500, and ten for each of the ten seconds.
    assert_eq!(sick.calls(), 500 + 200);
}

/// A model at two places, each request in a conversation of its own.
fn two_places(number: usize, first: &Arc<Scripted>, second: &Arc<Scripted>) -> Plan {
    let mut plan = plan(true, &[first]);
    let other = Deployment {
        name: Arc::from("p0#2"),
        ..Deployment::new("p0", second.clone())
    };
    plan.candidates[0].deployments.push(Arc::new(other));
    let mut request = testing::request(true);
    request.prompt_cache_key = Some(number.to_string());
    plan.request = Arc::new(request);
    plan
}

async fn stream(stage: &Stage, plan: Plan) {
    use futures_util::StreamExt;
    let Answer::Stream(_, mut events) = stage.dispatcher.run(plan).await.expect("an answer") else {
        panic!("streams are asked for")
    };
    while let Some(event) = events.next().await {
        event.expect("a whole stream");
    }
}

/// Whoever sends its headers at once and its words late is slow.
#[tokio::test(start_paused = true)]
async fn the_first_word_is_what_a_place_is_judged_by() {
    let stage = stage();
    let eager = Scripted::new([vec![Empty, Wait(3000), Text("late"), End]]);
    let quick = Scripted::new([vec![Wait(200), Text("soon"), End]]);
    for number in 0..100 {
        stream(&stage, two_places(number, &eager, &quick)).await;
    }
    // Its estimate of 3 s falls to four times 0.2 s in 13 s, and it is then tried again: in 25 s at most twice more
    // than the first time.
    assert!((1..=4).contains(&eager.calls()), "{}", eager.calls());
}

/// Slow once, and well since: half of the conversations come back.
#[tokio::test(start_paused = true)]
async fn a_place_that_was_slow_once_is_not_left_for_good() {
    let stage = stage();
    let once = Scripted::new([
        vec![Wait(8000), Text("slow"), End],
        vec![Wait(200), Text("well"), End],
    ]);
    let steady = Scripted::new([vec![Wait(200), Text("well"), End]]);
    let mut number = 0;
    while once.calls() == 0 {
        stream(&stage, two_places(number, &once, &steady)).await;
        number += 1;
    }
    for number in 0..50 {
        stream(&stage, two_places(number, &once, &steady)).await;
    }
    assert_eq!(once.calls(), 1, "ten seconds later it is not forgotten");
    tokio::time::advance(Duration::from_secs(40)).await;
    for number in 0..400 {
        stream(&stage, two_places(number, &once, &steady)).await;
    }
    // 400 conversations fall to either place by a hash: 200 with a standard deviation of 10.
    assert!((140..=260).contains(&once.calls()), "{}", once.calls());
}
