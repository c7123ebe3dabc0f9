//! Gives a request an answer that is there, under an id of its own, and logs that.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::response::Response;
use futures_util::stream;
use http::{HeaderMap, HeaderValue, header};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::app::App;
use crate::app::prepare::Wishes;
use crate::cache::{self, Entry, Key, Origin, Playback, RouteCache};
use crate::clock;
use crate::completion::{StreamEvent, Usage};
use crate::failure::{AttemptError, FailureKind, FaultSource, Retry};
use crate::learner::codec::CONTEXT_FORMAT;
use crate::request::ChatRequest;
use crate::server::cached::HEADER;
use crate::server::chat::{self, event_stream};
use crate::server::error::ApiError;
use crate::server::explain;
use crate::server::stream::{Begun, Events, Settled, SseBody};
use crate::server::wire::{self, Envelope};
use crate::store::{AttemptRow, DecisionRow, FROM_CACHE};
use crate::units::{UnixMs, Usd};

/// A request that is given an answer of another.
pub(super) struct Hit {
    app: App,
    route: Arc<str>,
    cache: Arc<RouteCache>,
    key: Key,
    request: Arc<ChatRequest>,
    metadata: bool,
    episode: Option<Arc<str>>,
    id: Arc<str>,
    at: UnixMs,
    received: Instant,
    /// How alike the questions are, where they are not equal.
    alike: Option<f32>,
}

impl Hit {
    pub(super) fn new(
        app: &App,
        route: &Arc<str>,
        cache: &Arc<RouteCache>,
        key: Key,
        received: Instant,
        request: &Arc<ChatRequest>,
        wishes: &Wishes,
    ) -> Self {
        Self {
            app: Arc::clone(app),
            route: Arc::clone(route),
            cache: Arc::clone(cache),
            key,
            request: Arc::clone(request),
            metadata: wishes.metadata,
            episode: wishes.episode.clone(),
            id: Arc::from(Uuid::now_v7().simple().to_string()),
            at: clock::wall(),
            received,
            alike: None,
        }
    }

    /// The answer is that of `key`, to a question that means the same.
    pub(super) fn to(mut self, key: Key, cosine: f32) -> Self {
        self.key = key;
        self.alike = Some(cosine);
        self
    }

    /// Silence on a stream after which a comment keeps its connection open.
    pub(super) fn keepalive(&self) -> Duration {
        chat::keepalive(&self.app)
    }

    fn kind(&self) -> &'static str {
        if self.alike.is_some() { "semantic" } else { "exact" }
    }

    pub(super) fn whole(self, entry: &Arc<Entry>) -> Response {
        let envelope = self.envelope(&entry.origin);
        let given = self.begun(&entry.origin, entry.body.usage());
        let mut headers = given.headers(Some(entry));
        let cache::Body::Whole(completion) = &entry.body else {
            return axum::response::IntoResponse::into_response(ApiError::internal());
        };
        let metadata = given.metadata(Some(entry));
        let body = wire::completion(&envelope, completion, Some(Usd::ZERO), metadata.as_ref());
        given.end(entry);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        explain::put(&mut headers, "x-router-cost-usd", &Usd::ZERO.to_string());
        let mut response = Response::new(Body::from(body));
        *response.headers_mut() = headers;
        response
    }

    pub(super) fn stream(self, playback: Playback, origin: Origin) -> Response {
        let envelope = self.envelope(&origin);
        let (include_usage, keepalive) = (self.request.include_usage, self.keepalive());
        let recording = playback.recording();
        let entry = recording.entry();
        let given = self.begun(&origin, entry.as_ref().and_then(|entry| entry.body.usage()));
        let headers = given.headers(entry.as_deref());
        let settle = move |usage: Option<Usage>, more: Option<Value>| {
            let tokens = usage.unwrap_or_default();
            let entry = recording.entry();
            let settled = Settled {
                usage: wire::usage(&tokens, more, Some(Usd::ZERO)),
                metadata: given.metadata(entry.as_deref()),
                tokens,
                cost: Some(Usd::ZERO),
            };
            if let Some(entry) = &entry {
                given.end(entry);
            }
            settled
        };
        let begun = Begun {
            envelope,
            events: events(playback),
            settle: Box::new(settle),
            explain: Box::new(|failure: AttemptError| ApiError::new(failure.kind, failure.message)),
            lead: None,
        };
        event_stream(SseBody::begun(begun, include_usage, keepalive), headers)
    }

    fn envelope(&self, origin: &Origin) -> Envelope {
        Envelope {
            id: format!("chatcmpl-{}", self.id),
            model: origin.arm.to_string(),
            created: self.at.0 / 1000,
        }
    }

    /// Logs the decision, before the answer goes out.
    fn begun(self, origin: &Origin, usage: Option<Usage>) -> Given {
        let input = usage.map_or(0, |usage| usage.input);
        self.app.store.log_decision(DecisionRow {
            id: Arc::clone(&self.id),
            at: self.at,
            episode: self.episode.clone(),
            user: self.request.user.as_deref().map(Arc::from),
            route: Arc::clone(&self.route),
            strategy: Cow::Borrowed(FROM_CACHE),
            category: Arc::clone(&origin.category),
            arm: origin.arm.clone(),
            propensity: 1.0,
            explored: false,
            expected_cost: Usd::ZERO,
            expected_quality: origin.expected_quality,
            experiment: None,
            input_tokens: u32::try_from(input).unwrap_or(u32::MAX),
            stream: self.request.stream,
            feature_version: CONTEXT_FORMAT,
            context: Vec::new(),
            candidates: Vec::new(),
            detail: Some(json!({"cache": {"kind": self.kind(), "of": &*origin.decision}}).to_string()),
        });
        Given {
            origin: origin.clone(),
            hit: self,
            entry: None,
        }
    }
}

