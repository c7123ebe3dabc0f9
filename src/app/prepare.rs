//! From a request to a decision that can be carried out: what it names, what it holds, who can take it, what that
//! would cost, and who is drawn. Nothing is called and nothing is logged here.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::HeaderMap;
use uuid::Uuid;

use crate::app::enrol::Traits;
use crate::app::features::Looked;
use crate::app::former::{Former, FormerLook};
use crate::app::late::Late;
use crate::app::live::{Live, Served, Target};
use crate::app::outlook::{Look, Outlook, saved};
use crate::app::pending::Account;
use crate::app::sessions::{self, Conversation};
use crate::app::variants::{Choosing, Formerly};
use crate::app::{App, Parts, enrol, money, purpose};
use crate::arm::{Arm, ArmId};
use crate::candidates::{self, Demand, Filtered, ListPrice, Means, Refusal, Rule, Seen};
use crate::clock;
use crate::config::Route;
use crate::content::ContentFacts;
use crate::context::Features;
use crate::dispatch::{HedgeRule, Plan, PlannedArm};
use crate::experiments::{Enrolment, FORMER, Table, Unit, Variant};
use crate::failure::FailureKind;
use crate::features::content;
use crate::policy::simple::Fixed;
use crate::policy::{self, Contexts, Decision, Demands, Policy};
use crate::pricing::budget::Standing;
use crate::pricing::{self, ContentKind, Corrections, Units};
use crate::request::ChatRequest;
use crate::routing::{self, Decided, Expected, Offer, Question};
use crate::server::auth::Client;
use crate::server::error::ApiError;
use crate::server::explain::Refused;
use crate::server::models;
use crate::telemetry;
use crate::units::{UnixMs, Usd};

/// Time budget of a request that names a model itself.
const DIRECT_DEADLINE: Duration = Duration::from_secs(600);
/// Why an arm is no candidate that a finished experiment left out.
const RULED_OUT: &str = "left out by what an experiment came to; see /v1/experiments";
/// The same, of one whose place another took.
const REPLACED: &str =
    "its place was taken by what an experiment came to; it answers when others fail; see /v1/experiments";
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
    /// The request's headers, for rules that look at them.
    pub headers: Vec<(String, String)>,
    /// Whether the estimates are wanted with their intervals.
    pub outlook: bool,
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
        let tagged = || {
            let tag = |name: &&str| request.metadata.iter().find(|(key, _)| key == name);
            SESSION_TAGS.iter().find_map(tag).map(|(_, value)| value.as_str())
        };
        let session = request.session_id.as_deref().or_else(|| {
            SESSION_HEADERS
                .iter()
                .find_map(|name| text(name))
                .or_else(tagged)
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
            headers: headers_for_rules(headers),
            outlook: false,
        })
    }
}

/// Headers of our own name, which rules may look at. Others (keys among them) are none of their business.
fn headers_for_rules(headers: &HeaderMap) -> Vec<(String, String)> {
    let ours = headers.iter().filter(|(name, _)| name.as_str().starts_with("x-"));
    ours.filter(|(name, _)| name.as_str() != "x-api-key")
        .filter_map(|(name, value)| Some((name.to_string(), value.to_str().ok()?.to_owned())))
        .collect()
}

/// Where clients put the id of a conversation when not into the body.
const SESSION_HEADERS: [&str; 5] = [
    "x-session-id",
    "x-conversation-id",
    "x-claude-code-session-id",
    "x-litellm-session-id",
    "helicone-session-id",
];

/// The same, in the body's `metadata`.
const SESSION_TAGS: [&str; 3] = ["session_id", "conversation_id", "thread_id"];

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
    /// Its place in that experiment, for the log.
    pub enrolment: Option<Enrolment>,
    /// The episode or session it belongs to.
    pub episode: Option<Arc<str>>,
    /// What the look at its content came to.
    pub look: Look,
    /// Its estimates with their intervals, when they are wanted.
    pub outlook: Option<Outlook>,
    /// The embedding that did not come in time.
    pub late: Option<Late>,
}

