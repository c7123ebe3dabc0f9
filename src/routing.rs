//! The only composer of the pure rooms: prices each candidate for this very request, asks the policy, and orders
//! the fallbacks.

mod session;

use std::cmp::Ordering;
use std::sync::Arc;

use rand::RngCore;

use crate::arm::{Arm, ArmId};
use crate::completion::Usage;
use crate::context::Features;
use crate::policy::{self, CachedInput, Candidate, Contexts, Decision, Demands, Policy, Proposal, Round};
use crate::pricing::{Tariff, Units};
use crate::units::{UnixMs, Usd};

pub use session::{Prefix, Switch, stay, switches};

/// Tokens that an answer is taken to have while the arm's own length is not known.
const UNKNOWN_OUTPUT_TOKENS: f64 = 300.0;

/// What an arm of unknown price is taken to cost beside the dearest of known price. Never nothing.
const UNKNOWN_PRICE_FACTOR: f64 = 2.0;
/// The same, in dollars, when no price is known at all.
const UNKNOWN_PRICE_USD: f64 = 0.01;

/// An eligible arm, with what is known of its price and speed.
#[derive(Clone, Debug)]
pub struct Offer<'a> {
    /// The arm.
    pub arm: &'a Arc<Arm>,
    /// What it would be billed by now. `None`: the price is unknown.
    pub tariff: Option<Tariff<'a>>,
    /// Expected milliseconds to the answer that the objective counts; 0 for no latency term.
    pub latency_ms: f64,
    /// What the arm's provider is expected to bill besides text: our estimate of the input tokens on this arm.
    pub input_tokens: u64,
    /// Of those, what is expected to be read from the provider's prompt cache, and written to it.
    pub cached: CachedInput,
}

/// One request to route.
#[derive(Clone, Debug)]
pub struct Question<'a> {
    /// The route's name, whose objective and budget apply.
    pub route: &'a str,
    /// Feature views that are ready.
    pub contexts: Contexts<'a>,
    /// The prompt's category.
    pub category: Option<&'a str>,
    /// Eligible arms, never empty.
    pub offers: &'a [Offer<'a>],
    /// Images, pages and seconds of the request.
    pub units: Units,
    /// The client's limit on the answer.
    pub max_output_tokens: Option<u32>,
    /// The request's own wishes.
    pub demands: Demands,
}

/// A decision as the log and the learner need it. Shared, never changed.
#[derive(Clone, Debug)]
pub struct Decided {
    /// The decision's id.
    pub id: Arc<str>,
    /// When it was made.
    pub at: UnixMs,
    /// The route that decided; the arm's own id when the client named one.
    pub route: Arc<str>,
    /// What the prompt looks like.
    pub features: Features,
    /// The prompt's category.
    pub category: Option<Arc<str>>,
    /// The eligible arms.
    pub arms: Vec<ArmId>,
    /// What was expected of each.
    pub expected: Vec<Expected>,
    /// Milliseconds expected of each, as the objective counts them.
    pub latency_ms: Vec<f64>,
    /// What was drawn.
    pub decision: Decision,
    /// How it was made: the policy's word, `rule` before it, or `named` by the client.
    pub strategy: Arc<str>,
    /// Our estimate of the input tokens before any correction.
    pub input_tokens: u32,
    /// How it stands to the conversation that it goes on with.
    pub session: Option<Continued>,
}

/// A decision inside of a conversation that an arm has answered before.
#[derive(Clone, Debug, PartialEq)]
pub struct Continued {
    /// That arm.
    pub incumbent: ArmId,
    /// What changing to each arm gains and costs; `None` where it is the incumbent or a price is not known.
    pub switches: Vec<Option<Switch>>,
    /// Tokens of the prompt that the drawn arm has read a short time ago.
    pub prefix_tokens: u64,
    /// Another arm was drawn, and changing to it was not worth the lost prefix.
    pub held: bool,
}

impl Decided {
    /// The drawn arm.
    #[must_use]
    pub fn arm(&self) -> &ArmId {
        &self.arms[self.decision.chosen]
    }

    /// What was expected of the drawn arm.
    #[must_use]
    pub fn expected(&self) -> Expected {
        self.expected[self.decision.chosen]
    }

    /// The views that were ready.
    #[must_use]
    pub fn contexts(&self) -> Contexts<'_> {
        Contexts {
            text: (!self.features.text.is_empty()).then_some(&*self.features.text),
            embedding: self.features.embedding.as_deref(),
            words: self.features.words.buckets(),
        }
    }

    /// The round as the policy saw it, for the learner.
    pub fn with_round<T>(&self, learn: impl FnOnce(&Round<'_>) -> T) -> T {
        let candidates: Vec<Candidate<'_>> = self
            .arms
            .iter()
            .zip(&self.expected)
            .zip(&self.latency_ms)
            .map(|((arm, expected), &latency_ms)| Candidate {
                arm,
                cost_usd: expected.cost.dollars(),
                latency_ms,
            })
            .collect();
        learn(&Round {
            route: &self.route,
            contexts: self.contexts(),
            category: self.category.as_deref(),
            candidates: &candidates,
            demands: Demands::default(),
        })
    }
}

