//! HTTP: routes, wire shapes, statuses.

pub mod auth;
pub mod error;
pub mod stream;
pub mod wire;
