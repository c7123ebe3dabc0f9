//! WordPiece: a word as the longest known pieces from left to right (Schuster and Nakajima 2012; BERT's greedy form).

use std::hint::black_box;

use xxhash_rust::xxh3::xxh3_64;

/// Slots of the table from pieces to ids: a power of two, at most half full.
const SLOTS: usize = 1 << 16;
const SLOT_BITS: u32 = SLOTS.trailing_zeros();
/// No key is zero: its highest byte holds a length.
const EMPTY: u64 = 0;
/// Bytes by which the lengths of the pieces are known that begin with them.
const HEAD: usize = 3;
/// Bits of their hash.
const HEAD_BITS: u32 = 15;
/// Bytes that a key holds as they are. Longer pieces are hashed, and compared letter by letter.
const EXACT: usize = 5;
/// Bits of a slot that hold the id.
const ID: u64 = 0xffff;
/// Odd, and its bits well mixed: the golden ratio times 2^64.
const MIX: u64 = 0x9e37_79b9_7f4a_7c15;

/// The pieces, and a table that finds them. Read-only once built.
#[derive(Clone, Debug)]
pub struct Vocabulary {
    /// All pieces one after another, without the mark of a continuation.
    letters: String,
    /// Where each piece ends in `letters`.
    ends: Vec<u32>,
    /// Key and id of the piece in each slot, [`EMPTY`] for none: one word, because every look is a cache line that no
    /// cache holds. Collisions go to the next slot.
    slots: Vec<u64>,
    /// By a hash of the first [`HEAD`] bytes and of whether the piece continues a word: the lengths that such
    /// pieces have, one bit each. Most lengths that a word could be cut to are no piece's, and need not be tried.
    /// Small enough to stay in a processor's nearer cache.
    lengths: Vec<u16>,
    /// Ids of the pieces of one or two letters or digits, the commonest of words that are no word: few enough to be
    /// looked up without a hash. [`NONE`] where there is no such piece.
    short: Vec<u16>,
    longest: usize,
}

impl Vocabulary {
    /// From the pieces in the order of their ids; a piece that continues a word begins with `##`. `None` when there
    /// are more than a 16-bit id or the table can hold, or one is longer than 255 bytes.
    #[must_use]
    pub fn new<'a>(pieces: impl IntoIterator<Item = &'a str>) -> Option<Self> {
        let mut vocabulary = Self {
            letters: String::new(),
            ends: Vec::new(),
            slots: vec![EMPTY; SLOTS],
            lengths: vec![0; 1 << HEAD_BITS],
            short: vec![NONE; SIGNS * SIGNS * 2],
            longest: 0,
        };
        for (id, piece) in pieces.into_iter().enumerate() {
            let id = u16::try_from(id).ok().filter(|id| usize::from(*id) < SLOTS / 2)?;
            let (text, continues) = match piece.strip_prefix("##") {
                Some(rest) if !rest.is_empty() => (rest, true),
                _ => (piece, false),
            };
            if text.len() > 255 {
                return None;
            }
            vocabulary.letters.push_str(text);
            vocabulary.ends.push(vocabulary.letters.len() as u32);
            vocabulary.longest = vocabulary.longest.max(text.len());
            if let Some(place) = short_place(text.as_bytes(), continues) {
                vocabulary.short[place] = id;
            }
            let start = Start::of(text.as_bytes());
            if text.len() >= HEAD {
                vocabulary.lengths[start.head(continues)] |= length_bit(text.len());
            }
            let key = start.key(text.as_bytes(), text.len(), continues);
            let mut slot = slot(key);
            while vocabulary.slots[slot] != EMPTY {
                slot = (slot + 1) % SLOTS;
            }
            vocabulary.slots[slot] = key | u64::from(id);
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

    /// Appends the ids of `word`'s pieces; nothing when some part of it is unknown.
    pub fn split(&self, word: &str, ids: &mut Vec<u16>) {
        let mark = ids.len();
        let mut rest = word.as_bytes();
        while !rest.is_empty() {
            match self.longest_piece(rest, rest.len() < word.len()) {
                Some((id, length)) => {
                    ids.push(id);
                    rest = &rest[length..];
                }
                None => {
                    ids.truncate(mark);
                    return;
                }
            }
        }
    }

    /// Has what the first piece of each of `words` is found by come from memory, for all of them at once: one after
    /// another, each would be waited for.
    pub(super) fn fetch<'a>(&self, words: impl Iterator<Item = &'a str> + Clone) {
        let words = words.map(|word| (Start::of(word.as_bytes()), word.as_bytes()));
        for (start, _) in words.clone() {
            black_box(self.lengths[start.head(false)]);
        }
        for (start, word) in words {
            let lengths = self.lengths_below_long(&start, word.len(), false);
            if let Some(length) = lengths.checked_ilog2() {
                let length = length as usize;
                black_box(self.slots[slot(start.key(&word[..length], length, false))]);
            }
        }
    }

    /// The lengths below [`LONG`] and up to `most` that a piece with this beginning may have, one bit each.
    fn lengths_below_long(&self, start: &Start, most: usize, continues: bool) -> u16 {
        self.lengths[start.head(continues)] & (length_bit(most.min(LONG - 1) + 1) - 1)
    }

    /// The longest piece that `rest` begins with, and its length. Pieces are whole characters, so a match of bytes
    /// ends where a character does.
    fn longest_piece(&self, rest: &[u8], continues: bool) -> Option<(u16, usize)> {
        let start = Start::of(rest);
        let most = rest.len().min(self.longest);
        let find = |length| {
            self.find(&start, &rest[..length], continues)
                .map(|id| (id, length))
        };
        if most >= HEAD {
            if self.lengths[start.head(continues)] & length_bit(LONG) != 0
                && let Some(found) = (LONG..=most).rev().find_map(find)
            {
                return Some(found);
            }
            let mut lengths = self.lengths_below_long(&start, most, continues);
            while lengths != 0 {
                let length = lengths.ilog2();
                if let Some(found) = find(length as usize) {
                    return Some(found);
                }
                lengths ^= 1 << length;
            }
        }
        (1..HEAD.min(most + 1))
            .rev()
            .find_map(|length| match short_place(&rest[..length], continues) {
                Some(place) => Some(self.short[place])
                    .filter(|id| *id != NONE)
                    .map(|id| (id, length)),
                None => find(length),
            })
    }

    fn find(&self, start: &Start, text: &[u8], continues: bool) -> Option<u16> {
        let key = start.key(text, text.len(), continues);
        let mut slot = slot(key);
        loop {
            let found = self.slots[slot];
            if found & !ID == key {
                let id = (found & ID) as u16;
                if text.len() <= EXACT || self.piece(id) == text {
                    return Some(id);
                }
            } else if found == EMPTY {
                return None;
            }
            slot = (slot + 1) % SLOTS;
        }
    }

    fn piece(&self, id: u16) -> &[u8] {
        let index = usize::from(id);
        let start = if index == 0 {
            0
        } else {
            self.ends[index - 1] as usize
        };
        &self.letters.as_bytes()[start..self.ends[index] as usize]
    }
}

