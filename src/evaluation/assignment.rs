//! Sticky assignment: the same unit gets the same arm each time, on every replica, without storing anything.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// A unit's place in [0, 1) under `salt`: the first eight bytes of SHA-256(salt ‖ 0x1f ‖ unit), big-endian,
/// shifted to 53 bits so that every value is exact and no value is likelier than another. Different salts give
/// independent places.
#[must_use]
pub fn place(salt: &str, unit: &str) -> f64 {
    let mut hash = Sha256::new();
    hash.update(salt.as_bytes());
    hash.update([0x1f]);
    hash.update(unit.as_bytes());
    let digest = hash.finalize();
    let bits = digest
        .iter()
        .take(8)
        .fold(0u64, |bits, byte| bits << 8 | u64::from(*byte));
    (bits >> 11) as f64 * (-53f64).exp2()
}

/// The index of the share that `place` in [0, 1) falls into, shares laid end to end. `None` for no shares.
/// What is left by rounding belongs to the last share that is not zero.
#[must_use]
pub fn pick(place: f64, shares: &[f64]) -> Option<usize> {
    let mut reached = 0.0;
    for (index, share) in shares.iter().enumerate() {
        reached += share;
        if place < reached {
            return Some(index);
        }
    }
    shares.iter().rposition(|share| *share > 0.0)
}

/// A part of the traffic, with the split that was in force when it was opened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Band {
    /// Upper end of the band in the inclusion hash, in (0, 1]; it begins where the one before ends.
    pub until: f64,
    /// Share of each arm, summing to 1.
    pub shares: Vec<f64>,
}

/// Who takes part, and in which arm. A ramp only opens new bands: a unit that is in stays in, with the arm that
/// it has, although later bands may be split otherwise. So an adaptive split moves with new units, and nobody ever
/// switches.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ramp {
    salt: String,
    start: f64,
    bands: Vec<Band>,
}

/// Why a ramp cannot be changed as asked.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum RampError {
    /// The shares are not a distribution over the arms.
    #[error("the shares {shares:?} must be between 0 and 1 and sum to 1")]
    Shares {
        /// What was given.
        shares: Vec<f64>,
    },
    /// A ramp never narrows.
    #[error(
        "the ramp already reaches {reached}; it can only widen, up to 1, so {asked} would switch somebody"
    )]
    Narrower {
        /// Where it is.
        reached: f64,
        /// What was asked for.
        asked: f64,
    },
    /// The number of arms is fixed.
    #[error("this ramp splits between {arms} arms; it was given {given} shares")]
    Arms {
        /// Arms of the ramp.
        arms: usize,
        /// Shares given.
        given: usize,
    },
}

fn check_shares(shares: &[f64]) -> Result<(), RampError> {
    let sum: f64 = shares.iter().sum();
    let valid = shares.iter().all(|share| (0.0..=1.0).contains(share)) && (sum - 1.0).abs() < 1e-9;
    if valid {
        Ok(())
    } else {
        Err(RampError::Shares {
            shares: shares.to_vec(),
        })
    }
}

impl Ramp {
    /// A ramp that takes the part `start..until` of the units under `salt`, split by `shares`. Inclusion and arm
    /// are hashed with separate salts, so who takes part says nothing about the arm.
    ///
    /// # Errors
    /// If the shares are no distribution or the part is empty or outside [0, 1].
    pub fn new(salt: &str, start: f64, until: f64, shares: Vec<f64>) -> Result<Self, RampError> {
        check_shares(&shares)?;
        if !(start >= 0.0 && start < until && until <= 1.0) {
            return Err(RampError::Narrower {
                reached: start,
                asked: until,
            });
        }
        Ok(Self {
            salt: salt.to_owned(),
            start,
            bands: vec![Band { until, shares }],
        })
    }

    /// Opens the ramp to `until` with `shares` for the units that are new.
    ///
    /// # Errors
    /// If it would not widen, or the shares do not fit.
    pub fn widen(&mut self, until: f64, shares: Vec<f64>) -> Result<(), RampError> {
        check_shares(&shares)?;
        let reached = self.reach();
        if !(until > reached && until <= 1.0) {
            return Err(RampError::Narrower {
                reached,
                asked: until,
            });
        }
        let arms = self.bands.first().map_or(0, |band| band.shares.len());
        if arms != shares.len() {
            return Err(RampError::Arms {
                arms,
                given: shares.len(),
            });
        }
        self.bands.push(Band { until, shares });
        Ok(())
    }

