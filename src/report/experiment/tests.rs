use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::arm::ArmId;
use crate::experiments::{Experiments, Exposure, FeatureVersions, Terms, Trigger, Unit};
use crate::units::UnixMs;

/// An automatic experiment on a new model, run until it ends or `limit` requests have come.
fn run(rates: [f64; 2], limit: i64) -> (ExperimentView, Vec<Event>) {
    let trigger = Trigger::NewModel {
        route: "auto".into(),
        model: ArmId::new("openai/mini"),
        reference: ArmId::new("anthropic/large"),
    };
    run_on(&trigger, 0.05, rates, [0.009, 0.0006], limit)
}

/// One that `trigger` asks for, with arms of these mean costs.
fn run_on(
    trigger: &Trigger,
    margin: f64,
    rates: [f64; 2],
    costs: [f64; 2],
    limit: i64,
) -> (ExperimentView, Vec<Event>) {
    let mut experiments = Experiments::default();
    let terms = Terms {
        margin,
        superior: false,
        traffic: 0.2,
        max_samples: 10_000,
        slow_ms: 2_000.0,
    };
    let name = experiments
        .trigger(trigger, &terms, UnixMs(1_795_360_000_000))
        .unwrap();
    let mut events = experiments.take_events();
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    for i in 0..limit {
        let request = i.to_string();
        let now = UnixMs(1_795_360_000_000 + i * 90);
        let category = ["code", "support", "extraction"][i as usize % 3];
        let unit = Unit {
            request: &request,
            ..Unit::default()
        };
        let Some(mut enrolment) = experiments.table().assign(&unit, "auto", Some(category)) else {
            continue;
        };
        enrolment.slices = vec![format!("category={category}")];
        experiments.enrolled(&enrolment);
        let treated = enrolment.arm == 1;
        let ttft = rng.gen_range(150.0..500.0) * if treated { 0.6 } else { 1.0 };
        let exposure = Exposure {
            clean: !rng.gen_bool(0.005),
            censored: false,
            refused: rng.gen_bool(0.01),
            cost_usd: Some(rng.gen_range(0.6..1.4) * costs[enrolment.arm]),
            ttft_ms: Some(ttft),
            total_ms: Some(ttft * 4.0),
        };
        experiments.exposed(&enrolment, &exposure, now);
        if exposure.clean && rng.gen_bool(0.6) {
            let score = f64::from(u8::from(rng.gen_bool(rates[enrolment.arm])));
            experiments.scored(&enrolment, "quality", score, None, now);
        }
        events.extend(experiments.take_events());
    }
    (experiments.view(&name).unwrap(), events)
}

fn provenance(generated: UnixMs) -> Provenance {
    Provenance {
        generated,
        version: "0.1.0".into(),
        config_hash: "f00d".into(),
        seed: Some(9),
        features: Some(FeatureVersions {
            text: 3,
            embedding: 0,
            classifier: 2,
        }),
        simulated: true,
    }
}

#[test]
fn a_verdict_tells_a_newcomer_what_to_do() {
    let (view, events) = run([0.92, 0.93], 200_000);
    let report = report(&view, &events, &provenance(UnixMs(1_795_380_000_000)));
    assert_eq!(report.outcome.verdict, "ship", "{}", report.outcome.sentence);
    let savings = report.savings.unwrap();
    assert!(savings.share.contains(1.0 - 0.0006 / 0.009) && savings.per_request.low > 0.0);
    let rendered = render(&report).unwrap();
    for form in [&rendered.markdown, &rendered.html] {
        for needed in [
            "openai/mini is cheaper than anthropic/large",
            "It is over",
            "Simulated data",
            "category=code",
            "f00d",
            "text view 00000003, embedding view off, category classifier 00000002",
        ] {
            assert!(form.contains(needed), "{needed}");
        }
    }
    for (form, next) in [
        (&rendered.markdown, "## Can the figures be trusted?"),
        (&rendered.html, "<h2>Can the figures be trusted?"),
    ] {
        let head = form.split(next).next().unwrap();
        for question in [
            "What was compared?",
            "Is it over?",
            "What does it save?",
            "How sure is that?",
            "What should I do?",
        ] {
            assert!(head.contains(question), "{question}");
        }
        assert!(
            !head.contains("What was found") && !head.contains("## Arms"),
            "health comes first"
        );
    }
    assert!(rendered.markdown.contains("seed 9") && rendered.html.contains("seed <code>9</code>"));
    let read: ExperimentReport = serde_json::from_str(&rendered.json).unwrap();
    assert_eq!(
        (read.schema.as_str(), read.experiment.arms[1].scored),
        (SCHEMA, view.arms[1].scored)
    );
    if let Some(dir) = std::env::var_os("POINTSMAN_KEEP_REPORTS") {
        super::super::write(std::path::Path::new(&dir), &view.definition.name, &rendered).unwrap();
    }
}

