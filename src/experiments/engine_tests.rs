use std::collections::HashMap;

use proptest::prelude::*;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::arm::ArmId;
use crate::evaluation::ab::Hypothesis;
use crate::experiments::definition::{EMBEDDING, Split, StickyBy, Variant};
use crate::experiments::intervention::{Intervention, InterventionError};
use crate::experiments::table::Ruling;
use crate::experiments::table::Unit;

const TERMS: Terms = Terms {
    margin: 0.02,
    superior: false,
    traffic: 0.2,
    max_samples: 10_000,
    slow_ms: 2_000.0,
};

fn model(id: &str) -> Variant {
    Variant::Model(ArmId::new(id))
}

fn definition(name: &str, hypothesis: Hypothesis) -> Definition {
    let variants = vec![
        ("control".to_owned(), model("a/large")),
        ("treatment".to_owned(), model("b/small")),
    ];
    Definition::new(name, "auto", variants, hypothesis, Origin::Config, UnixMs(1))
}

/// Sends requests until the experiment ends, each scored 1 with its arm's rate; the number sent.
fn run(experiments: &mut Experiments, rates: [f64; 2], limit: u64, seed: u64) -> u64 {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    for i in 0..limit {
        let request = format!("{seed}-{i}");
        let now = UnixMs(1_000 + i as i64 * 100);
        let table = experiments.table();
        let unit = Unit {
            request: &request,
            ..Unit::default()
        };
        let Some(enrolment) = table.assign(&unit, "auto", Some("code")) else {
            if table.entries.is_empty() {
                return i;
            }
            continue;
        };
        experiments.enrolled(&enrolment);
        let cost = if enrolment.arm == 0 { 0.01 } else { 0.001 };
        let exposure = Exposure {
            clean: true,
            cost_usd: Some(cost),
            ttft_ms: Some(300.0),
            ..Exposure::default()
        };
        experiments.exposed(&enrolment, &exposure, now);
        let score = f64::from(u8::from(rng.gen_bool(rates[enrolment.arm])));
        experiments.scored(&enrolment, "quality", score, None, now);
    }
    limit
}

#[test]
fn the_hypothesis_is_in_the_log_before_the_first_sample() {
    let mut experiments = Experiments::default();
    experiments
        .start(
            definition("ab", Hypothesis::NonInferior { margin: 0.1 }),
            UnixMs(5),
        )
        .unwrap();
    let events = experiments.take_events();
    let EventKind::Defined { definition } = &events[0].kind else {
        panic!("{events:?}")
    };
    assert_eq!(
        definition.statement,
        "b/small is cheaper than a/large, and its mean quality is no more than 0.1 below"
    );
    assert_eq!(events[1].kind, EventKind::Started);
}

#[test]
fn a_cheaper_model_that_is_no_worse_is_shipped_and_can_be_taken_back() {
    let mut experiments = Experiments::default();
    experiments
        .start(
            definition("ab", Hypothesis::NonInferior { margin: 0.1 }),
            UnixMs(5),
        )
        .unwrap();
    let sent = run(&mut experiments, [0.9, 0.9], 10_000, 1);
    assert!(sent < 5_000, "{sent}");
    assert_eq!(experiments.view("ab").unwrap().phase, Phase::Shipped { arm: 1 });
    let table = experiments.table();
    let replace = Ruling::Replace {
        of: model("a/large"),
        by: model("b/small"),
    };
    assert_eq!(
        table.rulings("auto", Some("code")).collect::<Vec<_>>(),
        [&replace]
    );
    assert_eq!(table.rulings("other", None).count(), 0);
    let before = experiments.generation();
    experiments
        .intervene("ab", &Intervention::Undo, "customers complained", UnixMs(9))
        .unwrap();
    assert!(experiments.generation() > before && experiments.table().is_empty());
    assert!(
        experiments
            .intervene("ab", &Intervention::Undo, "", UnixMs(9))
            .is_err()
    );
    let last = experiments.take_events().pop().unwrap();
    assert_eq!(
        last.kind,
        EventKind::Overridden {
            intervention: "undo".into(),
            reason: "customers complained".into()
        }
    );
}

