//! What an arm has observed since a moment, as sums that another replica adds to its own.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{ArmModel, DISPERSION_GAIN, LearningSettings, MOST_CATEGORIES};
use crate::policy::View;
use crate::policy::drift::Change;
use crate::policy::linear::{Linear, LinearDelta};

/// Sums over the observations of one arm. The weights' sums merge exactly; so do the categories' offsets. The level of
/// the drift takes the mean residual as one observation with the noise of a mean.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ArmDelta {
    views: [Option<LinearDelta>; 2],
    length: Option<LinearDelta>,
    sums: Sums,
    categories: BTreeMap<String, CategorySums>,
}

/// Plain sums over rewards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Sums {
    rewards: u64,
    reward: f64,
    /// Squared errors relative to their expected variance, as the dispersion counts them.
    squared: f64,
    /// Rewards that were in time for the drift: how many, their residuals, their noise and what was open.
    timely: f64,
    residual: f64,
    noise: f64,
    /// What the weights and the offsets left open.
    #[serde(default)]
    open: f64,
    calls: u64,
}

/// A category's prompts, and (prompts + shrinkage) times its offset, less what it began with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct CategorySums {
    prompts: f64,
    mass: f64,
}

/// One reward as the drift takes it.
pub(super) struct Timely {
    /// Reward less what the slow weights and the category expect.
    pub(super) residual: f64,
    /// Variance of the reward.
    pub(super) noise: f64,
    /// Variance of what is expected, beside the level's.
    pub(super) open: f64,
}

/// One reward as the account takes it.
pub(super) struct Learned<'a> {
    pub(super) reward: f64,
    pub(super) squared: f64,
    /// What the drift took in; `None` when it came too late.
    pub(super) drift: Option<Timely>,
    pub(super) category: Option<&'a str>,
    /// What it was worth to the category's offset.
    pub(super) category_weight: f64,
    /// Reward less what the slow weights and the level expect.
    pub(super) rest: f64,
}

impl ArmModel {
    /// Keeps account of what is observed from now on.
    pub fn keep_account(&mut self) {
        for linear in self.views.iter_mut().flatten() {
            linear.keep_account();
        }
        if let Some((_, head)) = &mut self.length {
            head.keep_account();
        }
        self.account = Some(Box::default());
    }

    pub(super) fn note(&mut self, learned: &Learned<'_>) {
        let Some(account) = &mut self.account else { return };
        let sums = &mut account.sums;
        sums.rewards += 1;
        sums.reward += learned.reward;
        sums.squared += learned.squared;
        if let Some(timely) = &learned.drift {
            sums.timely += 1.0;
            sums.residual += timely.residual;
            sums.noise += timely.noise;
            sums.open += timely.open;
        }
        if let Some(name) = learned.category
            && (account.categories.len() < MOST_CATEGORIES || account.categories.contains_key(name))
        {
            let category = account.categories.entry(name.to_owned()).or_default();
            category.prompts += learned.category_weight;
            category.mass += learned.category_weight * learned.rest;
        }
    }

    pub(super) fn note_call(&mut self) {
        if let Some(account) = &mut self.account {
            account.sums.calls += 1;
        }
    }

    /// What was observed since the account was begun or last taken; it goes on from nothing. `None` when nothing was.
    pub fn take_delta(&mut self) -> Option<ArmDelta> {
        let mut delta = std::mem::take(&mut **self.account.as_mut()?);
        delta.views = [0, 1].map(|view| self.views[view].as_mut().and_then(Linear::take_delta));
        delta.length = self.length.as_mut().and_then(|(_, head)| head.take_delta());
        (delta != ArmDelta::default()).then_some(delta)
    }

    /// Adds what another replica has observed of the same arm. Returns the change that the drift alarm found, if any.
    pub fn merge(&mut self, delta: &ArmDelta, clock: u64, settings: &LearningSettings) -> Option<Change> {
        for view in View::ALL {
            if let (Some(theirs), Some(own)) = (&delta.views[view.index()], &mut self.views[view.index()]) {
                own.merge(theirs);
            }
        }
        if let (Some(theirs), Some((_, head))) = (&delta.length, &mut self.length) {
            head.merge(theirs);
        }
        for (name, theirs) in &delta.categories {
            self.merge_offset(name, theirs.prompts, theirs.mass);
        }
        let sums = &delta.sums;
        self.calls += sums.calls;
        if sums.rewards == 0 {
            return None;
        }
        let count = sums.rewards as f64;
        // An average that forgets, after as many equal steps.
        let moved = |gain: f64| 1.0 - (1.0 - gain).powf(count);
        self.dispersion += moved(DISPERSION_GAIN) * (sums.squared / count - self.dispersion);
        self.dispersion = self.dispersion.clamp(0.05, 1.5);
        self.rewards += sums.rewards;
        let gain = 1.0 / (self.rewards as f64).clamp(20.0, 1000.0);
        self.mean_quality += moved(gain) * (sums.reward / count - self.mean_quality);
        if sums.timely == 0.0 {
            return None;
        }
        // The noise of a mean of n is a n-th of their mean noise.
        let noise = sums.noise / (sums.timely * sums.timely);
        // What is open is so for all of them alike.
        let (residual, open) = (sums.residual / sums.timely, sums.open / sums.timely);
        self.drift.step(residual, noise, open, clock, &settings.drift)
    }
}
