//! Fits seeds from labelled outcomes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{ArmSeed, CATEGORY_SHRINKAGE, LengthSeed, SEED_FORMAT, Seed};
use crate::policy::gathered::{ByModel, Common, Gathered, PARTS, around_prior, common, nothing, part};
use crate::policy::linear::LinearPrior;
use crate::policy::{Contexts, View, shrinkage};

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
pub(in crate::policy) const RIDGE: f64 = 512.0;

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
                    .unwrap_or_else(|| shrinkage::choose(self, view, settings));
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
    pub(in crate::policy) fn gather(&self, keep: impl Fn(usize) -> bool) -> ByModel<'_> {
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
                words: &[],
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
}