#[test]
fn a_new_model_that_is_worse_is_stopped_and_left_out() {
    let mut experiments = Experiments::default();
    let trigger = Trigger::NewModel {
        route: "auto".into(),
        model: ArmId::new("b/small"),
        reference: ArmId::new("a/large"),
    };
    let name = experiments.trigger(&trigger, &TERMS, UnixMs(1)).unwrap();
    assert_eq!(name, "new-b-small");
    assert_eq!(
        experiments.trigger(&trigger, &TERMS, UnixMs(2)),
        None,
        "it runs already"
    );
    run(&mut experiments, [0.9, 0.6], 20_000, 2);
    let view = experiments.view(&name).unwrap();
    assert_eq!(view.phase, Phase::StoppedForHarm);
    assert!((view.coverage - 0.2).abs() < 1e-9);
    let excluded = Ruling::Exclude {
        variant: model("b/small"),
    };
    assert_eq!(
        experiments.table().rulings("auto", None).collect::<Vec<_>>(),
        [&excluded]
    );
}

#[test]
fn experiments_of_a_layer_never_share_a_unit_and_others_wait() {
    let mut experiments = Experiments::default();
    let part = |name: &str, coverage| Definition {
        coverage,
        ..definition(name, Hypothesis::Superior)
    };
    experiments.start(part("one", 0.5), UnixMs(1)).unwrap();
    experiments.start(part("two", 0.5), UnixMs(1)).unwrap();
    experiments.start(part("three", 0.3), UnixMs(1)).unwrap();
    assert_eq!(experiments.waiting().collect::<Vec<_>>(), ["three"]);
    let table = experiments.table();
    let mut seen = [0, 0];
    for i in 0..1_000 {
        let request = i.to_string();
        let unit = Unit {
            request: &request,
            ..Unit::default()
        };
        match table.assign(&unit, "auto", None).unwrap().experiment.as_str() {
            "one" => seen[0] += 1,
            _ => seen[1] += 1,
        }
    }
    // Four deviations of a fair split: 500 ± 64.
    assert!((436..564).contains(&seen[0]), "{seen:?}");
    assert!(
        table
            .assign(
                &Unit {
                    request: "1",
                    ..Unit::default()
                },
                "other",
                None
            )
            .is_none()
    );
    experiments
        .intervene("one", &Intervention::Stop, "enough", UnixMs(2))
        .unwrap();
    assert_eq!(experiments.waiting().count(), 0);
    assert_eq!(experiments.view("three").unwrap().phase, Phase::Running);
}

#[test]
fn an_adaptive_split_follows_the_noisier_arm() {
    let mut experiments = Experiments::default();
    let mut adaptive = definition("ab", Hypothesis::NonInferior { margin: 0.05 });
    adaptive.split = Split::Adaptive;
    adaptive.design.min_effect = 0.0;
    experiments.start(adaptive, UnixMs(1)).unwrap();
    run(&mut experiments, [0.98, 0.93], 800, 3);
    let view = experiments.view("ab").unwrap();
    // Deviations .14 and .255: Neyman's share of the treatment is about .65.
    assert!(
        (0.55..0.75).contains(&view.arms[1].share),
        "{}",
        view.arms[1].share
    );
    assert_eq!(
        view.reading.checks.sample_ratio.health,
        crate::evaluation::health::Health::Passed
    );
}

