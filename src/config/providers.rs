//! `[[providers]]`: where models are served, and by which wire format.

use std::collections::BTreeSet;
use std::fmt;

use super::Env;
use super::models::Placed;
use super::read::{Ledger, Section};

/// A secret. Never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps it.
    #[must_use]
    pub const fn new(secret: String) -> Self {
        Self(secret)
    }

    /// The secret itself, for the one place that sends or digests it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// The wire format that a provider speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProviderKind {
    /// OpenAI's chat completions, and everyone who speaks it.
    OpenAi,
    /// Anthropic's messages.
    Anthropic,
    /// Gemini's generateContent.
    Gemini,
    /// No network: simulated answers.
    Simulated,
}

impl ProviderKind {
    pub(super) const WORDS: [(&'static str, Self); 4] = [
        ("openai", Self::OpenAi),
        ("anthropic", Self::Anthropic),
        ("gemini", Self::Gemini),
        ("simulated", Self::Simulated),
    ];

    /// The word in the configuration.
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

/// A provider.
#[derive(Clone, Debug)]
pub struct Provider {
    /// Its name: the part of a model's id before the slash.
    pub name: String,
    /// The wire format.
    pub kind: ProviderKind,
    /// The root of its API, without a slash at the end; a simulated one may have its settings here.
    pub base_url: String,
    /// Our keys there, several to share the load; none for local servers.
    pub api_keys: Vec<Secret>,
    /// Most calls in flight for each key and model.
    pub max_in_flight: Option<u32>,
    /// Most bytes of an answer; more is no answer. `None`: the adapters' own limit.
    pub max_response_bytes: Option<usize>,
    /// Further headers to send.
    pub headers: Vec<(String, String)>,
    /// How long connecting may take, in milliseconds.
    pub connect_timeout_ms: u64,
    /// Whether marks for the provider's prompt cache are set for clients that set none.
    pub prompt_cache: bool,
}

/// A provider that needs no block: its address and the variables that hold its key and another address.
pub(super) struct KnownProvider {
    pub(super) name: &'static str,
    pub(super) kind: ProviderKind,
    pub(super) base_url: &'static str,
    pub(super) key_vars: &'static [&'static str],
    pub(super) base_url_var: &'static str,
}

pub(super) const KNOWN: [KnownProvider; 7] = [
    KnownProvider {
        name: "openai",
        kind: ProviderKind::OpenAi,
        base_url: "https://api.openai.com/v1",
        key_vars: &["OPENAI_API_KEY"],
        base_url_var: "OPENAI_BASE_URL",
    },
    KnownProvider {
        name: "anthropic",
        kind: ProviderKind::Anthropic,
        base_url: "https://api.anthropic.com",
        key_vars: &["ANTHROPIC_API_KEY"],
        base_url_var: "ANTHROPIC_BASE_URL",
    },
    KnownProvider {
        name: "google",
        kind: ProviderKind::Gemini,
        base_url: "https://generativelanguage.googleapis.com",
        key_vars: &["GEMINI_API_KEY", "GOOGLE_API_KEY"],
        base_url_var: "GEMINI_BASE_URL",
    },
    KnownProvider {
        name: "deepseek",
        kind: ProviderKind::OpenAi,
        base_url: "https://api.deepseek.com",
        key_vars: &["DEEPSEEK_API_KEY"],
        base_url_var: "DEEPSEEK_BASE_URL",
    },
    KnownProvider {
        name: "qwen",
        kind: ProviderKind::OpenAi,
        base_url: "https://dashscope-intl.aliyuncs.com/compatible-mode/v1",
        key_vars: &["DASHSCOPE_API_KEY"],
        base_url_var: "DASHSCOPE_BASE_URL",
    },
    KnownProvider {
        name: "mistral",
        kind: ProviderKind::OpenAi,
        base_url: "https://api.mistral.ai/v1",
        key_vars: &["MISTRAL_API_KEY"],
        base_url_var: "MISTRAL_BASE_URL",
    },
    KnownProvider {
        name: "openrouter",
        kind: ProviderKind::OpenAi,
        base_url: "https://openrouter.ai/api/v1",
        key_vars: &["OPENROUTER_API_KEY"],
        base_url_var: "OPENROUTER_BASE_URL",
    },
];

impl KnownProvider {
    pub(super) fn named(name: &str) -> Option<&'static Self> {
        KNOWN.iter().find(|known| known.name == name)
    }

    pub(super) fn key(&self, env: Env<'_>) -> Option<String> {
        self.key_vars.iter().find_map(|var| env(var))
    }

    fn address(&self, env: Env<'_>) -> String {
        env(self.base_url_var).unwrap_or_else(|| self.base_url.to_owned())
    }
}

