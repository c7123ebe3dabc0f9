use proptest::prelude::*;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::evaluation::health::{ALARM_P, Health, equal_rates};

fn design(hypothesis: Hypothesis) -> Design {
    Design {
        arms: 2,
        hypothesis,
        alpha: 0.05,
        planned: 500,
        max_samples: 10_000,
        min_effect: 0.005,
        futility: 0.0,
        guardrails: Guardrails::default(),
        slow_ms: Some(1_000.0),
        floor: 0.1,
    }
}

fn sample(arm: usize) -> Sample<'static> {
    Sample {
        arm,
        probability: 0.5,
        unit: None,
        covariate: 0.0,
        slices: vec!["category=code"],
    }
}

/// `n` requests an arm; a score of 1 in `good[arm]` of 100, an error in `bad[arm]` of 100.
fn filled(n: u64, good: [u64; 2], bad: [u64; 2]) -> AbSums {
    let mut sums = AbSums::new(2);
    for i in 0..n {
        for arm in 0..2 {
            let clean = (i * 37) % 100 >= bad[arm];
            let exposure = Exposure {
                clean,
                cost_usd: Some(0.001),
                ttft_ms: Some(300.0),
                ..Exposure::default()
            };
            sums.assign(&sample(arm), &[0.5, 0.5]);
            sums.expose(&sample(arm), &exposure, Some(1_000.0));
            if clean {
                sums.score(
                    &sample(arm),
                    f64::from(u8::from((i * 61) % 100 < good[arm])),
                    None,
                );
            }
        }
    }
    sums
}

#[test]
fn a_better_treatment_is_shipped_and_a_worse_one_stopped() {
    let superior = design(Hypothesis::Superior);
    let better = read(&superior, &filled(1_000, [70, 85], [0, 0])).unwrap();
    assert_eq!(better.verdict, Verdict::Ship { arm: 1 });
    let interval = better.comparisons[0].quality.unwrap().interval;
    assert!((interval.estimate - 0.15).abs() < 1e-9 && interval.low > 0.0);
    let worse = read(&superior, &filled(1_000, [85, 70], [0, 0])).unwrap();
    assert_eq!(worse.verdict, Verdict::Harm);
}

#[test]
fn non_inferiority_ships_what_is_no_worse_than_the_margin() {
    let margin = design(Hypothesis::NonInferior { margin: 0.1 });
    assert_eq!(
        read(&margin, &filled(2_000, [85, 84], [0, 0])).unwrap().verdict,
        Verdict::Ship { arm: 1 }
    );
    assert_eq!(
        read(&margin, &filled(2_000, [85, 65], [0, 0])).unwrap().verdict,
        Verdict::Harm
    );
}

#[test]
fn a_running_experiment_says_about_how_many_more() {
    let few = read(&design(Hypothesis::Superior), &filled(100, [70, 80], [0, 0])).unwrap();
    let Verdict::Running { more: Some(more) } = few.verdict else {
        panic!("{:?}", few.verdict)
    };
    // Variance .16 + .21 doubled = .74; the gap of .1 needs about 870 units in all.
    assert!((300..1_500).contains(&more), "{more}");
    let none = read(&design(Hypothesis::Superior), &filled(10, [70, 80], [0, 0])).unwrap();
    assert_eq!(none.verdict, Verdict::Running { more: None });
}

#[test]
fn it_ends_when_there_is_nothing_left_to_learn() {
    let mut short = design(Hypothesis::Superior);
    short.max_samples = 400;
    assert_eq!(
        read(&short, &filled(200, [80, 80], [0, 0])).unwrap().verdict,
        Verdict::Futile
    );
    let mut coarse = design(Hypothesis::Superior);
    coarse.min_effect = 0.2;
    assert_eq!(
        read(&coarse, &filled(300, [80, 80], [0, 0])).unwrap().verdict,
        Verdict::Futile
    );
}

#[test]
fn it_ends_when_a_verdict_has_become_improbable() {
    let design = Design {
        futility: 0.1,
        ..design(Hypothesis::Superior)
    };
    // 1,500 a side, both at .80: the step's variance is 2 · (.16 + .16) = .64. At 10,000 the half-width is
    // sqrt(.64 · 2 · 159.8 / (10^8 · .01588) · (ln 159.8 / 2 + 2.996)) = .0267; until then the difference moves by
    // sqrt(.64 · (1/3000 - 1/10000)) = .0122: 2 · P(Z > 2.18) = .029.
    let even = read(&design, &filled(1_500, [80, 80], [0, 0])).unwrap();
    let chance = even.comparisons[0].chance.unwrap();
    assert!((chance - 0.029).abs() < 0.003, "{chance}");
    assert_eq!(even.verdict, Verdict::Futile);
    // The same at a difference of .03, where the half-width now is .045: more likely than not that it is found yet.
    let lead = read(&design, &filled(1_500, [80, 83], [0, 0])).unwrap();
    assert!(lead.comparisons[0].chance.unwrap() > 0.5);
    assert!(matches!(lead.verdict, Verdict::Running { .. }), "{lead:?}");
    // 500 a side and no difference yet: too early to give up.
    let early = read(&design, &filled(500, [80, 80], [0, 0])).unwrap();
    assert!(matches!(early.verdict, Verdict::Running { .. }), "{early:?}");
}

