//! The demonstration: prompts, recorded rates and a small load.
