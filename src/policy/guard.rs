//! Judging the policy by its own log: a doubly robust difference with an always-valid interval.

use serde::{Deserialize, Serialize};

/// Importance weights are clipped here; the model's own prediction covers what is clipped away.
const MOST_WEIGHT: f64 = 20.0;
/// Observations after which old ones fade, so that a verdict can turn.
const MEMORY: f64 = 5000.0;
/// Error rate of the interval.
const ALPHA: f64 = 0.05;
/// Sample size at which the interval is narrowest.
const TUNED_FOR: f64 = 1000.0;
/// Observations before any verdict.
const LEAST: f64 = 100.0;

/// One logged outcome as the doubly robust estimate sees it (Dudik et al. 2011).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    /// Index of the arm that was drawn.
    pub drawn: usize,
    /// Its propensity.
    pub propensity: f64,
    /// Reward less the mean that was predicted for it.
    pub residual: f64,
}

/// Value of choosing `ours` less that of choosing `theirs` for one logged outcome, unbiased whatever the
/// predictions: predicted difference + (\[drawn = ours\] - \[drawn = theirs\]) residual / propensity.
#[must_use]
pub fn doubly_robust_difference(ours: usize, theirs: usize, predicted: f64, outcome: &Outcome) -> f64 {
    if ours == theirs {
        return 0.0;
    }
    let weight = (1.0 / outcome.propensity.max(1e-9)).min(MOST_WEIGHT);
    let sign = f64::from(outcome.drawn == ours) - f64::from(outcome.drawn == theirs);
    predicted + sign * weight * outcome.residual
}

/// Running mean of differences with an asymptotic confidence sequence (Waudby-Smith et al. 2024): it may be looked
/// at after every observation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    count: f64,
    mean: f64,
    squares: f64,
}

impl Difference {
    /// Adds one difference.
    pub fn record(&mut self, difference: f64) {
        if !difference.is_finite() {
            return;
        }
        if self.count >= MEMORY {
            let kept = 1.0 - 1.0 / MEMORY;
            self.count *= kept;
            self.squares *= kept;
        }
        self.count += 1.0;
        let deviation = difference - self.mean;
        self.mean += deviation / self.count;
        self.squares += deviation * (difference - self.mean);
    }

    /// Mean difference.
    #[must_use]
    pub const fn mean(&self) -> f64 {
        self.mean
    }

    /// Half the width of the interval at any time; infinite before there is enough to say.
    ///
    /// s sqrt(2 (n rho^2 + 1) / (n rho)^2 ln(sqrt(n rho^2 + 1) / alpha))
    #[must_use]
    pub fn half_width(&self) -> f64 {
        if self.count < LEAST {
            return f64::INFINITY;
        }
        let n = self.count;
        let rho_squared = (-2.0 * f64::ln(ALPHA) + f64::ln(-2.0 * f64::ln(ALPHA) + 1.0)) / TUNED_FOR;
        let inner = n * rho_squared + 1.0;
        let spread = 2.0 * inner / (n * n * rho_squared) * (inner.sqrt() / ALPHA).ln();
        (self.squares / n).sqrt() * spread.sqrt()
    }
}

/// Who serves: the static mix until the contextual scores have beaten it, and again when they lose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Guard {
    advantage: Difference,
    contextual: bool,
}

impl Guard {
    /// With the contextual scores in charge from the start when a seed has already proven them.
    #[must_use]
    pub const fn new(proven: bool) -> Self {
        Self {
            advantage: Difference {
                count: 0.0,
                mean: 0.0,
                squares: 0.0,
            },
            contextual: proven,
        }
    }

    /// Whether the contextual scores serve.
    #[must_use]
    pub const fn contextual(&self) -> bool {
        self.contextual
    }

    /// Advantage of the contextual scores over the static mix, in the objective's units.
    #[must_use]
    pub const fn advantage(&self) -> &Difference {
        &self.advantage
    }

    /// Takes one doubly robust difference (contextual less static) into account.
    pub fn record(&mut self, difference: f64) {
        self.advantage.record(difference);
        let half = self.advantage.half_width();
        if self.advantage.mean - half > 0.0 {
            self.contextual = true;
        } else if self.advantage.mean + half < 0.0 {
            self.contextual = false;
        }
    }
}

/// Closes the loop on the quality margin: predictions are optimistic after an argmax, so the margin that the solver
/// works with shrinks when the audited loss cannot be shown to be within the promise, and grows back when there is
/// room.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Audit {
    loss: Difference,
    scale: f64,
    since: u32,
}

impl Default for Audit {
    fn default() -> Self {
        Self {
            loss: Difference::default(),
            scale: 1.0,
            since: 0,
        }
    }
}

impl Audit {
    /// Factor on the promised margin.
    #[must_use]
    pub const fn scale(&self) -> f64 {
        self.scale
    }

    /// Quality of the policy less that of the reference arm.
    #[must_use]
    pub const fn difference(&self) -> &Difference {
        &self.loss
    }

    /// Begins anew against another arm. The factor stays: what was promised too much then may be so still.
    pub fn restart(&mut self) {
        self.loss = Difference::default();
        self.since = 0;
    }

    /// Takes one doubly robust quality difference (policy less reference) into account; every 100 of them the
    /// margin moves: down by 20 % when the mean loss exceeds the promise, up by 5 % when even the interval's end
    /// is within half of it.
    pub fn record(&mut self, difference: f64, margin: f64) {
        self.loss.record(difference);
        self.since += 1;
        if self.since < 100 {
            return;
        }
        self.since = 0;
        if self.loss.mean() < -margin {
            self.scale = (self.scale * 0.8).max(0.05);
        } else if self.loss.mean() - self.loss.half_width() > -0.5 * margin {
            self.scale = (self.scale * 1.05).min(1.5);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_estimate_is_unbiased_under_wrong_predictions() {
        // Two arms of true quality 0.9 and 0.5, both predicted at 0.6; each drawn half of the time.
        let drawn_ours = doubly_robust_difference(0, 1, 0.0, &outcome(0, 0.9 - 0.6));
        let drawn_theirs = doubly_robust_difference(0, 1, 0.0, &outcome(1, 0.5 - 0.6));
        assert!((0.5 * (drawn_ours + drawn_theirs) - 0.4).abs() < 1e-12);
        assert_eq!(doubly_robust_difference(1, 1, 0.3, &outcome(0, 1.0)), 0.0);
    }

    fn outcome(drawn: usize, residual: f64) -> Outcome {
        Outcome {
            drawn,
            propensity: 0.5,
            residual,
        }
    }

    #[test]
    fn the_guard_promotes_on_proof_and_demotes_on_proof() {
        let mut guard = Guard::new(false);
        for turn in 0..400 {
            guard.record(if turn % 2 == 0 { 0.3 } else { -0.1 });
        }
        assert!(guard.contextual());
        for turn in 0..20_000 {
            guard.record(if turn % 2 == 0 { 0.1 } else { -0.3 });
        }
        assert!(!guard.contextual());
        let mut even = Guard::new(true);
        (0..2000).for_each(|turn| even.record(if turn % 2 == 0 { 0.2 } else { -0.2 }));
        assert!(even.contextual());
    }

    #[test]
    fn a_broken_promise_shrinks_the_margin() {
        let mut audit = Audit::default();
        (0..200).for_each(|_| audit.record(-0.05, 0.02));
        assert!((audit.scale() - 0.64).abs() < 1e-12);
    }
}
