use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::sync::Arc;

use super::*;
use crate::arm::{ArmId, Modalities};
use crate::config::Treatment;
use crate::experiments::{Definition, Experiments, Hypothesis, Intervention, Origin};
use crate::policy::{ArmScore, CachedInput, Contexts, Pmf, Policy, Round, Strategy};
use crate::pricing::Units;
use crate::routing::{Expected, Offer, Question};
use crate::units::{UnixMs, Usd};

fn arm(id: &str) -> Arc<Arm> {
    let family = id.split('/').next().unwrap();
    Arc::new(Arm {
        id: ArmId::new(id),
        upstream: id.into(),
        family: family.into(),
        context_window: 1000,
        max_output_tokens: 100,
        modalities: Modalities::TEXT,
        tools: true,
        structured_output: true,
    })
}

/// Draws the candidates 6 : 3 : 1 in their order; with a wide margin, the last alone; blind, all alike.
struct Weighted;

impl Policy for Weighted {
    fn name(&self) -> &'static str {
        "weighted"
    }

    fn propose(&self, round: &Round<'_>) -> Proposal {
        let weights = [6.0, 3.0, 1.0];
        let arms = round.candidates.len();
        let wide = round.demands.quality_margin.is_some_and(|margin| margin > 0.1);
        let score = |quality: &f64| ArmScore {
            mean: *quality,
            ..ArmScore::default()
        };
        Proposal {
            pmf: if wide {
                Pmf::certain(arms - 1, arms)
            } else if round.contexts.text.is_none() {
                Pmf::certain(0, arms)
            } else {
                Pmf::from_weights(weights[..arms].to_vec())
            },
            scores: [0.9, 0.6, 0.7][..arms].iter().map(score).collect(),
            lambda: 1.0,
            strategy: Strategy::Contextual,
        }
    }

    fn blind(&self, round: &Round<'_>) -> Option<Proposal> {
        Some(Proposal {
            pmf: Pmf::from_weights(vec![1.0; round.candidates.len()]),
            ..self.propose(round)
        })
    }
}