/// No piece has this id: it is beyond what the table can hold.
const NONE: u16 = u16::MAX;
/// Small letters, digits, and nothing.
const SIGNS: usize = 37;

/// Place of a piece of one or two small letters or digits; `None` for any other.
fn short_place(text: &[u8], continues: bool) -> Option<usize> {
    let sign = |byte: u8| match byte {
        b'a'..=b'z' => Some(usize::from(byte - b'a') + 1),
        b'0'..=b'9' => Some(usize::from(byte - b'0') + 27),
        _ => None,
    };
    let place = match *text {
        [first] => sign(first)? * SIGNS,
        [first, second] => sign(first)? * SIGNS + sign(second)?,
        _ => return None,
    };
    Some(place * 2 + usize::from(continues))
}

/// The first bytes of a text, ready to be cut to any length.
struct Start(u64);

impl Start {
    fn of(text: &[u8]) -> Self {
        Self(match text.first_chunk::<8>() {
            Some(bytes) => u64::from_le_bytes(*bytes),
            None => {
                let mut bytes = [0; 8];
                bytes[..text.len()].copy_from_slice(text);
                u64::from_le_bytes(bytes)
            }
        })
    }

    /// Place of the first [`HEAD`] bytes in the table of lengths.
    fn head(&self, continues: bool) -> usize {
        let head = (self.0 & 0xff_ffff) | (u64::from(continues) << 24);
        (head.wrapping_mul(MIX) >> (64 - HEAD_BITS)) as usize
    }

    /// The key of a piece with these first bytes: its letters, or a hash of them, between its kind in the highest
    /// byte and room for its id in the lowest two.
    fn key(&self, text: &[u8], length: usize, continues: bool) -> u64 {
        let letters = if length <= EXACT {
            self.0 & ((1 << (8 * length)) - 1)
        } else {
            xxh3_64(text) >> (64 - 8 * EXACT)
        };
        let kind = 0x80 | ((length.min(LONG) as u64) << 1) | u64::from(continues);
        (letters << 16) | (kind << 56)
    }
}

/// Lengths from here on share a bit.
const LONG: usize = 15;

fn length_bit(length: usize) -> u16 {
    1 << length.min(LONG)
}

fn slot(key: u64) -> usize {
    (key.wrapping_mul(MIX) >> (64 - SLOT_BITS)) as usize
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
