//! Hard filters: which arms can take a request at all, and why the others cannot.
//!
//! Two steps. Plain [`Rule`]s of the configuration narrow a route's models by what the request is; then
//! [`filter`] refuses every arm that cannot or may not serve it, each with its reason. What remains is the
//! policy's to choose from.

mod filter;
mod refusal;
mod rules;

pub use filter::{Demand, Filtered, ListPrice, Means, filter};
pub use refusal::{Refusal, Refused};
pub use rules::{Rule, Seen, When};
