//! What keeping the books costs: an attempt recorded in the windows, a request logged in the database.

#![allow(clippy::expect_used, reason = "a bench that cannot set itself up ends")]
#![allow(missing_docs, reason = "the macro's functions have no place for them")]

use std::borrow::Cow;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use pointsman::arm::ArmId;
use pointsman::clock;
use pointsman::completion::Usage;
use pointsman::store::{AttemptRow, CandidateRow, DecisionRow, Settings, Store};
use pointsman::telemetry::{Ending, InputSize, Question, Sample, SeriesKey, Telemetry};
use pointsman::units::{UnixMs, Usd};

fn samples() -> Vec<Sample> {
    let key = |index: u64| {
        let arm = ArmId::new(&format!("provider/model-{}", index % 5));
        SeriesKey::new(Arc::from("provider"), arm, index.is_multiple_of(2), 100 << index)
    };
    (0..10)
        .map(|index| Sample {
            key: key(index),
            ending: Ending::Succeeded,
            ttft: Some(Duration::from_millis(200 + 37 * index)),
            total: Duration::from_millis(2_000 + 370 * index),
            output_tokens: Some(200),
        })
        .collect()
}

fn telemetry(criterion: &mut Criterion) {
    let samples = samples();
    let telemetry = Telemetry::default();
    let mut now = UnixMs(1_000_000_000_000);
    let mut index = 0;
    criterion.bench_function("telemetry/record", |bencher| {
        bencher.iter(|| {
            index += 1;
            now = UnixMs(now.0 + i64::from(index % 8 == 0));
            telemetry.record(now, black_box(&samples[index as usize % samples.len()]));
        });
    });
    let view = telemetry.publish(now);
    let arm = samples[0].key.arm.clone();
    criterion.bench_function("telemetry/view_wait", |bencher| {
        let question = Question {
            arm: &arm,
            provider: Some("provider"),
            stream: true,
            size: InputSize::Small,
        };
        bencher.iter(|| view.wait(black_box(&question), 0.95));
    });
    criterion.bench_function("telemetry/publish_10_series", |bencher| {
        bencher.iter(|| telemetry.publish(now));
    });
}

fn decision(id: Arc<str>) -> DecisionRow {
    let candidate = |name: &str| CandidateRow {
        arm: ArmId::new(name),
        propensity: 0.25,
        quality: 0.9,
        deviation: 0.1,
        cost: Usd::from_nanos(1_000),
    };
    DecisionRow {
        id,
        at: clock::wall(),
        episode: Some("session-1".into()),
        user: Some("user-42".into()),
        route: "auto".into(),
        strategy: Cow::Borrowed("thompson"),
        category: "code".into(),
        arm: ArmId::new("mistral/mistral-small"),
        propensity: 0.9,
        explored: false,
        expected_cost: Usd::from_nanos(1_000),
        expected_quality: 0.9,
        experiment: None,
        input_tokens: 300,
        stream: true,
        feature_version: 1,
        context: vec![7; 228],
        candidates: ["mistral/small", "openai/mini", "anthropic/haiku", "google/flash"]
            .map(candidate)
            .to_vec(),
        detail: None,
    }
}

fn attempt(decision: Arc<str>) -> AttemptRow {
    AttemptRow {
        upstream_id: Some(format!("cmpl-{decision}")),
        decision,
        number: 1,
        at: clock::wall(),
        arm: ArmId::new("mistral/mistral-small"),
        provider: "mistral".into(),
        role: Cow::Borrowed("primary"),
        outcome: Cow::Borrowed("succeeded"),
        served: true,
        stream: true,
        ttft_ms: Some(200.0),
        total_ms: 1_000.0,
        usage: Some(Usage {
            input: 300,
            output: 200,
            ..Usage::default()
        }),
        cost: Some(Usd::from_nanos(1_100)),
        finish: Some(Cow::Borrowed("stop")),
        text_bytes: 800,
        detail: None,
    }
}

/// A decision and an attempt for each of a thousand requests, handed over and then waited for until durable.
fn store(criterion: &mut Criterion) {
    const REQUESTS: u64 = 1_000;
    let dir = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open_with(dir.path(), clock::wall(), Settings::default()).expect("an empty database");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    let mut next = 0_u64;
    let mut group = criterion.benchmark_group("store");
    group.throughput(Throughput::Elements(REQUESTS)).sample_size(20);
    group.bench_function("log_1000_requests", |bencher| {
        bencher.iter(|| {
            for _ in 0..REQUESTS {
                next += 1;
                let id: Arc<str> = format!("019aa000-{next:016x}").into();
                assert!(store.log_decision(decision(Arc::clone(&id))) && store.log_attempt(attempt(id)));
            }
            runtime.block_on(store.flush()).expect("a durable log");
        });
    });
    group.finish();
    store.close();
}

criterion_group!(books, telemetry, store);
criterion_main!(books);
