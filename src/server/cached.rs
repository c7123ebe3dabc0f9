//! Answers that are there already: looked for before anything is decided, and given under an id of their own.
//!
//! A hit is logged as a decision of the strategy `cache` with one attempt of the role `cache` that cost nothing, so
//! that it can be scored and is in the reports. It holds no draw, and nothing is learned from it: see
//! `docs/decisions/0010-caches.md`.

use std::sync::Arc;
use std::time::Instant;

use axum::response::Response;
use http::{HeaderMap, header};

use crate::app::App;
use crate::app::live::Target;
use crate::app::prepare::Wishes;
use crate::cache::{
    self, Asker, Begin, Entry, Found, Lead, Meaning, Mode, Origin, Playback, RouteCache, Wish,
};
use crate::clock;
use crate::config::Route;
use crate::dispatch::Served;
use crate::failure::FailureKind;
use crate::request::ChatRequest;
use crate::routing::Decided;
use crate::server::cache_hit::Hit;
use crate::server::chat::keepalive;
use crate::server::error::ApiError;

/// The header, of requests and of answers.
pub const HEADER: &str = "x-router-cache";
/// Answers that break off before a request asks by itself.
const TRIES: u32 = 2;
/// A score below this drops the answer that it is about.
const GOOD_ENOUGH: f64 = 0.5;

/// What a look came to.
pub enum Looked {
    /// The answer.
    Answered(Response),
    /// It is to be asked for. `None`: there is no cache.
    Ask(Option<Asking>),
}

/// A request of a route with a cache, on its way.
pub enum Asking {
    /// It wants nothing of the cache.
    Bypass,
    /// Its answer is recorded.
    Miss(Lead),
    /// Likewise; it did not look.
    Refresh(Lead),
}

impl Asking {
    /// What the answer's header says.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Bypass => "bypass",
            Self::Miss(_) => "miss",
            Self::Refresh(_) => "refresh",
        }
    }

    /// What records it.
    #[must_use]
    pub fn lead(self) -> Option<Lead> {
        match self {
            Self::Bypass => None,
            Self::Miss(lead) | Self::Refresh(lead) => Some(lead),
        }
    }
}

/// Looks for an answer that is there, or coming.
///
/// # Errors
/// A mode that there is not; an answer that does not come in the request's time.
pub async fn look(
    app: &App,
    request: &Arc<ChatRequest>,
    wishes: &Wishes,
    headers: &HeaderMap,
    received: Instant,
) -> Result<Looked, ApiError> {
    if app.live.load().caches.is_empty() {
        // A word that means nothing is as wrong where there is no cache.
        if headers.contains_key(HEADER) {
            wish(headers)?;
        }
        return Ok(Looked::Ask(None));
    }
    let live = app.live.load_full();
    let Some(Target::Route(route)) = live.resolve(&request.model) else {
        return Ok(Looked::Ask(None));
    };
    let Some(cache) = live.caches.of(&route.name).cloned() else {
        return Ok(Looked::Ask(None));
    };
    let wish = wish(headers)?;
    if wish.mode == Mode::Off {
        cache.bypass();
        return Ok(Looked::Ask(Some(Asking::Bypass)));
    }
    let asker = Asker {
        client: &wishes.client.0,
        headers: &wishes.headers,
        metadata: wishes.metadata,
    };
    let key = cache::key(request, &asker, route, cache.rule());
    let until = received + wishes.deadline.unwrap_or(route.deadline);
    let name: Arc<str> = Arc::from(&*route.name);
    for _ in 0..TRIES {
        let playback = match cache.find(key, &wish, clock::wall()) {
            Found::Nothing(lead) if wish.mode == Mode::Refresh => {
                return Ok(Looked::Ask(Some(Asking::Refresh(lead))));
            }
            Found::Nothing(mut lead) => {
                let alike = meaning(app, request, &asker, route, &cache).await;
                let found = alike
                    .as_ref()
                    .and_then(|asked| cache.find_alike(asked, &wish, clock::wall()));
                if let Some((playback, key, cosine)) = found {
                    let hit = Hit::new(app, &name, &cache, key, received, request, wishes).to(key, cosine);
                    if let Some(response) = give(hit, playback, request.stream, until).await? {
                        return Ok(Looked::Answered(response));
                    }
                }
                if let Some(asked) = alike {
                    lead.means(asked);
                }
                cache.missed();
                return Ok(Looked::Ask(Some(Asking::Miss(lead))));
            }
            Found::Kept(playback) | Found::Coming(playback) => playback,
        };
        let hit = Hit::new(app, &name, &cache, key, received, request, wishes);
        match give(hit, playback, request.stream, until).await? {
            Some(response) => return Ok(Looked::Answered(response)),
            // A stream must give its client a sign of life by now: it asks by itself.
            None if clock::monotonic() >= received + keepalive(app) => break,
            None => {}
        }
    }
    cache.missed();
    Ok(Looked::Ask(Some(Asking::Miss(cache.alone(key)))))
}

