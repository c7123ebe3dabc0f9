//! The language of a text: by its script, and among the Latin ones by their commonest words.

use std::hint::black_box;
use std::sync::LazyLock;

/// How much of a text is looked at.
const LOOK: usize = 2_048;
/// Fewer common words than this decide nothing.
const LEAST_WORDS: usize = 2;

/// Languages with their commonest words, chosen so that few are shared.
const COMMON: [(&str, &[&str]); 7] = [
    (
        "en",
        &[
            "the", "and", "is", "of", "to", "that", "what", "how", "you", "this", "with", "for", "are",
        ],
    ),
    (
        "de",
        &[
            "der", "die", "das", "und", "ist", "nicht", "ein", "eine", "wie", "ich", "mit", "für", "auf",
        ],
    ),
    (
        "fr",
        &[
            "le", "les", "est", "et", "une", "des", "je", "vous", "pour", "dans", "qui", "quel", "comment",
        ],
    ),
    (
        "es",
        &[
            "el", "los", "las", "y", "es", "una", "por", "cómo", "qué", "para", "del", "está", "mi",
        ],
    ),
    (
        "it",
        &[
            "il", "di", "che", "è", "una", "per", "sono", "come", "gli", "della", "mio", "cosa", "non",
        ],
    ),
    (
        "pt",
        &[
            "o", "os", "uma", "não", "para", "como", "você", "em", "do", "da", "meu", "são", "com",
        ],
    ),
    (
        "nl",
        &[
            "de", "het", "een", "en", "van", "ik", "niet", "hoe", "wat", "voor", "zijn", "met", "mijn",
        ],
    ),
];

/// The two-letter code of the language, when it can be told.
pub(super) fn of(text: &str) -> Option<&'static str> {
    let mut end = text.len().min(LOOK);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let text = &text[..end];
    by_script(text).or_else(|| by_words(text))
}

/// Bytes of the longest of the commonest words; longer ones say nothing.
const KEY: usize = 8;

/// A word of at most [`KEY`] bytes as a number; 0 for a longer one.
fn pack(word: &str) -> u64 {
    let mut bytes = [0; KEY];
    if let Some(start) = bytes.get_mut(..word.len()) {
        start.copy_from_slice(word.as_bytes());
    }
    u64::from_le_bytes(bytes)
}

/// The commonest words, each with a bit per language of [`COMMON`] that it is common in.
static WORDS: LazyLock<Words> = LazyLock::new(Words::new);

struct Words {
    keys: [u64; Words::SLOTS],
    languages: [u8; Words::SLOTS],
}

impl Words {
    /// Five times the words, so that most others meet an empty slot at once.
    const SLOTS: usize = 512;

    fn new() -> Self {
        let mut table = Self {
            keys: [0; Self::SLOTS],
            languages: [0; Self::SLOTS],
        };
        for (language, (_, words)) in COMMON.iter().enumerate() {
            for word in *words {
                let key = pack(word);
                let slot = table.slot(key);
                table.keys[slot] = key;
                table.languages[slot] |= 1 << language;
            }
        }
        table
    }

    /// Where `key` is, or would be.
    fn slot(&self, key: u64) -> usize {
        let mut slot = (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 55) as usize;
        while self.keys[slot] != key && self.keys[slot] != 0 {
            slot = (slot + 1) % Self::SLOTS;
        }
        slot
    }

    fn of(&self, key: u64) -> u8 {
        self.languages[self.slot(key)]
    }

    /// Has the keys come from memory all at once: one after another, each would be waited for.
    fn fetch(&self) {
        const KEYS_PER_LINE: usize = 8;
        for key in self.keys.iter().step_by(KEYS_PER_LINE) {
            black_box(*key);
        }
    }
}

/// The language of the script that most letters beyond Latin belong to, if those are a fifth of all letters.
fn by_script(text: &str) -> Option<&'static str> {
    if text.is_ascii() {
        return None;
    }
    const SCRIPTS: [&str; 9] = ["ja", "ko", "zh", "ru", "ar", "he", "el", "hi", "th"];
    let mut counts = [0usize; SCRIPTS.len()];
    let mut letters = 0usize;
    for c in text.chars().filter(|c| c.is_alphabetic()) {
        letters += 1;
        let script = match c as u32 {
            0x3040..=0x30ff => 0,
            0xac00..=0xd7af | 0x1100..=0x11ff => 1,
            0x3400..=0x4dbf | 0x4e00..=0x9fff => 2,
            0x0400..=0x04ff => 3,
            0x0600..=0x06ff => 4,
            0x0590..=0x05ff => 5,
            0x0370..=0x03ff => 6,
            0x0900..=0x097f => 7,
            0x0e00..=0x0e7f => 8,
            _ => continue,
        };
        counts[script] += 1;
    }
    // Japanese mixes kana with Chinese characters; any fair share of kana decides.
    let han_and_kana = counts[0] + counts[2];
    if counts[0] * 10 >= han_and_kana.max(1) && han_and_kana * 5 >= letters.max(1) {
        return Some("ja");
    }
    let (script, count) = counts.iter().enumerate().max_by_key(|(_, count)| **count)?;
    (*count > 0 && count * 5 >= letters).then(|| SCRIPTS[script])
}

