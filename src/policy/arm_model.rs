//! Everything learned of one arm.

mod carry;
mod delta;
mod lesson;
mod offsets;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::drift::{Drift, DriftSettings};
use super::linear::Linear;
use super::lognormal::{Asked, LogNormal};
use super::prompt_cache::PromptCache;
use super::seed::{ArmSeed, CATEGORY_SHRINKAGE, CategorySeed, Seed, Traits, flat_prior};
use super::transfer::Transfer;
use super::word_weights::WordWeights;
use super::{Contexts, UsageSample, View};

pub use delta::ArmDelta;

/// Variance of a reward is at least this share of the dispersion: a mean near 0 or 1 is never certain.
const LEAST_SPREAD: f64 = 0.02;
/// Weight of one reward in the running dispersion.
const DISPERSION_GAIN: f64 = 0.005;
/// Precision of the prior of an arm of which nothing at all is known.
const UNKNOWN_PRECISION: f64 = 4.0;

/// Categories that an arm keeps apart.
const MOST_CATEGORIES: usize = 256;

/// What a call costs beside what was expected, squared and in logarithms, before any was seen; the calls that this
/// counts for; and the latest calls that are remembered.
const fn unknown_cost_error() -> f64 {
    0.25
}
const COST_ERROR_CALLS: f64 = 10.0;
const COST_ERROR_MEMORY: f64 = 300.0;
/// 99.5 % quantile of a standard normal number.
const UPPER_NORMAL: f64 = 2.576;

/// How arms learn.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LearningSettings {
    /// Forgetting of the slow weights per observation of the arm, in (0,1].
    pub forgetting: f64,
    /// The fast part.
    pub drift: DriftSettings,
    /// The view that scores, when it is there.
    pub preferred: View,
}

impl Default for LearningSettings {
    fn default() -> Self {
        Self {
            forgetting: 0.9999,
            drift: DriftSettings::default(),
            preferred: View::Text,
        }
    }
}

/// What all arms of a learner have in common.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Common {
    /// How they learn.
    pub settings: LearningSettings,
    /// How far those of which nothing was recorded lie above what they start from.
    pub transfer: Transfer,
}

impl From<LearningSettings> for Common {
    fn from(settings: LearningSettings) -> Self {
        Self {
            settings,
            transfer: Transfer::default(),
        }
    }
}

/// Expected quality and its uncertainty.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Estimate {
    /// Slow weights plus the drift's level.
    pub mean: f64,
    /// Variance of the mean that the weights leave.
    pub weights_variance: f64,
    /// Variance of the level.
    pub drift_variance: f64,
}

/// Statistics of one arm: slow weights per view, the level that all views share, the length of its answers, and
/// the correction of token counts.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ArmModel {
    views: [Option<Linear>; 2],
    drift: Drift,
    /// What a category adds, shrunk toward nothing: the table beside the weights.
    categories: BTreeMap<String, CategorySeed>,
    dispersion: f64,
    /// Quality where no view is there.
    mean_quality: f64,
    length: Option<(View, LogNormal)>,
    #[serde(default)]
    prompt_cache: PromptCache,
    /// Mean squared logarithm of what a call cost over what was expected of it.
    #[serde(default = "unknown_cost_error")]
    cost_error: f64,
    /// Whether nothing recorded told its level when it began.
    #[serde(default)]
    unknown: bool,
    rewards: u64,
    calls: u64,
    /// What was observed since it was last told to other replicas, where there are some.
    #[serde(skip)]
    account: Option<Box<ArmDelta>>,
}

/// Length of each view's feature vectors; `None` for a view that is not in use.
pub type Dimensions = [Option<usize>; 2];

impl ArmModel {
    /// From a model's own seed where the seed has one, else from its relatives, else flat.
    #[must_use]
    pub fn new(
        id: &str,
        traits: &Traits<'_>,
        seed: Option<&Seed>,
        dimensions: Dimensions,
        settings: &LearningSettings,
    ) -> Self {
        let own = seed.and_then(|seed| seed.of(id));
        let views = View::ALL.map(|view| {
            let width = dimensions[view.index()]?;
            let of_own = own
                .and_then(|arm| arm.quality.get(&view).cloned())
                .filter(|prior| prior.dimensions() == width);
            let prior = of_own
                .or_else(|| seed?.relatives(traits, view, width))
                .map_or_else(|| flat_prior(width, UNKNOWN_PRECISION), Arc::new);
            Linear::new(prior, settings.forgetting)
        });
        let length = own.and_then(|arm| {
            let length = arm.length.as_ref()?;
            if dimensions[length.view.index()]? != length.weights.dimensions() {
                return None;
            }
            let weights = Arc::new(length.weights.clone());
            let head = LogNormal::new(weights, length.variance, settings.forgetting)?;
            Some((length.view, head))
        });
        Self {
            views,
            drift: Drift::default(),
            categories: own.map_or_else(BTreeMap::new, |arm| arm.categories.clone()),
            dispersion: own.map_or(0.5, |arm| arm.dispersion),
            mean_quality: own.map_or(0.5, |arm| arm.mean_quality),
            length,
            prompt_cache: PromptCache::default(),
            cost_error: unknown_cost_error(),
            unknown: own.is_none(),
            rewards: 0,
            calls: 0,
            account: None,
        }
    }

