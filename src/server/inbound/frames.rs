//! A stream of chat's chunks read again and said in another schema, as it comes.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::BodyDataStream;
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use serde_json::Value;

use super::{Dialect, Events};

/// The stream in the dialect.
pub(super) struct Translated<D> {
    frames: BodyDataStream,
    dialect: D,
    /// The beginning of a frame whose end has not come.
    rest: BytesMut,
}

impl<D: Dialect> Translated<D> {
    pub(super) fn new(frames: BodyDataStream, dialect: D) -> Self {
        Self {
            frames,
            dialect,
            rest: BytesMut::new(),
        }
    }

    /// Our own server wrote these frames, one `data:` line or one comment each.
    fn say(&mut self, bytes: &[u8]) -> Events {
        let mut out = Events::default();
        self.rest.extend_from_slice(bytes);
        while let Some(end) = memchr::memmem::find(&self.rest, b"\n\n") {
            let frame = self.rest.split_to(end + 2);
            if frame.starts_with(b":") {
                self.dialect.keepalive(&mut out);
            } else if let Some(data) = frame.strip_prefix(b"data: ")
                && let Ok(chunk) = serde_json::from_slice::<Value>(data)
                && chunk.is_object()
            {
                self.dialect.chunk(&chunk, &mut out);
            }
        }
        out
    }
}

impl<D: Dialect> Stream for Translated<D> {
    type Item = Result<Bytes, axum::Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let item = ready!(self.frames.poll_next_unpin(cx));
            let out = match item {
                Some(Ok(bytes)) => self.say(&bytes),
                other => return Poll::Ready(other),
            };
            if !out.0.is_empty() {
                return Poll::Ready(Some(Ok(out.0.freeze())));
            }
        }
    }
}
