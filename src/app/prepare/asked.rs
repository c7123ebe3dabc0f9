//! One request with everything that it is decided by.

use std::sync::Arc;

use crate::app::App;
use crate::app::enrol::Trials;
use crate::app::live::{Live, Served, Target};
use crate::app::prepare::Wishes;
use crate::app::prepare::sight::Sight;
use crate::app::sessions::Conversation;
use crate::arm::ArmId;
use crate::candidates::{Rule, Seen};
use crate::config::Route;
use crate::experiments::Table;
use crate::policy::{Contexts, Demands, Policy};
use crate::pricing::budget::Standing;
use crate::pricing::{self, Corrections};
use crate::request::ChatRequest;
use crate::routing::{Offer, Question};
use crate::units::{UnixMs, Usd};

/// A request, what was seen of it, and the state of the router that it meets.
pub(super) struct Asked<'a> {
    pub(super) app: &'a App,
    pub(super) live: &'a Live,
    pub(super) request: &'a Arc<ChatRequest>,
    pub(super) wishes: &'a Wishes,
    /// What it names.
    pub(super) target: Target<'a>,
    /// Its route's name; the model as the client wrote it where that names one.
    pub(super) name: &'a str,
    pub(super) now: UnixMs,
    pub(super) sight: &'a Sight,
    pub(super) policy: &'a dyn Policy,
    pub(super) corrections: &'a Corrections,
    /// What its budgets leave it.
    pub(super) standing: Standing,
    /// The conversation that it goes on with, if it names one.
    pub(super) conversation: Option<&'a Conversation>,
}

impl<'a> Asked<'a> {
    /// The route that it names, if it names no model.
    pub(super) const fn route(&self) -> Option<&'a Route> {
        match self.target {
            Target::Route(route) => Some(route),
            Target::Arm(_) => None,
        }
    }

    /// The prompt's category.
    pub(super) fn category(&self) -> Option<&'a str> {
        self.sight.category.as_deref()
    }

    /// The first rule of the route that matches.
    pub(super) fn rule(&self) -> Option<&'a Rule> {
        let content = &self.sight.content;
        Rule::first(
            &self.route()?.rules,
            &Seen {
                modalities: content.modalities,
                category: self.category(),
                input_tokens: content.text.tokens,
                tools: content.tools > 0,
                structured_output: content.structured_output,
                code: content.code,
                language: content.language,
                headers: &self.wishes.headers,
                tags: &self.request.metadata,
            },
        )
    }

    /// The experiments that may concern it: those of its route, unless a `rule` has settled who serves.
    pub(super) fn trials(&self, table: &'a Table, rule: Option<&Rule>) -> Option<Trials<'a>> {
        let route = self.route().filter(|_| rule.is_none() && !table.is_empty())?;
        Some(Trials {
            table,
            route: &route.name,
            category: self.category(),
        })
    }

    /// What the policy is asked about `offers`.
    pub(super) fn question<'q>(&'q self, offers: &'q [Offer<'q>]) -> Question<'q> {
        Question {
            route: self.route().map_or("", |route| &route.name),
            contexts: Contexts {
                text: Some(&self.sight.features.text),
                embedding: self.sight.features.embedding.as_deref(),
            },
            category: self.category(),
            offers,
            units: pricing::units(&self.sight.content),
            max_output_tokens: self.request.max_output_tokens,
            demands: self.demands(),
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
