//! What was left out for its price comes back when that falls, and what was left out for anything else does not.

use super::*;
use crate::experiments::intervention::Intervention;

const SMALL: &str = "b/small";

/// A dearer new model that is a tenth worse: it had to be better, and is left out.
fn left_out(trigger: &Trigger, superior: bool) -> (Experiments, String) {
    left_out_at([0.95, 0.85], trigger, superior, 4)
}

fn left_out_at(rates: [f64; 2], trigger: &Trigger, superior: bool, seed: u64) -> (Experiments, String) {
    let mut experiments = Experiments::default();
    let terms = Terms {
        superior,
        traffic: 1.0,
        ..TERMS
    };
    let name = experiments.trigger(trigger, &terms, UnixMs(1)).unwrap();
    run_priced(&mut experiments, rates, [0.001, 0.01], 20_000, seed);
    assert_eq!(experiments.view(&name).unwrap().phase, Phase::StoppedForHarm);
    assert!(experiments.leaves_out("auto", &ArmId::new(SMALL)));
    (experiments, name)
}

fn new_model() -> Trigger {
    Trigger::NewModel {
        route: "auto".into(),
        model: ArmId::new(SMALL),
        reference: ArmId::new("a/large"),
    }
}

fn cheaper() -> Trigger {
    Trigger::RankingFlip {
        route: "auto".into(),
        cheaper: ArmId::new(SMALL),
        dearer: ArmId::new("a/large"),
    }
}

#[test]
fn what_was_too_dear_for_how_good_it_is_comes_back_with_its_price() {
    let (mut experiments, name) = left_out(&new_model(), true);
    let small = ArmId::new(SMALL);
    let generation = experiments.generation();
    assert!(
        !experiments.reopen("other", &small, 0.2, UnixMs(5)),
        "another route"
    );
    assert!(!experiments.reopen("auto", &ArmId::new("a/large"), 0.2, UnixMs(5)));
    assert_eq!(experiments.generation(), generation);
    experiments.take_events();
    assert!(experiments.reopen("auto", &small, 0.2, UnixMs(5)));
    assert!(!experiments.leaves_out("auto", &small) && experiments.generation() > generation);
    assert_eq!(experiments.view(&name).unwrap().phase, Phase::Undone);
    let told: Vec<String> = experiments
        .take_events()
        .iter()
        .map(|event| event.kind.to_string())
        .collect();
    assert!(
        told.len() == 1 && told[0].contains("the price of b/small fell"),
        "{told:?}"
    );
    assert!(!experiments.reopen("auto", &small, 0.2, UnixMs(6)), "it is in");
}

#[test]
fn what_is_worse_than_the_route_allows_is_so_at_any_price() {
    let (mut experiments, _) = left_out(&new_model(), true);
    // At its end the interval had just come to lie below 0: with nothing allowed, that is worse.
    assert!(!experiments.reopen("auto", &ArmId::new(SMALL), 0.0, UnixMs(5)));
    assert!(experiments.leaves_out("auto", &ArmId::new(SMALL)));
    for seed in 0..20 {
        let (mut experiments, name) = left_out_at([0.9, 0.7], &new_model(), true, seed);
        let found = experiments.view(&name).unwrap().decided.unwrap().comparisons[0]
            .quality
            .unwrap()
            .interval;
        assert!(found.estimate < -0.02 && found.high > -0.2, "{found:?}");
        assert!(
            !experiments.reopen("auto", &ArmId::new(SMALL), 0.02, UnixMs(5)),
            "{found:?}"
        );
        // Its interval alone says little: it ended with it just below 0.
        assert!(experiments.reopen("auto", &ArmId::new(SMALL), -found.estimate, UnixMs(5)));
    }
}

#[test]
fn a_question_about_a_price_that_was_answered_today_is_asked_again_at_another_price() {
    let (mut experiments, name) = left_out(&cheaper(), false);
    assert_eq!(experiments.trigger(&cheaper(), &TERMS, UnixMs(10_000)), None);
    assert!(experiments.reopen("auto", &ArmId::new(SMALL), 0.2, UnixMs(10_000)));
    let asked = experiments.trigger(&cheaper(), &TERMS, UnixMs(10_000));
    assert_eq!(asked, Some(name));
}

#[test]
fn neither_a_drift_nor_what_somebody_ruled_is_about_a_price() {
    let drift = Trigger::Drift {
        route: "auto".into(),
        model: ArmId::new(SMALL),
        reference: ArmId::new("a/large"),
    };
    let small = ArmId::new(SMALL);
    let (mut experiments, _) = left_out(&drift, true);
    assert!(!experiments.reopen("auto", &small, 0.2, UnixMs(5)));
    assert!(experiments.leaves_out("auto", &small));
    // Shipped, and taken back by hand: that leaves it out.
    let mut experiments = Experiments::default();
    let terms = Terms {
        traffic: 1.0,
        margin: 0.1,
        ..TERMS
    };
    let name = experiments.trigger(&new_model(), &terms, UnixMs(1)).unwrap();
    run(&mut experiments, [0.9, 0.9], 20_000, 6);
    experiments
        .intervene(&name, &Intervention::Undo, "", UnixMs(9))
        .unwrap();
    assert!(experiments.leaves_out("auto", &small));
    assert!(!experiments.reopen("auto", &small, 0.2, UnixMs(10)));
    assert!(experiments.leaves_out("auto", &small));
}
