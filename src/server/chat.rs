//! `POST /v1/chat/completions`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use serde_json::Value;

use crate::app::prepare::{self, Prepared, Wishes};
use crate::app::{App, money};
use crate::clock;
use crate::completion::Usage;
use crate::dispatch::{Answer, DispatchFailure};
use crate::failure::AttemptError;
use crate::request::{self, ChatRequest, RequestError};
use crate::server::auth::Client;
use crate::server::cached::{self, Asking, Looked};
use crate::server::error::{ApiError, sentence};
use crate::server::explain;
use crate::server::idempotency::{self, EndedWell};
use crate::server::stream::{Begun, Settled, SseBody};
use crate::server::wire::{self, Envelope};
use crate::server::{body, name, own_name};

/// The path, as it is counted.
const PATH: &str = "/v1/chat/completions";

/// Decides, answers, and says who answered; once for each `Idempotency-Key`.
pub async fn post(State(app): State<App>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let own = own_name(&parts.headers);
    let mut response = run(Arc::clone(&app), parts.headers, body)
        .await
        .unwrap_or_else(IntoResponse::into_response);
    app.counters.answered(PATH, response.status().as_u16());
    name(&mut response, own);
    response
}

async fn run(app: App, headers: HeaderMap, body: Body) -> Result<Response, ApiError> {
    let client = app.live.load().keys.authenticate(&headers)?;
    let body = body::whole(&app, &headers, body).await?;
    ask(app, client, headers, body, "chat").await
}

/// Answers a chat request, also one that came by another path, which has its own idempotency keys.
pub(super) async fn ask(
    app: App,
    client: Client,
    headers: HeaderMap,
    body: Bytes,
    path: &str,
) -> Result<Response, ApiError> {
    if !headers.contains_key(idempotency::HEADER) {
        return answer(app, client, headers, body).await;
    }
    let scope = format!("{} {path}", client.0);
    let answer = answer(Arc::clone(&app), client, headers.clone(), body.clone());
    // Few requests come this way, and all would carry the room for it.
    Box::pin(idempotency::once(&app, &scope, &headers, &body, answer)).await
}

async fn answer(app: App, client: Client, headers: HeaderMap, body: Bytes) -> Result<Response, ApiError> {
    let received = clock::monotonic();
    let request = Arc::new(parse(body)?);
    let wishes = Wishes::read(&request, &headers, client)?;
    let asking = match cached::look(&app, &request, &wishes, &headers, received).await? {
        Looked::Answered(response) => return Ok(response),
        Looked::Ask(asking) => asking,
    };
    let prepared = prepare::prepare(&app, &request, &wishes, received).await?;
    money::reserve(&app, &prepared, &request, &wishes)?;
    app.log_decision(&prepared, &request);
    let job = Job {
        app,
        request,
        prepared,
        wishes,
        received,
        asking,
    };
    if job.request.stream {
        Ok(streamed(job).await)
    } else {
        whole(job).await
    }
}

/// A request on its way.
struct Job {
    app: App,
    request: Arc<ChatRequest>,
    prepared: Prepared,
    wishes: Wishes,
    received: Instant,
    /// What the cache is to be told; `None` where there is none.
    asking: Option<Asking>,
}

/// Parses a body; says which field is at fault.
pub fn parse(body: Bytes) -> Result<ChatRequest, ApiError> {
    request::parse(body).map_err(complaint)
}

/// The client's error for a body that cannot be read: it names the field.
pub(super) fn complaint(error: RequestError) -> ApiError {
    let mut refusal = ApiError::invalid(sentence(&error.to_string()), None);
    refusal.param = error.path().map(str::to_owned);
    refusal
}

async fn whole(job: Job) -> Result<Response, ApiError> {
    let Job {
        app,
        prepared,
        wishes,
        received,
        asking,
        ..
    } = job;
    let envelope = envelope(&prepared);
    let answer = prepared.call.answer(&app.dispatcher).await;
    let (served, completion) = match answer {
        Ok(Answer::Whole(served, completion)) => (served, completion),
        Ok(Answer::Stream(..)) => return Err(ApiError::internal()),
        Err(failure) => return Err(failed(failure, &prepared.decided.id)),
    };
    let answered = clock::monotonic();
    let ledger = prepared.account.ledger();
    let cost = ledger.cost();
    let mut completion = *completion;
    // A provider that tells no usage is estimated in the books; the client sees the same figure, marked.
    completion.usage = completion.usage.or_else(|| ledger.served());
    let looked = asking.as_ref().map(Asking::word);
    if let Some(lead) = asking.and_then(Asking::lead) {
        let origin = cached::origin(&prepared.decided, &served);
        lead.whole(origin, &completion, cost, clock::wall());
    }
    let metadata = wishes
        .metadata
        .then(|| explain::metadata(&prepared.decided, &prepared.refused, &served, cost));
    let envelope = Envelope {
        model: served.arm.id.to_string(),
        ..envelope
    };
    let body = wire::completion(&envelope, &completion, cost, metadata.as_ref());
    let mut response = Response::new(Body::from(body));
    let headers = response.headers_mut();
    headers.reserve(explain::MOST_HEADERS);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    explain::headers(
        headers,
        &prepared.decided,
        &served,
        prepared.experiment.as_deref(),
    );
    if let Some(cost) = cost {
        explain::put(headers, "x-router-cost-usd", &cost.to_string());
    }
    if let Some(word) = looked {
        explain::put(headers, cached::HEADER, word);
    }
    let overhead = served.sent.saturating_duration_since(received)
        + clock::monotonic().saturating_duration_since(answered);
    app.counters.overhead(overhead);
    explain::put(
        headers,
        "x-router-overhead-ms",
        &format!("{:.3}", overhead.as_secs_f64() * 1e3),
    );
    Ok(response)
}

