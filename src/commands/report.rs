//! `pointsman report`.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use pointsman::app::reports;
use pointsman::clock;
use pointsman::store::Reader;

/// Write the reports from the log, beside a running server or after it.
#[derive(Args, Clone, Debug)]
pub struct ReportArgs {
    /// The report: `routing`, or an experiment's name; default: all
    name: Option<String>,
    /// Where the database and the reports are
    #[arg(long, value_name = "DIR", default_value = "data")]
    data_dir: PathBuf,
}

/// Writes, and prints where.
pub fn run(args: &ReportArgs) -> anyhow::Result<()> {
    let reader = Reader::open(&args.data_dir)?;
    if let Some(name) = args.name.as_deref().filter(|name| *name != "routing") {
        bail!(
            "there is no experiment named {name} in {}",
            args.data_dir.display()
        );
    }
    let written =
        reports::write_routing(&reader, &args.data_dir, clock::wall()).context("no routing report")?;
    writeln!(std::io::stdout(), "{}", written.join("report.html").display())?;
    Ok(())
}
