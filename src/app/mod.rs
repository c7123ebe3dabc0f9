//! Composition root: builds the parts from a configuration, connects them, keeps them going and takes them down.

pub mod artefacts;
pub mod books;
pub mod demonstration;
pub mod desk;
pub mod enrol;
mod families;
pub mod features;
pub mod former;
pub mod late;
pub mod live;
mod log;
pub mod money;
pub mod outlook;
pub mod pending;
pub mod policies;
pub mod prepare;
pub mod prices;
pub mod purpose;
pub mod reload;
pub mod reports;
pub mod sessions;
pub mod triggers;
mod upkeep;
pub mod variants;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use uuid::{Builder, Uuid};

use crate::app::books::Books;
use crate::app::desk::Desk;
use crate::app::features::{FeatureError, FeatureSet};
use crate::app::former::Former;
use crate::app::live::{Live, LiveError};
use crate::app::pending::Pending;
use crate::app::prices::Prices;
use crate::app::reports::About;
use crate::app::sessions::Sessions;
use crate::app::triggers::AtHand;
use crate::cache::Caches;
use crate::clock;
use crate::config::{Config, DEFAULT_CONNECT_TIMEOUT_MS};
use crate::dispatch::idempotency::Idempotency;
use crate::dispatch::{DispatchRules, Dispatcher, LatencyOracle, LatencyQuestion};
use crate::experiments::{FORMER, Variant};
use crate::learner::{LearnerError, LearnerHandle, Setup};
use crate::pricing::budget::Budgets;
use crate::providers;
use crate::server::idempotency::Shelf;
use crate::store::{Store, StoreError};
use crate::telemetry::{Counters, InputSize, Question, Telemetry};
use crate::units::UnixMs;

/// Scores from which the embedding view must have learned here before it is compared with the text view.
const COMPARED_AFTER: u64 = 1_000;

/// The running program. Cheap to clone.
pub type App = Arc<Parts>;

/// Its parts.
pub struct Parts {
    /// The configuration in force.
    pub live: Arc<ArcSwap<Live>>,
    /// Carries decisions out.
    pub dispatcher: Dispatcher,
    /// Answers to requests that carry a key of their own.
    pub idempotency: Idempotency,
    /// Latency, errors, scores.
    pub telemetry: Arc<Telemetry>,
    /// What `/metrics` counts.
    pub counters: Arc<Counters>,
    /// The log.
    pub store: Store,
    /// What may be spent, and what was.
    pub budgets: Budgets,
    /// Prices that were set here, beside those of the configuration.
    pub prices: Prices,
    /// Experiments and the dashboard's figures.
    pub desk: Arc<Desk>,
    /// Learns from it.
    pub learner: LearnerHandle,
    /// Requests under way.
    pub pending: Pending,
    /// Conversations under way.
    pub sessions: Sessions,
    /// What looks at prompts.
    pub features: ArcSwap<FeatureSet>,
    /// What looked at them before the last change, while an experiment asks for it.
    pub former: ArcSwapOption<Former>,
    /// The provider clients' connection pool.
    pub http: reqwest::Client,
    /// When it was started.
    pub started: UnixMs,
    /// Seed of every draw.
    pub seed: u64,
    rng: Mutex<ChaCha8Rng>,
    /// Of ids, which nobody may guess: not from the seed.
    ids: Mutex<ChaCha8Rng>,
    stopping: AtomicBool,
}

/// What the program is started with beside its configuration.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the models and projections are.
    pub models_dir: PathBuf,
    /// Seed of every draw.
    pub seed: u64,
}

