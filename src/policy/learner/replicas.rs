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

    /// The clock stands elsewhere: the rounds before it are not this replica's to tell of.
    pub(super) fn tell_from_here(&mut self) {
        if let Some(replica) = &mut self.replica {
            (replica.clock, replica.merged) = (self.clock, 0);
        }
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
#[path = "replicas_tests.rs"]
mod tests;
