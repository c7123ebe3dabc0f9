//! What a request asks for outside its body, and of whom.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;

use crate::request::ChatRequest;
use crate::server::auth::Client;
use crate::server::error::ApiError;

/// Where clients put the id of a conversation when not into the body.
const SESSION_HEADERS: [&str; 5] = [
    "x-session-id",
    "x-conversation-id",
    "x-claude-code-session-id",
    "x-litellm-session-id",
    "helicone-session-id",
];

/// The same, in the body's `metadata`.
const SESSION_TAGS: [&str; 3] = ["session_id", "conversation_id", "thread_id"];

/// The headers and extras that routing goes by, read once.
#[derive(Clone, Debug)]
pub struct Wishes {
    /// Who asks.
    pub client: Client,
    /// Whether the answer is to carry `router_metadata`.
    pub metadata: bool,
    /// The whole time budget, if the request names one.
    pub deadline: Option<Duration>,
    /// When the first token must have come.
    pub ttft_budget: Option<Duration>,
    /// The conversation it belongs to.
    pub session: Option<Arc<str>>,
    /// What its score may be given to: the episode that the request names, else the conversation.
    pub episode: Option<Arc<str>>,
    /// The request's headers, for rules that look at them.
    pub headers: Vec<(String, String)>,
    /// Whether the estimates are wanted with their intervals.
    pub outlook: bool,
}

impl Wishes {
    /// Reads the headers beside the body's own extras. The body wins.
    ///
    /// # Errors
    /// A header that is no number of milliseconds.
    pub fn read(request: &ChatRequest, headers: &HeaderMap, client: Client) -> Result<Self, ApiError> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let millis = |name: &'static str| match text(name).map(|value| (value, value.trim().parse::<u64>())) {
            None => Ok(None),
            Some((_, Ok(ms))) if (1..=86_400_000).contains(&ms) => Ok(Some(Duration::from_millis(ms))),
            Some((value, _)) => {
                let message =
                    format!("The header {name} is \"{value}\", but must be milliseconds from 1 to 86400000.");
                Err(ApiError::invalid(message, Some(name)))
            }
        };
        let routing = &request.routing;
        let tagged = || {
            let tag = |name: &&str| request.metadata.iter().find(|(key, _)| key == name);
            SESSION_TAGS.iter().find_map(tag).map(|(_, value)| value.as_str())
        };
        let session = request.session_id.as_deref().or_else(|| {
            SESSION_HEADERS
                .iter()
                .find_map(|name| text(name))
                .or_else(tagged)
                .or(request.prompt_cache_key.as_deref())
        });
        let session: Option<Arc<str>> = session.map(Arc::from);
        let episode = routing.episode_id.as_deref().map(Arc::from);
        Ok(Self {
            client,
            metadata: text("x-router-metadata").is_some_and(|value| value.eq_ignore_ascii_case("enabled")),
            deadline: match routing.deadline() {
                Some(deadline) => Some(deadline),
                None => millis("x-router-timeout-ms")?,
            },
            ttft_budget: match routing.ttft_budget_ms {
                Some(ms) => Some(Duration::from_millis(ms)),
                None => millis("x-router-ttft-ms")?,
            },
            episode: episode.or_else(|| session.clone()),
            session,
            headers: headers_for_rules(headers),
            outlook: false,
        })
    }
}

/// Headers of our own name, which rules may look at. Others (keys among them) are none of their business.
fn headers_for_rules(headers: &HeaderMap) -> Vec<(String, String)> {
    let ours = headers.iter().filter(|(name, _)| name.as_str().starts_with("x-"));
    ours.filter(|(name, _)| name.as_str() != "x-api-key")
        .filter_map(|(name, value)| Some((name.to_string(), value.to_str().ok()?.to_owned())))
        .collect()
}
