//! Configuration: TOML and environment to a checked form.
