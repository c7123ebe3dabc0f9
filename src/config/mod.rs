//! Configuration: TOML and environment to a checked form.
//!
//! What [`load`] returns is sound: every name in it is defined, every number in range, every secret read. What
//! is wrong with a file is reported all at once, each problem with its place and what to do. Secrets are only
//! ever named by the variable that holds them.

mod budgets;
mod catalogue;
pub mod check;
mod environment;
mod experiments;
pub mod import;
mod models;
mod prices;
mod problem;
mod providers;
mod read;
mod routes;
mod server;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};
use toml::de::DeTable;

pub use catalogue::{Catalogue, Entry};
pub use experiments::{
    Experiment, FEATURES, Guards, Hypothesis, Override, OverrideAction, POLICIES, Split, StickyBy, Treatment,
};
pub use models::{Model, PriceSource};
pub use prices::from_json as prices_from_json;
pub use problem::{Problem, Problems};
pub use providers::{DEFAULT_CONNECT_TIMEOUT_MS, Provider, ProviderKind, Secret};
pub use routes::{AutoExperiments, CacheRule, Hedge, Objective, QualityRule, Route, SemanticRule};
pub use server::{Embedding, EmbeddingModel, Log, LogFormat, Server, SessionRule, is_host_name};

use crate::arm::{Arm, ArmId};
use crate::pricing::PriceBook;
use crate::pricing::budget::BudgetRule;
use read::{Ledger, Section};

/// How environment variables are looked up. A variable that is set to nothing counts as not set.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The process's own environment.
#[must_use]
pub fn process_env(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Where a configuration came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file.
    File(PathBuf),
    /// The environment and the catalogue, without a file.
    Environment,
    /// A text of the program's own (the demo, tests).
    Text,
}

/// A checked configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Address, data directory, clients' keys.
    pub server: Server,
    /// Where models are served. Their names are unique.
    pub providers: Vec<Provider>,
    /// The models. Their ids are unique, and each names a provider of the list.
    pub models: Vec<Model>,
    /// Models that make embeddings; no route has them. Their ids are unique among all models.
    pub embedding_models: Vec<Model>,
    /// Their prices.
    pub prices: PriceBook,
    /// What clients may ask for beside a model's own id. Never empty; every model named is in `models`.
    pub routes: Vec<Route>,
    /// Budgets beyond those of the routes; theirs are in here too.
    pub budgets: Vec<BudgetRule>,
    /// Experiments that start by configuration.
    pub experiments: Vec<Experiment>,
    /// How conversations are remembered.
    pub sessions: SessionRule,
    /// What it asks of experiments that run or ran, whoever started them.
    pub overrides: Vec<Override>,
    /// The embedding model.
    pub embedding: Embedding,
    /// Logging.
    pub log: Log,
    /// Where it came from.
    pub source: Source,
    /// SHA-256 of its text in hex, so that a report can name the configuration it was made under.
    pub hash: String,
    /// What is allowed but worth a look.
    pub warnings: Vec<Problem>,
}

impl Config {
    /// The model with this id.
    #[must_use]
    pub fn model(&self, id: &ArmId) -> Option<&Model> {
        self.models.iter().find(|model| model.arm.id == *id)
    }

    /// The route with this name.
    #[must_use]
    pub fn route(&self, name: &str) -> Option<&Route> {
        self.routes.iter().find(|route| route.name == name)
    }

    /// The provider with this name.
    #[must_use]
    pub fn provider(&self, name: &str) -> Option<&Provider> {
        self.providers.iter().find(|provider| provider.name == name)
    }

    /// Every arm, in the order of the configuration.
    pub fn arms(&self) -> impl Iterator<Item = &Arc<Arm>> {
        self.models.iter().map(|model| &model.arm)
    }
}

/// Reads the file at `path`; with no path, builds a configuration from the environment: every provider whose
/// key is set, with the models and prices of the shipped catalogue.
///
/// # Errors
/// Everything that is wrong, each problem with its place.
pub fn load(path: Option<&Path>, env: Env<'_>) -> Result<Config, Problems> {
    let Some(path) = path else {
        let text = environment::text(env)?;
        return parse(&text, Source::Environment, env);
    };
    let text = std::fs::read_to_string(path).map_err(|error| {
        Problems::one(
            "",
            format!(
                "cannot read {}: {error}; check the path given with --config",
                path.display()
            ),
        )
    })?;
    parse(&text, Source::File(path.to_owned()), env)
}

/// Checks a configuration text.
///
/// # Errors
/// Everything that is wrong, each problem with its path and line.
pub fn parse(text: &str, source: Source, env: Env<'_>) -> Result<Config, Problems> {
    let catalogue = Catalogue::shipped()
        .map_err(|problems| Problems::one("", format!("the shipped catalogue is broken: {problems}")))?;
    let ledger = Ledger::new(text);
    let warnings = Ledger::new(text);
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        ledger.report("", error.span(), format!("not valid TOML: {}", error.message()));
    }
    if !ledger.is_clean() {
        return Err(Problems(ledger.into_problems()));
    }
    let root = Section::root(&ledger, &table);
    let server = server::server(root.section("server").as_ref(), env, &ledger, &warnings);
    let log = server::log(root.section("log").as_ref());
    let sessions = server::sessions(root.section("sessions").as_ref());
    let embedding = server::embedding(root.section("embedding").as_ref());

    let raw_routes: Vec<_> = root.sections("routes").iter().map(routes::raw).collect();
    let raw_experiments: Vec<_> = root
        .sections("experiments")
        .iter()
        .map(experiments::raw)
        .collect();
    let named = raw_routes.iter().flat_map(routes::RawRoute::models).chain(
        raw_experiments
            .iter()
            .flat_map(experiments::RawExperiment::models),
    );
    let (models, prices) = models::models(&root.sections("models"), named, &catalogue, &ledger);
    let providers = providers::providers(&root.sections("providers"), &models, env, &ledger);
    let (vectors, chat): (Vec<_>, Vec<_>) = models.into_iter().partition(|placed| placed.embeds);
    let routes = routes::check(raw_routes, &chat, &ledger);
    let (experiments, overrides) = experiments::check(raw_experiments, &routes, &chat, &ledger);
    let own_budgets = budgets::budgets(&root.sections("budgets"), &routes);
    let mut budgets: Vec<_> = routes.iter().filter_map(|route| route.budget.clone()).collect();
    budgets.extend(own_budgets);
    root.done();
    models::warn_unpriced(&chat, &warnings);
    models::warn_unpriced(&vectors, &warnings);
    routes::warn_categories(&routes, &warnings);

    let problems = ledger.into_problems();
    let (Some(server), true) = (server, problems.is_empty()) else {
        return Err(Problems(problems));
    };
    Ok(Config {
        server,
        providers,
        models: chat.into_iter().map(|placed| placed.model).collect(),
        embedding_models: vectors.into_iter().map(|placed| placed.model).collect(),
        prices,
        routes,
        budgets,
        experiments,
        sessions,
        overrides,
        embedding,
        log,
        source,
        hash: hex_digest(text.as_bytes()),
        warnings: warnings.into_problems(),
    })
}

fn hex_digest(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    Sha256::digest(bytes).iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

#[cfg(test)]
mod tests;
