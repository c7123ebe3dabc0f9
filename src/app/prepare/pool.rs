//! Every arm that may serve a request, with what each would be billed, and which of them can take it.

use crate::app::enrol::Trials;
use crate::app::live::{Served, Target};
use crate::app::prepare::asked::Asked;
use crate::arm::Arm;
use crate::candidates::{self, Filtered, ListPrice, Means, Rule};
use crate::pricing::Units;
use crate::routing::{self, Expected, Offer};
use crate::telemetry;

/// Samples of an arm's latency below which it is not counted.
const LATENCY_SAMPLES: u64 = 20;

/// Every arm that may serve a request.
pub(super) struct Pool<'a> {
    /// The arms, the route's own first.
    pub(super) served: Vec<&'a Served>,
    /// What each is offered at.
    pub(super) offers: Vec<Offer<'a>>,
    /// What a call on each is expected to use and cost.
    pub(super) expected: Vec<Expected>,
    /// So many of the first may be drawn by the policy.
    pub(super) own: usize,
    /// So many of the first were named by the route, the rule or the client.
    pub(super) listed: usize,
    /// Places of those that may be drawn for the sake of an experiment only.
    pub(super) guests: Vec<usize>,
}

impl<'a> Pool<'a> {
    /// The rule's models, else the route's, else the one that the client names; then the fallbacks; then what only
    /// experiments of the route name.
    pub(super) fn of(asked: &Asked<'a>, rule: Option<&'a Rule>, trials: Option<Trials<'_>>) -> Self {
        let arm = |id| asked.live.arm(id);
        let mut served: Vec<&Served> = match (asked.target, rule) {
            (Target::Arm(served), _) => vec![served],
            (Target::Route(_), Some(rule)) => rule.models.iter().filter_map(arm).collect(),
            (Target::Route(route), None) => route.models.iter().filter_map(arm).collect(),
        };
        let own = served.len();
        let preferred = asked.preferred();
        for fallback in preferred.iter().filter_map(arm) {
            if place(&served, fallback).is_none() {
                served.push(fallback);
            }
        }
        let listed = served.len();
        let mut guests = Vec::new();
        // Who orders providers is given them in this order.
        let trials = trials.filter(|_| asked.request.provider.order.is_empty());
        let tried = trials
            .into_iter()
            .flat_map(|trials| trials.table.models(trials.route));
        for guest in tried.filter_map(arm) {
            let place = place(&served, guest).unwrap_or_else(|| {
                served.push(guest);
                served.len() - 1
            });
            if place >= own && !guests.contains(&place) {
                guests.push(place);
            }
        }
        let offers: Vec<Offer<'a>> = served.iter().map(|served| offer(asked, served)).collect();
        let expected = routing::estimate(asked.policy, &asked.question(&offers));
        Self {
            served,
            offers,
            expected,
            own,
            listed,
            guests,
        }
    }

    /// The arm at a place.
    pub(super) fn arm(&self, place: usize) -> &'a Arm {
        &self.served[place].arm
    }

    /// Which arms can and may take the request.
    pub(super) fn filter(&self, asked: &Asked<'_>) -> Filtered {
        let means: Vec<Means<'_>> = self
            .served
            .iter()
            .zip(&self.offers)
            .zip(&self.expected)
            .map(|((served, offer), expected)| Means {
                arm: &served.arm,
                openai_shaped: served.openai_shaped,
                input_tokens: offer.input_tokens,
                list: list_price(offer),
                cost: expected.priced.then_some(expected.cost),
            })
            .collect();
        candidates::filter(&asked.demand(), &means)
    }
}

fn place(pool: &[&Served], served: &Served) -> Option<usize> {
    pool.iter().position(|other| other.arm.id == served.arm.id)
}

/// What is known now of an arm's price and speed for the request.
fn offer<'a>(asked: &Asked<'a>, served: &'a Served) -> Offer<'a> {
    let id = &served.arm.id;
    let stream = asked.request.stream;
    let input_tokens = asked.corrections.expected_input(&served.arm, asked.content);
    let question = telemetry::Question {
        arm: id,
        provider: None,
        stream,
        size: telemetry::InputSize::of(u32::try_from(input_tokens).unwrap_or(u32::MAX)),
    };
    let view = asked.app.telemetry.view();
    let latency = view.latency(&question, LATENCY_SAMPLES);
    let median = latency.and_then(|latency| latency.wait(stream).quantile(0.5));
    let warm = asked.conversation.map_or(0, |conversation| conversation.warm(id));
    Offer {
        arm: &served.arm,
        tariff: asked.live.config.prices.at(id, asked.now),
        latency_ms: median.map_or(0.0, |quantile| quantile.value_ms),
        cached: asked.policy.cached_input(id, input_tokens, warm),
        input_tokens,
    }
}

/// What an offer is listed at, for clients that set a limit to that.
fn list_price(offer: &Offer<'_>) -> Option<ListPrice> {
    let tariff = offer.tariff?;
    let rates = tariff.price().rates(offer.input_tokens);
    let factor = tariff.multiplier().factor();
    Some(ListPrice {
        prompt: rates.input.dollars() * factor,
        completion: rates.output.dollars() * factor,
        request: tariff.fees(&Units::default()).dollars(),
    })
}
