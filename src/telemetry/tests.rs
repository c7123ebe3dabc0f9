use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::failure::FailureKind;

const HOUR: i64 = 3_600_000;
const NOW: UnixMs = UnixMs(1_000 * HOUR);

fn key(arm: &str, provider: &str, stream: bool, tokens: u32) -> SeriesKey {
    SeriesKey::new(provider.into(), ArmId::new(arm), stream, tokens)
}

fn sample(key: &SeriesKey, ms: u64) -> Sample {
    Sample {
        key: key.clone(),
        ending: Ending::Succeeded,
        ttft: Some(Duration::from_millis(ms)),
        total: Duration::from_millis(10 * ms),
        output_tokens: Some(10),
    }
}

fn quality(category: &str, score: f64) -> QualitySample {
    QualitySample {
        key: QualityKey {
            arm: ArmId::new("p/a"),
            category: category.into(),
        },
        score,
        replaces: None,
    }
}

#[test]
fn the_snapshot_says_what_it_knows_and_what_not() {
    let telemetry = Telemetry::default();
    let key = key("p/a", "p", true, 100);
    for _ in 0..60 {
        telemetry.record(NOW, &sample(&key, 100));
    }
    telemetry.record(
        NOW,
        &Sample {
            ending: Ending::Failed(FailureKind::RateLimitExceeded),
            ttft: None,
            ..sample(&key, 1)
        },
    );
    telemetry.record(
        NOW,
        &Sample {
            ending: Ending::LostHedge,
            ttft: None,
            ..sample(&key, 200)
        },
    );
    telemetry.record_quality(NOW, &quality("code", 0.5));
    let running = telemetry.in_flight(&"p".into(), &ArmId::new("p/a"));
    let json = serde_json::to_value(telemetry.snapshot(NOW)).unwrap();
    let minute = &json["series"][0]["last_minute"];
    assert_eq!(minute["attempts"], 62);
    assert_eq!(minute["failed"], serde_json::json!({"rate_limit_exceeded": 1}));
    assert_eq!(minute["cancelled"]["lost_hedge"], 1);
    let ttft = &minute["ttft"];
    assert_eq!((&ttft["samples"], &ttft["censored"]), (&60.into(), &1.into()));
    assert_eq!(
        (&ttft["p99_ms"], &ttft["p99_status"]),
        (&serde_json::Value::Null, &"insufficient".into())
    );
    assert_eq!(ttft["p50_status"], "ok");
    assert_eq!(json["in_flight"][0]["count"], 1);
    assert_eq!(json["quality"][0]["last_hour"]["mean"], 0.5);
    drop(running);
    assert!(telemetry.snapshot(NOW).in_flight.is_empty());
}

#[test]
fn a_question_is_answered_from_the_narrowest_scope_that_knows() {
    let telemetry = Telemetry::default();
    // The asked provider and size have 20 samples, the other provider 200 slower ones, large prompts 300.
    let (here, there) = (key("m/a", "p1", true, 100), key("m/a", "p2", true, 100));
    let large = key("m/a", "p1", true, 10_000);
    for (key, count, ms) in [(&here, 20, 100), (&there, 200, 300), (&large, 300, 900)] {
        for _ in 0..count {
            telemetry.record(NOW, &sample(key, ms));
        }
    }
    assert_eq!(telemetry.view().wait(&question(&here, Some("p1")), 0.5), None);
    let view = telemetry.publish(NOW);
    let wait = |key: &SeriesKey, provider, q| view.wait(&question(key, provider), q).unwrap();
    let close = |quantile: Quantile, ms: f64| (quantile.value_ms / ms - 1.0).abs() < 0.011;
    assert!(close(wait(&here, Some("p1"), 0.5), 100.0));
    // Twenty samples know no p99: any provider, same size.
    let wider = wait(&here, Some("p1"), 0.99);
    assert!(close(wider, 300.0) && wider.samples == 220, "{wider:?}");
    // A size never seen: this provider, any size.
    let huge = key("m/a", "p1", true, 100_000);
    assert!(close(wait(&huge, Some("p1"), 0.9), 900.0));
    // Whole answers wait for the whole answer; none was seen.
    assert_eq!(
        view.wait(&question(&key("m/a", "p1", false, 100), None), 0.5),
        None
    );
    let latency = view.latency(&question(&here, Some("p1")), 10).unwrap();
    // Ten tokens in 900 ms after the first: 100 ms a gap; twenty tokens: 100 + 19 · 100.
    assert!((latency.expect_ms(20.0).unwrap() / 2_000.0 - 1.0).abs() < 0.02);
    assert!((latency.expected_total.unwrap().mean_ms() / 1_000.0 - 1.0).abs() < 0.02);
}

