//! Every fault, streamed or not, at the first, the middle and the last place of a chain, in each wire format: what
//! the client sees, what the log says, and whether the books agree with the bill.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use pointsman::dispatch::{Cancellation, DispatchRules, Outcome, Role};
use pointsman::failure::FailureKind;
use pointsman::telemetry::circuit::CircuitState;

use super::{Stage, http, plan, planned, read};
use crate::upstream::{Dealt, Fault, Upstream, Wire, full_answer};

pub const WIRES: [Wire; 3] = [Wire::OpenAi, Wire::Anthropic, Wire::Gemini];
const DEADLINE: Duration = Duration::from_secs(8);
/// Cases at a time: two cores serve both sides.
const AT_ONCE: usize = 32;

/// What comes of a fault when the arm is asked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Effect {
    /// It answers all the same.
    Serves,
    /// It fails before its first word.
    Fails(FailureKind),
    /// It breaks off after its first word.
    Breaks(FailureKind),
}

pub const FAULTS: [Fault; 31] = [
    Fault::None,
    Fault::Status(429, None),
    Fault::Status(429, Some(7)),
    Fault::Status(500, None),
    Fault::Status(502, None),
    Fault::Status(503, None),
    Fault::Status(529, None),
    Fault::Status(401, None),
    Fault::QuotaExhausted,
    Fault::HangBeforeHeaders,
    Fault::HangAfterHeaders,
    Fault::SlowFirstToken(300),
    Fault::Trickle(100),
    Fault::ResetMidStream,
    Fault::ErrorInside200,
    Fault::GarbageJson,
    Fault::Truncated,
    Fault::WrongContentType,
    Fault::Oversized,
    Fault::DuplicateDone,
    Fault::TlsFailure,
    Fault::BadCertificate,
    Fault::Drip,
    Fault::Compressed,
    Fault::ResetInHeaders,
    Fault::Redirect,
    Fault::BadUtf8,
    Fault::Informational,
    Fault::Trailers,
    Fault::ByteByByte,
    Fault::ClosesAtOnce,
];

pub fn effect(fault: Fault, stream: bool) -> Effect {
    use Effect::{Breaks, Fails, Serves};
    use FailureKind::{ProviderOverloaded, ProviderUnavailable, RateLimitExceeded, Timeout};
    match fault {
        Fault::None | Fault::SlowFirstToken(_) | Fault::Trickle(_) | Fault::DuplicateDone => Serves,
        Fault::Informational | Fault::Trailers | Fault::ByteByByte | Fault::ClosesAtOnce => Serves,
        Fault::Status(429, _) | Fault::QuotaExhausted => Fails(RateLimitExceeded),
        Fault::Status(503 | 529, _) | Fault::ErrorInside200 => Fails(ProviderOverloaded),
        Fault::HangBeforeHeaders | Fault::HangAfterHeaders | Fault::Drip => Fails(Timeout),
        Fault::ResetMidStream | Fault::Truncated if stream => Breaks(ProviderUnavailable),
        Fault::BadRequest => Fails(FailureKind::InvalidRequest),
        _ => Fails(ProviderUnavailable),
    }
}

