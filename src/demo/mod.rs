//! The demonstration: `serve --demo`. The real server in front of simulated providers, with a small load of
//! its own, so that a newcomer sees routing learn and spend fall without a key or a network.
//!
//! The prompts are ours (`prompts.toml`); how well each model answers them, how long and at what price are
//! recorded figures of real models (`providers::simulated`). The load is an ordinary client of the server: it
//! asks over HTTP, and a simulated rater posts scores to `/v1/feedback`. The router learns from those scores
//! only; the load alone knows what every other model would have answered, and shows the difference.

mod client;
mod dataset;
mod ledger;
mod load;
mod prompts;
mod screen;
mod setup;
mod trials;

pub use dataset::dataset;
pub use ledger::{Ledger, Rival, Tally};
pub use load::{DemoError, LoadSettings, run_load};
pub use prompts::{Prompt, PromptBook, PromptBookError};
pub use setup::{NEWCOMER, SEED, config_toml, opening_toml};
