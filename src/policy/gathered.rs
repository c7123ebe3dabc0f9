//! Sums over labelled outcomes, and the fit of one model's weights around what all models share.

use std::collections::BTreeMap;

use super::linear::LinearPrior;
use super::seed::{CATEGORY_SHRINKAGE, CategorySeed, LabelledOutcome, SeedSettings};
use super::{Contexts, View};

/// Turns between weights and offsets: the joint solution to well within its own error.
const BACKFITTING: usize = 4;

/// Sums over one category's prompts: count, rewards, features.
#[derive(Clone, Debug, Default)]
pub(super) struct CategorySums {
    pub(super) prompts: f64,
    pub(super) reward: f64,
    pub(super) features: BTreeMap<View, Vec<f64>>,
}

/// Sums over prompts, from which everything about quality is fitted.
#[derive(Clone, Debug, Default)]
pub(super) struct Gathered {
    pub(super) prompts: f64,
    pub(super) reward: f64,
    pub(super) quality: BTreeMap<View, LinearPrior>,
    pub(super) categories: BTreeMap<String, CategorySums>,
}

/// Parts that the prompts of a seed fall into, for cross-validation: those of one prompt into the same.
pub(super) const PARTS: usize = 4;

/// One model's sums by name.
pub(super) type ByModel<'a> = BTreeMap<&'a str, Gathered>;

pub(super) fn nothing(features: &[f32]) -> LinearPrior {
    LinearPrior::around(&vec![0.0; features.len()], 0.0)
}

/// The part that a prompt belongs to, by its features: FNV-1a (Fowler, Noll and Vo) over their bits.
pub(super) fn part(contexts: &Contexts<'_>) -> usize {
    let features = contexts
        .best_of(View::Text)
        .map_or(&[][..], |(_, features)| features);
    let hash = features.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, feature| {
        (hash ^ u64::from(feature.to_bits())).wrapping_mul(0x0100_0000_01b3)
    });
    ((hash >> 32) % PARTS as u64) as usize
}

impl Gathered {
    pub(super) fn add(&mut self, outcome: &LabelledOutcome<'_>) {
        self.prompts += 1.0;
        self.reward += outcome.reward;
        if let Some(category) = outcome.category {
            self.categories
                .entry(category.to_owned())
                .or_default()
                .add(outcome);
        }
        for view in View::ALL {
            if let Some(features) = outcome.contexts.of(view) {
                let prior = self.quality.entry(view).or_insert_with(|| nothing(features));
                if features.len() == prior.dimensions() {
                    prior.add(features, outcome.reward, 1.0);
                }
            }
        }
    }

    /// Adds `share` of another's sums.
    pub(super) fn pool(&mut self, other: &Self, share: f64) {
        self.prompts += share * other.prompts;
        self.reward += share * other.reward;
        for (view, own) in &other.quality {
            let so_far = self
                .quality
                .entry(*view)
                .or_insert_with(|| LinearPrior::around(&vec![0.0; own.dimensions()], 0.0));
            if let Some(sum) = own.scaled_plus(share, so_far) {
                *so_far = sum;
            }
        }
        for (name, own) in &other.categories {
            self.categories.entry(name.clone()).or_default().pool(own, share);
        }
    }
}

/// The fit of the mean reward over all models: the shape of difficulty.
pub(super) fn common(view: View, models: &ByModel<'_>, settings: &SeedSettings) -> Option<Common> {
    let share = 1.0 / models.len().max(1) as f64;
    let mut pooled = Gathered::default();
    models.values().for_each(|own| pooled.pool(own, share));
    let evidence = pooled.quality.get(&view)?;
    let ridge = LinearPrior::around(&vec![0.0; evidence.dimensions()], settings.common_ridge);
    let prior = evidence.scaled_plus(1.0, &ridge)?;
    let flat = BTreeMap::new();
    let (prior, offsets) = with_offsets(view, &prior, &pooled.categories, CATEGORY_SHRINKAGE, &flat)?;
    let mut weights = prior.mean()?;
    if let Some(intercept) = weights.first_mut() {
        *intercept -= pooled.reward / f64::max(pooled.prompts, 1e-9);
    }
    Some(Common { weights, offsets })
}

