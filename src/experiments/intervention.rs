//! What people may do to an experiment by hand.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::definition::{Definition, Origin};
use super::engine::Experiments;
use super::event::EventKind;
use super::life::{exclusion, replacement};
use super::table::Ruling;
use super::view::Phase;
use crate::units::UnixMs;

/// What somebody may do to an experiment by hand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "action")]
pub enum Intervention {
    /// End it; the control stays. Of one that left a model out for a drift: never ask about it again.
    Stop,
    /// End it and ship this arm, whatever the figures say.
    Ship {
        /// Name of the arm.
        arm: String,
    },
    /// Take back what was shipped or excluded, for good. Of an automatic experiment that shipped: leave its treatment out.
    Undo,
}

/// Why an intervention is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InterventionError {
    /// No such experiment.
    #[error("there is no experiment {name:?}; GET /v1/experiments lists them")]
    Unknown {
        /// What was asked for.
        name: String,
    },
    /// It is over.
    #[error("the experiment {name:?} is over; only \"undo\" can be asked of it")]
    Over {
        /// Which.
        name: String,
    },
    /// No such arm.
    #[error("the experiment {name:?} has no arm {arm:?}; its arms are {arms}")]
    Arm {
        /// Which.
        name: String,
        /// What was asked for.
        arm: String,
        /// What there is.
        arms: String,
    },
    /// Nothing to take back.
    #[error("the experiment {name:?} changed nothing that could be undone")]
    NothingToUndo {
        /// Which.
        name: String,
    },
}

impl Experiments {
    /// Does what somebody asks.
    ///
    /// # Errors
    /// If there is no such experiment or it does not allow that.
    pub fn intervene(
        &mut self,
        name: &str,
        intervention: &Intervention,
        reason: &str,
        now: UnixMs,
    ) -> Result<(), InterventionError> {
        if let Some(index) = self.waiting.iter().position(|waiting| waiting.name == name) {
            if *intervention == Intervention::Stop {
                let waiting = self.waiting.remove(index);
                self.asked_by_hand(&waiting, false, now);
                self.overridden(name, intervention, reason, now);
                return Ok(());
            }
            return Err(InterventionError::NothingToUndo {
                name: name.to_owned(),
            });
        }
        let unknown = || InterventionError::Unknown {
            name: name.to_owned(),
        };
        let index = self
            .records
            .iter()
            .position(|record| record.definition.name == name)
            .ok_or_else(unknown)?;
        let record = &self.records[index];
        let definition = Arc::clone(&record.definition);
        let over = record.ended.is_some();
        match intervention {
            Intervention::Undo => {
                let record = &mut self.records[index];
                record.ruling = match record.ruling.take() {
                    None => {
                        return Err(InterventionError::NothingToUndo {
                            name: name.to_owned(),
                        });
                    }
                    // Nothing was ruled out or replaced: the treatment is, from now on.
                    Some(Ruling::Adopt { .. }) => exclusion(&record.definition),
                    Some(_) => None,
                };
                record.phase = Phase::Undone;
                self.generation += 1;
                self.ask_no_more(name, now);
            }
            // Left out for good.
            Intervention::Stop if over && self.ask_no_more(name, now) => {}
            _ if over => {
                return Err(InterventionError::Over {
                    name: name.to_owned(),
                });
            }
            Intervention::Stop => {
                self.end(index, Phase::Stopped, now);
                self.asked_by_hand(&definition, false, now);
            }
            Intervention::Ship { arm } => {
                let variants = &definition.variants;
                let Some(shipped) = variants.iter().position(|(known, _)| known == arm) else {
                    let arms: Vec<&str> = variants.iter().map(|(known, _)| known.as_str()).collect();
                    return Err(InterventionError::Arm {
                        name: name.to_owned(),
                        arm: arm.clone(),
                        arms: arms.join(", "),
                    });
                };
                self.records[index].ruling = replacement(&definition, shipped);
                self.end(index, Phase::Shipped { arm: shipped }, now);
                self.asked_by_hand(&definition, shipped > 0, now);
            }
        }
        self.overridden(name, intervention, reason, now);
        Ok(())
    }

    /// Somebody has answered what a retrial asks: the model is let in, or left out for good.
    fn asked_by_hand(&mut self, retrial: &Definition, well: bool, now: UnixMs) {
        if retrial.origin != Origin::Retrial {
            return;
        }
        if let Some(name) = self.left_out_by(retrial) {
            self.ask_no_more(&name, now);
            if well {
                self.lift(&name, Phase::Undone);
            }
        }
    }

    fn overridden(&mut self, name: &str, intervention: &Intervention, reason: &str, now: UnixMs) {
        let intervention = match intervention {
            Intervention::Stop => "stop".to_owned(),
            Intervention::Ship { arm } => format!("ship {arm}"),
            Intervention::Undo => "undo".to_owned(),
        };
        self.log(
            now,
            name,
            EventKind::Overridden {
                intervention,
                reason: reason.to_owned(),
            },
        );
    }
}