/// What a call on an arm is expected to use.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Expected {
    /// Dollars; a pessimistic stand-in when `priced` is false.
    pub cost: Usd,
    /// Whether the arm's price is known.
    pub priced: bool,
    /// Input tokens.
    pub input_tokens: u64,
    /// Of those: read from the provider's prompt cache.
    pub cached_tokens: u64,
    /// Output tokens.
    pub output_tokens: u64,
}

/// Lets the policy propose among the offers, whose [`estimate`] the caller has, mixes the exploration floor in and
/// draws.
pub fn decide(
    policy: &dyn Policy,
    question: &Question<'_>,
    expected: &[Expected],
    rng: &mut dyn RngCore,
) -> Decision {
    let candidates = candidates(question, expected);
    policy::decide(policy, &round(question, &candidates), rng)
}

/// What the policy proposes, without a draw.
#[must_use]
pub fn propose(policy: &dyn Policy, question: &Question<'_>, expected: &[Expected]) -> Proposal {
    let candidates = candidates(question, expected);
    policy.propose(&round(question, &candidates))
}

/// The best mix that looks at no prompt, where the policy knows one.
#[must_use]
pub fn blind(policy: &dyn Policy, question: &Question<'_>, expected: &[Expected]) -> Option<Proposal> {
    let candidates = candidates(question, expected);
    policy.blind(&round(question, &candidates))
}

/// What each offer is expected to use and to cost.
#[must_use]
pub fn estimate(policy: &dyn Policy, question: &Question<'_>) -> Vec<Expected> {
    let mut expected: Vec<Expected> = question
        .offers
        .iter()
        .map(|offer| {
            let limit = question
                .max_output_tokens
                .unwrap_or(u32::MAX)
                .min(offer.arm.max_output_tokens);
            let output = policy
                .output_tokens(&offer.arm.id, &question.contexts, question.category)
                .unwrap_or(UNKNOWN_OUTPUT_TOKENS);
            let output_tokens = (output.clamp(1.0, f64::from(limit.max(1)))).round() as u64;
            let usage = Usage {
                input: offer.input_tokens,
                cached_input: offer.cached.read,
                cache_write_5m: offer.cached.written,
                output: output_tokens,
                ..Usage::default()
            };
            Expected {
                cost: offer
                    .tariff
                    .map_or(Usd::ZERO, |tariff| tariff.cost(&usage, &question.units)),
                priced: offer.tariff.is_some(),
                input_tokens: offer.input_tokens,
                cached_tokens: offer.cached.read,
                output_tokens,
            }
        })
        .collect();
    let dearest = expected
        .iter()
        .filter(|expected| expected.priced)
        .map(|expected| expected.cost)
        .max();
    let stand_in = dearest
        .and_then(|cost| Usd::from_dollars(cost.dollars() * UNKNOWN_PRICE_FACTOR))
        .or_else(|| Usd::from_dollars(UNKNOWN_PRICE_USD))
        .unwrap_or(Usd::MAX);
    expected
        .iter_mut()
        .filter(|expected| !expected.priced)
        .for_each(|expected| expected.cost = stand_in);
    expected
}

fn candidates<'a>(question: &'a Question<'_>, expected: &[Expected]) -> Vec<Candidate<'a>> {
    question
        .offers
        .iter()
        .zip(expected)
        .map(|(offer, expected)| Candidate {
            arm: &offer.arm.id,
            cost_usd: expected.cost.dollars(),
            latency_ms: offer.latency_ms,
        })
        .collect()
}

