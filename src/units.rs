//! Units that cannot be mixed up. Money is an integer count of nano-dollars, never a float sum.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Neg, Sub, SubAssign};
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Nano-dollars in one dollar.
const NANOS: i64 = 1_000_000_000;

/// An amount of money in whole nano-dollars (1e-9 USD). The range is about ±9.2 billion dollars;
/// arithmetic saturates at its ends instead of wrapping.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Usd(i64);

impl Usd {
    /// No money.
    pub const ZERO: Self = Self(0);
    /// The largest amount.
    pub const MAX: Self = Self(i64::MAX);

    /// From whole nano-dollars.
    #[must_use]
    pub const fn from_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// From dollars, rounded to the nearest nano-dollar. `None` unless finite and in range.
    #[must_use]
    pub fn from_dollars(dollars: f64) -> Option<Self> {
        let nanos = (dollars * NANOS as f64).round();
        (nanos.is_finite() && nanos.abs() < i64::MAX as f64).then_some(Self(nanos as i64))
    }

    /// Whole nano-dollars.
    #[must_use]
    pub const fn nanos(self) -> i64 {
        self.0
    }

    /// Dollars as a float: for statistics and display, never for sums that must be exact.
    #[must_use]
    pub fn dollars(self) -> f64 {
        self.0 as f64 / NANOS as f64
    }
}

impl Add for Usd {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl Sub for Usd {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl Neg for Usd {
    type Output = Self;
    fn neg(self) -> Self {
        Self(self.0.saturating_neg())
    }
}

impl AddAssign for Usd {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl SubAssign for Usd {
    fn sub_assign(&mut self, other: Self) {
        *self = *self - other;
    }
}

impl Sum for Usd {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::ZERO, Add::add)
    }
}

/// Exact decimal dollars without trailing zeros: `0.000023`.
impl fmt::Display for Usd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let nanos = self.0.unsigned_abs();
        let (whole, part) = (nanos / NANOS as u64, nanos % NANOS as u64);
        if part == 0 {
            return write!(f, "{sign}{whole}");
        }
        let digits = format!("{part:09}");
        write!(f, "{sign}{whole}.{}", digits.trim_end_matches('0'))
    }
}

/// As a JSON number of dollars. Nine decimals survive an `f64` up to about nine million dollars.
impl Serialize for Usd {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.dollars())
    }
}

impl<'de> Deserialize<'de> for Usd {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let dollars = f64::deserialize(deserializer)?;
        Self::from_dollars(dollars)
            .ok_or_else(|| serde::de::Error::custom("not an amount of dollars in range"))
    }
}

/// A price in nano-dollars per million tokens, so that $0.01875 per million stays exact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UsdPerMtok(i64);

impl UsdPerMtok {
    /// From dollars per million tokens. `None` unless finite, not negative and in range.
    #[must_use]
    pub fn from_dollars(dollars: f64) -> Option<Self> {
        Usd::from_dollars(dollars)
            .filter(|usd| usd.0 >= 0)
            .map(|usd| Self(usd.0))
    }

    /// Nano-dollars per million tokens.
    #[must_use]
    pub const fn nanos(self) -> i64 {
        self.0
    }

    /// Dollars per million tokens as a float, for display and estimates.
    #[must_use]
    pub fn dollars(self) -> f64 {
        self.0 as f64 / NANOS as f64
    }

    /// The price of `tokens` in nano-dollars *times one million*. Sum these over the token classes of a
    /// call and round once with [`round_micro_nanos`], so that rounding never adds up.
    #[must_use]
    pub fn micro_nanos(self, tokens: u64) -> i128 {
        i128::from(self.0) * i128::from(tokens)
    }
}

impl Serialize for UsdPerMtok {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.dollars())
    }
}

impl<'de> Deserialize<'de> for UsdPerMtok {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let dollars = f64::deserialize(deserializer)?;
        Self::from_dollars(dollars)
            .ok_or_else(|| serde::de::Error::custom("a price must be a number of dollars, 0 or more"))
    }
}

/// Rounds a sum of [`UsdPerMtok::micro_nanos`] half away from zero to whole nano-dollars.
#[must_use]
pub fn round_micro_nanos(sum: i128) -> Usd {
    let half = if sum < 0 { -500_000 } else { 500_000 };
    Usd(((sum + half) / 1_000_000).clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64)
}

/// Wall-clock time in milliseconds since 1970, as logged and stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixMs(pub i64);

impl UnixMs {
    /// This moment plus `span`.
    #[must_use]
    pub fn plus(self, span: Duration) -> Self {
        Self(
            self.0
                .saturating_add(i64::try_from(span.as_millis()).unwrap_or(i64::MAX)),
        )
    }

    /// How long after `earlier` this is; zero if it is before.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn displays_exact_decimals() {
        assert_eq!(Usd::from_nanos(23_000).to_string(), "0.000023");
        assert_eq!(Usd::from_nanos(-1_500_000_000).to_string(), "-1.5");
        assert_eq!(Usd::from_nanos(2_000_000_000).to_string(), "2");
    }

    #[test]
    fn prices_per_million_round_once() {
        let price = UsdPerMtok::from_dollars(0.018_75).unwrap();
        // 3 tokens at 18.75 nano-dollars are 56.25; twice that rounds to 113, not 2 * 56.
        let twice = price.micro_nanos(3) * 2;
        assert_eq!(round_micro_nanos(twice), Usd::from_nanos(113));
    }

    #[test]
    fn refuses_what_is_not_money() {
        assert_eq!(Usd::from_dollars(f64::NAN), None);
        assert_eq!(Usd::from_dollars(1e30), None);
        assert_eq!(UsdPerMtok::from_dollars(-0.1), None);
    }
}
