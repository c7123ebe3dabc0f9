//! What a call is expected to cost: a log-normal head per model, for recorded data that holds dollars.

use std::sync::Arc;

use crate::policy::linear::LinearPrior;
use crate::policy::lognormal::LogNormal;

/// A labelled prompt.
#[derive(Clone, Debug)]
pub struct Row<'a> {
    /// Its features.
    pub features: &'a [f32],
    /// Its category.
    pub category: Option<&'a str>,
    /// Dollars of each model, where recorded.
    pub costs: Vec<Option<f64>>,
}

/// Expected dollars of each model on a prompt, learned from the costs of the models that were called. The dollars
/// are those at the list price; a known price change multiplies them.
#[derive(Clone, Debug)]
pub struct Meter {
    heads: Vec<Option<LogNormal>>,
}

impl Meter {
    /// From labelled prompts. A model without any starts from
    /// `typical`, the cost that its price list and a typical length give.
    #[must_use]
    pub fn new<'a>(
        models: usize,
        dimensions: usize,
        rows: impl Iterator<Item = Row<'a>> + Clone,
        typical: &[f64],
        most_prompts: f64,
    ) -> Self {
        let head = |model: usize| {
            let own: Vec<(Row<'a>, f64)> = rows
                .clone()
                .filter_map(|row| {
                    let cost = row.costs[model].filter(|&cost| cost > 0.0)?;
                    Some((row, cost))
                })
                .collect();
            let count = own.len() as f64;
            let mean = if own.is_empty() {
                typical[model].max(1e-9).ln()
            } else {
                own.iter().map(|(_, cost)| cost.ln()).sum::<f64>() / count
            };
            let mut base = vec![0.0; dimensions];
            *base.first_mut()? = mean;
            let mut sums = LinearPrior::around(&vec![0.0; dimensions], 0.0);
            own.iter()
                .for_each(|(row, cost)| sums.add(row.features, cost.ln(), 1.0));
            let factor = (most_prompts / count.max(1.0)).min(1.0);
            let prior = sums.scaled_plus(factor, &LinearPrior::around(&base, 2.0))?;
            let weights = prior.mean()?;
            let residual = |(row, cost): &(Row<'a>, f64)| {
                let mean: f64 = weights
                    .iter()
                    .zip(row.features)
                    .map(|(w, x)| w * f64::from(*x))
                    .sum();
                (cost.ln() - mean).powi(2)
            };
            let variance = if count > 1.0 {
                own.iter().map(residual).sum::<f64>() / count
            } else {
                0.1
            };
            let mut head = LogNormal::new(Arc::new(prior), variance, 0.9999)?;
            for (row, cost) in &own {
                head.learn_category(row.features, row.category, *cost);
            }
            Some(head)
        };
        Self {
            heads: (0..models).map(head).collect(),
        }
    }

    /// Expected dollars at the list price.
    #[must_use]
    pub fn expect(&self, model: usize, features: &[f32], category: Option<&str>) -> f64 {
        self.heads[model]
            .as_ref()
            .map_or(0.0, |head| head.expect(features, category))
    }

    /// Learns the cost of a call at the list price.
    pub fn learn(&mut self, model: usize, features: &[f32], category: Option<&str>, cost_usd: f64) {
        if let Some(head) = &mut self.heads[model] {
            head.learn(features, category, cost_usd);
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
        let rows = rows.iter().map(|(features, cost)| Row {
            features,
            category: None,
            costs: vec![Some(*cost), None],
        });
        let meter = Meter::new(2, 2, rows, &[0.0, 0.5], 1000.0);
        assert!((meter.expect(0, &[1.0, 1.0], None) / (0.01 * 1.0_f64.exp()) - 1.0).abs() < 0.1);
        assert!((meter.expect(1, &[1.0, 1.0], None) / 0.5 - 1.0).abs() < 0.2);
    }
}