fn round<'a>(question: &'a Question<'_>, candidates: &'a [Candidate<'a>]) -> Round<'a> {
    Round {
        route: question.route,
        contexts: question.contexts,
        category: question.category,
        candidates,
        demands: question.demands,
    }
}

/// Quality points below the drawn arm's expected quality down to which another is as good a stand-in as any.
const AS_GOOD: f64 = 0.05;

/// The order in which arms are tried: the drawn one, then those that the client or the route names, in their
/// order, then those about as good as the drawn one by the policy's own value, then the rest, the best first. Where the
/// cheapest arm is believed the best, a dollar has no limit to its price, and by value alone its stand-in would be the
/// next cheapest, however bad. Indices into the offers.
#[must_use]
pub fn order(decision: &Decision, offers: &[Offer<'_>], preferred: &[ArmId]) -> Vec<usize> {
    let mut rest: Vec<usize> = (0..offers.len())
        .filter(|&index| index != decision.chosen)
        .collect();
    let rank = |index: usize| {
        preferred
            .iter()
            .position(|arm| *arm == offers[index].arm.id)
            .unwrap_or(preferred.len())
    };
    let score = |index: usize| decision.scores.get(index).copied().unwrap_or_default();
    let least = score(decision.chosen).mean - AS_GOOD;
    let worth = |index: usize| {
        let score = score(index);
        let as_good = score.mean >= least;
        (as_good, if as_good { score.value } else { score.mean })
    };
    rest.sort_by(|&a, &b| {
        rank(a)
            .cmp(&rank(b))
            .then(worth(b).partial_cmp(&worth(a)).unwrap_or(Ordering::Equal))
            .then(a.cmp(&b))
    });
    let mut order = Vec::with_capacity(offers.len());
    order.push(decision.chosen);
    order.extend(rest);
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arm::Modalities;
    use crate::policy::{ArmScore, Strategy};
    use crate::pricing::{PartialRates, Price, PriceSpec};
    use crate::units::{UnixMs, UsdPerMtok};

    fn arm(id: &str) -> Arc<Arm> {
        Arc::new(Arm {
            id: ArmId::new(id),
            upstream: id.into(),
            family: "f".into(),
            context_window: 1000,
            max_output_tokens: 100,
            modalities: Modalities::TEXT,
            tools: true,
            structured_output: true,
        })
    }

    fn price(input: f64, output: f64) -> Price {
        let rates = PartialRates {
            input: UsdPerMtok::from_dollars(input),
            output: UsdPerMtok::from_dollars(output),
            ..PartialRates::default()
        };
        Price::new(PriceSpec {
            rates,
            ..PriceSpec::default()
        })
        .unwrap()
    }

    fn question<'a>(offers: &'a [Offer<'a>]) -> Question<'a> {
        Question {
            route: "auto",
            contexts: Contexts::default(),
            category: None,
            offers,
            units: Units::default(),
            max_output_tokens: None,
            demands: Demands::default(),
        }
    }

    #[test]
    fn an_unknown_price_is_dearer_than_the_dearest_known_one() {
        let (known, unknown) = (arm("a/known"), arm("b/unknown"));
        let price = price(1.0, 2.0);
        let offers = [
            Offer {
                arm: &known,
                tariff: Some(price.at(UnixMs(0))),
                latency_ms: 0.0,
                input_tokens: 1000,
                cached: CachedInput::default(),
            },
            Offer {
                arm: &unknown,
                tariff: None,
                latency_ms: 0.0,
                input_tokens: 1000,
                cached: CachedInput::default(),
            },
        ];
        let expected = estimate(&crate::policy::simple::Random, &question(&offers));
        // 1000 tokens at $1 and 100 (the arm's limit) at $2 per million.
        assert_eq!(expected[0].cost, Usd::from_nanos(1_200_000));
        assert_eq!(
            (expected[1].cost, expected[1].priced),
            (Usd::from_nanos(2_400_000), false)
        );
    }

    /// The order among arms `a/0`, `a/1`... of these (expected quality, value), after the one at `chosen` was drawn.
    fn ordered(chosen: usize, scores: &[(f64, f64)], preferred: &[ArmId]) -> Vec<usize> {
        let arms: Vec<_> = (0..scores.len())
            .map(|place| arm(&format!("a/{place}")))
            .collect();
        let offers: Vec<Offer<'_>> = arms
            .iter()
            .map(|arm| Offer {
                arm,
                tariff: None,
                latency_ms: 0.0,
                input_tokens: 1,
                cached: CachedInput::default(),
            })
            .collect();
        let score = |&(mean, value): &(f64, f64)| ArmScore {
            mean,
            value,
            ..ArmScore::default()
        };
        let decision = Decision {
            chosen,
            propensity: 1.0,
            explored: false,
            pmf: (0..scores.len())
                .map(|place| f64::from(u8::from(place == chosen)))
                .collect(),
            scores: scores.iter().map(score).collect(),
            lambda: 0.0,
            strategy: Strategy::Contextual,
        };
        order(&decision, &offers, preferred)
    }

    #[test]
    fn named_fallbacks_come_before_the_policys_own_ranking() {
        let scores = [0.1, 0.9, 0.5, 0.3].map(|value| (0.0, value));
        assert_eq!(ordered(2, &scores, &[]), [2, 1, 3, 0]);
        assert_eq!(ordered(2, &scores, &[ArmId::new("a/0")]), [2, 0, 1, 3]);
    }

    #[test]
    fn a_stand_in_is_about_as_good_as_who_was_drawn_before_it_is_cheap() {
        // The price of a dollar is so high that value is cost alone.
        let scores = [
            (0.70, -1.0),
            (0.50, -2.0),
            (0.66, -3.0),
            (0.72, -9.0),
            (0.60, -4.0),
        ];
        // 0.66 and 0.72 are within 0.05 of 0.70 or above, the cheaper first; then 0.60 before 0.50.
        assert_eq!(ordered(0, &scores, &[]), [0, 2, 3, 4, 1]);
    }
}
