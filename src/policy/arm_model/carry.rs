//! What of an arm's statistics outlives new features, a new seed or a late embedding.

use super::{ArmModel, Common};
use crate::policy::transfer::Transfer;
use crate::policy::{Observation, View};

impl ArmModel {
    /// Takes over what `old` has observed, where its views in `kept` (by index) are still those here: the weights rest
    /// on the prior of this arm from now on, and the evidence is the old one's. Views that are not kept stay as they
    /// start, for statistics never cross versions; so does all that was measured against the text view.
    ///
    /// Of an arm that was unknown the weights have learned without what all new arms have in common. If it is known now,
    /// that is its own.
    pub fn carry(&mut self, old: &Self, kept: [bool; 2], transfer: &Transfer) {
        let apart = old.correction(transfer) - self.correction(transfer);
        let mut carried = false;
        for view in View::ALL {
            let index = view.index();
            let (Some(own), Some(before)) = (&mut self.views[index], &old.views[index]) else {
                continue;
            };
            let mut linear = before.clone();
            if kept[index] && linear.rebase(own.prior()) {
                linear.raise(apart);
                *own = linear;
                carried |= view == View::Text;
            }
        }
        self.prompt_cache = old.prompt_cache;
        self.cost_error = old.cost_error;
        self.calls = old.calls;
        if let Some((view, head)) = old.length.clone().filter(|(view, _)| kept[view.index()]) {
            match &mut self.length {
                Some((own_view, own)) if *own_view == view => {
                    let mut carried = head;
                    if carried.rebase(own) {
                        *own = carried;
                    }
                }
                Some(_) => {}
                None => self.length = Some((view, head)),
            }
        }
        self.keep_words(old);
        if carried {
            self.drift = old.drift;
            self.categories.clone_from(&old.categories);
            self.dispersion = old.dispersion;
            self.mean_quality = old.mean_quality;
            self.rewards = old.rewards;
        }
    }

    /// Takes over all that `old` has observed, under the same features: of an arm that was met before what it starts from
    /// was known. What is still to be told to other replicas is too.
    pub fn succeed(&mut self, old: &Self, transfer: &Transfer) {
        self.carry(old, [true; 2], transfer);
        self.account.clone_from(&old.account);
    }

    /// Takes over what words mean to the length of the answers of `old`, the same arm.
    pub fn keep_words(&mut self, old: &Self) {
        if let (Some((_, own)), Some((_, before))) = (&mut self.length, &old.length) {
            own.keep_words(before);
        }
    }

    /// Learns a reward on views that came after it was learned on the others: only their weights move.
    pub fn learn_late(&mut self, observation: &Observation<'_>, clock: u64, common: &Common) {
        if let Some(old) = observation.revises {
            self.revise(observation, old.reward, old.weight, clock, common);
            return;
        }
        let settings = &common.settings;
        let apart = self.offset(observation.category) + self.correction(&common.transfer);
        let target = observation.reward - apart - self.drift.shift_at(clock, &settings.drift);
        let weight = self.worth(observation, clock, settings) * observation.weight;
        for view in View::ALL {
            if let (Some(features), Some(linear)) =
                (observation.contexts.of(view), &mut self.views[view.index()])
            {
                linear.update(features, target, weight);
            }
        }
    }
}