/// Reads the providers and adds the known ones that a model names without a block. Notes models whose provider
/// is nowhere.
pub(super) fn providers(
    sections: &[Section<'_>],
    models: &[Placed],
    env: Env<'_>,
    ledger: &Ledger<'_>,
) -> Vec<Provider> {
    let mut providers = Vec::new();
    let mut names = BTreeSet::new();
    for section in sections {
        let name = section.string("name");
        let provider = provider(section, env);
        section.done();
        if let Some(name) = name
            && !names.insert(name.clone())
        {
            section.problem("name", format!("\"{name}\" is the name of another provider too"));
        }
        providers.extend(provider);
    }
    let named = models.iter().flat_map(|Placed { model, place, .. }| {
        let all = std::iter::once(model.arm.id.provider());
        let all = all.chain(model.also_at.iter().map(String::as_str));
        all.map(move |name| (name, place))
    });
    for (name, place) in named {
        if !names.insert(name.to_owned()) {
            continue;
        }
        let Some(known) = KnownProvider::named(name) else {
            ledger.report_at(
                place,
                format!(
                    "provider \"{name}\" is not defined; add a [[providers]] block with name = \"{name}\""
                ),
            );
            continue;
        };
        let key = known.key(env);
        if key.is_none() {
            let vars = known.key_vars.join(" or ");
            ledger.report_at(place, format!("needs the key of {name}; set {vars}"));
        }
        providers.push(Provider {
            name: name.to_owned(),
            kind: known.kind,
            base_url: trimmed(&known.address(env)),
            api_keys: key.map(Secret::new).into_iter().collect(),
            max_in_flight: None,
            max_response_bytes: None,
            headers: Vec::new(),
            connect_timeout_ms: DEFAULT_CONNECT_TIMEOUT_MS,
            prompt_cache: false,
        });
    }
    providers
}

/// How long connecting to a provider may take unless its block says otherwise, in milliseconds.
pub const DEFAULT_CONNECT_TIMEOUT_MS: u64 = 5_000;

fn provider(section: &Section<'_>, env: Env<'_>) -> Option<Provider> {
    let name = section.required_string("name", "it is the part of a model's id before the slash");
    if let Some(name) = name.as_deref().filter(|name| name.contains('/')) {
        section.problem("name", format!("\"{name}\" must not contain a slash"));
    }
    let known = name.as_deref().and_then(KnownProvider::named);
    let kind = section
        .word("kind", &ProviderKind::WORDS)
        .or_else(|| known.map(|known| known.kind));
    if kind.is_none() && !section.has("kind") {
        section.problem(
            "",
            "`kind` is missing; one of openai, anthropic, gemini, simulated",
        );
    }
    let base_url = section
        .string("base_url")
        .or_else(|| known.map(|known| known.address(env)));
    if let Some(url) = &base_url {
        let simulated = kind == Some(ProviderKind::Simulated);
        let wanted: &[&str] = if simulated {
            &["simulated:"]
        } else {
            &["http://", "https://"]
        };
        let begins = |scheme: &&str| url.starts_with(*scheme) && (simulated || url.len() > scheme.len());
        if !wanted.iter().any(begins) {
            let message = format!("is \"{url}\", but must begin with {}", wanted.join(" or "));
            section.problem("base_url", message);
        }
    }
    if base_url.is_none() && kind.is_some_and(|kind| kind != ProviderKind::Simulated) {
        section.problem(
            "",
            "`base_url` is missing; the root of the provider's API, such as \"https://api.mistral.ai/v1\"",
        );
    }
    let api_keys = keys(section, known, env);
    let max_in_flight = section
        .integer("max_in_flight", 1..=u64::from(u32::MAX))
        .and_then(|most| u32::try_from(most).ok());
    let max_response_bytes = section
        .integer("max_response_bytes", 1_024..=1 << 32)
        .and_then(|most| usize::try_from(most).ok());
    let headers = section.string_table("headers");
    let connect_timeout_ms = section
        .integer("connect_timeout_ms", 1..=600_000)
        .unwrap_or(DEFAULT_CONNECT_TIMEOUT_MS);
    let prompt_cache = section.bool("prompt_cache");
    if prompt_cache == Some(true) && kind.is_some_and(|kind| kind != ProviderKind::Anthropic) {
        section.problem(
            "prompt_cache",
            "has a meaning only with kind = \"anthropic\": the others cache by themselves",
        );
    }
    Some(Provider {
        name: name?,
        kind: kind?,
        base_url: trimmed(&base_url.unwrap_or_default()),
        api_keys,
        max_in_flight,
        max_response_bytes,
        headers,
        connect_timeout_ms,
        prompt_cache: prompt_cache.unwrap_or(false),
    })
}

/// `api_key_env`, or the several of `api_keys_env`; a known provider's own variable when neither is there.
fn keys(section: &Section<'_>, known: Option<&KnownProvider>, env: Env<'_>) -> Vec<Secret> {
    let one = section.string("api_key_env");
    let several = section.strings("api_keys_env");
    let missing = |var: &str| format!("{var} is not set; put the provider's key into it");
    if one.is_some() && several.is_some() {
        section.problem("api_keys_env", "stands beside `api_key_env`; use one of them");
    }
    if let Some(var) = one {
        let key = env(&var);
        if key.is_none() {
            section.problem("api_key_env", missing(&var));
        }
        return key.map(Secret::new).into_iter().collect();
    }
    let Some(several) = several else {
        let key = known.and_then(|known| known.key(env));
        return key.map(Secret::new).into_iter().collect();
    };
    let mut keys = Vec::new();
    for (var, place) in several {
        match env(&var) {
            Some(key) => keys.push(Secret::new(key)),
            None => section.ledger().report_at(&place, missing(&var)),
        }
    }
    keys
}

fn trimmed(url: &str) -> String {
    url.trim_end_matches('/').to_owned()
}
