//! Who takes part in what: layers, ramps, units that come again.

use std::collections::HashMap;

use proptest::prelude::*;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::experiments::definition::{Split, StickyBy};
use crate::experiments::intervention::Intervention;

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

/// Without the key that it sticks to, the next narrower one holds: a session for a user, the request alone for both.
#[test]
fn a_session_keeps_its_arm_and_stands_in_for_a_user() {
    for sticky_by in [StickyBy::Session, StickyBy::User] {
        let mut experiments = Experiments::default();
        let sticky = Definition {
            sticky_by,
            ..definition("ab", Hypothesis::Superior)
        };
        experiments.start(sticky, UnixMs(1)).unwrap();
        let table = experiments.table();
        let mut both = [0u32; 2];
        for i in 0..200 {
            let session = format!("session:{i}");
            let assign = |request: &str, session: Option<&str>| {
                let unit = Unit {
                    request,
                    user: None,
                    session,
                };
                table.assign(&unit, "auto", None).unwrap()
            };
            let first = assign("r1", Some(&session));
            assert_eq!(first, assign("r2", Some(&session)));
            assert!(first.unit.is_some() && assign(&session, None).unit.is_none());
            both[first.arm] += 1;
        }
        // Four deviations of a fair split: 100 ± 28.
        assert!((72..128).contains(&both[0]), "{both:?}");
    }
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
