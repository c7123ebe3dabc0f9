//! Other schemas than chat's, spoken at the door. A request is turned into a chat request before anything looks at
//! it, and its answer is turned back after everything is done: routing, budgets, idempotency, the cache and the log
//! know one schema only. What a schema can say and chat cannot is refused, never dropped in silence.

mod frames;
pub mod messages;
mod read;
pub mod responses;

use axum::body::{Body, to_bytes};
use axum::response::Response;
use http::{HeaderMap, HeaderValue, header};
use serde_json::Value;

use crate::server::error::ApiError;
use frames::Translated;

/// Errors longer than this are not ours.
const MAX_ERROR_BYTES: usize = 1 << 20;

/// How one schema says what chat says.
pub trait Dialect: Send + Unpin + 'static {
    /// A whole answer.
    fn whole(&mut self, answer: &Value) -> Value;
    /// One chunk of a stream; an error is a chunk with `error`, the last one has `usage` and no choices.
    fn chunk(&mut self, chunk: &Value, out: &mut Events);
    /// Nothing has come for a while.
    fn keepalive(&mut self, out: &mut Events);
}

/// Server-sent events being written.
#[derive(Default)]
pub struct Events(bytes::BytesMut);

impl Events {
    /// An event and its data.
    pub fn push(&mut self, name: &str, data: &Value) {
        self.0
            .extend_from_slice(format!("event: {name}\ndata: {data}\n\n").as_bytes());
    }

    /// A comment.
    pub fn comment(&mut self, text: &str) {
        self.0.extend_from_slice(format!(": {text}\n\n").as_bytes());
    }
}

/// Turns a good answer of chat into the dialect; anything else stays as it is.
async fn spoken(mut dialect: impl Dialect, response: Response) -> Result<Response, ApiError> {
    if !response.status().is_success() {
        return Ok(response);
    }
    let (mut parts, body) = response.into_parts();
    parts.headers.remove(header::CONTENT_LENGTH);
    if is(&parts.headers, "text/event-stream") {
        let stream = Translated::new(body.into_data_stream(), dialect);
        return Ok(Response::from_parts(parts, Body::from_stream(stream)));
    }
    let bytes = to_bytes(body, usize::MAX)
        .await
        .map_err(|_| ApiError::internal())?;
    let answer: Value = serde_json::from_slice(&bytes).map_err(|_| ApiError::internal())?;
    let body = dialect.whole(&answer).to_string();
    Ok(Response::from_parts(parts, Body::from(body)))
}

/// Turns an error of ours into another shape; anything else stays as it is.
async fn reshaped(response: Response, shape: fn(&Value) -> Value) -> Response {
    let is_error = response.status().is_client_error() || response.status().is_server_error();
    if !is_error || !is(response.headers(), "application/json") {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    parts.headers.remove(header::CONTENT_LENGTH);
    let bytes = to_bytes(body, MAX_ERROR_BYTES).await.unwrap_or_default();
    let body = match serde_json::from_slice::<Value>(&bytes) {
        Ok(error) => Body::from(shape(&error["error"]).to_string()),
        Err(_) => Body::from(bytes),
    };
    Response::from_parts(parts, body)
}

fn is(headers: &HeaderMap, kind: &str) -> bool {
    let value: Option<&HeaderValue> = headers.get(header::CONTENT_TYPE);
    value
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.starts_with(kind))
}

/// Our ids are `chatcmpl-` and the decision's id; each schema has a prefix of its own.
fn id_with(prefix: &str, chat: &Value) -> String {
    let id = chat["id"].as_str().unwrap_or_default();
    format!("{prefix}{}", id.strip_prefix("chatcmpl-").unwrap_or(id))
}
