//! A request's body, whole, up to the configured limit.

use axum::body::Body;
use axum::extract::{FromRef, FromRequest, Request};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};

use crate::app::App;
use crate::failure::FailureKind;
use crate::server::error::ApiError;

/// The body of a request.
pub struct RawBody(pub Bytes);

impl<S> FromRequest<S> for RawBody
where
    App: FromRef<S>,
    S: Send + Sync,
{
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        whole(&App::from_ref(state), request.into_body()).await.map(Self)
    }
}

/// All of `body`.
///
/// # Errors
/// One that is larger than the configured limit, or breaks off.
pub async fn whole(app: &App, body: Body) -> Result<Bytes, ApiError> {
    let limit = app.live.load().config.server.max_body_bytes;
    match Limited::new(body, limit).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(ApiError::new(
            FailureKind::PayloadTooLarge,
            format!("The body is larger than {limit} bytes, the limit set by `server.max_body_bytes`."),
        )),
        Err(_) => Err(ApiError::invalid(
            "The body broke off before its end. Send it again.",
            None,
        )),
    }
}
