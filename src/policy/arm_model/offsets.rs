//! What a category adds to an arm's prediction, shrunk toward nothing: the table beside the weights.

use super::{ArmModel, CATEGORY_SHRINKAGE, MOST_CATEGORIES};
use crate::policy::seed::CategorySeed;

impl ArmModel {
    pub(super) fn offset(&self, category: Option<&str>) -> f64 {
        category
            .and_then(|name| self.categories.get(name))
            .map_or(0.0, |known| known.offset)
    }

    /// Variance of a category's offset, for noise of variance 1.
    pub(super) fn offset_variance(&self, category: Option<&str>) -> f64 {
        category.map_or(0.0, |name| {
            let prompts = self.categories.get(name).map_or(0.0, |known| known.prompts);
            1.0 / (prompts + CATEGORY_SHRINKAGE)
        })
    }

    /// Moves a category's offset by its share of what the prediction left unexplained.
    pub(super) fn learn_offset(&mut self, category: Option<&str>, residual: f64, weight: f64) {
        if let Some(known) = category.and_then(|name| self.known_category(name)) {
            known.prompts += weight;
            known.offset += weight * residual / (known.prompts + CATEGORY_SHRINKAGE);
        }
    }

    /// Adds another replica's sums: prompts, and what they left unexplained without any offset.
    pub(super) fn merge_offset(&mut self, name: &str, prompts: f64, mass: f64) {
        if let Some(known) = self.known_category(name) {
            let mass = (known.prompts + CATEGORY_SHRINKAGE) * known.offset + mass;
            known.prompts += prompts;
            known.offset = mass / (known.prompts + CATEGORY_SHRINKAGE);
        }
    }

    /// `None` for one more than an arm keeps apart.
    fn known_category(&mut self, name: &str) -> Option<&mut CategorySeed> {
        if !self.categories.contains_key(name) {
            if self.categories.len() >= MOST_CATEGORIES {
                return None;
            }
            self.categories.insert(name.to_owned(), CategorySeed::default());
        }
        self.categories.get_mut(name)
    }
}
