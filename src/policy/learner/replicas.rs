//! Replicas that learn together: each tells the others what it has observed since it last did, and counts what it hears
//! once.
//!
//! A [`Delta`] holds sums, so that it does not matter in which order replicas hear them. It is known by who made it:
//! the replica's name, its epoch (another one after each start) and its number in that epoch.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{ContextualLearner, DriftEvent, KEPT_AT_ALARM};
use crate::arm::ArmId;
use crate::policy::View;
use crate::policy::arm_model::ArmDelta;
use crate::policy::transfer::{Transfer, TransferDelta};

/// Who made a delta.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Stamp {
    /// The replica's name.
    pub replica: String,
    /// Its start: a number that no earlier start had.
    pub epoch: u64,
    /// Number of the delta within the epoch, from 1.
    pub sequence: u64,
}

/// What a replica has observed since its last delta.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Delta {
    /// Who made it.
    pub stamp: Stamp,
    /// The projections that the sums belong to: they never cross versions.
    pub view_versions: BTreeMap<View, String>,
    /// Rounds decided meanwhile.
    pub rounds: u64,
    /// By arm.
    pub arms: BTreeMap<ArmId, ArmDelta>,
    /// Of what arms borrow.
    #[serde(default)]
    pub transfer: TransferDelta,
}

/// Why a delta was not merged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MergeError {
    /// It has been merged before.
    #[error("delta {sequence} of {replica} (epoch {epoch}) has been merged before")]
    Duplicate {
        /// The replica.
        replica: String,
        /// Its epoch.
        epoch: u64,
        /// The delta's number.
        sequence: u64,
    },
    /// It is this replica's own.
    #[error("a replica does not merge its own deltas")]
    Own,
    /// Its sums belong to other projections.
    #[error("{replica} learns on other projections: run the same models on every replica")]
    OtherFeatures {
        /// The replica.
        replica: String,
    },
}

/// Which deltas were merged: all of an epoch up to a number, and some beyond it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heard(BTreeMap<String, BTreeMap<u64, (u64, BTreeSet<u64>)>>);

impl Heard {
    /// Notes a delta; false when it was noted before.
    pub fn first(&mut self, stamp: &Stamp) -> bool {
        let epochs = self.0.entry(stamp.replica.clone()).or_default();
        let (through, beyond) = epochs.entry(stamp.epoch).or_default();
        if stamp.sequence <= *through || !beyond.insert(stamp.sequence) {
            return false;
        }
        while beyond.remove(&(*through + 1)) {
            *through += 1;
        }
        true
    }
}

/// This learner as one of several.
#[derive(Clone, Debug)]
pub(super) struct Replica {
    replica: String,
    epoch: u64,
    sequence: u64,
    /// Value of the clock at the last delta, and what was added to it by merging since.
    clock: u64,
    merged: u64,
    /// What was known of borrowed priors at the last delta, and what was added to that by merging since.
    transfer: Transfer,
}

impl ContextualLearner {
    /// Learns together with others from now on, under a name that none of them has and an epoch that this name never had.
    pub fn share_as(&mut self, replica: &str, epoch: u64) {
        for arm in &mut self.arms {
            Arc::make_mut(arm).keep_account();
        }
        self.replica = Some(Replica {
            replica: replica.to_owned(),
            epoch,
            sequence: 0,
            clock: self.clock,
            merged: 0,
            transfer: self.common.transfer,
        });
    }

    /// Goes on from what is known elsewhere of what new arms start from; others have been told of it, or learn it as this
    /// learner did.
    pub(super) fn adopt(&mut self, transfer: Transfer) {
        self.common.transfer = transfer;
        if let Some(replica) = &mut self.replica {
            replica.transfer = transfer;
        }
    }

    /// What was observed here since the last delta. `None` when that is nothing, or when it does not learn with others.
    pub fn take_delta(&mut self) -> Option<Delta> {
        let replica = self.replica.as_mut()?;
        let rounds = self.clock - replica.clock - replica.merged;
        let mut arms = BTreeMap::new();
        for (name, arm) in self.names.iter().zip(&mut self.arms) {
            if let Some(delta) = Arc::make_mut(arm).take_delta() {
                arms.insert(name.clone(), delta);
            }
        }
        if rounds == 0 && arms.is_empty() {
            return None;
        }
        replica.sequence += 1;
        (replica.clock, replica.merged) = (self.clock, 0);
        let transfer = self.common.transfer.since(&replica.transfer);
        replica.transfer = self.common.transfer;
        Some(Delta {
            stamp: Stamp {
                replica: replica.replica.clone(),
                epoch: replica.epoch,
                sequence: replica.sequence,
            },
            view_versions: self.view_versions.clone(),
            rounds,
            arms,
            transfer,
        })
    }

    /// Adds what another replica has observed, as if it had been observed here.
    ///
    /// # Errors
    /// When it was added before, is this replica's own, or belongs to other projections; nothing changes then.
    pub fn merge(&mut self, delta: &Delta) -> Result<(), MergeError> {
        let stamp = &delta.stamp;
        if self
            .replica
            .as_ref()
            .is_some_and(|own| own.replica == stamp.replica)
        {
            return Err(MergeError::Own);
        }
        if delta.view_versions != self.view_versions {
            return Err(MergeError::OtherFeatures {
                replica: stamp.replica.clone(),
            });
        }
        if !self.heard.first(stamp) {
            return Err(MergeError::Duplicate {
                replica: stamp.replica.clone(),
                epoch: stamp.epoch,
                sequence: stamp.sequence,
            });
        }
        self.clock += delta.rounds;
        if let Some(replica) = &mut self.replica {
            replica.merged += delta.rounds;
            replica.transfer.merge(&delta.transfer);
        }
        self.common.transfer.merge(&delta.transfer);
        let mut changed = false;
        for (name, theirs) in &delta.arms {
            let index = self.index_of(name);
            let model = Arc::make_mut(&mut self.arms[index]);
            if let Some(change) = model.merge(theirs, self.clock, &self.common.settings) {
                let level = model.drift_level();
                model.doubt(KEPT_AT_ALARM);
                self.doubted_at = Some(self.clock);
                self.alarms += 1;
                self.events.push(DriftEvent {
                    arm: name.clone(),
                    change,
                    level,
                });
                changed = true;
            }
        }
        if changed {
            let names: Vec<String> = self.routes.keys().cloned().collect();
            names.iter().for_each(|name| self.solve(name));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::policy::arm_model::LearningSettings;
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
        let one = (0usize..2, -1.0f32..1.0, 0usize..3, 0.0f64..=1.0).prop_map(
            |(arm, feature, category, reward)| Seen {
                arm,
                feature,
                category,
                reward,
            },
        );
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
}
