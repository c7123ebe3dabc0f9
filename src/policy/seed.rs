//! What is known of arms before the first request: sufficient statistics from recorded outcomes.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::linear::LinearPrior;
use super::{Contexts, View};

/// Version of the seed's file format.
pub const SEED_FORMAT: u32 = 1;

/// Priors of known models, as trained and shipped, or as learned from a user's own log.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Seed {
    /// [`SEED_FORMAT`].
    pub format: u32,
    /// Version of the projection of each view that the statistics belong to.
    pub view_versions: BTreeMap<View, String>,
    /// One entry a model.
    pub arms: Vec<ArmSeed>,
    /// The logs that some of the arms were fitted from, and how far each was read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub learned: Vec<LogMark>,
    /// Tells one seed from another: set by whoever reads the file.
    #[serde(skip)]
    pub digest: u64,
}

/// A place in a decision log up to which a seed has learned from it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogMark {
    /// The log's name.
    pub log: String,
    /// The last entry of the feedback log that was learned.
    pub feedback_seq: i64,
    /// The last entry of the attempt log that was learned.
    pub attempt_seq: i64,
    /// The last entry of the log of late embeddings that was learned.
    pub late_seq: i64,
    /// The models that were fitted from it.
    pub arms: Vec<String>,
}

/// Why a seed cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SeedError {
    /// Not what training writes.
    #[error("{0}")]
    Unreadable(String),
    /// Written by another release.
    #[error("it has format {0}, this release reads {SEED_FORMAT}")]
    Format(u32),
    /// Numbers that no training writes.
    #[error("the prior of {0} is damaged")]
    Damaged(String),
}

/// Prior of one model.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ArmSeed {
    /// The model's name: an arm's model part, or its whole id.
    pub model: String,
    /// Family, for new relatives.
    #[serde(default)]
    pub family: String,
    /// Labelled prompts behind it.
    pub prompts: u64,
    /// Mean reward.
    pub mean_quality: f64,
    /// Mean dollars of a call at the recorded prices; 0 when unknown.
    pub mean_cost_usd: f64,
    /// Reward noise relative to m (1 - m).
    pub dispersion: f64,
    /// Weights of the reward, per view.
    pub quality: BTreeMap<View, LinearPrior>,
    /// What each category adds to the weights' prediction, with the prompts behind it.
    #[serde(default)]
    pub categories: BTreeMap<String, CategorySeed>,
    /// Weights of the logarithm of the answer's length, with its residual variance.
    pub length: Option<LengthSeed>,
}

/// What a category adds to the prediction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CategorySeed {
    /// Quality points, already shrunk.
    pub offset: f64,
    /// Labelled prompts behind it.
    pub prompts: f64,
}

/// Prior of the length of an answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LengthSeed {
    /// The view whose features explain it.
    pub view: View,
    /// Weights of ln(tokens).
    pub weights: LinearPrior,
    /// Residual variance of ln(tokens).
    pub variance: f64,
}

/// How strongly seeds bind.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SeedSettings {
    /// Precision of a model's weights around the weights that all models share, in unit observations. Models differ
    /// far less in what they are good at than in how good they are.
    pub ridge: f64,
    /// The same for its intercept.
    pub intercept_ridge: f64,
    /// Precision of the common weights around zero.
    pub common_ridge: f64,
    /// A seed never counts for more prompts than this.
    pub most_prompts: f64,
    /// Prompts of no effect that each category's offset is shrunk by.
    pub category_shrinkage: f64,
}

impl Default for SeedSettings {
    fn default() -> Self {
        Self {
            category_shrinkage: CATEGORY_SHRINKAGE,
            ridge: 512.0,
            intercept_ridge: 1.0,
            common_ridge: 2.0,
            most_prompts: 1000.0,
        }
    }
}

/// Prompts of no effect that a category's offset is shrunk by.
pub const CATEGORY_SHRINKAGE: f64 = 8.0;
/// Turns between weights and offsets: the joint solution to well within its own error.
const BACKFITTING: usize = 4;

/// One labelled outcome.
#[derive(Clone, Copy, Debug)]
pub struct LabelledOutcome<'a> {
    /// The model's name.
    pub model: &'a str,
    /// The prompt's category, if it has one.
    pub category: Option<&'a str>,
    /// The prompt's features.
    pub contexts: Contexts<'a>,
    /// Quality in [0,1].
    pub reward: f64,
    /// Tokens of the answer, or another positive size that the price multiplies.
    pub length: Option<f64>,
    /// Recorded dollars.
    pub cost_usd: Option<f64>,
}