fn by_words(text: &str) -> Option<&'static str> {
    let mut votes = Votes::default();
    WORDS.fetch();
    if text.is_ascii() {
        ascii_words(text.as_bytes(), |key| votes.add(WORDS.of(key)));
    } else {
        let words = text.split(|c: char| !c.is_alphabetic());
        for word in words.filter(|word| (1..=KEY).contains(&word.len())) {
            votes.add(WORDS.of(pack(&word.to_lowercase())));
        }
    }
    votes.winner()
}

/// Gives each word of at most [`KEY`] letters in lower case, as [`pack`] has it.
fn ascii_words(text: &[u8], mut visit: impl FnMut(u64)) {
    let (mut key, mut length) = (0, 0);
    for byte in text {
        if byte.is_ascii_alphabetic() {
            // The lower case of a letter is one bit away. What goes beyond the key is never asked for.
            key |= u64::from(byte | 0x20).wrapping_shl(8 * length);
            length += 1;
            continue;
        }
        if is_key(length) {
            visit(key);
        }
        (key, length) = (0, 0);
    }
    if is_key(length) {
        visit(key);
    }
}

/// Whether a word of so many letters has a key.
const fn is_key(length: u32) -> bool {
    length > 0 && length as usize <= KEY
}

/// Words heard for each language of [`COMMON`].
#[derive(Default)]
struct Votes([usize; COMMON.len()]);

impl Votes {
    /// Counts a word for the languages whose bits are set.
    fn add(&mut self, languages: u8) {
        if languages != 0 {
            for (language, vote) in self.0.iter_mut().enumerate() {
                *vote += usize::from((languages >> language) & 1);
            }
        }
    }

    /// The language with the most words, if those are enough and no other has as many.
    fn winner(&self) -> Option<&'static str> {
        let best = *self.0.iter().max()?;
        let mut leaders = COMMON.iter().zip(&self.0).filter(|(_, votes)| **votes == best);
        let ((code, _), _) = leaders.next()?;
        (best >= LEAST_WORDS && leaders.next().is_none()).then_some(*code)
    }
}

#[cfg(test)]
mod tests {
    use super::{KEY, ascii_words, of, pack};

    #[test]
    fn common_languages_are_told_apart() {
        for (text, language) in [
            ("How do I return the shoes that I bought last week?", Some("en")),
            (
                "Wie kann ich die Schuhe zurückgeben, und was ist mit der Rechnung?",
                Some("de"),
            ),
            (
                "Comment puis-je rendre les chaussures dans le magasin ?",
                Some("fr"),
            ),
            ("¿Cómo puedo devolver los zapatos por correo?", Some("es")),
            ("Come posso restituire le scarpe che sono rotte?", Some("it")),
            ("Como posso devolver os sapatos? Não são meus.", Some("pt")),
            ("Hoe kan ik de schoenen van mijn zoon terugsturen?", Some("nl")),
            ("如何退货？我的鞋子坏了", Some("zh")),
            ("靴を返品するにはどうすればいいですか", Some("ja")),
            ("신발을 어떻게 반품하나요", Some("ko")),
            ("Как вернуть обувь?", Some("ru")),
            ("كيف أعيد الحذاء؟", Some("ar")),
            ("IST DAS NICHT SCHÖN UND GUT?", Some("de")),
            ("xxxxxxxxxxx yyyyyyyyyyyyy", None),
            ("2 + 2 = ?", None),
            ("", None),
        ] {
            assert_eq!(of(text), language, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn words_of_ascii_are_those_of_any_text(text in "[a-zA-Z ,.]{0,80}") {
            let mut keys = Vec::new();
            ascii_words(text.as_bytes(), |key| keys.push(key));
            let words = text.split(|c: char| !c.is_alphabetic());
            let words = words.filter(|word| (1..=KEY).contains(&word.len()));
            let expected: Vec<u64> = words.map(|word| pack(&word.to_lowercase())).collect();
            assert_eq!(keys, expected);
        }
    }
}
