use super::*;
use crate::arm::ArmId;
use crate::policy::linear::LinearPrior;
use crate::policy::seed::{SEED_FORMAT, Traits};
use crate::policy::{Contexts, Observation};

/// The only prompt there is.
const PROMPT: Contexts<'static> = Contexts {
    text: Some(&[1.0]),
    embedding: None,
    words: &[],
};

/// An arm of which nothing is known, with that prompt's one feature.
fn unknown(id: &str, common: &Common) -> ArmModel {
    ArmModel::new(id, &Traits::default(), None, [Some(1), None], &common.settings)
}

/// A score in time.
fn observation<'a>(arm: &'a ArmId, category: Option<&'a str>, reward: f64) -> Observation<'a> {
    Observation {
        seq: 1,
        route: "auto",
        arm,
        contexts: PROMPT,
        category,
        reward,
        weight: 1.0,
        propensity: 1.0,
        logged: None,
        late: false,
        revises: None,
    }
}

/// An arm whose scores are all alike has next to no noise left when it meets another category, where it scores .15
/// less: that it did not know, and it has not changed. A fall in what it knows is found as soon as before.
#[test]
fn a_category_that_is_new_to_an_even_arm_is_no_drift_and_a_fall_is() {
    let mut common = Common::default();
    let arm = ArmId::new("a/1");
    let mut model = unknown("a/1", &common);
    let mut clock = 0;
    let mut alarms = |category: &str, reward: f64, times: usize| -> Vec<usize> {
        let mut learn = |_: &usize| {
            clock += 1;
            let observation = observation(&arm, Some(category), reward);
            model.learn(&observation, clock, &mut common).is_some()
        };
        (1..=times).filter(|time| learn(time)).collect()
    };
    assert_eq!(alarms("code", 0.95, 3_000), [0; 0]);
    assert_eq!(alarms("maths", 0.8, 100), [0; 0]);
    let fall = alarms("code", 0.5, 20);
    assert!(fall.first().is_some_and(|&score| score <= 6), "{fall:?}");
}

#[test]
fn how_far_costs_stray_is_learned() {
    let settings = LearningSettings::default();
    let mut model = ArmModel::new("a/1", &Traits::default(), None, [None, None], &settings);
    let arm = ArmId::new("a/1");
    let mut calls = |times: usize, ratio: f64| {
        for _ in 0..times {
            model.learn_usage(
                &UsageSample {
                    seq: 1,
                    route: "auto",
                    arm: &arm,
                    contexts: Contexts::default(),
                    category: None,
                    output_tokens: None,
                    input_tokens: None,
                    cached_tokens: None,
                    prefix_tokens: 0,
                    cost_usd: 0.01 * ratio,
                    expected_cost_usd: 0.01,
                    ends_request: true,
                },
                &settings,
                &mut WordWeights::new(0.5),
            );
        }
        model.surprise()
    };
    // Before any call s = .5: exp(2.576 * .5 - .25 / 2) = 3.20.
    assert!((calls(0, 1.0) - 3.200).abs() < 1e-3);
    // The first call counts an eleventh: s^2 = .25 * 10 / 11, exp(2.576 * .4767 - .1136) = 3.048.
    assert!((calls(1, 1.0) - 3.048).abs() < 1e-3);
    assert!(calls(2_000, 1.0) < 1.05, "costs come out as expected");
    // Calls that cost double: s = ln 2, exp(2.576 * .6931 - .2402) = 4.69.
    assert!((calls(3_000, 2.0) - 4.689).abs() < 0.02);
}

