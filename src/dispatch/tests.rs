//! A request's life in every kind of weather, under paused time.

use std::time::Duration;

use futures_util::StreamExt;

use super::testing::Step::{Call, Close, Empty, End, Fail, Hang, Text, Thought, Wait};
use super::testing::{Scripted, USAGE, answered, error, good, plan, read, refused, roles, sick, stage};
use super::*;
use crate::clock;
use crate::completion::Usage;
use crate::failure::{AttemptError, FailureKind, FaultSource, Retry};
use crate::telemetry::circuit::CircuitState;
use crate::units::Usd;

#[tokio::test(start_paused = true)]
async fn a_healthy_primary_serves() {
    for stream in [false, true] {
        let stage = stage();
        let (served, text) = answered(&stage, plan(stream, &[&good(), &good()])).await;
        assert_eq!(
            (text.as_str(), served.attempts, served.fallback_from),
            ("good", 1, None)
        );
        let records = stage.ledger.records();
        assert_eq!(records.len(), 1);
        let record = &records[0];
        assert_eq!(
            (record.role, &record.outcome, record.committed),
            (Role::Primary, &Outcome::Succeeded, true)
        );
        assert_eq!(record.usage, Some(USAGE));
        assert_eq!(record.ttft, Some(Duration::from_millis(100)));
        assert_eq!(stage.dispatcher.in_flight(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn whatever_breaks_before_the_first_word_falls_back() {
    let failing = AttemptError {
        retry: Retry::NextArm,
        ..error(FailureKind::ProviderOverloaded)
    };
    let scripts = [
        vec![Fail(failing.clone())],
        vec![Wait(50), Empty, Empty, Fail(failing.clone())],
        vec![Empty, Close],
        vec![Close],
    ];
    for script in scripts {
        let stage = stage();
        let primary = Scripted::new([script]);
        let (served, text) = answered(&stage, plan(true, &[&primary, &good()])).await;
        assert_eq!((text.as_str(), served.attempts), ("good", 2));
        assert_eq!(served.fallback_from.unwrap().as_str(), "p0/m");
        assert_eq!(served.role, Role::Fallback);
        assert_eq!(primary.calls(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_death_after_the_first_word_is_an_error_and_never_an_end() {
    for last in [Close, Fail(error(FailureKind::ProviderOverloaded))] {
        let stage = stage();
        let dying = Scripted::new([vec![Text("half an "), Text("answ"), last]]);
        let answer = stage
            .dispatcher
            .run(plan(true, &[&dying, &good()]))
            .await
            .unwrap();
        let (_, text, failure) = read(answer).await;
        assert_eq!(text, "half an answ");
        assert!(failure.is_some());
        let records = stage.ledger.records();
        assert!(matches!(records[0].outcome, Outcome::Failed(_)) && records[0].committed);
        // 12 bytes are 3 tokens; the prompt was read.
        assert_eq!(
            records[0].usage,
            Some(Usage {
                input: 11,
                output: 3,
                estimated: true,
                ..Usage::default()
            })
        );
    }
}

#[tokio::test(start_paused = true)]
async fn silence_in_the_middle_ends_after_the_idle_timeout() {
    let stage = stage();
    let silent = Scripted::new([vec![Text("a"), Wait(29_000), Text("b"), Hang]]);
    let start = clock::monotonic();
    let answer = stage.dispatcher.run(plan(true, &[&silent])).await.unwrap();
    let (_, text, failure) = read(answer).await;
    assert_eq!(
        (text.as_str(), failure.unwrap().kind),
        ("ab", FailureKind::Timeout)
    );
    assert_eq!(clock::monotonic() - start, Duration::from_secs(59));
    assert_eq!(
        stage.ledger.records()[0].longest_gap,
        Some(Duration::from_secs(29))
    );
}

#[tokio::test(start_paused = true)]
async fn the_deadline_holds_in_the_middle_of_a_stream_too() {
    let stage = stage();
    let mut script = Vec::new();
    for _ in 0..100 {
        script.extend([Text("x"), Wait(1000)]);
    }
    let start = clock::monotonic();
    let answer = stage
        .dispatcher
        .run(plan(true, &[&Scripted::new([script])]))
        .await
        .unwrap();
    let (_, _, failure) = read(answer).await;
    assert_eq!(failure.unwrap().kind, FailureKind::Timeout);
    assert_eq!(clock::monotonic() - start, Duration::from_secs(60));
    assert_eq!(
        roles(&stage),
        [(Role::Primary, Outcome::Cancelled(Cancellation::Deadline))]
    );
}

/// The time to begin in does not cut off an answer that flows.
#[tokio::test(start_paused = true)]
async fn a_stream_that_has_begun_may_have_longer_than_its_beginning() {
    let flowing = || {
        Scripted::new([vec![
            Wait(1000),
            Text("a"),
            Wait(3000),
            Text("b"),
            Wait(3000),
            End,
        ]])
    };
    for (begins, lasts, expected) in [(2, 10, Some("ab")), (2, 5, None)] {
        let stage = stage();
        let plan = Plan {
            deadline: clock::monotonic() + Duration::from_secs(begins),
            stream_deadline: clock::monotonic() + Duration::from_secs(lasts),
            ..plan(true, &[&flowing()])
        };
        let (_, text, failure) = read(stage.dispatcher.run(plan).await.unwrap()).await;
        match expected {
            Some(whole) => assert_eq!((text.as_str(), failure), (whole, None)),
            None => assert_eq!(failure.unwrap().kind, FailureKind::Timeout),
        }
    }
    let late = Plan {
        deadline: clock::monotonic() + Duration::from_millis(900),
        ..plan(true, &[&flowing()])
    };
    assert_eq!(refused(&stage(), late).await.kind, FailureKind::Timeout);
}

#[tokio::test(start_paused = true)]
async fn a_hung_primary_leaves_time_for_everyone_behind_it() {
    for stream in [false, true] {
        let stage = stage();
        let hung = || Scripted::new([vec![Hang]]);
        let start = clock::monotonic();
        let (served, text) = answered(&stage, plan(stream, &[&hung(), &hung(), &good()])).await;
        assert_eq!((text.as_str(), served.attempts), ("good", 3));
        // 2/4 of 60 s, then 2/3 of the 30 s left.
        assert_eq!(clock::monotonic() - start, Duration::from_millis(50_100));
    }
}

#[tokio::test(start_paused = true)]
async fn when_all_hang_the_deadline_answers() {
    for stream in [false, true] {
        let stage = stage();
        let hung = || Scripted::new([vec![Empty, Hang]]);
        let start = clock::monotonic();
        let failure = refused(&stage, plan(stream, &[&hung(), &hung()])).await;
        assert_eq!((failure.kind, failure.attempts), (FailureKind::Timeout, 2));
        assert_eq!(clock::monotonic() - start, Duration::from_secs(60));
        assert!(
            failure.message.ends_with("the request's 60000 ms"),
            "{}",
            failure.message
        );
        assert_eq!(
            stage.ledger.records()[1].outcome,
            Outcome::Cancelled(Cancellation::Deadline)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_transient_error_is_retried_once_on_the_same_arm() {
    let stage = stage();
    let flaky = Scripted::new([
        vec![Fail(error(FailureKind::ProviderUnavailable))],
        vec![Text("second"), End],
    ]);
    let start = clock::monotonic();
    let (served, text) = answered(&stage, plan(false, &[&flaky, &good()])).await;
    assert_eq!((text.as_str(), served.role), ("second", Role::Retry));
    assert_eq!(served.fallback_from, None);
    let pause = clock::monotonic() - start;
    assert!((100..=200).contains(&pause.as_millis()), "{pause:?}");

    let sick = sick(FailureKind::ProviderUnavailable, Retry::SameArm);
    let (served, _) = answered(&stage, plan(false, &[&sick, &good()])).await;
    assert_eq!((sick.calls(), served.role), (2, Role::Fallback));
}

#[tokio::test(start_paused = true)]
async fn a_rate_limit_goes_to_the_next_arm_and_is_obeyed_by_the_next_request() {
    let stage = stage();
    let limit = AttemptError {
        retry_after: Some(Duration::from_secs(20)),
        ..error(FailureKind::RateLimitExceeded)
    };
    let limited = Scripted::new([vec![Fail(limit)], vec![Text("back"), End]]);
    let good = good();
    for _ in 0..3 {
        let (_, text) = answered(&stage, plan(false, &[&limited, &good])).await;
        assert_eq!(text, "good");
    }
    assert_eq!(limited.calls(), 1);
    tokio::time::advance(Duration::from_secs(20)).await;
    let (_, text) = answered(&stage, plan(false, &[&limited, &good])).await;
    assert_eq!(text, "back");
}

#[tokio::test(start_paused = true)]
async fn a_short_retry_after_of_the_last_candidate_is_waited_out_and_a_long_one_told() {
    let limit = |seconds| {
        let limit = AttemptError {
            retry_after: Some(Duration::from_secs(seconds)),
            ..error(FailureKind::RateLimitExceeded)
        };
        Scripted::new([vec![Fail(limit)], vec![Text("back"), End]])
    };
    let start = clock::monotonic();
    let (served, text) = answered(&stage(), plan(false, &[&limit(3)])).await;
    assert_eq!((text.as_str(), served.attempts), ("back", 2));
    assert_eq!(clock::monotonic() - start, Duration::from_secs(3));

    let stage = stage();
    let long = limit(30);
    let failure = refused(&stage, plan(false, &[&long])).await;
    assert_eq!(failure.kind, FailureKind::RateLimitExceeded);
    assert_eq!(failure.retry_after, Some(Duration::from_secs(30)));
    assert!(failure.retryable);
    tokio::time::advance(Duration::from_secs(10)).await;
    let failure = refused(&stage, plan(false, &[&long])).await;
    assert_eq!(
        (failure.retry_after, long.calls()),
        (Some(Duration::from_secs(20)), 1)
    );
}

#[tokio::test(start_paused = true)]
async fn a_bad_request_is_told_at_once_and_a_misfit_goes_on() {
    let bad = AttemptError {
        fault: FaultSource::Client,
        retry: Retry::No,
        ..error(FailureKind::InvalidRequest)
    };
    let stage = stage();
    let fallback = good();
    let failure = refused(
        &stage,
        plan(false, &[&Scripted::new([vec![Fail(bad)]]), &fallback]),
    )
    .await;
    assert_eq!(
        (failure.kind, failure.retryable, fallback.calls()),
        (FailureKind::InvalidRequest, false, 0)
    );

    let long = AttemptError {
        fault: FaultSource::Client,
        retry: Retry::NextArm,
        ..error(FailureKind::ContextLengthExceeded)
    };
    let small = Scripted::new([vec![Fail(long)]]);
    let (served, _) = answered(&stage, plan(false, &[&small, &fallback])).await;
    assert_eq!(served.attempts, 2);
    let failure = refused(&stage, plan(false, &[&small, &small])).await;
    assert_eq!(failure.kind, FailureKind::ContextLengthExceeded);
}

#[tokio::test(start_paused = true)]
async fn an_open_circuit_is_passed_over_but_never_the_last_candidate() {
    let stage = stage();
    let sick = sick(FailureKind::ProviderUnavailable, Retry::NextArm);
    let good = good();
    for _ in 0..5 {
        answered(&stage, plan(false, &[&sick, &good])).await;
    }
    let rows = stage.dispatcher.health(clock::monotonic());
    assert_eq!(rows[0].state, CircuitState::Open);
    assert_eq!(rows[0].reason.as_deref(), Some("5 failures in a row"));
    assert!(rows[0].retry_in_ms.is_some_and(|rest| rest <= 10_000));

    let (served, _) = answered(&stage, plan(false, &[&sick, &good])).await;
    assert_eq!(
        (sick.calls(), served.attempts, served.role),
        (5, 1, Role::Fallback)
    );
    let failure = refused(&stage, plan(false, &[&sick])).await;
    assert_eq!(
        (failure.kind, sick.calls()),
        (FailureKind::ProviderUnavailable, 6)
    );
}

#[tokio::test(start_paused = true)]
async fn foreign_thoughts_are_taken_out_for_the_same_arm_before_another_is_asked() {
    let foreign = || {
        Fail(AttemptError {
            fault: FaultSource::Client,
            retry: Retry::WithoutThoughts,
            ..error(FailureKind::InvalidRequest)
        })
    };
    for stream in [false, true] {
        let stage = stage();
        let mended = Scripted::new([vec![foreign()], vec![Text("mended"), End]]);
        let (served, text) = answered(&stage, plan(stream, &[&mended, &good()])).await;
        assert_eq!((text.as_str(), served.fallback_from), ("mended", None));
        assert_eq!(mended.stripped(), [false, true]);
        assert_eq!(stage.ledger.records()[1].role, Role::Retry);

        // Once is enough; and who was told to leave them out from the beginning is not asked again.
        let stubborn = Scripted::new([vec![foreign()]]);
        let (served, _) = answered(&stage, plan(stream, &[&stubborn, &good()])).await;
        assert_eq!(served.fallback_from.unwrap().as_str(), "p0/m");
        assert_eq!(stubborn.stripped(), [false, true]);
        let health = stage.dispatcher.health(clock::monotonic());
        assert!(health.iter().all(|row| row.last_failure.is_none()));
    }
}

#[tokio::test(start_paused = true)]
async fn attempts_and_money_are_shared_by_the_whole_chain() {
    let stage = stage();
    let sick = || sick(FailureKind::ProviderUnavailable, Retry::NextArm);
    let limited = Plan {
        max_attempts: Some(2),
        ..plan(false, &[&sick(), &sick(), &good()])
    };
    let failure = refused(&stage, limited).await;
    assert_eq!(
        (failure.kind, failure.attempts),
        (FailureKind::ProviderUnavailable, 2)
    );

    // A refused call costs nothing, so the money is still there for the fallback ...
    let cent = Usd::from_nanos(10_000_000);
    let paid = Plan {
        max_cost: Some(cent),
        ..plan(false, &[&sick(), &good()])
    };
    answered(&stage, paid).await;
    // ... but a stream that broke off after it was accepted may have cost its price.
    let broken = Scripted::new([vec![Empty, Close]]);
    let paid = Plan {
        max_cost: Some(cent),
        ..plan(true, &[&broken, &good()])
    };
    let failure = refused(&stage, paid).await;
    assert_eq!(failure.attempts, 1);

    let dear = Plan {
        max_cost: Some(Usd::from_nanos(1)),
        ..plan(false, &[&good()])
    };
    assert_eq!(refused(&stage, dear).await.kind, FailureKind::BudgetExceeded);
    assert_eq!(
        refused(&stage, plan(false, &[])).await.kind,
        FailureKind::NoCandidates
    );
}

#[tokio::test(start_paused = true)]
async fn what_was_written_is_counted_where_no_tokens_are_told() {
    let (thought, call) = ("twelve bytes", r#"{"at":1}"#);
    for (written, output, reasoning) in [
        (vec![Thought(thought), Text("four"), Call(call), Close], 6, 3),
        (vec![Thought(thought), Close], 3, 3),
        (vec![Call(call), Call("}"), Close], 3, 0),
    ] {
        let stage = stage();
        let answer = stage
            .dispatcher
            .run(plan(true, &[&Scripted::new([written])]))
            .await;
        let Ok(Answer::Stream(_, events)) = answer else {
            panic!("a stream")
        };
        let failed = events
            .filter(|event| std::future::ready(event.is_err()))
            .count()
            .await;
        assert_eq!(failed, 1);
        assert_eq!(
            stage.ledger.records()[0].usage,
            Some(Usage {
                input: 11,
                output,
                reasoning,
                estimated: true,
                ..Usage::default()
            })
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_cancels_and_is_told_to_the_books() {
    let stage = stage();
    let run = stage.dispatcher.run(plan(true, &[&Scripted::new([vec![Hang]])]));
    assert!(tokio::time::timeout(Duration::from_secs(1), run).await.is_err());
    let waiting = stage.ledger.records().remove(0);
    assert_eq!(waiting.outcome, Outcome::Cancelled(Cancellation::ClientGone));
    assert!(!waiting.committed);
    assert_eq!(stage.dispatcher.in_flight(), 0);

    let talking = Scripted::new([vec![Text("some words"), Hang]]);
    let answer = stage.dispatcher.run(plan(true, &[&talking])).await.unwrap();
    assert_eq!(stage.dispatcher.in_flight(), 1);
    let Answer::Stream(_, mut events) = answer else {
        panic!("a stream")
    };
    assert!(events.next().await.is_some());
    drop(events);
    let left = stage.ledger.records().remove(1);
    assert_eq!(left.outcome, Outcome::Cancelled(Cancellation::ClientGone));
    assert_eq!(
        left.usage,
        Some(Usage {
            input: 11,
            output: 3,
            estimated: true,
            ..Usage::default()
        })
    );
    stage.dispatcher.idle().await;
    let health = stage.dispatcher.health(clock::monotonic());
    assert!(health.iter().all(|row| row.in_flight == 0));
}
