//! Pacing: what one request may cost now so that the period's money lasts exactly until its end.
//!
//! target = money left / requests still to come, which [`Arrivals`](super::arrivals::Arrivals) forecasts. A burst then
//! lowers the target for everyone a little instead of leaving nothing for the hours after it.
//!
//! What requests really cost is compared with what they were to cost, and the next targets are corrected by it: a
//! router that cannot meet its target exactly would spend too fast at first and starve the end, or the reverse.

use serde::{Deserialize, Serialize};

/// Weight of one request in the running sums that compare what was spent with what was aimed at.
const AIM_GAIN: f64 = 0.01;
/// Requests' worth of perfect aim that the sums begin with.
const AIM_PRIOR: f64 = 20.0;
/// Bounds of the correction. Upwards it is small: a router that cannot or need not spend its target is no reason to
/// raise it, for when that changes it would spend far too fast.
const CORRECTION: (f64, f64) = (0.5, 1.2);

/// How what is spent compares with what was aimed at, over about the last hundred requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Aim {
    aimed: f64,
    spent: f64,
}

impl Aim {
    /// A request is to cost `target`.
    pub(super) fn take(&mut self, target: f64) {
        self.aimed += AIM_GAIN * (target - self.aimed);
        self.spent -= AIM_GAIN * self.spent;
    }

    /// A call has cost so much.
    pub(super) fn hit(&mut self, cost: f64) {
        self.spent += AIM_GAIN * cost;
    }

    /// `target`, corrected so that about as much will be spent.
    pub(super) fn correct(&self, target: f64) -> f64 {
        let prior = AIM_GAIN * AIM_PRIOR * target;
        let factor = (self.aimed + prior) / (self.spent + prior);
        let (least, most) = CORRECTION;
        target
            * if factor.is_finite() {
                factor.clamp(least, most)
            } else {
                1.0
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_costs_more_than_it_should_is_aimed_lower() {
        let mut aim = Aim::default();
        assert_eq!(aim.correct(1.0), 1.0);
        let mut spent = 0.0;
        for _ in 0..1_000 {
            let target = aim.correct(1.0);
            aim.take(target);
            aim.hit(1.5 * target);
            spent += 1.5 * target;
        }
        assert!((0.95..1.1).contains(&(spent / 1_000.0)), "{spent}");
        // Nothing is spent at all: no reason to aim at more than a fifth above.
        (0..1_000).for_each(|_| aim.take(1.0));
        assert_eq!(aim.correct(1.0), 1.2);
    }
}
