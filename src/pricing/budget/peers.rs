//! The shape of a budget's periods, as its accounts have learned it: what a new user's first day begins with.

use std::collections::HashMap;

/// Profiles that the mean goes over.
const MEMORY: f64 = 50.0;

/// The mean share of each slot, by budget.
#[derive(Debug, Default)]
pub(super) struct Peers(HashMap<String, Shape>);

#[derive(Debug, Default)]
struct Shape {
    shares: Vec<f64>,
    profiles: f64,
}

impl Peers {
    /// Takes in the profile of one of the budget's accounts. Each counts alike, however many requests it has.
    pub(super) fn learn(&mut self, budget: &str, profile: &[f64]) {
        let requests: f64 = profile.iter().sum();
        if requests <= 0.0 {
            return;
        }
        let shape = self.0.entry(budget.to_owned()).or_default();
        if shape.shares.len() != profile.len() {
            *shape = Shape {
                shares: vec![0.0; profile.len()],
                profiles: 0.0,
            };
        }
        shape.profiles = (shape.profiles + 1.0).min(MEMORY);
        for (mean, count) in shape.shares.iter_mut().zip(profile) {
            *mean += (count / requests - *mean) / shape.profiles;
        }
    }

    /// The mean share of each slot; empty if nothing is known.
    pub(super) fn shares(&self, budget: &str) -> Vec<f64> {
        self.0
            .get(budget)
            .map(|shape| shape.shares.clone())
            .unwrap_or_default()
    }

    /// The budget's periods are others now.
    pub(super) fn forget(&mut self, budget: &str) {
        self.0.remove(budget);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_account_counts_alike() {
        let mut peers = Peers::default();
        assert!(peers.shares("users").is_empty());
        peers.learn("users", &[90.0, 10.0]);
        peers.learn("users", &[1.0, 3.0]);
        peers.learn("users", &[0.0, 0.0]);
        let shares = peers.shares("users");
        assert!(
            (shares[0] - 0.575).abs() < 1e-12 && (shares[1] - 0.425).abs() < 1e-12,
            "{shares:?}"
        );
        peers.learn("users", &[1.0, 1.0, 2.0]);
        assert_eq!(peers.shares("users"), [0.25, 0.25, 0.5]);
        peers.forget("users");
        assert!(peers.shares("users").is_empty());
    }
}