/// Sums over one category's prompts: count, rewards, features.
#[derive(Clone, Debug, Default)]
struct CategorySums {
    prompts: f64,
    reward: f64,
    features: BTreeMap<View, Vec<f64>>,
}

#[derive(Clone, Debug)]
struct Sums {
    categories: BTreeMap<String, CategorySums>,
    quality: BTreeMap<View, LinearPrior>,
    length: Option<(View, LinearPrior)>,
    prompts: f64,
    reward: f64,
    reward_squares: f64,
    cost: f64,
    costs: f64,
    log_length: f64,
    log_length_squares: f64,
    lengths: f64,
}

/// Collects outcomes and fits seeds. Every model is shrunk toward the weights that all models share, so that few
/// labels of one model borrow the shape of the others.
#[derive(Clone, Debug, Default)]
pub struct SeedBuilder {
    sums: BTreeMap<String, Sums>,
}

impl SeedBuilder {
    /// Adds one outcome. Rewards outside \[0,1\] and non-finite ones are left out.
    pub fn add(&mut self, outcome: &LabelledOutcome<'_>) {
        if !(0.0..=1.0).contains(&outcome.reward) {
            return;
        }
        let nothing = |view: View| {
            outcome
                .contexts
                .of(view)
                .map(|features| (view, LinearPrior::around(&vec![0.0; features.len()], 0.0)))
        };
        let sums = self.sums.entry(outcome.model.to_owned()).or_insert_with(|| Sums {
            categories: BTreeMap::new(),
            quality: View::ALL.into_iter().filter_map(nothing).collect(),
            length: View::ALL.into_iter().find_map(nothing),
            prompts: 0.0,
            reward: 0.0,
            reward_squares: 0.0,
            cost: 0.0,
            costs: 0.0,
            log_length: 0.0,
            log_length_squares: 0.0,
            lengths: 0.0,
        });
        sums.prompts += 1.0;
        sums.reward += outcome.reward;
        sums.reward_squares += outcome.reward * outcome.reward;
        if let Some(cost) = outcome.cost_usd {
            sums.cost += cost;
            sums.costs += 1.0;
        }
        if let Some(category) = outcome.category {
            sums.categories
                .entry(category.to_owned())
                .or_default()
                .add(outcome);
        }
        for (view, prior) in &mut sums.quality {
            if let Some(features) = outcome.contexts.of(*view)
                && features.len() == prior.dimensions()
            {
                prior.add(features, outcome.reward, 1.0);
            }
        }
        if let (Some(length), Some((view, prior))) = (outcome.length.filter(|&l| l > 0.0), &mut sums.length)
            && let Some(features) = outcome.contexts.of(*view)
            && features.len() == prior.dimensions()
        {
            let log = length.ln();
            prior.add(features, log, 1.0);
            sums.log_length += log;
            sums.log_length_squares += log * log;
            sums.lengths += 1.0;
        }
    }

    /// Fits the seeds.
    #[must_use]
    pub fn build(&self, settings: &SeedSettings, view_versions: BTreeMap<View, String>) -> Seed {
        self.build_around(settings, view_versions, &|_, _| None)
    }

    /// The same, where the weights of a model are shrunk toward those that `around` gives for it and a view, instead of
    /// toward the weights that all models share.
    #[must_use]
    pub fn build_around(
        &self,
        settings: &SeedSettings,
        view_versions: BTreeMap<View, String>,
        around: &dyn Fn(&str, View) -> Option<Vec<f64>>,
    ) -> Seed {
        let common: BTreeMap<View, Vec<f64>> = View::ALL
            .into_iter()
            .filter_map(|view| Some((view, self.common_weights(view, settings)?)))
            .collect();
        let arms = self
            .sums
            .iter()
            .map(|(model, sums)| fit(model, sums, &common, settings, around))
            .collect();
        Seed {
            format: SEED_FORMAT,
            view_versions,
            arms,
            learned: Vec::new(),
            digest: 0,
        }
    }