/// Noise .5 * .25; the weights' part has a variance of 1/4 of that, the category's of 1/8, what is common to new arms of .02.
#[test]
fn each_part_moves_by_its_share_of_one_error() {
    let mut common = Common::default();
    let arm = ArmId::new("a/1");
    let mut model = unknown("a/1", &common);
    let mut learn = |reward: f64, common: &mut Common| {
        let observation = observation(&arm, Some("code"), reward);
        model.learn(&observation, 0, common);
        model.estimate(&PROMPT, Some("code"), 0, common, false).mean
    };
    let after = learn(1.0, &mut common);
    // Weights: .25 / (1 + .25 + .125) of the error of .5; offset: .125 / 1.375; all new arms: .02 / (.02 + .125 * 1.375).
    let (weights, offset, common_level) = (0.5 * 0.181_818, 0.5 * 0.090_909, 0.5 * 0.104_235);
    assert!((common.transfer.mean() - common_level).abs() < 1e-5);
    assert!(
        (after - (0.5 + weights + offset + common_level)).abs() < 1e-4,
        "{after}"
    );
    // Another arm of which nothing is known profits from what is common to them.
    let other = unknown("a/2", &common);
    let expected = other.estimate(&PROMPT, Some("code"), 0, &common, false).mean;
    assert!((expected - (0.5 + common_level)).abs() < 1e-5);
}

/// Of the model `1` each view expects what is named, as if it had seen four scores.
fn seed(expected: &[(View, f64)]) -> Seed {
    let quality = expected
        .iter()
        .map(|&(view, mean)| (view, LinearPrior::around(&[mean], 4.0)));
    Seed {
        format: SEED_FORMAT,
        view_versions: BTreeMap::new(),
        arms: vec![ArmSeed {
            model: "1".into(),
            family: String::new(),
            prompts: 4,
            mean_quality: 0.7,
            mean_cost_usd: 0.0,
            dispersion: 0.5,
            quality: quality.collect(),
            categories: BTreeMap::new(),
            length: None,
        }],
        learned: Vec::new(),
        digest: 0,
    }
}

/// What a new arm has learned beside what is common to new arms is its own once a seed has it.
#[test]
fn an_arm_that_becomes_known_keeps_what_was_seen() {
    let mut common = Common::default();
    let arm = ArmId::new("a/1");
    let mut model = unknown("a/1", &common);
    for clock in 0..500 {
        let observation = observation(&arm, None, 0.2);
        model.learn(&observation, clock, &mut common);
    }
    assert!(common.transfer.mean() < -0.02, "{:?}", common.transfer);
    let seed = seed(&[(View::Text, 0.2)]);
    let mut known = ArmModel::new(
        "a/1",
        &Traits::default(),
        Some(&seed),
        [Some(1), None],
        &common.settings,
    );
    known.carry(&model, [true; 2], &common.transfer);
    let expected = known.estimate(&PROMPT, None, 500, &common, false).mean;
    assert!((expected - 0.2).abs() < 0.01, "{expected}");
}

/// Text expects .6 and the transformer .8: where the transformer's view is in use their mean decides, and text alone where
/// the embedding did not come in time.
#[test]
fn two_views_expect_what_lies_between_them() {
    let seed = seed(&[(View::Text, 0.6), (View::Embedding, 0.8)]);
    let expected = |preferred: View, embedding: Option<&[f32]>| {
        let settings = LearningSettings {
            preferred,
            ..LearningSettings::default()
        };
        let model = ArmModel::new(
            "a/1",
            &Traits::default(),
            Some(&seed),
            [Some(1), Some(1)],
            &settings,
        );
        let contexts = Contexts {
            text: Some(&[1.0]),
            embedding,
            words: &[],
        };
        model.estimate(&contexts, None, 0, &settings.into(), true)
    };
    let both = expected(View::Embedding, Some(&[1.0]));
    assert!((both.mean - 0.7).abs() < 1e-6, "{both:?}");
    // Each has a variance of 1/4 of the noise's .5 * .7 * .3, and their errors are taken to be the same.
    assert!(
        (both.weights_variance - 0.5 * 0.21 / 4.0).abs() < 1e-6,
        "{both:?}"
    );
    for (preferred, embedding) in [
        (View::Text, Some(&[1.0][..])),
        (View::Text, None),
        (View::Embedding, None),
    ] {
        let alone = expected(preferred, embedding).mean;
        assert!((alone - 0.6).abs() < 1e-6, "{alone}");
    }
}
