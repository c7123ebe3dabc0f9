//! What each candidate of a round is worth, and how sure that is.

use std::sync::Arc;

use super::Snapshot;
use crate::policy::arm_model::{ArmModel, Estimate};
use crate::policy::linear::dot;
use crate::policy::pmf::normal_quantile;
use crate::policy::route::RouteSettings;
use crate::policy::{ArmScore, Round, View};

/// Standard deviations beyond which an arm is not expected to win a race.
const REACH: f64 = 4.0;
/// Quality of an arm of which nothing is known.
const UNKNOWN_QUALITY: f64 = 0.5;

/// Candidates as scored: with the noise of their values, and the variance of their levels.
pub(super) struct Scored {
    pub(super) scores: Vec<ArmScore>,
    pub(super) sds: Vec<f64>,
    pub(super) levels: Vec<f64>,
}

impl Snapshot {
    /// Mean and drift of an arm, and a bound of its weights' variance that costs nothing.
    fn estimate(&self, model: Option<&ArmModel>, round: &Round<'_>, squared_length: f32) -> Estimate {
        let Some(model) = model else {
            return Estimate {
                mean: UNKNOWN_QUALITY,
                weights_variance: 0.05,
                drift_variance: self.common.settings.drift.max_variance,
            };
        };
        let known = model.estimate(&round.contexts, round.category, self.clock, &self.common, false);
        Estimate {
            weights_variance: model.variance_bound(&round.contexts, squared_length, &self.common.settings),
            ..known
        }
    }

    /// Means of every candidate, with the variance of those that could win (of all, if a floor or a reader asks for it).
    pub(super) fn score(&self, round: &Round<'_>, settings: &RouteSettings, lambda: f64) -> Scored {
        let known = self.routes.get(round.route).map(|view| &*view.levels);
        let floor = round.demands.quality_floor.or(settings.quality_floor);
        let squared = View::ALL
            .into_iter()
            .filter_map(|view| round.contexts.of(view))
            .map(|features| dot(features, features))
            .fold(1.0, f32::max);
        let noise = |weights: f64, (drift, level): (f64, f64)| {
            let level = settings.level_sd(drift, level);
            (settings.weights_noise.powi(2) * weights + level * level).sqrt()
        };
        let models: Vec<Option<&ArmModel>> = round
            .candidates
            .iter()
            .map(|candidate| self.arms.get(candidate.arm).map(Arc::as_ref))
            .collect();
        let mut scores = Vec::with_capacity(models.len());
        let mut sds = Vec::with_capacity(models.len());
        let mut levels = Vec::with_capacity(models.len());
        let mut least = f64::NEG_INFINITY;
        for (candidate, model) in round.candidates.iter().zip(&models) {
            let estimate = self.estimate(*model, round, squared);
            let late = (candidate.latency_ms / settings.latency_target_ms - 1.0).max(0.0);
            let latency_price = settings.latency_weight * late;
            let value = estimate.mean - lambda * candidate.cost_usd - latency_price;
            let level = known.and_then(|levels| levels.get(candidate.arm));
            let open = (estimate.drift_variance, level.copied().unwrap_or(0.0));
            let sd = noise(estimate.weights_variance, open);
            least = least.max(value - REACH * sd);
            scores.push(ArmScore {
                mean: estimate.mean,
                sd: (estimate.weights_variance + estimate.drift_variance).sqrt(),
                cost_usd: candidate.cost_usd,
                value,
                capable: true,
            });
            sds.push(sd);
            levels.push(open);
        }
        for (index, model) in models.iter().enumerate() {
            let score = &mut scores[index];
            if (floor.is_some() || round.demands.explain || score.value + REACH * sds[index] >= least)
                && let Some(model) = model
            {
                let weights = model.weights_variance(&round.contexts, score.mean, &self.common.settings);
                score.sd = (weights + levels[index].0).sqrt();
                sds[index] = noise(weights, levels[index]);
            }
        }
        if let Some(floor) = floor {
            let confidence = round.demands.confidence.unwrap_or(settings.confidence);
            let z = normal_quantile(confidence.clamp(0.5, 0.999_9));
            for score in &mut scores {
                score.capable = score.mean - z * score.sd >= floor;
            }
        }
        // An arm may be as much better as it may have become, and as its level is unknown.
        let level_noise = settings.level_noise.powi(2);
        let levels = levels
            .into_iter()
            .map(|(drift, level)| drift + level_noise * level);
        Scored {
            scores,
            sds,
            levels: levels.collect(),
        }
    }
}

/// The same scores where a dollar costs `more` quality points more.
pub(super) fn repriced(scores: &[ArmScore], more: f64) -> Vec<ArmScore> {
    let dearer = |score: &ArmScore| ArmScore {
        value: score.value - more * score.cost_usd,
        ..*score
    };
    scores.iter().map(dearer).collect()
}