#[test]
fn errors_stop_an_experiment_whatever_the_scores_say() {
    let reading = read(&design(Hypothesis::Superior), &filled(1_000, [70, 90], [0, 20])).unwrap();
    assert_eq!(reading.comparisons[0].standing, Standing::Harmful);
    assert_eq!(reading.verdict, Verdict::Harm);
}

/// The treatment scores higher, and one request in five is late, refused or dearer: whichever it is, that ends it.
#[test]
fn each_guardrail_stops_for_harm() {
    let fine = Exposure {
        clean: true,
        cost_usd: Some(0.001),
        ttft_ms: Some(300.0),
        ..Exposure::default()
    };
    let worse = [
        (
            "slow",
            Exposure {
                ttft_ms: Some(1_500.0),
                ..fine
            },
        ),
        (
            "refusals",
            Exposure {
                refused: true,
                ..fine
            },
        ),
        (
            "cost",
            Exposure {
                cost_usd: Some(0.004),
                ..fine
            },
        ),
        ("errors", Exposure { clean: false, ..fine }),
    ];
    let mut guarded = design(Hypothesis::Superior);
    guarded.guardrails.cost_ratio = Some(1.0);
    let reading = |of_treatment: &Exposure| {
        let mut sums = AbSums::new(2);
        for i in 0..1_000 {
            for arm in 0..2 {
                let exposure = if arm == 1 && i % 5 == 0 {
                    of_treatment
                } else {
                    &fine
                };
                sums.assign(&sample(arm), &[0.5, 0.5]);
                sums.expose(&sample(arm), exposure, guarded.slow_ms);
                sums.score(&sample(arm), [0.7, 0.9][arm], None);
            }
        }
        read(&guarded, &sums).unwrap()
    };
    assert_eq!(reading(&fine).verdict, Verdict::Ship { arm: 1 });
    for (name, exposure) in worse {
        let reading = reading(&exposure);
        assert_eq!(reading.verdict, Verdict::Harm, "{name}");
        let guardrails = &reading.comparisons[0].guardrails;
        let broken = guardrails
            .iter()
            .filter(|one| one.difference.interval.low > one.limit);
        assert_eq!(broken.map(|one| one.name.as_str()).collect::<Vec<_>>(), [name]);
    }
}

#[test]
fn a_dearer_treatment_is_not_shipped_as_no_worse() {
    let mut cheaper = design(Hypothesis::NonInferior { margin: 0.1 });
    cheaper.guardrails.cost_ratio = Some(1.0);
    let mut sums = filled(2_000, [85, 85], [0, 0]);
    let dear = Exposure {
        clean: true,
        cost_usd: Some(0.1),
        ..Exposure::default()
    };
    (0..50).for_each(|_| sums.expose(&sample(1), &dear, None));
    let reading = read(&cheaper, &sums).unwrap();
    assert_ne!(reading.verdict, Verdict::Ship { arm: 1 });
}

/// `n` scored requests an arm; a score of 1 in `good[arm]` of 100, at a cost that is spread evenly over half of
/// `costs[arm]` around it.
fn priced(n: u64, good: [u64; 2], costs: [f64; 2]) -> AbSums {
    let mut sums = AbSums::new(2);
    for i in 0..n {
        for arm in 0..2 {
            let spread = 0.75 + ((i * 53) % 100) as f64 / 200.0;
            let exposure = Exposure {
                clean: true,
                cost_usd: Some(costs[arm] * spread),
                ..Exposure::default()
            };
            sums.assign(&sample(arm), &[0.5, 0.5]);
            sums.expose(&sample(arm), &exposure, None);
            let score = f64::from(u8::from((i * 61) % 100 < good[arm]));
            sums.score(&sample(arm), score, None);
        }
    }
    sums
}

