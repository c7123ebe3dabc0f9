//! One adapter for each wire format.

mod call;

pub use call::{Call, EventStream, Upstream};
