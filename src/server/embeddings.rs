//! `POST /v1/embeddings`: OpenAI's schema. A model's vectors mean nothing to another model, so the client names the
//! model itself; what may change is only the server behind it.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use serde_json::json;

use crate::app::prepare::{self, Wishes};
use crate::app::{App, money};
use crate::clock;
use crate::dispatch::Answer;
use crate::request;
use crate::server::auth::Client;
use crate::server::body::RawBody;
use crate::server::error::ApiError;
use crate::server::{chat, explain, idempotency, wire};

/// Embeds, and says what it cost.
pub async fn post(
    State(app): State<App>,
    client: Client,
    headers: HeaderMap,
    RawBody(body): RawBody,
) -> Result<Response, ApiError> {
    let scope = format!("{} embeddings", client.0);
    let answer = answer(Arc::clone(&app), client, headers.clone(), body.clone());
    idempotency::once(&app, &scope, &headers, &body, answer).await
}

async fn answer(app: App, client: Client, headers: HeaderMap, body: Bytes) -> Result<Response, ApiError> {
    let received = clock::monotonic();
    let request = Arc::new(request::parse_embedding(body).map_err(chat::complaint)?);
    let wishes = Wishes::read(&request, &headers, client)?;
    let prepared = prepare::prepare(&app, &request, &wishes, received).await?;
    money::reserve(&app, &prepared, &request, &wishes)?;
    app.log_decision(&prepared, &request);
    let (served, vectors) = match prepared.call.answer(&app.dispatcher).await {
        Ok(Answer::Whole(served, vectors)) => (served, vectors),
        Ok(Answer::Stream(..)) => return Err(ApiError::internal()),
        Err(failure) => return Err(chat::failed(failure, &prepared.decided.id)),
    };
    let answered = clock::monotonic();
    let ledger = prepared.account.ledger();
    let cost = ledger.cost();
    let tokens = vectors.usage.or_else(|| ledger.served()).unwrap_or_default();
    let mut usage = json!({
        "prompt_tokens": tokens.input,
        "total_tokens": tokens.input,
        "cost": cost.map(|cost| cost.dollars()),
    });
    if tokens.estimated {
        usage["estimated"] = true.into();
    }
    let metadata = wishes
        .metadata
        .then(|| explain::metadata(&prepared.decided, &prepared.refused, &served, cost));
    let body = wire::embeddings(
        served.arm.id.as_str(),
        &vectors.choices,
        &usage,
        metadata.as_ref(),
    );
    let mut response = Response::new(Body::from(body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    explain::headers(headers, &prepared.decided, &served, None);
    if let Some(cost) = cost {
        explain::put(headers, "x-router-cost-usd", &cost.to_string());
    }
    let overhead = served.sent.saturating_duration_since(received)
        + clock::monotonic().saturating_duration_since(answered);
    explain::put(
        headers,
        "x-router-overhead-ms",
        &format!("{:.3}", overhead.as_secs_f64() * 1e3),
    );
    Ok(response)
}
