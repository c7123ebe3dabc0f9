//! Takes retrained artefacts up while requests run: projections, classifier and seed prior.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use serde_json::json;
use tokio::sync::oneshot;

use crate::app::features::{ARTEFACTS, FeatureSet};
use crate::app::reload::Hangups;
use crate::app::{App, Parts, policies};
use crate::learner::Renewal;

/// Time between two looks at the folder.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What came of reading the artefacts again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// They are in force.
    New,
    /// They are those in force.
    Same,
}

/// Reads the artefacts of `models_dir` and puts them in force together: requests go on by the old ones until the new
/// ones are ready. What was learned stays, except on features whose projection is another one.
///
/// # Errors
/// A sentence that says why they cannot be used; the old ones then stay in force.
pub async fn take_up(app: &App, models_dir: &Path) -> Result<Taken, String> {
    let running = app.features.load_full();
    let embedding = app.live.load().config.embedding.clone();
    let (folder, beside) = (models_dir.to_owned(), Arc::clone(&running));
    let read =
        tokio::task::spawn_blocking(move || FeatureSet::load_beside(&folder, &embedding, Some(&beside)));
    let features = match read.await {
        Ok(features) => Arc::new(features.map_err(|error| error.to_string())?),
        Err(error) => return Err(error.to_string()),
    };
    let (before, after) = (running.fingerprint(), features.fingerprint());
    if before == after {
        return Ok(Taken::Same);
    }
    super::keep_features(&app.live.load().config, models_dir, &features, &app.store);
    let (told, hears) = oneshot::channel();
    let (parts, ready) = (Arc::clone(app), Arc::clone(&features));
    app.learner.renew(Renewal {
        fresh: policies::learner(&app.live.load().config, &features),
        versions: features.versions(),
        done: Box::new(move |result| {
            if result.is_ok() {
                parts.features.store(ready);
            }
            // Whoever waits may be gone at a shutdown.
            drop(told.send(result));
        }),
    });
    hears.await.map_err(|_| "the learner has stopped".to_owned())??;
    app.describe();
    app.notice();
    app.log_event("models", "reload", json!({"before": before, "after": after}));
    tracing::info!(?before, ?after, "the models were read again and are in force");
    Ok(Taken::New)
}

/// Reads the artefacts again when they change and have been left alone for a moment, or on SIGHUP, for as long as the
/// program runs. Broken ones are refused with the reason, once, and the old ones stay.
pub async fn watch(app: Weak<Parts>, models_dir: PathBuf) {
    let mut hangups = Hangups::new();
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut tried = seen(&models_dir);
    let mut last = tried.clone();
    loop {
        let asked = tokio::select! {
            _ = ticks.tick() => false,
            () = hangups.next() => true,
        };
        let now = seen(&models_dir);
        // Training writes one file after the other: a set that still changes is not whole.
        let settled = std::mem::replace(&mut last, now.clone()) == now;
        if !asked && (now == tried || !settled) {
            continue;
        }
        tried = now;
        let Some(app) = app.upgrade() else { return };
        match take_up(&app, &models_dir).await {
            Ok(Taken::New) => {}
            Ok(Taken::Same) => tracing::debug!("the models are those in force"),
            Err(reason) => {
                tracing::error!(
                    "the models in {} were refused, the old ones stay: {reason}",
                    models_dir.display()
                );
                app.log_event("models", "refused", json!({"reason": reason}));
            }
        }
    }
}

/// When each artefact was written, and its length.
fn seen(models_dir: &Path) -> Vec<Option<(SystemTime, u64)>> {
    let look = |name: &&str| {
        let metadata = std::fs::metadata(models_dir.join(name)).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    };
    ARTEFACTS.iter().map(look).collect()
}
