use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::evaluation::health::Health;

/// A router that learns on the way: it begins with the dear model and ends with the cheap one on easy prompts.
fn rows(n: i64, seed: u64) -> Vec<RoutingRow> {
    let arms = [
        ("anthropic/large", 0.93, 9_000_000),
        ("openai/mini", 0.90, 700_000),
        ("mistral/small", 0.84, 250_000),
    ];
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..n)
        .map(|i| {
            let learned = (i as f64 / 600.0).min(1.0);
            let pmf = [0.9 - 0.75 * learned, 0.06 + 0.6 * learned, 0.04 + 0.15 * learned];
            let draw: f64 = rng.r#gen();
            let arm = if draw < pmf[0] {
                0
            } else {
                1 + usize::from(draw >= pmf[0] + pmf[1])
            };
            let id = |a: usize| ArmId::new(arms[a].0);
            let cost = |arm: usize, jitter: f64| Usd::from_nanos((arms[arm].2 as f64 * jitter) as i64);
            let fallback = rng.gen_bool(0.01);
            let served = if fallback { (arm + 1) % 3 } else { arm };
            let jitter = rng.gen_range(0.6..1.4);
            let ttft = 180.0
                * rng.gen_range(0.7f64..1.3)
                * if served == 0 { 3.0 } else { 1.0 }
                * if rng.gen_bool(0.02) { 6.0 } else { 1.0 };
            RoutingRow {
                at: UnixMs(1_795_360_000_000 + i * 2_300),
                route: "auto".into(),
                category: Some("policy".into()),
                arm: id(arm),
                served: Some(id(served)),
                propensity: Some(pmf[arm]),
                candidates: (0..3)
                    .map(|a| LoggedCandidate {
                        arm: id(a),
                        propensity: pmf[a],
                        expected_quality: arms[a].1,
                        expected_cost: Usd::from_nanos(arms[a].2),
                    })
                    .collect(),
                cost: Some(cost(served, jitter)),
                known_cost: cost(served, jitter),
                unpriced_attempts: 0,
                baseline_cost: Some(cost(0, jitter)),
                ttft_ms: Some(ttft),
                total_ms: Some(ttft + rng.gen_range(400.0..2500.0)),
                score: rng
                    .gen_bool(0.6)
                    .then(|| f64::from(u8::from(rng.gen_bool(arms[served].1)))),
                fallback,
                hedged: rng.gen_bool(0.01),
                saved_by_cache: None,
            }
        })
        .collect()
}

fn question() -> Question {
    Question {
        provenance: Provenance {
            generated: UnixMs(1_795_370_000_000),
            version: "0.1.0".into(),
            config_hash: "6f1a604c".into(),
            seed: Some(7),
            features: None,
            simulated: true,
        },
        reference: Some(ArmId::new("anthropic/large")),
        margin: 0.05,
    }
}

#[test]
fn a_worked_example() {
    let mut two = rows(2, 1);
    for (row, (cost, score)) in two.iter_mut().zip([(100, 1.0), (300, 0.5)]) {
        row.known_cost = Usd::from_nanos(cost);
        (row.cost, row.baseline_cost, row.score) =
            (Some(row.known_cost), Some(Usd::from_nanos(1000)), Some(score));
    }
    let report = summarise(&two, &question()).unwrap();
    assert_eq!(report.totals.cost_usd, Usd::from_nanos(400));
    assert_eq!(report.totals.baseline_cost_usd, Usd::from_nanos(2000));
    assert_eq!(
        (report.totals.score_sum, report.totals.score_square_sum),
        (1.5, 1.25)
    );
    assert_eq!(report.saved, None, "two requests have no interval");
    assert_eq!(report.outcome.verdict, "not_enough_data");
    assert!(report.outcome.more_needed.is_some_and(|more| more > 100));
}

#[test]
fn an_unknown_cost_is_said_and_is_never_nothing() {
    let mut three = rows(3, 1);
    for (row, (nanos, unpriced)) in three.iter_mut().zip([(100, 0), (300, 2), (0, 1)]) {
        row.arm = ArmId::new("openai/mini");
        row.known_cost = Usd::from_nanos(nanos);
        row.unpriced_attempts = unpriced;
        row.cost = (unpriced == 0).then_some(row.known_cost);
        row.baseline_cost = Some(Usd::from_nanos(1_000));
    }
    let report = summarise(&three, &question()).unwrap();
    let totals = &report.totals;
    assert_eq!(
        (totals.unpriced, totals.unpriced_attempts, totals.compared),
        (2, 3, 1)
    );
    let nanos = [totals.cost_usd, totals.partly_known_usd, totals.compared_cost_usd].map(Usd::nanos);
    assert_eq!(nanos, [400, 300, 100]);
    let rendered = render(&report).unwrap();
    for form in [&rendered.markdown, &rendered.html] {
        assert!(
            form.contains("$0.000000100 a request; plus 3 attempts of unknown cost"),
            "{form}"
        );
        assert!(form.contains("$0.000000100 + 3 unknown"), "{form}");
    }
    assert!(rendered.json.contains("\"unpriced_attempts\": 3"));
    // Of what nothing is known of, not even a sum is told.
    let report = summarise(&three[2..], &question()).unwrap();
    let text = render(&report).unwrap().markdown;
    assert!(
        text.contains("| Spent | unknown | plus 1 attempt of unknown cost |"),
        "{text}"
    );
}

