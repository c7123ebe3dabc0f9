//! Who is asked next: places at a deployment, and the order of the others as it is at the moment.

use std::sync::Arc;
use std::time::Duration;

use super::testing::Step::{End, Fail, Hang, Text, Wait};
use super::testing::{Scripted, answered, error, good, plan, stage, stage_with};
use super::*;
use crate::clock;
use crate::failure::{AttemptError, FailureKind, FaultSource, Retry};

fn limited(upstream: &Arc<Scripted>, most: u32) -> Vec<Arc<Deployment>> {
    vec![Arc::new(Deployment {
        max_in_flight: Some(most),
        ..Deployment::new("p0", upstream.clone())
    })]
}

fn arm_of(answer: Answer) -> String {
    match answer {
        Answer::Whole(served, _) | Answer::Stream(served, _) => served.arm.id.to_string(),
    }
}

#[tokio::test(start_paused = true)]
async fn at_most_so_many_calls_are_in_flight_however_many_ask() {
    let stage = stage();
    let upstream = good();
    let start = clock::monotonic();
    let asked = (0..50).map(|_| {
        let mut plan = plan(false, &[&upstream]);
        plan.candidates[0].deployments = limited(&upstream, 3);
        let dispatcher = stage.dispatcher.clone();
        tokio::spawn(async move { dispatcher.run(plan).await })
    });
    for answer in futures_util::future::join_all(asked).await {
        assert_eq!(arm_of(answer.unwrap().unwrap()), "p0/m");
    }
    assert_eq!((upstream.calls(), upstream.most_at_once()), (50, 3));
    // 17 rounds of three at 100 ms: nobody waited longer than there was work before them.
    assert_eq!(clock::monotonic() - start, Duration::from_millis(1700));
    assert_eq!(stage.dispatcher.health(start)[0].in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn a_place_that_is_given_back_goes_to_whoever_still_waits() {
    let stage = stage();
    let upstream = good();
    let ask = |deadline| {
        let mut plan = plan(false, &[&upstream]);
        plan.candidates[0].deployments = limited(&upstream, 1);
        plan.deadline = clock::monotonic() + Duration::from_millis(deadline);
        stage.dispatcher.run(plan)
    };
    let leaves = async {
        tokio::time::timeout(Duration::from_millis(50), ask(60_000))
            .await
            .is_err()
    };
    // The first has the place, the second leaves the queue before its turn, the third runs out of time in it.
    let (first, gone, late, last) = tokio::join!(ask(60_000), leaves, ask(80), ask(60_000));
    assert!(first.is_ok() && gone && last.is_ok());
    let late = late.err().unwrap();
    assert_eq!(
        (late.kind, late.retryable),
        (FailureKind::ProviderOverloaded, true)
    );
    assert!(late.message.contains("max_in_flight"), "{}", late.message);
    assert_eq!(upstream.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_retry_waits_for_its_place_too() {
    let stage = stage();
    let flaky = Scripted::new([
        vec![Fail(error(FailureKind::ProviderUnavailable))],
        vec![Wait(1000), Text("good"), End],
    ]);
    let ask = || {
        let mut plan = plan(false, &[&flaky]);
        plan.candidates[0].deployments = limited(&flaky, 1);
        stage.dispatcher.run(plan)
    };
    let (first, second) = tokio::join!(ask(), ask());
    assert!(first.is_ok() && second.is_ok());
    assert_eq!((flaky.calls(), flaky.most_at_once()), (3, 1));
}

/// The first fails, the second is slow by what telemetry says, the third is not.
struct SecondIsSlow;

impl LatencyOracle for SecondIsSlow {
    fn quantile(&self, question: &LatencyQuestion<'_>, q: f64) -> Option<Duration> {
        let slow = question.provider == "p1" && q <= 0.5;
        Some(Duration::from_millis(if slow { 6000 } else { 700 }))
    }
}

fn sick() -> Arc<Scripted> {
    Scripted::new([vec![Fail(AttemptError {
        retry: Retry::NextArm,
        ..error(FailureKind::ProviderUnavailable)
    })]])
}

#[tokio::test(start_paused = true)]
async fn a_fallback_that_is_slow_moves_back_unless_it_was_asked_for() {
    let (sick, slow, fast) = (sick(), good(), good());
    for (fixed, server) in [(1, "p2/m"), (2, "p1/m"), (3, "p1/m")] {
        let stage = stage_with(Arc::new(SecondIsSlow));
        let plan = Plan {
            fixed,
            ..plan(false, &[&sick, &slow, &fast])
        };
        let answer = stage.dispatcher.run(plan).await.unwrap();
        assert_eq!(arm_of(answer), server, "{fixed}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_hedge_goes_to_whoever_is_fast_now_and_back_again_later() {
    let stage = stage();
    // One bad answer of the second arm; it is well again afterwards.
    let second = Scripted::new([
        vec![Wait(9000), Text("slow"), End],
        vec![Wait(100), Text("good"), End],
    ]);
    let (stalled, third) = (Scripted::new([vec![Hang]]), good());
    let mut alone = plan(false, &[&stalled, &second]);
    alone.candidates.remove(0);
    stage.dispatcher.run(alone).await.unwrap();
    let hedged = || {
        let plan = Plan {
            ttft_budget: Some(Duration::from_secs(2)),
            ..plan(false, &[&stalled, &second, &third])
        };
        stage.dispatcher.run(plan)
    };
    assert_eq!(arm_of(hedged().await.unwrap()), "p2/m");
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(arm_of(hedged().await.unwrap()), "p1/m");
}

#[tokio::test(start_paused = true)]
async fn another_key_of_the_same_model_comes_before_another_model() {
    let stage = stage();
    let rejected = Scripted::new([vec![Fail(AttemptError {
        fault: FaultSource::Credentials,
        retry: Retry::NextArm,
        ..error(FailureKind::ProviderUnavailable)
    })]]);
    let (second, other) = (good(), good());
    let two_keys = || {
        let mut plan = plan(false, &[&rejected, &other]);
        let key = Deployment {
            name: Arc::from("p0#2"),
            ..Deployment::new("p0", second.clone())
        };
        plan.candidates[0].deployments.push(Arc::new(key));
        plan
    };
    for _ in 0..20 {
        let (served, _) = answered(&stage, two_keys()).await;
        assert_eq!(served.arm.id.as_str(), "p0/m");
    }
    assert!(rejected.calls() <= 1);
    assert_eq!(other.calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_full_deployment_is_passed_over() {
    let stage = stage();
    let (slow, second) = (Scripted::new([vec![Wait(5000), Text("slow"), End]]), good());
    let limited = || {
        let mut plan = plan(false, &[&slow, &second]);
        let deployment = Deployment {
            max_in_flight: Some(1),
            ..Deployment::new("p0", slow.clone())
        };
        plan.candidates[0].deployments = vec![Arc::new(deployment)];
        plan
    };
    let (first, other) = tokio::join!(answered(&stage, limited()), answered(&stage, limited()));
    assert_eq!((first.1.as_str(), other.1.as_str()), ("slow", "good"));
}
