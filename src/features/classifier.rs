//! Names a prompt's category: multinomial logistic regression over a sharper view of the words.
//!
//! p_k = softmax_k(w_k . x + b_k) over the classes seen in training, with x from [`TextView::words`]: finer than what
//! the policies see, because a thousand weights a class are cheap here and topics need them. Below `least`
//! probability the answer is [`Category::Other`]: a wrong name is worse than none.
//!
//! [`TextView::words`]: super::text::TextView::words

use std::hint::black_box;

use super::artefact::{Artefact, ArtefactError};
use super::category::Category;
use super::numeric::softmax;
use super::text::Words;

/// Kind of the artefact that holds a classifier.
pub const CLASSIFIER: &str = "classifier";

/// Weights of one feature for every class, in lanes that a register holds; zeros fill the last one up. Rows of a length
/// that is known when this is compiled are summed without a loop.
type Row = [[f32; LANE]; LANES];
const LANE: usize = 4;
const LANES: usize = Category::ALL.len().div_ceil(LANE);

/// A linear classifier over features of known length.
#[derive(Clone, Debug)]
pub struct Classifier {
    /// A row for each feature.
    weights: Vec<Row>,
    biases: Vec<f32>,
    classes: Vec<Category>,
    least: f32,
    inputs: usize,
    view_version: String,
    version: u32,
}

/// A named category with the probabilities behind it.
#[derive(Clone, Debug, PartialEq)]
pub struct Classified {
    /// The most probable category, or `Other` when none is probable enough.
    pub category: Category,
    /// Its probability; of the best one when the category is `Other`.
    pub probability: f32,
    /// One probability for each category in the order of [`Category::ALL`]; they sum to 1.
    pub probabilities: [f32; Category::ALL.len()],
}

impl Classifier {
    /// Reads a classifier from the bytes of its artefact.
    ///
    /// # Errors
    /// When the bytes are not a classifier, or are corrupt.
    pub fn read(bytes: &[u8]) -> Result<Self, ArtefactError> {
        Self::from_artefact(&Artefact::read(CLASSIFIER, bytes)?)
    }

    /// The classifier that `artefact` describes.
    ///
    /// # Errors
    /// When a tensor is missing or of the wrong shape, or a class is not a category.
    pub fn from_artefact(artefact: &Artefact) -> Result<Self, ArtefactError> {
        let wrong = |name: &str| ArtefactError::Tensor {
            name: name.to_owned(),
            expected: "names of categories".to_owned(),
        };
        let classes: Vec<Category> = artefact
            .text("classes")?
            .split('\n')
            .map(|name| name.parse().map_err(|_| wrong("classes")))
            .collect::<Result<_, _>>()?;
        if classes.len() > Category::ALL.len() {
            return Err(wrong("classes"));
        }
        let inputs = artefact.shape("weights").map_or(0, |(_, columns)| columns);
        Ok(Self {
            weights: by_feature(&artefact.floats("weights", classes.len(), inputs)?, inputs),
            biases: artefact.floats("biases", 1, classes.len())?,
            least: artefact.floats("least", 1, 1)?[0],
            classes,
            inputs,
            view_version: artefact.text("view_version")?,
            version: artefact.version(),
        })
    }

    /// Number of features.
    #[must_use]
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// The version of the view whose features it was trained on.
    #[must_use]
    pub fn view_version(&self) -> &str {
        &self.view_version
    }

    /// Its own version.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The category of a prompt whose words are these. Words of another length are [`Category::Other`].
    #[must_use]
    pub fn classify(&self, words: &Words) -> Classified {
        let fits = words.len() == self.inputs;
        if fits {
            self.fetch(words.sparse_places());
        }
        self.name(fits.then(|| words.iter()))
    }

    /// The same for all values one after another, zeros among them.
    #[must_use]
    pub fn classify_dense(&self, values: &[f32]) -> Classified {
        self.name((values.len() == self.inputs).then(|| values.iter().copied().enumerate()))
    }

    /// Has the weights of features that lie far apart come from memory, for all of them at once: one after another,
    /// each would be waited for.
    fn fetch(&self, places: impl Iterator<Item = usize>) {
        for place in places {
            let row = &self.weights[place];
            black_box((row[0][0], row[LANES - 1][LANE - 1]));
        }
    }

    fn name(&self, values: Option<impl Iterator<Item = (usize, f32)>>) -> Classified {
        let mut probabilities = [0.0; Category::ALL.len()];
        let Some(values) = values.filter(|_| !self.classes.is_empty()) else {
            probabilities[Category::Other.index()] = 1.0;
            return Classified {
                category: Category::Other,
                probability: 1.0,
                probabilities,
            };
        };
        let mut sums: Row = Default::default();
        values.for_each(|(place, value)| {
            let row = &self.weights[place];
            for lane in 0..LANES {
                for i in 0..LANE {
                    sums[lane][i] += value * row[lane][i];
                }
            }
        });
        let sums = sums.as_flattened().iter().zip(&self.biases);
        let mut scores: Vec<f32> = sums.map(|(sum, bias)| sum + bias).collect();
        softmax(&mut scores);
        let mut best = (Category::Other, 0.0);
        for (class, probability) in self.classes.iter().zip(scores) {
            probabilities[class.index()] += probability;
            if probability > best.1 {
                best = (*class, probability);
            }
        }
        let category = if best.1 >= self.least {
            best.0
        } else {
            Category::Other
        };
        Classified {
            category,
            probability: best.1,
            probabilities,
        }
    }
}

/// Rows of weights by class, turned to rows by feature: of most features the value is 0, and nothing need be read.
fn by_feature(rows: &[f32], inputs: usize) -> Vec<Row> {
    let mut turned: Vec<Row> = vec![Default::default(); inputs];
    for (class, row) in rows.chunks_exact(inputs.max(1)).enumerate() {
        for (feature, weight) in turned.iter_mut().zip(row) {
            feature[class / LANE][class % LANE] = *weight;
        }
    }
    turned
}

#[cfg(test)]
mod tests {
    use super::super::artefact::Tensor;
    use super::*;

    fn classifier(weights: Vec<f32>, least: f32) -> Classifier {
        let artefact = Artefact::new(
            CLASSIFIER,
            vec![
                ("classes", Tensor::text("code\nmaths")),
                ("weights", Tensor::floats(2, 2, weights)),
                ("biases", Tensor::floats(1, 2, vec![0.0, 0.0])),
                ("least", Tensor::floats(1, 1, vec![least])),
                ("view_version", Tensor::text("7")),
            ],
        )
        .unwrap();
        Classifier::read(&artefact.to_bytes()).unwrap()
    }

    #[test]
    fn the_odds_are_those_of_the_scores() {
        let classifier = classifier(vec![3.0_f32.ln(), 0.0, 0.0, 0.0], 0.5);
        let classified = classifier.classify_dense(&[1.0, 5.0]);
        assert_eq!(classified.category, Category::Code);
        assert!((classified.probability - 0.75).abs() < 1e-6);
        assert!((classified.probabilities[Category::Maths.index()] - 0.25).abs() < 1e-6);
        assert_eq!(classifier.view_version(), "7");
    }

    #[test]
    fn doubt_is_other() {
        let doubtful = classifier(vec![0.0; 4], 0.6);
        assert_eq!(doubtful.classify_dense(&[1.0, 1.0]).category, Category::Other);
        assert_eq!(doubtful.classify_dense(&[1.0]).category, Category::Other);
    }
}
