//! Words and signs of a text, folded as uncased BERT models fold them: lower case, accents dropped, ideographs and
//! punctuation on their own, control characters gone.
//!
//! The folding covers Latin, Greek, Cyrillic and Vietnamese letters and Hangul; rarer marks stay as they are. It is
//! deterministic and needs no table of its own.

/// Longest word kept, in bytes; the rest of a longer one is dropped.
const MAX_WORD: usize = 100;

/// Calls `visit` with every word and every sign of `text`, in order.
pub fn each(text: &str, mut visit: impl FnMut(&str)) {
    let bytes = text.as_bytes();
    let mut word = String::with_capacity(MAX_WORD + 8);
    let mut at = 0;
    while at < bytes.len() {
        let start = at;
        while at < bytes.len() && matches!(KIND[usize::from(bytes[at])], Kind::Small) {
            at += 1;
        }
        let run = &text[start..at];
        let next = bytes.get(at).map_or(Kind::Space, |byte| KIND[usize::from(*byte)]);
        // Most words stand there as they are, and need no copy.
        let is_whole = matches!(next, Kind::Space | Kind::Sign) && word.is_empty() && run.len() <= MAX_WORD;
        if is_whole && !run.is_empty() {
            visit(run);
        } else if !is_whole {
            run.chars().for_each(|symbol| push(&mut word, symbol));
        }
        let Some(&byte) = bytes.get(at) else { break };
        at += 1;
        match next {
            Kind::Small | Kind::Control => {}
            Kind::Capital => push(&mut word, char::from(byte.to_ascii_lowercase())),
            Kind::Space => flush(&mut word, &mut visit),
            Kind::Sign => alone(char::from(byte), &mut word, &mut visit),
            Kind::Wide => {
                at -= 1;
                let Some(symbol) = text[at..].chars().next() else {
                    break;
                };
                at += symbol.len_utf8();
                wide(symbol, &mut word, &mut visit);
            }
        }
    }
    flush(&mut word, &mut visit);
}

/// A character beyond ASCII.
fn wide(symbol: char, word: &mut String, visit: &mut impl FnMut(&str)) {
    if symbol.is_whitespace() {
        flush(word, visit);
    } else if symbol.is_control() || is_invisible(symbol) {
    } else if is_ideograph(symbol) || !(symbol.is_alphanumeric() || is_mark(symbol)) {
        alone(symbol, word, visit);
    } else {
        for lower in symbol.to_lowercase() {
            fold(lower, word);
        }
    }
}

/// What a byte is: a small letter or digit, a capital, a break between words, nothing, a sign, or the beginning of a
/// character beyond ASCII.
#[derive(Clone, Copy)]
enum Kind {
    Small,
    Capital,
    Space,
    Control,
    Sign,
    Wide,
}

/// The [`Kind`] of every byte.
static KIND: [Kind; 256] = {
    let mut kinds = [Kind::Wide; 256];
    let mut byte = 0;
    while byte < 128 {
        kinds[byte] = match byte as u8 {
            b'a'..=b'z' | b'0'..=b'9' => Kind::Small,
            b'A'..=b'Z' => Kind::Capital,
            b' ' | b'\n' | b'\r' | b'\t' => Kind::Space,
            0..=0x1f | 0x7f => Kind::Control,
            _ => Kind::Sign,
        };
        byte += 1;
    }
    kinds
};

fn push(word: &mut String, symbol: char) {
    if word.len() < MAX_WORD {
        word.push(symbol);
    }
}

fn flush(word: &mut String, visit: &mut impl FnMut(&str)) {
    if !word.is_empty() {
        visit(word);
        word.clear();
    }
}

fn alone(symbol: char, word: &mut String, visit: &mut impl FnMut(&str)) {
    flush(word, visit);
    visit(symbol.encode_utf8(&mut [0; 4]));
}

fn is_invisible(symbol: char) -> bool {
    matches!(symbol, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2064}' | '\u{ad}' | '\u{feff}' | '\u{fffd}')
}

fn is_mark(symbol: char) -> bool {
    matches!(symbol, '\u{300}'..='\u{36f}' | '\u{900}'..='\u{dff}' | '\u{e30}'..='\u{e4e}' | '\u{591}'..='\u{5c7}' | '\u{610}'..='\u{61a}' | '\u{64b}'..='\u{65f}')
}

/// Han characters, as BERT counts them (kana and Hangul are alphabets).
fn is_ideograph(symbol: char) -> bool {
    matches!(symbol, '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{2fa1f}')
}

