//! What one unit of each billed thing costs.

use serde::Serialize;

use crate::completion::Usage;
use crate::units::{Usd, UsdPerMtok};

/// Prices per million tokens as written down: what is absent falls back to its class's default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PartialRates {
    /// Input tokens.
    pub input: Option<UsdPerMtok>,
    /// Input read from the provider's prompt cache; default: `input`.
    pub cached_input: Option<UsdPerMtok>,
    /// Input written to a five-minute cache; default: `input`.
    pub cache_write_5m: Option<UsdPerMtok>,
    /// Input written to a one-hour cache; default: `cache_write_5m`.
    pub cache_write_1h: Option<UsdPerMtok>,
    /// Audio in; default: `input`.
    pub audio_input: Option<UsdPerMtok>,
    /// Output tokens.
    pub output: Option<UsdPerMtok>,
    /// Reasoning tokens; default: `output`.
    pub reasoning: Option<UsdPerMtok>,
    /// Audio out; default: `output`.
    pub audio_output: Option<UsdPerMtok>,
}

impl PartialRates {
    /// These rates where they are written, else those of `base`.
    #[must_use]
    pub fn or(self, base: Self) -> Self {
        Self {
            input: self.input.or(base.input),
            cached_input: self.cached_input.or(base.cached_input),
            cache_write_5m: self.cache_write_5m.or(base.cache_write_5m),
            cache_write_1h: self.cache_write_1h.or(base.cache_write_1h),
            audio_input: self.audio_input.or(base.audio_input),
            output: self.output.or(base.output),
            reasoning: self.reasoning.or(base.reasoning),
            audio_output: self.audio_output.or(base.audio_output),
        }
    }

    /// Every class filled in. `None` without a price of input and one of output.
    #[must_use]
    pub fn resolve(self) -> Option<Rates> {
        let (input, output) = (self.input?, self.output?);
        let cache_write_5m = self.cache_write_5m.unwrap_or(input);
        Some(Rates {
            input,
            cached_input: self.cached_input.unwrap_or(input),
            cache_write_5m,
            cache_write_1h: self.cache_write_1h.unwrap_or(cache_write_5m),
            audio_input: self.audio_input.unwrap_or(input),
            output,
            reasoning: self.reasoning.unwrap_or(output),
            audio_output: self.audio_output.unwrap_or(output),
        })
    }
}

/// Prices of every token class, in USD per million tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Rates {
    /// Input that is neither cached, written to a cache, nor audio.
    pub input: UsdPerMtok,
    /// Input read from the provider's prompt cache.
    pub cached_input: UsdPerMtok,
    /// Input written to a five-minute cache.
    pub cache_write_5m: UsdPerMtok,
    /// Input written to a one-hour cache.
    pub cache_write_1h: UsdPerMtok,
    /// Audio in.
    pub audio_input: UsdPerMtok,
    /// Output that is neither reasoning nor audio.
    pub output: UsdPerMtok,
    /// Reasoning.
    pub reasoning: UsdPerMtok,
    /// Audio out.
    pub audio_output: UsdPerMtok,
}

impl Rates {
    /// The price of `usage` in nano-dollars times one million, not yet rounded.
    ///
    /// Each token is billed once: input as cached, then as cache write, then as audio, the rest plain; output
    /// as reasoning, then as audio, the rest plain. Parts that claim more than their whole are cut to it.
    #[must_use]
    pub fn micro_nanos(&self, usage: &Usage) -> i128 {
        let mut rest = usage.input;
        let mut take = |wanted: u64| {
            let taken = wanted.min(rest);
            rest -= taken;
            taken
        };
        let cached = take(usage.cached_input);
        let short = take(usage.cache_write_5m);
        let long = take(usage.cache_write_1h);
        let audio = take(usage.audio_input);
        let reasoning = usage.reasoning.min(usage.output);
        let spoken = usage.audio_output.min(usage.output - reasoning);
        [
            (self.input, rest),
            (self.cached_input, cached),
            (self.cache_write_5m, short),
            (self.cache_write_1h, long),
            (self.audio_input, audio),
            (self.output, usage.output - reasoning - spoken),
            (self.reasoning, reasoning),
            (self.audio_output, spoken),
        ]
        .into_iter()
        .fold(0i128, |sum, (rate, tokens)| {
            sum.saturating_add(rate.micro_nanos(tokens))
        })
    }
}

/// Charges that are not by the token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Fees {
    /// For the request itself.
    pub request: Usd,
    /// For each image sent.
    pub image: Usd,
    /// For each second of audio sent.
    pub audio_second: Usd,
    /// For each second of video sent.
    pub video_second: Usd,
    /// For each PDF page sent.
    pub pdf_page: Usd,
}

/// How many of the things that [`Fees`] charge for a request holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Units {
    /// Images.
    pub images: u64,
    /// PDF pages.
    pub pdf_pages: u64,
    /// Audio, milliseconds.
    pub audio_ms: u64,
    /// Video, milliseconds.
    pub video_ms: u64,
}

impl Fees {
    /// The fees of one call in nano-dollars times one million.
    #[must_use]
    pub fn micro_nanos(&self, units: &Units) -> i128 {
        [
            (self.request, 1_000),
            (self.image, units.images.saturating_mul(1_000)),
            (self.pdf_page, units.pdf_pages.saturating_mul(1_000)),
            (self.audio_second, units.audio_ms),
            (self.video_second, units.video_ms),
        ]
        .into_iter()
        .fold(0i128, |sum, (fee, thousandths)| {
            let part = i128::from(fee.nanos())
                .saturating_mul(i128::from(thousandths))
                .saturating_mul(1_000);
            sum.saturating_add(part)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::round_micro_nanos;

    fn usd(dollars: f64) -> Option<UsdPerMtok> {
        UsdPerMtok::from_dollars(dollars)
    }

    #[test]
    fn what_is_not_written_falls_back_to_its_class() {
        let rates = PartialRates {
            input: usd(3.0),
            output: usd(15.0),
            cache_write_5m: usd(3.75),
            ..PartialRates::default()
        }
        .resolve()
        .unwrap();
        assert_eq!(Some(rates.cached_input), usd(3.0));
        assert_eq!(Some(rates.cache_write_1h), usd(3.75));
        assert_eq!(Some(rates.reasoning), usd(15.0));
        assert_eq!(PartialRates::default().resolve(), None);
    }

    #[test]
    fn parts_beyond_their_whole_are_cut() {
        let rates = PartialRates {
            input: usd(1.0),
            cached_input: usd(0.1),
            output: usd(2.0),
            ..PartialRates::default()
        }
        .resolve()
        .unwrap();
        let usage = Usage {
            input: 100,
            cached_input: 300,
            output: 10,
            reasoning: 40,
            ..Usage::default()
        };
        // 100 * $0.1 + 10 * $2 per million = 10 000 + 20 000 nano-dollars.
        assert_eq!(
            round_micro_nanos(rates.micro_nanos(&usage)),
            Usd::from_nanos(30_000)
        );
    }

    #[test]
    fn fees_count_by_the_thing_and_by_the_second() {
        let fees = Fees {
            request: Usd::from_nanos(10),
            image: Usd::from_nanos(100),
            audio_second: Usd::from_nanos(1_000),
            video_second: Usd::from_nanos(3),
            pdf_page: Usd::from_nanos(7),
        };
        let units = Units {
            images: 2,
            pdf_pages: 3,
            audio_ms: 1_500,
            video_ms: 0,
        };
        assert_eq!(
            round_micro_nanos(fees.micro_nanos(&units)),
            Usd::from_nanos(10 + 200 + 21 + 1_500)
        );
    }
}
