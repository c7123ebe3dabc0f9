//! HTTP: routes, wire shapes, statuses.

pub mod auth;
pub mod body;
mod cache_hit;
pub mod cached;
pub mod chat;
pub mod dashboard;
pub mod embeddings;
pub mod error;
pub mod explain;
pub mod feedback;
pub mod idempotency;
pub mod inbound;
mod listen;
pub mod metrics;
pub mod models;
pub mod openapi;
pub mod operations;
pub mod prices;
pub mod route;
pub mod stream;
pub mod wire;

use std::future::Future;
use std::io;
use std::sync::Arc;

use axum::extract::{FromRef, FromRequestParts, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Router, http};
use tokio::net::TcpListener;

use crate::app::App;
use crate::failure::FailureKind;
use crate::server::auth::Client;
use crate::server::error::ApiError;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longest name of its own that a client may give a request, in bytes.
const MAX_REQUEST_ID: usize = 200;

/// Every path.
pub fn router(app: App) -> Router {
    let open = Router::new()
        // Changing prices asks for a key of its own.
        .route("/v1/prices", post(prices::post))
        .route("/v1/prices/{*model}", axum::routing::delete(prices::delete))
        .route("/health", get(operations::health))
        .route("/", get(dashboard::page))
        .route("/ready", get(operations::ready))
        .route("/openapi.json", get(openapi::document));
    let guarded = Router::new()
        .route("/v1/embeddings", post(embeddings::post))
        .route("/v1/responses", post(inbound::responses::post))
        .route("/v1/feedback", post(feedback::post))
        .route("/v1/route", post(route::post))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*id}", get(models::get))
        .route("/v1/telemetry", get(operations::telemetry))
        .route("/v1/budgets", get(operations::budgets))
        .route("/metrics", get(metrics::get))
        .route("/v1/prices", get(prices::list))
        .route("/v1/overview", get(dashboard::overview))
        .route(
            "/v1/experiments",
            get(dashboard::experiments).post(dashboard::start),
        )
        .route(
            "/v1/experiments/{name}",
            get(dashboard::experiment).post(dashboard::intervene),
        )
        .route("/reports/{name}/{file}", get(dashboard::report))
        .route_layer(middleware::from_fn_with_state(Arc::clone(&app), authenticate));
    let messages = Router::new()
        .route("/v1/messages", post(inbound::messages::post))
        .route("/v1/messages/count_tokens", post(inbound::messages::count_tokens))
        .route_layer(middleware::from_fn_with_state(Arc::clone(&app), authenticate))
        .route_layer(middleware::from_fn(inbound::messages::errors));
    let layered = open
        .merge(guarded)
        .merge(messages)
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(middleware::from_fn_with_state(Arc::clone(&app), name_request));
    // What all the traffic is does its own naming and asking for keys: a layer costs it more than the work in it.
    let chat = post(chat::post).fallback(no_such_method);
    Router::new()
        .route("/v1/chat/completions", chat)
        .merge(layered)
        .with_state(app)
}

/// Answers until `stop` resolves, and then until every answer under way has ended.
///
/// # Errors
/// When the listener fails.
pub async fn serve(listener: TcpListener, app: App, stop: impl Future<Output = ()>) -> io::Result<()> {
    listen::serve(listener, router(app), stop).await
}

/// Names every answer, so that a client can quote it. Counts it.
async fn name_request(State(app): State<App>, request: Request, next: Next) -> Response {
    let own = own_name(request.headers());
    let path = metrics::path(request.uri().path());
    let mut response = next.run(request).await;
    app.counters.answered(path, response.status().as_u16());
    name(&mut response, own);
    response
}

/// The name that a client gives its request itself.
fn own_name(headers: &HeaderMap) -> Option<HeaderValue> {
    let own = headers.get(REQUEST_ID)?;
    (own.len() <= MAX_REQUEST_ID).then(|| own.clone())
}

/// Names an answer: by the client's own name, else by its decision, else by a new one.
fn name(response: &mut Response, own: Option<HeaderValue>) {
    let headers = response.headers_mut();
    let name = own
        .or_else(|| headers.get(explain::DECISION_ID).cloned())
        .or_else(|| HeaderValue::from_str(&uuid::Uuid::now_v7().simple().to_string()).ok());
    if let Some(name) = name {
        headers.insert(REQUEST_ID, name);
    }
}

/// Lets known clients through, and tells the handlers who they are.
async fn authenticate(
    State(app): State<App>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let client = app.live.load().keys.authenticate(request.headers())?;
    request.extensions_mut().insert(client);
    Ok(next.run(request).await)
}

impl<S> FromRequestParts<S> for Client
where
    App: FromRef<S>,
    S: Send + Sync,
{
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut http::request::Parts, _: &S) -> Result<Self, ApiError> {
        parts
            .extensions
            .get::<Self>()
            .cloned()
            .ok_or_else(ApiError::internal)
    }
}

async fn no_such_path(request: Request) -> Response {
    let path = request.uri().path();
    let message = match meant(path) {
        Some(known) => {
            format!("There is no {path} here, but there is /v1/{known}: mend the client's base URL.")
        }
        None => format!("There is no {path} here. GET /openapi.json lists the paths."),
    };
    ApiError::new(FailureKind::NotFound, message).into_response()
}

/// The path under `/v1/` that a client with another base URL means: OpenAI's ends in `/v1`, Anthropic's does not.
fn meant(path: &str) -> Option<&'static str> {
    const UNDER_V1: [&str; 7] = [
        "chat/completions",
        "messages",
        "responses",
        "embeddings",
        "models",
        "feedback",
        "route",
    ];
    UNDER_V1.into_iter().find(|known| {
        path.strip_suffix(known)
            .is_some_and(|before| before.ends_with('/'))
    })
}

async fn no_such_method(request: Request) -> Response {
    let message = format!("{} does not take {}.", request.uri().path(), request.method());
    let mut response = ApiError::new(FailureKind::InvalidRequest, message).into_response();
    *response.status_mut() = http::StatusCode::METHOD_NOT_ALLOWED;
    response
}