#[test]
fn a_gain_is_more_quality_or_no_less_at_a_cost_that_matters() {
    let mut gain = design(Hypothesis::Gain {
        margin: 0.1,
        saving: 0.02,
    });
    gain.guardrails.cost_ratio = Some(1.0);
    gain.futility = 0.2;
    let verdict = |n, good, costs| {
        let reading = read(&gain, &priced(n, good, costs)).unwrap();
        (reading.verdict, reading.comparisons[0].standing)
    };
    let shipped = (Verdict::Ship { arm: 1 }, Standing::Holds);
    assert_eq!(verdict(2_000, [80, 80], [1e-3, 0.9e-3]), shipped, "saves a tenth");
    assert_eq!(verdict(2_000, [80, 90], [1e-3, 1e-3]), shipped, "scores higher");
    let nothing = verdict(2_000, [80, 80], [1e-3, 1e-3]);
    assert_eq!(nothing, (Verdict::Futile, Standing::NoWorse), "neither");
    // One part in a hundred is found in time, and is not what was asked.
    let little = verdict(4_000, [80, 80], [1e-3, 0.99e-3]);
    assert_eq!(little, (Verdict::Futile, Standing::NoWorse));
    let (worse, _) = verdict(2_000, [85, 60], [1e-3, 0.5e-3]);
    assert_eq!(worse, Verdict::Harm, "however much it saves");
    let (dearer, _) = verdict(2_000, [80, 80], [1e-3, 1.1e-3]);
    assert_eq!(dearer, Verdict::Harm);
}

#[test]
fn what_is_to_be_saved_is_below_the_controls_cost_by_its_share() {
    let gain = design(Hypothesis::Gain {
        margin: 0.1,
        saving: 0.1,
    });
    let reading = read(&gain, &priced(1_000, [80, 80], [1e-3, 0.95e-3])).unwrap();
    let comparison = &reading.comparisons[0];
    // The mean of the spread is .75 + .495 / 2 = .9975; .95 less .9 of it.
    let saving = comparison.saving.unwrap().interval;
    assert!((saving.estimate - 0.05e-3 * 0.9975).abs() < 1e-12 && saving.low > 0.0);
    let cost = comparison.cost.unwrap().interval;
    assert!((cost.estimate + 0.05e-3 * 0.9975).abs() < 1e-12);
    let other = read(&design(Hypothesis::Superior), &filled(100, [80, 80], [0, 0])).unwrap();
    assert_eq!(other.comparisons[0].saving, None);
}

/// A perfectly even score leaves no doubt of the quality, and the cost still has to be learned.
#[test]
fn a_narrow_interval_of_quality_does_not_end_the_question_of_cost() {
    let gain = design(Hypothesis::Gain {
        margin: 0.1,
        saving: 0.02,
    });
    let reading = read(&gain, &priced(1_000, [100, 100], [1e-3, 0.97e-3])).unwrap();
    let comparison = &reading.comparisons[0];
    assert!(comparison.quality.unwrap().interval.half_width() < gain.min_effect);
    assert_eq!(comparison.standing, Standing::NoWorse);
    // One part in a hundred more than it must, of costs that spread by 14 in a hundred: a quarter of what it needs.
    let Verdict::Running { more: Some(more) } = reading.verdict else {
        panic!("{:?}", reading.verdict)
    };
    let later = read(&gain, &priced(1_000 + more, [100, 100], [1e-3, 0.97e-3])).unwrap();
    assert_eq!(later.verdict, Verdict::Ship { arm: 1 }, "{more}");
}

#[test]
fn answers_of_a_fallback_never_reach_the_scores() {
    let mut sums = AbSums::new(2);
    sums.expose(&sample(1), &Exposure::default(), None);
    assert_eq!((sums.arms[1].exposures, sums.arms[1].clean), (1, 0));
    assert_eq!(sums.arms[1].errors.mean(), 1.0);
}

#[test]
fn what_somebody_else_ended_is_no_error_and_a_second_attempt_redeems_the_first() {
    let mut sums = AbSums::new(2);
    let lost_hedge = Exposure {
        censored: true,
        cost_usd: Some(0.001),
        ..Exposure::default()
    };
    sums.expose(&sample(1), &lost_hedge, None);
    let arm = &sums.arms[1];
    assert_eq!((arm.exposures, arm.clean, arm.errors.units()), (1, 0, 0.0));
    assert_eq!(arm.cost.units(), 1.0);

    sums.expose(&sample(1), &Exposure::default(), None);
    let served = Exposure {
        clean: true,
        ttft_ms: Some(200.0),
        ..Exposure::default()
    };
    sums.redeem(&sample(1), &served);
    let arm = &sums.arms[1];
    assert_eq!((arm.exposures, arm.clean), (2, 1));
    assert_eq!((arm.errors.units(), arm.errors.mean()), (1.0, 0.0));
}

