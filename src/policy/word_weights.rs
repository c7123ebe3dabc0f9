//! Weights of single words, beside the weights of a view: Normal, each on its own (the diagonal of what a Kalman filter
//! would keep; Dredze et al. 2008 for such weights in classification).
//!
//! A prompt with the n word buckets J is z with z_j = 1 / sqrt(n) for j in J. Its words add sum_J m_j / sqrt(n) to what
//! is expected, with the variance sum_J v_j / n in units of the noise of one observation. Weights learn from what sets a
//! prompt apart from the mean prompt of its arm: they move along z less [`MeanWords`]. Else an arm whose answers all grow
//! longer would teach the words of its prompts to be long, for every arm. The mean has a share of nearly every word, so its
//! part waits for a few calls ([`WordWeights::centre`]).

use serde::{Deserialize, Serialize};

use super::packed;
use crate::context::WORD_SET_BUCKETS;

/// Weights never become firmer than this share of how they began, so that they can follow what changes.
const LEAST_SHARE: f32 = 1.0 / 256.0;

/// Sweeps of one fit.
const SWEEPS: usize = 6;

/// One weight per bucket of a [`WordSet`](crate::context::WordSet).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "Written", into = "Written")]
pub struct WordWeights {
    mean: Vec<f32>,
    variance: Vec<f32>,
    /// Variance of each weight before anything was observed.
    prior: f32,
}

/// [`WordWeights`] as they are kept: those of words that were seen.
#[derive(Serialize, Deserialize)]
struct Written {
    prior: f32,
    buckets: Vec<u16>,
    #[serde(with = "packed::singles")]
    mean: Vec<f32>,
    #[serde(with = "packed::singles")]
    variance: Vec<f32>,
}

impl From<WordWeights> for Written {
    fn from(weights: WordWeights) -> Self {
        let seen = (0..).zip(weights.mean.iter().zip(&weights.variance));
        let seen = seen.filter(|(_, (mean, variance))| **mean != 0.0 || **variance != weights.prior);
        let mut written = Self {
            prior: weights.prior,
            buckets: Vec::new(),
            mean: Vec::new(),
            variance: Vec::new(),
        };
        for (bucket, (mean, variance)) in seen {
            written.buckets.push(bucket);
            written.mean.push(*mean);
            written.variance.push(*variance);
        }
        written
    }
}

impl From<Written> for WordWeights {
    /// What is no number, and buckets that there are not, are left as they begin.
    fn from(written: Written) -> Self {
        let mut weights = Self::new(written.prior.clamp(1e-6, 1e3));
        let values = written.mean.into_iter().zip(written.variance);
        for (bucket, (mean, variance)) in written.buckets.into_iter().zip(values) {
            let place = usize::from(bucket);
            if place < WORD_SET_BUCKETS && mean.is_finite() && variance > 0.0 && variance <= weights.prior {
                weights.mean[place] = mean;
                weights.variance[place] = variance;
            }
        }
        weights
    }
}

impl WordWeights {
    /// All 0, each with the variance `prior` > 0.
    #[must_use]
    pub fn new(prior: f32) -> Self {
        Self {
            mean: vec![0.0; WORD_SET_BUCKETS],
            variance: vec![prior; WORD_SET_BUCKETS],
            prior,
        }
    }

    /// Moves to the posterior where nothing but `rows` was observed, prompts' buckets with what their words should add:
    /// ridge regression by coordinate descent from the present means, [`SWEEPS`] times over all buckets.
    pub fn fit(&mut self, rows: &[(&[u16], f64)]) {
        let values: Vec<f64> = rows
            .iter()
            .map(|(words, _)| 1.0 / (words.len().max(1) as f64).sqrt())
            .collect();
        let mut left: Vec<f64> = rows
            .iter()
            .map(|(words, target)| target - self.expect(words))
            .collect();
        let mut columns: Vec<Vec<u32>> = vec![Vec::new(); WORD_SET_BUCKETS];
        for (row, (words, _)) in (0..).zip(rows) {
            for &bucket in *words {
                if let Some(column) = columns.get_mut(usize::from(bucket)) {
                    column.push(row);
                }
            }
        }
        let least = self.prior * LEAST_SHARE;
        for _ in 0..SWEEPS {
            for (bucket, column) in columns.iter().enumerate() {
                let (mut squares, mut pull) = (0.0, 0.0);
                for &row in column {
                    let value = values[row as usize];
                    squares += value * value;
                    pull += value * left[row as usize];
                }
                let (own, precision) = (
                    f64::from(self.mean[bucket]),
                    1.0 / f64::from(self.prior) + squares,
                );
                let moved = (pull + squares * own) / precision - own;
                self.mean[bucket] = (own + moved) as f32;
                self.variance[bucket] = ((1.0 / precision) as f32).max(least);
                for &row in column {
                    left[row as usize] -= values[row as usize] * moved;
                }
            }
        }
    }

