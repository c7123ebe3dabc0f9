//! What a call is expected to cost: a log-normal head per model, for recorded data that holds dollars.

use std::sync::Arc;

use crate::policy::linear::LinearPrior;
use crate::policy::lognormal::{Asked, COMMON_WORDS, LogNormal, OWN_WORDS};
use crate::policy::word_weights::{MeanWords, WordWeights};

/// Times that weights, categories and words are fitted in turn, each to what the others leave.
const TURNS: usize = 3;

/// A labelled prompt.
#[derive(Clone, Debug)]
pub struct Row<'a> {
    /// What is known of it beforehand.
    pub asked: Asked<'a>,
    /// Dollars of each model, where recorded.
    pub costs: Vec<Option<f64>>,
}

impl Row<'_> {
    /// Logarithm of what `model` cost, where it cost anything.
    fn log(&self, model: usize) -> Option<f64> {
        let cost = self.costs[model].filter(|&cost| cost > 0.0)?;
        Some(cost.ln())
    }
}

/// Expected dollars of each model on a prompt, learned from the costs of the models that were called. The dollars
/// are those at the list price; a known price change multiplies them.
#[derive(Clone, Debug)]
pub struct Meter {
    heads: Vec<Option<LogNormal>>,
    /// What words mean to all models' costs.
    words: WordWeights,
}

/// Weights of words while a meter is fitted.
struct Words {
    common: WordWeights,
    own: Vec<WordWeights>,
}

impl Words {
    fn expect(&self, model: usize, words: &[u16]) -> f64 {
        self.common.expect(words) + self.own[model].expect(words)
    }
}

impl Meter {
    /// From labelled prompts. A model without any starts from
    /// `typical`, the cost that its price list and a typical length give.
    #[must_use]
    pub fn new(dimensions: usize, rows: &[Row<'_>], typical: &[f64], most_prompts: f64) -> Self {
        let (heads, words) = fit(dimensions, rows, typical, most_prompts);
        if rows.iter().all(|row| row.asked.words.is_empty()) {
            return Self {
                heads,
                words: words.common,
            };
        }
        // So many weights fit what they were fitted on better than what is to come.
        let part = |odd: usize| -> Vec<Row<'_>> {
            let rows = rows.iter().enumerate();
            rows.filter(|(place, _)| place / 5 % 2 == odd)
                .map(|(_, row)| row.clone())
                .collect()
        };
        let (half, of_half) = fit(dimensions, &part(0), typical, most_prompts);
        let rest = part(1);
        let dress = |(model, (head, own)): (usize, (Option<LogNormal>, WordWeights))| {
            let head = head?;
            let mut usual = MeanWords::default();
            let seen = rows.iter().filter(|row| row.log(model).is_some());
            seen.for_each(|row| usual.note(row.asked.words));
            let errors = rest.iter().filter_map(|row| {
                let left = half[model]
                    .as_ref()?
                    .residual(&row.asked, row.costs[model]?, &nothing());
                let error = left - of_half.expect(model, row.asked.words);
                error.is_finite().then_some(error * error)
            });
            let (count, sum) = errors.fold((0.0, 0.0), |(count, sum), error| (count + 1.0, sum + error));
            let variance = if count < 10.0 {
                head.spread().powi(2)
            } else {
                sum / count
            };
            Some(head.with_words(own, usual, variance))
        };
        Self {
            heads: heads.into_iter().zip(words.own).enumerate().map(dress).collect(),
            words: words.common,
        }
    }

    /// Expected dollars at the list price.
    #[must_use]
    pub fn expect(&self, model: usize, asked: &Asked<'_>) -> f64 {
        self.heads[model]
            .as_ref()
            .map_or(0.0, |head| head.expect(asked, &self.words))
    }

    /// Learns the cost of a call at the list price.
    pub fn learn(&mut self, model: usize, asked: &Asked<'_>, cost_usd: f64) {
        if let Some(head) = &mut self.heads[model] {
            head.learn(asked, cost_usd, &mut self.words);
        }
    }
}

/// Words of no weight.
fn nothing() -> WordWeights {
    WordWeights::new(COMMON_WORDS)
}

