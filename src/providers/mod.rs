//! One adapter for each wire format. Whatever a provider speaks, what comes out is OpenAI-shaped; server-sent
//! events and wire types never leave this room.

mod anthropic;
mod call;
mod fault;
mod gemini;
mod http;
mod media;
mod openai;
mod schema;
mod settings;
mod shape;
pub mod simulated;
mod sse;
mod stream;
#[cfg(test)]
mod testing;

use std::sync::Arc;

use futures_util::future::BoxFuture;

use crate::completion::Completion;
use crate::failure::AttemptError;
use crate::request::Purpose;

pub use call::{Call, EventStream, Upstream};
pub use http::http_client;
pub use settings::{DEFAULT_MAX_RESPONSE_BYTES, ProviderError, ProviderSettings, Secret, WireFormat};

/// A provider with one key of ours. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Provider {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    name: String,
    link: http::Link,
    adapter: Adapter,
}

#[derive(Debug)]
enum Adapter {
    OpenAi(openai::OpenAi),
    Anthropic(anthropic::Anthropic),
    Gemini(gemini::Gemini),
}

impl Provider {
    /// From checked settings and the [shared client](http_client). Nothing is sent.
    ///
    /// # Errors
    /// When the address, a header or the key cannot be used, or the provider is a simulated one, which is built
    /// otherwise.
    pub fn new(settings: ProviderSettings, http: reqwest::Client) -> Result<Self, ProviderError> {
        let base = http::base_url(&settings)?;
        let adapter = match settings.kind {
            WireFormat::OpenAi => Adapter::OpenAi(openai::OpenAi::new(&base)),
            WireFormat::Anthropic => {
                Adapter::Anthropic(anthropic::Anthropic::new(&base, settings.prompt_cache))
            }
            WireFormat::Gemini => Adapter::Gemini(gemini::Gemini::new(&base)),
            WireFormat::Simulated => {
                return Err(ProviderError::NoWireFormat {
                    provider: settings.name,
                });
            }
        };
        Ok(Self {
            inner: Arc::new(Inner {
                link: http::Link::new(&settings, http)?,
                name: settings.name,
                adapter,
            }),
        })
    }

    /// Its name in the configuration.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The whole answer. Dropping the future cancels the upstream call.
    ///
    /// # Errors
    /// Whatever kept the provider from answering, by meaning.
    pub async fn complete(&self, call: &Call) -> Result<Completion, AttemptError> {
        if call.request.purpose == Purpose::Embedding {
            return self.embed(call).await;
        }
        let link = &self.inner.link;
        match &self.inner.adapter {
            Adapter::OpenAi(adapter) => adapter.complete(link, call).await,
            Adapter::Anthropic(adapter) => adapter.complete(link, call).await,
            Adapter::Gemini(adapter) => adapter.complete(link, call).await,
        }
    }

    /// Resolves once the upstream has accepted the call. Dropping the stream cancels the upstream call.
    ///
    /// # Errors
    /// As [`complete`](Self::complete); later failures come through the stream.
    pub async fn stream(&self, call: &Call) -> Result<EventStream, AttemptError> {
        let link = &self.inner.link;
        match &self.inner.adapter {
            Adapter::OpenAi(adapter) => adapter.stream(link, call).await,
            Adapter::Anthropic(adapter) => adapter.stream(link, call).await,
            Adapter::Gemini(adapter) => adapter.stream(link, call).await,
        }
    }

    /// The vectors of the request's texts, as the `choices` of a whole answer.
    async fn embed(&self, call: &Call) -> Result<Completion, AttemptError> {
        let link = &self.inner.link;
        match &self.inner.adapter {
            Adapter::OpenAi(adapter) => adapter.embed(link, call).await,
            Adapter::Anthropic(_) | Adapter::Gemini(_) => {
                Err(fault::unsupported(&link.wire, "embeddings in OpenAI's form"))
            }
        }
    }
}

impl Upstream for Provider {
    fn complete<'a>(&'a self, call: &'a Call) -> BoxFuture<'a, Result<Completion, AttemptError>> {
        Box::pin(self.complete(call))
    }

    fn stream<'a>(&'a self, call: &'a Call) -> BoxFuture<'a, Result<EventStream, AttemptError>> {
        Box::pin(self.stream(call))
    }
}