#[derive(Clone, Copy, Debug)]
struct Case {
    wire: Wire,
    fault: Fault,
    stream: bool,
    /// 0, 1 or 2 in a chain of three: what comes before it is broken, what comes after it is well.
    place: usize,
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for wire in WIRES {
        for fault in FAULTS {
            for stream in [false, true] {
                cases.extend((0..3).map(|place| Case {
                    wire,
                    fault,
                    stream,
                    place,
                }));
            }
        }
    }
    cases
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_fault_at_every_place() {
    let cases = cases();
    assert_eq!(cases.len(), WIRES.len() * FAULTS.len() * 2 * 3);
    let checks = stream::iter(cases).map(|case| tokio::spawn(check(case)));
    let done: Vec<_> = checks.buffer_unordered(AT_ONCE).collect().await;
    for check in done {
        check.unwrap();
    }
}

async fn check(case: Case) {
    let names = ["first", "middle", "last"];
    let http = http();
    let mut upstreams = Vec::new();
    for (index, name) in names.into_iter().enumerate() {
        let fault = match index.cmp(&case.place) {
            std::cmp::Ordering::Less => Fault::Status(500, None),
            std::cmp::Ordering::Equal => case.fault,
            std::cmp::Ordering::Greater => Fault::None,
        };
        upstreams.push(Upstream::always(name, case.wire, fault).await);
    }
    let candidates = names
        .iter()
        .zip(&upstreams)
        .map(|(name, upstream)| planned(name, upstream, &http))
        .collect();
    let stage = Stage::new(DispatchRules {
        idle_timeout: Duration::from_secs(2),
        ..DispatchRules::default()
    });
    let plan = plan("ask-1", case.stream, candidates, DEADLINE);
    let answer = tokio::time::timeout(DEADLINE + Duration::from_secs(2), stage.dispatcher.run(plan))
        .await
        .unwrap_or_else(|_| panic!("{case:?} hangs past its deadline"));

    let effect = effect(case.fault, case.stream);
    let expected = match effect {
        Effect::Fails(_) if case.place < 2 => Some((case.place + 1, Effect::Serves)),
        Effect::Fails(_) => None,
        Effect::Serves | Effect::Breaks(_) => Some((case.place, effect)),
    };
    match (answer, expected) {
        (Ok(answer), Some((server, effect))) => {
            let (served, text, failure) = read(answer).await;
            let name = names[server];
            assert_eq!(&*served.provider, name, "{case:?}");
            assert_eq!(served.fallback_from.is_some(), server > 0, "{case:?}");
            let full = full_answer(name, "ask-1");
            match effect {
                Effect::Breaks(kind) => {
                    assert_eq!(failure.map(|error| error.kind), Some(kind), "{case:?}");
                    assert!(
                        full.starts_with(&text) && text.len() < full.len(),
                        "{case:?}: {text}"
                    );
                }
                _ => assert_eq!((text, failure), (full, None), "{case:?}"),
            }
        }
        (Err(failure), None) => {
            let Effect::Fails(kind) = effect else {
                unreachable!()
            };
            assert_eq!(failure.kind, kind, "{case:?}: {failure}");
            assert_eq!(failure.provider.as_deref(), Some("last"), "{case:?}");
            if case.fault == Fault::Status(429, Some(7)) {
                let wait = failure.retry_after.expect("a wait");
                assert!((6..=7).contains(&wait.as_secs()), "{wait:?}");
            }
            assert!(
                !failure.message.contains("127.0.0.1") && !failure.message.contains("529"),
                "{}",
                failure.message
            );
        }
        (Ok(_), None) => panic!("{case:?}: an answer where none can be"),
        (Err(failure), Some(_)) => panic!("{case:?}: {failure} {:?}", failure.tried),
    }
    check_books(&case, &stage, &upstreams).await;
}

#[tokio::test]
async fn a_bad_request_is_told_and_never_trips_a_circuit() {
    let http = http();
    let strict = Upstream::always("strict", Wire::OpenAi, Fault::BadRequest).await;
    let other = Upstream::always("other", Wire::OpenAi, Fault::None).await;
    let candidates = vec![planned("strict", &strict, &http), planned("other", &other, &http)];
    let stage = Stage::new(DispatchRules::default());
    for _ in 0..20 {
        let failure = stage
            .dispatcher
            .run(plan("ask-1", false, candidates.clone(), DEADLINE))
            .await
            .err()
            .unwrap();
        assert_eq!(
            (failure.kind, failure.retryable),
            (FailureKind::InvalidRequest, false)
        );
        assert!(
            failure.message.contains("messages must alternate"),
            "{}",
            failure.message
        );
    }
    assert_eq!((strict.requests(), other.requests()), (20, 0));
    let rows = stage.dispatcher.health(pointsman::clock::monotonic());
    assert_eq!(rows[0].state, CircuitState::Closed);
}

#[tokio::test]
async fn a_client_that_leaves_hangs_up_upstream() {
    for (fault, stream) in [
        (Fault::HangBeforeHeaders, false),
        (Fault::HangBeforeHeaders, true),
        (Fault::HangAfterHeaders, true),
        (Fault::Trickle(200), true),
    ] {
        let http = http();
        let upstream = Upstream::always("slow", Wire::OpenAi, fault).await;
        let stage = Stage::new(DispatchRules::default());
        let request = plan("ask-1", stream, vec![planned("slow", &upstream, &http)], DEADLINE);
        let patience = Duration::from_millis(500);
        let gone = tokio::time::timeout(patience, async {
            let answer = stage.dispatcher.run(request).await.unwrap();
            read(answer).await
        });
        assert!(gone.await.is_err());
        let billed = bill(std::slice::from_ref(&upstream), 1).await;
        assert!(billed[0].hung_up, "{fault:?}: the upstream call goes on");
        let records = stage.ledger.all();
        assert_eq!(records.len(), 1);
        assert_eq!(records[0].outcome, Outcome::Cancelled(Cancellation::ClientGone));
        let usage = records[0].usage.unwrap();
        assert!(usage.estimated);
        assert_eq!(
            (usage.input, usage.output),
            (billed[0].input_tokens, billed[0].output_tokens),
            "{fault:?}"
        );
        assert_eq!(stage.dispatcher.in_flight(), 0);
    }
}

/// The log has one row for each request that an upstream saw, and the tokens in it are those that were billed.
async fn check_books(case: &Case, stage: &Stage, upstreams: &[Upstream]) {
    stage.dispatcher.idle().await;
    let records = stage.ledger.of("ask-1");
    assert_eq!(records[0].role, Role::Primary, "{case:?}");
    let sent: usize = upstreams.iter().map(Upstream::requests).sum();
    // A connection without TLS fails before there is a request.
    assert!(
        sent == records.len() || matches!(case.fault, Fault::TlsFailure | Fault::BadCertificate),
        "{case:?}: {sent}"
    );
    let rows = stage.dispatcher.health(pointsman::clock::monotonic());
    assert!(rows.iter().all(|row| row.in_flight == 0), "{case:?}");
    let last = &records[records.len() - 1];
    assert_eq!(
        matches!(last.outcome, Outcome::Succeeded),
        last.committed && !matches!(last.outcome, Outcome::Failed(_)),
        "{case:?}"
    );

    let billed = bill(upstreams, sent).await;
    let (input, output) = records
        .iter()
        .filter_map(|record| record.usage)
        .fold((0, 0), |sum, usage| (sum.0 + usage.input, sum.1 + usage.output));
    let (billed_input, billed_output) = billed.iter().fold((0, 0), |sum, dealt| {
        (sum.0 + dealt.input_tokens, sum.1 + dealt.output_tokens)
    });
    // A login page in the provider's place is billed by nobody; the log cannot know that it was not the provider.
    if case.fault != Fault::WrongContentType {
        assert_eq!(input, billed_input, "{case:?}: {records:#?}");
        assert_eq!(output, billed_output, "{case:?}: {records:#?}");
    }
}

/// What the upstreams dealt with, once they have noticed that their callers have hung up.
pub async fn bill(upstreams: &[Upstream], requests: usize) -> Vec<Dealt> {
    for _ in 0..200 {
        let books: Vec<Dealt> = upstreams.iter().flat_map(Upstream::books).collect();
        if books.len() >= requests {
            return books;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    upstreams.iter().flat_map(Upstream::books).collect()
}
