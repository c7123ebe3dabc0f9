//! From a request to a decision that can be carried out: what it names, what it holds, who can take it, what that
//! would cost, and who is drawn. Nothing is called and nothing is logged here.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::HeaderMap;
use uuid::Uuid;

use crate::app::live::{Live, Served, Target};
use crate::app::pending::Account;
use crate::app::{App, Parts};
use crate::arm::ArmId;
use crate::clock;
use crate::config::Route;
use crate::context::Features;
use crate::dispatch::{HedgeRule, Plan, PlannedArm};
use crate::failure::FailureKind;
use crate::policy::simple::Fixed;
use crate::policy::{Contexts, Demands, Policy};
use crate::pricing::Units;
use crate::request::ChatRequest;
use crate::routing::{self, Choice, Decided, Offer, Question};
use crate::server::auth::Client;
use crate::server::error::ApiError;
use crate::server::explain::Refused;
use crate::server::models;
use crate::telemetry;
use crate::units::{UnixMs, Usd};

/// Time budget of a request that names a model itself.
const DIRECT_DEADLINE: Duration = Duration::from_secs(600);
/// Samples of an arm's latency below which it is not counted.
const LATENCY_SAMPLES: u64 = 20;

/// What a request asks for outside its body, and of whom.
#[derive(Clone, Debug)]
pub struct Wishes {
    /// Who asks.
    pub client: Client,
    /// Whether the answer is to carry `router_metadata`.
    pub metadata: bool,
    /// The whole time budget, if the request names one.
    pub deadline: Option<Duration>,
    /// When the first token must have come.
    pub ttft_budget: Option<Duration>,
    /// The conversation it belongs to.
    pub session: Option<Arc<str>>,
}

impl Wishes {
    /// Reads the headers beside the body's own extras. The body wins.
    ///
    /// # Errors
    /// A header that is no number of milliseconds.
    pub fn read(request: &ChatRequest, headers: &HeaderMap, client: Client) -> Result<Self, ApiError> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let millis = |name: &'static str| match text(name).map(|value| (value, value.trim().parse::<u64>())) {
            None => Ok(None),
            Some((_, Ok(ms))) if (1..=86_400_000).contains(&ms) => Ok(Some(Duration::from_millis(ms))),
            Some((value, _)) => {
                let message =
                    format!("The header {name} is \"{value}\", but must be milliseconds from 1 to 86400000.");
                Err(ApiError::invalid(message, Some(name)))
            }
        };
        let routing = &request.routing;
        let session = request.session_id.as_deref().or_else(|| {
            SESSION_HEADERS
                .iter()
                .find_map(|name| text(name))
                .or(request.prompt_cache_key.as_deref())
        });
        Ok(Self {
            client,
            metadata: text("x-router-metadata").is_some_and(|value| value.eq_ignore_ascii_case("enabled")),
            deadline: match routing.deadline() {
                Some(deadline) => Some(deadline),
                None => millis("x-router-timeout-ms")?,
            },
            ttft_budget: match routing.ttft_budget_ms {
                Some(ms) => Some(Duration::from_millis(ms)),
                None => millis("x-router-ttft-ms")?,
            },
            session: session.map(Arc::from),
        })
    }
}

/// Where clients put the id of a conversation when not into the body.
const SESSION_HEADERS: [&str; 3] = ["x-session-id", "x-conversation-id", "x-claude-code-session-id"];

/// A decision, ready to be carried out.
pub struct Prepared {
    /// The decision.
    pub decided: Arc<Decided>,
    /// How to carry it out.
    pub plan: Plan,
    /// Arms that could not take the request, with the reason.
    pub refused: Vec<Refused>,
    /// The request's account; closed when this is dropped.
    pub account: Account,
    /// `name=arm` of the experiment it takes part in.
    pub experiment: Option<Arc<str>>,
    /// The episode or session it belongs to.
    pub episode: Option<Arc<str>>,
}

/// Decides.
///
/// # Errors
/// An unknown model, a request that no arm can take, money that is spent.
pub async fn prepare(
    app: &App,
    request: &Arc<ChatRequest>,
    wishes: &Wishes,
    received: Instant,
) -> Result<Prepared, ApiError> {
    let live = app.live.load_full();
    let Some(target) = live.resolve(&request.model) else {
        return Err(models::unknown(&live, &request.model));
    };
    let features = app.features.text(request);
    let now = clock::wall();
    let tokens = (request.body.len() as u64).div_ceil(4);
    let (pool, route): (Vec<&Served>, Option<&Route>) = match target {
        Target::Route(route) => (
            route.models.iter().filter_map(|id| live.arm(id)).collect(),
            Some(route),
        ),
        Target::Arm(served) => (vec![served], None),
    };
    let refused: Vec<Refused> = Vec::new();
    if pool.is_empty() {
        return Err(no_candidates(&refused));
    }
    let asked = Asked {
        app,
        live: &live,
        request,
        route,
        now,
        tokens,
    };
    let offers: Vec<Offer<'_>> = pool.iter().map(|served| asked.offer(served)).collect();
    let choice = asked.choose(&offers, &features, wishes);
    let strategy = asked.strategy(&choice);
    let preferred = asked.preferred();
    let order = routing::order(&choice.decision, &offers, &preferred);
    let decided = Arc::new(Decided {
        id: Arc::from(Uuid::now_v7().simple().to_string()),
        at: now,
        route: Arc::from(route.map_or(request.model.as_str(), |route| route.name.as_str())),
        features,
        category: None,
        arms: offers.iter().map(|offer| offer.arm.id.clone()).collect(),
        latency_ms: offers.iter().map(|offer| offer.latency_ms).collect(),
        expected: choice.expected,
        decision: choice.decision,
        strategy,
        input_tokens: u32::try_from(tokens).unwrap_or(u32::MAX),
    });
    let plan = asked.plan(&decided, &pool, &order, wishes, received);
    let account = app.pending.open(Arc::clone(&decided), Units::default());
    Ok(Prepared {
        plan,
        refused,
        account,
        experiment: None,
        episode: request
            .routing
            .episode_id
            .as_deref()
            .map(Arc::from)
            .or_else(|| wishes.session.clone()),
        decided,
    })
}

