//! What a call is expected to cost: a log-normal head per model, for recorded data that holds dollars.

use std::sync::Arc;

use crate::policy::linear::LinearPrior;
use crate::policy::lognormal::LogNormal;

/// Expected dollars of each model on a prompt, learned from the costs of the models that were called. The dollars
/// are those at the list price; a known price change multiplies them.
#[derive(Clone, Debug)]
pub struct Meter {
    heads: Vec<Option<LogNormal>>,
}

impl Meter {
    /// From labelled prompts: `rows` are (features, dollars of each model). A model without any starts from
    /// `typical`, the cost that its price list and a typical length give.
    #[must_use]
    pub fn new<'a>(
        models: usize,
        dimensions: usize,
        rows: impl Iterator<Item = (&'a [f32], Vec<Option<f64>>)> + Clone,
        typical: &[f64],
        most_prompts: f64,
    ) -> Self {
        let head = |model: usize| {
            let own = || {
                rows.clone().filter_map(move |(features, costs)| {
                    Some((features, costs[model].filter(|&c| c > 0.0)?.ln()))
                })
            };
            let count = own().count() as f64;
            let mean = if count > 0.0 {
                own().map(|(_, log)| log).sum::<f64>() / count
            } else {
                typical[model].max(1e-9).ln()
            };
            let mut base = vec![0.0; dimensions];
            *base.first_mut()? = mean;
            let mut sums = LinearPrior::around(&vec![0.0; dimensions], 0.0);
            own().for_each(|(features, log)| sums.add(features, log, 1.0));
            let factor = (most_prompts / count.max(1.0)).min(1.0);
            let prior = sums.scaled_plus(factor, &LinearPrior::around(&base, 2.0))?;
            let weights = prior.mean()?;
            let residual = |(features, log): (&[f32], f64)| {
                let mean: f64 = weights.iter().zip(features).map(|(w, x)| w * f64::from(*x)).sum();
                (log - mean).powi(2)
            };
            let variance = if count > 1.0 {
                own().map(residual).sum::<f64>() / count
            } else {
                0.1
            };
            LogNormal::new(Arc::new(prior), variance, 0.9999)
        };
        Self {
            heads: (0..models).map(head).collect(),
        }
    }

    /// Expected dollars at the list price.
    #[must_use]
    pub fn expect(&self, model: usize, features: &[f32]) -> f64 {
        self.heads[model]
            .as_ref()
            .map_or(0.0, |head| head.expect(features))
    }

    /// Learns the cost of a call at the list price.
    pub fn learn(&mut self, model: usize, features: &[f32], cost_usd: f64) {
        if let Some(head) = &mut self.heads[model] {
            head.learn(features, cost_usd);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longer_prompts_cost_more_once_seen() {
        let rows: Vec<(Vec<f32>, f64)> = (0..200)
            .map(|turn| {
                let length = if turn % 2 == 0 { 1.0 } else { -1.0 };
                (vec![1.0, length], f64::from(length).exp() * 0.01)
            })
            .collect();
        let rows = rows
            .iter()
            .map(|(features, cost)| (features.as_slice(), vec![Some(*cost), None]));
        let meter = Meter::new(2, 2, rows, &[0.0, 0.5], 1000.0);
        assert!((meter.expect(0, &[1.0, 1.0]) / (0.01 * 1.0_f64.exp()) - 1.0).abs() < 0.1);
        assert!((meter.expect(1, &[1.0, 1.0]) / 0.5 - 1.0).abs() < 0.2);
    }
}
