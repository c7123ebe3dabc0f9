//! The context of a decision: what the prompt looked like when the arm was drawn, kept until its scores are in.

use std::sync::Arc;

/// Feature vectors with the versions of the frozen projections that made them. Statistics never cross versions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Features {
    /// The text view: always there.
    pub text: Arc<[f32]>,
    /// Version of its projection.
    pub text_version: u32,
    /// The embedding view, when it was ready in time.
    pub embedding: Option<Arc<[f32]>>,
    /// Version of its projection.
    pub embedding_version: u32,
}

impl Features {
    /// Whether there is nothing to learn from.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.text.is_empty() && self.embedding.is_none()
    }
}