    /// What the words of a prompt add. Buckets that there are not add nothing.
    #[must_use]
    pub fn expect(&self, words: &[u16]) -> f64 {
        let sum: f32 = words
            .iter()
            .filter_map(|bucket| self.mean.get(usize::from(*bucket)))
            .sum();
        f64::from(sum) / (words.len().max(1) as f64).sqrt()
    }

    /// Variance of that.
    #[must_use]
    pub fn variance(&self, words: &[u16]) -> f64 {
        let sum: f32 = words
            .iter()
            .filter_map(|bucket| self.variance.get(usize::from(*bucket)))
            .sum();
        f64::from(sum) / words.len().max(1) as f64
    }

    /// Takes an observation in that was `error` above what was expected of everything, where `spread` is the variance of
    /// everything that was expected and of the noise: weights of its words move by v_j z_j error / spread.
    pub fn learn(&mut self, words: &[u16], error: f64, spread: f64) {
        if !(error.is_finite() && spread.is_finite() && spread > 0.0) {
            return;
        }
        let each = 1.0 / (words.len().max(1) as f64).sqrt();
        let (step, shrink) = ((each * error / spread) as f32, (each * each / spread) as f32);
        let least = self.prior * LEAST_SHARE;
        for &bucket in words {
            let place = usize::from(bucket);
            if let (Some(mean), Some(variance)) = (self.mean.get_mut(place), self.variance.get_mut(place)) {
                *mean += *variance * step;
                *variance = (*variance - *variance * *variance * shrink).max(least);
            }
        }
    }
}

impl WordWeights {
    /// Takes off what [`WordWeights::learn`] moved along the `usual` prompt: `owed` is the sum of error / spread since this
    /// was done last.
    pub fn centre(&mut self, usual: &MeanWords, owed: f64) {
        if usual.calls == 0.0 || !owed.is_finite() {
            return;
        }
        let gain = owed as f32 / usual.calls;
        for ((mean, variance), sum) in self.mean.iter_mut().zip(&self.variance).zip(&usual.sum) {
            *mean -= variance * sum * gain;
        }
    }
}

/// Prompts of an arm at which the mean of them begins to forget: the older half counts half.
const MEMORY: f32 = 1000.0;

/// The mean of z over the prompts of an arm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "WrittenMean", into = "WrittenMean")]
pub struct MeanWords {
    sum: Vec<f32>,
    calls: f32,
}

/// [`MeanWords`] as they are kept: those of words that were seen.
#[derive(Serialize, Deserialize)]
struct WrittenMean {
    calls: f32,
    buckets: Vec<u16>,
    #[serde(with = "packed::singles")]
    sum: Vec<f32>,
}

impl Default for MeanWords {
    fn default() -> Self {
        Self {
            sum: vec![0.0; WORD_SET_BUCKETS],
            calls: 0.0,
        }
    }
}

impl MeanWords {
    /// Prompts that it is the mean of.
    #[must_use]
    pub const fn calls(&self) -> f64 {
        self.calls as f64
    }

    /// Takes the words of a prompt in.
    pub fn note(&mut self, words: &[u16]) {
        if self.calls >= MEMORY {
            self.calls *= 0.5;
            self.sum.iter_mut().for_each(|sum| *sum *= 0.5);
        }
        self.calls += 1.0;
        let each = 1.0 / (words.len().max(1) as f32).sqrt();
        for bucket in words {
            if let Some(sum) = self.sum.get_mut(usize::from(*bucket)) {
                *sum += each;
            }
        }
    }
}

impl From<MeanWords> for WrittenMean {
    fn from(words: MeanWords) -> Self {
        let seen = (0..).zip(words.sum).filter(|(_, sum)| *sum != 0.0);
        let (buckets, sum) = seen.unzip();
        Self {
            calls: words.calls,
            buckets,
            sum,
        }
    }
}