/// Three hundred users of a sticky experiment whose split moves and whose part of the traffic grows, over a restart:
/// nobody who is in leaves or changes the arm.
fn nobody_switches(seed: u64, rates: [f64; 2]) {
    let mut experiments = Experiments::default();
    let mut sticky = definition("ab", Hypothesis::Superior);
    (sticky.split, sticky.sticky_by) = (Split::Adaptive, StickyBy::User);
    sticky.design.max_samples = 100_000;
    experiments.start(sticky, UnixMs(1)).unwrap();
    let arms = |experiments: &Experiments| {
        let table = experiments.table();
        (0..300)
            .map(|i| {
                let user = format!("user:{i}");
                let unit = Unit {
                    request: "r",
                    user: Some(&user),
                    session: None,
                };
                table.assign(&unit, "auto", None).map(|enrolment| enrolment.arm)
            })
            .collect::<Vec<_>>()
    };
    let first = arms(&experiments);
    assert!(
        first.iter().flatten().count() < 100,
        "only a fifth is let in at first"
    );
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut seen = HashMap::new();
    for i in 0..3_000 {
        if i == 1_500 {
            let bytes = serde_json::to_vec(&experiments).unwrap();
            experiments = serde_json::from_slice(&bytes).unwrap();
        }
        let user = format!("user:{}", i % 300);
        let table = experiments.table();
        let unit = Unit {
            request: "r",
            user: Some(&user),
            session: None,
        };
        let Some(enrolment) = table.assign(&unit, "auto", None) else {
            continue;
        };
        assert!(enrolment.unit.is_some());
        let kept = seen.entry(user.clone()).or_insert(enrolment.arm);
        assert_eq!(*kept, enrolment.arm, "{user}");
        experiments.enrolled(&enrolment);
        experiments.exposed(
            &enrolment,
            &Exposure {
                clean: true,
                ..Exposure::default()
            },
            UnixMs(i),
        );
        let rate = rates[enrolment.arm];
        experiments.scored(
            &enrolment,
            "quality",
            f64::from(u8::from(rng.gen_bool(rate))),
            None,
            UnixMs(i),
        );
    }
    // One that has come to its verdict lets nobody in any more.
    if experiments.view("ab").unwrap().ended.is_some() {
        return;
    }
    let last = arms(&experiments);
    assert!(last.iter().flatten().count() > first.iter().flatten().count());
    for (old, new) in first.iter().zip(&last) {
        assert!(old.is_none() || old == new);
    }
    assert_eq!(
        experiments
            .view("ab")
            .unwrap()
            .reading
            .checks
            .multiple_exposure
            .statistic,
        0.0
    );
}

#[test]
fn a_user_keeps_the_arm_while_the_split_moves() {
    nobody_switches(4, [0.5, 0.52]);
}

#[test]
fn the_configuration_rules_its_experiments_and_a_restart_changes_nothing() {
    let mut experiments = Experiments::default();
    let one = definition("one", Hypothesis::Superior);
    let later = Definition {
        defined: UnixMs(77),
        ..one.clone()
    };
    experiments
        .configure(std::slice::from_ref(&one), UnixMs(1))
        .unwrap();
    run(&mut experiments, [0.5, 0.5], 100, 5);
    let text = serde_json::to_string(&experiments).unwrap();
    let mut again: Experiments = serde_json::from_str(&text).unwrap();
    again.configure(std::slice::from_ref(&later), UnixMs(77)).unwrap();
    assert_eq!(
        again.view("one").unwrap().arms[0].scored,
        experiments.view("one").unwrap().arms[0].scored
    );
    again.configure(&[], UnixMs(78)).unwrap();
    assert_eq!(again.view("one").unwrap().phase, Phase::Stopped);
}

