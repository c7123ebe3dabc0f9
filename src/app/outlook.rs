//! What looking at a request before it is sent comes to: what it holds, what it may cost, what the look saved.

use std::time::Duration;

use serde_json::{Value, json};

use crate::content::ContentFacts;
use crate::policy::Policy;
use crate::pricing::{ContentKind, Corrections, CostEstimate, TokenEstimate};
use crate::routing::{Expected, Question};
use crate::units::Usd;

/// Standard deviation of the logarithm of an answer's length while nothing is learned of it: nine of ten answers are
/// within a factor of three and a half.
const UNKNOWN_SPREAD: f64 = 1.0;

/// The look at one request.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// How long it took.
    pub took: Duration,
    /// What the request mostly holds, for the drawn arm.
    pub kind: ContentKind,
    /// What the drawn arm is expected to cost less than the dearest that could have served.
    pub saved: Usd,
    /// Arms left out because they could not have taken it.
    pub unable: usize,
}

/// What the chosen one is expected to cost less than the dearest of known price. 0 when its own price is not known.
#[must_use]
pub fn saved(expected: &[Expected], chosen: usize) -> Usd {
    let Some(own) = expected.get(chosen).filter(|own| own.priced) else {
        return Usd::ZERO;
    };
    let dearest = expected
        .iter()
        .filter(|other| other.priced)
        .map(|other| other.cost)
        .max();
    dearest.map_or(Usd::ZERO, |dearest| dearest - own.cost)
}

/// The estimates of one candidate with the intervals that hold about eight of ten calls.
#[derive(Clone, Copy, Debug)]
struct Forecast {
    input: TokenEstimate,
    output: TokenEstimate,
    /// `None`: the price is unknown.
    cost: Option<CostEstimate>,
}

/// What is known of a request before it is sent, for `/v1/route`.
#[derive(Clone, Debug)]
pub struct Outlook {
    content: ContentFacts,
    forecasts: Vec<Forecast>,
}

impl Outlook {
    /// The forecasts of a question's offers, in their order.
    #[must_use]
    pub fn of(
        policy: &dyn Policy,
        question: &Question<'_>,
        expected: &[Expected],
        corrections: &Corrections,
        content: &ContentFacts,
    ) -> Self {
        let forecasts = question.offers.iter().zip(expected).map(|(offer, expected)| {
            let limit = question.max_output_tokens.unwrap_or(u32::MAX);
            let most = f64::from(limit.min(offer.arm.max_output_tokens));
            let spread = policy.output_spread(&offer.arm.id).unwrap_or(UNKNOWN_SPREAD);
            let input = corrections.input_tokens(offer.arm, content);
            let output = TokenEstimate::log_normal(expected.output_tokens as f64, spread).at_most(most);
            Forecast {
                input,
                output,
                cost: offer
                    .tariff
                    .map(|tariff| tariff.estimate(&input, expected.cached_tokens, &output, &question.units)),
            }
        });
        Self {
            content: content.clone(),
            forecasts: forecasts.collect(),
        }
    }

    /// Adds what the request holds, and to each of the answer's candidates its intervals.
    pub fn explain(&self, look: &Look, answer: &mut Value) {
        answer["content"] = serde_json::to_value(&self.content).unwrap_or_default();
        answer["look"] = json!({
            "took_us": u64::try_from(look.took.as_micros()).unwrap_or(u64::MAX),
            "counted_as": look.kind,
            "left_out": look.unable,
            "saved_usd": look.saved.dollars(),
        });
        let candidates = answer["candidates"].as_array_mut();
        for (candidate, forecast) in candidates.into_iter().flatten().zip(&self.forecasts) {
            let tokens = |estimate: &TokenEstimate| json!([estimate.low.round(), estimate.high.round()]);
            candidate["interval"] = json!({
                "input_tokens": tokens(&forecast.input),
                "output_tokens": tokens(&forecast.output),
                "cost_usd": forecast.cost.map(|cost| [cost.low, cost.high]),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_saving_is_against_the_dearest_of_known_price() {
        let expected = |nanos, priced| Expected {
            cost: Usd::from_nanos(nanos),
            priced,
            input_tokens: 1,
            cached_tokens: 0,
            output_tokens: 1,
        };
        let all = [expected(10, true), expected(90, true), expected(500, false)];
        assert_eq!(saved(&all, 0), Usd::from_nanos(80));
        assert_eq!(saved(&all, 1), Usd::ZERO);
        assert_eq!(saved(&all, 2), Usd::ZERO, "an unknown price saves nothing");
    }
}
