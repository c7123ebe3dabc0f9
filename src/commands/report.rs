//! `pointsman report`.

use std::io::Write;

use pointsman::app::reports;
use pointsman::clock;
use pointsman::report::command::{self, ReportArgs};
use pointsman::store::Reader;

/// Writes the reports from the log, beside a running server or after it, and prints where they are.
pub fn run(args: &ReportArgs) -> anyhow::Result<()> {
    let reader = Reader::open(&args.data_dir)?;
    let (provenance, margin) = reports::provenance(&reader, clock::wall())?;
    for written in command::run(args, &reader, margin, &provenance)? {
        writeln!(std::io::stdout(), "{}", written.join("report.html").display())?;
    }
    Ok(())
}
