//! What a score teaches an arm: each part of what was expected of it moves by its own share of the error.

use super::delta::{Learned, Timely};
use super::{ArmModel, Common, DISPERSION_GAIN, LearningSettings, most_spread};
use crate::policy::drift::Change;
use crate::policy::linear::{Linear, dot};
use crate::policy::{Contexts, Observation, View};

/// What was expected of an answer, part by part, with the variance that each part had.
struct Expectation {
    /// Of the weights, with what new arms are off by.
    slow: f64,
    /// Of the category.
    offset: f64,
    /// Of the drift.
    level: f64,
    /// Variance of one score.
    noise: f64,
    /// Variance of the weights' part and of the category's, for noise of variance 1.
    weights: f64,
    category: f64,
    /// Variance of the level.
    drift: f64,
}

impl Expectation {
    fn mean(&self) -> f64 {
        self.slow + self.offset + self.level
    }

    /// What one score is worth to the weights. One error is learned from once: what the other parts may be off by is
    /// noise to each (a Kalman filter whose covariance is kept by blocks).
    fn worth_to_weights(&self) -> f64 {
        self.noise / (self.noise * (1.0 + self.category) + self.drift)
    }

    /// The same for the category's offset.
    fn worth_to_offset(&self) -> f64 {
        self.noise / (self.noise * (1.0 + self.weights) + self.drift)
    }

    /// Variance of all but the level. Weights and offset are held as if scores varied as much as they can, not as much as
    /// they were seen to: of an arm whose scores are all alike the noise is next to nothing, and what it scores in another
    /// category is known no better for that.
    fn open(&self) -> f64 {
        most_spread(self.mean()) * (self.weights + self.category)
    }
}

impl ArmModel {
    /// Learns one reward. Returns the change that the drift alarm found, if any.
    pub fn learn(
        &mut self,
        observation: &Observation<'_>,
        clock: u64,
        common: &mut Common,
    ) -> Option<Change> {
        let (reward, weight) = (observation.reward, observation.weight);
        if let Some(old) = observation.revises {
            self.revise(observation, old.reward, old.weight, clock, common);
            return None;
        }
        let along = View::ALL.map(|view| {
            let features = observation.contexts.of(view)?;
            Some(self.views[view.index()].as_ref()?.along(features))
        });
        let expected = self.expect(observation, &along, clock, common);
        let settings = &common.settings;
        let error = reward - expected.mean();
        let timely = (!observation.late).then(|| Timely {
            residual: error + expected.level,
            noise: expected.noise / weight.max(0.01),
            open: expected.open(),
        });
        let change = timely.as_ref().and_then(|timely| {
            let Timely {
                residual,
                noise,
                open,
            } = *timely;
            self.drift.step(residual, noise, open, clock, &settings.drift)
        });
        let squared = (error * error / most_spread(expected.mean())).min(9.0);
        let gain = DISPERSION_GAIN * weight;
        self.dispersion = (self.dispersion + gain * (squared - self.dispersion)).clamp(0.05, 1.5);
        self.rewards += 1;
        self.mean_quality +=
            weight / (self.rewards as f64).clamp(20.0, 1000.0) * (reward - self.mean_quality);
        let apart = expected.offset + self.correction(&common.transfer);
        let target = reward - apart - self.drift.shift_at(clock, &settings.drift);
        for view in View::ALL {
            if let (Some(px), Some(features), Some(linear)) = (
                &along[view.index()],
                observation.contexts.of(view),
                &mut self.views[view.index()],
            ) {
                linear.update_along(px, features, target, weight * expected.worth_to_weights());
            }
        }
        let category_weight = weight * expected.worth_to_offset();
        self.note(&Learned {
            reward,
            squared,
            drift: timely,
            category: observation.category,
            category_weight,
            rest: error + expected.offset,
        });
        self.learn_offset(observation.category, error, category_weight);
        if self.unknown {
            let own = expected.noise * (expected.weights + expected.category) + expected.drift;
            common
                .transfer
                .learn(error, expected.noise / weight.max(0.01) + own);
        }
        change
    }

    /// `along`: where an observation would move each view's weights.
    fn expect(
        &self,
        observation: &Observation<'_>,
        along: &[Option<Vec<f32>>; 2],
        clock: u64,
        common: &Common,
    ) -> Expectation {
        let settings = &common.settings;
        let of_weights = |view: View, _: &Linear, features: &[f32]| {
            let along = along[view.index()].as_ref();
            along.map_or(0.0, |px| f64::from(dot(px, features).max(0.0)))
        };
        let scored = self.scored(&observation.contexts, settings, of_weights);
        let (slow, weights) = match scored {
            Some((mean, variance)) => (mean + self.correction(&common.transfer), variance),
            None => (self.mean_quality, 1.0 / (self.rewards as f64 + 10.0)),
        };
        let offset = self.offset(observation.category);
        let level = self.drift.level_at(clock, &settings.drift);
        Expectation {
            slow,
            offset,
            level,
            noise: self.noise_variance(slow + offset + level),
            weights,
            category: self.offset_variance(observation.category),
            drift: self.drift.variance_at(clock, &settings.drift),
        }
    }

    /// Moves the weights as an answer `shift` above what is expected would, without being a score.
    pub fn learn_signal(
        &mut self,
        contexts: &Contexts<'_>,
        category: Option<&str>,
        shift: f64,
        weight: f64,
        clock: u64,
        common: &Common,
    ) {
        let expected = self.estimate(contexts, category, clock, common, false).mean;
        let moved = (expected + shift).clamp(0.0, 1.0) - expected.clamp(0.0, 1.0);
        for view in View::ALL {
            if let (Some(features), Some(linear)) = (contexts.of(view), &mut self.views[view.index()]) {
                linear.update(features, linear.mean(features) + moved, weight);
            }
        }
    }

    pub(super) fn revise(
        &mut self,
        observation: &Observation<'_>,
        old: f64,
        old_weight: f64,
        clock: u64,
        common: &Common,
    ) {
        let settings = &common.settings;
        let worth = self.worth(observation, clock, settings);
        let (reward, weight) = (observation.reward, worth * observation.weight);
        let old_weight = worth * old_weight;
        // Taken back as it would be learned now: a target without the level would leave the level in the weights.
        let apart = self.offset(observation.category) + self.correction(&common.transfer);
        let rest = apart + self.drift.shift_at(clock, &settings.drift);
        for view in View::ALL {
            if let (Some(features), Some(linear)) =
                (observation.contexts.of(view), &mut self.views[view.index()])
            {
                if (old_weight - weight).abs() < 1e-9 {
                    linear.revise(features, old, reward, weight);
                } else {
                    linear.update(features, old - rest, -old_weight);
                    linear.update(features, reward - rest, weight);
                }
            }
        }
    }

    /// What a score is worth to the weights now.
    pub(super) fn worth(
        &self,
        observation: &Observation<'_>,
        clock: u64,
        settings: &LearningSettings,
    ) -> f64 {
        let noise = self.noise_variance(self.mean_quality);
        let drift = self.drift.variance_at(clock, &settings.drift);
        noise / (noise * (1.0 + self.offset_variance(observation.category)) + drift)
    }
}
