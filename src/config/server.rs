//! `[server]`, `[sessions]`, `[log]` and `[embedding]`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::Env;
use super::providers::Secret;
use super::read::{Ledger, Section};

/// Address, data directory, clients' keys.
#[derive(Clone, Debug)]
pub struct Server {
    /// The address to bind. Not a loopback one only if there are client keys.
    pub listen: SocketAddr,
    /// Where the database and the reports are.
    pub data_dir: PathBuf,
    /// Keys that clients may use. Empty: anyone on the loopback address may.
    pub api_keys: Vec<Secret>,
    /// Keys that may change prices. Empty: whoever may ask may, but only while there are no clients' keys either.
    pub admin_keys: Vec<Secret>,
    /// Names of hosts by which it may be asked for without a key, beside those of this machine; in lower case.
    pub allowed_hosts: Vec<String>,
    /// Most bytes of a request's body.
    pub max_body_bytes: usize,
    /// How long answers under way may go on after the program was told to stop; milliseconds.
    pub shutdown_limit_ms: u64,
    /// Silence on a stream after which a comment keeps its connection open.
    pub keepalive: Duration,
}

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Logging.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// How it is written.
    pub format: LogFormat,
    /// `RUST_LOG` syntax; that variable overrides it.
    pub filter: String,
}

/// Which embedding model looks at prompts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EmbeddingModel {
    /// The one shipped under `models/`.
    Shipped,
    /// None: hashed features only.
    Off,
    /// Another one by name; none but the shipped one can be opened.
    Named(String),
}

/// The embedding model and its limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Embedding {
    /// Which.
    pub model: EmbeddingModel,
    /// Threads that embed; 0: one for each two cores, at least one.
    pub threads: usize,
    /// How long a request waits for its embedding before it is decided without, where decisions go by it;
    /// milliseconds.
    pub budget_ms: u64,
    /// Share of one processor that goes to embeddings which no decision waits for, in percent; 100: no limit.
    pub background_percent: u8,
    /// Prompts that may wait; more are dropped.
    pub queue: usize,
}

/// How conversations are remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionRule {
    /// So many at most.
    pub most: u64,
    /// How long after their last turn.
    pub ttl: Duration,
    /// How long a provider is taken to keep a prompt in its own cache.
    pub warm: Duration,
}

const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);
const DEFAULT_MAX_BODY_BYTES: u64 = 32 << 20;
const DEFAULT_SHUTDOWN_LIMIT_MS: u64 = 30_000;
const DEFAULT_KEEPALIVE_MS: u64 = 15_000;

pub(super) fn server(
    section: Option<&Section<'_>>,
    env: Env<'_>,
    ledger: &Ledger<'_>,
    warnings: &Ledger<'_>,
) -> Option<Server> {
    let mut listen = Some(DEFAULT_LISTEN);
    let mut names = vec!["POINTSMAN_API_KEY".to_owned()];
    let mut data_dir = PathBuf::from("data");
    let mut max_body_bytes = DEFAULT_MAX_BODY_BYTES;
    let mut shutdown_limit_ms = DEFAULT_SHUTDOWN_LIMIT_MS;
    let mut keepalive_ms = DEFAULT_KEEPALIVE_MS;
    let mut named_in_file = false;
    let mut admin_names = Vec::new();
    let mut allowed_hosts = Vec::new();
    if let Some(section) = section {
        if let Some(text) = section.string("listen") {
            listen = text.parse().ok();
            if listen.is_none() {
                section.problem(
                    "listen",
                    format!("is \"{text}\", but must be an address and a port such as \"127.0.0.1:8080\""),
                );
            }
        }
        data_dir = section.string("data_dir").map_or(data_dir, PathBuf::from);
        if let Some(given) = section.strings("api_keys_env") {
            names = given.into_iter().map(|(name, _)| name).collect();
            named_in_file = true;
        }
        let given = section.strings("admin_keys_env").unwrap_or_default();
        admin_names = given.into_iter().map(|(name, _)| name).collect();
        allowed_hosts = hosts(section);
        max_body_bytes = section
            .integer("max_body_bytes", 1_024..=1 << 30)
            .unwrap_or(max_body_bytes);
        shutdown_limit_ms = section
            .integer("shutdown_limit_ms", 0..=3_600_000)
            .unwrap_or(shutdown_limit_ms);
        keepalive_ms = section
            .integer("keepalive_ms", 100..=3_600_000)
            .unwrap_or(keepalive_ms);
        section.done();
    }
    if let (Some(port), Some(address)) = (env("PORT"), &mut listen) {
        match port.parse() {
            Ok(port) => address.set_port(port),
            Err(_) => ledger.report("PORT", None, format!("is \"{port}\", but must be a port number")),
        }
    }
    let mut api_keys = Vec::new();
    for (i, name) in names.iter().enumerate() {
        match env(name) {
            Some(key) => api_keys.push(Secret::new(key)),
            None if named_in_file => warnings.report(
                &format!("server.api_keys_env[{i}]"),
                None,
                format!("{name} is not set, so no client can use that key"),
            ),
            None => {}
        }
    }
    let mut admin_keys = Vec::new();
    for (i, name) in admin_names.iter().enumerate() {
        match env(name) {
            Some(key) => admin_keys.push(Secret::new(key)),
            // A missing client key shuts a door; a missing admin key must not open one.
            None => ledger.report(
                &format!("server.admin_keys_env[{i}]"),
                None,
                format!("{name} is not set; set it or leave it out of the list"),
            ),
        }
    }
    let listen = listen?;
    if api_keys.is_empty() && !listen.ip().is_loopback() {
        ledger.report(
            "server.listen",
            None,
            format!(
                "{listen} can be reached from other machines, but no client key is set; set {} or listen on 127.0.0.1",
                names.join(" or ")
            ),
        );
    }
    Some(Server {
        listen,
        data_dir,
        api_keys,
        admin_keys,
        allowed_hosts,
        max_body_bytes: usize::try_from(max_body_bytes).unwrap_or(usize::MAX),
        shutdown_limit_ms,
        keepalive: Duration::from_millis(keepalive_ms),
    })
}

