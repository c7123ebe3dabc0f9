//! `pointsman report`: writes the reports from the log.

use std::path::{Path, PathBuf};

use super::experiment;
use super::log::rows;
use super::routing::{self, Question};
use super::{Provenance, ReportError, write};
use crate::evaluation::sequence::SequenceError;
use crate::experiments::{Event, Experiments};
use crate::store::{Reader, StoreError};
use crate::units::UnixMs;

/// Name under which the experiments' state is saved in the store.
pub const EXPERIMENTS_STATE: &str = "experiments";
/// Quality that routing may lose against the reference, unless the route says otherwise.
pub const DEFAULT_MARGIN: f64 = 0.02;
/// How far back from its end the decisions of an experiment are read: a day.
const SPAN_MS: i64 = 86_400_000;
/// Events read of one log at most.
const MAX_EVENTS: u32 = 10_000;

/// Options of `pointsman report`.
#[derive(clap::Args, Clone, Debug)]
pub struct ReportArgs {
    /// Which report: `routing`, or an experiment's name. All of them, if none is named
    pub name: Option<String>,
    /// Where the database is
    #[arg(long, value_name = "DIR", default_value = "data")]
    pub data_dir: PathBuf,
    /// Where the reports go; `reports` in the data directory, if not given
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Quality that routing may lose against always using the best model
    #[arg(long, value_name = "Q", value_parser = share)]
    pub margin: Option<f64>,
}

fn share(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    ((0.0..=1.0).contains(&number))
        .then_some(number)
        .ok_or_else(|| "must be from 0 to 1".to_owned())
}

/// Why no report was written.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The log cannot be read.
    #[error("the log cannot be read")]
    Store(#[from] StoreError),
    /// A report cannot be made or written.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// The statistics refuse their parameters.
    #[error(transparent)]
    Sequence(#[from] SequenceError),
    /// The experiments' saved state is damaged.
    #[error(
        "the saved state of the experiments cannot be read; their reports can be made again once they run"
    )]
    State(#[source] serde_json::Error),
    /// Nothing of that name.
    #[error("there is no experiment {name:?} in the log; known are: {known}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
}

/// Writes the report named, or all; the directories written. `margin` is the route's, for when none is asked for.
///
/// # Errors
/// If the log cannot be read or a report not be written, or there is none of that name.
pub fn run(
    args: &ReportArgs,
    reader: &Reader,
    margin: f64,
    provenance: &Provenance,
) -> Result<Vec<PathBuf>, CommandError> {
    let dir = args.out.clone().unwrap_or_else(|| args.data_dir.join("reports"));
    let mut written = Vec::new();
    if args.name.as_deref().is_none_or(|name| name == "routing") {
        written.push(write_routing(
            reader,
            &dir,
            UnixMs(0),
            args.margin.unwrap_or(margin),
            provenance,
        )?);
    }
    if args.name.as_deref() == Some("routing") {
        return Ok(written);
    }
    let state = reader.state(EXPERIMENTS_STATE)?;
    let experiments: Experiments = state
        .map(|row| serde_json::from_slice(&row.bytes))
        .transpose()
        .map_err(CommandError::State)?
        .unwrap_or_default();
    let views = experiments.views();
    if let Some(name) = &args.name
        && !views.iter().any(|view| view.definition.name == *name)
    {
        let known: Vec<&str> = std::iter::once("routing")
            .chain(views.iter().map(|v| v.definition.name.as_str()))
            .collect();
        return Err(CommandError::Unknown {
            name: name.clone(),
            known: known.join(", "),
        });
    }
    for view in views.iter().filter(|view| {
        args.name
            .as_ref()
            .is_none_or(|name| view.definition.name == *name)
    }) {
        written.push(write_experiment(reader, &dir, view, &[], provenance)?);
    }
    Ok(written)
}

/// Writes `routing/report.{md,html,json}` from the log since `from`; the directory.
///
/// # Errors
/// If the log cannot be read or the report not be written.
pub fn write_routing(
    reader: &Reader,
    reports_dir: &Path,
    from: UnixMs,
    margin: f64,
    provenance: &Provenance,
) -> Result<PathBuf, CommandError> {
    let (rows, reference) = rows(reader.log(from, UnixMs(i64::MAX)), provenance.generated)?;
    let question = Question {
        provenance: provenance.clone(),
        reference,
        margin,
    };
    let report = routing::summarise(&rows, &question)?;
    Ok(write(reports_dir, "routing", &routing::render(&report)?)?)
}

/// Writes the report of one experiment, with its changes from the event log and those that may not be in it yet
/// (`fresh`); the directory.
///
/// # Errors
/// If the log cannot be read or the report not be written.
pub fn write_experiment(
    reader: &Reader,
    reports_dir: &Path,
    view: &crate::experiments::ExperimentView,
    fresh: &[Event],
    provenance: &Provenance,
) -> Result<PathBuf, CommandError> {
    let logged = reader.events(
        Some("experiment"),
        view.definition.defined,
        UnixMs(i64::MAX),
        MAX_EVENTS,
    )?;
    let mut events: Vec<Event> = logged
        .iter()
        .filter_map(|row| serde_json::from_str(&row.detail).ok())
        .collect();
    let unwritten: Vec<Event> = fresh
        .iter()
        .filter(|event| !events.contains(event))
        .cloned()
        .collect();
    events.extend(unwritten);
    let mut report = experiment::report(view, &events, provenance);
    let until = view.ended.unwrap_or(provenance.generated);
    let from = UnixMs(view.started.0.max(until.0 - SPAN_MS));
    let log = reader.log(from, UnixMs(until.0.saturating_add(1)));
    report.logged = Some(experiment::read_log(view, provenance.generated, log)?);
    Ok(write(
        reports_dir,
        &view.definition.name,
        &experiment::render(&report)?,
    )?)
}
