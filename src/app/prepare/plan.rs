//! How a decision is carried out: who is tried in which order, in what time and at what cost.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::app::prepare::arrived::Arrived;
use crate::app::prepare::asked::Asked;
use crate::app::prepare::field::Field;
use crate::app::prepare::pool::Pool;
use crate::dispatch::{HedgeRule, Plan, PlannedArm};
use crate::policy::Decision;
use crate::routing::{self, Decided, Offer};

/// Time budget of a request that names a model itself.
const DIRECT_DEADLINE: Duration = Duration::from_secs(600);

/// The order in which arms are tried, by their places in the pool.
pub(super) struct Order {
    places: Vec<usize>,
    /// So many of the first are the drawn one and those asked for by name.
    fixed: usize,
}

impl Order {
    /// The drawn one, the named fallbacks in their order, then the others, by the client's order of providers if
    /// there is one. `offers` are those of the drawn ones of `field`.
    pub(super) fn of(
        asked: &Asked<'_>,
        pool: &Pool<'_>,
        field: &Field,
        offers: &[Offer<'_>],
        decision: &Decision,
    ) -> Self {
        let preferred = asked.preferred();
        let rank = |&place: &usize| {
            let named = preferred.iter().position(|arm| *arm == pool.arm(place).id);
            named.unwrap_or(preferred.len())
        };
        let provider_rank = |&place: &usize| asked.provider_rank(pool.served[place]);
        let order = routing::order(decision, offers, &preferred);
        let mut order = order.into_iter().map(|index| field.drawn[index]);
        let first = order.next();
        let mut rest: Vec<usize> = order.chain(field.spare.iter().copied()).collect();
        // A stable sort: those without a rank keep the policy's order.
        rest.sort_by_key(|place| (rank(place), provider_rank(place)));
        let named = |place: &&usize| {
            rank(place) < preferred.len() || provider_rank(place) < asked.request.provider.order.len()
        };
        let fixed = 1 + rest.iter().take_while(named).count();
        let places = first.into_iter().chain(rest).collect();
        Self { places, fixed }
    }

    /// The plan of a request that came at `received`.
    pub(super) fn plan(
        &self,
        asked: &Asked<'_>,
        pool: &Pool<'_>,
        decided: &Decided,
        received: Instant,
    ) -> Plan {
        let planned = |&place: &usize| PlannedArm {
            arm: Arc::clone(&pool.served[place].arm),
            deployments: pool.served[place].deployments.clone(),
            expected_cost: pool.expected[place].cost,
        };
        let alone = asked.request.provider.allow_fallbacks == Some(false);
        let tried = if alone { 1 } else { self.places.len() };
        Plan {
            fixed: self.fixed,
            ..plan(
                asked,
                &decided.id,
                self.places.iter().take(tried).map(planned).collect(),
                decided.input_tokens,
                received,
            )
        }
    }
}

/// How `candidates` are tried for a request that came at `received`, the first of them in any case first.
pub(super) fn plan(
    asked: &Arrived<'_>,
    id: &Arc<str>,
    candidates: Vec<PlannedArm>,
    input_tokens: u32,
    received: Instant,
) -> Plan {
    let route = asked.route();
    let own = asked.wishes.deadline;
    let deadline = own.unwrap_or(route.map_or(DIRECT_DEADLINE, |route| route.deadline));
    let stream_deadline = own.unwrap_or(route.map_or(DIRECT_DEADLINE, |route| route.stream_deadline));
    let hedge = asked.request.routing.hedge;
    Plan {
        decision_id: Arc::clone(id),
        request: Arc::clone(asked.request),
        candidates,
        fixed: 1,
        deadline: received + deadline,
        stream_deadline: received + stream_deadline,
        ttft_budget: asked
            .wishes
            .ttft_budget
            .or(route.and_then(|route| route.ttft_budget)),
        hedge: HedgeRule {
            enabled: hedge.unwrap_or(route.is_some_and(|route| route.hedge.enabled)),
            asked: hedge == Some(true),
            max_rate: route.map_or(HedgeRule::default().max_rate, |route| route.hedge.max_rate),
        },
        max_cost: asked.max_cost(),
        max_attempts: None,
        input_tokens,
        history: asked
            .conversation
            .and_then(|conversation| conversation.incumbent.clone()),
    }
}
