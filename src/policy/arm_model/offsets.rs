//! What a category adds to an arm's prediction: the table beside the weights.

use super::{ArmModel, CATEGORY_SHRINKAGE, MOST_CATEGORIES};
use crate::policy::seed::CategorySeed;

/// Prompts of no effect by which a category's offset is shrunk on top at an arm's first score; they fall as prompts with
/// a category come, in its seed or since. Until an arm's level is known, what a score leaves unexplained is the level's error and not the category's.
const SHRINKAGE_AT_FIRST: f64 = 1000.0;

impl ArmModel {
    pub(super) fn offset(&self, category: Option<&str>) -> f64 {
        category
            .and_then(|name| self.categories.get(name))
            .map_or(0.0, |known| known.offset)
    }

    /// Moves a category's offset by its share of what the prediction left unexplained.
    pub(super) fn learn_offset(&mut self, category: Option<&str>, residual: f64, weight: f64) {
        let shrinkage = self.shrinkage(weight);
        if let Some(known) = category.and_then(|name| self.known_category(name)) {
            known.prompts += weight;
            known.offset += weight * residual / (known.prompts + shrinkage);
        }
    }

    /// Adds another replica's sums: prompts, and what they left unexplained without any offset.
    pub(super) fn merge_offset(&mut self, name: &str, prompts: f64, mass: f64) {
        let shrinkage = self.shrinkage(prompts);
        if let Some(known) = self.known_category(name) {
            let mass = (known.prompts + shrinkage) * known.offset + mass;
            known.prompts += prompts;
            known.offset = mass / (known.prompts + shrinkage);
        }
    }

    /// With `more` prompts than are known.
    fn shrinkage(&self, more: f64) -> f64 {
        let known: f64 = self.categories.values().map(|known| known.prompts).sum();
        CATEGORY_SHRINKAGE + SHRINKAGE_AT_FIRST / (1.0 + known + more)
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

#[cfg(test)]
mod tests {
    use crate::policy::arm_model::{ArmModel, LearningSettings};

    #[test]
    fn a_category_means_little_until_the_arm_is_known() {
        let settings = LearningSettings::default();
        let mut model = ArmModel::new("a/1", "", 0.0, None, [None, None], &settings);
        // The first prompt: 1, with 8 + 1000 / 2 of no effect; -0.5 / 509.
        model.learn_offset(Some("maths"), -0.5, 1.0);
        assert!((model.offset(Some("maths")) + 0.000_982).abs() < 1e-6);
        // After 998 prompts of another category the 1,000th has 8 + 1000 / 1001 of no effect: -0.5 / 9.999.
        model.merge_offset("prose", 998.0, 0.0);
        model.learn_offset(Some("code"), -0.5, 1.0);
        assert!((model.offset(Some("code")) + 0.05).abs() < 1e-5);
        // Another replica saw 1,000 prompts that came out 200 better in all, and 8 + 1000 / 2001 are of no effect:
        // (9.4998 * -0.0500 + 200) / 1009.4998.
        model.merge_offset("code", 1000.0, 200.0);
        assert!((model.offset(Some("code")) - 0.197_647).abs() < 1e-5);
        assert_eq!(model.offset(Some("law")), 0.0);
    }
}
