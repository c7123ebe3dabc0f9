//! A request as it arrives: what it names and holds, and the state of the router that it meets. All of it is known
//! before its words are looked at, and stays the same for as long as it is decided.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::Guard;
use uuid::Uuid;

use crate::app::features::FeatureSet;
use crate::app::live::{Live, Served, Target};
use crate::app::pending::Account;
use crate::app::prepare::Wishes;
use crate::app::sessions::Conversation;
use crate::app::{App, money, purpose};
use crate::arm::ArmId;
use crate::candidates::Demand;
use crate::clock;
use crate::config::Route;
use crate::content::ContentFacts;
use crate::experiments::Table;
use crate::features::content;
use crate::learner::Decider;
use crate::policy::{Demands, Policy};
use crate::pricing::budget::Standing;
use crate::pricing::{self, Corrections};
use crate::request::ChatRequest;
use crate::server::error::ApiError;
use crate::server::models;
use crate::units::{UnixMs, Usd};

/// What one request meets and holds.
pub(super) struct Facts {
    /// The decision's id.
    pub(super) id: Arc<str>,
    pub(super) now: UnixMs,
    pub(super) live: Arc<Live>,
    /// What looks at its words.
    pub(super) features: Arc<FeatureSet>,
    pub(super) table: Arc<Table>,
    pub(super) decider: Arc<Decider>,
    corrections: Guard<Arc<Corrections>>,
    /// The conversation that it goes on with, if it names one.
    pub(super) conversation: Option<Conversation>,
    /// What its budgets leave it.
    standing: Standing,
    /// What it holds.
    pub(super) content: ContentFacts,
    /// How long the look at that took.
    took: Duration,
}

impl Facts {
    /// Gathers them.
    ///
    /// # Errors
    /// An unknown model, content that nobody could take, a budget that has nothing left.
    pub(super) fn gather(app: &App, request: &ChatRequest, wishes: &Wishes) -> Result<Self, ApiError> {
        let live = app.live.load_full();
        let target = resolve(&live, request)?;
        purpose::check(target, request)?;
        let began = clock::monotonic();
        let content = content::look(request);
        let took = clock::monotonic().saturating_duration_since(began);
        if let Some(broken) = content.broken.first() {
            let message = format!("`{}` {}.", broken.path, broken.reason);
            return Err(ApiError::invalid(message, Some(&broken.path)));
        }
        let now = clock::wall();
        let standing = money::standing(app, request, wishes, name(target, request), now)?;
        let warm = live.config.sessions.warm;
        Ok(Self {
            id: Arc::from(&*app.new_id().simple().encode_lower(&mut Uuid::encode_buffer())),
            now,
            features: app.features.load_full(),
            table: app.desk.table(),
            decider: app.learner.decider(),
            corrections: app.learner.corrections(),
            conversation: app.sessions.look(request, wishes, warm, now),
            standing,
            content,
            took,
            live,
        })
    }

    /// Opens the request's account.
    pub(super) fn open_account(&self, app: &App) -> Account {
        let units = pricing::units(&self.content);
        let account = app
            .pending
            .open(Arc::clone(&self.id), units, Arc::clone(&self.live));
        if let Some(conversation) = &self.conversation {
            account.ledger().note(conversation.place);
        }
        account
    }
}

/// A request with all that is known before its words are looked at.
#[derive(Clone, Copy)]
pub(super) struct Arrived<'a> {
    pub(super) app: &'a App,
    pub(super) live: &'a Live,
    pub(super) request: &'a Arc<ChatRequest>,
    pub(super) wishes: &'a Wishes,
    /// What it names.
    pub(super) target: Target<'a>,
    /// Its route's name; the model as the client wrote it where that names one.
    pub(super) name: &'a str,
    pub(super) now: UnixMs,
    /// What it holds.
    pub(super) content: &'a ContentFacts,
    /// How long the look at that took.
    pub(super) took: Duration,
    pub(super) policy: &'a dyn Policy,
    pub(super) corrections: &'a Corrections,
    /// What its budgets leave it.
    pub(super) standing: Standing,
    /// The conversation that it goes on with, if it names one.
    pub(super) conversation: Option<&'a Conversation>,
}

