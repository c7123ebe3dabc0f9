//! Spending a budget evenly: what the next requests may cost, from what the last ones did.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// Requests over which an overspent sum is paid back, and an unspent one used.
const HORIZON: f64 = 100.0;
/// Bounds of what a request may cost while that is done, over the budget.
const ALLOWANCE: (f64, f64) = (0.3, 1.2);
/// Requests in a window, and what it is planned to spend of its budget at most, so that surprises stay within 1.10.
const WINDOW: usize = 200;
const WINDOW_USE: f64 = 1.07;

/// The account of a budget per request.
///
/// The solver is told to spend B - (spent - B n) / 100 on average, within \[0.3, 1.2\] B: a debt is paid back and a
/// surplus used within the next hundred requests or so. Correcting the dollars and not the price of a dollar answers a
/// change of traffic in proportion, however steep the trade between quality and cost is. A known change (price, arms)
/// starts the account anew: the solver answers at once, and what was spent under the old truth is not held
/// against the new one. The window of the latest requests goes on, so that the requests around such a change do not spend
/// two windows' worth.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pacer {
    spent: f64,
    requests: f64,
    /// Dollars of each of the latest requests, and of the one that is not over.
    window: VecDeque<f64>,
    beside: f64,
}

impl Pacer {
    /// Takes the cost of a call into account. `ends_request` is false for what a request spends beside its
    /// answer (a lost hedge).
    pub fn record(&mut self, cost_usd: f64, ends_request: bool, budget_usd: f64) {
        if budget_usd.is_nan() || budget_usd <= 0.0 || !cost_usd.is_finite() {
            return;
        }
        self.spent += cost_usd;
        self.beside += cost_usd;
        if !ends_request {
            return;
        }
        self.requests += 1.0;
        self.window.push_back(std::mem::take(&mut self.beside));
        if self.window.len() >= WINDOW {
            self.window.pop_front();
        }
    }

    /// Forgets what is owed after a known change. What the latest requests spent stays: a window of requests does not
    /// begin anew with it.
    pub fn restart(&mut self) {
        self.spent = 0.0;
        self.requests = 0.0;
    }

    /// What the next requests may cost on average.
    #[must_use]
    pub fn allowance(&self, budget_usd: f64) -> f64 {
        let owed = self.spent - budget_usd * self.requests;
        let (least, most) = ALLOWANCE;
        (budget_usd - owed / HORIZON).clamp(least * budget_usd, most * budget_usd)
    }

    /// The most that the next call may come to for the latest 200 requests to stay within their budget, with a little
    /// over it: of those, this one's share, where `routers` share the traffic.
    #[must_use]
    pub fn room(&self, budget_usd: f64, routers: u32) -> f64 {
        let own = WINDOW / (routers.max(1) as usize).min(WINDOW);
        let latest: f64 = self.window.iter().rev().take(own - 1).sum();
        (WINDOW_USE * own as f64 * budget_usd - latest).max(0.0)
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
    fn a_debt_is_paid_back_within_a_hundred_requests() {
        let mut pacer = Pacer::default();
        assert_eq!(pacer.allowance(1.0), 1.0);
        // Ten requests at twice the budget owe ten: the next may spend a tenth less.
        (0..10).for_each(|_| pacer.record(2.0, true, 1.0));
        assert!((pacer.allowance(1.0) - 0.9).abs() < 1e-12);
        assert_eq!(pacer.budget_use(1.0), Some(2.0));
        // A lost hedge spends, but is no request.
        pacer.record(10.0, false, 1.0);
        assert!((pacer.allowance(1.0) - 0.8).abs() < 1e-12);
        (0..500).for_each(|_| pacer.record(3.0, true, 1.0));
        assert!((pacer.allowance(1.0) - 0.3).abs() < 1e-12);
    }

    #[test]
    fn a_window_that_is_nearly_spent_has_no_room_for_a_dear_call() {
        let mut pacer = Pacer::default();
        assert!((pacer.room(1.5, 1) - 321.0).abs() < 1e-9);
        (0..300).for_each(|_| pacer.record(1.0, true, 1.0));
        // 199 of the latest count; 214 may be spent.
        assert!((pacer.room(1.0, 1) - 15.0).abs() < 1e-9);
        // One of two routers has a window of a hundred, 107 to be spent of it; of a thousand each has one request.
        assert!((pacer.room(1.0, 2) - 8.0).abs() < 1e-9);
        assert!((pacer.room(1.0, 1_000) - 1.07).abs() < 1e-9);
        (0..50).for_each(|_| pacer.record(2.0, true, 1.0));
        assert_eq!(pacer.room(1.0, 1), 0.0);
    }

    #[test]
    fn spending_settles_on_the_budget_where_the_solver_is_wrong() {
        // A solver whose choices cost 30 % more than it believes.
        let mut pacer = Pacer::default();
        for _ in 0..2000 {
            pacer.record(1.3 * pacer.allowance(1.0), true, 1.0);
        }
        let used = pacer.budget_use(1.0).unwrap_or(0.0);
        assert!((0.99..1.02).contains(&used), "{used}");
    }

    #[test]
    fn a_known_change_leaves_no_wind_up() {
        let mut pacer = Pacer::default();
        (0..500).for_each(|_| pacer.record(0.1, true, 1.0));
        assert!(pacer.allowance(1.0) > 1.1);
        let room = pacer.room(1.0, 1);
        pacer.restart();
        assert_eq!(pacer.allowance(1.0), 1.0);
        assert_eq!(pacer.room(1.0, 1), room, "what was spent stays spent");
    }
}
