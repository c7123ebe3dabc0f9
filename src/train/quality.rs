//! How well features predict which model answers well, on prompts held out: the figures of the model card.

use ndarray::{Array2, Axis};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::linear_algebra::solve;
use super::recorded::Source;

/// Parts of a cross-validation.
const FOLDS: usize = 5;
/// Ridge penalty on all weights but the bias.
const RIDGE: f64 = 10.0;

/// Scores of every model on the prompts of a source: a row a prompt; only models that answered every prompt.
#[derive(Clone, Debug)]
pub struct Scores {
    /// Model names, one a column.
    pub models: Vec<String>,
    /// The scores.
    pub matrix: Array2<f64>,
}

impl Scores {
    /// The scores of the prompts of `source` at `indices`.
    #[must_use]
    pub fn of(source: &Source, indices: &[usize]) -> Self {
        let outcomes = |index: &usize| &source.prompts[*index].outcomes;
        let models: Vec<String> = indices.first().map_or_else(Vec::new, |first| {
            let complete = |model: &&String| indices.iter().all(|index| outcomes(index).contains_key(*model));
            outcomes(first).keys().filter(complete).cloned().collect()
        });
        let matrix = Array2::from_shape_fn((indices.len(), models.len()), |(row, column)| {
            outcomes(&indices[row])
                .get(&models[column])
                .map_or(0.0, |outcome| outcome.score)
        });
        Self { models, matrix }
    }
}

/// Scores predicted for each prompt by ridge regression on the other parts. Features begin with a 1.
#[must_use]
pub fn held_out(features: &[Vec<f32>], scores: &Array2<f64>) -> Option<Array2<f64>> {
    let width = features.first()?.len();
    let x = Array2::from_shape_fn((features.len(), width), |(i, j)| f64::from(features[i][j]));
    let mut order: Vec<usize> = (0..features.len()).collect();
    order.shuffle(&mut ChaCha8Rng::seed_from_u64(1));
    let mut predicted = Array2::zeros(scores.raw_dim());
    for part in 0..FOLDS {
        let (test, train): (Vec<usize>, Vec<usize>) =
            (0..order.len()).partition(|place| place % FOLDS == part);
        let rows = |places: &[usize]| places.iter().map(|place| order[*place]).collect::<Vec<usize>>();
        let (test, train) = (rows(&test), rows(&train));
        let known = x.select(Axis(0), &train);
        let mut gram = known.t().dot(&known);
        for index in 0..width {
            gram[[index, index]] += if index == 0 { 1e-6 } else { RIDGE };
        }
        let weights = solve(&gram, &known.t().dot(&scores.select(Axis(0), &train)))?;
        let guessed = x.select(Axis(0), &test).dot(&weights);
        for (row, index) in test.into_iter().enumerate() {
            predicted.row_mut(index).assign(&guessed.row(row));
        }
    }
    Some(predicted)
}

/// Coefficient of determination, 1 - sum (y - p)^2 / sum (y - mean y)^2, averaged over models; models that always
/// score alike are left out. With `relative`, of each score minus the prompt's mean over models, which is what a
/// router needs.
#[must_use]
pub fn determination(predicted: &Array2<f64>, scores: &Array2<f64>, relative: bool) -> f64 {
    let centred = |matrix: &Array2<f64>| match matrix.mean_axis(Axis(1)) {
        Some(means) if relative => matrix - &means.insert_axis(Axis(1)),
        _ => matrix.clone(),
    };
    let (predicted, scores) = (centred(predicted), centred(scores));
    let mut determinations = Vec::new();
    for (p, y) in predicted.columns().into_iter().zip(scores.columns()) {
        let mean = y.mean().unwrap_or(0.0);
        let total: f64 = y.iter().map(|y| (y - mean).powi(2)).sum();
        let residual: f64 = p.iter().zip(y).map(|(p, y)| (y - p).powi(2)).sum();
        if total > 1e-9 {
            determinations.push(1.0 - residual / total);
        }
    }
    determinations.iter().sum::<f64>() / determinations.len().max(1) as f64
}

/// Average performance gap recovered between two models (RouteLLM, Ong et al. 2024): prompts go to the stronger one
/// in the order of the predicted gain; the mean share of the gap that is won over all shares of strong calls. One
/// half is random.
#[must_use]
pub fn gap_recovered(predicted: &Array2<f64>, scores: &Array2<f64>) -> Option<f64> {
    let means = scores.mean_axis(Axis(0))?;
    if means.len() != 2 || means[0] == means[1] {
        return None;
    }
    let (weak, strong) = if means[0] < means[1] { (0, 1) } else { (1, 0) };
    let mut order: Vec<usize> = (0..scores.nrows()).collect();
    let gain = |matrix: &Array2<f64>, row: usize| matrix[[row, strong]] - matrix[[row, weak]];
    order.sort_by(|a, b| gain(predicted, *b).total_cmp(&gain(predicted, *a)));
    let gap: f64 = order.iter().map(|row| gain(scores, *row)).sum();
    let mut won = 0.0;
    let mut area = 0.0;
    for row in &order {
        won += gain(scores, *row);
        area += won / gap;
    }
    Some(area / order.len() as f64)
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    #[test]
    fn a_known_determination() {
        let scores = array![[0.0], [1.0], [0.0], [1.0]];
        assert_eq!(determination(&scores, &scores, false), 1.0);
        let mean = array![[0.5], [0.5], [0.5], [0.5]];
        assert_eq!(determination(&mean, &scores, false), 0.0);
    }

    #[test]
    fn the_gap_is_recovered_early_by_a_perfect_order() {
        let scores = array![[0.0, 1.0], [1.0, 1.0], [1.0, 1.0], [1.0, 1.0]];
        let last = array![[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]];
        assert_eq!(gap_recovered(&scores, &scores), Some(1.0));
        assert_eq!(gap_recovered(&last, &scores), Some(0.25));
        assert_eq!(gap_recovered(&last, &array![[1.0, 1.0]]), None);
    }

    #[test]
    fn ridge_finds_a_linear_truth() {
        let features: Vec<Vec<f32>> = (0..500).map(|i| vec![1.0, (i % 7) as f32 - 3.0]).collect();
        let scores = Array2::from_shape_fn((500, 1), |(i, _)| 0.5 + 0.1 * ((i % 7) as f64 - 3.0));
        let predicted = held_out(&features, &scores).unwrap();
        assert!(determination(&predicted, &scores, false) > 0.999);
    }
}
