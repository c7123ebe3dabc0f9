//! What was spent beside what always using one model would have cost. Which model that is shows late, so the sums are
//! kept for every model that was ever to choose from.

use crate::arm::ArmId;
use crate::report::log::Reference;
use crate::store::DecisionRow;
use crate::units::Usd;

/// Dollars on the same requests: spent, and what one arm would have cost.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Pair {
    pub(super) spent: Usd,
    pub(super) baseline: Usd,
}

/// The sums of a stretch of time, by the arms' places in [`Baselines`].
#[derive(Clone, Debug, Default)]
pub(super) struct Sums(Vec<Pair>);

impl Sums {
    pub(super) fn of(&self, place: usize) -> Pair {
        self.0.get(place).copied().unwrap_or_default()
    }

    /// Adds up two stretches.
    pub(super) fn join(&mut self, other: &Self) {
        for (place, pair) in other.0.iter().enumerate() {
            self.add(place, *pair);
        }
    }

    pub(super) fn add(&mut self, place: usize, pair: Pair) {
        if self.0.len() <= place {
            self.0.resize(place + 1, Pair::default());
        }
        self.0[place].spent += pair.spent;
        self.0[place].baseline += pair.baseline;
    }
}

/// The arms that were to choose from, and which of them is expected to be the best: by the routing report's rule.
#[derive(Clone, Debug, Default)]
pub(super) struct Baselines {
    arms: Vec<ArmId>,
    reference: Reference,
}

impl Baselines {
    /// Takes in a decision; what each candidate was expected to cost, by its place. One candidate is no choice.
    pub(super) fn decided(&mut self, row: &DecisionRow) -> Vec<(usize, Usd)> {
        if row.candidates.len() < 2 {
            return Vec::new();
        }
        self.reference.observe(&row.candidates);
        let mut costs = Vec::with_capacity(row.candidates.len());
        for candidate in &row.candidates {
            let known = self.arms.iter().position(|arm| *arm == candidate.arm);
            let place = known.unwrap_or_else(|| {
                self.arms.push(candidate.arm.clone());
                self.arms.len() - 1
            });
            costs.push((place, candidate.cost));
        }
        costs
    }

    pub(super) fn is(&self, place: usize, arm: &ArmId) -> bool {
        self.arms.get(place) == Some(arm)
    }

    /// The best, with its place.
    pub(super) fn best(&self) -> Option<(usize, &ArmId)> {
        let best = self.reference.best()?;
        self.arms.iter().position(|arm| arm == best).zip(Some(best))
    }
}