/// Why the program cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A provider.
    #[error(transparent)]
    Live(#[from] LiveError),
    /// A model file.
    #[error(transparent)]
    Features(#[from] FeatureError),
    /// The learner.
    #[error(transparent)]
    Learner(#[from] LearnerError),
    /// Simulated providers on a log of real ones.
    #[error(
        "{} holds what real providers answered, and simulated ones would be mixed into it: set another \
         `server.data_dir`, or --data-dir with --demo",
        folder.display()
    )]
    Real {
        /// The data directory.
        folder: PathBuf,
    },
    /// The HTTP client.
    #[error("no HTTP client can be made: {0}")]
    Http(#[from] providers::ProviderError),
}

impl Parts {
    /// Builds everything and starts what runs in the background.
    ///
    /// # Errors
    /// The first part that cannot be built, with what to do about it.
    pub fn start(mut config: Config, options: &Options) -> Result<App, StartError> {
        let features = FeatureSet::load(&options.models_dir, &config.embedding)?;
        let http = providers::http_client(Duration::from_millis(DEFAULT_CONNECT_TIMEOUT_MS))?;
        reports::keep_apart(&config)?;
        let store = Store::open(&config.server.data_dir, clock::wall())?;
        let prices = Prices::restore(store.reader())?;
        prices.lock().impose(&mut config);
        let live = Arc::new(ArcSwap::from_pointee(Live::new(
            config,
            &http,
            &Caches::default(),
        )?));
        let telemetry = Arc::new(Telemetry::default());
        let counters = Arc::new(Counters::default());
        let pending = Pending::default();
        let sessions = Sessions::new(&live.load().config.sessions);
        let books = Books {
            sessions: sessions.clone(),
            live: Arc::clone(&live),
            telemetry: Arc::clone(&telemetry),
            counters: Arc::clone(&counters),
            store: store.clone(),
            pending: pending.clone(),
        };
        let latency = Arc::new(Latencies(Arc::clone(&telemetry)));
        let rules = DispatchRules {
            seed: options.seed,
            ..DispatchRules::default()
        };
        let dispatcher = Dispatcher::new(rules, Arc::new(books), latency);
        let now = clock::wall();
        let desk = {
            let config = &live.load().config;
            let about = About::of(config, options.seed, features.all_versions());
            Arc::new(Desk::restore(
                store.clone(),
                Arc::clone(&telemetry),
                config,
                about,
                now,
            )?)
        };
        keep_features(&live.load().config, &options.models_dir, &features, &store);
        let budgets = Budgets::new(live.load().config.budgets.clone());
        money::restore(&budgets, store.reader(), now)?;
        let learner = LearnerHandle::start(Setup {
            learner: policies::learner(&live.load().config, &features),
            store: store.clone(),
            telemetry: Arc::clone(&telemetry),
            versions: features.versions(),
            under_way: {
                let pending = pending.clone();
                Arc::new(move |id| pending.get(id).is_some())
            },
            on_drift: log::drift_log(store.clone(), Arc::clone(&desk), Arc::clone(&live)),
        })?;
        let app = Arc::new(Self {
            live,
            dispatcher,
            idempotency: Idempotency::new(Arc::new(Shelf(store.clone()))),
            telemetry,
            counters,
            store,
            budgets,
            prices,
            desk,
            learner,
            pending,
            sessions,
            features: ArcSwap::from_pointee(features),
            former: ArcSwapOption::empty(),
            http,
            started: clock::wall(),
            seed: options.seed,
            rng: Mutex::new(ChaCha8Rng::seed_from_u64(options.seed)),
            ids: Mutex::new(ChaCha8Rng::from_entropy()),
            stopping: AtomicBool::new(false),
        });
        app.log_event(
            "config",
            "start",
            serde_json::json!({"hash": app.live.load().config.hash}),
        );
        app.describe();
        app.notice();
        tokio::spawn(upkeep::publish(Arc::downgrade(&app)));
        tokio::spawn(upkeep::report(Arc::downgrade(&app)));
        tokio::spawn(desk::follow(Arc::downgrade(&app)));
        tokio::spawn(money::keep(Arc::downgrade(&app)));
        Ok(app)
    }

    /// Has the desk look at what the router is like now.
    pub fn notice(&self) {
        let live = self.live.load();
        let data_dir = &live.config.server.data_dir;
        let former = former::exists(data_dir);
        let versions = self.features.load().all_versions();
        let proven = self.learner.status().embedded_scores >= COMPARED_AFTER;
        let at_hand = AtHand { former, proven };
        self.desk.notice(&live.config, versions, at_hand, clock::wall());
        if former && !self.desk.may_need(&Variant::Features(FORMER.to_owned())) {
            former::forget(data_dir);
        }
        self.load_former(&live.config);
    }

    /// Has the former look at prompts at hand while an experiment or a ruling goes by it, and only then.
    fn load_former(&self, config: &Config) {
        let wanted = self.desk.table().goes_by(&Variant::Features(FORMER.to_owned()));
        if wanted == self.former.load().is_some() {
            return;
        }
        let former = wanted.then(|| {
            let now = self.features.load().all_versions();
            Former::load(&config.server.data_dir, now, config, self.store.reader())
        });
        match former.transpose() {
            Ok(former) => self.former.store(former.flatten().map(Arc::new)),
            Err(error) => tracing::warn!(%error, "new features cannot be compared with the former ones"),
        }
    }

    /// Keeps in the database what reports must know of the configuration in force.
    pub fn describe(&self) {
        let now = clock::wall();
        let about = About::of(
            &self.live.load().config,
            self.seed,
            self.features.load().all_versions(),
        );
        self.desk.describe(about.clone());
        let kept = self.store.put_doc(about.row(now));
        tokio::spawn(async move {
            if let Err(error) = kept.await {
                tracing::warn!(%error, "reports will lack the configuration's hash and reference arms");
            }
        });
    }

    /// Draws with the program's random numbers.
    pub fn draw<T>(&self, draw: impl FnOnce(&mut ChaCha8Rng) -> T) -> T {
        draw(&mut self.rng.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// A new id: a UUID of version 7 (RFC 9562), so that later ones sort behind earlier ones. Its random bits come
    /// from a generator of ours, because the system's takes a call each time.
    pub fn new_id(&self) -> Uuid {
        let mut random = [0; 10];
        self.ids
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .fill_bytes(&mut random);
        Builder::from_unix_timestamp_millis(clock::wall().0.unsigned_abs(), &random).into_uuid()
    }

    /// Why it cannot take requests; empty when it can.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.stopping.load(Ordering::Relaxed) {
            problems.push("shutting down".to_owned());
        }
        problems
    }

    /// What does not stop requests but should be looked at.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let log = self.store.stats().error.map(|error| format!("log: {error}"));
        let learner = self
            .learner
            .status()
            .error
            .map(|error| format!("learner: {error}"));
        log.into_iter().chain(learner).collect()
    }

    /// Marks it as shutting down: `/ready` says so, and what watches a balancer sends no more.
    pub fn begin_stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Saves the accounts and what was learned. The log stays open for what still ends: close the store after it.
    pub async fn stop(self: &Arc<Self>) {
        self.begin_stop();
        money::save_last(self).await;
        let app = Arc::clone(self);
        let stopped = tokio::task::spawn_blocking(move || app.learner.stop());
        if stopped.await.is_err() {
            tracing::error!("the learner did not end; the log's tail is learned at the next start");
        }
    }
}

/// Keeps what looks at prompts, so that the next version of it can be compared with this one.
fn keep_features(config: &Config, models_dir: &Path, features: &FeatureSet, store: &Store) {
    let data_dir = &config.server.data_dir;
    let versions = features.all_versions();
    if let Err(error) = former::keep_up(data_dir, models_dir, versions, store.reader()) {
        tracing::warn!(%error, "the features in use are not kept; the next ones will lack what to compare them with");
    }
}

/// Telemetry as the dispatcher asks it.
struct Latencies(Arc<Telemetry>);

impl LatencyOracle for Latencies {
    fn quantile(&self, question: &LatencyQuestion<'_>, q: f64) -> Option<Duration> {
        let view = self.0.view();
        let asked = Question {
            arm: question.arm,
            provider: Some(question.provider),
            stream: question.stream,
            size: InputSize::of(question.input_tokens),
        };
        let quantile = view.wait(&asked, q).filter(|quantile| !quantile.at_least)?;
        Some(Duration::from_secs_f64(quantile.value_ms.max(0.0) / 1e3))
    }
}