/// Appends `symbol` (lower case) without its accent; a Hangul syllable as its letters (Unicode 3.12).
fn fold(symbol: char, word: &mut String) {
    let folded = match symbol {
        '\u{300}'..='\u{36f}' => return,
        'à'..='å' | 'ā' | 'ă' | 'ą' | 'ǎ' | '\u{1ea0}'..='\u{1eb7}' => 'a',
        'ç' | 'ć' | 'ĉ' | 'ċ' | 'č' => 'c',
        'ď' => 'd',
        'è'..='ë' | 'ē' | 'ĕ' | 'ė' | 'ę' | 'ě' | '\u{1eb8}'..='\u{1ec7}' => 'e',
        'ĝ' | 'ğ' | 'ġ' | 'ģ' | 'ǧ' => 'g',
        'ĥ' => 'h',
        'ì'..='ï' | 'ĩ' | 'ī' | 'ĭ' | 'į' | 'ǐ' | '\u{1ec8}'..='\u{1ecb}' => 'i',
        'ĵ' => 'j',
        'ķ' => 'k',
        'ĺ' | 'ļ' | 'ľ' => 'l',
        'ñ' | 'ń' | 'ņ' | 'ň' => 'n',
        'ò'..='ö' | 'ō' | 'ŏ' | 'ő' | 'ơ' | 'ǒ' | '\u{1ecc}'..='\u{1ee3}' => 'o',
        'ŕ' | 'ŗ' | 'ř' => 'r',
        'ś' | 'ŝ' | 'ş' | 'š' | 'ș' => 's',
        'ţ' | 'ť' | 'ț' => 't',
        'ù'..='ü' | 'ũ' | 'ū' | 'ŭ' | 'ů' | 'ű' | 'ų' | 'ư' | 'ǔ' | '\u{1ee4}'..='\u{1ef1}' => 'u',
        'ŵ' => 'w',
        'ý' | 'ÿ' | 'ŷ' | '\u{1ef2}'..='\u{1ef9}' => 'y',
        'ź' | 'ż' | 'ž' => 'z',
        'ά' => 'α',
        'έ' => 'ε',
        'ή' => 'η',
        'ί' | 'ϊ' | 'ΐ' => 'ι',
        'ό' => 'ο',
        'ύ' | 'ϋ' | 'ΰ' => 'υ',
        'ώ' => 'ω',
        'й' => 'и',
        'ё' => 'е',
        'ї' => 'і',
        '\u{ac00}'..='\u{d7a3}' => return hangul(symbol, word),
        other => other,
    };
    push(word, folded);
}

fn hangul(syllable: char, word: &mut String) {
    let index = u32::from(syllable) - 0xac00;
    let letters = [
        0x1100 + index / 588,
        0x1161 + index % 588 / 28,
        0x11a7 + index % 28,
    ];
    let count = if index.is_multiple_of(28) { 2 } else { 3 };
    for letter in letters.into_iter().take(count).filter_map(char::from_u32) {
        push(word, letter);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        let mut words = Vec::new();
        each(text, |word| words.push(word.to_owned()));
        words
    }

    #[test]
    fn words_signs_and_ideographs_stand_apart() {
        assert_eq!(
            words("Don't PANIC: 3.5€!"),
            ["don", "'", "t", "panic", ":", "3", ".", "5", "€", "!"]
        );
        assert_eq!(words("東京の人口"), ["東", "京", "の", "人", "口"]);
    }

    #[test]
    fn accents_controls_and_composition_do_not_matter() {
        assert_eq!(words("Café\0 ÜBER na\u{200b}ïve"), ["cafe", "uber", "naive"]);
        assert_eq!(words("cafe\u{301}"), words("café"));
        assert_eq!(words("Điện thoại"), ["đien", "thoai"]);
        assert_eq!(words("한"), ["\u{1112}\u{1161}\u{11ab}"]);
    }

    #[test]
    fn an_endless_word_is_cut() {
        assert_eq!(words(&"x".repeat(5000)), ["x".repeat(MAX_WORD)]);
    }

    /// The same, character by character.
    fn plainly(text: &str) -> Vec<String> {
        let (mut words, mut word) = (Vec::new(), String::new());
        let mut visit = |word: &str| words.push(word.to_owned());
        for symbol in text.chars() {
            match symbol {
                'a'..='z' | '0'..='9' => push(&mut word, symbol),
                'A'..='Z' => push(&mut word, symbol.to_ascii_lowercase()),
                ' ' | '\n' | '\r' | '\t' => flush(&mut word, &mut visit),
                '\0'..='\u{1f}' | '\u{7f}' => {}
                '\u{80}'.. => wide(symbol, &mut word, &mut visit),
                _ => alone(symbol, &mut word, &mut visit),
            }
        }
        flush(&mut word, &mut visit);
        words
    }

    proptest::proptest! {
        #[test]
        fn words_without_a_copy_are_those_of_the_plain_way(text in "[a-zA-Z0-9 .,\n\u{1}éßÜ東\u{301}\u{200b}]{0,160}") {
            assert_eq!(words(&text), plainly(&text));
        }

        #[test]
        fn no_word_is_empty_or_holds_a_space(text in "\\PC*") {
            each(&text, |word| assert!(!word.is_empty() && !word.contains(' ') && word.len() <= MAX_WORD + 3));
        }
    }
}