    /// Expected quality of this arm for a context at `clock` (the count of requests). The variance of the weights
    /// is left at 0 unless `with_variance`: it is what costs time.
    #[must_use]
    pub fn estimate(
        &self,
        contexts: &Contexts<'_>,
        category: Option<&str>,
        clock: u64,
        common: &Common,
        with_variance: bool,
    ) -> Estimate {
        let settings = &common.settings;
        let drift_variance = self.drift.variance_at(clock, &settings.drift);
        let level = self.drift.level_at(clock, &settings.drift);
        let of_weights = |_: View, linear: &Linear, features: &[f32]| {
            if with_variance {
                linear.variance(features)
            } else {
                0.0
            }
        };
        let Some((mean, variance)) = self.scored(contexts, settings, of_weights) else {
            return Estimate {
                mean: self.mean_quality + self.offset(category) + level,
                weights_variance: self.noise_variance(self.mean_quality) / (self.rewards as f64 + 10.0),
                drift_variance,
            };
        };
        let mean = mean + self.correction(&common.transfer) + self.offset(category) + level;
        let weights_variance = if with_variance {
            self.noise_variance(mean) * variance
        } else {
            0.0
        };
        Estimate {
            mean,
            weights_variance,
            drift_variance,
        }
    }

    /// Variance that the weights leave in the expected quality `mean`, exactly: it is what costs time.
    #[must_use]
    pub fn weights_variance(&self, contexts: &Contexts<'_>, mean: f64, settings: &LearningSettings) -> f64 {
        let of_weights = |_: View, linear: &Linear, features: &[f32]| linear.variance(features);
        match self.scored(contexts, settings, of_weights) {
            Some((_, variance)) => self.noise_variance(mean) * variance,
            None => self.noise_variance(self.mean_quality) / (self.rewards as f64 + 10.0),
        }
    }

    /// An upper bound of the weights' variance that costs nothing, for features of at most this squared length in each view.
    #[must_use]
    pub fn variance_bound(
        &self,
        contexts: &Contexts<'_>,
        squared_length: f32,
        settings: &LearningSettings,
    ) -> f64 {
        let (mut views, mut deviation) = (0.0, 0.0);
        for (_, linear, _) in self.scoring(contexts, settings) {
            views += 1.0;
            deviation += linear.variance_bound(squared_length).sqrt();
        }
        if views > 0.0 {
            0.25 * self.dispersion * f64::powi(deviation / views, 2)
        } else {
            0.25
        }
    }

