//! fastembed behind the `Embedder` trait, in a bounded pool.
