//! Placeholder while the crate graph is resolved.
