//! How far all models of which nothing was recorded lie above or below what they start from: the first scores of some
//! tell it of the others.

use serde::{Deserialize, Serialize};

/// Variance between places of use of how far new models are off together: the six recorded sources differ in how hard
/// they are by some .14.
const VARIANCE: f64 = 0.02;

/// A level common to all new models, above what they borrow from others (a random effect of the place of use; Robinson,
/// *Statistical Science* 6, 1991). Normal, in information form, so that what several replicas saw adds up.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Transfer {
    precision: f64,
    information: f64,
}

/// What was learned since a moment, for other replicas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TransferDelta {
    precision: f64,
    information: f64,
}

impl Default for Transfer {
    fn default() -> Self {
        Self {
            precision: 1.0 / VARIANCE,
            information: 0.0,
        }
    }
}

impl Transfer {
    /// Expected quality points above what new models start from.
    #[must_use]
    pub fn mean(&self) -> f64 {
        self.information / self.precision
    }

    /// Takes in that a score of a new model came out `error` above what was expected, where `variance` is that of all
    /// else that may have made it so: the score's own, and what was open of that model.
    pub fn learn(&mut self, error: f64, variance: f64) {
        let seen = self.mean() + error;
        self.precision += 1.0 / variance;
        self.information += seen / variance;
    }

    /// What was learned since it was `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> TransferDelta {
        TransferDelta {
            precision: self.precision - before.precision,
            information: self.information - before.information,
        }
    }

    /// Adds what was learned elsewhere.
    pub fn merge(&mut self, delta: &TransferDelta) {
        self.precision += delta.precision;
        self.information += delta.information;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_score_by_hand() {
        let mut transfer = Transfer::default();
        assert_eq!(transfer.mean(), 0.0);
        // A score .3 below what was expected, with .18 of other variance: a gain of .02 / (.02 + .18) = .1.
        transfer.learn(-0.3, 0.18);
        assert!((transfer.mean() + 0.03).abs() < 1e-12);
        // The next gain is .018 / (.018 + .18) = 1/11.
        transfer.learn(0.22, 0.18);
        assert!((transfer.mean() + 0.01).abs() < 1e-12);
    }

    #[test]
    fn what_two_saw_adds_up() {
        let start = Transfer::default();
        let (mut one, mut other) = (start, start);
        one.learn(-0.4, 0.2);
        other.learn(0.3, 0.2);
        let (mut ab, mut ba) = (one, other);
        ab.merge(&other.since(&start));
        ba.merge(&one.since(&start));
        assert!((ab.mean() - ba.mean()).abs() < 1e-12);
        // As if one had seen both: (-.4 + .3) / .2 over 1 / .02 + 2 / .2.
        assert!((ab.mean() + 0.5 / 60.0).abs() < 1e-12);
        let mut unheard = start;
        unheard.merge(&start.since(&start));
        assert_eq!(unheard, start);
    }
}
