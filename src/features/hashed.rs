//! Hashed word 1-2-grams through a frozen tf-idf and a truncated SVD.
//!
//! Weight of bucket b: (1 + ln count_b) idf_b, divided by the Euclidean norm over all buckets. Then z = V'x with the
//! right singular vectors V of the training prompts (Deerwester et al. 1990; hashing after Weinberger et al. 2009).
//! Numbers count by their length only: which number it is does not make a prompt hard.

use std::array;

use xxhash_rust::xxh3::xxh3_64;

use super::artefact::{Artefact, ArtefactError};
use super::numeric::{dampened, standardise};

/// Number of hash buckets.
pub const BUCKETS: usize = 1 << 15;
const WORD_BYTES: usize = 24;

/// Counts of hashed n-grams, gathered word by word.
#[derive(Clone, Debug)]
pub struct NGrams {
    /// A bit for each bucket that is filled: they come out in order, and nothing need be sorted.
    filled: Box<[u64; BUCKETS / 64]>,
    /// Filled buckets.
    distinct: usize,
    /// Buckets that were filled before, once for each time.
    again: Vec<u16>,
    previous: u64,
}

impl Default for NGrams {
    fn default() -> Self {
        Self {
            filled: Box::new([0; BUCKETS / 64]),
            distinct: 0,
            again: Vec::new(),
            previous: 0,
        }
    }
}

impl NGrams {
    /// Takes the next word in, and gives its hash.
    pub fn push(&mut self, word: &str) -> WordHash {
        let hash = WordHash::of(word);
        self.fill(hash.bucket());
        if self.previous != 0 {
            let pair = (self.previous.rotate_left(21) ^ hash.value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            self.fill((pair >> 49) as u16);
        }
        self.previous = hash.value;
        hash
    }

    fn fill(&mut self, bucket: u16) {
        let (group, bit) = (usize::from(bucket / 64), 1 << (bucket % 64));
        if self.filled[group] & bit == 0 {
            self.filled[group] |= bit;
            self.distinct += 1;
        } else {
            self.again.push(bucket);
        }
    }

    /// Forgets the words, and keeps the room that they took.
    pub(super) fn clear(&mut self) {
        self.filled.fill(0);
        self.distinct = 0;
        self.again.clear();
        self.previous = 0;
    }

    /// Each bucket once with 1 + ln of its count, in increasing order of buckets.
    pub fn weights(&mut self) -> Vec<(u16, f32)> {
        self.again.sort_unstable();
        let mut again = self.again.iter().copied().peekable();
        let mut weights = Vec::with_capacity(self.distinct);
        for (group, &bits) in (0..).zip(&*self.filled) {
            let mut bits = bits;
            while bits != 0 {
                let bucket = group * 64 + bits.trailing_zeros() as u16;
                bits &= bits - 1;
                let mut count = 1;
                while again.next_if_eq(&bucket).is_some() {
                    count += 1;
                }
                weights.push((bucket, dampened(count)));
            }
        }
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
    /// Row of the basis, in bfloat16, two values to a word: the first half of the row in the upper halves, the second
    /// in the lower ones. A mask and a shift make floats of them, four at a time. Zero beyond the width.
    loadings: [[u32; LANE]; LANES],
}

/// Words that one register holds.
const LANE: usize = 4;
const LANES: usize = 3;
/// The widest basis that there is room for.
const WIDEST: usize = 2 * HALF;
const HALF: usize = LANE * LANES;

impl Bucket {
    /// `row` is at most [`WIDEST`] long.
    fn new(idf: f32, row: &[u16]) -> Self {
        let value = |place: usize| row.get(place).map_or(0, |value| u32::from(*value));
        let word = |place| value(place) << 16 | value(place + HALF);
        Self {
            idf,
            loadings: array::from_fn(|lane| array::from_fn(|i| word(LANE * lane + i))),
        }
    }
}

/// Sums over buckets: of the first half of their rows, and of the second.
#[derive(Default)]
struct Sums {
    first: [[f32; LANE]; LANES],
    second: [[f32; LANE]; LANES],
}

impl Sums {
    #[inline]
    fn add(&mut self, weight: f32, bucket: &Bucket) {
        for lane in 0..LANES {
            for i in 0..LANE {
                let word = bucket.loadings[lane][i];
                self.first[lane][i] += weight * f32::from_bits(word & 0xffff_0000);
                self.second[lane][i] += weight * f32::from_bits(word << 16);
            }
        }
    }

    fn iter(&self) -> impl Iterator<Item = f32> {
        let halves = self.first.as_flattened().iter().chain(self.second.as_flattened());
        halves.copied()
    }
}

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
        let row = |bucket: usize| &basis[bucket * width..][..width];
        let bucket = |(bucket, idf)| Bucket::new(idf, row(bucket));
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
        let mut sums = Sums::default();
        for (bucket, weight) in weights {
            sums.add(weight, &self.buckets[usize::from(bucket)]);
        }
        let norm = if squares > 0.0 { squares.sqrt() } else { 1.0 };
        let sums = sums.iter().zip(&self.mean).zip(&self.scale);
        out.extend(sums.map(|((sum, mean), scale)| standardise(sum / norm, *mean, *scale)));
    }
}

#[cfg(test)]
mod tests {
    use super::super::numeric::to_bf16;
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
    fn rows_come_back_from_their_words() {
        let row: Vec<u16> = (0..20).map(|place| to_bf16(place as f32 - 7.5)).collect();
        let mut sums = Sums::default();
        sums.add(2.0, &Bucket::new(1.0, &row));
        let sums: Vec<f32> = sums.iter().collect();
        let expected: Vec<f32> = (0..20).map(|place| 2.0 * (place as f32 - 7.5)).collect();
        assert_eq!(sums[..20], expected);
        assert_eq!(sums[20..], [0.0; 4]);
    }

    #[test]
    fn numbers_count_by_length() {
        assert_eq!(weights(&["7"]), weights(&["3"]));
        assert_eq!(weights(&["1984"]), weights(&["20240101"]));
        assert_ne!(weights(&["7"]), weights(&["77"]));
    }
}
