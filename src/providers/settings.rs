//! What a provider is told at start-up.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The wire format a provider speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WireFormat {
    /// OpenAI's chat completions: OpenAI, DeepSeek, Qwen, Mistral, OpenRouter, vLLM, Ollama, ...
    OpenAi,
    /// Anthropic's Messages.
    Anthropic,
    /// Google's generateContent.
    Gemini,
    /// None: answers are made up inside this process.
    Simulated,
}

impl WireFormat {
    /// The word used in the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OpenAi => "openai",
            Self::Anthropic => "anthropic",
            Self::Gemini => "gemini",
            Self::Simulated => "simulated",
        }
    }
}

impl fmt::Display for WireFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A key. It is never printed: not by `Debug`, not by an error, not by a log.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// From the key, without the white space that files and shells leave around it.
    #[must_use]
    pub fn new(key: &str) -> Self {
        Self(key.trim().to_owned())
    }

    /// The key itself, for the one header that carries it.
    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// The most bytes of one answer, or of one event of a stream: 32 MiB. Images come as base64.
pub const DEFAULT_MAX_RESPONSE_BYTES: usize = 32 << 20;

/// What a provider is told at start-up.
#[derive(Clone, Debug)]
pub struct ProviderSettings {
    /// Its name in the configuration, the part before the slash in an arm's id.
    pub name: String,
    /// The wire format it speaks.
    pub kind: WireFormat,
    /// Where it is: `https://api.openai.com/v1`.
    pub base_url: String,
    /// Our key there; local servers need none.
    pub api_key: Option<Secret>,
    /// Further headers of every call (`OpenAI-Organization`, `anthropic-beta`, ...).
    pub headers: Vec<(String, String)>,
    /// The most bytes of one answer, or of one event of a stream.
    pub max_response_bytes: usize,
    /// Whether marks for the provider's prompt cache are set for clients that set none. Only Anthropic needs them.
    pub prompt_cache: bool,
}

impl ProviderSettings {
    /// Settings without a key.
    #[must_use]
    pub fn new(name: impl Into<String>, kind: WireFormat, base_url: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            kind,
            base_url: base_url.into(),
            api_key: None,
            headers: Vec::new(),
            max_response_bytes: DEFAULT_MAX_RESPONSE_BYTES,
            prompt_cache: false,
        }
    }
}

/// Why a provider cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// The address is not one.
    #[error("provider {provider}: base_url {url:?} is not an http or https address without a query")]
    BadUrl {
        /// The provider.
        provider: String,
        /// What was given.
        url: String,
    },
    /// A header's name or value is not allowed in HTTP. The value is not told: it may be a key.
    #[error("provider {provider}: header {header:?} has a name or value that HTTP does not allow")]
    BadHeader {
        /// The provider.
        provider: String,
        /// The header's name.
        header: String,
    },
    /// The key holds characters that no header can carry.
    #[error(
        "provider {provider}: the API key holds characters that HTTP does not allow; was it copied whole?"
    )]
    BadKey {
        /// The provider.
        provider: String,
    },
    /// Simulated providers speak no wire format.
    #[error("provider {provider}: a simulated provider is built from its profiles, not from an address")]
    NoWireFormat {
        /// The provider.
        provider: String,
    },
    /// The HTTP client cannot be built.
    #[error("the HTTP client cannot be built: {0}")]
    Client(#[source] reqwest::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_never_printed() {
        let mut settings = ProviderSettings::new("openai", WireFormat::OpenAi, "https://example.org/v1");
        settings.api_key = Some(Secret::new(" sk-very-secret\n"));
        assert_eq!(settings.api_key.as_ref().unwrap().reveal(), "sk-very-secret");
        assert!(!format!("{settings:?}").contains("very-secret"));
    }
}