#[test]
fn a_stretch_without_a_baseline_has_no_cost_of_a_request() {
    let mut all = rows(400, 4);
    all.iter_mut().take(100).for_each(|row| row.baseline_cost = None);
    let timeline = summarise(&all, &question()).unwrap().timeline;
    let known: Vec<bool> = timeline.cost_per_request.iter().map(Option::is_some).collect();
    // 20 stretches of 20 requests.
    assert_eq!(known, [[false; 5].as_slice(), &[true; 15]].concat());
    let baseline = timeline.baseline_per_request.iter().flatten();
    assert!(baseline.copied().fold(f64::MAX, f64::min) > 0.004);
}

#[test]
fn enough_data_comes_to_a_verdict() {
    let report = summarise(&rows(4_000, 2), &question()).unwrap();
    assert_eq!(report.outcome.verdict, "saving", "{}", report.outcome.sentence);
    let saved = report.saved.unwrap();
    let exact = (report.totals.baseline_cost_usd - report.totals.compared_cost_usd).dollars();
    assert!((saved.estimate - exact).abs() < 1e-9 && saved.low > 0.0);
    // The truth is a mix of .93, .90 and .84 with known shares.
    assert!(report.quality.unwrap().contains(0.895));
    let always = report
        .off_policy
        .iter()
        .find(|line| line.policy == "always anthropic/large")
        .unwrap();
    assert!(always.enough && always.quality.contains(0.93) && always.cost_usd.contains(0.009));
    let shares: f64 = report.timeline.shares.iter().map(|series| series[0]).sum();
    assert!((shares - 1.0).abs() < 1e-9);
    assert_eq!(report.timeline.requests.iter().sum::<u64>(), 4_000);
}

#[test]
fn a_saving_that_may_be_a_loss_is_not_yet_sure_and_one_that_is_a_loss_is_told() {
    // Half of the requests cost nothing, the other half `dearer` of the baseline.
    let outcome = |dearer: i64| {
        let mut all = rows(400, 7);
        for (index, row) in all.iter_mut().enumerate() {
            row.known_cost = Usd::from_nanos(if index % 2 == 0 { 0 } else { dearer });
            (row.cost, row.baseline_cost) = (Some(row.known_cost), Some(Usd::from_nanos(1_000)));
            row.score = Some(0.9);
        }
        let report = summarise(&all, &question()).unwrap();
        (report.saved.unwrap(), report.outcome)
    };
    let (saved, unsure) = outcome(1_900);
    assert!(saved.estimate > 0.0 && saved.low < 0.0, "{saved:?}");
    assert_eq!(unsure.verdict, "not_yet_sure");
    assert!(
        unsure.sentence.contains("not yet sure") && unsure.sentence.contains("5.0 %"),
        "{}",
        unsure.sentence
    );
    let (saved, loss) = outcome(8_000);
    assert!(saved.high < 0.0, "{saved:?}");
    assert_eq!(loss.verdict, "not_saving", "{}", loss.sentence);
}

#[test]
fn an_answer_of_a_fallback_is_not_the_drawn_arms() {
    let mut all = rows(200, 3);
    for row in &mut all {
        (row.fallback, row.served, row.score) = (true, Some(ArmId::new("mistral/small")), Some(0.0));
    }
    let report = summarise(&all, &question()).unwrap();
    assert!(
        report
            .arms
            .iter()
            .all(|arm| arm.scored == 0 && arm.failed == arm.drawn)
    );
    assert!(report.off_policy.is_empty());
    assert_eq!(report.outcome.verdict, "unhealthy");
    assert_eq!(report.health[0].health, Health::Failed);
}

#[test]
fn draws_that_do_not_follow_their_propensities_are_an_alarm() {
    let mut all = rows(1_000, 4);
    for row in &mut all {
        row.arm = ArmId::new("anthropic/large");
        row.served = Some(row.arm.clone());
        row.propensity = Some(row.candidates[0].propensity);
    }
    let report = summarise(&all, &question()).unwrap();
    let check = report
        .health
        .iter()
        .find(|line| line.name.starts_with("Draws"))
        .unwrap();
    assert_eq!(check.health, Health::Failed, "{check:?}");
}

#[test]
fn p99_is_withheld_below_a_hundred_samples() {
    let report = summarise(&rows(60, 5), &question()).unwrap();
    assert!(
        report
            .providers
            .iter()
            .all(|provider| provider.ttft_p50_ms.is_some() && provider.ttft_p99_ms.is_none())
    );
}

#[test]
fn an_empty_log_is_a_report_too() {
    let report = summarise(&[], &question()).unwrap();
    let rendered = render(&report).unwrap();
    assert!(rendered.markdown.contains("Not enough data"));
    assert!(rendered.html.contains("No requests yet"));
}

#[test]
fn the_three_forms_agree() {
    let report = summarise(&rows(1_500, 6), &question()).unwrap();
    let rendered = render(&report).unwrap();
    let read: RoutingReport = serde_json::from_str(&rendered.json).unwrap();
    assert_eq!(
        (read.schema.as_str(), read.totals),
        (SCHEMA, report.totals.clone())
    );
    for form in [&rendered.markdown, &rendered.html] {
        assert!(
            form.contains("Simulated data") && form.contains("6f1a604c") && form.contains("anthropic/large")
        );
    }
    if let Some(dir) = std::env::var_os("POINTSMAN_KEEP_REPORTS") {
        super::super::write(std::path::Path::new(&dir), "routing", &rendered).unwrap();
    }
}
