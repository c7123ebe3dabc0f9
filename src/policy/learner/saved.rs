//! What must outlive a restart.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{ContextualLearner, Heard};
use crate::arm::ArmId;
use crate::policy::View;
use crate::policy::arm_model::ArmModel;
use crate::policy::route::RouteMemory;
use crate::policy::signals::Calibration;
use crate::policy::transfer::Transfer;
use crate::policy::word_weights::WordWeights;

/// Version of the saved state's format.
const STATE_FORMAT: u32 = 1;

/// What is written to disk.
#[derive(Serialize, Deserialize)]
struct Saved {
    format: u32,
    view_versions: BTreeMap<View, String>,
    clock: u64,
    last_reward_seq: u64,
    last_usage_seq: u64,
    #[serde(default)]
    last_late_seq: u64,
    #[serde(default)]
    embedded: u64,
    /// Digest of the seed that the arms started from; 0 in states of earlier releases.
    #[serde(default)]
    seed: u64,
    arms: BTreeMap<ArmId, ArmModel>,
    routes: BTreeMap<String, RouteMemory>,
    #[serde(default)]
    signals: Calibration,
    #[serde(default)]
    heard: Heard,
    #[serde(default)]
    transfer: Transfer,
    #[serde(default)]
    unplaced: BTreeSet<ArmId>,
    /// Absent in states of earlier releases.
    #[serde(default)]
    words: Option<WordWeights>,
}

/// Why a saved state cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Not what [`ContextualLearner::save`] wrote.
    #[error("learned state is unreadable ({0}); move the file away to start from the seed prior")]
    Unreadable(#[from] serde_json::Error),
    /// Written by another release.
    #[error(
        "learned state has format {found}, this release reads {STATE_FORMAT}; move the file away to start from the seed prior"
    )]
    Format {
        /// The format found.
        found: u32,
    },
}

impl ContextualLearner {
    /// Everything that must outlive a restart, as JSON.
    ///
    /// # Errors
    /// Never for statistics that were learned here: they are finite numbers and strings.
    pub fn save(&self) -> Result<Vec<u8>, serde_json::Error> {
        let routes = self
            .routes
            .iter()
            .map(|(name, state)| (name.clone(), state.memory.clone()));
        serde_json::to_vec(&Saved {
            format: STATE_FORMAT,
            view_versions: self.view_versions.clone(),
            clock: self.clock,
            last_reward_seq: self.last_reward_seq,
            last_usage_seq: self.last_usage_seq,
            last_late_seq: self.last_late_seq,
            embedded: self.embedded,
            seed: self.seed.as_ref().map_or(0, |seed| seed.digest),
            arms: self
                .names
                .iter()
                .cloned()
                .zip(self.arms.iter().map(|arm| (**arm).clone()))
                .collect(),
            routes: routes.collect(),
            signals: self.signals,
            heard: self.heard.clone(),
            transfer: self.common.transfer,
            unplaced: self.unplaced.clone(),
            words: Some((*self.words).clone()),
        })
    }

    /// Takes a saved state up: arms and routes that it knows replace those here. A view whose statistics belong to
    /// another projection starts from the seed again. True when the state was saved under another seed, which then
    /// still lies under what was observed.
    ///
    /// # Errors
    /// When the bytes are not a saved state of this release; nothing changes then.
    pub fn load(&mut self, bytes: &[u8]) -> Result<bool, LoadError> {
        let saved: Saved = serde_json::from_slice(bytes)?;
        if saved.format != STATE_FORMAT {
            return Err(LoadError::Format { found: saved.format });
        }
        self.clock = saved.clock;
        self.tell_from_here();
        self.signals = saved.signals;
        self.heard = saved.heard;
        self.adopt(saved.transfer);
        if let Some(words) = saved.words {
            self.words = Arc::new(words);
        }
        (self.last_reward_seq, self.last_usage_seq) = (saved.last_reward_seq, saved.last_usage_seq);
        self.last_late_seq = saved.last_late_seq;
        let kept = self.kept_views(&saved.view_versions);
        if kept[View::Embedding.index()] {
            self.embedded = saved.embedded;
        }
        for (id, model) in saved.arms {
            let placed = !saved.unplaced.contains(&id);
            self.restore(id, model, kept, placed);
        }
        for (name, mut memory) in saved.routes {
            if !kept[View::Text.index()] {
                self.forget_verdicts(&name, &mut memory);
            }
            let state = self.routes.entry(name).or_default();
            state.memory = memory;
            state.stale = true;
        }
        self.solve_if_due();
        let own = self.seed.as_ref().map_or(0, |seed| seed.digest);
        Ok(saved.seed != 0 && saved.seed != own)
    }
}
