//! Answers to requests that mean the same.
//!
//! An embedding says what a question is about, not what it asks exactly: two questions that differ in a number, a name
//! or a "not" lie close together. So a question is compared only with those that have the same such words, and only
//! where the rest of the request is equal. Whoever asks is always part of that rest.

use std::collections::VecDeque;
use std::hash::Hasher;
use std::sync::{Arc, PoisonError, RwLock};

use xxhash_rust::xxh3::Xxh3;

use super::Key;
use crate::request::{ChatRequest, Part, ResponseFormat, Role};

/// Longest question, in bytes: of longer ones the embedding sees too little.
const LONGEST: usize = 1_000;

/// What a question means, and what it may be compared with.
#[derive(Clone, Debug)]
pub struct Meaning {
    /// The request without the question.
    pub frame: Key,
    /// Its telling words, hashed.
    pub telling: u64,
    /// Its embedding, of length 1.
    pub vector: Arc<[f32]>,
    /// Least cosine to another question for an equal one.
    pub threshold: f32,
}

/// The question, if the request is one and nothing else: instructions and one short text of a user, no tools, no turns
/// before it, no form that the answer must have.
#[must_use]
pub fn question(request: &ChatRequest) -> Option<&str> {
    let tools = !request.tools.is_empty() || !request.other_tools.is_empty() || request.tool_choice.is_some();
    let many = request.sampling.n.is_some_and(|n| n > 1);
    if tools || many || request.response_format != ResponseFormat::Text {
        return None;
    }
    let (last, before) = request.messages.split_last()?;
    let instructions = before
        .iter()
        .all(|message| matches!(message.role, Role::System | Role::Developer));
    match last.parts.as_slice() {
        [Part::Text(text)] if instructions && last.role == Role::User && text.len() <= LONGEST => {
            (!text.trim().is_empty()).then_some(text)
        }
        _ => None,
    }
}

/// Words that turn a question around, or choose between two.
const TURNING: &[&str] = &[
    "not",
    "no",
    "never",
    "none",
    "nor",
    "neither",
    "cannot",
    "without",
    "except",
    "unless",
    "but",
    "only",
    "all",
    "any",
    "both",
    "more",
    "less",
    "most",
    "least",
    "fewer",
    "before",
    "after",
    "first",
    "last",
    "next",
    "previous",
    "min",
    "max",
    "minimum",
    "maximum",
    "highest",
    "lowest",
    "largest",
    "smallest",
    "longest",
    "shortest",
    "best",
    "worst",
    "increase",
    "decrease",
    "above",
    "below",
    "over",
    "under",
    "left",
    "right",
    "true",
    "false",
    "correct",
    "incorrect",
    "buy",
    "sell",
    "open",
    "close",
    "start",
    "stop",
    "enable",
    "disable",
    "add",
    "remove",
    "encode",
    "decode",
];
/// Numbers in words.
const NUMBERS: &[&str] = &[
    "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "twenty", "thirty", "fifty", "hundred", "thousand", "million", "half", "double",
];

/// A hash of the words in which questions of one subject differ: numbers, negations and their like, names in the middle
/// of a sentence, code and whatever else holds a sign within a word. Order and repetition do not count.
#[must_use]
pub fn telling(question: &str) -> u64 {
    let mut words: Vec<String> = Vec::new();
    let mut begins = true;
    for word in question.split_whitespace() {
        let ends = word.ends_with(['.', '!', '?', ':']);
        let bare =
            word.trim_matches(|c: char| !c.is_alphanumeric() && !matches!(c, '+' | '-' | '#' | '%' | '$'));
        let lower = bare.to_lowercase();
        let named = !begins && bare.chars().next().is_some_and(char::is_uppercase) && bare != "I";
        let shortened = lower.ends_with("n't") || lower.ends_with("n’t");
        let odd = bare
            .chars()
            .any(|c| c.is_numeric() || !(c.is_alphanumeric() || matches!(c, '\'' | '’' | '-')));
        if shortened {
            words.push("not".to_owned());
        } else if odd || named || TURNING.contains(&lower.as_str()) || NUMBERS.contains(&lower.as_str()) {
            words.push(lower);
        }
        begins = ends;
    }
    words.sort_unstable();
    words.dedup();
    let mut hash = Xxh3::new();
    for word in &words {
        hash.write(word.as_bytes());
        hash.write_u8(0);
    }
    hash.finish()
}

#[derive(Debug)]
struct Known {
    meaning: Meaning,
    key: Key,
}

/// Questions whose answers are kept. Bounded; the oldest makes room.
#[derive(Debug)]
pub(super) struct Meanings {
    most: usize,
    known: RwLock<VecDeque<Known>>,
}

