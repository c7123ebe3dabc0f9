//! Prices while the program runs: set by an admin's call beside those of the configuration, and those that change by
//! themselves when a date or an hour comes. Each change is logged with what was before and after, and told to the
//! policy, which keeps all it has learned.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

use crate::app::{App, policies};
use crate::arm::ArmId;
use crate::clock;
use crate::config::{Config, Problems, prices_from_json};
use crate::pricing::{Price, PriceBook};
use crate::store::{DocRow, Reader, StoreError};
use crate::units::UnixMs;

/// Where prices that were set are kept.
const KIND: &str = "price";

/// Prices that were set here. They win over the configuration's until they are taken back, restarts included.
#[derive(Debug, Default)]
pub struct Prices(Mutex<Held>);

/// What is held, while nobody else changes it.
#[derive(Debug, Default)]
pub struct Held {
    set: BTreeMap<ArmId, Vec<(UnixMs, Price)>>,
    /// The prices of the configuration alone.
    configured: PriceBook,
    /// Dollars of a call of usual size, as the policy was last told.
    typical: HashMap<ArmId, f64>,
}

/// Why a price cannot be set.
#[derive(Debug, thiserror::Error)]
pub enum SetError {
    /// It is none.
    #[error(transparent)]
    Price(#[from] Problems),
    /// No such model.
    #[error("\"{0}\" is not a model of the configuration; GET /v1/prices lists them")]
    Unknown(ArmId),
    /// It could not be kept.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a change of a price came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Changed {
    /// What held before.
    pub before: Option<Arc<Price>>,
    /// What holds now.
    pub after: Option<Arc<Price>>,
}

impl Prices {
    /// Prices that were set before a restart.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn restore(reader: &Reader) -> Result<Self, StoreError> {
        let mut held = Held::default();
        for row in reader.docs(KIND)? {
            let prices = serde_json::from_str::<Value>(&row.json)
                .map_err(|error| error.to_string())
                .and_then(|json| prices_from_json(&json).map_err(|problems| problems.to_string()));
            match prices {
                Ok(prices) => {
                    held.set.insert(ArmId::new(&row.name), prices);
                }
                Err(error) => {
                    tracing::error!(model = %row.name, %error, "the price that was set for it is damaged; the configuration's holds")
                }
            }
        }
        Ok(Self(Mutex::new(held)))
    }

    /// Keeps others from changing prices or the configuration meanwhile.
    pub fn lock(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the price of `arm` was set here.
    #[must_use]
    pub fn is_set(&self, arm: &ArmId) -> bool {
        self.lock().set.contains_key(arm)
    }
}

impl Held {
    /// Puts the prices that were set into a configuration that was just read.
    pub fn impose(&mut self, config: &mut Config) {
        self.configured = config.prices.clone();
        for (arm, prices) in &self.set {
            if config.model(arm).is_some() {
                config.prices.replace(arm, prices.iter().cloned());
            }
        }
        if self.typical.is_empty() {
            let now = clock::wall();
            self.typical = config
                .arms()
                .map(|arm| (arm.id.clone(), policies::typical_cost(config, &arm.id, now)))
                .collect();
        }
    }

    /// Logs every price that differs, and tells the policy.
    pub fn changed(&mut self, app: &App, old: &Config, new: &Config, by: &str, now: UnixMs) {
        for change in old.prices.changes(&new.prices, now) {
            let typical = |config| policies::typical_cost(config, &change.arm, now);
            let detail = json!({
                "before": change.before, "after": change.after, "by": by,
                "typical_call_usd": {"before": typical(old), "after": typical(new)},
            });
            tracing::info!(model = %change.arm, by, "its price has changed");
            app.log_event("price", change.arm.as_str(), detail);
        }
        self.retell(app, new, now);
    }

    /// Tells the policy by how much the cost of each arm has changed since it was last told; which ones did.
    fn retell(&mut self, app: &App, config: &Config, now: UnixMs) -> Vec<(ArmId, f64, f64)> {
        let mut moved = Vec::new();
        for arm in config.arms() {
            let cost = policies::typical_cost(config, &arm.id, now);
            let told = self.typical.insert(arm.id.clone(), cost).unwrap_or(cost);
            if told > 0.0 && (cost / told - 1.0).abs() > 1e-9 {
                moved.push((arm.id.clone(), told, cost));
            }
        }
        if !moved.is_empty() {
            let factors: Vec<(ArmId, f64)> = moved
                .iter()
                .map(|(arm, before, after)| (arm.clone(), after / before))
                .collect();
            app.learner.change(move |learner| {
                for (arm, factor) in &factors {
                    learner.price_changed(arm, *factor);
                }
            });
        }
        moved
    }
}

/// Sets the price of a model, given with the configuration's keys. The next decision goes by it.
///
/// # Errors
/// What is wrong with it; then nothing has changed.
pub async fn set(app: &App, arm: &ArmId, json: &Value, by: &str) -> Result<Changed, SetError> {
    if app.live.load().config.model(arm).is_none() {
        return Err(SetError::Unknown(arm.clone()));
    }
    let prices = prices_from_json(json)?;
    let row = DocRow {
        kind: KIND.into(),
        name: arm.to_string(),
        at: clock::wall(),
        json: json.to_string(),
    };
    app.store.put_doc(row).await?;
    Ok(swap(app, arm, Some(prices), by))
}

/// Takes a price that was set back: the configuration's holds again.
///
/// # Errors
/// When the database cannot be written.
pub async fn clear(app: &App, arm: &ArmId, by: &str) -> Result<Changed, SetError> {
    if app.live.load().config.model(arm).is_none() {
        return Err(SetError::Unknown(arm.clone()));
    }
    app.store.drop_doc(KIND, arm.as_str()).await?;
    Ok(swap(app, arm, None, by))
}

fn swap(app: &App, arm: &ArmId, prices: Option<Vec<(UnixMs, Price)>>, by: &str) -> Changed {
    let mut held = app.prices.lock();
    let now = clock::wall();
    let old = app.live.load_full();
    let mut book = old.config.prices.clone();
    match prices {
        Some(prices) => {
            book.replace(arm, prices.iter().cloned());
            held.set.insert(arm.clone(), prices);
        }
        None => {
            let configured = held.configured.history(arm).iter();
            book.replace(
                arm,
                configured.map(|dated| (dated.from, Price::clone(&dated.price))),
            );
            held.set.remove(arm);
        }
    }
    let live = Arc::new(old.with_prices(book));
    app.live.store(Arc::clone(&live));
    held.changed(app, &old.config, &live.config, by, now);
    Changed {
        before: old.config.prices.price(arm, now).cloned(),
        after: live.config.prices.price(arm, now).cloned(),
    }
}

/// Notices prices that a date or an hour has changed. Called every few seconds; decisions and bills go by the moment
/// itself, so that only the policy's view of the exchange between cost and quality waits for this.
pub fn follow(app: &App) {
    let mut held = app.prices.lock();
    let now = clock::wall();
    let live = app.live.load_full();
    for (arm, before, after) in held.retell(app, &live.config, now) {
        let detail = json!({"by": "the clock", "typical_call_usd": {"before": before, "after": after}});
        app.log_event("price", arm.as_str(), detail);
    }
}
