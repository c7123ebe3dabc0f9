use proptest::prelude::*;

use super::*;
use crate::policy::arm_model::{ArmModel, LearningSettings};
use crate::policy::learner::ArmFacts;
use crate::policy::seed::{LabelledOutcome, SeedBuilder, SeedSettings};
use crate::policy::{Contexts, Learner as _, Observation};

#[derive(Clone, Debug)]
struct Seen {
    arm: usize,
    feature: f32,
    category: usize,
    reward: f64,
}

const CATEGORIES: [&str; 3] = ["code", "maths", "creative"];

fn learner() -> ContextualLearner {
    let learning = LearningSettings {
        forgetting: 1.0,
        ..LearningSettings::default()
    };
    ContextualLearner::new(learning, [Some(2), None], BTreeMap::new(), None)
}

fn arm(index: usize) -> ArmId {
    ArmId::new(["a/1", "b/2"][index])
}

fn learn(learner: &mut ContextualLearner, seen: &[Seen], late: bool) {
    for one in seen {
        let features = [1.0, one.feature];
        let (arm, seq) = (arm(one.arm), learner.sequences().0 + 1);
        learner.record_reward(&Observation {
            seq,
            route: "auto",
            arm: &arm,
            contexts: Contexts {
                text: Some(&features),
                embedding: None,
                words: &[],
            },
            category: Some(CATEGORIES[one.category]),
            reward: one.reward,
            weight: 1.0,
            propensity: 0.5,
            logged: None,
            late,
            revises: None,
        });
    }
}

fn shared(name: &str) -> ContextualLearner {
    let mut learner = learner();
    learner.share_as(name, 1);
    learner
}

fn means(learner: &ContextualLearner) -> Vec<f64> {
    let settings = LearningSettings::default();
    let mut found = Vec::new();
    for index in 0..2 {
        let Some(model) = learner.arm(&arm(index)) else {
            continue;
        };
        for feature in [-1.0, 0.0, 0.7] {
            let features = [1.0, feature];
            let contexts = Contexts {
                text: Some(&features),
                embedding: None,
                words: &[],
            };
            found.push(
                model
                    .estimate(&contexts, None, learner.clock(), &settings.into(), true)
                    .mean,
            );
        }
    }
    found
}

fn seen() -> impl Strategy<Value = Vec<Seen>> {
    let one =
        (0usize..2, -1.0f32..1.0, 0usize..3, 0.0f64..=1.0).prop_map(|(arm, feature, category, reward)| {
            Seen {
                arm,
                feature,
                category,
                reward,
            }
        });
    prop::collection::vec(one, 1..40)
}

proptest! {
    #[test]
    fn replicas_that_heard_the_same_know_the_same_in_whatever_order(
        by_a in seen(), by_b in seen(), cut in 0usize..40, again in prop::collection::vec(0usize..4, 0..6)
    ) {
        // Late scores move the weights alone, which is what merges exactly.
        let deltas = |name: &str, seen: &[Seen]| {
            let mut learner = shared(name);
            let (head, tail) = seen.split_at(cut.min(seen.len()));
            let mut found = Vec::new();
            for part in [head, tail] {
                learn(&mut learner, part, true);
                found.extend(learner.take_delta());
            }
            found
        };
        let mut all = deltas("a", &by_a);
        all.extend(deltas("b", &by_b));
        let hear = |order: &[usize]| {
            let mut learner = shared("c");
            for &index in order {
                prop_assert_eq!(learner.merge(&all[index]), Ok(()));
            }
            Ok(learner)
        };
        let forward: Vec<usize> = (0..all.len()).collect();
        let backward: Vec<usize> = forward.iter().rev().copied().collect();
        let (mut one, two) = (hear(&forward)?, hear(&backward)?);
        let close = |a: &[f64], b: &[f64]| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-3);
        prop_assert!(close(&means(&one), &means(&two)), "{:?} {:?}", means(&one), means(&two));
        let before = means(&one);
        for index in again.into_iter().filter(|index| *index < all.len()) {
            let refused = one.merge(&all[index]);
            prop_assert!(matches!(refused, Err(MergeError::Duplicate { .. })), "{refused:?}");
        }
        prop_assert_eq!(means(&one), before, "what was heard twice counts once");
    }
}

