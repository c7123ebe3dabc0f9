//! `POST /v1/responses`: OpenAI's newer schema, without what a router cannot keep.

mod answer;
mod request;

use axum::extract::State;
use axum::response::Response;
use http::HeaderMap;

use self::answer::Speaker;
use crate::app::App;
use crate::server::auth::Client;
use crate::server::body::RawBody;
use crate::server::chat;
use crate::server::error::ApiError;

/// Answers in the shape of Responses.
pub async fn post(
    State(app): State<App>,
    client: Client,
    headers: HeaderMap,
    RawBody(body): RawBody,
) -> Result<Response, ApiError> {
    let asked = request::read(&body)?;
    let response = chat::ask(app, client, headers, asked.chat, "responses").await?;
    super::spoken(Speaker::new(asked.echo), response).await
}