/// Decides.
///
/// # Errors
/// An unknown model, content that nobody could take, a request that no arm can or may take.
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
    purpose::check(target, request)?;
    let looking = clock::monotonic();
    let content = content::look(request);
    let took = clock::monotonic().saturating_duration_since(looking);
    if let Some(broken) = content.broken.first() {
        return Err(ApiError::invalid(
            format!("`{}` {}.", broken.path, broken.reason),
            Some(&broken.path),
        ));
    }
    let looking_at = app.features.load_full();
    let Looked {
        features,
        category,
        late,
    } = looking_at.look(request).await;
    let category = request.routing.category.as_deref().map(Arc::from).or(category);
    let route = match target {
        Target::Route(route) => Some(route),
        Target::Arm(_) => None,
    };
    let decider = app.learner.decider();
    let policy = &decider.policy;
    // While other features are taken up, a request may have been looked at through the ones before.
    let features = decider.versions.only(features);
    let corrections = app.learner.corrections();
    let named = route.map_or(request.model.as_str(), |route| route.name.as_str());
    let conversation = app
        .sessions
        .look(request, wishes, live.config.sessions.warm, clock::wall());
    let standing = money::standing(app, request, wishes, named, clock::wall())?;
    let mut asked = Asked {
        standing,
        app,
        live: &live,
        request,
        route,
        now: clock::wall(),
        content: &content,
        features: &features,
        category: category.as_deref(),
        policy: &**policy,
        conversation: conversation.as_ref(),
        corrections: &corrections,
        former: None,
    };
    let rule = asked.rule(wishes);
    let table = app.desk.table();
    let routed = route.filter(|_| rule.is_none()).map(|route| route.name.as_str());
    let concerned = routed.filter(|_| !table.is_empty());
    let Pool {
        served: pool,
        own,
        listed,
        guests,
    } = asked.pool(target, rule, concerned.map(|route| (route, &*table)));
    let offers: Vec<Offer<'_>> = pool.iter().map(|served| asked.offer(served)).collect();
    let expected = routing::estimate(&**policy, &asked.question(&offers));
    let filtered = asked.filter(&pool, &offers, &expected);
    // The policy draws among the route's own models; fallbacks are asked only if none of those can.
    let among = |index: &usize| *index < own;
    let mut drawn: Vec<usize> = filtered.eligible.iter().copied().filter(among).collect();
    let mut spare: Vec<usize> = filtered
        .eligible
        .iter()
        .copied()
        .filter(|index| !among(index) && *index < listed)
        .collect();
    let guests: Vec<usize> = guests
        .into_iter()
        .filter(|index| filtered.eligible.contains(index))
        .collect();
    if drawn.is_empty() {
        drawn.append(&mut spare);
    }
    asked.keep_first_provider(&mut drawn, &mut spare, &pool, &expected);
    let too_long = is_too_long(&filtered.refused);
    let unable = filtered
        .refused
        .iter()
        .filter(|refused| refused.reason.is_inability())
        .count();
    let mut refused: Vec<Refused> = filtered
        .refused
        .into_iter()
        .map(|r| (r.arm, r.reason.to_string()))
        .chain(asked.unknown())
        .collect();
    if drawn.is_empty() {
        let cheapest = expected
            .iter()
            .filter(|expected| expected.priced)
            .map(|expected| expected.cost)
            .min();
        let spent = cheapest
            .filter(|&cheapest| asked.standing.most.is_some_and(|most| cheapest > most))
            .and_then(|cheapest| money::too_little(app, request, wishes, named, cheapest));
        return Err(spent.unwrap_or_else(|| no_candidates(&refused, too_long)));
    }
    let id: Arc<str> = Arc::from(&*app.new_id().simple().encode_lower(&mut Uuid::encode_buffer()));
    let mut enrolment = concerned.and_then(|route| {
        let unit = Unit {
            request: &id,
            user: request.user.as_deref(),
            session: wishes.session.as_deref(),
        };
        let arms: Vec<&Arm> = drawn
            .iter()
            .chain(&guests)
            .map(|&index| &*pool[index].arm)
            .collect();
        enrol::enrol(&table, &unit, route, category.as_deref(), &arms, &asked.demands())
    });
    if let Some(route) = concerned {
        let arm = |index: usize| &*pool[index].arm;
        let invited = enrol::invited(
            &table,
            route,
            category.as_deref(),
            &guests,
            arm,
            enrolment.as_ref(),
        );
        spare.retain(|index| !invited.contains(index));
        drawn.extend(invited);
        let left = enrol::left(
            &table,
            route,
            category.as_deref(),
            &drawn,
            arm,
            enrolment.as_ref(),
        );
        for &index in drawn.iter().filter(|index| !left.contains(index)) {
            let stands_in = enrol::stands_in(&table, route, category.as_deref(), arm(index));
            if stands_in {
                spare.push(index);
            }
            let why = if stands_in { REPLACED } else { RULED_OUT };
            refused.push((arm(index).id.clone(), why.to_owned()));
        }
        drawn = left;
    }
    let options: Vec<Offer<'_>> = drawn.iter().map(|&index| offers[index].clone()).collect();
    let estimates: Vec<Expected> = drawn.iter().map(|&index| expected[index]).collect();
    let way = concerned.and_then(|route| table.way(route, category.as_deref()));
    if by_former(enrolment.as_ref(), way)
        && let Some(former) = app.former.load_full()
    {
        let look = former.look(request, &looking_at).await;
        asked.former = Some((former, look));
    }
    let settled = enrolment
        .as_mut()
        .and_then(|enrolment| asked.settle(enrolment, &options, &estimates, wishes));
    if settled.is_none() {
        enrolment = None;
    }
    let mut decision = settled.unwrap_or_else(|| asked.choose(&options, &estimates, way));
    let session = conversation.as_ref().and_then(|conversation| {
        let hold = route.filter(|_| enrolment.is_none());
        sessions::go_on(
            conversation,
            hold,
            &request.routing,
            &mut decision,
            &options,
            &estimates,
        )
    });
    let arm = options[decision.chosen].arm;
    let raw = pricing::raw_input_tokens(arm, &content);
    let look = Look {
        took,
        kind: ContentKind::of(arm, &content),
        saved: saved(&estimates, decision.chosen),
        unable,
    };
    let outlook = wishes.outlook.then(|| {
        Outlook::of(
            &**policy,
            &asked.question(&options),
            &estimates,
            &corrections,
            &content,
        )
    });
    let decided = Arc::new(Decided {
        id,
        at: asked.now,
        route: Arc::from(named),
        category: category.clone(),
        arms: options.iter().map(|offer| offer.arm.id.clone()).collect(),
        latency_ms: options.iter().map(|offer| offer.latency_ms).collect(),
        expected: estimates,
        strategy: match &enrolment {
            Some(_) => Arc::from("experiment"),
            None if session.as_ref().is_some_and(|session| session.held) => Arc::from("session"),
            None => asked.strategy(&decision, rule),
        },
        input_tokens: u32::try_from(raw).unwrap_or(u32::MAX),
        decision,
        features: features.clone(),
        session,
    });
    let order = routing::order(&decided.decision, &options, &asked.preferred());
    let (order, fixed) = asked.with_spare(
        &order.iter().map(|&index| drawn[index]).collect::<Vec<_>>(),
        &spare,
        &pool,
    );
    let plan = Plan {
        fixed,
        ..asked.plan(&decided, &pool, &expected, &order, wishes, received)
    };
    let account = app
        .pending
        .open(Arc::clone(&decided), pricing::units(&content), Arc::clone(&live));
    if let Some(conversation) = &conversation {
        account.ledger().note(conversation.place);
    }
    Ok(Prepared {
        plan,
        refused,
        account,
        experiment: enrolment.as_ref().map(|enrolment| Arc::from(enrolment.header())),
        enrolment,
        episode: request
            .routing
            .episode_id
            .as_deref()
            .map(Arc::from)
            .or_else(|| wishes.session.clone()),
        look,
        outlook,
        late,
        decided,
    })
}

