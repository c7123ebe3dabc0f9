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
    let response = chat::ask(app, client, headers, asked.chat, "responses").await;
    super::spoken(Speaker::new(asked.echo), response.map_err(in_own_words)?).await
}

/// An error about a field by the name that it has in this schema.
fn in_own_words(mut error: ApiError) -> ApiError {
    let (chat, own) = ("max_completion_tokens", "max_output_tokens");
    if error.param.as_deref() == Some(chat) {
        error.param = Some(own.to_owned());
        error.message = error.message.replace(chat, own);
    }
    error
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn an_error_names_the_field_as_this_schema_does() {
        let asked = br#"{"model":"auto","input":"hi","max_output_tokens":1000000000000}"#;
        let chat = request::read(&Bytes::from_static(asked)).unwrap().chat;
        let error = in_own_words(chat::parse(chat).unwrap_err());
        assert_eq!(error.param.as_deref(), Some("max_output_tokens"));
        assert_eq!(
            error.message,
            "`max_output_tokens` must be a whole number from 1 to 1000000000."
        );
    }
}
