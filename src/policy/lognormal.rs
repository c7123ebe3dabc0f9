//! Positive quantities that depend on the prompt, such as the length of an answer.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::linear::{Linear, LinearDelta, LinearPrior};
use super::word_weights::{MeanWords, WordWeights};

/// Weight of one call in the running variance and ratio, once there are many.
const GAIN: f64 = 0.005;
/// Observations that the prior variance counts for.
const PRIOR_CALLS: f64 = 10.0;

/// Calls of no effect that a category's offset is shrunk by, and the most categories that are kept apart.
const CATEGORY_SHRINKAGE: f64 = 8.0;
const MOST_CATEGORIES: usize = 256;

/// Variance that a word's weight starts with, in units of one observation's noise: what it means to all arms, and what
/// it means to one arm besides.
pub const COMMON_WORDS: f32 = 0.5;
/// See [`COMMON_WORDS`].
pub const OWN_WORDS: f32 = 0.5;

/// What is known of a prompt before it is answered.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked<'a> {
    /// Its features.
    pub features: &'a [f32],
    /// Its category.
    pub category: Option<&'a str>,
    /// Buckets of its words.
    pub words: &'a [u16],
}

/// ln y ~ Normal(w . x + o(category) + (u + v) . z, s^2) with features x and words z, where u is common to all arms and v
/// is this one's own, and the learned ratio kappa of what was seen to what was expected: E\[y\] = kappa exp(that mean +
/// s^2 / 2).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LogNormal {
    linear: Linear,
    /// v, once a word was seen.
    #[serde(default)]
    words: Option<OwnWords>,
    /// What a category adds to the logarithm, with the calls behind it.
    categories: BTreeMap<String, (f64, f64)>,
    variance: f64,
    ratio: f64,
    calls: u64,
}

/// What words mean to one arm, and which its prompts usually have.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct OwnWords {
    weights: WordWeights,
    usual: MeanWords,
    /// What the latest residuals came to in the mean: features, category and ratio have yet to learn it, and words never
    /// should.
    level: f64,
    /// Sum of surprise over spread, along the usual prompt, that the weights have still to be rid of, and its calls.
    owed: (f64, u8),
}

/// Calls that the level remembers.
const LEVEL_CALLS: f64 = 15.0;
/// Calls after which the words are rid of what they learned along the usual prompt: that moves every weight.
const CALLS_OWED: u8 = 8;

impl OwnWords {
    fn new(weights: WordWeights, usual: MeanWords) -> Self {
        Self {
            weights,
            usual,
            level: 0.0,
            owed: (0.0, 0),
        }
    }

    /// Takes a prompt in with what was left of its answer, and gives what its words are to learn.
    fn note(&mut self, words: &[u16], residual: f64) -> f64 {
        self.usual.note(words);
        self.level += (residual - self.level) / self.usual.calls().min(LEVEL_CALLS);
        residual - self.level
    }

    /// Learns a surprise, here and in the `common` weights.
    fn learn(&mut self, words: &[u16], surprise: f64, spread: f64, common: &mut WordWeights) {
        self.weights.learn(words, surprise, spread);
        common.learn(words, surprise, spread);
        self.owed = (self.owed.0 + surprise / spread, self.owed.1 + 1);
        if self.owed.1 >= CALLS_OWED {
            let (owed, _) = std::mem::take(&mut self.owed);
            self.weights.centre(&self.usual, owed);
            common.centre(&self.usual, owed);
        }
    }
}

impl LogNormal {
    /// Starts at a prior on the weights of ln y and on its residual variance. `None` if the prior is singular.
    #[must_use]
    pub fn new(prior: Arc<LinearPrior>, variance: f64, forgetting: f64) -> Option<Self> {
        Some(Self {
            linear: Linear::new(prior, forgetting)?,
            words: None,
            categories: BTreeMap::new(),
            variance: variance.clamp(1e-4, 4.0),
            ratio: 1.0,
            calls: 0,
        })
    }