    /// Upper end of the part that takes part.
    #[must_use]
    pub fn reach(&self) -> f64 {
        self.bands.last().map_or(self.start, |band| band.until)
    }

    /// Lower end of the part that takes part.
    #[must_use]
    pub fn start(&self) -> f64 {
        self.start
    }

    /// The bands, oldest first.
    #[must_use]
    pub fn bands(&self) -> &[Band] {
        &self.bands
    }

    /// The split in force for a unit at this place; none if it does not take part.
    #[must_use]
    pub fn shares_at(&self, place_in_layer: f64) -> &[f64] {
        let band = self.bands.iter().find(|band| place_in_layer < band.until);
        band.filter(|_| place_in_layer >= self.start)
            .map_or(&[], |band| &band.shares)
    }

    /// Replaces the whole split. Only for units that never come again: each request drawn anew.
    ///
    /// # Errors
    /// If the shares do not fit.
    pub fn resplit(&mut self, shares: Vec<f64>) -> Result<(), RampError> {
        *self = Self::new(&self.salt, self.start, self.reach(), shares)?;
        Ok(())
    }

    /// The arm of `unit` and its probability in (0, 1]; `None` if the unit does not take part. `place_in_layer`
    /// is the unit's place under the layer's salt (see [`place`]).
    #[must_use]
    pub fn assign(&self, place_in_layer: f64, unit: &str) -> Option<(usize, f64)> {
        if place_in_layer < self.start {
            return None;
        }
        let band = self.bands.iter().find(|band| place_in_layer < band.until)?;
        let arm = pick(place(&self.salt, unit), &band.shares)?;
        Some((arm, band.shares[arm]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_hash_is_the_documented_one() {
        // printf 'salt\x1funit' | sha256sum begins with the bytes below.
        let mut hash = Sha256::new();
        hash.update(b"salt\x1funit");
        let first = u64::from_be_bytes(hash.finalize()[..8].try_into().unwrap());
        assert_eq!(place("salt", "unit"), (first >> 11) as f64 / (1u64 << 53) as f64);
    }

    #[test]
    fn shares_are_kept_and_salts_are_independent() {
        let n = 20_000;
        let (mut arm, mut both) = (0, 0);
        for i in 0..n {
            let unit = format!("user:{i}");
            let treated = place("arm", &unit) < 0.3;
            arm += usize::from(treated);
            both += usize::from(treated && place("inclusion", &unit) < 0.5);
        }
        // Within four standard deviations: 6,000 ± 259 and 3,000 ± 202.
        assert!((5741..6259).contains(&arm), "{arm}");
        assert!((2798..3202).contains(&both), "{both}");
    }

    #[test]
    fn a_ramp_cannot_narrow_or_change_its_arms() {
        let mut ramp = Ramp::new("s", 0.0, 0.5, vec![0.5, 0.5]).unwrap();
        assert!(matches!(
            ramp.widen(0.4, vec![0.5, 0.5]),
            Err(RampError::Narrower { .. })
        ));
        assert!(matches!(ramp.widen(0.6, vec![1.0]), Err(RampError::Arms { .. })));
        assert!(matches!(
            ramp.widen(0.6, vec![0.5, 0.6]),
            Err(RampError::Shares { .. })
        ));
        assert!(Ramp::new("s", 0.5, 0.5, vec![1.0]).is_err());
    }

    #[test]
    fn picks_by_length_and_survives_rounding() {
        assert_eq!(pick(0.0, &[0.0, 1.0]), Some(1));
        assert_eq!(pick(0.999_999, &[0.5, 0.499_9, 0.0]), Some(1));
        assert_eq!(pick(0.5, &[]), None);
    }

    proptest! {
        #[test]
        fn nobody_switches_when_a_ramp_widens(units in proptest::collection::vec("[a-z]{1,8}", 1..50), steps in proptest::collection::vec((0.01..0.3f64, 0.05..0.95f64), 1..6)) {
            let mut ramp = Ramp::new("exp", 0.0, 0.1, vec![0.5, 0.5]).unwrap();
            let all = |ramp: &Ramp| units.iter().map(|unit| ramp.assign(place("layer", unit), unit)).collect::<Vec<_>>();
            let mut before = all(&ramp);
            for (step, share) in steps {
                if ramp.widen((ramp.reach() + step).min(1.0), vec![share, 1.0 - share]).is_err() { continue; }
                let after = all(&ramp);
                for (old, new) in before.iter().zip(&after) {
                    prop_assert!(old.is_none() || old == new);
                }
                before = after;
            }
        }
    }
}
