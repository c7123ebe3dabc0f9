//! What of a provider's sentence may reach a client: no key, no address, no raw code, no request id.

/// Longest quotation, in characters.
const LONGEST: usize = 400;

/// The sentence without what is not the client's business.
pub(super) fn cleanse(message: &str) -> String {
    let mut out = String::with_capacity(message.len().min(LONGEST));
    let mut words = message
        .split(|c: char| c.is_whitespace() || c.is_control())
        .filter(|word| !word.is_empty())
        .peekable();
    while let Some(word) = words.next() {
        if out.chars().count() > LONGEST {
            out.push_str(" ...");
            break;
        }
        let replaced = if is_code_lead(word) && words.peek().is_some_and(|next| is_status(next)) {
            words.next();
            None
        } else if is_address(word) {
            Some("[link]")
        } else if is_key(word) {
            Some("[redacted]")
        } else {
            Some(word)
        };
        if let Some(replaced) = replaced {
            if !out.is_empty() {
                out.push(' ');
            }
            out.push_str(replaced);
        }
    }
    out
}

fn is_address(word: &str) -> bool {
    word.contains("://") || word.contains("www.") || word.contains('@') && word.contains('.')
}

/// Keys of the providers by their beginnings, ids of organisations and requests, and anything long and random.
fn is_key(word: &str) -> bool {
    const LEADS: [&str; 10] = [
        "sk-",
        "sk_",
        "pk-",
        "AIza",
        "org-",
        "proj_",
        "req_",
        "request_id",
        "gsk_",
        "key-",
    ];
    let core = word.trim_matches(|c: char| !c.is_ascii_alphanumeric());
    // Names of models are long too, but of short pieces.
    let random = core.split(['-', '_', '.', '/']).any(|piece| {
        piece.len() >= 16
            && piece.bytes().any(|byte| byte.is_ascii_digit())
            && piece.bytes().any(|byte| byte.is_ascii_alphabetic())
    });
    let uuid = core.len() == 36 && core.split('-').count() == 5;
    random
        || uuid
        || core.contains("***")
        || LEADS
            .iter()
            .any(|lead| core.starts_with(lead) && core.len() > lead.len() + 3)
}

fn is_code_lead(word: &str) -> bool {
    matches!(
        word.trim_end_matches(':').to_ascii_lowercase().as_str(),
        "code" | "status" | "http" | "error"
    )
}

fn is_status(word: &str) -> bool {
    let digits = word.trim_matches(|c: char| !c.is_ascii_digit());
    digits.len() == 3 && matches!(digits.as_bytes()[0], b'4' | b'5')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_out_keys_addresses_codes_and_ids() {
        let cases = [
            (
                "Incorrect API key provided: sk-proj-abc123def. See https://platform.example.org/keys.",
                "Incorrect API key provided: [redacted] See [link]",
            ),
            ("Error code: 429 - slow down", "Error - slow down"),
            (
                "quota of org-9aBcDeF12 reached (request id: req_011CSHo123)",
                "quota of [redacted] reached (request id: [redacted]",
            ),
            ("two\nlines\u{7}", "two lines"),
            ("for claude-sonnet-4-5-20250929", "for claude-sonnet-4-5-20250929"),
            (
                "trace 0192a3b4-c5d6-7890-abcd-ef0123456789 and a9f8e7d6c5b4a3f2e1d0",
                "trace [redacted] and [redacted]",
            ),
            ("write to help@example.org", "write to [link]"),
            (
                "'messages.3.content' is required",
                "'messages.3.content' is required",
            ),
            ("max_tokens: 900000 > 8192", "max_tokens: 900000 > 8192"),
        ];
        for (message, expected) in cases {
            assert_eq!(cleanse(message), expected);
        }
    }

    #[test]
    fn is_bounded() {
        let long = cleanse(&"word ".repeat(1000));
        assert!(
            long.len() < LONGEST + 20 && long.ends_with("..."),
            "{}",
            long.len()
        );
        assert!(cleanse(&"ä".repeat(100_000)).len() <= 200_000);
    }
}
