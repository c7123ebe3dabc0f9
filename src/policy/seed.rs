//! What is known of arms before the first request: sufficient statistics from recorded outcomes.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::gathered::{ByModel, Common, Gathered, PARTS, around_prior, common, nothing, part};
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
    /// Precision of a model's weights around the weights that all models share, in unit observations. `None`: chosen
    /// by cross-validation within the seed where the best models answered the same prompts, else 512. Models differ far
    /// less in what they are good at than in how good they are, but how much less is a matter of the prompts.
    pub ridge: Option<f64>,
    /// The same for its intercept.
    pub intercept_ridge: f64,
    /// Precision of the common weights around zero.
    pub common_ridge: f64,
    /// A seed never counts for more prompts than this. Less than were seen makes what is learned on the way, from the
    /// prompts that a router gave to a model, outweigh the better evidence of prompts that every model answered.
    pub most_prompts: f64,
    /// Prompts of no effect that each category's offset is shrunk by, toward what the category means to all models.
    pub category_shrinkage: f64,
}

impl Default for SeedSettings {
    fn default() -> Self {
        Self {
            category_shrinkage: 2.0 * CATEGORY_SHRINKAGE,
            ridge: None,
            intercept_ridge: 1.0,
            common_ridge: 2.0,
            most_prompts: 20_000.0,
        }
    }
}

/// Precision of a model's weights where there is nothing to choose it by.
pub(super) const RIDGE: f64 = 512.0;
/// Prompts of no effect that a category's offset is shrunk by.
pub const CATEGORY_SHRINKAGE: f64 = 8.0;
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

#[derive(Clone, Debug, Default)]
struct Sums {
    parts: [Gathered; PARTS],
    length: Option<(View, LinearPrior)>,
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
        let sums = self.sums.entry(outcome.model.to_owned()).or_default();
        sums.parts[part(&outcome.contexts)].add(outcome);
        sums.reward_squares += outcome.reward * outcome.reward;
        if let Some(cost) = outcome.cost_usd {
            sums.cost += cost;
            sums.costs += 1.0;
        }
        if sums.length.is_none() {
            sums.length = View::ALL
                .into_iter()
                .find_map(|view| Some((view, nothing(outcome.contexts.of(view)?))));
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
        let all = self.gather(|_| true);
        let shared: BTreeMap<View, (Common, f64)> = View::ALL
            .into_iter()
            .filter_map(|view| {
                let common = common(view, &all, settings)?;
                let ridge = settings
                    .ridge
                    .unwrap_or_else(|| super::shrinkage::choose(self, view, settings));
                Some((view, (common, ridge)))
            })
            .collect();
        let empty = Gathered::default();
        let arms = self
            .sums
            .iter()
            .map(|(model, sums)| {
                let gathered = all.get(model.as_str()).unwrap_or(&empty);
                fit(model, (sums, gathered), &shared, settings, around)
            })
            .collect();
        Seed {
            format: SEED_FORMAT,
            view_versions,
            arms,
            learned: Vec::new(),
            digest: 0,
        }
    }

    /// Each model's sums over the parts that `keep` names.
    pub(super) fn gather(&self, keep: impl Fn(usize) -> bool) -> ByModel<'_> {
        let one = |sums: &Sums| {
            let mut whole = Gathered::default();
            let parts = sums.parts.iter().enumerate();
            parts
                .filter(|(part, _)| keep(*part))
                .for_each(|(_, own)| whole.pool(own, 1.0));
            whole
        };
        self.sums
            .iter()
            .map(|(model, sums)| (model.as_str(), one(sums)))
            .collect()
    }
}