/// Whether an arm of the request's experiment, or the way that one has shipped, goes by the former features.
fn by_former(enrolment: Option<&Enrolment>, way: Option<&Variant>) -> bool {
    let former = |variant: &Variant| matches!(variant, Variant::Features(view) if view == FORMER);
    enrolment.is_some_and(|enrolment| enrolment.variants.iter().any(former)) || way.is_some_and(former)
}

/// Every arm that may serve a request.
struct Pool<'a> {
    served: Vec<&'a Served>,
    /// So many of the first may be drawn by the policy.
    own: usize,
    /// So many of the first were named by the route, the rule or the client.
    listed: usize,
    /// Places of those that may be drawn for the sake of an experiment only.
    guests: Vec<usize>,
}

/// One request with what it is decided by.
struct Asked<'a> {
    app: &'a Parts,
    live: &'a Live,
    request: &'a Arc<ChatRequest>,
    route: Option<&'a Route>,
    now: UnixMs,
    content: &'a ContentFacts,
    features: &'a Features,
    category: Option<&'a str>,
    policy: &'a dyn Policy,
    corrections: &'a Corrections,
    standing: Standing,
    /// The conversation that it goes on with, if it names one.
    conversation: Option<&'a Conversation>,
    /// What the former features saw, where an experiment asks for them.
    former: Option<(Arc<Former>, FormerLook)>,
}

