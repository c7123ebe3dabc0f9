//! What a Claude model takes, by the version in its name.

/// Major and minor version: `claude-sonnet-4-5-20250929` is 4.5, `claude-3-7-sonnet-latest` 3.7, `claude-opus-4` 4.0.
/// `None` when the name holds none: then nothing is asked for that a version might refuse.
pub(super) fn version(name: &str) -> Option<(u32, u32)> {
    let mut numbers = name
        .split(['-', '.', ':', '@', '_', '/'])
        .map(|token| token.parse::<u32>().ok().filter(|_| token.len() <= 2))
        .skip_while(Option::is_none);
    let major = numbers.next()??;
    Some((major, numbers.next().flatten().unwrap_or(0)))
}

/// How a model is told to think.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Thinking {
    /// It cannot, or it is not known how.
    None,
    /// With a budget of tokens: 3.7 to 4.5.
    Budget,
    /// By effort: 4.6 and later. Since 4.7 the budget is refused.
    Adaptive,
}

/// How the model of this name is told to think.
pub(super) fn thinking(name: &str) -> Thinking {
    match version(name) {
        Some(version) if version >= (4, 6) => Thinking::Adaptive,
        Some(version) if version >= (3, 7) => Thinking::Budget,
        _ => Thinking::None,
    }
}

/// Whether it takes temperature, top_p and top_k; since 4.7 they are refused.
pub(super) fn takes_sampling(name: &str) -> bool {
    version(name).is_none_or(|version| version < (4, 7))
}

/// Whether it can be held to a schema by `output_config.format`.
pub(super) fn takes_schema(name: &str) -> bool {
    version(name).is_none_or(|version| version >= (4, 5))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_stand_before_or_after_the_family() {
        let cases = [
            ("claude-sonnet-4-5-20250929", Some((4, 5))),
            ("claude-3-7-sonnet-latest", Some((3, 7))),
            ("claude-3-haiku-20240307", Some((3, 0))),
            ("claude-opus-4-20250514", Some((4, 0))),
            ("claude-opus-5-5", Some((5, 5))),
            ("claude-sonnet-4.6", Some((4, 6))),
            ("claude-haiku", None),
        ];
        for (name, expected) in cases {
            assert_eq!(version(name), expected, "{name}");
        }
    }

    #[test]
    fn thinking_follows_the_version() {
        assert_eq!(thinking("claude-haiku-4-5-20251001"), Thinking::Budget);
        assert_eq!(thinking("claude-opus-4-6"), Thinking::Adaptive);
        assert_eq!(thinking("claude-3-5-sonnet"), Thinking::None);
        assert!(!takes_sampling("claude-opus-4-7") && takes_sampling("claude-haiku"));
    }
}