#[test]
fn an_unequal_feedback_rate_withholds_the_verdict() {
    let mut sums = filled(1_000, [70, 90], [0, 0]);
    let unscored = Exposure {
        clean: true,
        ..Exposure::default()
    };
    (0..500).for_each(|_| sums.expose(&sample(1), &unscored, None));
    assert_eq!(
        read(&design(Hypothesis::Superior), &sums).unwrap().verdict,
        Verdict::Unhealthy
    );
}

#[test]
fn a_unit_in_two_arms_is_noticed() {
    let mut sums = AbSums::new(2);
    for hash in 0..50 {
        let unit = |arm| Sample {
            unit: Some(hash),
            ..sample(arm)
        };
        sums.assign(&unit(0), &[0.5, 0.5]);
        sums.assign(&unit(usize::from(hash < 5)), &[0.5, 0.5]);
    }
    assert_eq!(sums.checks().multiple_exposure.health, Health::Failed);
}

#[test]
fn a_unit_counts_once_in_the_split_however_often_it_comes() {
    let checked = |arms: [u64; 2], requests: usize| {
        let mut sums = AbSums::new(2);
        for hash in 0..arms[0] + arms[1] {
            let unit = Sample {
                unit: Some(hash),
                ..sample(usize::from(hash >= arms[0]))
            };
            for _ in 0..requests {
                sums.assign(&unit, &[0.5, 0.5]);
            }
        }
        sums.checks().sample_ratio
    };
    // 22 : 28 users is what a fair coin does two times in five; as 2 200 : 2 800 requests it would be an alarm.
    assert_eq!(checked([22, 28], 100).health, Health::Passed);
    assert_eq!(checked([22, 28], 100), checked([22, 28], 1));
    assert_eq!(checked([2_200, 2_800], 1).health, Health::Failed);
}

