//! Who is behind OpenAI's wire format, and which of its fields they take.

use reqwest::Url;
use serde_json::value::RawValue;

use crate::providers::Call;
use crate::request::ChatRequest;

/// Who is behind the wire format, as far as it matters; known by the address. A server that is not known gets the
/// client's fields as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    OpenAi,
    Mistral,
    /// DeepSeek and Qwen: OpenAI's older names.
    Older,
    Other,
}

impl Dialect {
    pub(super) fn of(base: &Url) -> Self {
        let host = base.host_str().unwrap_or_default();
        if host == "api.openai.com" || host.ends_with(".openai.azure.com") {
            Self::OpenAi
        } else if host == "api.mistral.ai" {
            Self::Mistral
        } else if host == "api.deepseek.com"
            || host.starts_with("dashscope") && host.ends_with("aliyuncs.com")
        {
            Self::Older
        } else {
            Self::Other
        }
    }

    /// Whether it refuses fields that it does not know, Anthropic's prompt-cache breakpoints among them.
    pub(super) const fn is_strict(self) -> bool {
        matches!(self, Self::OpenAi | Self::Mistral)
    }

    /// Whether a stream tells its usage without being asked, and refuses to be asked.
    pub(super) const fn tells_usage_unasked(self) -> bool {
        matches!(self, Self::Mistral)
    }

    /// The name that a field of the request has here; `None` when it is left out, because the provider would refuse
    /// the whole request for it.
    pub(super) fn name_of<'a>(self, key: &'a str, raw: &RawValue, call: &Call) -> Option<&'a str> {
        let request = &*call.request;
        match self {
            Self::OpenAi => for_openai(key, call),
            Self::Mistral => for_mistral(key, raw, request),
            Self::Older => older_limit(key, request),
            Self::Other => Some(key),
        }
    }
}

fn for_openai<'a>(key: &'a str, call: &Call) -> Option<&'a str> {
    let request = &*call.request;
    match key {
        // Both together are refused, and the newer is the one that counts.
        "max_tokens" => (!has_field(request, "max_completion_tokens")).then_some("max_completion_tokens"),
        // Tags are taken only with an answer that is stored.
        "metadata" => is_stored(request).then_some(key),
        "temperature" | "top_p" | "presence_penalty" | "frequency_penalty" => {
            let thinks =
                is_reasoning_model(&call.arm.upstream) && request.reasoning_effort.as_deref() != Some("none");
            (!thinks).then_some(key)
        }
        _ => Some(key),
    }
}

fn for_mistral<'a>(key: &'a str, raw: &RawValue, request: &ChatRequest) -> Option<&'a str> {
    match key {
        "seed" => Some("random_seed"),
        "stream_options"
        | "user"
        | "metadata"
        | "store"
        | "service_tier"
        | "safety_identifier"
        | "prompt_cache_key"
        | "prompt_cache_retention"
        | "verbosity"
        | "logit_bias"
        | "logprobs"
        | "top_logprobs" => None,
        // Text is what it answers with. Whoever wants more is told that there is no more.
        "modalities" if raw.get().replace(char::is_whitespace, "") == r#"["text"]"# => None,
        _ => older_limit(key, request),
    }
}

fn older_limit<'a>(key: &'a str, request: &ChatRequest) -> Option<&'a str> {
    match key {
        "max_completion_tokens" => Some("max_tokens"),
        "max_tokens" if has_field(request, "max_completion_tokens") => None,
        _ => Some(key),
    }
}

fn has_field(request: &ChatRequest, key: &str) -> bool {
    request
        .top_level()
        .iter()
        .any(|(name, raw)| name == key && raw.get() != "null")
}

fn is_stored(request: &ChatRequest) -> bool {
    let fields = request.top_level();
    fields
        .iter()
        .any(|(name, raw)| name == "store" && raw.get() == "true")
}

/// Whether a model of OpenAI's thinks before it answers (`o3-mini`, `gpt-5-mini`, `gpt-6-sol`): while it does, it
/// takes no sampling parameters but their defaults.
fn is_reasoning_model(name: &str) -> bool {
    let number = |rest: &str| {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        rest[..digits].parse::<u32>().ok()
    };
    if let Some(version) = name.strip_prefix("gpt-").and_then(number) {
        return version >= 5 && !name.contains("-chat");
    }
    name.strip_prefix('o').and_then(number).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dialects_are_known_by_their_address() {
        let cases = [
            ("https://api.openai.com/v1", Dialect::OpenAi),
            ("https://x.openai.azure.com/openai/v1", Dialect::OpenAi),
            ("https://api.mistral.ai/v1", Dialect::Mistral),
            ("https://api.deepseek.com", Dialect::Older),
            (
                "https://dashscope-intl.aliyuncs.com/compatible-mode/v1",
                Dialect::Older,
            ),
            ("http://127.0.0.1:8000/v1", Dialect::Other),
            ("https://openrouter.ai/api/v1", Dialect::Other),
        ];
        for (url, dialect) in cases {
            assert_eq!(Dialect::of(&Url::parse(url).unwrap()), dialect, "{url}");
        }
    }

    #[test]
    fn models_that_think_are_known_by_their_name() {
        for name in [
            "o1",
            "o3-mini",
            "o4-mini-2025-04-16",
            "gpt-5",
            "gpt-5.1-mini",
            "gpt-6-sol",
            "gpt-12",
        ] {
            assert!(is_reasoning_model(name), "{name}");
        }
        for name in [
            "gpt-4o-mini",
            "gpt-4.1",
            "gpt-5-chat-latest",
            "omni-moderation-latest",
            "chatgpt-4o-latest",
            "my-deployment",
        ] {
            assert!(!is_reasoning_model(name), "{name}");
        }
    }
}