fn question<'a>(key: &'a SeriesKey, provider: Option<&'a str>) -> Question<'a> {
    Question {
        arm: &key.arm,
        provider,
        stream: key.stream,
        size: key.size,
    }
}

#[test]
fn the_last_minute_speaks_once_it_has_enough() {
    let telemetry = Telemetry::default();
    let key = key("p/a", "p", true, 100);
    for _ in 0..1_000 {
        telemetry.record(NOW, &sample(&key, 100));
    }
    let later = UnixMs(NOW.0 + 600_000);
    let median = |count: usize| {
        for _ in 0..count {
            telemetry.record(later, &sample(&key, 800));
        }
        telemetry
            .publish(later)
            .wait(&question(&key, Some("p")), 0.5)
            .unwrap()
    };
    assert!((median(99).value_ms - 100.0).abs() < 2.0);
    assert!((median(1).value_ms - 800.0).abs() < 8.0);
}

#[test]
fn series_are_bounded_and_forgotten() {
    let telemetry = Telemetry::new(3);
    for index in 0..10 {
        let key = key(&format!("p/{index}"), "p", true, 100);
        telemetry.record(NOW, &sample(&key, 100));
        telemetry.record_quality(NOW, &quality(&index.to_string(), 0.5));
    }
    let snapshot = telemetry.snapshot(NOW);
    assert_eq!(
        (snapshot.series.len(), snapshot.overflowed, snapshot.quality.len()),
        (4, 7, 3)
    );
    let other = snapshot
        .series
        .iter()
        .find(|row| row.model.as_str() == "other/other")
        .unwrap();
    assert_eq!(other.last_hour.attempts, 7);
    // After an idle hour there is room again.
    let later = UnixMs(NOW.0 + 2 * HOUR);
    telemetry.publish(later);
    telemetry.record(later, &sample(&key("p/9", "p", true, 100), 100));
    let snapshot = telemetry.snapshot(later);
    assert!(snapshot.series.iter().any(|row| row.model.as_str() == "p/9"));
    assert!(snapshot.quality.is_empty());
}

#[test]
fn nothing_is_lost_between_writers_and_readers() {
    let telemetry = Telemetry::default();
    let key = key("p/a", "p", true, 100);
    const EACH: u64 = 5_000;
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for step in 0..EACH {
                    // Half an hour passes meanwhile.
                    telemetry.record(UnixMs(NOW.0 + (step * 360) as i64), &sample(&key, 100));
                }
            });
        }
        scope.spawn(|| {
            for step in 0..200_u64 {
                telemetry.publish(UnixMs(NOW.0 + (step * 9_000) as i64));
            }
        });
    });
    let end = UnixMs(NOW.0 + HOUR / 2);
    let snapshot = telemetry.snapshot(end);
    assert_eq!(snapshot.series[0].last_hour.attempts, 3 * EACH);
    assert_eq!(snapshot.series[0].last_hour.ttft.samples, 3 * EACH);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A replica that records half of the samples and takes the other half's export in knows what one that recorded
    /// all would know; so does one that was restarted in between.
    #[test]
    fn exports_add_up(
        samples in prop::collection::vec((0_i64..2 * HOUR, 1_u64..5_000, any::<bool>(), any::<bool>()), 1..120)
    ) {
        let mut samples = samples;
        samples.sort_by_key(|(at, ..)| *at);
        let (one, here, there) = (Telemetry::default(), Telemetry::default(), Telemetry::default());
        let mut now = NOW;
        for (at, ms, streamed, first) in samples {
            now = UnixMs(NOW.0 + at);
            let sample = sample(&key("p/a", "p", streamed, 100), ms);
            one.record(now, &sample);
            let half = if first { &here } else { &there };
            half.record(now, &sample);
            half.record_quality(now, &quality("code", 0.5));
            one.record_quality(now, &quality("code", 0.5));
        }
        let json = serde_json::to_string(&there.export(now)).unwrap();
        here.absorb(now, serde_json::from_str(&json).unwrap());
        // Publishing forgets what is older than the hour, on both sides alike.
        one.publish(now);
        here.publish(now);
        let [one, here] = [&one, &here].map(|telemetry| serde_json::to_value(telemetry.snapshot(now)).unwrap());
        prop_assert_eq!(one, here);
    }
}