    /// Weights of the mean reward over all models, its intercept moved to a mean of 0: the shape of difficulty.
    fn common_weights(&self, view: View, settings: &SeedSettings) -> Option<Vec<f64>> {
        let mut pooled: Option<LinearPrior> = None;
        for sums in self.sums.values() {
            let own = sums.quality.get(&view)?;
            let empty = LinearPrior::around(&vec![0.0; own.dimensions()], 0.0);
            pooled = own.scaled_plus(1.0 / self.sums.len() as f64, &pooled.unwrap_or(empty));
        }
        let pooled = pooled?;
        let ridge = LinearPrior::around(&vec![0.0; pooled.dimensions()], settings.common_ridge);
        let mut weights = pooled.scaled_plus(1.0, &ridge)?.mean()?;
        let arms = self.sums.values();
        let (prompts, reward) = arms.fold((0.0, 0.0), |(n, r), sums| (n + sums.prompts, r + sums.reward));
        if let Some(intercept) = weights.first_mut() {
            *intercept -= reward / f64::max(prompts, 1.0);
        }
        Some(weights)
    }
}

impl CategorySums {
    fn add(&mut self, outcome: &LabelledOutcome<'_>) {
        self.prompts += 1.0;
        self.reward += outcome.reward;
        for view in View::ALL {
            if let Some(features) = outcome.contexts.of(view) {
                let sums = self
                    .features
                    .entry(view)
                    .or_insert_with(|| vec![0.0; features.len()]);
                sums.iter_mut()
                    .zip(features)
                    .for_each(|(sum, &x)| *sum += f64::from(x));
            }
        }
    }

    /// Shrunk mean of the rewards less what the weights explain.
    fn offset(&self, view: View, weights: &[f64], shrinkage: f64) -> f64 {
        let explained: f64 = match self.features.get(&view) {
            Some(features) => features.iter().zip(weights).map(|(x, w)| x * w).sum(),
            None => return 0.0,
        };
        (self.reward - explained) / (self.prompts + shrinkage)
    }
}

/// The weights of a view beside the categories' offsets, by turns: the weights explain what the offsets leave, and
/// the offsets what the weights leave (backfitting, which converges to the joint ridge solution).
fn with_offsets(
    view: View,
    prior: &LinearPrior,
    categories: &BTreeMap<String, CategorySums>,
    shrinkage: f64,
) -> Option<(LinearPrior, BTreeMap<String, CategorySeed>)> {
    let mut own = prior.clone();
    let mut offsets = BTreeMap::new();
    for _ in 0..BACKFITTING {
        let weights = own.mean()?;
        own = prior.clone();
        for (name, sums) in categories {
            let offset = sums.offset(view, &weights, shrinkage);
            if let Some(features) = sums.features.get(&view) {
                own.shift(features, -offset);
            }
            let prompts = sums.prompts;
            offsets.insert(name.clone(), CategorySeed { offset, prompts });
        }
    }
    Some((own, offsets))
}

fn fit(
    model: &str,
    sums: &Sums,
    common: &BTreeMap<View, Vec<f64>>,
    settings: &SeedSettings,
    around: &dyn Fn(&str, View) -> Option<Vec<f64>>,
) -> ArmSeed {
    let mean = sums.reward / sums.prompts;
    let factor = (settings.most_prompts / sums.prompts).min(1.0);
    let mut quality = BTreeMap::new();
    let mut categories = BTreeMap::new();
    for (view, evidence) in sums.quality.iter().rev() {
        let Some(mut base) = common.get(view).cloned() else {
            continue;
        };
        let own = around(model, *view).filter(|own| own.len() == base.len());
        match (own, base.first_mut()) {
            (Some(own), _) => base = own,
            (None, Some(intercept)) => *intercept += mean,
            (None, None) => {}
        }
        let around = LinearPrior::with_intercept(&base, settings.intercept_ridge, settings.ridge);
        let fitted = evidence
            .scaled_plus(1.0, &around)
            .and_then(|prior| with_offsets(*view, &prior, &sums.categories, settings.category_shrinkage));
        if let Some((prior, mut offsets)) = fitted {
            // The fit is that of all prompts; only its firmness is bounded.
            quality.insert(*view, prior.scaled(factor));
            offsets.values_mut().for_each(|known| known.prompts *= factor);
            // The first view's offsets hold: both are close, and one set serves all views.
            categories = offsets;
        }
    }
    let variance = (sums.reward_squares / sums.prompts - mean * mean).max(0.0);
    ArmSeed {
        model: model.to_owned(),
        family: String::new(),
        prompts: sums.prompts as u64,
        mean_quality: mean,
        mean_cost_usd: if sums.costs > 0.0 {
            sums.cost / sums.costs
        } else {
            0.0
        },
        dispersion: (variance / (mean * (1.0 - mean)).max(0.01)).clamp(0.05, 1.0),
        quality,
        categories,
        length: sums
            .length
            .as_ref()
            .and_then(|(view, evidence)| length_seed(*view, evidence, sums, settings)),
    }
}