/// Silence on a stream after which a comment keeps the connection open.
pub(super) fn keepalive(app: &App) -> Duration {
    app.live.load().config.server.keepalive
}

/// Starts a stream. An answer that does not begin within [`keepalive`] is promised with a 200 and comments, so that
/// no hop on the way gives up; its failure is then an event.
async fn streamed(job: Job) -> Response {
    let keepalive = keepalive(&job.app);
    let include_usage = job.request.include_usage;
    let promised = envelope(&job.prepared);
    let mut promised_headers = HeaderMap::new();
    explain::decision_headers(
        &mut promised_headers,
        &job.prepared.decided,
        job.prepared.experiment.as_deref(),
    );
    if let Some(asking) = &job.asking {
        explain::put(&mut promised_headers, cached::HEADER, asking.word());
    }
    let mut coming = Box::pin(begin(job));
    let begun = tokio::select! {
        biased;
        begun = &mut coming => Some(begun),
        () = tokio::time::sleep(keepalive) => None,
    };
    let (body, headers) = match begun {
        Some(Ok((begun, headers))) => (SseBody::begun(begun, include_usage, keepalive), headers),
        Some(Err(error)) => return axum::response::IntoResponse::into_response(error),
        None => {
            let coming = Box::pin(async move { coming.await.map(|(begun, _)| begun) });
            (
                SseBody::waiting(coming, include_usage, keepalive, promised),
                promised_headers,
            )
        }
    };
    event_stream(body, headers)
}

/// The response whose body is a stream of events.
pub(super) fn event_stream(body: SseBody, headers: HeaderMap) -> Response {
    let ended_well = body.ended_well();
    let mut response = Response::new(Body::from_stream(body));
    response.extensions_mut().insert::<EndedWell>(ended_well);
    *response.headers_mut() = headers;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/event-stream; charset=utf-8"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// Waits for the first meaningful event.
async fn begin(job: Job) -> Result<(Begun, HeaderMap), ApiError> {
    let Job {
        app,
        prepared,
        wishes,
        received,
        asking,
        ..
    } = job;
    let envelope = envelope(&prepared);
    let answer = prepared.call.answer(&app.dispatcher).await;
    let (served, events) = match answer {
        Ok(Answer::Stream(served, events)) => (served, events),
        Ok(Answer::Whole(..)) => return Err(ApiError::internal()),
        Err(failure) => return Err(failed(failure, &prepared.decided.id)),
    };
    let mut headers = HeaderMap::with_capacity(explain::MOST_HEADERS);
    explain::headers(
        &mut headers,
        &prepared.decided,
        &served,
        prepared.experiment.as_deref(),
    );
    let overhead = served.sent.saturating_duration_since(received);
    app.counters.overhead(overhead);
    explain::put(
        &mut headers,
        "x-router-overhead-ms",
        &format!("{:.3}", overhead.as_secs_f64() * 1e3),
    );
    if let Some(asking) = &asking {
        explain::put(&mut headers, cached::HEADER, asking.word());
    }
    let lead = asking.and_then(Asking::lead);
    if let Some(lead) = &lead {
        lead.begin(cached::origin(&prepared.decided, &served));
    }
    let envelope = Envelope {
        model: served.arm.id.to_string(),
        ..envelope
    };
    let provider = Arc::clone(&served.provider);
    let settle = move |usage: Option<Usage>, more: Option<Value>| {
        let ledger = prepared.account.ledger();
        let cost = ledger.cost();
        let tokens = usage.or_else(|| ledger.served()).unwrap_or_default();
        Settled {
            usage: wire::usage(&tokens, more, cost),
            tokens,
            cost,
            metadata: wishes
                .metadata
                .then(|| explain::metadata(&prepared.decided, &prepared.refused, &served, cost)),
        }
    };
    let explain = move |failure: AttemptError| {
        ApiError::new(failure.kind, failure.message).with("provider", &*provider)
    };
    let begun = Begun {
        envelope,
        events,
        settle: Box::new(settle),
        explain: Box::new(explain),
        lead,
    };
    Ok((begun, headers))
}

fn envelope(prepared: &Prepared) -> Envelope {
    Envelope {
        id: format!("chatcmpl-{}", prepared.decided.id),
        model: prepared.decided.arm().to_string(),
        created: prepared.decided.at.0 / 1000,
    }
}

/// The client's error for a request that nobody could answer.
pub(super) fn failed(failure: DispatchFailure, decision_id: &str) -> ApiError {
    let mut error = ApiError::new(failure.kind, failure.message)
        .with("attempts", failure.attempts)
        .with("tried", serde_json::to_value(&failure.tried).unwrap_or_default());
    if let Some(provider) = &failure.provider {
        error = error.with("provider", &**provider);
    }
    error
        .metadata
        .insert("retryable".into(), failure.retryable.into());
    error.retry_after = failure.retry_after;
    error
        .headers
        .push(("x-router-decision-id", decision_id.to_owned()));
    error
        .headers
        .push(("x-router-attempts", failure.attempts.to_string()));
    error
}
