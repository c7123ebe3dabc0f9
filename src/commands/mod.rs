//! The command line. Each command is a thin call of the library.

mod evaluate;
mod models_dir;
mod report;
mod serve;

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};
use pointsman::clock;
use pointsman::config::{self, check, import};

/// An OpenAI-compatible proxy that learns, for each prompt, the cheapest model that is good enough.
#[derive(Parser, Debug)]
#[command(version, about, long_about = None)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Serve the proxy
    Serve(serve::ServeArgs),
    /// Check a configuration: list every problem with its place, or print the models and routes
    Check(check::CheckArgs),
    /// Turn LiteLLM's price list into [[models]] blocks of a configuration
    ImportPrices(import::ImportArgs),
    /// Write reports from the log into data/reports/
    Report(pointsman::report::command::ReportArgs),
    /// Replay recorded outcomes: the router decides, sees the chosen model's outcome only, learns, goes on
    Replay(Box<pointsman::replay::ReplayArgs>),
    /// Estimate what another policy would have scored and cost, from the logged decisions
    Evaluate(pointsman::hindsight::EvaluateArgs),
    /// Fit the projections, the category classifier and the seed prior from recorded outcomes
    Train(pointsman::train::TrainArgs),
}

/// Runs a command; 0 when it did what was asked.
pub fn run(cli: Cli) -> ExitCode {
    match cli.command {
        Command::Serve(mut args) => {
            args.models_dir = models_dir::find(&args.models_dir);
            done(serve::run(&args))
        }
        Command::Report(args) => done(report::run(&args)),
        Command::Replay(mut args) => {
            args.models_dir = models_dir::find(&args.models_dir);
            done(pointsman::replay::run(&args))
        }
        Command::Evaluate(mut args) => {
            args.models_dir = models_dir::find(&args.models_dir);
            done(evaluate::run(&args))
        }
        Command::Train(mut args) => {
            args.models_dir = models_dir::find(&args.models_dir);
            done(pointsman::train::run(&args).and_then(|()| written(&args.out)))
        }
        Command::Check(args) => {
            let checked = check::run(&args, &config::process_env, clock::wall(), &mut io::stdout());
            status(checked)
        }
        Command::ImportPrices(args) => status(import::run(&args, &mut io::stdout(), &mut io::stderr())),
    }
}

/// Says where the result is.
fn written(dir: &Path) -> anyhow::Result<()> {
    writeln!(io::stdout(), "written to {}", dir.display()).context("cannot write to standard output")
}

/// The status that a command worked out itself.
fn status(result: io::Result<u8>) -> ExitCode {
    match result {
        Ok(status) => ExitCode::from(status),
        Err(error) => done(Err(error.into())),
    }
}

#[expect(
    clippy::print_stderr,
    reason = "what a command failed of belongs on the terminal"
)]
fn done(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pointsman: {error:#}");
            ExitCode::from(2)
        }
    }
}
