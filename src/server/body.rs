//! A request's body, whole, up to the configured limit.

use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::{FromRef, FromRequest, Request};
use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::CONTENT_ENCODING;
use http_body_util::BodyExt;

use crate::app::App;
use crate::failure::FailureKind;
use crate::server::error::ApiError;

/// How long nothing of a body may come: whoever stalls holds a connection and its memory.
const SILENCE: Duration = Duration::from_secs(60);
/// The same for what is thrown away.
const SILENCE_BEYOND: Duration = Duration::from_secs(3);
/// Bytes beyond the limit that are still taken in and thrown away.
const DISCARDED: usize = 64 << 20;

/// The body of a request.
pub struct RawBody(pub Bytes);

impl<S> FromRequest<S> for RawBody
where
    App: FromRef<S>,
    S: Send + Sync,
{
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        whole(&App::from_ref(state), &parts.headers, body).await.map(Self)
    }
}

/// All of `body`.
///
/// # Errors
/// One that is compressed, larger than the configured limit, breaks off, or stops coming.
pub async fn whole(app: &App, headers: &HeaderMap, mut body: Body) -> Result<Bytes, ApiError> {
    if let Some(encoding) = encoding(headers) {
        discard(&mut body).await;
        return Err(ApiError::invalid(
            format!("`content-encoding: {encoding}` is not taken: send the body uncompressed."),
            None,
        ));
    }
    let limit = app.live.load().config.server.max_body_bytes;
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if announced > limit {
        return Err(too_large(&mut body, limit).await);
    }
    let mut received = Received::default();
    loop {
        let frame = match tokio::time::timeout(SILENCE, body.frame()).await {
            Ok(None) => return Ok(received.bytes()),
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(_))) => return Err(broken("broke off before its end")),
            Err(_) => return Err(broken("stopped coming before its end")),
        };
        if let Ok(data) = frame.into_data()
            && !received.take(data, limit)
        {
            return Err(too_large(&mut body, limit).await);
        }
    }
}

/// How the body is compressed, if it is.
fn encoding(headers: &HeaderMap) -> Option<String> {
    let named = headers.get_all(CONTENT_ENCODING).into_iter();
    named
        .map(|value| String::from_utf8_lossy(value.as_bytes()).trim().to_owned())
        .find(|name| !name.is_empty() && !name.eq_ignore_ascii_case("identity"))
}

async fn too_large(body: &mut Body, limit: usize) -> ApiError {
    discard(body).await;
    ApiError::new(
        FailureKind::PayloadTooLarge,
        format!("The body is larger than {limit} bytes, the limit set by `server.max_body_bytes`."),
    )
}

fn broken(how: &str) -> ApiError {
    ApiError::invalid(format!("The body {how}. Send it again."), None)
}

/// What has come. Most bodies come in one piece, which is not copied.
#[derive(Default)]
struct Received {
    first: Bytes,
    all: Option<BytesMut>,
}

impl Received {
    /// Takes a piece; false if that is more than `limit` together.
    fn take(&mut self, piece: Bytes, limit: usize) -> bool {
        let so_far = self.all.as_ref().map_or(self.first.len(), BytesMut::len);
        if so_far + piece.len() > limit {
            return false;
        }
        if so_far == 0 {
            self.first = piece;
        } else {
            let first = &self.first;
            let all = self.all.get_or_insert_with(|| BytesMut::from(&first[..]));
            all.extend_from_slice(&piece);
        }
        true
    }

    fn bytes(self) -> Bytes {
        self.all.map_or(self.first, BytesMut::freeze)
    }
}

/// Takes in what is left of a body: a client that is still sending when the connection closes sees it break off, and
/// never the reason.
async fn discard(body: &mut Body) {
    let mut left = DISCARDED;
    while let Ok(Some(Ok(frame))) = tokio::time::timeout(SILENCE_BEYOND, body.frame()).await {
        let bytes = frame.data_ref().map_or(0, Bytes::len);
        let Some(rest) = left.checked_sub(bytes) else {
            break;
        };
        left = rest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_put_together_up_to_the_limit() {
        let mut received = Received::default();
        assert!(received.take(Bytes::from_static(b"ab"), 4));
        assert!(received.take(Bytes::from_static(b"cd"), 4));
        assert!(!received.take(Bytes::from_static(b"e"), 4));
        assert_eq!(received.bytes(), "abcd");
        assert_eq!(Received::default().bytes(), "");
        let mut one = Received::default();
        let piece = Bytes::from_static(b"whole");
        let at = piece.as_ptr();
        assert!(one.take(piece, 5));
        assert_eq!(one.bytes().as_ptr(), at);
    }
}