impl From<WrittenMean> for MeanWords {
    /// What is no sum of shares, and buckets that there are not, are left out.
    fn from(written: WrittenMean) -> Self {
        let mut words = Self {
            calls: written.calls.clamp(0.0, MEMORY),
            ..Self::default()
        };
        for (bucket, share) in written.buckets.into_iter().zip(written.sum) {
            if let Some(sum) = words.sum.get_mut(usize::from(bucket))
                && (0.0..=words.calls).contains(&share)
            {
                *sum = share;
            }
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use rand::Rng as _;
    use rand::SeedableRng as _;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn one_observation_by_hand() {
        let mut weights = WordWeights::new(0.5);
        // Four words: z = 1/2 each, the variance of their sum is 0.5, that of everything 2.
        assert!((weights.variance(&[1, 2, 3, 4]) - 0.5).abs() < 1e-6);
        weights.learn(&[1, 2, 3, 4], 1.0, 2.0);
        // Each moves by 0.5 * 0.5 / 2 = 1/8, which adds 4 * 1/8 * 1/2 = 1/4.
        assert!((weights.expect(&[1, 2, 3, 4]) - 0.25).abs() < 1e-6);
        // And keeps 0.5 - 0.25 * 0.25 / 2 = 0.46875.
        assert!((weights.variance(&[1]) - 0.46875).abs() < 1e-6);
        assert_eq!(weights.expect(&[9]), 0.0);
        assert_eq!(weights.expect(&[]), 0.0);
        weights.learn(&[1], f64::NAN, 1.0);
        weights.learn(&[u16::MAX], 1.0, 1.0);
        assert!((weights.expect(&[1, 2, 3, 4]) - 0.25).abs() < 1e-6);
    }

    #[test]
    fn what_is_usual_moves_nothing() {
        let mut usual = MeanWords::default();
        usual.note(&[1, 2, 3, 4]);
        usual.note(&[1, 5, 6, 7]);
        let mut weights = WordWeights::new(0.5);
        weights.learn(&[1, 2, 3, 4], 1.0, 2.0);
        weights.learn(&[1, 5, 6, 7], 1.0, 2.0);
        // Word 1 is in every prompt: moved by 1/8 and then by .46875 * .5 / 2, and back by the variance left, .44128, times
        // 1/2 times what is owed, 1.
        let left = 0.125 + 0.117_187_5 - 0.441_284_2 * 0.5;
        weights.centre(&usual, 1.0);
        assert!(
            (weights.expect(&[1]) - left).abs() < 1e-5,
            "{}",
            weights.expect(&[1])
        );
        weights.centre(&MeanWords::default(), 1.0);
        assert!(
            (weights.expect(&[1]) - left).abs() < 1e-5,
            "no prompt is usual yet"
        );
    }

    /// Sixty words with known weights, prompts of ten of them, noise of .3.
    fn prompts(count: usize) -> Vec<(Vec<u16>, f64)> {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let truth: Vec<f64> = (0..60).map(|_| rng.gen_range(-2.0..2.0)).collect();
        let mut prompt = || {
            let words: Vec<u16> = (0..60).filter(|_| rng.gen_bool(1.0 / 6.0)).collect();
            let sum: f64 = words.iter().map(|&word| truth[usize::from(word)]).sum();
            let noise = rng.gen_range(-0.5..0.5);
            (words.clone(), sum / (words.len().max(1) as f64).sqrt() + noise)
        };
        (0..count).map(|_| prompt()).collect()
    }

    fn squared_error(weights: &WordWeights, prompts: &[(Vec<u16>, f64)]) -> f64 {
        let error = |(words, target): &(Vec<u16>, f64)| (target - weights.expect(words)).powi(2);
        prompts.iter().map(error).sum::<f64>() / prompts.len() as f64
    }

    #[test]
    fn what_words_add_is_found_at_once_and_on_the_way() {
        let all = prompts(3000);
        let (seen, fresh) = all.split_at(2000);
        let unknown = squared_error(&WordWeights::new(0.5), fresh);
        let rows: Vec<(&[u16], f64)> = seen.iter().map(|(words, target)| (&**words, *target)).collect();
        let mut at_once = WordWeights::new(0.5);
        at_once.fit(&rows);
        let fitted = squared_error(&at_once, fresh);
        let mut learning = WordWeights::new(0.5);
        let (mut usual, mut level) = (MeanWords::default(), 0.0);
        for (words, target) in seen {
            usual.note(words);
            let error = target - level - learning.expect(words);
            let spread = 1.0 + learning.variance(words);
            learning.learn(words, error, spread);
            learning.centre(&usual, error / spread);
            level += 0.02 * error;
        }
        let fresh: Vec<(Vec<u16>, f64)> = fresh
            .iter()
            .map(|(words, target)| (words.clone(), target - level))
            .collect();
        let fresh = &*fresh;
        let learned = squared_error(&learning, fresh);
        // The noise alone is 1/12.
        assert!(
            unknown > 1.0 && fitted < 0.1 && learned < 0.13,
            "{unknown} {fitted} {learned}"
        );
    }

    #[test]
    fn weights_survive_being_written_down() {
        let mut weights = WordWeights::new(0.25);
        let mut usual = MeanWords::default();
        usual.note(&[5, 9]);
        let text = serde_json::to_string(&usual).unwrap();
        assert_eq!(serde_json::from_str::<MeanWords>(&text).unwrap(), usual);
        weights.learn(&[5, 6], 0.7, 1.3);
        let text = serde_json::to_string(&weights).unwrap();
        assert!(text.len() < 200, "two words: {text}");
        assert_eq!(serde_json::from_str::<WordWeights>(&text).unwrap(), weights);
        let damaged = text.replace("[5,6]", "[5,65000]");
        let kept: WordWeights = serde_json::from_str(&damaged).unwrap();
        assert_eq!(kept.expect(&[5]), weights.expect(&[5]));
        assert_eq!(kept.expect(&[6]), 0.0);
    }
}
