//! The price of one model: rates, context tiers, time windows and fees.

use serde::Serialize;

use super::rates::{Fees, PartialRates, Rates, Units};
use super::window::{Multiplier, Window};
use crate::completion::Usage;
use crate::units::{UnixMs, Usd};

/// The most that a routing fee may be, in percent.
pub const MAX_ROUTING_FEE_PERCENT: f64 = 100.0;

/// A price as written down, not yet checked.
#[derive(Clone, Debug, Default)]
pub struct PriceSpec {
    /// The rates below the first tier.
    pub rates: PartialRates,
    /// Dearer or cheaper rates for long prompts, in any order.
    pub tiers: Vec<TierSpec>,
    /// Hours of the week with another price.
    pub windows: Vec<Window>,
    /// Charges that are not by the token.
    pub fees: Fees,
    /// An answer that was thought about is billed at the price of reasoning as a whole.
    pub reasoning_prices_answer: bool,
    /// A middleman's share on top of everything else, in percent.
    pub routing_fee_percent: f64,
}

/// Rates for prompts above a length, as written down.
#[derive(Clone, Copy, Debug, Default)]
pub struct TierSpec {
    /// The tier holds for prompts of more than this many input tokens, for all tokens of the call.
    pub above_tokens: u64,
    /// Its rates; what is absent is the base's.
    pub rates: PartialRates,
}

/// What is wrong with a price, and where in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {what}")]
pub struct PriceProblem {
    /// The field, as in the configuration: `tiers[1].above_tokens`.
    pub field: String,
    /// The rule it breaks.
    pub what: &'static str,
}

/// The checked price of one model.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Price {
    rates: Rates,
    tiers: Vec<Tier>,
    windows: Vec<Window>,
    fees: Fees,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    reasoning_prices_answer: bool,
    /// Parts per million on top of everything else.
    routing_fee_ppm: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
struct Tier {
    above_tokens: u64,
    rates: Rates,
}

impl Price {
    /// Checks a price: input and output are there, no fee is negative, no two tiers begin at the same length,
    /// windows share one zone and no minute.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn new(spec: PriceSpec) -> Result<Self, Vec<PriceProblem>> {
        let mut problems = Vec::new();
        let mut problem = |field: String, what| problems.push(PriceProblem { field, what });
        if spec.rates.input.is_none() {
            problem("input_per_mtok".into(), "is missing");
        }
        if spec.rates.output.is_none() {
            problem("output_per_mtok".into(), "is missing");
        }
        for (name, fee) in [
            ("request_fee_usd", spec.fees.request),
            ("image_usd", spec.fees.image),
            ("audio_second_usd", spec.fees.audio_second),
            ("video_second_usd", spec.fees.video_second),
            ("pdf_page_usd", spec.fees.pdf_page),
        ] {
            if fee < Usd::ZERO {
                problem(name.into(), "must be 0 or more");
            }
        }
        if !(0.0..=MAX_ROUTING_FEE_PERCENT).contains(&spec.routing_fee_percent) {
            problem("routing_fee_percent".into(), "must lie between 0 and 100");
        }
        for (i, tier) in spec.tiers.iter().enumerate() {
            if spec.tiers[..i]
                .iter()
                .any(|other| other.above_tokens == tier.above_tokens)
            {
                problem(
                    format!("tiers[{i}].above_tokens"),
                    "overlaps another tier: two begin at the same length",
                );
            }
        }
        for (i, window) in spec.windows.iter().enumerate() {
            for other in &spec.windows[..i] {
                if window.zone() != other.zone() {
                    problem(
                        format!("windows[{i}].timezone"),
                        "differs from another window's: all windows of a price go by one clock",
                    );
                } else if window.overlaps(other) {
                    problem(format!("windows[{i}]"), "overlaps another window of this price");
                }
            }
        }
        let (true, Some(rates)) = (problems.is_empty(), spec.rates.resolve()) else {
            return Err(problems);
        };
        let mut tiers: Vec<Tier> = spec
            .tiers
            .iter()
            .filter_map(|tier| {
                let rates = tier.rates.or(spec.rates).resolve()?;
                Some(Tier {
                    above_tokens: tier.above_tokens,
                    rates,
                })
            })
            .collect();
        tiers.sort_by_key(|tier| tier.above_tokens);
        Ok(Self {
            rates,
            tiers,
            windows: spec.windows,
            fees: spec.fees,
            reasoning_prices_answer: spec.reasoning_prices_answer,
            routing_fee_ppm: (spec.routing_fee_percent * 10_000.0).round() as u32,
        })
    }

    /// The tariff that holds for an attempt sent at `moment`.
    #[must_use]
    pub fn at(&self, moment: UnixMs) -> Tariff<'_> {
        let multiplier = self
            .windows
            .iter()
            .find(|window| window.contains(moment))
            .map_or(Multiplier::ONE, Window::multiplier);
        Tariff {
            price: self,
            multiplier,
        }
    }

    /// List rates for a prompt of `input_tokens`, outside any window and before fees.
    #[must_use]
    pub fn rates(&self, input_tokens: u64) -> &Rates {
        self.tiers
            .iter()
            .rev()
            .find(|tier| input_tokens > tier.above_tokens)
            .map_or(&self.rates, |tier| &tier.rates)
    }

    /// Charges that are not by the token.
    #[must_use]
    pub const fn fees(&self) -> &Fees {
        &self.fees
    }

    /// The hours of the week with another price.
    #[must_use]
    pub fn windows(&self) -> &[Window] {
        &self.windows
    }
}

