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
pub async fn whole(app: &App, mut body: Body) -> Result<Bytes, ApiError> {
    let limit = app.live.load().config.server.max_body_bytes;
    match Limited::new(&mut body, limit).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            discard(&mut body).await;
            Err(ApiError::new(
                FailureKind::PayloadTooLarge,
                format!("The body is larger than {limit} bytes, the limit set by `server.max_body_bytes`."),
            ))
        }
        Err(_) => Err(ApiError::invalid(
            "The body broke off before its end. Send it again.",
            None,
        )),
    }
}

/// Bytes beyond the limit that are still taken in and thrown away.
const DISCARDED: usize = 64 << 20;

/// Takes in what is left of a body: a client that is still sending when the connection closes sees it break off, and
/// never the reason.
async fn discard(body: &mut Body) {
    let mut left = DISCARDED;
    while let Some(Ok(frame)) = body.frame().await {
        let bytes = frame.data_ref().map_or(0, Bytes::len);
        let Some(rest) = left.checked_sub(bytes) else {
            break;
        };
        left = rest;
    }
}