/// One request with what it is decided by.
struct Asked<'a> {
    app: &'a Parts,
    live: &'a Live,
    request: &'a Arc<ChatRequest>,
    route: Option<&'a Route>,
    now: UnixMs,
    tokens: u64,
}

impl<'a> Asked<'a> {
    fn offer(&self, served: &'a Served) -> Offer<'a> {
        let question = telemetry::Question {
            arm: &served.arm.id,
            provider: None,
            stream: self.request.stream,
            size: telemetry::InputSize::of(u32::try_from(self.tokens).unwrap_or(u32::MAX)),
        };
        let view = self.app.telemetry.view();
        let latency = view.latency(&question, LATENCY_SAMPLES);
        let median = latency.and_then(|latency| latency.wait(self.request.stream).quantile(0.5));
        Offer {
            arm: &served.arm,
            tariff: self.live.config.prices.at(&served.arm.id, self.now),
            latency_ms: median.map_or(0.0, |quantile| quantile.value_ms),
            input_tokens: self.tokens,
        }
    }

    /// Asks the policy; a model that the client names itself is certain.
    fn choose(&self, offers: &[Offer<'_>], features: &Features, wishes: &Wishes) -> Choice {
        let _ = wishes;
        let routing = &self.request.routing;
        let question = Question {
            route: self.route.map_or("", |route| &route.name),
            contexts: Contexts {
                text: Some(&features.text),
                embedding: features.embedding.as_deref(),
            },
            category: None,
            offers,
            units: Units::default(),
            max_output_tokens: self.request.max_output_tokens,
            demands: Demands {
                quality_floor: routing.quality_floor,
                quality_margin: routing.quality_margin,
                confidence: None,
                explore: routing.explore.unwrap_or(true),
            },
        };
        let learned = self.app.learner.policy();
        let fixed;
        let policy: &dyn Policy = match self.route {
            Some(_) => &*learned,
            None => {
                fixed = Fixed::new(offers[0].arm.id.clone());
                &fixed
            }
        };
        self.app.draw(|rng| routing::decide(policy, &question, rng))
    }

    fn strategy(&self, choice: &Choice) -> Arc<str> {
        Arc::from(match self.route {
            Some(_) => choice.decision.strategy.as_str(),
            None => "named",
        })
    }

    /// Fallbacks that the client names come first, then the route's.
    fn preferred(&self) -> Vec<ArmId> {
        let route = self
            .route
            .and_then(|route| route.fallbacks.as_deref())
            .unwrap_or_default();
        self.request.fallbacks.iter().chain(route).cloned().collect()
    }

    fn plan(
        &self,
        decided: &Arc<Decided>,
        pool: &[&Served],
        order: &[usize],
        wishes: &Wishes,
        received: Instant,
    ) -> Plan {
        let planned = |&index: &usize| PlannedArm {
            arm: Arc::clone(&pool[index].arm),
            deployments: pool[index].deployments.clone(),
            expected_cost: decided.expected[index].cost,
        };
        let alone = self.request.provider.allow_fallbacks == Some(false);
        let candidates = order
            .iter()
            .take(if alone { 1 } else { order.len() })
            .map(planned)
            .collect();
        let own = self.route.map_or(DIRECT_DEADLINE, |route| route.deadline);
        let routing = &self.request.routing;
        Plan {
            decision_id: Arc::clone(&decided.id),
            request: Arc::clone(self.request),
            candidates,
            deadline: received + wishes.deadline.unwrap_or(own),
            ttft_budget: wishes
                .ttft_budget
                .or(self.route.and_then(|route| route.ttft_budget)),
            hedge: HedgeRule {
                enabled: routing
                    .hedge
                    .unwrap_or(self.route.is_some_and(|route| route.hedge.enabled)),
                asked: routing.hedge == Some(true),
                max_rate: self
                    .route
                    .map_or(HedgeRule::default().max_rate, |route| route.hedge.max_rate),
            },
            max_cost: self.max_cost(),
            max_attempts: None,
            input_tokens: decided.input_tokens,
        }
    }

    /// The narrower of the request's limit and the route's.
    fn max_cost(&self) -> Option<Usd> {
        let own = self.request.routing.max_cost_usd;
        let route = self.route.and_then(|route| route.max_cost);
        own.into_iter().chain(route).min()
    }
}

/// The error for a request that no arm can take: it says why each cannot.
fn no_candidates(refused: &[Refused]) -> ApiError {
    let reasons: Vec<String> = refused
        .iter()
        .map(|(arm, reason)| format!("{arm}: {reason}"))
        .collect();
    let message = if reasons.is_empty() {
        "No model can take this request.".to_owned()
    } else {
        format!("No model can take this request. {}.", reasons.join("; "))
    };
    let list: Vec<_> = refused
        .iter()
        .map(|(arm, reason)| serde_json::json!({"model": arm.as_str(), "excluded": reason}))
        .collect();
    ApiError::new(FailureKind::NoCandidates, message).with("excluded", list)
}