/// What anybody can do with the file alone: the figures shown follow from the raw totals beside them.
#[test]
fn the_figures_can_be_recomputed_from_the_raw_totals() {
    let (view, events) = run([0.92, 0.93], 200_000);
    let report = report(&view, &events, &provenance(UnixMs(1_795_380_000_000)));
    let json: serde_json::Value = serde_json::from_str(&render(&report).unwrap().json).unwrap();
    let arms = &json["experiment"]["arms"];
    let mean = |arm: usize, of: &str| {
        let sums = &arms[arm][of];
        sums["wy"].as_f64().unwrap() / sums["wn"].as_f64().unwrap()
    };
    let shown = |value: &serde_json::Value| value["estimate"].as_f64().unwrap();
    for arm in 0..2 {
        assert!((mean(arm, "quality_sums") - shown(&arms[arm]["quality"])).abs() < 1e-12);
        assert!((mean(arm, "cost_sums") - shown(&arms[arm]["cost_usd"])).abs() < 1e-12);
        for latency in ["ttft_p50_ms", "ttft_p99_ms", "total_p50_ms", "total_p99_ms"] {
            assert!(arms[arm][latency].as_f64().unwrap() > 0.0, "{latency}");
        }
    }
    let comparison = &json["experiment"]["reading"]["comparisons"][0];
    let gain = mean(1, "quality_sums") - mean(0, "quality_sums");
    assert!((gain - shown(&comparison["quality"]["interval"])).abs() < 1e-12);
    let saved = mean(0, "cost_sums") - mean(1, "cost_sums");
    let savings = &json["savings"];
    assert!((saved - shown(&savings["per_request"])).abs() < 1e-12);
    assert!((saved / mean(0, "cost_sums") - shown(&savings["share"])).abs() < 1e-12);
    // 30 days at the rate of the experiment, all of the layer like the fifth that took part.
    let (started, ended) = (&json["experiment"]["started"], &json["experiment"]["ended"]);
    let length = ended.as_f64().unwrap() - started.as_f64().unwrap();
    let requests = (0..2)
        .map(|arm| arms[arm]["exposures"].as_f64().unwrap())
        .sum::<f64>();
    let month = saved * requests / length / 0.2 * 30.0 * 86_400_000.0;
    assert!((month / shown(&savings["month_at_full_traffic"]) - 1.0).abs() < 1e-9);
}

#[test]
fn a_running_experiment_says_how_much_is_missing() {
    let (view, events) = run([0.92, 0.92], 1_500);
    let report = report(
        &view,
        &events,
        &provenance(UnixMs(1_795_360_000_000 + 1_500 * 90)),
    );
    assert_eq!(report.outcome.verdict, "not_enough_data");
    assert!(
        report.outcome.more_needed.is_some_and(|more| more > 50),
        "{:?}",
        report.outcome
    );
    assert!(report.outcome.days_needed.is_some_and(|days| days > 0.0));
    assert!(render(&report).unwrap().markdown.contains("Not enough data"));
}

#[test]
fn harm_is_said_plainly() {
    let (view, events) = run([0.92, 0.6], 100_000);
    let report = report(&view, &events, &provenance(UnixMs(1_795_380_000_000)));
    assert_eq!(report.outcome.verdict, "stop_for_harm");
    assert!(
        report.outcome.sentence.contains("do not use openai/mini here"),
        "{}",
        report.outcome.sentence
    );
}

#[test]
fn an_experiment_without_a_sample_is_a_report_too() {
    let (view, events) = run([0.5, 0.5], 0);
    let rendered = render(&report(&view, &events, &provenance(UnixMs(1_795_360_000_000)))).unwrap();
    assert!(rendered.html.contains("Not enough data"));
}

#[test]
fn no_worse_and_no_saving_is_said_plainly() {
    let trigger = |current: &str| Trigger::NewFeatures {
        route: "auto".into(),
        current: current.into(),
        fresh: "text".into(),
        version: "1".into(),
    };
    let told = |current: &str, margin: f64| {
        let (view, events) = run_on(&trigger(current), margin, [0.9, 0.9], [0.002; 2], 200_000);
        report(&view, &events, &provenance(UnixMs(1_795_380_000_000)))
    };
    let former = told("former", 0.2);
    let sentence = &former.outcome.sentence;
    assert_eq!(former.outcome.verdict, "futile");
    for needed in [
        "nothing is gained",
        "routing by words and surface alone is no more than 0.2 below routing by the former look at prompts",
        "shown neither to score higher nor to cost at least 2 % less",
        "; routing by the former look at prompts stays.",
    ] {
        assert!(sentence.contains(needed), "{needed}: {sentence}");
    }
    let markdown = render(&former).unwrap().markdown;
    for needed in [
        "no worse, but nothing is gained by it",
        "the control stays in use. If you want the treatment all the same, POST",
    ] {
        assert!(markdown.contains(needed), "{needed}: {markdown}");
    }
    // Nothing was kept to go back to: what is installed stays. The margin is too narrow to be shown to be kept.
    let sentence = told("none", 0.001).outcome.sentence;
    for needed in [
        "neither to score higher than routing that looks at no prompt, nor to be no more than 0.001 below",
        "routing by words and surface alone stays.",
    ] {
        assert!(sentence.contains(needed), "{needed}: {sentence}");
    }
}
