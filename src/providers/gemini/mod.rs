//! Google's generateContent.

mod answer;
mod content;
mod model;
mod request;
mod stream;

use bytes::Bytes;
use reqwest::Url;

pub(super) use self::stream::AnswerReader;
use super::call::{Call, EventStream};
use super::http::{self, Expect, Link};
use super::stream::Events;
use crate::completion::Completion;
use crate::failure::AttemptError;
use crate::request::ResponseFormat;

/// The address of one Gemini-shaped provider.
#[derive(Clone, Debug)]
pub(super) struct Gemini {
    base: Url,
}

impl Gemini {
    /// `base` with or without the version.
    pub(super) fn new(base: &Url) -> Self {
        let bare = base.path().trim_matches('/').is_empty();
        Self {
            base: if bare {
                http::join(base, &["v1beta"])
            } else {
                base.clone()
            },
        }
    }

    /// `models/NAME:METHOD`; tuned models have another collection in their name.
    fn address(&self, model: &str, method: &str) -> Url {
        let (collection, name) = model.split_once('/').unwrap_or(("models", model));
        http::join(&self.base, &[collection, &format!("{name}:{method}")])
    }

    pub(super) async fn complete(&self, link: &Link, call: &Call) -> Result<Completion, AttemptError> {
        let body: Bytes = request::body(&link.wire, call)?.to_string().into();
        let url = self.address(&call.arm.upstream, "generateContent");
        let response = link.post(&url, body, Expect::Json).await?;
        let body = link.whole(response).await?;
        let json_asked = call.request.response_format != ResponseFormat::Text;
        answer::read(&link.wire, &body, json_asked)
    }

    pub(super) async fn stream(&self, link: &Link, call: &Call) -> Result<EventStream, AttemptError> {
        let body: Bytes = request::body(&link.wire, call)?.to_string().into();
        let mut url = self.address(&call.arm.upstream, "streamGenerateContent");
        url.set_query(Some("alt=sse"));
        let response = link.post(&url, body, Expect::Events).await?;
        let reader = AnswerReader::new(link.wire.clone());
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