/// Shrinks the weights of ln(length) toward its mean, and takes the residual variance from
/// sum (y - w.x)^2 = sum y^2 - w . b at the solution.
fn length_seed(
    view: View,
    evidence: &LinearPrior,
    sums: &Sums,
    settings: &SeedSettings,
) -> Option<LengthSeed> {
    if sums.lengths < 1.0 {
        return None;
    }
    let mean = sums.log_length / sums.lengths;
    let mut base = vec![0.0; evidence.dimensions()];
    *base.first_mut()? = mean;
    let ridge = LinearPrior::around(&base, settings.common_ridge);
    let weights = evidence.scaled_plus((settings.most_prompts / sums.lengths).min(1.0), &ridge)?;
    let explained: f64 = weights
        .mean()?
        .iter()
        .zip(evidence.information())
        .map(|(weight, information)| weight * information)
        .sum();
    let variance = (sums.log_length_squares - explained) / sums.lengths;
    Some(LengthSeed {
        view,
        weights,
        variance: variance.clamp(0.01, 4.0),
    })
}

impl ArmSeed {
    fn is_usable(&self) -> bool {
        let share = |number: f64| (0.0..=1.0).contains(&number);
        let offsets = self.categories.values();
        share(self.mean_quality)
            && (0.0..1e6).contains(&self.mean_cost_usd)
            && (0.0..1e3).contains(&self.dispersion)
            && self.quality.values().all(LinearPrior::is_usable)
            && offsets
                .clone()
                .all(|known| known.offset.abs() <= 2.0 && known.prompts >= 0.0)
            && self
                .length
                .as_ref()
                .is_none_or(|length| length.weights.is_usable() && (0.0..1e3).contains(&length.variance))
    }
}

impl Seed {
    /// Reads a seed from the bytes of its file.
    ///
    /// # Errors
    /// When they are not a seed, or hold what cannot be.
    pub fn parse(bytes: &[u8]) -> Result<Self, SeedError> {
        let mut seed: Self =
            serde_json::from_slice(bytes).map_err(|error| SeedError::Unreadable(error.to_string()))?;
        seed.check()?;
        seed.digest = xxh3_64(bytes);
        Ok(seed)
    }

    /// Whether every number in it can be: a file that was altered is refused as a whole.
    ///
    /// # Errors
    /// Another format, or an arm whose prior cannot be solved.
    pub fn check(&self) -> Result<(), SeedError> {
        if self.format != SEED_FORMAT {
            return Err(SeedError::Format(self.format));
        }
        match self.arms.iter().find(|arm| !arm.is_usable()) {
            Some(arm) => Err(SeedError::Damaged(arm.model.clone())),
            None => Ok(()),
        }
    }

    /// The seed of a model: by its whole id, by the part after the provider, or by the longest name that one is a
    /// dated form of the other (`gpt-4o-mini` and `gpt-4o-mini-2024-07-18`).
    #[must_use]
    pub fn of(&self, id: &str) -> Option<&ArmSeed> {
        let model = id.split_once('/').map_or(id, |(_, model)| model);
        let named = |name: &str| self.arms.iter().find(|arm| arm.model == name);
        named(id).or_else(|| named(model)).or_else(|| {
            self.arms
                .iter()
                .filter(|arm| {
                    let name = arm.model.rsplit('/').next().unwrap_or(&arm.model);
                    let own = model.rsplit('/').next().unwrap_or(model);
                    name == own || dated(own, name) || dated(name, own)
                })
                .max_by_key(|arm| arm.model.len())
        })
    }

    /// A prior for a model without a seed: the mean weights of its relatives (same family) or, failing these, of
    /// the models nearest in price, with the precision of ten observations.
    #[must_use]
    pub fn relatives(
        &self,
        family: &str,
        cost_usd: f64,
        view: View,
        dimensions: usize,
    ) -> Option<LinearPrior> {
        let fits = |arm: &&ArmSeed| {
            arm.quality
                .get(&view)
                .is_some_and(|prior| prior.dimensions() == dimensions)
        };
        let tier_distance = |arm: &ArmSeed| {
            if arm.mean_cost_usd > 0.0 && cost_usd > 0.0 {
                (arm.mean_cost_usd / cost_usd).ln().abs()
            } else {
                3.0
            }
        };
        let mut sum = vec![0.0; dimensions];
        let mut total = 0.0;
        for arm in self.arms.iter().filter(fits) {
            let kin = if !family.is_empty() && arm.family == family {
                3.0
            } else {
                1.0
            };
            let weight = kin * (-tier_distance(arm)).exp();
            let mean = arm.quality.get(&view).and_then(LinearPrior::mean)?;
            sum.iter_mut().zip(mean).for_each(|(sum, w)| *sum += weight * w);
            total += weight;
        }
        if total <= 0.0 {
            return None;
        }
        sum.iter_mut().for_each(|weight| *weight /= total);
        Some(LinearPrior::with_intercept(
            &sum,
            RELATIVES_PRECISION,
            RELATIVES_SHAPE,
        ))
    }
}