    /// The same with weights of words that were fitted beside the prior on prompts that have these words in the mean, and
    /// with the residual variance of all of it on prompts that it was not fitted on.
    #[must_use]
    pub fn with_words(self, weights: WordWeights, usual: MeanWords, variance: f64) -> Self {
        Self {
            words: Some(OwnWords::new(weights, usual)),
            variance: variance.clamp(1e-4, 4.0),
            ..self
        }
    }

    /// Takes over what words mean to `old`: they do not depend on its features, and add nothing in the mean.
    pub fn keep_words(&mut self, old: &Self) {
        if old.words.is_some() {
            self.words.clone_from(&old.words);
        }
    }

    /// E\[y | x\], with the weights of words that all arms share.
    #[must_use]
    pub fn expect(&self, asked: &Asked<'_>, common: &WordWeights) -> f64 {
        let exponent = self.linear.mean(asked.features)
            + self.offset(asked.category)
            + self.said(asked.words, common)
            + 0.5 * self.variance;
        // An exponent beyond e^20 is a broken feature, not a length.
        self.ratio * exponent.clamp(-30.0, 20.0).exp()
    }

    /// What the words add.
    fn said(&self, words: &[u16], common: &WordWeights) -> f64 {
        common.expect(words) + self.words.as_ref().map_or(0.0, |own| own.weights.expect(words))
    }

    /// Standard deviation of ln y.
    #[must_use]
    pub fn spread(&self) -> f64 {
        self.variance.sqrt()
    }

    fn offset(&self, category: Option<&str>) -> f64 {
        category
            .and_then(|name| self.categories.get(name))
            .map_or(0.0, |(offset, _)| *offset)
    }

    /// Learns only what a category adds: for seeds, once the weights are fitted. `log` is ln y less what the words add.
    pub fn learn_category(&mut self, features: &[f32], category: Option<&str>, log: f64) {
        let Some(name) = category.filter(|_| log.is_finite()) else {
            return;
        };
        if !self.categories.contains_key(name) {
            if self.categories.len() >= MOST_CATEGORIES {
                return;
            }
            self.categories.insert(name.to_owned(), (0.0, 0.0));
        }
        let residual = log - self.linear.mean(features);
        if let Some((offset, calls)) = self.categories.get_mut(name) {
            *calls += 1.0;
            *offset += (residual - *offset) / (*calls + CATEGORY_SHRINKAGE).min(1.0 / GAIN);
        }
    }

    /// ln y less everything that is expected of it.
    #[must_use]
    pub fn residual(&self, asked: &Asked<'_>, observed: f64, common: &WordWeights) -> f64 {
        observed.ln()
            - self.linear.mean(asked.features)
            - self.offset(asked.category)
            - self.said(asked.words, common)
    }

    /// Keeps account of what is observed from now on.
    pub fn keep_account(&mut self) {
        self.linear.keep_account();
    }

    /// What the weights have observed since the account was begun or last taken.
    pub fn take_delta(&mut self) -> Option<LinearDelta> {
        self.linear.take_delta()
    }

    /// Adds what another replica has observed. False when it does not fit.
    pub fn merge(&mut self, delta: &LinearDelta) -> bool {
        self.linear.merge(delta)
    }

    /// Puts another's prior under what was observed here. False when it does not fit.
    pub fn rebase(&mut self, other: &Self) -> bool {
        self.linear.rebase(other.linear.prior())
    }

    /// Number of weights.
    #[must_use]
    pub fn dimensions(&self) -> usize {
        self.linear.dimensions()
    }

