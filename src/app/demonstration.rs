//! The demonstration as a whole: its load, and the model that enters the route while it runs.

use std::io::Write;
use std::time::Duration;

use crate::app::{App, reload};
use crate::config::Config;
use crate::demo::{self, DemoError, Ledger, LoadSettings};

/// When the new model enters: late enough that the router knows the others a little.
pub const NEWCOMER_AFTER: Duration = Duration::from_secs(15);

/// Runs the load to its end; after `newcomer.0` the configuration `newcomer.1`, with one model more, is put in
/// force, as if somebody had edited the file. What the router makes of that is its own business.
///
/// # Errors
/// Damaged data of the demonstration, or a screen that is gone.
pub async fn run(
    app: &App,
    load: &LoadSettings,
    newcomer: (Duration, Config),
    screen: &mut (dyn Write + Send),
) -> Result<Ledger, DemoError> {
    let enters = async {
        tokio::time::sleep(newcomer.0).await;
        if let Err(error) = reload::apply(app, newcomer.1) {
            tracing::error!(%error, "the demonstration's new model cannot enter");
        }
        std::future::pending().await
    };
    tokio::select! {
        ledger = demo::run_load(load, app.http.clone(), screen) => ledger,
        ledger = enters => ledger,
    }
}