/// An answer that is being given. Its attempt is logged when it is over, however it ends.
struct Given {
    hit: Hit,
    origin: Origin,
    /// Set when it was given whole.
    entry: Option<Arc<Entry>>,
}

impl Given {
    fn headers(&self, entry: Option<&Entry>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let (hit, origin) = (&self.hit, &self.origin);
        explain::put(&mut headers, HEADER, "hit");
        explain::put(&mut headers, "x-router-decision-id", &hit.id);
        explain::put(&mut headers, "x-router-strategy", FROM_CACHE);
        explain::put(&mut headers, "x-router-propensity", "1.000000");
        if !origin.category.is_empty() {
            explain::put(&mut headers, "x-router-category", &origin.category);
        }
        explain::put(&mut headers, "x-router-model", origin.arm.as_str());
        explain::put(&mut headers, "x-router-provider", &origin.provider);
        headers.insert("x-router-attempts", HeaderValue::from_static("0"));
        headers.insert("x-router-hedged", HeaderValue::from_static("false"));
        headers.insert(header::AGE, HeaderValue::from(self.age(entry).as_secs()));
        if let Some(alike) = hit.alike {
            explain::put(&mut headers, "x-router-cache-similarity", &format!("{alike:.4}"));
        }
        if let Some(saved) = entry.and_then(|entry| entry.cost) {
            explain::put(&mut headers, "x-router-cache-saved-usd", &saved.to_string());
        }
        let overhead = clock::monotonic().saturating_duration_since(hit.received);
        let overhead = format!("{:.3}", overhead.as_secs_f64() * 1e3);
        explain::put(&mut headers, "x-router-overhead-ms", &overhead);
        headers
    }

    fn age(&self, entry: Option<&Entry>) -> Duration {
        entry.map_or(Duration::ZERO, |entry| self.hit.at.since(entry.at))
    }

    /// `router_metadata`, when asked for.
    fn metadata(&self, entry: Option<&Entry>) -> Option<Value> {
        let saved = entry.and_then(|entry| entry.cost);
        self.hit.metadata.then(|| {
            json!({
                "decision_id": &*self.hit.id,
                "route": &*self.hit.route,
                "strategy": FROM_CACHE,
                "selected": self.origin.arm.as_str(),
                "provider": &*self.origin.provider,
                "cost_usd": 0.0,
                "cache": {
                    "kind": self.hit.kind(),
                    "similarity": self.hit.alike,
                    "decision_id": &*self.origin.decision,
                    "age_s": self.age(entry).as_secs(),
                    "saved_usd": saved.map(Usd::dollars),
                },
                "candidates": [], "excluded": [], "attempts": [],
            })
        })
    }

    /// It has been given whole.
    fn end(mut self, entry: &Arc<Entry>) {
        self.hit.cache.served(&self.hit.id, self.hit.key, entry);
        self.entry = Some(Arc::clone(entry));
    }
}

impl Drop for Given {
    fn drop(&mut self) {
        let hit = &self.hit;
        let saved = self.entry.as_ref().and_then(|entry| entry.cost);
        hit.app.store.log_attempt(AttemptRow {
            decision: Arc::clone(&hit.id),
            number: 1,
            at: hit.at,
            arm: self.origin.arm.clone(),
            provider: Arc::clone(&self.origin.provider),
            role: Cow::Borrowed(FROM_CACHE),
            outcome: Cow::Borrowed(if self.entry.is_some() {
                "succeeded"
            } else {
                "client_gone"
            }),
            served: true,
            stream: hit.request.stream,
            ttft_ms: None,
            total_ms: clock::monotonic()
                .saturating_duration_since(hit.received)
                .as_secs_f64()
                * 1e3,
            usage: None,
            cost: Some(Usd::ZERO),
            finish: None,
            upstream_id: None,
            text_bytes: 0,
            detail: Some(json!({"cache": {"saved_nanos": saved.map(Usd::nanos)}}).to_string()),
        });
    }
}

fn events(playback: Playback) -> Events {
    Box::pin(stream::unfold(playback, |mut playback| async move {
        let event: Result<StreamEvent, AttemptError> = match playback.next().await? {
            Ok(event) => Ok(event),
            Err(cut) => Err(AttemptError {
                kind: FailureKind::ProviderUnavailable,
                fault: FaultSource::Upstream,
                retry: Retry::SameArm,
                retry_after: None,
                quota_exhausted: false,
                may_be_billed: false,
                message: format!("The answer to an equal request, which this one was given too: {cut}."),
                provider_code: None,
            }),
        };
        Some((event, playback))
    }))
}
