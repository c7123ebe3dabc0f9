//! Which conversations begin alike: what decides whether a provider can have read a prompt's beginning before.

use xxhash_rust::xxh3::Xxh3;

use super::{ChatRequest, Message, Part, Role};

/// A beginning of a conversation: its first so many messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beginning {
    /// How many messages.
    pub messages: usize,
    /// What they and the tools say, hashed.
    pub hash: u64,
    /// Bytes of that.
    pub bytes: u64,
    /// Whether a user speaks in it.
    pub has_user: bool,
}

impl ChatRequest {
    /// Each beginning of the conversation: none of its messages, the first, the first two, ... Cache marks and unknown
    /// fields do not count: clients move and drop them from turn to turn.
    #[must_use]
    pub fn beginnings(&self) -> Vec<Beginning> {
        let mut sum = Sum {
            hash: Xxh3::new(),
            bytes: 0,
        };
        for tool in &self.tools {
            sum.text(&tool.name);
            sum.text(tool.description.as_deref().unwrap_or_default());
        }
        let mut beginnings = Vec::with_capacity(self.messages.len() + 1);
        let mut has_user = false;
        for messages in 0..=self.messages.len() {
            if let Some(one) = messages.checked_sub(1).and_then(|last| self.messages.get(last)) {
                sum.message(one);
                has_user |= one.role == Role::User;
            }
            beginnings.push(Beginning {
                messages,
                hash: sum.hash.digest(),
                bytes: sum.bytes,
                has_user,
            });
        }
        beginnings
    }
}

struct Sum {
    hash: Xxh3,
    bytes: u64,
}

impl Sum {
    fn text(&mut self, text: &str) {
        self.bytes += text.len() as u64;
        self.hash.update(&(text.len() as u64).to_le_bytes());
        self.hash.update(text.as_bytes());
    }

    fn message(&mut self, message: &Message) {
        let role: u8 = match message.role {
            // Two names of one thing.
            Role::System | Role::Developer => 0,
            Role::User => 1,
            Role::Assistant => 2,
            Role::Tool => 3,
        };
        self.hash.update(&[role]);
        self.hash.update(&(message.parts.len() as u64).to_le_bytes());
        for part in &message.parts {
            match part {
                Part::Text(said) | Part::Refusal(said) => self.text(said),
                Part::Image { url, .. } | Part::Video { url } => self.text(url),
                Part::Audio { data, .. } => self.text(data),
                Part::File { data, file_id, .. } => {
                    self.text(data.as_deref().unwrap_or_default());
                    self.text(file_id.as_deref().unwrap_or_default());
                }
                Part::Other(other) => self.text(&other.to_string()),
            }
        }
        for call in &message.tool_calls {
            self.text(&call.name);
            self.text(&call.arguments);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::request::parse;

    #[test]
    fn a_conversation_that_goes_on_begins_with_the_hashes_that_it_had() {
        let hashes = |messages: &str| {
            let body = format!(r#"{{"model":"a","messages":[{messages}]}}"#);
            parse(body.into()).unwrap().beginnings()
        };
        let first = hashes(r#"{"role":"system","content":"s"},{"role":"user","content":"u"}"#);
        let second = hashes(
            r#"{"role":"developer","content":[{"type":"text","text":"s","cache_control":{"type":"ephemeral"}}]},
               {"role":"user","content":"u"},{"role":"assistant","content":"a"},{"role":"user","content":"v"}"#,
        );
        assert_eq!((first.len(), second.len()), (3, 5));
        assert_eq!(first[..], second[..3]);
        let other = hashes(r#"{"role":"system","content":"s"},{"role":"assistant","content":"u"}"#);
        assert_eq!((first[1] == other[1], first[2] == other[2]), (true, false));
        assert_eq!(
            (
                first[2].messages,
                first[2].bytes,
                first[1].has_user,
                first[2].has_user
            ),
            (2, 2, false, true)
        );
    }
}