/// Observations that the level and the shape of a prior borrowed from relatives count for.
const RELATIVES_PRECISION: f64 = 10.0;
const RELATIVES_SHAPE: f64 = 100.0;

/// Whether `long` is `short` with a date or a release appended.
fn dated(long: &str, short: &str) -> bool {
    long.strip_prefix(short).is_some_and(|rest| {
        rest.starts_with('-') && rest[1..].chars().all(|c| c.is_ascii_digit() || c == '-')
            || rest == "-latest"
    })
}

/// A flat prior: quality about one half for every prompt, worth `precision` observations.
#[must_use]
pub fn flat_prior(dimensions: usize, precision: f64) -> Arc<LinearPrior> {
    let mut base = vec![0.0; dimensions];
    if let Some(intercept) = base.first_mut() {
        *intercept = 0.5;
    }
    Arc::new(LinearPrior::around(&base, precision))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome<'a>(model: &'a str, features: &'a [f32], reward: f64) -> LabelledOutcome<'a> {
        LabelledOutcome {
            model,
            category: None,
            contexts: Contexts {
                text: Some(features),
                embedding: None,
            },
            reward,
            length: Some(100.0),
            cost_usd: Some(0.01),
        }
    }

    #[test]
    fn a_seed_predicts_what_it_saw() {
        let mut builder = SeedBuilder::default();
        for turn in 0..200 {
            let features = [1.0, if turn % 2 == 0 { 1.0 } else { -1.0 }];
            // The good model always answers, the narrow one only where the feature is positive.
            builder.add(&outcome("good", &features, 1.0));
            builder.add(&outcome(
                "narrow",
                &features,
                if turn % 2 == 0 { 1.0 } else { 0.0 },
            ));
        }
        let loose = SeedSettings {
            ridge: 8.0,
            ..SeedSettings::default()
        };
        let seed = builder.build(&loose, BTreeMap::new());
        let weights = |model: &str| seed.of(model).unwrap().quality[&View::Text].mean().unwrap();
        let (good, narrow) = (weights("any/good"), weights("narrow"));
        assert!((good[0] - 1.0).abs() < 0.02 && good[1].abs() < 0.05, "{good:?}");
        assert!(
            (narrow[0] - 0.5).abs() < 0.02 && (narrow[1] - 0.5).abs() < 0.05,
            "{narrow:?}"
        );
        // Held firmly, what a model is good at stays nearer to what both share (0.25), and how good it is does not move.
        let firm = builder.build(&SeedSettings::default(), BTreeMap::new());
        let narrow = firm.of("narrow").unwrap().quality[&View::Text].mean().unwrap();
        // 0.25 + 0.25 * 200 / (200 + 512) = 0.32
        assert!(
            (narrow[0] - 0.5).abs() < 0.02 && (narrow[1] - 0.32).abs() < 0.02,
            "{narrow:?}"
        );
        let length = seed.of("good").unwrap().length.as_ref().unwrap();
        assert!((length.weights.mean().unwrap()[0] - 100.0_f64.ln()).abs() < 0.05);
    }

    #[test]
    fn names_match_with_and_without_provider_and_date() {
        let mut builder = SeedBuilder::default();
        builder.add(&outcome("gpt-4o-mini-2024-07-18", &[1.0], 0.5));
        builder.add(&outcome("gpt-4o", &[1.0], 0.5));
        let seed = builder.build(&SeedSettings::default(), BTreeMap::new());
        let found = |id: &str| seed.of(id).map(|arm| arm.model.as_str());
        assert_eq!(found("openai/gpt-4o-mini"), Some("gpt-4o-mini-2024-07-18"));
        assert_eq!(found("openai/gpt-4o-2024-08-06"), Some("gpt-4o"));
        assert_eq!(found("openai/gpt-4"), None);
    }
}
