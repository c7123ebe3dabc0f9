//! Spending a budget evenly: feed-forward from the solver, corrected by what was really spent.

use serde::{Deserialize, Serialize};

/// Weight of one request in the running mean cost.
const MEMORY: f64 = 0.02;
/// Correction of ln lambda per request at a relative error of 1.
const GAIN: f64 = 0.05;
/// Requests over which an overspent sum is paid back.
const HORIZON: f64 = 200.0;
/// Bounds of the correction of ln lambda: down by e^3, up by e^6.
const CORRECTION: (f64, f64) = (-3.0, 6.0);

/// A proportional-integral correction f of the solved price of a dollar: lambda = lambda_0 exp(f).
///
/// f <- clip(f + 0.05 (clip(ema / B - 1) + clip((spent - B n) / (200 B)))), both errors clipped to \[-1, 1\], so
/// that one dear answer cannot swing it. A known change (price, arms, budget) starts it anew: the solver answers
/// at once, and what was spent under the old truth is not held against the new one (no wind-up).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Pacer {
    correction: f64,
    mean_cost: f64,
    spent: f64,
    requests: f64,
}

impl Pacer {
    /// Takes the cost of a call into account. `ends_request` is false for what a request spends beside its
    /// answer (a lost hedge).
    pub fn record(&mut self, cost_usd: f64, ends_request: bool, budget_usd: f64) {
        if budget_usd.is_nan() || budget_usd <= 0.0 || !cost_usd.is_finite() {
            return;
        }
        self.spent += cost_usd;
        if !ends_request {
            return;
        }
        self.requests += 1.0;
        let memory = MEMORY.max(1.0 / (self.requests + 1.0 / MEMORY));
        if self.requests <= 1.0 {
            self.mean_cost = budget_usd;
        }
        self.mean_cost += memory * (cost_usd - self.mean_cost);
        let rate = (self.mean_cost / budget_usd - 1.0).clamp(-1.0, 1.0);
        let owed = self.spent - budget_usd * self.requests;
        let debt = (owed / (HORIZON * budget_usd)).clamp(-1.0, 1.0);
        self.correction = (self.correction + GAIN * (rate + debt)).clamp(CORRECTION.0, CORRECTION.1);
    }

    /// Forgets the correction and the account after a known change.
    pub fn restart(&mut self) {
        *self = Self::default();
    }

    /// The factor exp(f) on the solved lambda.
    #[must_use]
    pub fn factor(&self) -> f64 {
        self.correction.exp()
    }

    /// Spent over allowed since the last known change.
    #[must_use]
    pub fn budget_use(&self, budget_usd: f64) -> Option<f64> {
        (self.requests > 0.0 && budget_usd > 0.0).then(|| self.spent / (budget_usd * self.requests))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_step_by_hand() {
        let mut pacer = Pacer::default();
        // First request at twice the budget: ema = 1 + 1/51 with B = 1, debt = 1/200.
        pacer.record(2.0, true, 1.0);
        let memory = 0.02_f64.max(1.0 / 51.0);
        let correction = 0.05 * (memory + 1.0 / 200.0);
        assert!((pacer.factor().ln() - correction).abs() < 1e-12);
        assert_eq!(pacer.budget_use(1.0), Some(2.0));
    }

    #[test]
    fn spending_settles_on_the_budget_where_cost_falls_with_lambda() {
        // A route whose mean cost is 1 / lambda and whose solver is wrong by a factor of 2.
        let (budget, solved) = (1.0, 0.5);
        let mut pacer = Pacer::default();
        for _ in 0..2000 {
            let cost = 1.0 / (solved * pacer.factor());
            pacer.record(cost, true, budget);
        }
        let used = pacer.budget_use(budget).unwrap();
        assert!((0.99..1.01).contains(&used), "{used}");
    }

    #[test]
    fn a_known_change_leaves_no_wind_up() {
        let mut pacer = Pacer::default();
        (0..500).for_each(|_| pacer.record(0.1, true, 1.0));
        assert!(pacer.factor() < 0.1);
        pacer.restart();
        assert!((pacer.factor() - 1.0).abs() < 1e-12);
    }
}
