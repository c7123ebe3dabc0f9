//! Takes a changed configuration up while requests run. What was learned stays.

use std::path::PathBuf;
use std::sync::Weak;
use std::time::{Duration, SystemTime};

use serde_json::json;

use crate::app::live::Live;
use crate::app::{App, Parts, policies, reports};
use crate::clock;
use crate::config::{self, Config};

/// Time between two looks at the file.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Puts `config` in force: the next decision goes by it, running requests end by the old one.
///
/// # Errors
/// A sentence that says why it cannot be; the old one then stays in force.
pub fn apply(app: &App, mut config: Config) -> Result<(), String> {
    let mut prices = app.prices.lock();
    let old = app.live.load_full();
    if config.hash == old.config.hash {
        return Ok(());
    }
    if config.server.listen != old.config.server.listen
        || config.server.data_dir != old.config.server.data_dir
    {
        tracing::warn!("server.listen and server.data_dir change at a restart only; the old ones stay");
    }
    if reports::is_simulated(&config) != reports::is_simulated(&old.config) {
        return Err(
            "it turns simulated providers into real ones or the reverse, and what they answer must not be in one log: \
             restart pointsman with it"
                .to_owned(),
        );
    }
    let now = clock::wall();
    prices.impose(&mut config);
    let live = Live::new(config, &app.http, &old.caches).map_err(|error| error.to_string())?;
    let hash = live.config.hash.clone();
    let config = live.config.clone();
    app.live.store(std::sync::Arc::new(live));
    prices.changed(app, &old.config, &config, "reload", now);
    let new_config = config.clone();
    app.learner
        .change(move |learner| policies::configure(learner, &config, now));
    app.budgets.reconfigure(new_config.budgets.clone());
    app.describe();
    app.desk.configure(&new_config, now);
    app.notice();
    app.log_event(
        "config",
        "reload",
        json!({"before": old.config.hash, "after": hash}),
    );
    tracing::info!(%hash, "the configuration was read again and is in force");
    Ok(())
}

/// Reads the file again when it changes or on SIGHUP, for as long as the program runs. A broken file is refused with
/// the reason, once, and the old configuration stays.
pub async fn watch(app: Weak<Parts>, path: PathBuf) {
    // The file may have changed since it was read at the start: the first look reads it once more.
    let mut seen = None;
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    let mut hangups = Hangups::new();
    loop {
        let asked = tokio::select! {
            _ = ticks.tick() => false,
            () = hangups.next() => true,
        };
        let now = modified(&path);
        if now == seen && !asked {
            continue;
        }
        seen = now;
        let Some(app) = app.upgrade() else { return };
        let result = config::load(Some(&path), &config::process_env)
            .map_err(|problems| problems.to_string())
            .and_then(|config| apply(&app, config));
        if let Err(problems) = result {
            tracing::error!(
                "{} was refused, the old configuration stays: {}",
                path.display(),
                problems.replace('\n', "; ")
            );
            app.log_event("config", "refused", json!({"problems": problems}));
        }
    }
}

fn modified(path: &std::path::Path) -> Option<(SystemTime, u64)> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

/// SIGHUPs, where the system has them.
pub(super) struct Hangups(#[cfg(unix)] Option<tokio::signal::unix::Signal>);

impl Hangups {
    pub(super) fn new() -> Self {
        Self(
            #[cfg(unix)]
            tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup()).ok(),
        )
    }

    pub(super) async fn next(&mut self) {
        #[cfg(unix)]
        if let Some(signal) = &mut self.0
            && signal.recv().await.is_some()
        {
            return;
        }
        std::future::pending::<()>().await;
    }
}
