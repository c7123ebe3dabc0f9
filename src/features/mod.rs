//! From a request to a context: content, text views, categories.
//!
//! Two views of the user's words, each with its own statistics per arm. The *text view* is always there and takes
//! microseconds: hashed word n-grams, a static word table, and the prompt's surface. The *embedding view* rests on
//! a transformer ([`Embedder`]) and is there when it came in time. Both projections are frozen artefacts with a
//! version; statistics learned under one version mean nothing under another.
//!
//! Everything here is pure: artefacts come in as bytes, and extraction cannot fail.

pub mod artefact;
pub mod boilerplate;
pub mod category;
pub mod classifier;
pub mod content;
mod embedder;
pub mod embedding;
mod hashed;
mod memo;
mod numeric;
pub mod prompt;
pub mod static_table;
pub mod surface;
pub mod text;
pub mod wordpiece;
pub mod words;

pub use category::Category;
pub use classifier::{Classified, Classifier};
pub use embedder::{EmbedError, Embedder};
pub use embedding::EmbeddingView;
pub use numeric::to_bf16;
pub use text::TextView;

/// A request of `messages` with every other field empty.
#[cfg(test)]
fn test_request(messages: Vec<crate::request::Message>) -> crate::request::ChatRequest {
    crate::request::ChatRequest {
        purpose: crate::request::Purpose::Chat,
        body: bytes::Bytes::new(),
        model: "auto".to_owned(),
        messages,
        tools: Vec::new(),
        other_tools: Vec::new(),
        tool_choice: None,
        parallel_tool_calls: None,
        response_format: crate::request::ResponseFormat::default(),
        max_output_tokens: None,
        sampling: crate::request::Sampling::default(),
        reasoning_effort: None,
        stream: false,
        include_usage: false,
        fallbacks: Vec::new(),
        provider: crate::request::ProviderPreferences::default(),
        routing: crate::request::RoutingExtras::default(),
        session_id: None,
        user: None,
        prompt_cache_key: None,
        metadata: Vec::new(),
        extra: Vec::new(),
    }
}
