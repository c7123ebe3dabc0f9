//! WordPiece: a word as the longest known pieces from left to right (Schuster and Nakajima 2012; BERT's greedy form).

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Slots of the lookup table; more than twice the words of any vocabulary we read.
const SLOTS: usize = 1 << 17;
const EMPTY: u16 = u16::MAX;
/// Bytes of a piece by which the lengths of its kin are known.
const HEAD: usize = 4;

/// The known pieces. Built once, read without locks.
#[derive(Clone, Debug)]
pub struct Vocabulary {
    /// All pieces one after another, without their continuation marks.
    letters: String,
    /// Where each piece ends in `letters`.
    ends: Vec<u32>,
    continues: Vec<bool>,
    slots: Vec<u16>,
    /// Which lengths there are among the pieces that begin with given bytes, so that most are never looked up.
    lengths: Vec<u32>,
    longest: usize,
}

impl Vocabulary {
    /// The vocabulary of `pieces` in the order of their ids; `##` marks one that continues a word. `None` when there
    /// are more than 65 534.
    #[must_use]
    pub fn new<'a>(pieces: impl IntoIterator<Item = &'a str>) -> Option<Self> {
        let mut vocabulary = Self {
            letters: String::new(),
            ends: Vec::new(),
            continues: Vec::new(),
            slots: vec![EMPTY; SLOTS],
            lengths: vec![0; 1 << 16],
            longest: 0,
        };
        for (id, piece) in pieces.into_iter().enumerate() {
            let id = u16::try_from(id).ok().filter(|id| *id != EMPTY)?;
            let (text, continues) = match piece.strip_prefix("##") {
                Some(rest) if !rest.is_empty() => (rest, true),
                _ => (piece, false),
            };
            vocabulary.letters.push_str(text);
            vocabulary.ends.push(vocabulary.letters.len() as u32);
            vocabulary.continues.push(continues);
            vocabulary.longest = vocabulary.longest.max(text.len());
            if text.len() >= HEAD {
                vocabulary.lengths[head(text.as_bytes())] |= length_bit(text.len());
            }
            let mut slot = slot(text, continues);
            while vocabulary.slots[slot] != EMPTY {
                slot = (slot + 1) % SLOTS;
            }
            vocabulary.slots[slot] = id;
        }
        Some(vocabulary)
    }

    /// Number of pieces.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is no piece at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Appends the ids of the pieces of `word`; appends nothing when some part of it is unknown.
    pub fn split(&self, word: &str, ids: &mut Vec<u16>) {
        let mark = ids.len();
        let mut start = 0;
        while start < word.len() {
            let rest = &word.as_bytes()[start..];
            let lengths = if rest.len() >= HEAD {
                self.lengths[head(rest)]
            } else {
                0
            };
            let mut end = word.floor_char_boundary(start + self.longest);
            let id = loop {
                if end <= start {
                    ids.truncate(mark);
                    return;
                }
                let length = end - start;
                let possible = length < HEAD || lengths & length_bit(length) != 0;
                if possible && let Some(id) = self.id(&word[start..end], start > 0) {
                    break id;
                }
                end = word.floor_char_boundary(end - 1);
            };
            ids.push(id);
            start = end;
        }
    }

    fn id(&self, text: &str, continues: bool) -> Option<u16> {
        let mut slot = slot(text, continues);
        loop {
            let id = self.slots[slot];
            if id == EMPTY {
                return None;
            }
            if self.continues[usize::from(id)] == continues && self.piece(id) == text {
                return Some(id);
            }
            slot = (slot + 1) % SLOTS;
        }
    }

    fn piece(&self, id: u16) -> &str {
        let index = usize::from(id);
        let start = if index == 0 {
            0
        } else {
            self.ends[index - 1] as usize
        };
        &self.letters[start..self.ends[index] as usize]
    }
}

/// Index of the first [`HEAD`] bytes of a piece.
fn head(bytes: &[u8]) -> usize {
    let first = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    (first.wrapping_mul(0x9E37_79B1) >> 16) as usize
}

/// The bit that stands for a length; all beyond 31 share the last one.
fn length_bit(length: usize) -> u32 {
    1 << length.min(31)
}

fn slot(text: &str, continues: bool) -> usize {
    xxh3_64_with_seed(text.as_bytes(), u64::from(continues)) as usize % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: [u16; 0] = [];

    fn split(vocabulary: &Vocabulary, word: &str) -> Vec<u16> {
        let mut ids = Vec::new();
        vocabulary.split(word, &mut ids);
        ids
    }

    #[test]
    fn the_longest_piece_wins_and_an_unknown_rest_voids_the_word() {
        let vocabulary = Vocabulary::new([
            "[UNK]",
            "un",
            "unaffect",
            "##able",
            "##ed",
            "##affable",
            "é",
            "#",
            "##",
        ])
        .unwrap();
        assert_eq!(split(&vocabulary, "unaffected"), [2, 4]);
        assert_eq!(split(&vocabulary, "unaffable"), [1, 5]);
        assert_eq!(
            split(&vocabulary, "able"),
            NONE,
            "a continuation cannot begin a word"
        );
        assert_eq!(split(&vocabulary, "unx"), NONE);
        assert_eq!(split(&vocabulary, "é"), [6]);
        assert_eq!(split(&vocabulary, "#"), [7]);
        assert_eq!(split(&vocabulary, ""), NONE);
    }

    #[test]
    fn a_vocabulary_beyond_sixteen_bits_is_refused() {
        let words: Vec<String> = (0..70_000).map(|i| format!("w{i}")).collect();
        assert!(Vocabulary::new(words.iter().map(String::as_str)).is_none());
    }
}
