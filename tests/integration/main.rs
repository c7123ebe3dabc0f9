//! One binary for every integration test: two cores link slowly.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test's helpers fail the test"
)]

mod apart;
mod caching;
mod dashboard;
mod dispatch;
mod evaluate;
mod experiments;
mod gateway;
mod hedging;
mod hosts;
mod inbound;
mod interface;
mod keepalive;
mod layers;
mod leaving;
mod matrix;
mod money;
mod order;
mod program;
mod providers;
mod retraining;
mod running;
mod schemas;
mod sdk;
mod served;
mod sessions;
mod shutdown;
mod soak;
mod store;
mod told;
mod upstream;