/// Scores as requests come in, looked at after every twentieth: 400 users of an even split, a few of whom ask most and
/// who rate all of their answers or none, `raters` of an arm's users in 100. Whether the check has ever failed, by users
/// and with every answer counted for itself.
fn feedback_alarms(seed: u64, raters: [u64; 2]) -> [bool; 2] {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let users: Vec<(usize, bool)> = (0..400)
        .map(|_| {
            let arm = rng.gen_range(0..2);
            (arm, rng.gen_range(0..100) < raters[arm])
        })
        .collect();
    let served = Exposure {
        clean: true,
        ..Exposure::default()
    };
    let mut sums = AbSums::new(2);
    let mut failed = [false; 2];
    for request in 1..=3_000 {
        // Density 1 / sqrt(u): the first tenth of the users ask a third of all, the first alone a twentieth.
        let hash = (400.0 * rng.r#gen::<f64>().powi(2)) as u64;
        let (arm, rates) = users[hash as usize];
        let user = Sample {
            unit: Some(hash),
            slices: Vec::new(),
            ..sample(arm)
        };
        sums.assign(&user, &[0.5, 0.5]);
        sums.expose(&user, &served, None);
        if rates {
            sums.score(&user, 0.5, None);
        }
        if request % 20 == 0 {
            let each = [0, 1].map(|arm| (sums.arms[arm].scored, sums.arms[arm].clean));
            failed[0] |= sums.checks().feedback_rate.health == Health::Failed;
            failed[1] |= equal_rates(&each).health == Health::Failed;
        }
    }
    failed
}

/// However busy those who never rate are: an alarm in one experiment of a hundred at most, over all looks, where each
/// answer counted for itself would raise one in four of ten.
#[test]
fn busy_users_who_never_rate_are_no_mismatch_and_a_real_one_is_found() {
    let share = |raters, experiments: u64| {
        let mut alarms = [0u64; 2];
        for seed in 0..experiments {
            let failed = feedback_alarms(seed, raters);
            (0..2).for_each(|way| alarms[way] += u64::from(failed[way]));
        }
        alarms.map(|count| count as f64 / experiments as f64)
    };
    let [by_user, by_answer] = share([40, 40], 1_000);
    assert!(by_user <= ALARM_P, "{by_user}");
    assert!(by_answer > 10.0 * ALARM_P, "{by_answer}");
    // .3 of a rate around .45 among 200 users an arm: 6 deviations, where 4.5 are an alarm.
    let [found, _] = share([30, 60], 200);
    println!("false alarms {by_user} by users, {by_answer} by answers; found {found}");
    assert!(found > 0.8, "{found}");
}

/// What was saved before returning users were told apart is still read; its answers count one by one.
#[test]
fn older_state_is_read_and_its_answers_count_one_by_one() {
    let user = |arm: usize, hash: u64| Sample {
        unit: Some(2 * hash + arm as u64),
        ..sample(arm)
    };
    let served = Exposure {
        clean: true,
        ..Exposure::default()
    };
    let asks = |sums: &mut AbSums| {
        for (arm, hash) in (0..2).flat_map(|arm| (0..100).map(move |hash| (arm, hash))) {
            sums.assign(&user(arm, hash), &[0.5, 0.5]);
            sums.expose(&user(arm, hash), &served, None);
            if hash % 4 == 0 {
                sums.score(&user(arm, hash), 1.0, None);
            }
        }
    };
    let mut sums = AbSums::new(2);
    asks(&mut sums);
    let mut saved = serde_json::to_value(&sums).unwrap();
    for arm in saved["arms"].as_array_mut().unwrap() {
        assert!(arm.as_object_mut().unwrap().remove("returning").is_some());
    }
    for unit in saved["units"].as_object_mut().unwrap().values_mut() {
        let unit = unit.as_object_mut().unwrap();
        assert!(unit.remove("answers").is_some() && unit.remove("scored").is_some());
    }
    let mut older: AbSums = serde_json::from_value(saved).unwrap();
    assert_eq!(older.checks().feedback_rate, equal_rates(&[(25, 100), (25, 100)]));
    asks(&mut older);
    assert_eq!(older.checks().feedback_rate, equal_rates(&[(50, 200), (50, 200)]));
}

#[test]
fn more_arms_share_the_error_rate_and_the_best_is_shipped() {
    let mut design = design(Hypothesis::Superior);
    design.arms = 3;
    let mut sums = AbSums::new(3);
    for i in 0..1_500u64 {
        for (arm, good) in [60, 75, 85].into_iter().enumerate() {
            sums.score(&sample(arm), f64::from(u8::from((i * 61) % 100 < good)), None);
        }
    }
    assert_eq!(read(&design, &sums).unwrap().verdict, Verdict::Ship { arm: 2 });
    let shares = sums.shares(0.1);
    assert!(shares[2] > shares[0] && shares[1] > shares[0], "{shares:?}");
}

proptest! {
    /// Late, repeated-unit and revised scores leave the same sums as the final scores in order.
    #[test]
    fn revisions_and_order_do_not_matter(scores in proptest::collection::vec((0..2usize, 0..5u64, 0.0..1.0f64, 0.0..1.0f64), 1..60)) {
        let unit = |(arm, hash): (usize, u64)| Sample { unit: Some(hash * 2 + arm as u64), covariate: 0.5, ..sample(arm) };
        let mut once = AbSums::new(2);
        let mut twice = AbSums::new(2);
        for (arm, hash, _, _) in &scores {
            once.assign(&unit((*arm, *hash)), &[0.5, 0.5]);
            twice.assign(&unit((*arm, *hash)), &[0.5, 0.5]);
        }
        for (arm, hash, _, last) in &scores {
            once.score(&unit((*arm, *hash)), *last, None);
        }
        for (arm, hash, first, _) in scores.iter().rev() {
            twice.score(&unit((*arm, *hash)), *first, None);
        }
        for (arm, hash, first, last) in &scores {
            twice.score(&unit((*arm, *hash)), *last, Some(*first));
        }
        for (a, b) in once.arms.iter().zip(&twice.arms) {
            prop_assert_eq!(a.scored, b.scored);
            prop_assert!(a.scored == 0 || (a.quality.mean() - b.quality.mean()).abs() < 1e-9);
            let (va, vb) = (a.quality.mean_variance(0.0, UNIT_RANGE), b.quality.mean_variance(0.0, UNIT_RANGE));
            prop_assert!(a.scored == 0 || (va - vb).abs() < 1e-9, "{} {}", va, vb);
        }
    }

    /// JSON keeps a float to its last place but one.
    #[test]
    fn a_restart_changes_nothing(n in 40..120u64, good in 1..100u64) {
        let sums = filled(n, [80, good], [1, 2]);
        let read_back: AbSums = serde_json::from_str(&serde_json::to_string(&sums).unwrap()).unwrap();
        let interval = |sums: &AbSums| {
            read(&design(Hypothesis::Superior), sums).unwrap().comparisons[0].quality.unwrap().interval
        };
        let (before, after) = (interval(&sums), interval(&read_back));
        prop_assert!((before.low - after.low).abs() < 1e-12 && (before.high - after.high).abs() < 1e-12);
        prop_assert_eq!(sums.arms[1].exposures, read_back.arms[1].exposures);
    }
}
