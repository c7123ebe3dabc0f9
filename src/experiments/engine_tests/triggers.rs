//! What the router starts by itself, and what is done with what it ships.

use super::*;
use crate::experiments::definition::{EMBEDDING, FORMER, Variant};
use crate::experiments::intervention::Intervention;
use crate::experiments::table::Ruling;

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
fn nothing_is_measured_by_a_model_that_was_left_out() {
    let mut experiments = Experiments::default();
    let mut ask = |model: &str, reference: &str| {
        let trigger = Trigger::Drift {
            route: "auto".into(),
            model: ArmId::new(model),
            reference: ArmId::new(reference),
        };
        let terms = Terms {
            traffic: 0.4,
            ..TERMS
        };
        experiments.trigger(&trigger, &terms, UnixMs(1)).unwrap()
    };
    let bad = ask("b/small", "a/large");
    let (by_it, waiting) = (ask("c/other", "b/small"), ask("d/waits", "b/small"));
    let of_others = ask("e/else", "a/large");
    let phase = |experiments: &Experiments, name: &str| experiments.view(name).map(|view| view.phase);
    assert_eq!(experiments.waiting().collect::<Vec<_>>(), [&waiting, &of_others]);
    for i in 0..20_000 {
        let request = i.to_string();
        let unit = Unit {
            request: &request,
            ..Unit::default()
        };
        let Some(enrolment) = experiments.table().assign(&unit, "auto", None) else {
            continue;
        };
        if *enrolment.experiment == *bad {
            let now = UnixMs(1_000 + i);
            experiments.enrolled(&enrolment);
            let exposure = Exposure {
                clean: true,
                ..Exposure::default()
            };
            experiments.exposed(&enrolment, &exposure, now);
            let score = [0.9, 0.3][enrolment.arm];
            experiments.scored(&enrolment, "quality", score, None, now);
        }
    }
    assert_eq!(phase(&experiments, &bad), Some(Phase::StoppedForHarm));
    assert_eq!(phase(&experiments, &by_it), Some(Phase::Stopped));
    assert_eq!(phase(&experiments, &waiting), None, "it never started");
    assert_eq!(
        phase(&experiments, &of_others),
        Some(Phase::Running),
        "it has room now"
    );
    let events = experiments.take_events();
    let told: Vec<&str> = events
        .iter()
        .filter(|event| matches!(&event.kind, EventKind::Overridden { reason, .. } if reason == "b/small was left out by drift-b-small"))
        .map(|event| event.experiment.as_str())
        .collect();
    assert_eq!(told, [&by_it, &waiting]);
    // Nothing was answered: with another measure it is asked as soon as there is reason to.
    let again = Trigger::Drift {
        route: "auto".into(),
        model: ArmId::new("c/other"),
        reference: ArmId::new("a/large"),
    };
    let now = UnixMs(30_000);
    assert_eq!(experiments.trigger(&again, &TERMS, now), Some(by_it));
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

fn new_features(current: &str, fresh: &str) -> Trigger {
    Trigger::NewFeatures {
        route: "auto".into(),
        current: current.into(),
        fresh: fresh.into(),
        version: format!("{current}-{fresh}"),
    }
}

#[test]
fn another_look_at_prompts_that_gains_nothing_is_not_shipped() {
    let terms = Terms {
        margin: 0.1,
        traffic: 1.0,
        ..TERMS
    };
    let ended = |current, fresh, rates, costs| {
        let mut experiments = Experiments::default();
        let trigger = new_features(current, fresh);
        let name = experiments.trigger(&trigger, &terms, UnixMs(1)).unwrap();
        let sent = run_priced(&mut experiments, rates, costs, 20_000, 6);
        assert!(sent < 10_000, "{sent}");
        (experiments, name)
    };
    let view = |variant: &str| Variant::Features(variant.into());
    // The transformer's view is no better and saves nothing: nobody goes by it.
    let (experiments, name) = ended("text", EMBEDDING, [0.9, 0.9], [0.01, 0.01]);
    assert_eq!(experiments.view(&name).unwrap().phase, Phase::Futile);
    assert!(experiments.table().is_empty());
    // The new text view is in force since it was installed: it gives way to the former one until somebody wants it.
    let (mut experiments, name) = ended(FORMER, "text", [0.9, 0.9], [0.01, 0.01]);
    assert_eq!(experiments.view(&name).unwrap().phase, Phase::Futile);
    assert_eq!(experiments.table().way("auto", None), Some(&view(FORMER)));
    experiments
        .intervene(&name, &Intervention::Undo, "", UnixMs(9))
        .unwrap();
    assert!(experiments.table().is_empty());
    // Where the former view is not at hand, what stood in for it does not take its place.
    let (experiments, name) = ended("none", "text", [0.9, 0.9], [0.01, 0.01]);
    assert_eq!(experiments.view(&name).unwrap().phase, Phase::Futile);
    assert!(experiments.table().is_empty());
    // Better at the same cost, and no worse for less.
    for (rates, costs) in [([0.8, 0.9], [0.01, 0.01]), ([0.9, 0.9], [0.01, 0.009])] {
        let (experiments, name) = ended("text", EMBEDDING, rates, costs);
        assert_eq!(experiments.view(&name).unwrap().phase, Phase::Shipped { arm: 1 });
        assert_eq!(experiments.table().way("auto", None), Some(&view(EMBEDDING)));
    }
}

#[test]
fn newer_features_end_what_went_by_the_former_ones() {
    let mut experiments = Experiments::default();
    let terms = Terms {
        margin: 0.1,
        traffic: 1.0,
        ..TERMS
    };
    let name = experiments
        .trigger(&new_features(FORMER, "text"), &terms, UnixMs(1))
        .unwrap();
    run_priced(&mut experiments, [0.9, 0.9], [0.01, 0.01], 20_000, 6);
    assert!(experiments.view(&name).unwrap().ruling.is_some());
    experiments
        .trigger(&new_features(FORMER, EMBEDDING), &terms, UnixMs(2))
        .unwrap();
    assert_eq!(experiments.view(&name).unwrap().ruling, None);
    assert_eq!(experiments.table().way("auto", None), None);
    // What won goes on.
    run(&mut experiments, [0.9, 0.9], 20_000, 7);
    experiments
        .trigger(&new_features("text", EMBEDDING), &terms, UnixMs(3))
        .unwrap();
    let by = Variant::Features(EMBEDDING.into());
    assert_eq!(experiments.table().way("auto", None), Some(&by));
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
    let gain = |margin| Hypothesis::Gain { margin, saving: 0.02 };
    assert_eq!(wider.design.hypothesis, gain(0.05));
    assert_eq!(wider.variants[1].1, Variant::MarginMilli(50));
    assert_eq!(margin(0.05, 0.02).design.hypothesis, Hypothesis::Superior);
    let features = definition(Trigger::NewFeatures {
        route: route(),
        current: "text".into(),
        fresh: "embedding".into(),
        version: "auto-embedding2".into(),
    });
    assert_eq!(features.name, "features-auto-embedding2");
    assert_eq!(features.design.hypothesis, gain(0.02));
    assert_eq!(
        features.statement,
        "the mean quality of routing by everything known of the prompt is higher than that of routing by words and \
         surface alone, or no more than 0.02 below at a cost that is lower by 2 % or more"
    );
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

fn families() -> Trigger {
    Trigger::Families {
        route: "auto".into(),
        category: "code".into(),
        used: "large".into(),
        cheaper: "small".into(),
        reason: "it would save about 60 %".into(),
    }
}

#[test]
fn a_familys_verdict_holds_in_its_category_and_can_be_undone() {
    let mut experiments = Experiments::default();
    let terms = Terms {
        margin: 0.1,
        traffic: 1.0,
        ..TERMS
    };
    let name = experiments.trigger(&families(), &terms, UnixMs(1)).unwrap();
    assert_eq!(name, "families-auto-code-small-for-large");
    let events = experiments.take_events();
    let EventKind::Defined { definition } = &events[0].kind else {
        panic!("{events:?}")
    };
    assert_eq!(
        definition.statement,
        "for prompts of “code”, the small family is cheaper than the large family, and its mean quality is no more \
         than 0.1 below"
    );
    let design = &definition.design;
    assert_eq!(
        (design.max_samples, design.guardrails.cost_ratio),
        (10_000, Some(1.0))
    );
    assert_eq!(definition.reason.as_deref(), Some("it would save about 60 %"));
    let unit = Unit {
        request: "r",
        ..Unit::default()
    };
    assert!(experiments.table().assign(&unit, "auto", Some("maths")).is_none());

    run(&mut experiments, [0.9, 0.9], 20_000, 11);
    assert_eq!(experiments.view(&name).unwrap().phase, Phase::Shipped { arm: 1 });
    let replace = Ruling::Replace {
        of: Variant::Family("large".into()),
        by: Variant::Family("small".into()),
    };
    let table = experiments.table();
    assert_eq!(
        table.rulings("auto", Some("code")).collect::<Vec<_>>(),
        [&replace]
    );
    assert_eq!(table.rulings("auto", Some("maths")).count(), 0);
    experiments
        .intervene(&name, &Intervention::Undo, "", UnixMs(9))
        .unwrap();
    assert!(experiments.table().is_empty());
}

#[test]
fn an_answered_question_about_families_rests_for_a_month() {
    let mut experiments = Experiments::default();
    let day = |day: i64| UnixMs(1 + day * 86_400_000);
    let name = experiments.trigger(&families(), &TERMS, day(0)).unwrap();
    assert_eq!(experiments.families().count(), 1);
    assert_eq!(experiments.trigger(&families(), &TERMS, day(0)), None, "it runs");
    experiments
        .intervene(&name, &Intervention::Stop, "", day(0))
        .unwrap();
    assert_eq!(experiments.families().count(), 0);
    assert_eq!(experiments.trigger(&families(), &TERMS, day(29)), None);
    assert_eq!(experiments.trigger(&families(), &TERMS, day(30)), Some(name));
}

#[test]
fn families_take_what_other_experiments_leave() {
    let mut experiments = Experiments::default();
    let all = Terms {
        traffic: 1.0,
        ..TERMS
    };
    let half = Terms {
        traffic: 0.5,
        ..TERMS
    };
    let compared = experiments.trigger(&families(), &all, UnixMs(1)).unwrap();
    let new = Trigger::NewModel {
        route: "auto".into(),
        model: ArmId::new("b/small"),
        reference: ArmId::new("a/large"),
    };
    let new = experiments.trigger(&new, &half, UnixMs(2)).unwrap();
    let table = experiments.table();
    let mut seen = [0u32; 2];
    for i in 0..1_000 {
        let request = i.to_string();
        let unit = Unit {
            request: &request,
            ..Unit::default()
        };
        let enrolment = table.assign(&unit, "auto", Some("code")).unwrap();
        assert!([&compared, &new].contains(&&enrolment.experiment));
        seen[usize::from(enrolment.experiment == compared)] += 1;
    }
    // Four deviations of a fair split: 500 ± 64.
    assert!((436..564).contains(&seen[0]), "{seen:?}");
}
