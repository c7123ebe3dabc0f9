//! One adapter for each wire format.

mod call;
pub mod simulated;

pub use call::{Call, EventStream, Upstream};