/// Heads that know no words, and the words beside them, fitted in turn.
fn fit(
    dimensions: usize,
    rows: &[Row<'_>],
    typical: &[f64],
    most_prompts: f64,
) -> (Vec<Option<LogNormal>>, Words) {
    let models = 0..typical.len();
    let mut words = Words {
        common: nothing(),
        own: vec![WordWeights::new(OWN_WORDS); typical.len()],
    };
    let fit = |words: &Words| -> Vec<Option<LogNormal>> {
        models
            .clone()
            .map(|model| head(model, dimensions, rows, typical[model], most_prompts, words))
            .collect()
    };
    let mut heads = fit(&words);
    if rows.iter().any(|row| !row.asked.words.is_empty()) {
        for _ in 0..TURNS {
            words.refit(rows, &heads);
            heads = fit(&words);
        }
    }
    (heads, words)
}

impl Words {
    /// Fits the words to what `heads`, which know no words, leave: what a prompt's words mean to all models to the mean of
    /// them, for the answers to one prompt are no independent observations of it; then what they mean to each besides.
    fn refit(&mut self, rows: &[Row<'_>], heads: &[Option<LogNormal>]) {
        let nothing = nothing();
        let left = |row: &Row<'_>, model: usize| {
            let cost = row.costs[model].filter(|&cost| cost > 0.0)?;
            Some(heads[model].as_ref()?.residual(&row.asked, cost, &nothing))
        };
        let own = &self.own;
        let shared: Vec<(&[u16], f64)> = rows
            .iter()
            .filter_map(|row| {
                let models = (0..heads.len())
                    .filter_map(|model| Some(left(row, model)? - own[model].expect(row.asked.words)));
                let (count, sum) = models.fold((0.0, 0.0), |(count, sum), left| (count + 1.0, sum + left));
                (count > 0.0).then(|| (row.asked.words, sum / count))
            })
            .collect();
        self.common.fit(&shared);
        for (model, own) in self.own.iter_mut().enumerate() {
            let besides: Vec<(&[u16], f64)> = rows
                .iter()
                .filter_map(|row| {
                    let words = row.asked.words;
                    Some((words, left(row, model)? - self.common.expect(words)))
                })
                .collect();
            own.fit(&besides);
        }
    }
}

/// The head of one model, fitted to what the words leave. `None` if that cannot be.
fn head(
    model: usize,
    dimensions: usize,
    rows: &[Row<'_>],
    typical: f64,
    most_prompts: f64,
    words: &Words,
) -> Option<LogNormal> {
    let own: Vec<(&Asked<'_>, f64)> = rows
        .iter()
        .filter_map(|row| {
            let said = words.expect(model, row.asked.words);
            Some((&row.asked, row.log(model)? - said))
        })
        .collect();
    let count = own.len() as f64;
    let mean = if own.is_empty() {
        typical.max(1e-9).ln()
    } else {
        own.iter().map(|(_, log)| log).sum::<f64>() / count
    };
    let mut base = vec![0.0; dimensions];
    *base.first_mut()? = mean;
    let mut sums = LinearPrior::around(&vec![0.0; dimensions], 0.0);
    own.iter()
        .for_each(|(asked, log)| sums.add(asked.features, *log, 1.0));
    let factor = (most_prompts / count.max(1.0)).min(1.0);
    let prior = sums.scaled_plus(factor, &LinearPrior::around(&base, 2.0))?;
    let weights = prior.mean()?;
    let residual = |(asked, log): &(&Asked<'_>, f64)| {
        let mean: f64 = weights
            .iter()
            .zip(asked.features)
            .map(|(w, x)| w * f64::from(*x))
            .sum();
        (log - mean).powi(2)
    };
    let variance = if count > 1.0 {
        own.iter().map(residual).sum::<f64>() / count
    } else {
        0.1
    };
    let mut head = LogNormal::new(Arc::new(prior), variance, 0.9999)?;
    for (asked, log) in &own {
        head.learn_category(asked.features, asked.category, *log);
    }
    Some(head)
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
        let rows: Vec<Row<'_>> = rows
            .iter()
            .map(|(features, cost)| Row {
                asked: Asked {
                    features,
                    ..Asked::default()
                },
                costs: vec![Some(*cost), None],
            })
            .collect();
        let meter = Meter::new(2, &rows, &[0.0, 0.5], 1000.0);
        let long = Asked {
            features: &[1.0, 1.0],
            ..Asked::default()
        };
        assert!((meter.expect(0, &long) / (0.01 * 1.0_f64.exp()) - 1.0).abs() < 0.1);
        assert!((meter.expect(1, &long) / 0.5 - 1.0).abs() < 0.2);
    }

    /// One word makes every model's answer three times as long, another one only that of the second, and a third
    /// comes with every prompt.
    #[test]
    fn a_word_tells_what_a_call_costs() {
        let costs = |said: &[u16]| {
            let both = if said.contains(&7) { 3.0 } else { 1.0 };
            let second = if said.contains(&8) { 3.0 } else { 1.0 };
            vec![Some(0.01 * both), Some(0.02 * both * second)]
        };
        let prompts: Vec<Vec<u16>> = (0..400_u16)
            .map(|turn| {
                let both = if turn % 2 == 0 { 7 } else { 9 };
                let second = if turn % 3 == 0 { 8 } else { 10 };
                vec![1, both, second, 100 + turn % 50]
            })
            .collect();
        let rows: Vec<Row<'_>> = prompts
            .iter()
            .map(|words| Row {
                asked: asked(words),
                costs: costs(words),
            })
            .collect();
        let mut meter = Meter::new(1, &rows, &[0.01, 0.02], 1000.0);
        for words in [[1, 9, 10, 100], [1, 7, 10, 101], [1, 9, 8, 102], [1, 7, 8, 103]] {
            for (model, cost) in costs(&words).into_iter().enumerate() {
                let expected = meter.expect(model, &asked(&words)) / cost.unwrap();
                assert!((0.8..1.25).contains(&expected), "{model} {words:?}: {expected}");
            }
        }
        // And what changes is followed: the word means nothing any more.
        for turn in 0..600_usize {
            let words = &prompts[turn % 400];
            meter.learn(0, &asked(words), 0.01);
        }
        let expected = meter.expect(0, &asked(&[1, 7, 10, 104])) / 0.01;
        assert!((0.8..1.3).contains(&expected), "{expected}");
    }

    fn asked(words: &[u16]) -> Asked<'_> {
        Asked {
            features: &[1.0],
            category: None,
            words,
        }
    }
}
