//! Before the call: tokens and cost, each with an interval, corrected by what was learned.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::media::media_tokens;
use super::{Tariff, Units};
use crate::arm::{Arm, ArmId};
use crate::completion::Usage;
use crate::content::{ContentFacts, TextClass};
use crate::units::Usd;

/// A number of tokens with the interval that holds it in about eight of ten calls.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct TokenEstimate {
    /// Expected.
    pub expected: f64,
    /// Rarely fewer.
    pub low: f64,
    /// Rarely more.
    pub high: f64,
}

impl TokenEstimate {
    /// Log-normal with the mean `expected` and the standard deviation `spread` of the logarithm, whose median lies
    /// at `expected` exp(−spread² / 2).
    #[must_use]
    pub fn log_normal(expected: f64, spread: f64) -> Self {
        /// The 90th percentile of the standard normal distribution.
        const Z: f64 = 1.281_552;
        let median = expected * (-0.5 * spread * spread).exp();
        let factor = (Z * spread).exp();
        Self {
            expected,
            low: median / factor,
            // Beyond a spread of 2.56 the mean itself lies above nine tenths of all calls.
            high: (median * factor).max(expected),
        }
    }

    /// The same with nothing above `most`.
    #[must_use]
    pub fn at_most(self, most: f64) -> Self {
        Self {
            expected: self.expected.min(most),
            low: self.low.min(most),
            high: self.high.min(most),
        }
    }
}

/// The cost of a call before it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct CostEstimate {
    /// Expected.
    pub expected: Usd,
    /// Rarely less.
    pub low: Usd,
    /// Rarely more.
    pub high: Usd,
}

impl Tariff<'_> {
    /// The cost of a call that uses about so many tokens, `cached_input` of the input being read from the
    /// provider's prompt cache.
    #[must_use]
    pub fn estimate(
        &self,
        input: &TokenEstimate,
        cached_input: u64,
        output: &TokenEstimate,
        units: &Units,
    ) -> CostEstimate {
        let cost = |input: f64, output: f64| {
            let usage = Usage {
                input: whole(input),
                cached_input,
                output: whole(output),
                ..Usage::default()
            };
            self.cost(&usage, units)
        };
        CostEstimate {
            expected: cost(input.expected, output.expected),
            low: cost(input.low, output.low),
            high: cost(input.high, output.high),
        }
    }
}

fn whole(tokens: f64) -> u64 {
    tokens.max(0.0).round() as u64
}

/// What of a request is corrected together: its text by class, or its media.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ContentKind {
    /// Text alone, of this class.
    Text(TextClass),
    /// Images, documents, sound or video make up most of the tokens.
    Media,
}

impl ContentKind {
    /// The kind of a request on this arm.
    #[must_use]
    pub fn of(arm: &Arm, content: &ContentFacts) -> Self {
        if media_tokens(arm, content) > content.text.tokens {
            Self::Media
        } else {
            Self::Text(content.text.class)
        }
    }
}

/// The tokens of a request by the fixed rules alone: its text as o200k counts, its media by the family's rule.
#[must_use]
pub fn raw_input_tokens(arm: &Arm, content: &ContentFacts) -> u64 {
    content.text.tokens + media_tokens(arm, content)
}

/// Factors between the fixed rules and what providers count, learned from usage, for each model and kind of
/// content: models have tokenisers of their own, and some bill images by rules of their own.
///
/// ln κ ← ln κ + g (ln(actual / estimate) − ln κ), g = max(1/n, 0.02): the plain mean of the first fifty calls,
/// a window of about fifty after that. The spread is the same average of squared deviations.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Corrections {
    arms: BTreeMap<ArmId, Vec<(ContentKind, Correction)>>,
}

/// One learned factor.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Correction {
    /// ln κ.
    log_factor: f64,
    /// Variance of ln(actual / estimate) around it.
    variance: f64,
    /// Calls it was learned from.
    calls: u64,
}