/// One model's weights and offsets around what all models share.
pub(super) fn around_common(
    view: View,
    own: &Gathered,
    shared: &Common,
    ridge: f64,
    settings: &SeedSettings,
) -> Option<(LinearPrior, BTreeMap<String, CategorySeed>)> {
    around_prior(view, own, &shared.around(own, ridge, settings), shared, settings)
}

/// The same around another prior of the weights.
pub(super) fn around_prior(
    view: View,
    own: &Gathered,
    prior: &LinearPrior,
    shared: &Common,
    settings: &SeedSettings,
) -> Option<(LinearPrior, BTreeMap<String, CategorySeed>)> {
    let prior = own.quality.get(&view)?.scaled_plus(1.0, prior)?;
    let shrinkage = settings.category_shrinkage;
    with_offsets(view, &prior, &own.categories, shrinkage, &shared.offsets)
}

/// What all models share: weights with the intercept moved to a mean of 0, and what each category adds.
#[derive(Clone, Debug)]
pub(super) struct Common {
    weights: Vec<f64>,
    offsets: BTreeMap<String, CategorySeed>,
}

impl Common {
    /// Length of the weights.
    pub(super) fn dimensions(&self) -> usize {
        self.weights.len()
    }

    /// The prior of a model's weights: its own mean, and the shape that all models share.
    pub(super) fn around(&self, own: &Gathered, ridge: f64, settings: &SeedSettings) -> LinearPrior {
        let mut base = self.weights.clone();
        if let Some(intercept) = base.first_mut() {
            *intercept += own.reward / own.prompts.max(1e-9);
        }
        LinearPrior::with_intercept(&base, settings.intercept_ridge, ridge)
    }
}

impl CategorySums {
    pub(super) fn add(&mut self, outcome: &LabelledOutcome<'_>) {
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

    /// Adds `share` of another's sums.
    pub(super) fn pool(&mut self, other: &Self, share: f64) {
        self.prompts += share * other.prompts;
        self.reward += share * other.reward;
        for (view, features) in &other.features {
            let sums = self
                .features
                .entry(*view)
                .or_insert_with(|| vec![0.0; features.len()]);
            sums.iter_mut()
                .zip(features)
                .for_each(|(sum, x)| *sum += share * x);
        }
    }

    /// Mean of the rewards less what the weights explain, shrunk toward `base`.
    fn offset(&self, view: View, weights: &[f64], shrinkage: f64, base: f64) -> f64 {
        let explained: f64 = match self.features.get(&view) {
            Some(features) => features.iter().zip(weights).map(|(x, w)| x * w).sum(),
            None => return 0.0,
        };
        (self.reward - explained + shrinkage * base) / (self.prompts + shrinkage)
    }
}

/// The weights of a view beside the categories' offsets, by turns: the weights explain what the offsets leave, and
/// the offsets what the weights leave (backfitting, which converges to the joint ridge solution). Offsets are shrunk
/// toward those of `base`.
fn with_offsets(
    view: View,
    prior: &LinearPrior,
    categories: &BTreeMap<String, CategorySums>,
    shrinkage: f64,
    base: &BTreeMap<String, CategorySeed>,
) -> Option<(LinearPrior, BTreeMap<String, CategorySeed>)> {
    let mut own = prior.clone();
    let mut offsets = BTreeMap::new();
    for _ in 0..BACKFITTING {
        let weights = own.mean()?;
        own = prior.clone();
        for (name, sums) in categories {
            let toward = base.get(name).map_or(0.0, |known| known.offset);
            let offset = sums.offset(view, &weights, shrinkage, toward);
            if let Some(features) = sums.features.get(&view) {
                own.shift(features, -offset);
            }
            let prompts = sums.prompts;
            offsets.insert(name.clone(), CategorySeed { offset, prompts });
        }
    }
    Some((own, offsets))
}