fn fit(
    model: &str,
    (sums, own): (&Sums, &Gathered),
    shared: &BTreeMap<View, (Common, f64)>,
    settings: &SeedSettings,
    around: &dyn Fn(&str, View) -> Option<Vec<f64>>,
) -> ArmSeed {
    let mean = own.reward / own.prompts;
    let factor = (settings.most_prompts / own.prompts).min(1.0);
    let mut quality = BTreeMap::new();
    let mut categories = BTreeMap::new();
    for (view, evidence) in own.quality.iter().rev() {
        let Some((common, ridge)) = shared.get(view) else {
            continue;
        };
        let toward = match around(model, *view).filter(|known| known.len() == common.dimensions()) {
            Some(known) => LinearPrior::with_intercept(&known, settings.intercept_ridge, *ridge),
            None => common.around(own, *ridge, settings),
        };
        let fitted = around_prior(*view, own, &toward, common, settings);
        // The fit is that of all prompts; only its firmness is bounded.
        let held = evidence.scaled_plus(factor, &toward);
        if let (Some((prior, mut offsets)), Some(held)) = (fitted, held)
            && let Some(weights) = prior.mean()
        {
            quality.insert(*view, held.centred(&weights));
            offsets.values_mut().for_each(|known| known.prompts *= factor);
            // The first view's offsets hold: both are close, and one set serves all views.
            categories = offsets;
        }
    }
    let variance = (sums.reward_squares / own.prompts - mean * mean).max(0.0);
    ArmSeed {
        model: model.to_owned(),
        family: String::new(),
        prompts: own.prompts as u64,
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

    /// What a model without a seed is worth to learn of each that has one: its relatives (same family) most, and those
    /// near in price.
    fn kinship(arm: &ArmSeed, family: &str, cost_usd: f64) -> f64 {
        let kin = if !family.is_empty() && arm.family == family {
            3.0
        } else {
            1.0
        };
        let tiers = if arm.mean_cost_usd > 0.0 && cost_usd > 0.0 {
            (arm.mean_cost_usd / cost_usd).ln().abs()
        } else {
            3.0
        };
        kin * (-tiers).exp()
    }

    /// A prior for a model without a seed: the mean weights of the others, each by its kinship, drawn half of the way to
    /// their mean quality. Of what other sources tell between prompts a third to a half holds on a new one.
    #[must_use]
    pub fn relatives(
        &self,
        family: &str,
        cost_usd: f64,
        view: View,
        dimensions: usize,
    ) -> Option<LinearPrior> {
        let mut sum = vec![0.0; dimensions];
        let (mut level, mut total) = (0.0, 0.0);
        for arm in &self.arms {
            let prior = arm.quality.get(&view);
            let Some(prior) = prior.filter(|prior| prior.dimensions() == dimensions) else {
                continue;
            };
            let weight = Self::kinship(arm, family, cost_usd);
            let mean = prior.mean()?;
            sum.iter_mut().zip(mean).for_each(|(sum, w)| *sum += weight * w);
            level += weight * arm.mean_quality;
            total += weight;
        }
        if total <= 0.0 {
            return None;
        }
        sum.iter_mut().for_each(|weight| *weight *= BORROWED / total);
        *sum.first_mut()? += (1.0 - BORROWED) * level / total;
        Some(LinearPrior::with_intercept(
            &sum,
            RELATIVES_PRECISION,
            RELATIVES_SHAPE,
        ))
    }
}

/// Share of what other models tell between prompts that a new one is expected to have.
const BORROWED: f64 = 0.5;
/// Observations that the level and the shape of a prior borrowed from relatives count for. Of scores that vary by .2
/// around their mean, three say as little as a level that may be off by .26.
const RELATIVES_PRECISION: f64 = 3.0;
const RELATIVES_SHAPE: f64 = 400.0;

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
            ridge: Some(8.0),
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
        let firm = SeedSettings {
            ridge: Some(512.0),
            ..SeedSettings::default()
        };
        let firm = builder.build(&firm, BTreeMap::new());
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
    fn a_category_of_which_a_model_saw_little_means_to_it_what_it_means_to_all() {
        let mut builder = SeedBuilder::default();
        let mut add = |model, category, reward, times| {
            for _ in 0..times {
                builder.add(&LabelledOutcome {
                    category: Some(category),
                    ..outcome(model, &[1.0], reward)
                });
            }
        };
        for model in ["a", "b", "c"] {
            add(model, "easy", 0.9, 100);
        }
        for model in ["a", "b"] {
            add(model, "hard", 0.1, 100);
        }
        add("c", "hard", 0.1, 2);
        let seed = builder.build(&SeedSettings::default(), BTreeMap::new());
        let gap = |model: &str| {
            let categories = &seed.of(model).unwrap().categories;
            categories["easy"].offset - categories["hard"].offset
        };
        // Two answers alone, shrunk by sixteen toward nothing, would leave the third model a ninth of the gap.
        assert!(gap("a") > 0.6, "{}", gap("a"));
        assert!(gap("c") > 0.5, "{}", gap("c"));
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