fn wish(headers: &HeaderMap) -> Result<Wish, ApiError> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    Wish::read(text(HEADER), text(header::CACHE_CONTROL.as_str()))
        .map_err(|error| ApiError::invalid(format!("The header {error}."), Some(HEADER)))
}

/// An answer in the shape that the client asked for.
enum Ready {
    Whole(Arc<Entry>),
    Stream(Playback, Origin),
    /// It broke off, or has no place in that shape.
    No,
}

/// Waits until a stream has begun, or a whole answer is complete.
async fn ready(playback: Playback, stream: bool) -> Ready {
    if !stream {
        let entry = playback.end().await;
        let entry = entry.and_then(|entry| cache::whole(&entry));
        return entry.map_or(Ready::No, Ready::Whole);
    }
    match playback.begin().await {
        Begin::Streamed(origin) => Ready::Stream(playback, origin),
        Begin::Whole(entry) => cache::streamed(&entry).map_or(Ready::No, |entry| {
            let origin = entry.origin.clone();
            Ready::Stream(Playback::kept(entry), origin)
        }),
        Begin::Broken => Ready::No,
    }
}

/// The answer, once it has begun. `None`: it broke off before, or a stream's client has waited long enough.
async fn give(
    hit: Hit,
    playback: Playback,
    stream: bool,
    until: Instant,
) -> Result<Option<Response>, ApiError> {
    let left = until.saturating_duration_since(clock::monotonic());
    let patience = if stream { left.min(hit.keepalive()) } else { left };
    match tokio::time::timeout(patience, ready(playback, stream)).await {
        Ok(Ready::Whole(entry)) => Ok(Some(hit.whole(&entry))),
        Ok(Ready::Stream(playback, origin)) => Ok(Some(hit.stream(playback, origin))),
        Ok(Ready::No) => Ok(None),
        Err(_) if patience < left => Ok(None),
        Err(_) => Err(ApiError::new(
            FailureKind::Timeout,
            "The answer to an equal request, which this one waited for, did not come in time.",
        )),
    }
}

/// What the request asks, where the route gives answers to questions that mean the same. An embedding that does not
/// come in time makes it a miss.
async fn meaning(
    app: &App,
    request: &ChatRequest,
    asker: &Asker<'_>,
    route: &Route,
    cache: &RouteCache,
) -> Option<Meaning> {
    let rule = cache.rule().semantic.as_ref()?;
    let question = cache::question(request)?;
    let telling = cache::telling(question);
    let (category, vector) = app.features.load_full().meaning(request).await?;
    let category = request.routing.category.as_deref().unwrap_or(category.name());
    Some(Meaning {
        frame: cache::frame(request, asker, route),
        telling,
        vector,
        threshold: rule.threshold(category) as f32,
    })
}

/// Who made an answer that is to be kept.
#[must_use]
pub fn origin(decided: &Decided, served: &Served) -> Origin {
    let score = decided.decision.scores.get(decided.decision.chosen);
    Origin {
        decision: Arc::clone(&decided.id),
        arm: served.arm.id.clone(),
        provider: Arc::clone(&served.provider),
        category: decided.category.clone().unwrap_or_else(|| Arc::from("")),
        expected_quality: score.map_or(0.0, |score| score.mean),
    }
}

/// A score has come: a bad one drops the answer.
pub fn scored(app: &App, decision: &str, metric: &str, score: f64) {
    let live = app.live.load();
    if !live.caches.is_empty() && metric == crate::feedback::QUALITY && score < GOOD_ENOUGH {
        live.caches.evict(decision);
    }
}
