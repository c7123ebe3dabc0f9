//! What a regression has observed since a moment, as sums that another one adds to its own.

use serde::{Deserialize, Serialize};

use super::{Linear, add_outer, triangle};
use crate::policy::packed;

/// Sums of `observations` observations, each decayed to the last of them: D and its right side.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LinearDelta {
    #[serde(with = "packed")]
    precision: Vec<f64>,
    #[serde(with = "packed")]
    information: Vec<f64>,
    observations: u64,
    /// Decay of what was added since the sums were last brought up to date; 1 in a delta that was taken.
    #[serde(skip)]
    scale: f64,
}

impl LinearDelta {
    pub(super) fn new(dimensions: usize) -> Self {
        Self {
            precision: vec![0.0; triangle(dimensions)],
            information: vec![0.0; dimensions],
            observations: 0,
            scale: 1.0,
        }
    }

    /// Notes an observation that decays what came before by `forgetting`.
    pub(super) fn add(&mut self, features: &[f32], target: f64, weight: f64, forgetting: f64) {
        let scaled = weight / self.scale;
        add_outer(&mut self.precision, features, scaled);
        self.shift(features, weight * target);
        if weight > 0.0 {
            self.scale *= forgetting;
            self.observations += 1;
        }
    }

    /// Notes a change of the right side alone.
    pub(super) fn shift(&mut self, features: &[f32], change: f64) {
        for (information, &feature) in self.information.iter_mut().zip(features) {
            *information += change / self.scale * f64::from(feature);
        }
    }

    fn taken(mut self) -> Self {
        let scale = self.scale;
        let sums = self.precision.iter_mut().chain(&mut self.information);
        sums.for_each(|sum| *sum *= scale);
        self.scale = 1.0;
        self
    }

    /// Whether it holds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.precision
            .iter()
            .chain(&self.information)
            .all(|&sum| sum == 0.0)
    }

    fn fits(&self, dimensions: usize) -> bool {
        let numbers = || self.precision.iter().chain(&self.information);
        self.information.len() == dimensions
            && self.precision.len() == triangle(dimensions)
            && numbers().all(|number| number.is_finite())
    }
}

impl Linear {
    /// Keeps account of what is observed from now on.
    pub fn keep_account(&mut self) {
        self.account = Some(Box::new(LinearDelta::new(self.dimensions())));
    }

    /// What was observed since the account was begun or last taken; it goes on from nothing.
    pub fn take_delta(&mut self) -> Option<LinearDelta> {
        let account = self.account.as_mut()?;
        let fresh = LinearDelta::new(account.information.len());
        let delta = std::mem::replace(&mut **account, fresh).taken();
        (!delta.is_empty()).then_some(delta)
    }

    /// Adds what another regression of the same features has observed, as if it had been observed here after all that
    /// was: the same as learning those observations one by one. False, and nothing changes, when it does not fit.
    pub fn merge(&mut self, delta: &LinearDelta) -> bool {
        if !delta.fits(self.dimensions()) {
            return false;
        }
        let decay = i32::try_from(delta.observations).map_or(0.0, |count| self.forgetting.powi(count));
        self.scale = (self.scale * decay).max(1e-90);
        let scale = self.scale;
        let add = |own: &mut [f64], theirs: &[f64]| {
            own.iter_mut()
                .zip(theirs)
                .for_each(|(own, theirs)| *own += theirs / scale);
        };
        add(&mut self.evidence, &delta.precision);
        add(&mut self.information, &delta.information);
        self.refresh()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::policy::linear::LinearPrior;

    type Seen = (f32, f32, f64);

    fn linear(forgetting: f64) -> Linear {
        Linear::new(Arc::new(LinearPrior::around(&[0.5, 0.0, 0.1], 3.0)), forgetting).unwrap()
    }

    fn learn(linear: &mut Linear, seen: &[Seen]) {
        for &(a, b, target) in seen {
            linear.update(&[1.0, a, b], target, 1.0);
        }
    }

    fn same(a: &Linear, b: &Linear) -> bool {
        let probes = [[1.0, 0.0, 0.0], [1.0, 1.0, -1.0], [1.0, -0.3, 0.8]];
        probes.iter().all(|probe| {
            (a.mean(probe) - b.mean(probe)).abs() < 2e-4
                && (a.variance(probe) - b.variance(probe)).abs() < 2e-4
        })
    }

    fn seen() -> impl Strategy<Value = Vec<Seen>> {
        prop::collection::vec((-1.0f32..1.0, -1.0f32..1.0, 0.0f64..1.0), 0..60)
    }

    proptest! {
        #[test]
        fn merging_is_learning(before in seen(), theirs in seen(), forgetting in 0.95f64..=1.0) {
            let mut one = linear(forgetting);
            learn(&mut one, &before);
            let mut two = one.clone();
            learn(&mut one, &theirs);
            one.refresh();
            // The other replica starts from a prior of its own: a delta holds what was observed alone.
            let mut other = linear(forgetting);
            other.keep_account();
            learn(&mut other, &theirs);
            if let Some(delta) = other.take_delta() {
                prop_assert!(two.merge(&delta));
            }
            two.refresh();
            prop_assert!(same(&one, &two));
        }

        #[test]
        fn without_forgetting_the_order_and_the_cuts_do_not_matter(a in seen(), b in seen(), cut in 0usize..60) {
            let delta = |seen: &[Seen]| {
                let mut linear = linear(1.0);
                linear.keep_account();
                learn(&mut linear, seen);
                linear.take_delta()
            };
            let (head, tail) = a.split_at(cut.min(a.len()));
            let merged = |deltas: [&[Seen]; 3]| {
                let mut linear = linear(1.0);
                deltas.iter().filter_map(|seen| delta(seen)).for_each(|delta| assert!(linear.merge(&delta)));
                linear
            };
            let mut whole = linear(1.0);
            learn(&mut whole, &a);
            learn(&mut whole, &b);
            whole.refresh();
            prop_assert!(same(&whole, &merged([head, &b, tail])));
            prop_assert!(same(&whole, &merged([&b, tail, head])));
        }
    }

    #[test]
    fn an_account_goes_on_from_nothing_and_other_sizes_are_refused() {
        let mut own = linear(0.99);
        own.keep_account();
        learn(&mut own, &[(0.5, 0.5, 1.0)]);
        let delta = own.take_delta().unwrap();
        assert_eq!(delta.observations, 1);
        assert!(own.take_delta().is_none());
        let text = serde_json::to_string(&delta).unwrap();
        let mut read: LinearDelta = serde_json::from_str(&text).unwrap();
        read.scale = 1.0;
        assert_eq!(read, delta);
        let mut narrow = Linear::new(Arc::new(LinearPrior::around(&[0.5], 1.0)), 1.0).unwrap();
        assert!(!narrow.merge(&delta));
        own.revise(&[1.0, 0.5, 0.5], 1.0, 0.0, 1.0);
        let revision = own.take_delta().unwrap();
        assert_eq!(revision.observations, 0, "a revision is no new observation");
    }
}
