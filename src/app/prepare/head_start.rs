//! A head start: where who serves is settled whatever a request's words say, its call goes out before they are looked
//! at. Looking takes as long as everything else that is done before the call, and the provider works meanwhile.

use std::future::ready;
use std::sync::Arc;
use std::time::Instant;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, poll_immediate};
use tokio::task::yield_now;

use crate::app::live::{Served, Target};
use crate::app::pending::Account;
use crate::app::prepare::arrived::{Arrived, Facts};
use crate::app::prepare::{Came, Prepared, decide, plan};
use crate::candidates::{self, Means};
use crate::dispatch::{Answer, DispatchFailure, Dispatcher, Plan, PlannedArm};
use crate::pricing;
use crate::request::ProviderPreferences;
use crate::server::error::ApiError;
use crate::units::Usd;

type Answering = BoxFuture<'static, Result<Answer, DispatchFailure>>;

/// The call of a decision. Dropping it takes it back.
pub enum Call {
    /// To be sent.
    Planned(Box<Plan>),
    /// Sent before the decision was written down.
    UnderWay(Answering),
}

impl Call {
    /// Its answer; sends it if that was not done before.
    ///
    /// # Errors
    /// As [`Dispatcher::run`].
    pub async fn answer(self, dispatcher: &Dispatcher) -> Result<Answer, DispatchFailure> {
        match self {
            Self::Planned(plan) => dispatcher.run(*plan).await,
            Self::UnderWay(answering) => answering.await,
        }
    }

    /// The models that are to be tried, in their order; none once it was sent.
    pub fn candidates(&self) -> impl Iterator<Item = &str> {
        let candidates = match self {
            Self::Planned(plan) => &plan.candidates[..],
            Self::UnderWay(_) => &[],
        };
        candidates.iter().map(|planned| planned.arm.id.as_str())
    }

    /// Whether it was sent before the decision was written down.
    #[must_use]
    pub const fn is_under_way(&self) -> bool {
        matches!(self, Self::UnderWay(_))
    }
}

/// A call that was begun, and the account it is booked on.
pub(super) struct Begun {
    // Dropped first: what it has used is booked on an open account.
    pub(super) call: Call,
    pub(super) account: Account,
}

/// How a request is carried out whose words can change nothing about that; `None` where they, or what it costs, may.
/// It is one with a single candidate: named by the client, or all that its route has.
pub(super) fn settled(arrived: &Arrived<'_>, facts: &Facts, received: Instant) -> Option<Plan> {
    // What only asks for the estimates calls nobody.
    let alone = !arrived.wishes.outlook
        && arrived.preferred().is_empty()
        && arrived.request.provider == ProviderPreferences::default();
    let free = arrived.max_cost().is_none() && !arrived.standing.under_budget();
    if !alone || !free {
        return None;
    }
    let served = match arrived.target {
        Target::Arm(served) => served,
        Target::Route(route) if route.rules.is_empty() && !facts.table.concerns(&route.name) => {
            match &route.models[..] {
                [only] => arrived.live.arm(only)?,
                _ => return None,
            }
        }
        Target::Route(_) => return None,
    };
    can_take(arrived, served).then(|| {
        let input_tokens = pricing::raw_input_tokens(&served.arm, arrived.content);
        let candidate = PlannedArm {
            arm: Arc::clone(&served.arm),
            deployments: served.deployments.clone(),
            // Weighed against a limit only, and there is none.
            expected_cost: Usd::ZERO,
        };
        let input_tokens = u32::try_from(input_tokens).unwrap_or(u32::MAX);
        plan::plan(arrived, &facts.id, vec![candidate], input_tokens, received)
    })
}

/// What the field will come to, for a request without limits to prices and costs.
fn can_take(arrived: &Arrived<'_>, served: &Served) -> bool {
    let means = Means {
        arm: &served.arm,
        openai_shaped: served.openai_shaped,
        input_tokens: arrived.corrections.expected_input(&served.arm, arrived.content),
        list: None,
        cost: None,
    };
    candidates::filter(&arrived.demand(), &[means]).refused.is_empty()
}

/// A call on its first way out. If the client leaves within that, the decision is made and logged all the same: no
/// attempt is in the log without one.
pub(super) struct HeadStart<'a> {
    came: Came<'a>,
    /// Taken when the decision is made.
    begun: Option<(Facts, Begun)>,
}

impl<'a> HeadStart<'a> {
    /// Sends the call, and decides. A call that ends at once is kept; its attempts wait in the account for the decision.
    ///
    /// # Errors
    /// Those of a decision, none of which a settled request meets.
    pub(super) async fn take(came: Came<'a>, facts: Facts, plan: Plan) -> Result<Prepared, ApiError> {
        let account = facts.open_account(came.app);
        let dispatcher = came.app.dispatcher.clone();
        let mut answering: Answering = async move { dispatcher.run(plan).await }.boxed();
        let call = Call::UnderWay(match poll_immediate(&mut answering).await {
            None => answering,
            Some(answer) => ready(answer).boxed(),
        });
        let mut start = Self {
            came,
            begun: Some((facts, Begun { call, account })),
        };
        // The client library writes to a connection in a task of its own, which now has its turn.
        yield_now().await;
        start.decide().unwrap_or_else(|| Err(ApiError::internal()))
    }

    /// Makes the decision, once. It waits for nothing: no embedding decides, and no experiment looks at the request.
    fn decide(&mut self) -> Option<Result<Prepared, ApiError>> {
        let (facts, begun) = self.begun.take()?;
        decide(self.came, facts, Some(begun)).now_or_never()
    }
}

impl Drop for HeadStart<'_> {
    fn drop(&mut self) {
        if let Some(Ok(prepared)) = self.decide() {
            self.came.app.log_decision(&prepared, self.came.request);
        }
    }
}

#[cfg(test)]
#[path = "head_start_tests.rs"]
mod tests;
