//! One binary for every integration test: two cores link slowly.
mod layers;
