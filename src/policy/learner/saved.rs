//! What must outlive a restart.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::ContextualLearner;
use crate::arm::ArmId;
use crate::policy::View;
use crate::policy::arm_model::ArmModel;
use crate::policy::route::RouteMemory;
use crate::policy::signals::Calibration;

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
    arms: BTreeMap<ArmId, ArmModel>,
    routes: BTreeMap<String, RouteMemory>,
    #[serde(default)]
    signals: Calibration,
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
            arms: self
                .names
                .iter()
                .cloned()
                .zip(self.arms.iter().map(|arm| (**arm).clone()))
                .collect(),
            routes: routes.collect(),
            signals: self.signals,
        })
    }

    /// Takes a saved state up: arms and routes that it knows replace those here. Arms whose statistics belong to
    /// another projection start from the seed again.
    ///
    /// # Errors
    /// When the bytes are not a saved state of this release; nothing changes then.
    pub fn load(&mut self, bytes: &[u8]) -> Result<(), LoadError> {
        let saved: Saved = serde_json::from_slice(bytes)?;
        if saved.format != STATE_FORMAT {
            return Err(LoadError::Format { found: saved.format });
        }
        self.clock = saved.clock;
        self.signals = saved.signals;
        (self.last_reward_seq, self.last_usage_seq) = (saved.last_reward_seq, saved.last_usage_seq);
        if saved.view_versions == self.view_versions {
            for (id, model) in saved.arms {
                if model.dimensions() != self.dimensions {
                    continue;
                }
                match self.indices.get(&id) {
                    Some(&index) => self.arms[index] = Arc::new(model),
                    None => {
                        self.insert(id, model);
                    }
                }
            }
        }
        for (name, memory) in saved.routes {
            let state = self.routes.entry(name).or_default();
            state.memory = memory;
            state.stale = true;
        }
        self.solve_if_due();
        Ok(())
    }
}