#[test]
fn what_one_learned_another_knows() {
    let seen: Vec<Seen> = (0..60)
        .map(|turn| Seen {
            arm: turn % 2,
            feature: if turn % 4 < 2 { 1.0 } else { -1.0 },
            category: 0,
            reward: if turn % 2 == 0 { 0.9 } else { 0.2 },
        })
        .collect();
    let (mut a, mut b) = (shared("a"), shared("b"));
    learn(&mut a, &seen, false);
    let delta = a.take_delta().unwrap();
    let text = serde_json::to_string(&delta).unwrap();
    let heard: Delta = serde_json::from_str(&text).unwrap();
    b.merge(&heard).unwrap();
    let (own, heard) = (means(&a), means(&b));
    let far = own
        .iter()
        .zip(&heard)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f64::max);
    assert!(far < 0.05, "{own:?} {heard:?}");
    assert!(b.take_delta().is_none(), "what was heard is not told again");
    assert_eq!(a.merge(&delta), Err(MergeError::Own));
    let mut other = learner();
    other.view_versions.insert(View::Text, "9".to_owned());
    assert!(matches!(
        other.merge(&delta),
        Err(MergeError::OtherFeatures { .. })
    ));
}

/// Low scores of the first arm, of which nothing is known: they tell of all new arms as well.
fn low(count: usize) -> Vec<Seen> {
    let one = Seen {
        arm: 0,
        feature: 0.5,
        category: 0,
        reward: 0.1,
    };
    vec![one; count]
}

/// What `learner` tells of new arms after one more score, of an arm that it meets now, and what it has learned from it.
fn told_and_learned(learner: &mut ContextualLearner) -> (TransferDelta, TransferDelta) {
    let before = learner.common.transfer;
    let next = Seen {
        arm: 1,
        ..low(1)[0].clone()
    };
    learn(learner, &[next], false);
    let told = learner.take_delta().expect("a score was learned").transfer;
    (told, learner.common.transfer.since(&before))
}

/// A seed holds the first half of the scores, so that only the others were relearned. Those who heard of all of them
/// hear of none again, and lose none.
#[test]
fn who_takes_relearned_arms_over_tells_nothing_twice() {
    let mut running = shared("a");
    learn(&mut running, &low(40), false);
    let heard = running.take_delta().unwrap().transfer;
    assert_ne!(heard, TransferDelta::default());
    let mut relearned = learner();
    learn(&mut relearned, &low(20), false);
    let known = relearned.common.transfer;
    running.replace_arms(relearned);
    assert_eq!(running.common.transfer, known);
    let (told, learned) = told_and_learned(&mut running);
    assert_eq!(told, learned);
    assert_ne!(told, TransferDelta::default());
}

#[test]
fn who_takes_a_saved_state_over_tells_nothing_of_what_it_holds() {
    let mut before = learner();
    learn(&mut before, &low(40), false);
    let mut restarted = shared("a");
    restarted.load(&before.save().unwrap()).unwrap();
    assert_eq!(restarted.common.transfer, before.common.transfer);
    assert_ne!(restarted.common.transfer, Transfer::default());
    let (told, learned) = told_and_learned(&mut restarted);
    assert_eq!(told, learned);
    assert_ne!(told, TransferDelta::default());
}

