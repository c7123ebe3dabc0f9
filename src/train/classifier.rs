//! Fits the category classifier with linfa's multinomial logistic regression, and tells how good it is.

use anyhow::Context;
use linfa::Dataset;
use linfa::traits::Fit;
use linfa_logistic::MultiLogisticRegression;
use ndarray::{Array1, Array2};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::categories::Example;
use crate::features::artefact::{Artefact, Tensor};
use crate::features::classifier::CLASSIFIER;
use crate::features::text::{PromptText, Surface, TextView};
use crate::features::{Category, Classified, Classifier};

/// How often each of our own prompts counts: they are nearer to what a proxy sees than benchmarks are.
const OWN_WEIGHT: usize = 3;
/// L2 penalty on the weights.
const PENALTY: f64 = 10.0;
/// An answer must be right this often, on our own held-out prompts, to be given at all.
const WANTED_ACCURACY: f64 = 0.85;
/// The threshold without cross-validation.
const DEFAULT_LEAST: f32 = 0.6;
/// The threshold when none reaches [`WANTED_ACCURACY`]: name only what is nearly certain.
const MOST_LEAST: f32 = 0.9;

/// Features of labelled prompts, one row each.
pub struct Labelled<'a> {
    /// The prompts.
    pub examples: &'a [Example<'a>],
    rows: Vec<Vec<f32>>,
    view_version: u32,
}

/// How well held-out prompts are named.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Accuracy {
    /// Prompts.
    pub prompts: usize,
    /// Share whose most probable class is right.
    pub top: f64,
    /// Share that is named at all.
    pub answered: f64,
    /// Share of those that is right.
    pub right_of_answered: f64,
}

impl<'a> Labelled<'a> {
    /// Extracts the features.
    #[must_use]
    pub fn new(examples: &'a [Example<'a>], view: &TextView) -> Self {
        let rows = examples
            .iter()
            .map(|example| {
                let prompt = PromptText::plain(example.text);
                view.words(&prompt, &Surface::plain(&prompt)).to_vec()
            })
            .collect();
        Self {
            examples,
            rows,
            view_version: view.version(),
        }
    }

    /// Fits on the examples that `chosen` keeps.
    ///
    /// # Errors
    /// When there is no example, or the optimiser fails.
    pub fn fit(&self, chosen: impl Fn(usize) -> bool, least: f32) -> anyhow::Result<Artefact> {
        let mut indices = Vec::new();
        for index in (0..self.rows.len()).filter(|index| chosen(*index)) {
            let times = if self.examples[index].source.is_none() {
                OWN_WEIGHT
            } else {
                1
            };
            indices.extend(std::iter::repeat_n(index, times));
        }
        let inputs = self.rows.first().context("no labelled prompts")?.len();
        let records = Array2::from_shape_fn((indices.len(), inputs), |(i, j)| {
            f64::from(self.rows[indices[i]][j])
        });
        let targets: Array1<usize> = indices
            .iter()
            .map(|index| self.examples[*index].category.index())
            .collect();
        let model = MultiLogisticRegression::default()
            .alpha(PENALTY)
            .max_iterations(60)
            .gradient_tolerance(1e-3)
            .fit(&Dataset::new(records, targets))
            .context("the classifier could not be fitted")?;
        let names: Vec<&str> = model
            .classes()
            .iter()
            .map(|index| Category::ALL[*index].name())
            .collect();
        let weights = model.params().t().iter().map(|weight| *weight as f32).collect();
        let biases = model.intercept().iter().map(|bias| *bias as f32).collect();
        Ok(Artefact::new(
            CLASSIFIER,
            vec![
                ("classes", Tensor::text(&names.join("\n"))),
                ("weights", Tensor::floats(names.len(), inputs, weights)),
                ("biases", Tensor::floats(1, names.len(), biases)),
                ("least", Tensor::floats(1, 1, vec![least])),
                ("view_version", Tensor::text(&self.view_version.to_string())),
            ],
        )?)
    }

    /// What each example is named by a classifier that did not see its part of `parts`.
    ///
    /// # Errors
    /// When a part cannot be fitted.
    pub fn held_out(&self, parts: &[usize]) -> anyhow::Result<Vec<Classified>> {
        let nothing = Classified {
            category: Category::Other,
            probability: 0.0,
            probabilities: [0.0; Category::ALL.len()],
        };
        let mut named = vec![nothing; self.rows.len()];
        for part in 0..parts.iter().max().map_or(0, |most| most + 1) {
            let classifier = Classifier::from_artefact(&self.fit(|index| parts[index] != part, 0.0)?)?;
            for index in (0..self.rows.len()).filter(|index| parts[*index] == part) {
                named[index] = classifier.classify_dense(&self.rows[index]);
            }
        }
        Ok(named)
    }

    /// What each example is named by the classifier of `artefact`.
    ///
    /// # Errors
    /// When the artefact is not a classifier.
    pub fn named_by(&self, artefact: &Artefact) -> anyhow::Result<Vec<Classified>> {
        let classifier = Classifier::from_artefact(artefact)?;
        Ok(self
            .rows
            .iter()
            .map(|row| classifier.classify_dense(row))
            .collect())
    }

    /// Random parts of equal size.
    #[must_use]
    pub fn random_parts(&self, folds: usize, seed: u64) -> Vec<usize> {
        let mut parts: Vec<usize> = (0..self.rows.len()).map(|index| index % folds).collect();
        parts.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
        parts
    }

    /// How well `named` fits the examples that `chosen` keeps, when nothing below `least` is named.
    #[must_use]
    pub fn accuracy(&self, named: &[Classified], least: f32, chosen: impl Fn(usize) -> bool) -> Accuracy {
        let (mut prompts, mut top, mut answered, mut right) = (0, 0, 0, 0);
        for index in (0..named.len()).filter(|index| chosen(*index)) {
            let correct = named[index].category == self.examples[index].category;
            prompts += 1;
            top += usize::from(correct);
            if named[index].probability >= least {
                answered += 1;
                right += usize::from(correct);
            }
        }
        let share = |part: usize, whole: usize| {
            if whole == 0 {
                0.0
            } else {
                part as f64 / whole as f64
            }
        };
        Accuracy {
            prompts,
            top: share(top, prompts),
            answered: share(answered, prompts),
            right_of_answered: share(right, answered),
        }
    }

    /// The least probability at which our own held-out prompts are named rightly often enough.
    #[must_use]
    pub fn choose_least(&self, named: &[Classified]) -> f32 {
        (40..=90)
            .map(|step| step as f32 * 0.01)
            .find(|least| {
                let own = |index: usize| self.examples[index].source.is_none();
                self.accuracy(named, *least, own).right_of_answered >= WANTED_ACCURACY
            })
            .unwrap_or(MOST_LEAST)
    }

    /// The threshold without cross-validation.
    #[must_use]
    pub fn default_least() -> f32 {
        DEFAULT_LEAST
    }
}
