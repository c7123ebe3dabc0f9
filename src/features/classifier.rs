//! Names a prompt's category: multinomial logistic regression over a sharper view of the words.
//!
//! p_k = softmax_k(w_k . x + b_k) over the classes seen in training, with x from [`TextView::words`]: finer than what
//! the policies see, because a thousand weights a class are cheap here and topics need them. Below `least`
//! probability the answer is [`Category::Other`]: a wrong name is worse than none.
//!
//! [`TextView::words`]: super::text::TextView::words
use super::artefact::{Artefact, ArtefactError};
use super::category::Category;
use super::numeric::{dot, softmax};

/// Kind of the artefact that holds a classifier.
pub const CLASSIFIER: &str = "classifier";

/// A linear classifier over features of known length.
#[derive(Clone, Debug)]
pub struct Classifier {
    /// One row of weights a class.
    weights: Vec<f32>,
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
        let inputs = artefact.shape("weights").map_or(0, |(_, columns)| columns);
        Ok(Self {
            weights: artefact.floats("weights", classes.len(), inputs)?,
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

    /// The category of a prompt with these features. Features of another length are [`Category::Other`].
    #[must_use]
    pub fn classify(&self, features: &[f32]) -> Classified {
        let mut probabilities = [0.0; Category::ALL.len()];
        if features.len() != self.inputs || self.classes.is_empty() {
            probabilities[Category::Other.index()] = 1.0;
            return Classified {
                category: Category::Other,
                probability: 1.0,
                probabilities,
            };
        }
        let rows = self.weights.chunks_exact(self.inputs);
        let mut scores: Vec<f32> = rows
            .zip(&self.biases)
            .map(|(row, bias)| dot(row, features) + bias)
            .collect();
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
        let classified = classifier.classify(&[1.0, 5.0]);
        assert_eq!(classified.category, Category::Code);
        assert!((classified.probability - 0.75).abs() < 1e-6);
        assert!((classified.probabilities[Category::Maths.index()] - 0.25).abs() < 1e-6);
        assert_eq!(classifier.view_version(), "7");
    }

    #[test]
    fn doubt_is_other() {
        let doubtful = classifier(vec![0.0; 4], 0.6);
        assert_eq!(doubtful.classify(&[1.0, 1.0]).category, Category::Other);
        assert_eq!(doubtful.classify(&[1.0]).category, Category::Other);
    }
}