impl Meanings {
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            known: RwLock::default(),
        }
    }

    /// The key of the answer to the nearest question that means the same, and its cosine.
    pub(super) fn nearest(&self, asked: &Meaning) -> Option<(Key, f32)> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known
            .iter()
            .filter(|one| one.meaning.frame == asked.frame && one.meaning.telling == asked.telling)
            .map(|one| (one.key, cosine(&one.meaning.vector, &asked.vector)))
            .filter(|(_, cosine)| *cosine >= asked.threshold)
            .max_by(|a, b| a.1.total_cmp(&b.1))
    }

    pub(super) fn remember(&self, meaning: Meaning, key: Key) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.retain(|one| one.key != key);
        known.push_back(Known { meaning, key });
        while known.len() > self.most {
            known.pop_front();
        }
    }

    pub(super) fn forget(&self, key: &Key) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.retain(|one| one.key != *key);
    }
}

/// Of two vectors of length 1; -1 where their dimensions differ.
fn cosine(a: &[f32], b: &[f32]) -> f32 {
    if a.len() != b.len() {
        return -1.0;
    }
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::parse;

    fn asks(body: &str) -> bool {
        question(&parse(body.to_owned().into()).unwrap()).is_some()
    }

    #[test]
    fn only_a_short_question_by_itself_is_compared() {
        let with =
            |messages: &str, more: &str| asks(&format!(r#"{{"model":"a","messages":[{messages}]{more}}}"#));
        let user = r#"{"role":"user","content":"How do I return an item?"}"#;
        assert!(with(user, ""));
        assert!(with(&format!(r#"{{"role":"system","content":"s"}},{user}"#), ""));
        assert!(!with(
            &format!(r#"{user},{{"role":"assistant","content":"a"}},{user}"#),
            ""
        ));
        assert!(!with(
            user,
            r#","tools":[{"type":"function","function":{"name":"f"}}]"#
        ));
        assert!(!with(user, r#","response_format":{"type":"json_object"}"#));
        assert!(!with(user, r#","n":2"#));
        assert!(!with(
            &format!(r#"{{"role":"user","content":"{}"}}"#, "x".repeat(1_001)),
            ""
        ));
        let image =
            r#"{"role":"user","content":[{"type":"image_url","image_url":{"url":"https://a/b.png"}}]}"#;
        assert!(!with(image, ""));
    }

    #[test]
    fn numbers_names_and_negations_tell_questions_apart_and_the_rest_does_not() {
        let same = [
            ("How do I return an item?", "how can i send an item back"),
            (
                "Please tell me, what is your refund policy?",
                "What's your refund policy please",
            ),
            ("Isn't it covered?", "Is it not covered?"),
        ];
        for (a, b) in same {
            assert_eq!(telling(a), telling(b), "{a} / {b}");
        }
        let apart = [
            ("What is 15% of 200?", "What is 25% of 200?"),
            (
                "Is a refund possible after 30 days?",
                "Is a refund possible after 60 days?",
            ),
            ("Can I return it?", "Can I not return it?"),
            ("What is the capital of France?", "What is the capital of Spain?"),
            ("Which is the largest?", "Which is the smallest?"),
            ("what does foo_a do", "what does foo_b do"),
        ];
        for (a, b) in apart {
            assert_ne!(telling(a), telling(b), "{a} / {b}");
        }
    }

    #[test]
    fn the_nearest_above_the_threshold_is_found_within_the_frame_only() {
        let meanings = Meanings::new(2);
        let of = |frame: u8, x: f32, threshold: f32| Meaning {
            frame: Key([frame; 32]),
            telling: 0,
            vector: Arc::from([x, (1.0 - x * x).sqrt()]),
            threshold,
        };
        meanings.remember(of(1, 1.0, 0.9), Key([11; 32]));
        meanings.remember(of(1, 0.8, 0.9), Key([12; 32]));
        let (key, cosine) = meanings.nearest(&of(1, 0.99, 0.9)).unwrap();
        assert_eq!(key, Key([11; 32]));
        assert!((cosine - 0.99).abs() < 1e-6);
        assert!(meanings.nearest(&of(1, 0.99, 0.995)).is_none());
        assert!(meanings.nearest(&of(2, 1.0, 0.9)).is_none(), "another frame");
        meanings.remember(of(1, 0.0, 0.9), Key([13; 32]));
        assert!(
            meanings.nearest(&of(1, 1.0, 0.99)).is_none(),
            "the oldest made room"
        );
        meanings.forget(&Key([13; 32]));
        assert!(meanings.nearest(&of(1, 0.0, 0.9)).is_none());
    }
}