/// Whether this can be the whole name of a host, without its last dot.
#[must_use]
pub fn is_host_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    !name.is_empty() && name.chars().all(plain)
}

/// Names of hosts, each whole: a pattern would let in names that somebody else can take.
fn hosts(section: &Section<'_>) -> Vec<String> {
    let mut names = Vec::new();
    for (text, place) in section.strings("allowed_hosts").unwrap_or_default() {
        let name = text.strip_suffix('.').unwrap_or(&text);
        if is_host_name(name) {
            names.push(name.to_ascii_lowercase());
        } else {
            section.ledger().report_at(
                &place,
                format!(
                    "is \"{text}\", but must be the whole name of a host such as \"llm.example.com\", without scheme, \
                     port or wildcard"
                ),
            );
        }
    }
    names
}

pub(super) fn sessions(section: Option<&Section<'_>>) -> SessionRule {
    let (mut most, mut ttl, mut warm) = (20_000, 3_600, 300);
    if let Some(section) = section {
        most = section.integer("max", 1..=10_000_000).unwrap_or(most);
        ttl = section.integer("ttl_seconds", 1..=2_592_000).unwrap_or(ttl);
        warm = section.integer("warm_seconds", 0..=86_400).unwrap_or(warm);
        section.done();
    }
    SessionRule {
        most,
        ttl: Duration::from_secs(ttl),
        warm: Duration::from_secs(warm),
    }
}

pub(super) fn log(section: Option<&Section<'_>>) -> Log {
    let mut log = Log {
        format: LogFormat::Text,
        filter: "info".into(),
    };
    if let Some(section) = section {
        log.format = section
            .word("format", &[("text", LogFormat::Text), ("json", LogFormat::Json)])
            .unwrap_or(log.format);
        log.filter = section.string("filter").unwrap_or(log.filter);
        section.done();
    }
    log
}

pub(super) fn embedding(section: Option<&Section<'_>>) -> Embedding {
    let mut embedding = Embedding {
        model: EmbeddingModel::Shipped,
        threads: 0,
        budget_ms: 20,
        background_percent: 10,
        queue: 64,
    };
    if let Some(section) = section {
        embedding.model = match section.string("model").as_deref() {
            None | Some("shipped") => EmbeddingModel::Shipped,
            Some("off") => EmbeddingModel::Off,
            Some(name) => EmbeddingModel::Named(name.to_owned()),
        };
        if let Some(threads) = section.integer("threads", 0..=256) {
            embedding.threads = usize::try_from(threads).unwrap_or(0);
        }
        embedding.budget_ms = section
            .integer("budget_ms", 0..=10_000)
            .unwrap_or(embedding.budget_ms);
        if let Some(percent) = section.integer("background_percent", 1..=100) {
            embedding.background_percent = u8::try_from(percent).unwrap_or(embedding.background_percent);
        }
        if let Some(queue) = section.integer("queue", 1..=100_000) {
            embedding.queue = usize::try_from(queue).unwrap_or(embedding.queue);
        }
        section.done();
    }
    embedding
}

#[cfg(test)]
mod tests {
    use crate::config::{Source, parse};

    fn hosts(list: &str) -> Result<Vec<String>, String> {
        let toml = format!(
            "[server]\nallowed_hosts = {list}\n[[providers]]\nname = \"p\"\nkind = \"simulated\"\n\
             base_url = \"simulated:\"\n[[models]]\nid = \"p/m\"\ncontext_window = 8192\nmax_output_tokens = 1024\n\
             [[routes]]\nname = \"auto\"\nmodels = [\"p/m\"]\n"
        );
        parse(&toml, Source::Text, &|_| None)
            .map(|config| config.server.allowed_hosts)
            .map_err(|problems| problems.to_string())
    }

    #[test]
    fn allowed_hosts_are_whole_names() {
        assert_eq!(hosts("[]"), Ok(Vec::new()));
        assert_eq!(
            hosts(r#"["LLM.example.com", "box_1."]"#),
            Ok(vec!["llm.example.com".to_owned(), "box_1".to_owned()])
        );
        for wrong in [
            "*.example.com",
            "https://llm.example.com",
            "llm.example.com:8080",
            ".",
        ] {
            let told = hosts(&format!("[{wrong:?}]")).unwrap_err();
            assert!(
                told.contains("server.allowed_hosts[0]") && told.contains("whole name"),
                "{told}"
            );
        }
    }
}
