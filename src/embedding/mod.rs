//! fastembed behind the [`Embedder`](crate::features::Embedder) trait, in a bounded pool.
//!
//! An embedding takes milliseconds, a decision microseconds: so embeddings are made by threads of their own, a request
//! waits for its own only where decisions go by it and only as long as its budget, and what comes late still reaches the
//! learner.

mod leisure;
mod local;
mod pool;
mod runtime;

pub use local::{LocalEmbedder, OpenError};
pub use pool::{EmbeddingCounts, EmbeddingPool, PoolSettings, StartError};
pub use runtime::{Runtime, RuntimeError};