    /// Takes one observed y > 0 into account, here and in the words' `common` weights. Weights, own words and common
    /// words share its surprise by their variances, as in a Kalman filter whose covariance holds these blocks alone: learned
    /// side by side, each on all of it, they overshoot.
    pub fn learn(&mut self, asked: &Asked<'_>, observed: f64, common: &mut WordWeights) {
        let Asked {
            features,
            category,
            words,
        } = *asked;
        if observed.is_nan() || observed <= 0.0 || features.len() != self.dimensions() {
            return;
        }
        self.calls += 1;
        let gain = (1.0 / (self.calls as f64 + PRIOR_CALLS)).max(GAIN);
        let log = observed.ln();
        let said = self.said(words, common);
        let residual = self.residual(asked, observed, common);
        // One outlier (an empty answer, a run-away one) must not blow the variance up.
        let squared = (residual * residual).min(9.0 * self.variance);
        let share = (observed * self.ratio / self.expect(asked, common)).min(20.0);
        self.variance = (self.variance + gain * (squared - self.variance)).clamp(1e-4, 4.0);
        self.ratio = (self.ratio + gain * (share - self.ratio)).clamp(0.2, 5.0);
        if words.is_empty() {
            self.linear.update(features, log - self.offset(category), 1.0);
        } else {
            let own = self
                .words
                .get_or_insert_with(|| OwnWords::new(WordWeights::new(OWN_WORDS), MeanWords::default()));
            let surprise = own.note(words, residual);
            let of_words = own.weights.variance(words) + common.variance(words);
            let along = self.linear.along(features);
            let of_weights: f32 = along.iter().zip(features).map(|(a, x)| a * x).sum();
            let spread = 1.0 + of_words + f64::from(of_weights.max(0.0));
            own.learn(words, surprise, spread, common);
            let target = log - said - self.offset(category);
            self.linear
                .update_along(&along, features, target, 1.0 / (1.0 + of_words));
        }
        self.learn_category(features, category, log - self.said(words, common));
        if self.linear.needs_refresh() {
            self.linear.refresh();
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::Rng as _;
    use rand::SeedableRng as _;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn expects_the_mean_and_not_the_median() {
        let prior = Arc::new(LinearPrior::around(&[5.0], 1.0));
        let mut head = LogNormal::new(prior, 0.5, 1.0).unwrap();
        let mut common = WordWeights::new(COMMON_WORDS);
        let plain = Asked {
            features: &[1.0],
            ..Asked::default()
        };
        // Half 100, half 900: the mean is 500, the median of a log-normal there is 300.
        for turn in 0..4000 {
            head.learn(&plain, if turn % 2 == 0 { 100.0 } else { 900.0 }, &mut common);
        }
        assert!(
            (head.expect(&plain, &common) - 500.0).abs() < 50.0,
            "{}",
            head.expect(&plain, &common)
        );
        head.learn(&plain, f64::NAN, &mut common);
        head.learn(&plain, 0.0, &mut common);
        assert!(head.expect(&plain, &common).is_finite());
    }

    /// All answers of one arm become eleven times as long. What its prompts' words mean to other arms hardly moves.
    #[test]
    fn one_arms_level_is_not_taken_for_the_words_of_its_prompts() {
        let prompt = |turn: u64| -> Vec<u16> {
            let mut rng = ChaCha8Rng::seed_from_u64(turn);
            // Some words are in nearly every prompt, most are rare.
            (0..300_u16)
                .filter(|word| rng.gen_bool(if *word < 10 { 0.8 } else { 0.08 }))
                .collect()
        };
        let head = || LogNormal::new(Arc::new(LinearPrior::around(&[5.0], 500.0)), 0.3, 1.0).unwrap();
        // From the first call, or after three hundred as expected.
        for settled in [0, 300] {
            let (mut changed, other) = (head(), head());
            let mut common = WordWeights::new(COMMON_WORDS);
            let before = other.expect(&asked(&prompt(1000)), &common);
            for turn in 0..settled {
                changed.learn(&asked(&prompt(turn)), before, &mut common);
            }
            for turn in 0..400 {
                changed.learn(&asked(&prompt(turn % 60)), before * 11.0, &mut common);
                // Of a change on the way a little is taken for words until the level is found.
                let most = if settled == 0 || turn > 300 { 0.1 } else { 0.25 };
                if turn % 25 == 24 {
                    for fresh in 1000..1020 {
                        let now = other.expect(&asked(&prompt(fresh)), &common) / before;
                        assert!((now - 1.0).abs() < most, "{settled}, after {turn}: {now}");
                    }
                }
            }
            let learned = changed.expect(&asked(&prompt(2000)), &common) / before;
            assert!(learned > 5.0, "the arm itself follows: {learned}");
        }
    }

    fn asked(words: &[u16]) -> Asked<'_> {
        Asked {
            features: &[1.0],
            category: None,
            words,
        }
    }
}
