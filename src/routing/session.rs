//! Whether a conversation changes its model.
//!
//! The provider of the arm that has answered so far, the *incumbent*, has the beginning of the prompt in its prompt
//! cache; every other arm has to read it anew at the full price. A switch is worth it when it saves more on the rest
//! of the request than this costs. All money is integer nano-dollars.

use super::{Expected, Offer};
use crate::completion::Usage;
use crate::policy::Decision;
use crate::pricing::{Tariff, Units};
use crate::units::Usd;

/// What changing from the incumbent to another arm gains and costs on this request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Switch {
    /// What everything but the prefix is expected to cost less. Negative: more.
    pub saving: Usd,
    /// The lost prefix: what reading it uncached on the new arm costs above reading it, cached as expected, on the
    /// incumbent.
    pub lost: Usd,
}

impl Switch {
    /// Whether the saving exceeds the lost prefix.
    #[must_use]
    pub fn is_worth_it(self) -> bool {
        self.saving > self.lost
    }
}

/// A prompt's beginning as one arm reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// Its tokens.
    pub tokens: u64,
    /// Of those: read from the cache, as expected.
    pub cached: u64,
}

impl Prefix {
    /// What reading it costs, without fees that are due once a request.
    #[must_use]
    pub fn price(self, tariff: &Tariff<'_>) -> Usd {
        let usage = Usage {
            input: self.tokens,
            cached_input: self.cached.min(self.tokens),
            ..Usage::default()
        };
        tariff.cost(&usage, &Units::default()) - tariff.fees(&Units::default())
    }
}