/// Least weight of a new call.
const LEAST_GAIN: f64 = 0.02;
/// Standard deviation of ln(actual / estimate) before anything was learned: a fifth.
const PRIOR_SPREAD: f64 = 0.2;
/// Calls that the prior spread counts for.
const PRIOR_CALLS: f64 = 5.0;
/// No call may say more than a factor of this: usage that far off is an error, not a tokeniser.
const MOST_LOG_RATIO: f64 = 3.0;

impl Corrections {
    /// Learns from a call. Nothing is learned from empty counts.
    pub fn learn(&mut self, arm: &ArmId, kind: ContentKind, estimated: u64, actual: u64) {
        if estimated == 0 || actual == 0 {
            return;
        }
        let observed = (actual as f64 / estimated as f64).ln();
        if observed.abs() > MOST_LOG_RATIO {
            return;
        }
        let kinds = self.arms.entry(arm.clone()).or_default();
        let place = kinds
            .iter()
            .position(|(known, _)| *known == kind)
            .unwrap_or_else(|| {
                let fresh = Correction {
                    log_factor: 0.0,
                    variance: 0.0,
                    calls: 0,
                };
                kinds.push((kind, fresh));
                kinds.len() - 1
            });
        let correction = &mut kinds[place].1;
        correction.calls += 1;
        let gain = (1.0 / correction.calls as f64).max(LEAST_GAIN);
        let residual = observed - correction.log_factor;
        correction.log_factor += gain * residual;
        let deviation = residual * (observed - correction.log_factor);
        correction.variance += gain * (deviation - correction.variance);
    }

    /// The input tokens of a request on this arm.
    #[must_use]
    pub fn input_tokens(&self, arm: &Arm, content: &ContentFacts) -> TokenEstimate {
        let raw = raw_input_tokens(arm, content) as f64;
        let kind = ContentKind::of(arm, content);
        let (factor, spread) = self.factor(&arm.id, kind);
        TokenEstimate::log_normal(raw * factor, spread)
    }

    /// The expected number of input tokens alone, for every candidate of every request.
    #[must_use]
    pub fn expected_input(&self, arm: &Arm, content: &ContentFacts) -> u64 {
        let media = media_tokens(arm, content);
        let kind = if media > content.text.tokens {
            ContentKind::Media
        } else {
            ContentKind::Text(content.text.class)
        };
        let raw = content.text.tokens + media;
        (raw as f64 * self.factor(&arm.id, kind).0).round() as u64
    }

    /// κ, and the standard deviation of ln(actual / (κ × estimate)).
    #[must_use]
    pub fn factor(&self, arm: &ArmId, kind: ContentKind) -> (f64, f64) {
        let Some(kinds) = self.arms.get(arm) else {
            return (1.0, PRIOR_SPREAD);
        };
        let Some((_, correction)) = kinds.iter().find(|(known, _)| *known == kind) else {
            return (others(kinds, kind), PRIOR_SPREAD);
        };
        let calls = (correction.calls as f64).min(1.0 / LEAST_GAIN);
        let variance =
            (PRIOR_CALLS * PRIOR_SPREAD * PRIOR_SPREAD + calls * correction.variance) / (PRIOR_CALLS + calls);
        (correction.log_factor.exp(), variance.sqrt())
    }
}