impl<'a> Asked<'a> {
    /// The first rule of the route that matches.
    fn rule(&self, wishes: &Wishes) -> Option<&'a Rule> {
        let route = self.route?;
        Rule::first(
            &route.rules,
            &Seen {
                modalities: self.content.modalities,
                category: self.category,
                input_tokens: self.content.text.tokens,
                tools: self.content.tools > 0,
                structured_output: self.content.structured_output,
                code: self.content.code,
                language: self.content.language,
                headers: &wishes.headers,
                tags: &self.request.metadata,
            },
        )
    }

    /// Every arm that may serve: the rule's models, else the route's, else the one that the client names; then the
    /// fallbacks; then what only experiments of the route name.
    fn pool(&self, target: Target<'a>, rule: Option<&'a Rule>, trials: Option<(&str, &Table)>) -> Pool<'a> {
        let mut pool: Vec<&Served> = match (target, rule) {
            (Target::Arm(served), _) => vec![served],
            (Target::Route(_), Some(rule)) => rule.models.iter().filter_map(|id| self.live.arm(id)).collect(),
            (Target::Route(route), None) => route.models.iter().filter_map(|id| self.live.arm(id)).collect(),
        };
        let own = pool.len();
        for id in self.preferred() {
            if let Some(served) = self.live.arm(&id)
                && pool.iter().all(|other| other.arm.id != id)
            {
                pool.push(served);
            }
        }
        let listed = pool.len();
        let mut guests = Vec::new();
        // Who orders providers is given them in this order.
        let trials = trials.filter(|_| self.request.provider.order.is_empty());
        for id in trials.into_iter().flat_map(|(route, table)| table.models(route)) {
            let Some(served) = self.live.arm(id) else { continue };
            let place = pool.iter().position(|other| other.arm.id == *id);
            let place = place.unwrap_or_else(|| {
                pool.push(served);
                pool.len() - 1
            });
            if place >= own && !guests.contains(&place) {
                guests.push(place);
            }
        }
        Pool {
            served: pool,
            own,
            listed,
            guests,
        }
    }

    fn offer(&self, served: &'a Served) -> Offer<'a> {
        let input_tokens = self.corrections.expected_input(&served.arm, self.content);
        let question = telemetry::Question {
            arm: &served.arm.id,
            provider: None,
            stream: self.request.stream,
            size: telemetry::InputSize::of(u32::try_from(input_tokens).unwrap_or(u32::MAX)),
        };
        let view = self.app.telemetry.view();
        let latency = view.latency(&question, LATENCY_SAMPLES);
        let median = latency.and_then(|latency| latency.wait(self.request.stream).quantile(0.5));
        Offer {
            arm: &served.arm,
            tariff: self.live.config.prices.at(&served.arm.id, self.now),
            latency_ms: median.map_or(0.0, |quantile| quantile.value_ms),
            cached: self.policy.cached_input(
                &served.arm.id,
                input_tokens,
                self.conversation
                    .map_or(0, |conversation| conversation.warm(&served.arm.id)),
            ),
            input_tokens,
        }
    }

    fn question<'q>(&'q self, offers: &'q [Offer<'q>]) -> Question<'q> {
        Question {
            route: self.route.map_or("", |route| &route.name),
            contexts: Contexts {
                text: Some(&self.features.text),
                embedding: self.features.embedding.as_deref(),
            },
            category: self.category,
            offers,
            units: pricing::units(self.content),
            max_output_tokens: self.request.max_output_tokens,
            demands: self.demands(),
        }
    }

    fn demands(&self) -> Demands {
        let routing = &self.request.routing;
        Demands {
            quality_floor: routing.quality_floor,
            quality_margin: routing.quality_margin,
            confidence: None,
            explore: routing.explore.unwrap_or(true),
            target_usd: self.standing.target.map(Usd::dollars),
        }
    }

    /// Which arms can and may take the request.
    fn filter(&self, pool: &[&'a Served], offers: &[Offer<'_>], expected: &[Expected]) -> Filtered {
        let means: Vec<Means<'_>> = pool
            .iter()
            .zip(offers)
            .zip(expected)
            .map(|((served, offer), expected)| Means {
                arm: &served.arm,
                openai_shaped: served.openai_shaped,
                input_tokens: offer.input_tokens,
                list: offer.tariff.map(|tariff| {
                    let rates = tariff.price().rates(offer.input_tokens);
                    let factor = tariff.multiplier().factor();
                    ListPrice {
                        prompt: rates.input.dollars() * factor,
                        completion: rates.output.dollars() * factor,
                        request: tariff.fees(&Units::default()).dollars(),
                    }
                }),
                cost: expected.priced.then_some(expected.cost),
            })
            .collect();
        let demand = Demand {
            content: self.content,
            foreign_tools: !self.request.other_tools.is_empty(),
            max_output_tokens: self.request.max_output_tokens,
            preferences: &self.request.provider,
            max_cost: self.max_cost(),
            under_budget: self.standing.under_budget(),
            room: self.standing.room,
            allowed: None,
        };
        candidates::filter(&demand, &means)
    }

    /// Asks the policy, or goes the way that an experiment has shipped; a model that the client names itself is
    /// certain.
    fn choose(&self, offers: &[Offer<'_>], expected: &[Expected], way: Option<&Variant>) -> Decision {
        let fixed;
        let policy: &dyn Policy = match self.route {
            Some(_) => self.policy,
            None => {
                fixed = Fixed::new(offers[0].arm.id.clone());
                &fixed
            }
        };
        let question = self.question(offers);
        if let Some(way) = way {
            let choosing = Choosing {
                policy,
                question: &question,
                expected,
                former: self.formerly(),
            };
            let base = choosing.propose();
            let proposal = choosing.by(way, &base).unwrap_or(base);
            return self.app.draw(|rng| policy::draw(proposal, rng));
        }
        self.app
            .draw(|rng| routing::decide(policy, &question, expected, rng))
    }

    fn formerly(&self) -> Option<Formerly<'_>> {
        let (former, look) = self.former.as_ref()?;
        Some(Formerly {
            policy: former.policy(self.policy),
            contexts: look.contexts(),
            category: self.request.routing.category.as_deref().or(Some(&*look.category)),
        })
    }

    /// The decision of the experiment that the request is in; `None` if it cannot be made.
    fn settle(
        &self,
        enrolment: &mut Enrolment,
        offers: &[Offer<'_>],
        expected: &[Expected],
        wishes: &Wishes,
    ) -> Option<Decision> {
        let question = self.question(offers);
        let choosing = Choosing {
            policy: self.policy,
            question: &question,
            expected,
            former: self.formerly(),
        };
        let tenant = (!self.live.keys.is_open()).then_some(&*wishes.client.0);
        let traits = Traits {
            input_tokens: offers.first().map_or(0, |offer| offer.input_tokens),
            category: self.category,
            language: self.content.language,
            tenant,
        };
        self.app
            .draw(|rng| enrol::settle(enrolment, &choosing, &traits, rng))
    }

    fn strategy(&self, decision: &Decision, rule: Option<&Rule>) -> Arc<str> {
        Arc::from(match (self.route, rule) {
            (None, _) => "named",
            (Some(_), Some(_)) if decision.pmf.len() == 1 => "rule",
            _ => decision.strategy.as_str(),
        })
    }

    /// Fallbacks that the client names come first, then the route's.
    fn preferred(&self) -> Vec<ArmId> {
        let route = self
            .route
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

    /// Fallbacks of the client that nobody here knows: worth a word, but no reason to fail what another can answer.
    fn unknown(&self) -> impl Iterator<Item = Refused> {
        let fallbacks = self.request.fallbacks.iter();
        fallbacks
            .filter(|id| !matches!(self.live.resolve(id.as_str()), Some(Target::Arm(_))))
            .map(|id| (id.clone(), "is not a model of this router".to_owned()))
    }

    /// The place of an arm's provider in the client's `provider.order`; the last for those it does not name.
    fn provider_rank(&self, served: &Served) -> usize {
        let order = &self.request.provider.order;
        let provider = served.arm.id.provider();
        order
            .iter()
            .position(|name| name.eq_ignore_ascii_case(provider))
            .unwrap_or(order.len())
    }

    /// A client that orders providers has the first of them that can serve asked first: the policy draws among its
    /// models only, and the others' wait behind them, the cheapest first where the order is silent.
    fn keep_first_provider(
        &self,
        drawn: &mut Vec<usize>,
        spare: &mut Vec<usize>,
        pool: &[&Served],
        expected: &[Expected],
    ) {
        if self.request.provider.order.is_empty() {
            return;
        }
        let rank = |index: &usize| self.provider_rank(pool[*index]);
        let Some(first) = drawn.iter().map(rank).min() else {
            return;
        };
        let (kept, mut later): (Vec<usize>, Vec<usize>) =
            drawn.iter().partition(|index| rank(index) == first);
        later.append(spare);
        later.sort_by_key(|index| (rank(index), expected[*index].cost));
        (*drawn, *spare) = (kept, later);
    }

    /// The order in which arms are tried: the drawn one, the named fallbacks in their order, then the others, by
    /// the client's order of providers if there is one. With it, how many of them were asked for by name.
    fn with_spare(&self, order: &[usize], spare: &[usize], pool: &[&Served]) -> (Vec<usize>, usize) {
        let preferred = self.preferred();
        let rank = |&index: &usize| {
            preferred
                .iter()
                .position(|arm| *arm == pool[index].arm.id)
                .unwrap_or(preferred.len())
        };
        let mut rest: Vec<usize> = order.iter().skip(1).chain(spare).copied().collect();
        // A stable sort: those without a rank keep the policy's order.
        rest.sort_by_key(|index| (rank(index), self.provider_rank(pool[*index])));
        let named = |index: &&usize| {
            rank(index) < preferred.len()
                || self.provider_rank(pool[**index]) < self.request.provider.order.len()
        };
        let fixed = 1 + rest.iter().take_while(named).count();
        (order.iter().take(1).copied().chain(rest).collect(), fixed)
    }

    fn plan(
        &self,
        decided: &Arc<Decided>,
        pool: &[&Served],
        expected: &[Expected],
        order: &[usize],
        wishes: &Wishes,
        received: Instant,
    ) -> Plan {
        let planned = |&index: &usize| PlannedArm {
            arm: Arc::clone(&pool[index].arm),
            deployments: pool[index].deployments.clone(),
            expected_cost: expected[index].cost,
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
            fixed: 1,
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
            history: self
                .conversation
                .and_then(|conversation| conversation.incumbent.clone()),
        }
    }

    /// The narrowest of the request's limit, the route's and what is left of budgets that refuse.
    fn max_cost(&self) -> Option<Usd> {
        let own = self.request.routing.max_cost_usd;
        let route = self.route.and_then(|route| route.max_cost);
        own.into_iter().chain(route).chain(self.standing.most).min()
    }
}

/// Whether the prompt's length is why no arm that may take the request can.
fn is_too_long(refused: &[candidates::Refused]) -> bool {
    let may = |refused: &&candidates::Refused| !matches!(refused.reason, Refusal::Provider | Refusal::Rule);
    let is_length = |refused: &candidates::Refused| matches!(refused.reason, Refusal::ContextWindow { .. });
    refused.iter().any(is_length) && refused.iter().filter(may).all(is_length)
}

/// The error for a request that no arm can take: it says why each cannot. Sent again it fails again.
fn no_candidates(refused: &[Refused], too_long: bool) -> ApiError {
    let reasons: Vec<String> = refused
        .iter()
        .map(|(arm, reason)| format!("{arm}: {reason}"))
        .collect();
    let (kind, sentence) = if too_long {
        (
            FailureKind::ContextLengthExceeded,
            "The prompt is too long for every model.",
        )
    } else {
        (FailureKind::NoCandidates, "No model can take this request.")
    };
    let message = if reasons.is_empty() {
        sentence.to_owned()
    } else {
        format!("{sentence} {}.", reasons.join("; "))
    };
    let list: Vec<_> = refused
        .iter()
        .map(|(arm, reason)| serde_json::json!({"model": arm.as_str(), "excluded": reason}))
        .collect();
    ApiError::new(kind, message)
        .with("excluded", list)
        .with("retryable", false)
}
