//! pointsman: an OpenAI-compatible proxy that learns, for each prompt, the cheapest model that is good enough.
//!
//! Two rings. The *pure* ring decides: it knows no network, clock, runtime, file or global randomness, and takes
//! `now` and `rng` as arguments. The *shell* ring holds the effects. Imports go down only: see
//! `docs/architecture.md`.

// Pure ring.
pub mod arm;
pub mod candidates;
pub mod completion;
pub mod content;
pub mod context;
pub mod evaluation;
pub mod failure;
pub mod features;
pub mod feedback;
pub mod policy;
pub mod pricing;
pub mod request;
pub mod routing;
pub mod telemetry;
pub mod units;

// Shell ring.
pub mod app;
pub mod cache;
pub mod clock;
pub mod config;
pub mod demo;
pub mod dispatch;
pub mod embedding;
pub mod experiments;
pub mod hindsight;
pub mod learner;
pub mod providers;
pub mod replay;
pub mod report;
pub mod server;
pub mod store;
pub mod train;
