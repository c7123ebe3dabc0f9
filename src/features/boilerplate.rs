//! What clients add to the user's turn without the user having written it.
//!
//! Coding agents and chat front ends wrap the words of the user in reminders, environment listings and tool output.
//! Left in, they decide the features: every prompt of one client looks alike. Blocks are known by their tag.

use std::borrow::Cow;

use memchr::memchr;

/// Blocks that are dropped with their content.
const DROPPED: [&str; 22] = [
    "system-reminder",
    "system_reminder",
    "environment_context",
    "environment_details",
    "env",
    "user_instructions",
    "command-name",
    "command-message",
    "command-args",
    "local-command-stdout",
    "local-command-stderr",
    "bash-stdout",
    "bash-stderr",
    "ide_selection",
    "ide_opened_file",
    "ide_diagnostics",
    "additional_data",
    "attached_files",
    "tool_result",
    "tool_output",
    "function_results",
    "recently_viewed_files",
];

/// Tags that are dropped while what they hold is kept.
const UNWRAPPED: [&str; 5] = ["task", "user_query", "user_message", "user_request", "feedback"];

/// `text` without client boilerplate, in one pass. An opened block that never closes is left as it is: the user may
/// be asking about such a tag.
#[must_use]
pub fn strip(text: &str) -> Cow<'_, str> {
    if memchr(b'<', text.as_bytes()).is_none() {
        return Cow::Borrowed(text);
    }
    let mut kept = String::new();
    let mut copied = 0; // everything before this offset is in `kept` or dropped
    let mut at = 0;
    let mut unclosed = [false; DROPPED.len()];
    while let Some(offset) = memchr(b'<', &text.as_bytes()[at..]) {
        let open = at + offset;
        let rest = &text[open..];
        let after = match block_end(rest, &mut unclosed).or_else(|| wrapper_end(rest)) {
            Some(length) => open + length,
            None => {
                at = open + 1;
                continue;
            }
        };
        kept.push_str(&text[copied..open]);
        kept.push(' ');
        copied = after;
        at = after;
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    kept.push_str(&text[copied..]);
    Cow::Owned(kept)
}

/// Length of the dropped block that `rest` begins with. A tag once found unclosed is not searched for again, which
/// keeps the pass linear.
fn block_end(rest: &str, unclosed: &mut [bool; DROPPED.len()]) -> Option<usize> {
    let (index, tag) = DROPPED.iter().enumerate().find(|(_, tag)| opens(rest, tag))?;
    if unclosed[index] {
        return None;
    }
    let close = format!("</{tag}>");
    match memchr::memmem::find(rest.as_bytes(), close.as_bytes()) {
        Some(offset) => Some(offset + close.len()),
        None => {
            unclosed[index] = true;
            None
        }
    }
}

/// Length of the wrapping tag, opening or closing, that `rest` begins with.
fn wrapper_end(rest: &str) -> Option<usize> {
    UNWRAPPED.iter().find_map(|tag| {
        let inner = rest.strip_prefix("</").or_else(|| rest.strip_prefix('<'))?;
        inner
            .strip_prefix(tag)?
            .starts_with('>')
            .then(|| rest.len() - inner.len() + tag.len() + 1)
    })
}

/// Whether `rest`, which begins with `<`, begins with `<tag>` or `<tag attributes`.
fn opens(rest: &str, tag: &str) -> bool {
    rest.as_bytes()[1..].starts_with(tag.as_bytes())
        && matches!(rest.as_bytes().get(1 + tag.len()), Some(b'>' | b' ' | b'\n'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reminders_go_and_the_words_stay() {
        let text = "<system-reminder>\nToday is Monday.\n</system-reminder>Fix the bug<env>cwd</env>, please";
        assert_eq!(strip(text).trim(), "Fix the bug , please");
    }

    #[test]
    fn a_wrapper_is_unwrapped() {
        assert_eq!(
            strip("<task>sort a list</task><environment_details>x</environment_details>").trim(),
            "sort a list"
        );
    }

    #[test]
    fn attributes_do_not_hide_a_block() {
        assert_eq!(
            strip("<tool_result id=\"7\">noise</tool_result>what now?").trim(),
            "what now?"
        );
    }

    #[test]
    fn other_and_unclosed_tags_are_the_users_words() {
        for text in [
            "a < b and c > d",
            "what does <system-reminder> mean?",
            "<p>hello</p>",
            "<",
            "x <",
        ] {
            assert_eq!(strip(text), text);
        }
    }

    #[test]
    fn many_unclosed_tags_stay_linear() {
        let text = "<system-reminder>".repeat(60_000);
        assert_eq!(strip(&text), text);
    }

    proptest::proptest! {
        #[test]
        fn nothing_is_invented(text in "(<(/)?(task|env|system-reminder)>|[a-zé<> ]){0,40}") {
            proptest::prop_assert!(strip(&text).chars().filter(|c| *c != ' ').count() <= text.chars().filter(|c| *c != ' ').count());
        }
    }
}
