//! Answers kept for requests that come again.
//!
//! Each route that asks for it has a cache of its own, bounded in bytes and in time. An answer is kept as pieces
//! without an envelope, so that whoever is given it again gets an id, a cost and headers of his own, and a stream
//! comes in the chunks in which it came first; who asks for a stream of what came as a whole, or the reverse, is given it
//! in the other shape. Equal requests at the same time are one: the first leads, the others
//! follow what it records.
//!
//! Kept is only what ended as a model ends an answer by itself: no errors, nothing cut off or filtered.

mod control;
mod key;
mod meaning;
mod reshape;
mod route;
mod tape;

use std::collections::HashMap;
use std::sync::Arc;

use crate::arm::ArmId;
use crate::completion::{Chunk, Completion, FinishReason, Usage};
use crate::config::{Config, Route};
use crate::units::{UnixMs, Usd};

pub use control::{BadMode, Mode, Wish};
pub use key::{Asker, Key, frame, key};
pub use meaning::{Meaning, question, telling};
pub use reshape::{streamed, whole};
pub use route::{CacheFigures, Found, RouteCache};
pub use tape::{Begin, Cut, Lead, Playback, Recording};

/// Who made an answer, and what for.
#[derive(Clone, Debug, PartialEq)]
pub struct Origin {
    /// The decision that it was made by.
    pub decision: Arc<str>,
    /// The arm that served.
    pub arm: ArmId,
    /// Its provider.
    pub provider: Arc<str>,
    /// The prompt's category.
    pub category: Arc<str>,
    /// Expected quality of the drawn arm, in [0,1].
    pub expected_quality: f64,
}

/// What was answered.
#[derive(Clone, Debug)]
pub enum Body {
    /// At once.
    Whole(Box<Completion>),
    /// In chunks.
    Streamed {
        /// In the order they came.
        chunks: Vec<Chunk>,
        /// Tokens, when the provider told.
        usage: Option<Usage>,
        /// Usage fields beyond ours.
        usage_extra: Option<serde_json::Value>,
        /// Why it ended.
        finish: FinishReason,
    },
}

impl Body {
    /// Why it ended.
    #[must_use]
    pub fn finish(&self) -> FinishReason {
        match self {
            Self::Whole(completion) => completion.finish,
            Self::Streamed { finish, .. } => *finish,
        }
    }

    /// Tokens, when the provider told.
    #[must_use]
    pub fn usage(&self) -> Option<Usage> {
        match self {
            Self::Whole(completion) => completion.usage,
            Self::Streamed { usage, .. } => *usage,
        }
    }

    /// About the bytes that it takes in memory.
    fn bytes(&self) -> usize {
        let extra = |fields: &[(String, Box<serde_json::value::RawValue>)]| {
            fields
                .iter()
                .map(|(name, json)| name.len() + json.get().len() + 64)
                .sum::<usize>()
        };
        match self {
            Self::Whole(completion) => completion.choices.get().len() + extra(&completion.extra),
            Self::Streamed { chunks, .. } => chunks
                .iter()
                .map(|chunk| size_of::<Chunk>() + chunk.choices.get().len() + extra(&chunk.extra))
                .sum(),
        }
    }
}

/// A complete answer.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Who made it.
    pub origin: Origin,
    /// The answer.
    pub body: Body,
    /// What it cost, lost hedges and fallbacks too. `None`: a price is not known.
    pub cost: Option<Usd>,
    /// When it was complete.
    pub at: UnixMs,
}

/// The caches of a configuration's routes.
#[derive(Default)]
pub struct Caches(HashMap<String, Arc<RouteCache>>);

impl Caches {
    /// A cache for each route that asks for one. What `before` kept goes on if nothing that the answers depend on
    /// has changed; its figures go on in any case.
    #[must_use]
    pub fn new(config: &Config, before: &Self) -> Self {
        let caches = config.routes.iter().filter_map(|route| {
            let rule = route.cache.as_ref()?;
            let version = version(config, route);
            let known = before.0.get(&route.name);
            let cache = match known.filter(|known| known.is_same(&version)) {
                Some(known) => Arc::clone(known),
                None => Arc::new(RouteCache::new(
                    rule.clone(),
                    version,
                    known.map(|known| known.counters()),
                )),
            };
            Some((route.name.clone(), cache))
        });
        Self(caches.collect())
    }

    /// Whether no route keeps answers.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The cache of a route.
    #[must_use]
    pub fn of(&self, route: &str) -> Option<&Arc<RouteCache>> {
        self.0.get(route)
    }

    /// Drops the answer that `decision` made or was given.
    pub fn evict(&self, decision: &str) {
        for cache in self.0.values() {
            cache.evict(decision);
        }
    }

    /// What each route's cache holds and has done, by name.
    #[must_use]
    pub fn figures(&self) -> std::collections::BTreeMap<&str, CacheFigures> {
        self.0
            .iter()
            .map(|(route, cache)| (route.as_str(), cache.figures()))
            .collect()
    }
}

/// All of the configuration that an answer of `route` may depend on. Prices do not change answers.
fn version(config: &Config, route: &Route) -> String {
    use std::fmt::Write as _;
    let mut text = format!("{route:?}");
    for arm in config.arms() {
        // Writing into a string cannot fail.
        let _ = write!(text, "{arm:?}");
    }
    for provider in &config.providers {
        let _ = write!(
            text,
            "{}|{:?}|{}",
            provider.name, provider.kind, provider.base_url
        );
    }
    text
}