/// κ of a kind of text that this model has not been sent yet: the mean of the kinds that it has, by their calls. A
/// tokeniser that takes a third more for prose takes more for code as well. Media tell nothing of text.
fn others(kinds: &[(ContentKind, Correction)], kind: ContentKind) -> f64 {
    let is_text = |kind: ContentKind| matches!(kind, ContentKind::Text(_));
    if !is_text(kind) {
        return 1.0;
    }
    let (calls, sum) = kinds.iter().filter(|(known, _)| is_text(*known)).fold(
        (0.0, 0.0),
        |(calls, sum), (_, correction)| {
            let weight = correction.calls as f64;
            (calls + weight, sum + weight * correction.log_factor)
        },
    );
    (sum / (calls + PRIOR_CALLS)).exp()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arm::Modalities;
    use crate::content::TextFacts;
    use crate::pricing::{PartialRates, Price, PriceSpec};
    use crate::units::{UnixMs, UsdPerMtok};

    const PROSE: ContentKind = ContentKind::Text(TextClass::Prose);

    #[test]
    fn a_tokeniser_that_counts_a_third_more_is_learned() {
        let arm = ArmId::new("anthropic/claude-haiku-5-5");
        let mut corrections = Corrections::default();
        assert_eq!(corrections.factor(&arm, PROSE), (1.0, PRIOR_SPREAD));
        for i in 0..40u64 {
            // 30 % more, give or take a hundredth.
            corrections.learn(&arm, PROSE, 1_000, 1_290 + (i % 3) * 10);
        }
        let (factor, spread) = corrections.factor(&arm, PROSE);
        assert!((factor - 1.3).abs() < 0.005, "{factor}");
        assert!(spread < 0.08, "{spread}");
        // ln 1.3 × 40 / (40 + 5 calls of no effect).
        let (code, spread) = corrections.factor(&arm, ContentKind::Text(TextClass::Code));
        assert!(
            (code - 1.2626).abs() < 0.01,
            "text of a kind not seen yet begins at the others: {code}"
        );
        assert_eq!(spread, PRIOR_SPREAD);
        assert_eq!(corrections.factor(&arm, ContentKind::Media).0, 1.0);
        corrections.learn(&arm, ContentKind::Text(TextClass::Code), 1_000, 900);
        let (code, _) = corrections.factor(&arm, ContentKind::Text(TextClass::Code));
        assert!((code - 0.9).abs() < 1e-9, "kinds are learned apart: {code}");
    }

    #[test]
    fn a_changed_tokeniser_is_followed_within_two_hundred_calls() {
        let arm = ArmId::new("a/m");
        let mut corrections = Corrections::default();
        for _ in 0..1_000 {
            corrections.learn(&arm, PROSE, 1_000, 1_000);
        }
        for _ in 0..200 {
            corrections.learn(&arm, PROSE, 1_000, 1_300);
        }
        let (factor, _) = corrections.factor(&arm, PROSE);
        assert!((factor - 1.3).abs() < 0.01, "{factor}");
    }

    #[test]
    fn nonsense_is_not_learned_from() {
        let arm = ArmId::new("a/m");
        let mut corrections = Corrections::default();
        corrections.learn(&arm, PROSE, 0, 10);
        corrections.learn(&arm, PROSE, 10, 0);
        corrections.learn(&arm, PROSE, 1, 1_000_000);
        assert_eq!(corrections, Corrections::default());
    }

    #[test]
    fn state_survives_serialising() {
        let mut corrections = Corrections::default();
        corrections.learn(&ArmId::new("a/m"), ContentKind::Media, 100, 120);
        let json = serde_json::to_string(&corrections).unwrap();
        assert_eq!(serde_json::from_str::<Corrections>(&json).unwrap(), corrections);
    }

    #[test]
    fn a_cost_has_an_interval() {
        let price = Price::new(PriceSpec {
            rates: PartialRates {
                input: UsdPerMtok::from_dollars(1.0),
                cached_input: UsdPerMtok::from_dollars(0.1),
                output: UsdPerMtok::from_dollars(4.0),
                ..PartialRates::default()
            },
            ..PriceSpec::default()
        })
        .unwrap();
        let content = ContentFacts {
            text: TextFacts {
                bytes: 4_000,
                tokens: 1_000,
                class: TextClass::Prose,
            },
            ..ContentFacts::default()
        };
        let arm = Arm {
            id: ArmId::new("a/m"),
            upstream: "m".into(),
            family: "m".into(),
            context_window: 8_000,
            max_output_tokens: 1_000,
            modalities: Modalities::TEXT,
            tools: false,
            structured_output: false,
        };
        let input = Corrections::default().input_tokens(&arm, &content);
        let output = TokenEstimate::log_normal(250.0, 0.5);
        let cost = price
            .at(UnixMs(0))
            .estimate(&input, 400, &output, &Units::default());
        // 600 * 1 + 400 * 0.1 + 250 * 4 = 1 640 micro-dollars.
        assert_eq!(cost.expected, Usd::from_nanos(1_640_000));
        assert!(cost.low < cost.expected && cost.expected < cost.high);
    }
}
