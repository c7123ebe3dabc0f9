//! A category by arm table of mean rewards, shrunk toward each arm's own mean: a strong baseline.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::contextual::Snapshot;
use super::learner::ContextualLearner;
use super::{Contexts, Decision, Learner, Observation, Policy, Proposal, Round, UsageSample};
use crate::arm::ArmId;

/// Categories by position. Those beyond the table's width share one cell.
#[derive(Clone, Debug, PartialEq)]
pub struct Categories {
    names: BTreeMap<String, usize>,
    width: usize,
}

impl Categories {
    /// A table of the named categories, and one cell for any other.
    #[must_use]
    pub fn new<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let sorted: BTreeMap<String, usize> = names.into_iter().map(|name| (name.to_owned(), 0)).collect();
        let width = sorted.len() + 2;
        let names = sorted
            .into_keys()
            .enumerate()
            .map(|(index, name)| (name, index + 1))
            .collect();
        Self { names, width }
    }

    /// Length of the indicator vectors.
    #[must_use]
    pub const fn dimensions(&self) -> usize {
        self.width
    }

    /// (1, 0, .., 1, .., 0): under a Gaussian prior around an arm's mean, ridge regression on it is the table whose
    /// cells are shrunk toward the arm's mean by `ridge` pseudo-observations.
    #[must_use]
    pub fn indicator(&self, category: Option<&str>) -> Vec<f32> {
        let mut features = vec![0.0; self.width];
        features[0] = 1.0;
        let cell = category.and_then(|name| self.names.get(name)).copied();
        features[cell.unwrap_or(self.width - 1)] = 1.0;
        features
    }
}

/// The table with the same solver, pacer and exploration as the contextual policy, to compare features alone.
#[derive(Debug)]
pub struct CategoryTable {
    categories: Arc<Categories>,
    inner: ContextualLearner,
}

impl CategoryTable {
    /// Over a learner whose text view has [`Categories::dimensions`] features.
    #[must_use]
    pub const fn new(categories: Arc<Categories>, inner: ContextualLearner) -> Self {
        Self { categories, inner }
    }
}

struct TableView {
    categories: Arc<Categories>,
    inner: Arc<Snapshot>,
}

impl Policy for TableView {
    fn name(&self) -> &'static str {
        "category_table"
    }

    fn propose(&self, round: &Round<'_>) -> Proposal {
        let features = self.categories.indicator(round.category);
        self.inner.propose(&Round {
            contexts: text_only(&features),
            category: None,
            ..round.clone()
        })
    }

    fn output_tokens(&self, arm: &ArmId, contexts: &Contexts<'_>, category: Option<&str>) -> Option<f64> {
        self.inner.output_tokens(arm, contexts, category)
    }

    fn output_spread(&self, arm: &ArmId) -> Option<f64> {
        self.inner.output_spread(arm)
    }
}

const fn text_only(features: &[f32]) -> Contexts<'_> {
    Contexts {
        text: Some(features),
        embedding: None,
        words: &[],
    }
}

impl Learner for CategoryTable {
    fn record_round(&mut self, round: &Round<'_>, decision: &Decision) {
        let features = self.categories.indicator(round.category);
        let round = Round {
            contexts: text_only(&features),
            category: None,
            ..round.clone()
        };
        self.inner.record_round(&round, decision);
    }

    fn record_reward(&mut self, observation: &Observation<'_>) {
        let features = self.categories.indicator(observation.category);
        self.inner.record_reward(&Observation {
            contexts: text_only(&features),
            category: None,
            ..*observation
        });
    }

    fn record_usage(&mut self, sample: &UsageSample<'_>) {
        self.inner.record_usage(sample);
    }

    fn price_changed(&mut self, arm: &ArmId, factor: f64) {
        self.inner.price_changed(arm, factor);
    }

    fn arms_changed(&mut self) {
        self.inner.known_change();
    }

    fn alarms(&self) -> u64 {
        self.inner.alarms()
    }

    fn snapshot(&self) -> Arc<dyn Policy> {
        Arc::new(TableView {
            categories: self.categories.clone(),
            inner: Arc::new(self.inner.state()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_categories_share_the_last_cell() {
        let categories = Categories::new(["maths", "code", "maths"]);
        assert_eq!(categories.dimensions(), 4);
        assert_eq!(categories.indicator(Some("code")), [1.0, 1.0, 0.0, 0.0]);
        assert_eq!(categories.indicator(Some("maths")), [1.0, 0.0, 1.0, 0.0]);
        assert_eq!(categories.indicator(Some("law")), [1.0, 0.0, 0.0, 1.0]);
        assert_eq!(categories.indicator(None), [1.0, 0.0, 0.0, 1.0]);
    }
}
