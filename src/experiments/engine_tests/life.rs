//! From the definition to the verdict, and what the configuration and people do to it.

use super::*;
use crate::experiments::intervention::Intervention;
use crate::experiments::table::Ruling;

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