#[test]
fn who_takes_a_saved_state_over_tells_what_it_learns_from_then_on_and_no_more() {
    let mut before = learner();
    learn(&mut before, &low(40), false);
    before.clock = 500;
    let mut restarted = shared("a");
    restarted.load(&before.save().unwrap()).unwrap();
    assert_eq!(
        restarted.take_delta(),
        None,
        "it holds 40 scores and 500 rounds, and saw none"
    );
    learn(&mut restarted, &low(3), false);
    let told = restarted
        .take_delta()
        .expect("what is learned after the load is told");
    assert_eq!((told.rounds, told.arms.len()), (0, 1));
    // Another replica with the same state knows the same once it has heard it.
    let mut other = shared("b");
    other.load(&before.save().unwrap()).unwrap();
    other.merge(&told).unwrap();
    let known = |learner: &ContextualLearner| learner.arm(&arm(0)).map(ArmModel::rewards);
    assert_eq!((known(&restarted), known(&other)), (Some(43), Some(43)));
}

/// What is heard of a model before the configuration has it does not take its family and price from it: it starts from
/// them as it would have, with what was heard on top, also over a restart.
#[test]
fn what_was_heard_of_first_starts_from_its_price_all_the_same() {
    let learner = || {
        let mut seed = SeedBuilder::default();
        for turn in 0..20 {
            let features = [1.0, if turn % 2 == 0 { 1.0 } else { -1.0 }];
            seed.add(&LabelledOutcome {
                model: "other",
                category: None,
                contexts: Contexts {
                    text: Some(&features),
                    embedding: None,
                    words: &[],
                },
                reward: 0.5,
                length: None,
                cost_usd: None,
            });
        }
        let seed = seed.build(&SeedSettings::default(), BTreeMap::new());
        let learning = LearningSettings {
            forgetting: 1.0,
            ..LearningSettings::default()
        };
        ContextualLearner::new(learning, [Some(2), None], BTreeMap::new(), Some(Arc::new(seed)))
    };
    let facts = [(0, 1e-4), (1, 1e-1)].map(|(index, typical_cost_usd)| ArmFacts {
        id: arm(index),
        family: String::new(),
        typical_cost_usd,
    });
    let one = Seen {
        arm: 1,
        ..low(1)[0].clone()
    };
    let mut teller = learner();
    teller.share_as("a", 1);
    learn(&mut teller, &[one.clone(), one], true);
    let delta = teller.take_delta().unwrap();

    let mut usual = learner();
    usual.ensure_arms(&facts);
    usual.merge(&delta).unwrap();
    let mut early = learner();
    early.share_as("b", 1);
    early.merge(&delta).unwrap();
    let saved = early.save().unwrap();
    let apart = |a: &ContextualLearner, b: &ContextualLearner| {
        let (a, b) = (means(a), means(b));
        assert_eq!(a.len(), b.len());
        a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
    };
    let before = means(&early);
    early.ensure_arms(&facts);
    assert!(
        (before[0] - means(&early)[3]).abs() > 0.01,
        "its price tells something"
    );
    assert!(
        apart(&usual, &early) < 1e-5,
        "{:?} {:?}",
        means(&usual),
        means(&early)
    );
    assert_eq!(early.take_delta(), None, "what was heard is not told again");
    // A restart with a state from before the configuration had it.
    let mut restarted = learner();
    restarted.ensure_arms(&facts);
    restarted.load(&saved).unwrap();
    assert!(apart(&usual, &restarted) < 1e-5);
    let mut later = learner();
    later.load(&saved).unwrap();
    later.ensure_arms(&facts);
    assert!(apart(&usual, &later) < 1e-5);
}

#[test]
fn a_stamp_is_first_once_whatever_the_order() {
    let stamp = |epoch, sequence| Stamp {
        replica: "a".to_owned(),
        epoch,
        sequence,
    };
    let mut heard = Heard::default();
    let order = [
        (1, 2),
        (1, 1),
        (2, 1),
        (1, 2),
        (1, 3),
        (2, 1),
        (1, 5),
        (1, 4),
        (1, 5),
    ];
    let first: Vec<bool> = order
        .iter()
        .map(|&(epoch, sequence)| heard.first(&stamp(epoch, sequence)))
        .collect();
    assert_eq!(first, [true, true, true, false, true, false, true, true, false]);
    assert_eq!(
        heard.0["a"][&1],
        (5, BTreeSet::new()),
        "a whole run takes no room"
    );
}