/// The switch from the incumbent to each offer; `None` for the incumbent itself, and where a price is not known.
/// `warm` are the prompt's tokens that each arm has read a short time ago, in its own count.
#[must_use]
pub fn switches(
    offers: &[Offer<'_>],
    expected: &[Expected],
    warm: &[u64],
    incumbent: usize,
) -> Vec<Option<Switch>> {
    let Some((home, tokens)) = offers.get(incumbent).zip(warm.get(incumbent).copied()) else {
        return vec![None; offers.len()];
    };
    let tokens = tokens.min(home.input_tokens);
    let read = |index: usize, tokens: u64, warm: u64| {
        let offer = &offers[index];
        // Of what is expected to be cached, as much lies in the prefix as the arm has read of it.
        let cached = expected[index].cached_tokens.min(warm).min(tokens);
        offer
            .tariff
            .map(|tariff| Prefix { tokens, cached }.price(&tariff))
    };
    let old = read(incumbent, tokens, tokens);
    (0..offers.len())
        .map(|index| {
            if index == incumbent || !expected[index].priced || !expected[incumbent].priced {
                return None;
            }
            // The same text in the other arm's tokens.
            let there = u128::from(tokens) * u128::from(offers[index].input_tokens)
                / u128::from(home.input_tokens.max(1));
            let there = u64::try_from(there).unwrap_or(u64::MAX);
            let (old, new) = (old?, read(index, there, warm[index])?);
            Some(Switch {
                saving: (expected[incumbent].cost - old) - (expected[index].cost - new),
                lost: new - old,
            })
        })
        .collect()
}

/// Keeps a conversation with its incumbent unless a switch is worth it: the probability of every arm that is not
/// worth it goes to the incumbent, so that the propensity stays exact. True if that changed the draw.
///
/// An arm is worth it when its [`Switch`] is, or when the incumbent is no longer good enough for this prompt: below
/// an explicit floor that the arm reaches, or in expected quality more than `margin` below an arm whose value, quality
/// and money together, is higher.
pub fn stay(decision: &mut Decision, incumbent: usize, switches: &[Option<Switch>], margin: f64) -> bool {
    let scores = &decision.scores;
    let worth = |index: usize| {
        let saves = switches
            .get(index)
            .copied()
            .flatten()
            .is_some_and(Switch::is_worth_it);
        let (Some(home), Some(there)) = (scores.get(incumbent), scores.get(index)) else {
            return saves;
        };
        let needed = !home.capable && there.capable;
        let better = there.mean - home.mean > margin && there.value > home.value;
        (saves && there.capable >= home.capable) || needed || better
    };
    let mut moved = 0.0;
    let mut kept = decision.pmf.clone();
    for (index, share) in kept.iter_mut().enumerate() {
        if index != incumbent && !worth(index) {
            moved += std::mem::take(share);
        }
    }
    let Some(home) = kept.get_mut(incumbent) else {
        return false;
    };
    *home += moved;
    let stays = kept.get(decision.chosen).is_none_or(|&share| share <= 0.0);
    if stays {
        decision.chosen = incumbent;
        decision.explored = false;
    }
    if moved > 0.0 {
        decision.propensity = kept[decision.chosen];
    }
    decision.pmf = kept;
    stays
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::arm::{Arm, ArmId, Modalities};
    use crate::policy::{ArmScore, CachedInput, Strategy};
    use crate::pricing::{PartialRates, Price, PriceSpec};
    use crate::units::{UnixMs, UsdPerMtok};

    fn price(input: f64, cached: f64, output: f64) -> Price {
        let rates = PartialRates {
            input: UsdPerMtok::from_dollars(input),
            cached_input: UsdPerMtok::from_dollars(cached),
            output: UsdPerMtok::from_dollars(output),
            ..PartialRates::default()
        };
        Price::new(PriceSpec {
            rates,
            ..PriceSpec::default()
        })
        .unwrap()
    }

    fn arm(id: &str) -> Arc<Arm> {
        Arc::new(Arm {
            id: ArmId::new(id),
            upstream: id.into(),
            family: "f".into(),
            context_window: 100_000,
            max_output_tokens: 1_000,
            modalities: Modalities::TEXT,
            tools: true,
            structured_output: true,
        })
    }

    /// The incumbent costs $3 a million, $0.30 cached, $15 out; the others as given. 11,000 tokens in, of which the
    /// incumbent has read 10,000 and is expected to find 8,000; 200 out.
    fn switch_to(other: &Price, output: u64) -> Switch {
        let home = price(3.0, 0.3, 15.0);
        let (old, new) = (arm("a/home"), arm("b/other"));
        let offer = |arm, price: &'static Price| Offer {
            arm,
            tariff: Some(price.at(UnixMs(0))),
            latency_ms: 0.0,
            input_tokens: 11_000,
            cached: CachedInput::default(),
        };
        let (home, other): (&'static Price, &'static Price) =
            (Box::leak(Box::new(home)), Box::leak(Box::new(other.clone())));
        let offers = [offer(&old, home), offer(&new, other)];
        let expected = [(home, 8_000), (other, 0)].map(|(price, cached)| {
            let usage = Usage {
                input: 11_000,
                cached_input: cached,
                output,
                ..Usage::default()
            };
            Expected {
                cost: price.at(UnixMs(0)).cost(&usage, &Units::default()),
                priced: true,
                input_tokens: 11_000,
                cached_tokens: cached,
                output_tokens: output,
            }
        });
        let found = switches(&offers, &expected, &[10_000, 0], 0);
        assert_eq!(found[0], None);
        found[1].unwrap()
    }

    #[test]
    fn a_switch_must_save_more_than_the_prefix_it_loses() {
        // On the incumbent the prefix is 8,000 at $0.30 and 2,000 at $3: $0.0084. The rest is 1,000 at $3 and 200 at
        // $15: $0.006.
        // A model at $1 and $5: the prefix is 10,000 at $1 = $0.01, the rest 1,000 at $1 and 200 at $5 = $0.002.
        let cheap = switch_to(&price(1.0, 0.1, 5.0), 200);
        assert_eq!(cheap.lost, Usd::from_nanos(10_000_000 - 8_400_000));
        assert_eq!(cheap.saving, Usd::from_nanos(6_000_000 - 2_000_000));
        assert!(cheap.is_worth_it(), "$0.004 saved, $0.0016 lost");
        // A model at $2 and $10: list prices a third lower, but $0.0116 of prefix are lost for $0.002.
        let middle = switch_to(&price(2.0, 0.2, 10.0), 200);
        assert_eq!(middle.lost, Usd::from_nanos(20_000_000 - 8_400_000));
        assert_eq!(middle.saving, Usd::from_nanos(6_000_000 - 4_000_000));
        assert!(!middle.is_worth_it());
        // With 3,000 tokens to write the same model saves $0.016 on the rest.
        let long = switch_to(&price(2.0, 0.2, 10.0), 3_000);
        assert_eq!(long.saving, Usd::from_nanos(48_000_000 - 32_000_000));
        assert!(long.is_worth_it());
    }

    fn decision(chosen: usize) -> Decision {
        let score = |mean, value| ArmScore {
            mean,
            value,
            capable: true,
            ..ArmScore::default()
        };
        Decision {
            chosen,
            propensity: [0.5, 0.3, 0.2][chosen],
            explored: true,
            pmf: vec![0.5, 0.3, 0.2],
            scores: vec![score(0.80, 0.7), score(0.81, 0.75), score(0.9, 0.6)],
            lambda: 1.0,
            strategy: Strategy::Contextual,
        }
    }

    fn gain(nanos: i64) -> Option<Switch> {
        Some(Switch {
            saving: Usd::from_nanos(nanos),
            lost: Usd::ZERO,
        })
    }

    #[test]
    fn what_is_not_worth_it_falls_to_the_incumbent_with_its_probability() {
        let mut held = decision(1);
        assert!(stay(&mut held, 0, &[None, gain(-1), gain(-5)], 0.02));
        assert_eq!(held.pmf, [1.0, 0.0, 0.0]);
        assert_eq!((held.chosen, held.propensity, held.explored), (0, 1.0, false));

        let mut switched = decision(1);
        assert!(!stay(&mut switched, 0, &[None, gain(1), gain(-5)], 0.02));
        assert_eq!(switched.pmf, [0.7, 0.3, 0.0]);
        assert_eq!((switched.chosen, switched.propensity), (1, 0.3));

        let mut unknown = decision(2);
        assert!(stay(&mut unknown, 0, &[None, gain(1), None], 0.02));
        assert_eq!((unknown.chosen, unknown.propensity), (0, 0.7));
    }

    #[test]
    fn an_incumbent_that_is_not_good_enough_is_left() {
        // The third is better by 0.1, but not worth its money; the second only by 0.01.
        let none = [None, gain(-1), gain(-1)];
        let mut better = decision(2);
        better.scores[2].value = 0.8;
        assert!(!stay(&mut better, 0, &none, 0.02));
        assert_eq!(better.pmf, [0.8, 0.0, 0.2]);
        let mut below = decision(1);
        below.scores[0].capable = false;
        assert!(!stay(&mut below, 0, &none, f64::INFINITY));
        assert_eq!(below.pmf, [0.5, 0.3, 0.2]);
        // A cheaper one that misses the floor is no choice for an incumbent that reaches it.
        let mut cheap = decision(1);
        cheap.scores[1].capable = false;
        assert!(stay(&mut cheap, 0, &[None, gain(5), gain(-1)], f64::INFINITY));
    }
}
