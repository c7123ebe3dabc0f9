//! What a prompt looks like, whatever it says: length, figures, code, options, and what comes with it.
//!
//! Where format predicts difficulty these twelve numbers are worth three points of routing quality over meaning
//! alone, and they are the honest baseline for everything else.

use std::sync::LazyLock;

use memchr::memmem;

use super::numeric::{count, count_pairs};
use super::prompt::PromptText;
use crate::request::{ChatRequest, Part};

/// Number of surface features.
pub const SURFACE: usize = 12;

/// Their names, in order.
pub const SURFACE_NAMES: [&str; SURFACE] = [
    "ln_bytes",
    "words_per_byte",
    "ln_lines",
    "digit_share",
    "code",
    "options",
    "ln_question_marks",
    "ln_equal_signs",
    "ln_context",
    "ln_turns",
    "tools",
    "media",
];

/// Marks of program text.
const CODE: [&str; 9] = [
    "```",
    "def ",
    "#include",
    "function ",
    "class ",
    "SELECT ",
    "import ",
    "fn ",
    "=> {",
];

/// Each of [`CODE`], ready to be searched for: to prepare a search takes longer than a search.
static FINDERS: LazyLock<[memmem::Finder<'static>; CODE.len()]> =
    LazyLock::new(|| CODE.map(memmem::Finder::new));

/// Raw surface features of a request; a view standardises them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Surface([f32; SURFACE]);

impl Surface {
    /// The surface of a bare prompt: one turn, no tools, nothing besides.
    #[must_use]
    pub fn plain(prompt: &PromptText) -> Self {
        let text = prompt.words();
        let bytes = text.as_bytes();
        let length = bytes.len().max(1) as f32;
        let count_of = |wanted: u8| count(bytes, |byte| byte == wanted) as f32;
        let digits = count(bytes, |byte| byte.is_ascii_digit()) as f32;
        let code = FINDERS.iter().any(|mark| mark.find(bytes).is_some());
        Self([
            (prompt.bytes() as f32).ln_1p(),
            words(bytes) as f32 / length,
            count_of(b'\n').ln_1p(),
            digits / length,
            f32::from(u8::from(code)),
            f32::from(u8::from(options(text) >= 2)),
            count_of(b'?').ln_1p(),
            count_of(b'=').ln_1p(),
            0.0,
            0.0,
            0.0,
            0.0,
        ])
    }

    /// The surface of a request whose words are `prompt`.
    #[must_use]
    pub fn of(request: &ChatRequest, prompt: &PromptText) -> Self {
        let mut surface = Self::plain(prompt);
        let mut bytes = 0;
        let mut media = false;
        for part in request.messages.iter().flat_map(|message| &message.parts) {
            match part {
                Part::Text(text) | Part::Refusal(text) => bytes += text.len(),
                Part::Image { .. } | Part::Audio { .. } | Part::File { .. } | Part::Video { .. } => {
                    media = true
                }
                Part::Other(_) => {}
            }
        }
        surface.0[8] = (bytes.saturating_sub(prompt.bytes()) as f32).ln_1p();
        surface.0[9] = (request.messages.len().max(1) as f32).ln();
        surface.0[10] = f32::from(u8::from(!request.tools.is_empty()));
        surface.0[11] = f32::from(u8::from(media));
        surface
    }

    /// The values, in the order of [`SURFACE_NAMES`]: finite, never negative.
    #[must_use]
    pub fn values(&self) -> &[f32; SURFACE] {
        &self.0
    }
}

/// Runs of what is no space.
fn words(bytes: &[u8]) -> usize {
    let begins = |byte: u8, before: u8| before.is_ascii_whitespace() & !byte.is_ascii_whitespace();
    match bytes {
        [] => 0,
        [first, rest @ ..] => usize::from(begins(*first, b' ')) + count_pairs(rest, bytes, begins),
    }
}

/// Lines that look like an answer to choose: `A.`, `(B)`, `C:`.
fn options(text: &str) -> usize {
    text.lines()
        .filter(|line| {
            let line = line.trim_start();
            let line = line.strip_prefix('(').unwrap_or(line).as_bytes();
            matches!(line, [b'A'..=b'J', b'.' | b')' | b':', b' ' | b'\t', ..])
        })
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_prompt() {
        let prompt = PromptText::plain("Is 2+2=4?\nA. yes\nB. no");
        let values = *Surface::plain(&prompt).values();
        let expected = [
            23.0_f32.ln(),
            6.0 / 22.0,
            3.0_f32.ln(),
            3.0 / 22.0,
            0.0,
            1.0,
            2.0_f32.ln(),
            2.0_f32.ln(),
            0.0,
            0.0,
            0.0,
            0.0,
        ];
        for (index, (value, expected)) in values.iter().zip(expected).enumerate() {
            assert!(
                (value - expected).abs() < 1e-6,
                "{}: {value} is not {expected}",
                SURFACE_NAMES[index]
            );
        }
    }

    #[test]
    fn code_is_seen() {
        assert_eq!(
            Surface::plain(&PromptText::plain("def f(x): return x")).values()[4],
            1.0
        );
        assert_eq!(Surface::plain(&PromptText::plain("define it")).values()[4], 0.0);
    }

    proptest::proptest! {
        #[test]
        fn words_are_what_stands_between_spaces(text in "[a ,\\n\\té]{0,600}") {
            assert_eq!(words(text.as_bytes()), text.split_ascii_whitespace().count());
        }
    }

    #[test]
    fn nothing_is_still_something() {
        assert!(
            Surface::plain(&PromptText::plain(""))
                .values()
                .iter()
                .all(|value| *value == 0.0)
        );
    }
}