    /// The views that score: the text view alone where it is preferred, else all that are there, by their mean. One view
    /// is better for some prompts and the other for others, and the mean of both is no worse than the transformer alone on
    /// any recorded source.
    fn scoring<'a>(
        &'a self,
        contexts: &Contexts<'a>,
        settings: &LearningSettings,
    ) -> impl Iterator<Item = (View, &'a Linear, &'a [f32])> + use<'a> {
        let known = |view: View, features: Option<&'a [f32]>| {
            let linear = self.views[view.index()].as_ref()?;
            features
                .filter(|features| features.len() == linear.dimensions())
                .map(|features| (view, linear, features))
        };
        let text = known(View::Text, contexts.text);
        let alone = settings.preferred == View::Text && text.is_some();
        let embedding = known(View::Embedding, contexts.embedding).filter(|_| !alone);
        text.into_iter().chain(embedding)
    }

    /// The scoring views' expectation, and its variance for noise of variance 1 as `variance` tells it of each: as if their
    /// errors were the same. `None` where no view is there.
    fn scored<'a>(
        &'a self,
        contexts: &Contexts<'a>,
        settings: &LearningSettings,
        variance: impl Fn(View, &Linear, &[f32]) -> f64,
    ) -> Option<(f64, f64)> {
        let (mut views, mut mean, mut deviation) = (0.0, 0.0, 0.0);
        for (view, linear, features) in self.scoring(contexts, settings) {
            views += 1.0;
            mean += linear.mean(features);
            deviation += variance(view, linear, features).sqrt();
        }
        (views > 0.0).then(|| (mean / views, (deviation / views).powi(2)))
    }

    /// What the weights' expectation is off by as far as is known from all arms that were unknown when they began.
    fn correction(&self, transfer: &Transfer) -> f64 {
        if self.unknown { transfer.mean() } else { 0.0 }
    }

    /// Variance of one reward around the mean m: phi max(m (1 - m), 0.02), with phi learned. Scores in \[0,1\]
    /// cannot vary by more than m (1 - m), so an arm that always answers well is watched closely.
    #[must_use]
    pub fn noise_variance(&self, mean: f64) -> f64 {
        self.dispersion * most_spread(mean)
    }

    /// Learns from usage: lengths of answers, in the `words` that all arms share too.
    pub fn learn_usage(
        &mut self,
        sample: &UsageSample<'_>,
        settings: &LearningSettings,
        words: &mut WordWeights,
    ) {
        self.calls += 1;
        self.note_call();
        if let (Some(input), Some((read, written))) = (sample.input_tokens, sample.cached_tokens) {
            self.prompt_cache
                .learn(input, read, written, sample.prefix_tokens);
        }
        if sample.ends_request && sample.expected_cost_usd > 0.0 && sample.cost_usd > 0.0 {
            let error = (sample.cost_usd / sample.expected_cost_usd).ln().clamp(-3.0, 3.0);
            let gain = 1.0 / (COST_ERROR_CALLS + self.calls as f64).min(COST_ERROR_MEMORY);
            self.cost_error += gain * (error * error - self.cost_error);
        }
        let Some(tokens) = sample.output_tokens.filter(|&tokens| tokens > 0) else {
            return;
        };
        if self.length.is_none() {
            self.length = sample.contexts.best_of(View::Text).and_then(|(view, features)| {
                let mut base = vec![0.0; features.len()];
                *base.first_mut()? = (tokens as f64).ln();
                let prior = super::linear::LinearPrior::around(&base, 2.0);
                Some((view, LogNormal::new(Arc::new(prior), 0.5, settings.forgetting)?))
            });
        }
        if let Some((view, head)) = &mut self.length
            && let Some(features) = sample.contexts.of(*view)
        {
            let asked = Asked {
                features,
                category: sample.category,
                words: sample.contexts.words,
            };
            head.learn(&asked, tokens as f64, words);
        }
    }

    /// Expected tokens of an answer, once known, with the `words` that all arms share.
    #[must_use]
    pub fn output_tokens(
        &self,
        contexts: &Contexts<'_>,
        category: Option<&str>,
        words: &WordWeights,
    ) -> Option<f64> {
        let (view, head) = self.length.as_ref()?;
        let asked = Asked {
            features: contexts.of(*view)?,
            category,
            words: contexts.words,
        };
        (asked.features.len() == head.dimensions()).then(|| head.expect(&asked, words))
    }

    /// Standard deviation of the logarithm of an answer's length around what is expected, once known.
    #[must_use]
    pub fn output_spread(&self) -> Option<f64> {
        self.length.as_ref().map(|(_, head)| head.spread())
    }

    /// How many times its expected cost a call of this arm may well come to: the 99.5 % quantile of a log-normal whose
    /// mean is what is expected, exp(z s - s^2 / 2).
    #[must_use]
    pub fn surprise(&self) -> f64 {
        let spread = self.cost_error.sqrt();
        (UPPER_NORMAL * spread - 0.5 * self.cost_error).exp().max(1.0)
    }

    /// What the provider reads from its prompt cache.
    #[must_use]
    pub const fn prompt_cache(&self) -> &PromptCache {
        &self.prompt_cache
    }

    /// The provider has put a new snapshot behind the same name: half of what was observed is kept, and the level
    /// is open again.
    pub fn renew(&mut self, settings: &LearningSettings) {
        for linear in self.views.iter_mut().flatten() {
            linear.forget(0.5);
        }
        self.drift.unsettle(&settings.drift);
    }

    /// An alarm says that the arm is not what it was taken for: only the share `kept` of what its weights rest on counts
    /// on, seed and observations alike, so that a wrong seed is soon overruled. The weights stay where they are.
    pub fn doubt(&mut self, kept: f64) {
        for linear in self.views.iter_mut().flatten() {
            linear.discount(kept);
        }
    }

    /// Solves exactly where that is due. Off the request's path.
    pub fn refresh_if_due(&mut self) {
        for linear in self.views.iter_mut().flatten() {
            if linear.needs_refresh() {
                linear.refresh();
            }
        }
    }

    /// Whether nothing recorded told its level when it began.
    #[must_use]
    pub const fn is_unknown(&self) -> bool {
        self.unknown
    }

    /// Rewards learned.
    #[must_use]
    pub const fn rewards(&self) -> u64 {
        self.rewards
    }

    /// Present level of the drift, in quality points.
    #[must_use]
    pub const fn drift_level(&self) -> f64 {
        self.drift.level()
    }

    /// Length of the feature vectors that the statistics of each view belong to.
    #[must_use]
    pub fn dimensions(&self) -> Dimensions {
        [0, 1].map(|view| self.views[view].as_ref().map(Linear::dimensions))
    }
}

/// The largest variance of a score in \[0,1\] around `mean`, and not less than what leaves a doubt.
fn most_spread(mean: f64) -> f64 {
    let mean = mean.clamp(0.0, 1.0);
    (mean * (1.0 - mean)).max(LEAST_SPREAD)
}

/// Whether a seed has this very model.
#[must_use]
pub fn is_seeded(seed: Option<&Seed>, id: &str) -> bool {
    seed.and_then(|seed| seed.of(id))
        .is_some_and(|arm: &ArmSeed| arm.prompts > 0)
}

#[cfg(test)]
mod tests;
