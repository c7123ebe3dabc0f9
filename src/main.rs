//! The `pointsman` program: arguments, and one command each.

mod commands;

use std::process::ExitCode;

use clap::Parser;

/// The system's own keeps most of what a burst has freed.
#[cfg(not(target_env = "msvc"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    commands::run(commands::Cli::parse())
}
