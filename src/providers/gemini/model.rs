//! What a Gemini model takes, by the version in its name.

/// Major and minor version: `gemini-2.5-flash` is 2.5, `gemini-3-pro-preview` 3.0; `None` for an alias such as
/// `gemini-flash-latest`.
pub(super) fn version(name: &str) -> Option<(u32, u32)> {
    let rest = &name[name.find("gemini-")? + "gemini-".len()..];
    let number = rest.split('-').next()?;
    let (major, minor) = number.split_once('.').unwrap_or((number, "0"));
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// How a model is told to think.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Thinking {
    /// It cannot.
    None,
    /// With a budget of tokens: 2.5.
    Budget,
    /// By level: 3 and later, which is where the aliases point.
    Level,
}

/// How the model of this name is told to think.
pub(super) fn thinking(name: &str) -> Thinking {
    match version(name) {
        Some(version) if version >= (3, 0) => Thinking::Level,
        Some(version) if version >= (2, 5) => Thinking::Budget,
        Some(_) => Thinking::None,
        None if name.contains("gemini") => Thinking::Level,
        None => Thinking::None,
    }
}

/// Whether calls in the conversation must carry their thought signatures.
pub(super) fn wants_signatures(name: &str) -> bool {
    thinking(name) == Thinking::Level
}

/// Tokens of thought for OpenAI's word. Pro cannot be kept from thinking; 128 is its least.
pub(super) fn budget(name: &str, effort: &str) -> u32 {
    match effort {
        "none" if name.contains("pro") => 128,
        "none" => 0,
        "minimal" | "low" => 1_024,
        "medium" => 8_192,
        _ => 24_576,
    }
}

/// Level of thought for OpenAI's word. Pro knows no `minimal`, and 3.0 Pro no `medium`.
pub(super) fn level(name: &str, effort: &str) -> &'static str {
    let pro = name.contains("pro");
    match effort {
        "none" | "minimal" if !pro => "minimal",
        "none" | "minimal" | "low" => "low",
        "medium" if !(pro && version(name) == Some((3, 0))) => "medium",
        _ => "high",
    }
}

/// Whether it can be held to JSON while it may call functions; models before 3 refuse the two together.
pub(super) fn takes_json_with_tools(name: &str) -> bool {
    thinking(name) == Thinking::Level
}

/// Whether it names its calls and wants the names back with their results.
pub(super) fn names_calls(name: &str) -> bool {
    thinking(name) == Thinking::Level
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_and_thinking() {
        assert_eq!(version("gemini-2.5-flash-lite"), Some((2, 5)));
        assert_eq!(version("models/gemini-3-pro-preview"), Some((3, 0)));
        assert_eq!(version("gemini-flash-latest"), None);
        assert_eq!(thinking("gemini-2.0-flash"), Thinking::None);
        assert_eq!(thinking("gemini-flash-latest"), Thinking::Level);
        assert_eq!(
            (
                level("gemini-3-pro", "medium"),
                level("gemini-3.5-flash", "minimal")
            ),
            ("high", "minimal")
        );
        assert_eq!(
            (
                budget("gemini-2.5-pro", "none"),
                budget("gemini-2.5-flash", "none")
            ),
            (128, 0)
        );
    }
}
