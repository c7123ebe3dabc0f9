//! `Idempotency-Key`: the same key gives one run and the same answer, whole or streamed, also to two who ask at once.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::body::{Body, Bytes};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::app::App;
use crate::clock;
use crate::dispatch::idempotency::{
    Fingerprint, Head, IdempotencyError, IdempotencyStore, Kept, KeyId, Recorder,
};
use crate::failure::FailureKind;
use crate::server::error::ApiError;
use crate::store::{IdempotentRow, Store};

/// The request header.
pub const HEADER: &str = "idempotency-key";
/// Tells the client that it was given an answer that was there already.
const REPLAYED: HeaderName = HeaderName::from_static("x-router-idempotent-replay");

/// Set by a streamed body when it has ended well. Carried in the response's extensions.
#[derive(Clone, Debug, Default)]
pub struct EndedWell(Arc<AtomicBool>);

impl EndedWell {
    /// The stream has ended as it should.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Answers once for a key: `answer` is run for the first who comes with it, all others are given the same.
///
/// # Errors
/// A key that came with another body, or is none; a run that broke off.
pub async fn once(
    app: &App,
    scope: &str,
    headers: &HeaderMap,
    body: &Bytes,
    answer: impl Future<Output = Result<Response, ApiError>> + Send + 'static,
) -> Result<Response, ApiError> {
    let Some(key) = headers.get(HEADER) else {
        return answer.await;
    };
    let key = key.to_str().map_err(|_| refusal(IdempotencyError::BadKey))?;
    let ran = Arc::new(AtomicBool::new(false));
    let first = Arc::clone(&ran);
    let run = move |recorder| {
        first.store(true, Ordering::Relaxed);
        record(recorder, answer)
    };
    let (head, playback) = app
        .idempotency
        .answer(scope, key, body, run)
        .await
        .map_err(refusal)?;
    let mut response = Response::new(Body::from_stream(playback.frames()));
    *response.status_mut() = StatusCode::from_u16(head.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    for (name, value) in head.headers {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            response.headers_mut().insert(name, value);
        }
    }
    if !ran.load(Ordering::Relaxed) {
        response
            .headers_mut()
            .insert(REPLAYED, HeaderValue::from_static("true"));
    }
    Ok(response)
}

async fn record(recorder: Recorder, answer: impl Future<Output = Result<Response, ApiError>> + Send) {
    let response = answer.await.unwrap_or_else(IntoResponse::into_response);
    let (parts, body) = response.into_parts();
    let text = |value: &HeaderValue| value.to_str().ok().map(str::to_owned);
    recorder.begin(Head {
        status: parts.status.as_u16(),
        headers: parts
            .headers
            .iter()
            .filter_map(|(name, value)| Some((name.to_string(), text(value)?)))
            .collect(),
    });
    let mut frames = body.into_data_stream();
    let mut whole = true;
    while let Some(frame) = frames.next().await {
        match frame {
            Ok(frame) => recorder.push(frame),
            Err(_) => whole = false,
        }
    }
    let ended_well = parts.extensions.get::<EndedWell>().is_none_or(EndedWell::get);
    if whole && parts.status.is_success() && ended_well {
        recorder.finish().await;
    } else {
        recorder.finish_without_keeping();
    }
}

fn refusal(error: IdempotencyError) -> ApiError {
    let (kind, message) = match error {
        IdempotencyError::Conflict => (
            FailureKind::IdempotencyConflict,
            "This Idempotency-Key was used with another request. Use a new key for a new request.",
        ),
        IdempotencyError::BadKey => (
            FailureKind::InvalidRequest,
            "An Idempotency-Key is text of 1 to 255 bytes.",
        ),
        IdempotencyError::BrokenOff => (
            FailureKind::Server,
            "The request broke off. Send it again with the same key.",
        ),
    };
    let mut refusal = ApiError::new(kind, message);
    refusal.param = Some("Idempotency-Key".into());
    refusal
}

/// Answers kept in the database.
pub struct Shelf(pub Store);

impl IdempotencyStore for Shelf {
    fn load(&self, key: KeyId) -> BoxFuture<'_, Option<Kept>> {
        let reader = self.0.reader().clone();
        Box::pin(async move {
            let name = name(key);
            let row = tokio::task::spawn_blocking(move || reader.idempotent(&name, clock::wall())).await;
            match row {
                Ok(Ok(row)) => row.and_then(unpack),
                Ok(Err(error)) => {
                    tracing::error!(%error, "an idempotency key could not be looked up");
                    None
                }
                Err(_) => None,
            }
        })
    }

    fn keep(&self, key: KeyId, kept: Kept) -> BoxFuture<'_, ()> {
        let store = self.0.clone();
        Box::pin(async move {
            if !store.keep_answer(pack(key, &kept)) {
                tracing::warn!(
                    "an answer was not kept under its idempotency key: too much waits to be written"
                );
                return;
            }
            if let Err(error) = store.flush().await {
                tracing::warn!(%error, "an answer was not kept under its idempotency key");
            }
        })
    }
}

fn name(key: KeyId) -> String {
    key.0.iter().fold(String::with_capacity(64), |mut name, byte| {
        use std::fmt::Write as _;
        let _ = write!(name, "{byte:02x}");
        name
    })
}

/// The head as JSON with its length before it, then the body.
fn pack(key: KeyId, kept: &Kept) -> IdempotentRow {
    let head = serde_json::to_vec(&(kept.head.status, &kept.head.headers)).unwrap_or_default();
    let mut answer = Vec::with_capacity(4 + head.len() + kept.body.len());
    answer.extend((head.len() as u32).to_le_bytes());
    answer.extend(&head);
    answer.extend(&kept.body[..]);
    IdempotentRow {
        key: name(key),
        at: clock::wall(),
        body_hash: kept.fingerprint.0.to_vec(),
        answer,
    }
}

fn unpack(row: IdempotentRow) -> Option<Kept> {
    let fingerprint = Fingerprint(row.body_hash.try_into().ok()?);
    let (length, rest) = row.answer.split_first_chunk::<4>()?;
    let (head, body) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    let (status, headers) = serde_json::from_slice(head).ok()?;
    Some(Kept {
        fingerprint,
        head: Head { status, headers },
        body: Bytes::copy_from_slice(body),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_is_unpacked_and_a_damaged_row_is_no_answer() {
        let kept = Kept {
            fingerprint: Fingerprint([7; 32]),
            head: Head {
                status: 200,
                headers: vec![("a".into(), "b".into())],
            },
            body: Bytes::from_static(b"data: 1\n\n"),
        };
        let row = pack(KeyId([1; 32]), &kept);
        assert_eq!(unpack(row.clone()), Some(kept));
        assert_eq!(
            unpack(IdempotentRow {
                answer: row.answer[..9].to_vec(),
                ..row
            }),
            None
        );
    }
}