impl<'a> Arrived<'a> {
    /// The request that met these `facts`.
    ///
    /// # Errors
    /// An unknown model.
    pub(super) fn of(
        app: &'a App,
        request: &'a Arc<ChatRequest>,
        wishes: &'a Wishes,
        facts: &'a Facts,
    ) -> Result<Self, ApiError> {
        let target = resolve(&facts.live, request)?;
        Ok(Self {
            app,
            live: &facts.live,
            request,
            wishes,
            target,
            name: name(target, request),
            now: facts.now,
            content: &facts.content,
            took: facts.took,
            policy: &*facts.decider.policy,
            corrections: &facts.corrections,
            standing: facts.standing,
            conversation: facts.conversation.as_ref(),
        })
    }

    /// The route that it names, if it names no model.
    pub(super) const fn route(&self) -> Option<&'a Route> {
        match self.target {
            Target::Route(route) => Some(route),
            Target::Arm(_) => None,
        }
    }

    /// What it asks of every arm.
    pub(super) fn demand(&self) -> Demand<'a> {
        Demand {
            content: self.content,
            foreign_tools: !self.request.other_tools.is_empty(),
            max_output_tokens: self.request.max_output_tokens,
            preferences: &self.request.provider,
            max_cost: self.max_cost(),
            under_budget: self.standing.under_budget(),
            room: self.standing.room,
            allowed: None,
        }
    }

    /// What the request wants of the policy.
    pub(super) fn demands(&self) -> Demands {
        let routing = &self.request.routing;
        Demands {
            quality_floor: routing.quality_floor,
            quality_margin: routing.quality_margin,
            confidence: None,
            explore: routing.explore.unwrap_or(true),
            target_usd: self.standing.target.map(Usd::dollars),
            explain: self.wishes.outlook || self.wishes.metadata,
        }
    }

    /// Fallbacks that the client names come first, then the route's.
    pub(super) fn preferred(&self) -> Vec<ArmId> {
        let route = self
            .route()
            .and_then(|route| route.fallbacks.as_deref())
            .unwrap_or_default();
        let named = self
            .request
            .fallbacks
            .iter()
            .map(|id| match self.live.resolve(id.as_str()) {
                Some(Target::Arm(served)) => served.arm.id.clone(),
                Some(Target::Route(_)) | None => id.clone(),
            });
        named.chain(route.iter().cloned()).collect()
    }

    /// The place of an arm's provider in the client's `provider.order`; the last for those it does not name.
    pub(super) fn provider_rank(&self, served: &Served) -> usize {
        let order = &self.request.provider.order;
        let provider = served.arm.id.provider();
        order
            .iter()
            .position(|name| name.eq_ignore_ascii_case(provider))
            .unwrap_or(order.len())
    }

    /// The narrowest of the request's limit, the route's and what is left of budgets that refuse.
    pub(super) fn max_cost(&self) -> Option<Usd> {
        let own = self.request.routing.max_cost_usd;
        let route = self.route().and_then(|route| route.max_cost);
        own.into_iter().chain(route).chain(self.standing.most).min()
    }
}

/// What a request names.
fn resolve<'a>(live: &'a Live, request: &ChatRequest) -> Result<Target<'a>, ApiError> {
    live.resolve(&request.model)
        .ok_or_else(|| models::unknown(live, &request.model))
}

/// Its route's name; the model as the client wrote it where that names one.
fn name<'a>(target: Target<'a>, request: &'a ChatRequest) -> &'a str {
    match target {
        Target::Route(route) => &route.name,
        Target::Arm(_) => &request.model,
    }
}
