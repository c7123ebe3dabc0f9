//! What a configuration comes to while it is in force: arms with the servers behind them, routes, clients' keys.
//! Immutable; a reload builds another one and swaps it in.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::arm::{Arm, ArmId};
use crate::cache::Caches;
use crate::config::{self, Config, DEFAULT_CONNECT_TIMEOUT_MS, ProviderKind, Route};
use crate::dispatch::Deployment;
use crate::pricing::PriceBook;
use crate::providers::simulated::{SimulatedProvider, SimulatedSettings};
use crate::providers::{Provider, ProviderSettings, Secret, Upstream, WireFormat, http_client};
use crate::request::Purpose;
use crate::server::auth::ClientKeys;

/// A configuration in force.
pub struct Live {
    /// What it was built from.
    pub config: Config,
    /// Who may use it.
    pub keys: ClientKeys,
    /// Who may change prices.
    pub admins: ClientKeys,
    /// Answers kept, by route.
    pub caches: Caches,
    arms: HashMap<ArmId, Served>,
    /// Model names without a provider, where only one provider has them.
    bare: HashMap<String, Option<ArmId>>,
}

/// An arm with its servers.
#[derive(Clone, Debug)]
pub struct Served {
    /// The arm.
    pub arm: Arc<Arm>,
    /// Whether its provider speaks OpenAI's wire format.
    pub openai_shaped: bool,
    /// What it is for.
    pub purpose: Purpose,
    /// Never empty.
    pub deployments: Vec<Arc<Deployment>>,
}

/// What a client's `model` names.
#[derive(Clone, Copy, Debug)]
pub enum Target<'a> {
    /// A route: the policy chooses.
    Route(&'a Route),
    /// One model.
    Arm(&'a Served),
}

/// Why a configuration cannot be put in force.
#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    /// A provider's settings do not make a client.
    #[error("provider `{name}`: {reason}")]
    Provider {
        /// Its name.
        name: String,
        /// What is wrong.
        reason: String,
    },
}

impl Live {
    /// Builds the servers behind `config`; answers that `before` kept stay where nothing changed that they depend on.
    ///
    /// # Errors
    /// A provider whose address or key cannot be used.
    pub fn new(config: Config, http: &reqwest::Client, before: &Caches) -> Result<Self, LiveError> {
        let mut upstreams: HashMap<&str, (bool, Vec<Arc<Deployment>>)> = HashMap::new();
        for provider in &config.providers {
            let deployments = deployments(provider, http).map_err(|reason| LiveError::Provider {
                name: provider.name.clone(),
                reason,
            })?;
            let openai_shaped = matches!(provider.kind, ProviderKind::OpenAi | ProviderKind::Simulated);
            upstreams.insert(&provider.name, (openai_shaped, deployments));
        }
        let mut arms = HashMap::new();
        let mut bare: HashMap<String, Option<ArmId>> = HashMap::new();
        let chat = config.models.iter().map(|model| (model, Purpose::Chat));
        let embedding = config
            .embedding_models
            .iter()
            .map(|model| (model, Purpose::Embedding));
        for (model, purpose) in chat.chain(embedding) {
            let arm = &model.arm;
            let own = std::iter::once(arm.id.provider());
            let servers: Vec<_> = own
                .chain(model.also_at.iter().map(String::as_str))
                .filter_map(|name| upstreams.get(name))
                .collect();
            if servers.is_empty() {
                continue;
            }
            let served = Served {
                arm: Arc::clone(arm),
                purpose,
                openai_shaped: servers.iter().all(|(openai_shaped, _)| *openai_shaped),
                deployments: servers
                    .iter()
                    .flat_map(|(_, deployments)| deployments.iter().cloned())
                    .collect(),
            };
            arms.insert(arm.id.clone(), served);
            bare.entry(arm.id.model().to_owned())
                .and_modify(|other| *other = None)
                .or_insert_with(|| Some(arm.id.clone()));
        }
        let keys = ClientKeys::new(config.server.api_keys.iter().map(config::Secret::expose))
            .reached_as(&config.server.allowed_hosts);
        let admins = ClientKeys::new(config.server.admin_keys.iter().map(config::Secret::expose))
            .reached_as(&config.server.allowed_hosts);
        Ok(Self {
            admins,
            caches: Caches::new(&config, before),
            config,
            keys,
            arms,
            bare,
        })
    }

