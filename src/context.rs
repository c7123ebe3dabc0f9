//! The context of a decision: what the prompt looked like when the arm was drawn, kept until its scores are in.

use std::sync::Arc;

/// Buckets of the words of a [`WordSet`]: a power of two.
pub const WORD_SET_BUCKETS: usize = 1 << 12;

/// Which words a prompt holds, each by the bucket that its hash falls into. How long an answer will be hangs on small
/// words (explain, briefly, only, list) that views of the meaning weigh down.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WordSet(Arc<[u16]>);

impl WordSet {
    /// From buckets in any order, taken modulo [`WORD_SET_BUCKETS`]; each counts once.
    #[must_use]
    pub fn new(buckets: impl IntoIterator<Item = u16>) -> Self {
        let mut builder = WordSetBuilder::default();
        buckets.into_iter().for_each(|bucket| builder.insert(bucket));
        builder.build()
    }

    /// The buckets, each below [`WORD_SET_BUCKETS`], in increasing order.
    #[must_use]
    pub fn buckets(&self) -> &[u16] {
        &self.0
    }
}

/// Gathers a [`WordSet`] word by word.
#[derive(Clone, Copy, Debug)]
pub struct WordSetBuilder([u64; WORD_SET_BUCKETS / 64]);

impl Default for WordSetBuilder {
    fn default() -> Self {
        Self([0; WORD_SET_BUCKETS / 64])
    }
}

impl WordSetBuilder {
    /// Takes a word in by its bucket, modulo [`WORD_SET_BUCKETS`].
    pub const fn insert(&mut self, bucket: u16) {
        let place = bucket as usize % WORD_SET_BUCKETS;
        self.0[place / 64] |= 1 << (place % 64);
    }

    /// The set of the words that were taken in.
    #[must_use]
    pub fn build(self) -> WordSet {
        let count = self.0.iter().map(|bits| bits.count_ones() as usize).sum();
        let mut buckets = Vec::with_capacity(count);
        for (group, mut bits) in (0..).zip(self.0) {
            while bits != 0 {
                buckets.push(group * 64 + bits.trailing_zeros() as u16);
                bits &= bits - 1;
            }
        }
        WordSet(buckets.into())
    }
}

/// Feature vectors with the versions of the frozen projections that made them. Statistics never cross versions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Features {
    /// The text view: always there.
    pub text: Arc<[f32]>,
    /// Version of its projection.
    pub text_version: u32,
    /// The embedding view, when it was ready in time.
    pub embedding: Option<Arc<[f32]>>,
    /// Version of its projection.
    pub embedding_version: u32,
    /// The words, whatever the projections.
    pub words: WordSet,
}

impl Features {
    /// Whether there is nothing to learn from.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.text.is_empty() && self.embedding.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_counts_once_and_its_bucket_is_in_range() {
        let last = WORD_SET_BUCKETS as u16 - 1;
        let set = WordSet::new([last, 3, 3, last + 1, 64]);
        assert_eq!(set.buckets(), [0, 3, 64, last]);
        assert_eq!(WordSet::new([64, last, 0, 3]), set);
        assert!(WordSet::default().buckets().is_empty());
    }
}
