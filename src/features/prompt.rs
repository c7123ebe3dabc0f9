//! The words that decide: the user's last turn, without what the client wrapped around it.

use std::borrow::Cow;

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::boilerplate;
use crate::request::{ChatRequest, Message, Part, Role};

/// Bytes of a prompt that are looked at; of a longer one the head and the tail, half each.
pub const VIEW_BYTES: usize = 4096;
/// Bytes searched for boilerplate, likewise.
const SEARCH_BYTES: usize = 1 << 16;

/// The user's words of one request, bounded in size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PromptText {
    words: String,
    bytes: usize,
    system_hash: Option<u64>,
}

impl PromptText {
    /// The words of a bare prompt, as recorded outcomes hold them.
    #[must_use]
    pub fn plain(text: &str) -> Self {
        let searched = cut(text, SEARCH_BYTES);
        let stripped = boilerplate::strip(&searched);
        let kept = stripped.trim();
        Self {
            words: cut(kept, VIEW_BYTES).into_owned(),
            bytes: kept.len() + text.len().saturating_sub(searched.len()),
            system_hash: None,
        }
    }

    /// The words of a request: the last user turn that has any once boilerplate is stripped. Tool results are not
    /// the user's words; where the user said nothing at all, the last message with text is taken.
    #[must_use]
    pub fn of(request: &ChatRequest) -> Self {
        let users = || {
            request
                .messages
                .iter()
                .rev()
                .filter(|message| message.role == Role::User)
        };
        let spoken = users()
            .map(stripped_turn)
            .find(|turn| !turn.0.is_empty())
            .or_else(|| users().map(whole_turn).find(|turn| !turn.0.is_empty()))
            .or_else(|| {
                request
                    .messages
                    .iter()
                    .rev()
                    .map(whole_turn)
                    .find(|turn| !turn.0.is_empty())
            });
        let (words, bytes) = spoken.unwrap_or_default();
        Self {
            words,
            bytes,
            system_hash: system_hash(request),
        }
    }

    /// The words, at most about [`VIEW_BYTES`] of them.
    #[must_use]
    pub fn words(&self) -> &str {
        &self.words
    }

    /// Bytes of the whole turn, cut or not.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// A hash of the application's instructions; `None` without any. Requests of one application share it.
    #[must_use]
    pub fn system_hash(&self) -> Option<u64> {
        self.system_hash
    }

    /// A hash of the words, for caches.
    #[must_use]
    pub fn words_hash(&self) -> u64 {
        xxh3_64(self.words.as_bytes())
    }
}

/// `text`, or its head and tail of `limit / 2` bytes each, at character boundaries.
#[must_use]
pub fn cut(text: &str, limit: usize) -> Cow<'_, str> {
    if text.len() <= limit {
        return Cow::Borrowed(text);
    }
    let head = text.floor_char_boundary(limit / 2);
    let tail = text.ceil_char_boundary(text.len() - limit / 2);
    Cow::Owned(format!("{}\n{}", &text[..head], &text[tail..]))
}

fn stripped_turn(message: &Message) -> (String, usize) {
    turn(message, boilerplate::strip)
}

fn whole_turn(message: &Message) -> (String, usize) {
    turn(message, |text| text.into())
}

/// The text of a message and its whole length in bytes.
fn turn(message: &Message, strip: fn(&str) -> Cow<'_, str>) -> (String, usize) {
    let mut words = String::new();
    let mut bytes = 0;
    for part in &message.parts {
        let Part::Text(text) = part else { continue };
        let searched = cut(text, SEARCH_BYTES);
        let stripped = strip(&searched);
        let kept = stripped.trim();
        if kept.is_empty() {
            continue;
        }
        if !words.is_empty() {
            words.push('\n');
        }
        words.push_str(&cut(kept, VIEW_BYTES));
        bytes += kept.len() + text.len().saturating_sub(searched.len());
    }
    (cut(&words, VIEW_BYTES).into_owned(), bytes)
}

fn system_hash(request: &ChatRequest) -> Option<u64> {
    let mut hasher = Xxh3::new();
    let mut any = false;
    for message in &request.messages {
        if !matches!(message.role, Role::System | Role::Developer) {
            continue;
        }
        for part in &message.parts {
            if let Part::Text(text) = part {
                any = true;
                hasher.update(text.as_bytes());
            }
        }
    }
    any.then(|| hasher.digest())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(messages: Vec<Message>) -> ChatRequest {
        super::super::test_request(messages)
    }

    #[test]
    fn the_last_user_turn_with_words_is_taken() {
        let text = PromptText::of(&request(vec![
            Message::text(Role::System, "You are a tool."),
            Message::text(Role::User, "Sort this list"),
            Message::text(Role::Assistant, "Which?"),
            Message::text(Role::User, "<system-reminder>be brief</system-reminder>"),
            Message::text(Role::Tool, "exit code 0"),
        ]));
        assert_eq!(text.words(), "Sort this list");
        assert_eq!(text.bytes(), 14);
        assert_eq!(text.system_hash(), Some(xxh3_64(b"You are a tool.")));
    }

    #[test]
    fn boilerplate_alone_is_better_than_nothing() {
        let only = "<system-reminder>be brief</system-reminder>";
        assert_eq!(
            PromptText::of(&request(vec![Message::text(Role::User, only)])).words(),
            only
        );
        assert_eq!(
            PromptText::of(&request(vec![Message::text(Role::Tool, "42")])).words(),
            "42"
        );
        assert_eq!(PromptText::of(&request(Vec::new())).words(), "");
    }

    #[test]
    fn a_long_turn_keeps_head_and_tail() {
        let text = PromptText::plain(&format!("begin {} end", "ß".repeat(500_000)));
        assert!(text.words().starts_with("begin") && text.words().ends_with("end"));
        assert!(text.words().len() <= VIEW_BYTES + 3);
        assert_eq!(text.bytes(), 1_000_010);
    }

    proptest::proptest! {
        #[test]
        fn cutting_never_splits_a_character(text in "\\PC{0,80}", limit in 0_usize..64) {
            let cut = cut(&text, limit);
            proptest::prop_assert!(cut.len() <= text.len().max(limit + 1));
        }
    }
}