    /// The same with other prices: servers, keys and kept answers stay as they are.
    #[must_use]
    pub fn with_prices(&self, prices: PriceBook) -> Self {
        Self {
            config: Config {
                prices,
                ..self.config.clone()
            },
            keys: self.keys.clone(),
            admins: self.admins.clone(),
            caches: Caches::new(&self.config, &self.caches),
            arms: self.arms.clone(),
            bare: self.bare.clone(),
        }
    }

    /// The arm with this id.
    #[must_use]
    pub fn arm(&self, id: &ArmId) -> Option<&Served> {
        self.arms.get(id)
    }

    /// What `model` names: a route, an arm by its whole id, or an arm by a name that only one provider has.
    /// Nothing is guessed: `None` for everything else.
    #[must_use]
    pub fn resolve(&self, model: &str) -> Option<Target<'_>> {
        if let Some(route) = self.config.route(model) {
            return Some(Target::Route(route));
        }
        if let Some(served) = self.arms.get(&ArmId::new(model)) {
            return Some(Target::Arm(served));
        }
        let id = self.bare.get(model)?.as_ref()?;
        self.arms.get(id).map(Target::Arm)
    }
}

/// A deployment for each key: the first has the provider's name, the others `name#2`, `name#3`, ...
fn deployments(provider: &config::Provider, http: &reqwest::Client) -> Result<Vec<Arc<Deployment>>, String> {
    let own_client;
    let http = if provider.connect_timeout_ms == DEFAULT_CONNECT_TIMEOUT_MS {
        http
    } else {
        let timeout = Duration::from_millis(provider.connect_timeout_ms);
        own_client = http_client(timeout).map_err(|e| e.to_string())?;
        &own_client
    };
    let mut keys: Vec<Option<&config::Secret>> = provider.api_keys.iter().map(Some).collect();
    if keys.is_empty() {
        keys.push(None);
    }
    let deployment = |(index, key): (usize, Option<&config::Secret>)| {
        let name = match index {
            0 => provider.name.clone(),
            _ => format!("{}#{}", provider.name, index + 1),
        };
        Ok(Arc::new(Deployment {
            name: Arc::from(name),
            max_in_flight: provider.max_in_flight,
            ..Deployment::new(&provider.name, upstream(provider, key, http)?)
        }))
    };
    keys.into_iter().enumerate().map(deployment).collect()
}

fn upstream(
    provider: &config::Provider,
    key: Option<&config::Secret>,
    http: &reqwest::Client,
) -> Result<Arc<dyn Upstream>, String> {
    let kind = match provider.kind {
        ProviderKind::Simulated => {
            let settings = SimulatedSettings::from_address(&provider.base_url).map_err(|e| e.to_string())?;
            let simulated = SimulatedProvider::new(settings).map_err(|e| e.to_string())?;
            return Ok(Arc::new(simulated));
        }
        ProviderKind::OpenAi => WireFormat::OpenAi,
        ProviderKind::Anthropic => WireFormat::Anthropic,
        ProviderKind::Gemini => WireFormat::Gemini,
    };
    let mut settings = ProviderSettings::new(&provider.name, kind, &provider.base_url);
    settings.api_key = key.map(|key| Secret::new(key.expose()));
    settings.prompt_cache = provider.prompt_cache;
    settings.headers = provider.headers.clone();
    settings.max_response_bytes = provider.max_response_bytes.unwrap_or(settings.max_response_bytes);
    Ok(Arc::new(
        Provider::new(settings, http.clone()).map_err(|e| e.to_string())?,
    ))
}
