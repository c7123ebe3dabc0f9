//! `POST /v1/messages` and `/v1/messages/count_tokens`: Anthropic's schema.

mod answer;
mod request;

use axum::Json;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::HeaderMap;
use serde_json::{Value, json};

use self::answer::Speaker;
use crate::app::App;
use crate::app::live::Target;
use crate::features::content;
use crate::server::auth::Client;
use crate::server::body::RawBody;
use crate::server::error::ApiError;
use crate::server::{chat, models};

/// Answers in Anthropic's shape.
pub async fn post(
    State(app): State<App>,
    client: Client,
    headers: HeaderMap,
    RawBody(body): RawBody,
) -> Result<Response, ApiError> {
    let body = request::chat(&body)?;
    let response = chat::ask(app, client, headers, body, "messages").await?;
    super::spoken(Speaker::default(), response).await
}

/// The input tokens of a request, by the same estimate that routing uses; of a route, on its first model.
pub async fn count_tokens(State(app): State<App>, RawBody(body): RawBody) -> Result<Json<Value>, ApiError> {
    let request = chat::parse(request::chat(&body)?)?;
    let live = app.live.load();
    let served = match live.resolve(&request.model) {
        Some(Target::Arm(served)) => Some(served),
        Some(Target::Route(route)) => route.models.first().and_then(|id| live.arm(id)),
        None => None,
    };
    let served = served.ok_or_else(|| models::unknown(&live, &request.model))?;
    let corrections = app.learner.corrections();
    let tokens = corrections.expected_input(&served.arm, &content::look(&request));
    Ok(Json(json!({"input_tokens": tokens})))
}

/// Says errors, those of authentication too, in Anthropic's shape.
pub async fn errors(request: Request, next: Next) -> Response {
    super::reshaped(next.run(request).await, answer::error).await
}