#[test]
fn what_is_not_valid_is_refused() {
    let mut experiments = Experiments::default();
    let good = definition("ab", Hypothesis::Superior);
    experiments.start(good.clone(), UnixMs(1)).unwrap();
    assert_eq!(
        experiments.start(good.clone(), UnixMs(1)),
        Err(DefinitionError::Exists { name: "ab".into() })
    );
    let named = |name: &str| Definition {
        name: name.into(),
        ..good.clone()
    };
    assert!(matches!(
        experiments.start(named("../x"), UnixMs(1)),
        Err(DefinitionError::Name { .. })
    ));
    let wide = Definition {
        coverage: 1.5,
        ..named("x")
    };
    assert!(matches!(
        experiments.start(wide, UnixMs(1)),
        Err(DefinitionError::Range {
            field: "coverage",
            ..
        })
    ));
    let alone = Definition {
        variants: vec![("control".into(), Variant::Current)],
        ..named("y")
    };
    assert!(matches!(
        experiments.start(alone, UnixMs(1)),
        Err(DefinitionError::Arms { given: 1 })
    ));
    let missing = experiments.intervene("none", &Intervention::Stop, "", UnixMs(1));
    assert!(matches!(missing, Err(InterventionError::Unknown { .. })));
    let arm = experiments.intervene("ab", &Intervention::Ship { arm: "blue".into() }, "", UnixMs(1));
    assert!(matches!(arm, Err(InterventionError::Arm { .. })));
}