/// `a/1`, `b/2` and `b/3`, costing 9, 1 and 5.
fn with_asked<T>(test: impl FnOnce(&Choosing<'_>) -> T) -> T {
    let arms = [arm("a/1"), arm("b/2"), arm("b/3")];
    let offers: Vec<Offer<'_>> = arms
        .iter()
        .map(|arm| Offer {
            arm,
            tariff: None,
            latency_ms: 0.0,
            input_tokens: 10,
            cached: CachedInput::default(),
        })
        .collect();
    let expected = [9, 1, 5].map(|nanos| Expected {
        cost: Usd::from_nanos(nanos),
        priced: true,
        input_tokens: 10,
        output_tokens: 10,
        cached_tokens: 0,
    });
    let text = [1.0];
    let question = Question {
        route: "auto",
        contexts: Contexts {
            text: Some(&text),
            embedding: None,
            words: &[],
        },
        category: Some("code"),
        offers: &offers,
        units: Units::default(),
        max_output_tokens: None,
        demands: Demands::default(),
    };
    test(&Choosing {
        policy: &Weighted,
        question: &question,
        expected: &expected,
        former: None,
    })
}

/// An experiment of `control` against `treatment`, as they are written in a configuration.
fn experiments(control: &str, treatment: &str) -> Experiments {
    let variant = |text: &str| Variant::from(&Treatment::parse(text).unwrap());
    let variants = vec![
        ("control".to_owned(), variant(control)),
        ("treatment".to_owned(), variant(treatment)),
    ];
    let hypothesis = Hypothesis::NonInferior { margin: 0.05 };
    let mut experiments = Experiments::default();
    let definition = Definition::new("ab", "auto", variants, hypothesis, Origin::Config, UnixMs(1));
    experiments.start(definition, UnixMs(1)).unwrap();
    experiments
}

fn trials<'a>(table: &'a Table, category: Option<&'a str>) -> Trials<'a> {
    Trials {
        table,
        route: "auto",
        category,
    }
}

fn enrolled(experiments: &Experiments, request: &str) -> Enrolment {
    let unit = Unit {
        request,
        ..Unit::default()
    };
    let arms = [arm("a/1"), arm("b/2"), arm("b/3")];
    let arms: Vec<&Arm> = arms.iter().map(|arm| &**arm).collect();
    let demands = Demands::default();
    trials(&experiments.table(), Some("code"))
        .enrol(&unit, &arms, &demands)
        .unwrap()
}

/// The probabilities of the three models in the treatment's arm, by many draws of it, and the logged ones.
fn drawn(treatment: &str) -> ([f64; 3], Vec<f64>) {
    let experiments = experiments("router", treatment);
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let (mut counts, mut treated, mut logged) = ([0.0; 3], 0.0, Vec::new());
    for i in 0..4_000 {
        let mut enrolment = enrolled(&experiments, &i.to_string());
        let traits = Traits::default();
        let decision =
            with_asked(|asked| settle(&mut enrolment, asked, &traits, &mut rng)).expect("it can choose");
        assert!((decision.pmf.iter().sum::<f64>() - 1.0).abs() < 1e-9);
        assert!((decision.propensity - decision.pmf[decision.chosen]).abs() < 1e-12);
        if enrolment.arm == 1 {
            counts[decision.chosen] += 1.0;
            treated += 1.0;
        }
        logged = decision.pmf;
    }
    (counts.map(|count| count / treated), logged)
}

#[test]
fn every_kind_of_arm_is_really_routed() {
    // The router draws .6 : .3 : .1; the logged propensity is the mean of both arms.
    for (treatment, expected) in [
        ("b/3", [0.0, 0.0, 1.0]),
        // The policy's own 6 : 3 among the family's two.
        ("family:b", [0.0, 2.0 / 3.0, 1.0 / 3.0]),
        ("policy:cheapest", [0.0, 1.0, 0.0]),
        ("policy:random", [1.0 / 3.0; 3]),
        ("policy:static_mix", [1.0 / 3.0; 3]),
        ("margin:0.2", [0.0, 0.0, 1.0]),
        ("margin:0.05", [0.6, 0.3, 0.1]),
        ("features:none", [1.0, 0.0, 0.0]),
        ("categories:code=b/2,maths=a/1", [0.0, 1.0, 0.0]),
        ("categories:maths=a/1", [0.6, 0.3, 0.1]),
    ] {
        let (found, logged) = drawn(treatment);
        let router = [0.6, 0.3, 0.1];
        for index in 0..3 {
            // Four deviations of a share of about 2,000 draws: .045.
            assert!(
                (found[index] - expected[index]).abs() < 0.045,
                "{treatment}: {found:?}, not {expected:?}"
            );
            let mean = 0.5 * (router[index] + expected[index]);
            assert!((logged[index] - mean).abs() < 1e-9, "{treatment}: {logged:?}");
        }
    }
}

#[test]
fn the_decision_becomes_the_experiments() {
    let experiments = experiments("a/1", "b/2");
    let mut enrolment = enrolled(&experiments, "r");
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let traits = Traits {
        input_tokens: 5_000,
        category: Some("code"),
        language: Some("de"),
        tenant: Some("key-1"),
    };
    let decision = with_asked(|asked| settle(&mut enrolment, asked, &traits, &mut rng)).unwrap();
    assert_eq!(decision.pmf, [0.5, 0.5, 0.0]);
    assert_eq!((decision.propensity, decision.explored), (0.5, false));
    assert_eq!(decision.chosen, enrolment.arm);
    assert!(
        (enrolment.covariate - 0.75).abs() < 1e-12,
        "half of each arm's expected quality, .9 and .6"
    );
    // The arm with a fifth of the requests has four fifths of the weight.
    assert!((covariate(&[0.8, 0.2], &[0.9, 0.6]) - 0.66).abs() < 1e-12);
    assert!((covariate(&[1.0], &[0.9])).abs() < 1e-12);
    assert_eq!(
        enrolment.slices,
        ["length=long", "category=code", "language=de", "tenant=key-1"]
    );
}

#[test]
fn a_request_that_one_arm_cannot_take_stays_out() {
    let (one, other) = (arm("a/1"), arm("c/3"));
    let arms: [&Arm; 2] = [&one, &other];
    let unit = Unit {
        request: "r",
        ..Unit::default()
    };
    let enrol = |experiments: &Experiments, demands: &Demands| {
        trials(&experiments.table(), None).enrol(&unit, &arms, demands)
    };
    let wishes = Demands::default();
    assert!(enrol(&experiments("a/1", "b/2"), &wishes).is_none());
    assert!(enrol(&experiments("a/1", "family:b"), &wishes).is_none());
    assert!(enrol(&experiments("a/1", "family:c"), &wishes).is_some());
    let quiet = Demands {
        explore: false,
        ..wishes
    };
    assert!(enrol(&experiments("a/1", "c/3"), &quiet).is_none());
    let own = Demands {
        quality_margin: Some(0.1),
        ..wishes
    };
    assert!(enrol(&experiments("a/1", "c/3"), &own).is_some());
    assert!(enrol(&experiments("margin:0.01", "margin:0.05"), &own).is_none());
}

#[test]
fn what_was_shipped_takes_the_controls_place_where_it_can() {
    let ship = Intervention::Ship {
        arm: "treatment".into(),
    };
    let shipped = |control: &str, treatment: &str| {
        let mut experiments = experiments(control, treatment);
        experiments.intervene("ab", &ship, "", UnixMs(2)).unwrap();
        experiments.table()
    };
    let (control, treatment, other) = (arm("a/1"), arm("b/2"), arm("b/3"));
    for table in [shipped("a/1", "b/2"), shipped("family:a", "family:b")] {
        let both: [&Arm; 2] = [&control, &treatment];
        let here = trials(&table, None);
        assert!(!here.allow(&control, &both));
        assert!(here.allow(&treatment, &both));
        assert!(here.allow(&control, &[&control]), "the treatment cannot take it");
        let elsewhere = Trials {
            route: "other",
            ..here
        };
        assert!(elsewhere.allow(&control, &both));
        assert!(here.stands_in(&control), "nothing was found against it");
        assert_eq!(here.way(), None);
    }
    let table = shipped("a/1", "b/2");
    let running = experiments("a/1", "b/3");
    let pool = [control, treatment, other];
    let named = enrolled(&running, "r");
    let left = |enrolment| trials(&table, None).left(&[0, 1, 2], |index| &*pool[index], enrolment);
    assert_eq!(left(None), [1, 2]);
    assert_eq!(left(Some(&named)), [0, 1, 2], "what a running one names stays");
    let way = shipped("router", "margin:0.1");
    assert_eq!(way.way("auto", None), Some(&Variant::MarginMilli(100)));
    assert_eq!(way.way("other", None), None);
}
