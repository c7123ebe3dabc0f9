//! How much of a prompt an arm's provider reads from its own prompt cache, learned from what it bills.

use serde::{Deserialize, Serialize};

/// What is kept of the sums at each sample: a window of about fifty calls.
const KEPT: f64 = 0.98;
/// Tokens below which most providers cache nothing: shorter prefixes are learned apart.
const LONG: u64 = 1_024;
/// Share of a long prefix that is taken to be read again before anything is known, and the tokens that this counts.
const PRIOR_SHARE: f64 = 0.5;
const PRIOR_TOKENS: f64 = 4_000.0;

/// Input tokens that are not billed as plain input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CachedInput {
    /// Read from the provider's prompt cache.
    pub read: u64,
    /// Written to it.
    pub written: u64,
}

/// Shares of an arm, for people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct CachedShares {
    /// Of a prefix of 1024 tokens or more that this arm has read in the same conversation a short time ago, in [0,1].
    pub of_long_prefix: f64,
    /// Of a shorter one.
    pub of_short_prefix: f64,
    /// Of a prompt without such a prefix.
    pub of_fresh_prompt: f64,
    /// Written to the cache, of what is not read from it.
    pub written: f64,
    /// Calls learned from.
    pub calls: u64,
}

/// Σ part / Σ whole over recent calls, each call before the last counting 0.98 of the one after it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Share {
    part: f64,
    whole: f64,
}

impl Share {
    fn learn(&mut self, part: u64, whole: u64) {
        if whole > 0 {
            self.part = KEPT * self.part + part.min(whole) as f64;
            self.whole = KEPT * self.whole + whole as f64;
        }
    }

    fn value(self, prior: f64) -> f64 {
        (self.part + prior * PRIOR_TOKENS) / (self.whole + PRIOR_TOKENS)
    }
}

/// Learned cache reads and writes of one arm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PromptCache {
    long: Share,
    short: Share,
    fresh: Share,
    written: Share,
    calls: u64,
}

impl PromptCache {
    /// Takes one call into account. `prefix`: tokens that the arm had read before in the same conversation.
    pub fn learn(&mut self, input: u64, read: u64, written: u64, prefix: u64) {
        let prefix = prefix.min(input);
        self.calls += 1;
        match prefix {
            0 => self.fresh.learn(read, input),
            LONG.. => self.long.learn(read, prefix),
            _ => self.short.learn(read, prefix),
        }
        self.written.learn(written, input.saturating_sub(read));
    }

    /// What a call of `input` tokens, of which the arm has read `prefix` before, is expected to read and write.
    #[must_use]
    pub fn expect(&self, input: u64, prefix: u64) -> CachedInput {
        let prefix = prefix.min(input);
        let shares = self.shares();
        let of_prefix = if prefix >= LONG {
            shares.of_long_prefix
        } else {
            shares.of_short_prefix
        };
        let rest = (input - prefix) as f64;
        let read = of_prefix * prefix as f64 + shares.of_fresh_prompt * rest;
        let read = (read.round() as u64).min(input);
        let written = shares.written * (input - read) as f64;
        CachedInput {
            read,
            written: (written.round() as u64).min(input - read),
        }
    }

    /// The shares.
    #[must_use]
    pub fn shares(&self) -> CachedShares {
        CachedShares {
            of_long_prefix: self.long.value(PRIOR_SHARE),
            of_short_prefix: self.short.value(0.0),
            of_fresh_prompt: self.fresh.value(0.0),
            written: self.written.value(0.0),
            calls: self.calls,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_prefix_is_half_believed_at_first_and_a_fresh_prompt_not_at_all() {
        let cache = PromptCache::default();
        assert_eq!(
            cache.expect(3_000, 2_000),
            CachedInput {
                read: 1_000,
                written: 0
            }
        );
        assert_eq!(cache.expect(3_000, 0), CachedInput::default());
        assert_eq!(cache.expect(900, 500), CachedInput::default());
        assert_eq!(cache.expect(100, 5_000).read, 0, "no more than there is");
    }

    #[test]
    fn reads_and_writes_are_learned_by_tokens() {
        let mut cache = PromptCache::default();
        // 4,000 of a prefix of 4,000: (4000 + 0.5 * 4000) / (4000 + 4000) = 3/4.
        cache.learn(5_000, 4_000, 0, 4_000);
        assert!((cache.shares().of_long_prefix - 0.75).abs() < 1e-12);
        assert_eq!(cache.expect(5_000, 4_000).read, 3_000);
        // A fresh prompt of 4,000 that is all written: 4000 of (5000 - 4000) * 0.98 + 4000, and the prior's 4000.
        cache.learn(4_000, 0, 4_000, 0);
        let written = 4_000.0 / (980.0 + 4_000.0 + 4_000.0);
        assert!((cache.shares().written - written).abs() < 1e-12);
        assert_eq!(cache.expect(1_000, 0).written, (written * 1_000.0).round() as u64);
        for _ in 0..200 {
            cache.learn(5_000, 0, 0, 4_000);
        }
        assert!(cache.shares().of_long_prefix < 0.03, "{:?}", cache.shares());
    }
}
