//! Remembers how words were split into pieces: few words make most of all text, and to split one costs a look into a
//! large table for each piece.

use super::static_table::StaticTable;

/// Words remembered: a power of two.
const SLOTS: usize = 1 << 14;
/// Pieces of a remembered word at most.
const PIECES: usize = 11;

/// Splits of words by the words' hashes. A newer word takes the place of an older one. What is told is what
/// [`StaticTable::split`] tells, whatever was asked before.
#[derive(Clone, Debug, Default)]
pub(super) struct SplitMemo {
    /// Empty where nothing is to be remembered.
    slots: Vec<Slot>,
}

/// One remembered word: half a cache line, never parts of two.
#[derive(Clone, Copy, Debug, Default)]
#[repr(align(32))]
struct Slot {
    /// 0 for none.
    hash: u64,
    pieces: [u16; PIECES],
    count: u8,
}

impl SplitMemo {
    /// One that remembers.
    pub(super) fn new() -> Self {
        Self {
            slots: vec![Slot::default(); SLOTS],
        }
    }

    /// Appends the pieces of `word`. `hash` is a hash of the whole word that is not 0, `None` if there is none.
    pub(super) fn split(&mut self, table: &StaticTable, word: &str, hash: Option<u64>, ids: &mut Vec<u16>) {
        // The buckets of n-grams are the hash's highest bits; these are others.
        let place = hash.and_then(|hash| self.slots.get_mut((hash >> 8) as usize % SLOTS).zip(Some(hash)));
        let Some((slot, hash)) = place else {
            return table.split(word, ids);
        };
        if slot.hash == hash {
            ids.extend_from_slice(&slot.pieces[..usize::from(slot.count)]);
            return;
        }
        let mark = ids.len();
        table.split(word, ids);
        let pieces = &ids[mark..];
        if pieces.len() <= PIECES {
            *slot = Slot {
                hash,
                count: pieces.len() as u8,
                ..Slot::default()
            };
            slot.pieces[..pieces.len()].copy_from_slice(pieces);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use xxhash_rust::xxh3::xxh3_64;

    use super::super::wordpiece::Vocabulary;
    use super::*;

    proptest! {
        #[test]
        fn what_is_remembered_is_what_would_be_split_again(words in prop::collection::vec("[abc]{1,12}", 1..60)) {
            let vocabulary = Vocabulary::new(["a", "##a", "b", "##bc", "##b", "abc"]).unwrap();
            let table = StaticTable::new(vocabulary, vec![1; 6], 1).unwrap();
            let (mut memo, mut remembered, mut anew) = (SplitMemo::new(), Vec::new(), Vec::new());
            for _ in 0..2 {
                for word in &words {
                    memo.split(&table, word, Some(xxh3_64(word.as_bytes()) | 1), &mut remembered);
                    SplitMemo::default().split(&table, word, Some(1), &mut anew);
                }
            }
            prop_assert_eq!(remembered, anew);
        }
    }
}
