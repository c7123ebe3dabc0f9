//! Hashed word 1-2-grams through a frozen tf-idf and a truncated SVD.
//!
//! Weight of bucket b: (1 + ln count_b) idf_b, divided by the Euclidean norm over all buckets. Then z = V'x with the
//! right singular vectors V of the training prompts (Deerwester et al. 1990; hashing after Weinberger et al. 2009).
//! Numbers count by their length only: which number it is does not make a prompt hard.

use xxhash_rust::xxh3::xxh3_64;

use super::artefact::{Artefact, ArtefactError};
use super::numeric::{dampened, from_bf16, standardise};

/// Number of hash buckets.
pub const BUCKETS: usize = 1 << 15;
const WORD_BYTES: usize = 24;

/// Counts of hashed n-grams, gathered word by word.
#[derive(Clone, Debug, Default)]
pub struct NGrams {
    buckets: Vec<u16>,
    previous: u64,
}

impl NGrams {
    /// Takes the next word in, and gives its hash.
    pub fn push(&mut self, word: &str) -> WordHash {
        let hash = WordHash::of(word);
        self.buckets.push(hash.bucket());
        if self.previous != 0 {
            let pair = (self.previous.rotate_left(21) ^ hash.value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            self.buckets.push((pair >> 49) as u16);
        }
        self.previous = hash.value;
        hash
    }

    /// Forgets the words, and keeps the room that they took.
    pub(super) fn clear(&mut self) {
        self.buckets.clear();
        self.previous = 0;
    }

    /// Each bucket once with 1 + ln of its count, in increasing order of buckets.
    pub fn weights(&mut self) -> Vec<(u16, f32)> {
        self.buckets.sort_unstable();
        let mut weights = Vec::with_capacity(self.buckets.len());
        let runs = self.buckets.chunk_by(|a, b| a == b);
        weights.extend(runs.map(|run| (run[0], dampened(run.len()))));
        weights
    }
}

/// The hash of a word; numbers of a kind share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WordHash {
    value: u64,
    whole: bool,
}

impl WordHash {
    pub(super) fn of(word: &str) -> Self {
        let bytes = word.as_bytes();
        if bytes.iter().all(u8::is_ascii_digit) {
            let value = xxh3_64(match bytes.len() {
                1 => b"0",
                2 | 3 => b"00",
                _ => b"0000",
            });
            return Self { value, whole: false };
        }
        Self {
            value: xxh3_64(&bytes[..bytes.len().min(WORD_BYTES)]) | 1,
            whole: bytes.len() <= WORD_BYTES,
        }
    }

    /// The bucket that the word falls into by itself.
    #[must_use]
    pub fn bucket(self) -> u16 {
        (self.value >> 49) as u16
    }

    /// The hash, not 0, if it is one of the whole word, which other words do not share.
    pub(super) fn whole(self) -> Option<u64> {
        self.whole.then_some(self.value)
    }
}

/// The frozen projection of n-gram counts.
#[derive(Clone, Debug)]
pub(super) struct HashProjection {
    buckets: Vec<Bucket>,
    mean: Vec<f32>,
    scale: Vec<f32>,
    width: usize,
}

/// What one bucket weighs and where it points: one cache line, because every bucket of a prompt is a line that no
/// cache holds.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Bucket {
    idf: f32,
    /// Row of the basis, in bfloat16; zero beyond the width.
    loadings: [u16; WIDEST],
}

/// The widest basis that fits into a line.
const WIDEST: usize = 28;

impl HashProjection {
    pub(super) fn read(artefact: &Artefact) -> Result<Self, ArtefactError> {
        let width = artefact.shape("hash.mean").map_or(0, |(_, columns)| columns);
        if width > WIDEST {
            return Err(ArtefactError::Tensor {
                name: "hash.mean".to_owned(),
                expected: format!("at most {WIDEST} columns"),
            });
        }
        let basis = artefact.words_u16("hash.basis", BUCKETS, width)?;
        let idf = artefact.floats("hash.idf", 1, BUCKETS)?;
        let bucket = |(bucket, idf)| {
            let mut loadings = [0; WIDEST];
            loadings[..width].copy_from_slice(&basis[bucket * width..][..width]);
            Bucket { idf, loadings }
        };
        Ok(Self {
            buckets: idf.into_iter().enumerate().map(bucket).collect(),
            mean: artefact.floats("hash.mean", 1, width)?,
            scale: artefact.floats("hash.scale", 1, width)?,
            width,
        })
    }

    pub(super) fn width(&self) -> usize {
        self.width
    }

    /// Appends `width` values, each standardised.
    pub(super) fn extract(&self, ngrams: &mut NGrams, out: &mut Vec<f32>) {
        // The weights first: a loop that does next to nothing beside each line waits for many lines at once, and the
        // second one finds them in the cache.
        let mut weights = ngrams.weights();
        let mut squares = 0.0;
        for (bucket, weight) in &mut weights {
            *weight *= self.buckets[usize::from(*bucket)].idf;
            squares += *weight * *weight;
        }
        let mut sums = [0.0_f32; WIDEST];
        for (bucket, weight) in weights {
            for (sum, loading) in sums.iter_mut().zip(&self.buckets[usize::from(bucket)].loadings) {
                *sum += weight * from_bf16(*loading);
            }
        }
        let norm = if squares > 0.0 { squares.sqrt() } else { 1.0 };
        let sums = sums.iter().zip(&self.mean).zip(&self.scale);
        out.extend(sums.map(|((sum, mean), scale)| standardise(sum / norm, *mean, *scale)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weights(words: &[&str]) -> Vec<(u16, f32)> {
        let mut ngrams = NGrams::default();
        words.iter().for_each(|word| {
            ngrams.push(word);
        });
        ngrams.weights()
    }

    #[test]
    fn counts_are_dampened_and_pairs_are_ordered() {
        let once = weights(&["a"]);
        assert_eq!(once.len(), 1);
        assert_eq!(once[0].1, 1.0);
        let thrice = weights(&["a", "a", "a"]);
        assert!(thrice.contains(&(once[0].0, 1.0 + 3.0_f32.ln())));
        assert_ne!(weights(&["a", "b"]), weights(&["b", "a"]));
    }

    #[test]
    fn numbers_count_by_length() {
        assert_eq!(weights(&["7"]), weights(&["3"]));
        assert_eq!(weights(&["1984"]), weights(&["20240101"]));
        assert_ne!(weights(&["7"]), weights(&["77"]));
    }
}
