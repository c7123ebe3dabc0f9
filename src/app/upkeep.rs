//! What is done again and again for as long as the program runs.

use std::sync::Weak;
use std::time::Duration;

use crate::app::{Parts, reports};
use crate::clock;

/// Time between two computations of the latency view.
const PUBLISH_EVERY: Duration = Duration::from_secs(1);
/// Time to the first report, so that a newcomer sees one soon.
const FIRST_REPORT: Duration = Duration::from_secs(10);
/// Time between two reports while requests come.
const REPORT_EVERY: Duration = Duration::from_secs(30);
/// ... and at least so many times what the last one took, so that reports stay below a hundredth of the load.
const REPORT_SHARE: u32 = 100;

/// Keeps the latency view fresh for as long as the program runs.
pub(super) async fn publish(app: Weak<Parts>) {
    let mut ticks = tokio::time::interval(PUBLISH_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(app) = app.upgrade() else { return };
        app.telemetry.publish(clock::wall());
    }
}

/// Writes the routing report now and then, so that `data/reports/` is never far behind.
pub(super) async fn report(app: Weak<Parts>) {
    let mut seen = 0;
    let mut wait = FIRST_REPORT;
    loop {
        tokio::time::sleep(wait).await;
        wait = REPORT_EVERY;
        let Some(app) = app.upgrade() else { return };
        let written = app.store.stats().written;
        if written == std::mem::replace(&mut seen, written) {
            continue;
        }
        let data_dir = app.live.load().config.server.data_dir.clone();
        let reader = app.store.reader().clone();
        let write = move || reports::write_routing(&reader, &data_dir, clock::wall());
        let began = clock::monotonic();
        let written = tokio::task::spawn_blocking(write).await;
        wait = wait.max((clock::monotonic() - began) * REPORT_SHARE);
        match written {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the routing report was not written"),
            Err(error) => tracing::error!(%error, "the routing report was not written"),
        }
    }
}
