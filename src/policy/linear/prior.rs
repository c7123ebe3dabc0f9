//! What is believed of weights before anything is observed.

use serde::{Deserialize, Serialize};

use super::algebra::{add_outer, solve, triangle};
use crate::policy::packed;

/// A Gaussian prior on weights in information form, for noise of variance 1: `precision` A0 (the upper triangle,
/// row by row) and `information` b0 = A0 theta0.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LinearPrior {
    #[serde(with = "packed")]
    pub(super) precision: Vec<f64>,
    #[serde(with = "packed")]
    pub(super) information: Vec<f64>,
}

impl LinearPrior {
    /// Weights near `base` with the precision `ridge` each: as if `ridge` unit observations had been seen along
    /// every axis.
    #[must_use]
    pub fn around(base: &[f64], ridge: f64) -> Self {
        let dimensions = base.len();
        let mut precision = vec![0.0; triangle(dimensions)];
        let mut at = 0;
        for row in 0..dimensions {
            precision[at] = ridge;
            at += dimensions - row;
        }
        Self {
            precision,
            information: base.iter().map(|weight| weight * ridge).collect(),
        }
    }

    /// Weights near `base`, the first of them (the intercept) with a precision of its own: how good an arm is must be
    /// learned from few observations, what it is good at from many.
    #[must_use]
    pub fn with_intercept(base: &[f64], intercept: f64, ridge: f64) -> Self {
        let mut prior = Self::around(base, ridge);
        if let (Some(precision), Some(information)) =
            (prior.precision.first_mut(), prior.information.first_mut())
        {
            *precision = intercept;
            *information = base[0] * intercept;
        }
        prior
    }

    /// This prior as if seen `factor` times: the same mean weights, held as much more or less firmly.
    #[must_use]
    pub fn scaled(&self, factor: f64) -> Self {
        let times = |numbers: &[f64]| numbers.iter().map(|number| number * factor).collect();
        Self {
            precision: times(&self.precision),
            information: times(&self.information),
        }
    }

    /// A prior as firm as this one, but around `weights`.
    #[must_use]
    pub fn centred(&self, weights: &[f64]) -> Self {
        let mut information = vec![0.0; weights.len()];
        let mut entries = self.precision.iter();
        for row in 0..weights.len() {
            for column in row..weights.len() {
                let Some(entry) = entries.next() else {
                    break;
                };
                information[row] += entry * weights[column];
                if column > row {
                    information[column] += entry * weights[row];
                }
            }
        }
        Self {
            precision: self.precision.clone(),
            information,
        }
    }

    /// Number of weights.
    #[must_use]
    pub fn dimensions(&self) -> usize {
        self.information.len()
    }

    /// A0 theta0.
    #[must_use]
    pub fn information(&self) -> &[f64] {
        &self.information
    }

    /// Adds one observation, of any weight.
    pub fn add(&mut self, features: &[f32], target: f64, weight: f64) {
        add_outer(&mut self.precision, features, weight);
        for (information, &feature) in self.information.iter_mut().zip(features) {
            *information += weight * target * f64::from(feature);
        }
    }

    /// Adds `amount` to the target of every observation whose features sum to `features`.
    pub fn shift(&mut self, features: &[f64], amount: f64) {
        for (information, feature) in self.information.iter_mut().zip(features) {
            *information += amount * feature;
        }
    }

    /// This prior as if seen `factor` times, plus `other`. `None` when the dimensions differ.
    #[must_use]
    pub fn scaled_plus(&self, factor: f64, other: &Self) -> Option<Self> {
        let sum = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| factor * a + b).collect();
        (self.dimensions() == other.dimensions()).then(|| Self {
            precision: sum(&self.precision, &other.precision),
            information: sum(&self.information, &other.information),
        })
    }

    /// The mean weights. `None` if the precision is not positive definite.
    #[must_use]
    pub fn mean(&self) -> Option<Vec<f64>> {
        solve(&self.precision, &self.information).map(|(mean, _)| mean)
    }

    /// Whether the sizes agree, every number is finite and the weights can be solved for.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.is_sound()
            && self
                .mean()
                .is_some_and(|mean| mean.iter().all(|weight| weight.is_finite()))
    }

    pub(super) fn is_sound(&self) -> bool {
        self.precision.len() == triangle(self.dimensions())
            && self
                .precision
                .iter()
                .chain(&self.information)
                .all(|x| x.is_finite())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_centred_prior_keeps_its_firmness() {
        let mut prior = LinearPrior::around(&[0.1, 0.2], 1.0);
        prior.add(&[1.0, 2.0], 0.5, 1.0);
        // A = [[2, 2], [2, 5]]; A (0.3, -0.1) = (0.4, 0.1).
        let centred = prior.centred(&[0.3, -0.1]);
        assert!((centred.information()[0] - 0.4).abs() < 1e-12);
        assert!((centred.information()[1] - 0.1).abs() < 1e-12);
        let mean = centred.mean().unwrap();
        assert!((mean[0] - 0.3).abs() < 1e-9 && (mean[1] + 0.1).abs() < 1e-9);
    }
}