/// A price at a moment: what an attempt sent then is billed by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tariff<'a> {
    price: &'a Price,
    multiplier: Multiplier,
}

impl Tariff<'_> {
    /// The price it comes from.
    #[must_use]
    pub const fn price(&self) -> &Price {
        self.price
    }

    /// The factor of the time window that holds; one outside all.
    #[must_use]
    pub const fn multiplier(&self) -> Multiplier {
        self.multiplier
    }

    /// What a call costs: (tokens × rates of its tier + fees) × window × (1 + routing fee), rounded once,
    /// half away from zero. The tier goes by all input tokens, cached ones included.
    #[must_use]
    pub fn cost(&self, usage: &Usage, units: &Units) -> Usd {
        let mut usage = *usage;
        if self.price.reasoning_prices_answer && usage.reasoning > 0 {
            usage.reasoning = usage.output;
        }
        let sum = self
            .price
            .rates(usage.input)
            .micro_nanos(&usage)
            .saturating_add(self.price.fees.micro_nanos(units));
        self.surcharged(sum)
    }

    /// What reading from the provider's prompt cache made this call cheaper than plain input would have been, and what
    /// writing to it made it dearer. Neither is negative.
    #[must_use]
    pub fn prompt_cache(&self, usage: &Usage, units: &Units) -> (Usd, Usd) {
        if usage.cached_input == 0 && usage.cache_write_5m == 0 && usage.cache_write_1h == 0 {
            return (Usd::ZERO, Usd::ZERO);
        }
        let cost = self.cost(usage, units);
        let unread = Usage {
            cached_input: 0,
            ..*usage
        };
        let unwritten = Usage {
            cache_write_5m: 0,
            cache_write_1h: 0,
            ..*usage
        };
        (
            (self.cost(&unread, units) - cost).max(Usd::ZERO),
            (cost - self.cost(&unwritten, units)).max(Usd::ZERO),
        )
    }

    /// A sum of list prices in nano-dollars times one million, with window and routing fee, rounded.
    fn surcharged(&self, micro_nanos: i128) -> Usd {
        const SCALE: i128 = 1_000_000_000_000_000_000;
        let factor =
            i128::from(self.multiplier.millionths()) * (1_000_000 + i128::from(self.price.routing_fee_ppm));
        let scaled = micro_nanos.saturating_mul(factor);
        let nanos = scaled.saturating_add(SCALE / 2) / SCALE;
        Usd::from_nanos(i64::try_from(nanos).unwrap_or(i64::MAX))
    }

    /// Dollars per token of plain input, cached input and output for a prompt of `input_tokens`, everything
    /// included: for estimates.
    #[must_use]
    pub fn dollars_per_token(&self, input_tokens: u64) -> (f64, f64, f64) {
        let rates = self.price.rates(input_tokens);
        let factor = self.factor() / 1e6;
        (
            rates.input.dollars() * factor,
            rates.cached_input.dollars() * factor,
            rates.output.dollars() * factor,
        )
    }

    /// Fees of a request with these `units`, window and routing fee included.
    #[must_use]
    pub fn fees(&self, units: &Units) -> Usd {
        self.surcharged(self.price.fees.micro_nanos(units))
    }

    fn factor(&self) -> f64 {
        self.multiplier.factor() * (1.0 + f64::from(self.price.routing_fee_ppm) / 1e6)
    }
}

#[cfg(test)]
#[path = "price_tests.rs"]
mod tests;