#[test]
fn scores_that_do_not_belong_are_ignored() {
    let mut experiments = Experiments::default();
    experiments
        .start(definition("ab", Hypothesis::Superior), UnixMs(1))
        .unwrap();
    let unit = Unit {
        request: "r",
        ..Unit::default()
    };
    let enrolment = experiments.table().assign(&unit, "auto", None).unwrap();
    experiments.scored(&enrolment, "speed", 1.0, None, UnixMs(2));
    experiments.scored(&enrolment, "quality", f64::NAN, None, UnixMs(2));
    let earlier = Enrolment {
        defined: 0,
        ..enrolment.clone()
    };
    experiments.scored(&earlier, "quality", 1.0, None, UnixMs(2));
    assert_eq!(experiments.view("ab").unwrap().reading.units, 0);
    experiments.scored(&enrolment, "quality", 1.0, None, UnixMs(2));
    assert_eq!(experiments.view("ab").unwrap().reading.units, 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn ramps_never_switch_anyone(seed in 0..u64::MAX, control in 0.3..0.7f64, gain in -0.03..0.03f64) {
        nobody_switches(seed, [control, control + gain]);
    }
}

proptest! {
    #[test]
    fn assignment_depends_on_the_unit_alone(user in "[a-z0-9]{1,12}", first in "[a-z]{4}", second in "[a-z]{4}") {
        let mut experiments = Experiments::default();
        let mut sticky = definition("ab", Hypothesis::Superior);
        sticky.sticky_by = StickyBy::User;
        experiments.start(sticky, UnixMs(1)).unwrap();
        let table = experiments.table();
        let arm = |request: &str| table.assign(&Unit { request, user: Some(&user), session: None }, "auto", None);
        prop_assert_eq!(arm(&first), arm(&second));
    }
}

#[test]
fn what_the_router_shipped_by_itself_is_adopted_and_can_be_undone() {
    let mut experiments = Experiments::default();
    let trigger = Trigger::NewModel {
        route: "auto".into(),
        model: ArmId::new("b/small"),
        reference: ArmId::new("a/large"),
    };
    let terms = Terms {
        margin: 0.1,
        traffic: 1.0,
        ..TERMS
    };
    let name = experiments.trigger(&trigger, &terms, UnixMs(1)).unwrap();
    run(&mut experiments, [0.9, 0.9], 20_000, 6);
    assert_eq!(experiments.view(&name).unwrap().phase, Phase::Shipped { arm: 1 });
    let rulings = |experiments: &Experiments| {
        let table = experiments.table();
        table.rulings("auto", None).cloned().collect::<Vec<_>>()
    };
    let variant = model("b/small");
    assert_eq!(
        rulings(&experiments),
        [Ruling::Adopt {
            variant: variant.clone()
        }]
    );
    let undo =
        |experiments: &mut Experiments| experiments.intervene(&name, &Intervention::Undo, "", UnixMs(9));
    undo(&mut experiments).unwrap();
    assert_eq!(rulings(&experiments), [Ruling::Exclude { variant }]);
    undo(&mut experiments).unwrap();
    assert_eq!(rulings(&experiments), []);
    assert!(undo(&mut experiments).is_err());
}

#[test]
fn requests_go_by_the_embedding_while_it_is_compared_and_once_it_has_won() {
    let mut experiments = Experiments::default();
    let trigger = Trigger::NewFeatures {
        route: "auto".into(),
        current: "text".into(),
        fresh: EMBEDDING.into(),
        version: "1".into(),
    };
    let terms = Terms {
        margin: 0.1,
        traffic: 1.0,
        ..TERMS
    };
    assert!(!experiments.table().embeds("auto"));
    let name = experiments.trigger(&trigger, &terms, UnixMs(1)).unwrap();
    assert!(experiments.table().embeds("auto"));
    assert!(!experiments.table().embeds("other"));
    run(&mut experiments, [0.9, 0.9], 20_000, 6);
    assert_eq!(experiments.view(&name).unwrap().phase, Phase::Shipped { arm: 1 });
    let by = Variant::Features(EMBEDDING.into());
    assert_eq!(experiments.table().way("auto", None), Some(&by));
    assert!(experiments.table().embeds("auto"));
    experiments
        .intervene(&name, &Intervention::Undo, "", UnixMs(9))
        .unwrap();
    assert_eq!(experiments.table().way("auto", None), None);
    assert!(!experiments.table().embeds("auto"));
}

#[test]
fn each_event_asks_its_own_question() {
    let (a, b) = (ArmId::new("a/large"), ArmId::new("b/small"));
    let route = || "auto".to_owned();
    let definition = |trigger: Trigger| trigger.definition(&TERMS, UnixMs(1));
    let flip = definition(Trigger::RankingFlip {
        route: route(),
        cheaper: b.clone(),
        dearer: a.clone(),
    });
    assert_eq!(
        (flip.name.as_str(), flip.origin, flip.design.guardrails.cost_ratio),
        ("price-b-small", Origin::PriceChange, Some(1.0))
    );
    assert_eq!(
        flip.statement,
        "b/small is cheaper than a/large, and its mean quality is no more than 0.02 below"
    );
    let new = Trigger::NewModel {
        route: route(),
        model: b.clone(),
        reference: a.clone(),
    };
    let dearer = Terms {
        superior: true,
        ..TERMS
    };
    let better = new.definition(&dearer, UnixMs(1));
    assert_eq!(
        (better.design.hypothesis, better.design.guardrails.cost_ratio),
        (Hypothesis::Superior, None)
    );
    let margin = |from, to| {
        definition(Trigger::MarginChanged {
            route: route(),
            from,
            to,
        })
    };
    let wider = margin(0.02, 0.05);
    assert_eq!(wider.design.hypothesis, Hypothesis::NonInferior { margin: 0.05 });
    assert_eq!(wider.variants[1].1, Variant::MarginMilli(50));
    assert_eq!(margin(0.05, 0.02).design.hypothesis, Hypothesis::Superior);
    let features = definition(Trigger::NewFeatures {
        route: route(),
        current: "text".into(),
        fresh: "embedding".into(),
        version: "auto-embedding2".into(),
    });
    assert_eq!(features.name, "features-auto-embedding2");
    for definition in [&flip, &wider, &features] {
        definition.check().unwrap();
        let design = &definition.design;
        assert_eq!((design.max_samples, design.slow_ms), (10_000, Some(2_000.0)));
        assert!(design.guardrails.errors > 0.0 && design.guardrails.refusals > 0.0);
        assert!((definition.coverage - 0.2).abs() < 1e-12 && !definition.statement.is_empty());
    }
}

#[test]
fn another_margin_ends_what_was_asked_of_the_last_one() {
    let mut experiments = Experiments::default();
    let mut change = |from, to, at| {
        let trigger = Trigger::MarginChanged {
            route: "auto".into(),
            from,
            to,
        };
        experiments.trigger(&trigger, &TERMS, UnixMs(at)).unwrap()
    };
    let (first, second) = (change(0.02, 0.05, 1), change(0.05, 0.1, 2));
    assert_eq!(experiments.view(&first).unwrap().phase, Phase::Stopped);
    assert_eq!(experiments.view(&second).unwrap().phase, Phase::Running);
    // Harm of a way of routing: the way before it is gone back to.
    let trial = Definition {
        variants: vec![
            ("control".into(), Variant::MarginMilli(50)),
            ("treatment".into(), Variant::MarginMilli(100)),
        ],
        name: "margin-trial".into(),
        origin: Origin::Margin,
        ..definition("x", Hypothesis::Superior)
    };
    experiments
        .intervene(&second, &Intervention::Stop, "", UnixMs(3))
        .unwrap();
    experiments.start(trial, UnixMs(4)).unwrap();
    run(&mut experiments, [0.9, 0.5], 5_000, 7);
    assert_eq!(
        experiments.view("margin-trial").unwrap().phase,
        Phase::StoppedForHarm
    );
    assert_eq!(
        experiments.table().way("auto", None),
        Some(&Variant::MarginMilli(50))
    );
}

#[test]
fn the_configuration_asks_once() {
    let mut experiments = Experiments::default();
    experiments
        .start(
            definition("ab", Hypothesis::NonInferior { margin: 0.1 }),
            UnixMs(5),
        )
        .unwrap();
    let ship = Intervention::Ship {
        arm: "treatment".into(),
    };
    let wishes = |asked: &Intervention| {
        vec![
            ("ab".to_owned(), asked.clone()),
            ("nobody".to_owned(), Intervention::Stop),
        ]
    };
    experiments.override_all(&wishes(&ship), UnixMs(6)).unwrap();
    assert_eq!(experiments.view("ab").unwrap().phase, Phase::Shipped { arm: 1 });
    experiments
        .override_all(&wishes(&Intervention::Undo), UnixMs(7))
        .unwrap();
    assert_eq!(experiments.view("ab").unwrap().phase, Phase::Undone);
    // Read again, the same file asks nothing new.
    experiments
        .override_all(&wishes(&Intervention::Undo), UnixMs(8))
        .unwrap();
    let undone = experiments
        .take_events()
        .iter()
        .filter(|event| matches!(&event.kind, EventKind::Overridden { intervention, .. } if intervention == "undo"))
        .count();
    assert_eq!(undone, 1);
}

/// A ramp that opens in steps, in many layers: nobody switches, and layers do not disturb each other.
#[test]
fn layers_are_independent_and_a_unit_keeps_its_place_in_each() {
    let mut experiments = Experiments::default();
    let sticky = |name: &str, layer: &str, route: &str| Definition {
        layer: layer.into(),
        route: route.into(),
        sticky_by: StickyBy::User,
        ..definition(name, Hypothesis::Superior)
    };
    experiments
        .start(sticky("one", "first", "auto"), UnixMs(1))
        .unwrap();
    experiments
        .start(sticky("two", "second", "other"), UnixMs(1))
        .unwrap();
    let table = experiments.table();
    let mut cells = [[0u32; 2]; 2];
    for i in 0..4_000 {
        let user = format!("user:{i}");
        let unit = Unit {
            request: "r",
            user: Some(&user),
            session: None,
        };
        let arm = |route| table.assign(&unit, route, None).unwrap().arm;
        cells[arm("auto")][arm("other")] += 1;
    }
    // Every combination is a quarter: four deviations of 1,000 are 110.
    for cell in cells.iter().flatten() {
        assert!((890..1_110).contains(cell), "{cells:?}");
    }
}
