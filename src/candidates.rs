//! Hard filters: which arms can take a request at all, and why the others cannot.

mod rules;

pub use rules::{Rule, Seen, When};
