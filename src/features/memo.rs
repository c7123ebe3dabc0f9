//! Remembers how words were split into pieces: few words make most of all text, and to split one costs a look into a
//! large table for each piece.

use std::hint::black_box;

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

    /// Appends the pieces of all `words`, those of the words that are remembered first.
    ///
    /// At most times no near cache holds what is looked up here. Memory that is asked for by one look right after
    /// another comes together, so looks are made in rounds: first those of all words, then those of the ones missed.
    pub(super) fn split_all(&mut self, table: &StaticTable, words: &mut SomeWords, ids: &mut Vec<u16>) {
        let SomeWords {
            letters,
            ends,
            missed,
        } = words;
        missed.clear();
        for (_, hash) in &*ends {
            black_box(
                hash.and_then(|hash| self.slots.get(place(hash)))
                    .map(|slot| slot.hash),
            );
        }
        let mut from = 0;
        for &(end, hash) in &*ends {
            match self.remembered(hash) {
                Some(slot) => ids.extend_from_slice(&slot.pieces[..usize::from(slot.count)]),
                None => missed.push((from, end, hash)),
            }
            from = end;
        }
        table.fetch(missed.iter().map(|&(from, end, _)| &letters[from..end]));
        for &(from, end, hash) in &*missed {
            self.split(table, &letters[from..end], hash, ids);
        }
    }

    /// The slot of the word with this hash, if it is remembered.
    fn remembered(&self, hash: Option<u64>) -> Option<&Slot> {
        hash.and_then(|hash| self.slots.get(place(hash)).filter(|slot| slot.hash == hash))
    }

    /// Appends the pieces of `word`. `hash` is a hash of the whole word that is not 0, `None` if there is none.
    fn split(&mut self, table: &StaticTable, word: &str, hash: Option<u64>, ids: &mut Vec<u16>) {
        if let Some(slot) = self.remembered(hash) {
            ids.extend_from_slice(&slot.pieces[..usize::from(slot.count)]);
            return;
        }
        let slot = hash.and_then(|hash| self.slots.get_mut(place(hash)).zip(Some(hash)));
        let Some((slot, hash)) = slot else {
            return table.split(word, ids);
        };
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

/// Where a word with this hash is remembered. The buckets of n-grams are the hash's highest bits; these are others.
fn place(hash: u64) -> usize {
    (hash >> 8) as usize % SLOTS
}

/// The words of a prompt, ready to be split all together.
#[derive(Clone, Debug, Default)]
pub(super) struct SomeWords {
    /// All letters one after another.
    letters: String,
    /// Where each word ends in `letters`, and its hash as [`SplitMemo::split`] takes it.
    ends: Vec<(usize, Option<u64>)>,
    /// Room for those that are not remembered: where they begin and end, and their hashes.
    missed: Vec<(usize, usize, Option<u64>)>,
}

impl SomeWords {
    /// Forgets the words, and keeps the room that they took.
    pub(super) fn clear(&mut self) {
        self.letters.clear();
        self.ends.clear();
    }

    /// Takes the next word in. `hash` is a hash of the whole word that is not 0, `None` if there is none.
    pub(super) fn push(&mut self, word: &str, hash: Option<u64>) {
        self.letters.push_str(word);
        self.ends.push((self.letters.len(), hash));
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
            let mut anew = Vec::new();
            let mut some = SomeWords::default();
            for word in &words {
                some.push(word, Some(xxh3_64(word.as_bytes()) | 1));
                table.split(word, &mut anew);
            }
            anew.sort_unstable();
            for mut memo in [SplitMemo::new(), SplitMemo::default()] {
                for _ in 0..2 {
                    let mut remembered = Vec::new();
                    memo.split_all(&table, &mut some, &mut remembered);
                    remembered.sort_unstable();
                    prop_assert_eq!(&remembered, &anew);
                }
            }
        }
    }
}
