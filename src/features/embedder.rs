//! What turns a text into a vector of meaning.

use thiserror::Error;

/// A sentence embedder: text to a unit vector. May take milliseconds; never called on a request's critical path.
pub trait Embedder: Send {
    /// The embedding of `text`, of length [`Embedder::dimensions`] and Euclidean norm 1.
    ///
    /// # Errors
    /// When the runtime fails on this text; the next text may succeed.
    fn embed(&mut self, text: &str) -> Result<Vec<f32>, EmbedError>;

    /// Length of every embedding.
    fn dimensions(&self) -> usize;

    /// The model's name, as artefacts trained on its embeddings record it.
    fn name(&self) -> &str;
}

/// Why a text could not be embedded.
#[derive(Debug, Error)]
pub enum EmbedError {
    /// The runtime refused the input or failed on it.
    #[error("the embedding runtime failed: {cause}")]
    Runtime {
        /// What it said.
        cause: String,
    },
    /// The model gave something that is not a usable vector.
    #[error(
        "the embedding model gave {got} values where {expected} finite ones were due; check the model's files"
    )]
    Shape {
        /// Values due.
        expected: usize,
        /// Finite values given.
        got: usize,
    },
}
