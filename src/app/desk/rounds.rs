//! The desk's round: it looks at the log, saves, and writes the reports of experiments.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::app::Parts;
use crate::app::desk::Desk;
use crate::clock;
use crate::experiments::Event;
use crate::report::command::{self, CommandError};
use crate::store::Reader;
use crate::units::UnixMs;

/// Time between two looks at the log.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Looks between two saves.
const SAVE_EVERY: u32 = 10;
/// Looks between two reports of running experiments.
const REPORT_EVERY: u32 = 60;
/// Looks between two at what the router is like: a dated price may have come into force.
const NOTICE_EVERY: u32 = 20;

/// Looks at the log, saves, logs changes and writes reports for as long as the program runs.
pub(in crate::app) async fn follow(app: std::sync::Weak<Parts>) {
    let mut looks: u32 = 0;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let Some(app) = app.upgrade() else { return };
        looks = looks.wrapping_add(1);
        let turn = tokio::task::spawn_blocking(move || turn(&app, looks)).await;
        if let Err(error) = turn {
            tracing::error!(%error, "the experiments missed a look at the log");
        }
    }
}

fn turn(app: &Parts, looks: u32) {
    if looks.is_multiple_of(NOTICE_EVERY) {
        app.notice();
        let (live, now) = (app.live.load(), clock::wall());
        app.desk.ask_again(&live.config, now);
        app.desk.compare_families(&live.config, now);
    }
    if let Err(error) = app.desk.look() {
        tracing::warn!(%error, "the experiments cannot read the log");
    }
    let events = app.desk.fresh();
    let reader = app.store.reader();
    let now = clock::wall();
    if (!events.is_empty() || looks.is_multiple_of(SAVE_EVERY))
        && let Some(row) = app.desk.unsaved(now)
    {
        drop(app.store.save_state(row));
    }
    if !events.is_empty() || looks.is_multiple_of(REPORT_EVERY) {
        let data_dir = app.live.load().config.server.data_dir.clone();
        if let Err(error) = write_reports(&app.desk, reader, &data_dir, &events, now) {
            tracing::warn!(%error, "an experiment's report was not written");
        }
    }
}

/// Writes the report of every experiment that runs or just changed.
fn write_reports(
    desk: &Desk,
    reader: &Reader,
    data_dir: &Path,
    fresh: &[Event],
    now: UnixMs,
) -> Result<Vec<PathBuf>, CommandError> {
    let provenance = desk.provenance(now);
    let mut written = Vec::new();
    for view in desk.list().experiments {
        let name = view.definition.name.as_str();
        let changed = fresh.iter().any(|event| event.experiment == name);
        if view.ended.is_some() && !changed {
            continue;
        }
        written.push(command::write_experiment(
            reader,
            &data_dir.join("reports"),
            &view,
            fresh,
            &provenance,
        )?);
    }
    Ok(written)
}
