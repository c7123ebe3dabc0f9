//! Anthropic's Messages.

mod answer;
mod content;
mod model;
mod prompt_cache;
mod request;
mod stream;

use bytes::Bytes;
use reqwest::Url;

pub(super) use self::stream::MessageReader;
use super::call::{Call, EventStream};
use super::http::{self, Expect, Link};
use super::stream::Events;
use crate::completion::Completion;
use crate::failure::AttemptError;
use crate::request::ResponseFormat;

/// The address of one Anthropic-shaped provider.
#[derive(Clone, Debug)]
pub(super) struct Anthropic {
    messages: Url,
    /// Cache marks are set for clients that set none.
    prompt_cache: bool,
}

impl Anthropic {
    /// `base` with or without the version.
    pub(super) fn new(base: &Url, prompt_cache: bool) -> Self {
        let versioned = base.path().trim_end_matches('/').ends_with("/v1");
        let segments: &[&str] = if versioned {
            &["messages"]
        } else {
            &["v1", "messages"]
        };
        Self {
            messages: http::join(base, segments),
            prompt_cache,
        }
    }

    fn body(&self, link: &Link, call: &Call, stream: bool) -> Result<Bytes, AttemptError> {
        let mut body = request::body(&link.wire, call, stream)?;
        if self.prompt_cache {
            prompt_cache::mark(&mut body, &call.request);
        }
        Ok(body.to_string().into())
    }

    pub(super) async fn complete(&self, link: &Link, call: &Call) -> Result<Completion, AttemptError> {
        let body = self.body(link, call, false)?;
        let response = link.post(&self.messages, body, Expect::Json).await?;
        let body = link.whole(response).await?;
        let json_asked = call.request.response_format != ResponseFormat::Text;
        answer::read(&link.wire, &body, json_asked)
    }

    pub(super) async fn stream(&self, link: &Link, call: &Call) -> Result<EventStream, AttemptError> {
        let body = self.body(link, call, true)?;
        let response = link.post(&self.messages, body, Expect::Events).await?;
        let reader = MessageReader::new(link.wire.clone());
        let bytes = Box::pin(response.bytes_stream());
        Ok(Box::pin(Events::new(
            link.wire.clone(),
            bytes,
            reader,
            link.max_response_bytes,
        )))
    }
}

#[cfg(test)]
mod tests;
