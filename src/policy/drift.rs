//! The fast part of an arm's quality: a level that walks, and an alarm when it jumps.

use serde::{Deserialize, Serialize};

/// How fast an arm may change.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DriftSettings {
    /// Variance that the level gains with every request to the route while the arm is in use (q).
    pub walk_variance: f64,
    /// Variance up to which an arm that nobody watches becomes uncertain: larger, and one unlucky answer of a rarely
    /// used arm would count as a change.
    pub idle_variance: f64,
    /// Requests in which the level of an unwatched arm falls back to 1/e: what was bad once need not stay bad.
    pub reversion: f64,
    /// Largest variance of the level (p_max); an alarm sets it.
    pub max_variance: f64,
    /// Standardised residual that the alarm lets pass (CUSUM slack), in noise standard deviations.
    pub slack: f64,
    /// Sum of excess residuals at which the alarm goes off.
    pub threshold: f64,
    /// Share of the threshold that is enough for a change back, against the present level of an arm that has changed.
    pub returning: f64,
    /// Standardised residuals are clipped here, so that two bad answers are not a change.
    pub clip: f64,
}

impl Default for DriftSettings {
    fn default() -> Self {
        Self {
            walk_variance: 1e-8,
            idle_variance: 5e-4,
            reversion: 1000.0,
            max_variance: 0.02,
            slack: 0.5,
            threshold: 9.0,
            returning: 0.7,
            clip: 2.5,
        }
    }
}

/// Direction of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// The arm became better.
    Up,
    /// The arm became worse.
    Down,
}

/// Kalman's filter of a random walk delta, with Page's CUSUM on the standardised residuals (Page 1954).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Drift {
    level: f64,
    variance: f64,
    upper: f64,
    lower: f64,
    /// Value of the caller's clock at the last step.
    stepped_at: u64,
    /// Whether an alarm has ever said that the arm is not what it was.
    #[serde(default)]
    shifted: bool,
}

impl Drift {
    /// Level after the last step.
    #[must_use]
    pub const fn level(&self) -> f64 {
        self.level
    }

    /// What the slow model must not learn: the level at `clock` once an alarm has gone off. What a model was before it
    /// changed is worth knowing when it changes back. Without an alarm the level is the slow model's own error.
    #[must_use]
    pub fn shift_at(&self, clock: u64, settings: &DriftSettings) -> f64 {
        if self.shifted {
            self.level_at(clock, settings)
        } else {
            0.0
        }
    }

    /// Level at `clock`: what must be added to the slow model's mean. It falls back while nothing is observed.
    #[must_use]
    pub fn level_at(&self, clock: u64, settings: &DriftSettings) -> f64 {
        let idle = clock.saturating_sub(self.stepped_at) as f64;
        self.level * (-idle / settings.reversion.max(1.0)).exp()
    }

    /// Variance of the level at `clock`: it grows while nothing is observed.
    #[must_use]
    pub fn variance_at(&self, clock: u64, settings: &DriftSettings) -> f64 {
        let idle = clock.saturating_sub(self.stepped_at) as f64;
        let grown = self.variance + settings.walk_variance * idle;
        grown
            .min(settings.idle_variance.max(self.variance))
            .min(settings.max_variance)
    }

    /// Takes in the residual of the slow model (reward less its mean, without the level) with noise of
    /// `noise_variance`. `open_variance` is what the slow model's own mean may be off by. `clock` counts the route's
    /// requests.
    ///
    /// p <- min(p + q dt, p_max); k = p / S; delta += k (residual - delta); p <- (1 - k) p, where S = p + open + sigma^2 is
    /// the variance of the innovation (S = H P H' + R; Kalman 1960). The alarm goes by it too: what is not known yet is no
    /// change.
    pub fn step(
        &mut self,
        residual: f64,
        noise_variance: f64,
        open_variance: f64,
        clock: u64,
        settings: &DriftSettings,
    ) -> Option<Change> {
        self.level = self.level_at(clock, settings);
        let innovation = residual - self.level;
        self.variance = self.variance_at(clock, settings);
        self.stepped_at = self.stepped_at.max(clock);
        let standard = (self.variance + open_variance + noise_variance).sqrt();
        let z = (innovation / standard).clamp(-settings.clip, settings.clip);
        self.upper = (self.upper + z - settings.slack).max(0.0);
        self.lower = (self.lower - z - settings.slack).max(0.0);
        // An arm that has changed once is expected back.
        let back = if self.shifted {
            settings.threshold * settings.returning
        } else {
            settings.threshold
        };
        let (up, down) = if self.level < 0.0 {
            (back, settings.threshold)
        } else {
            (settings.threshold, back)
        };
        let change = if self.lower >= down {
            Some(Change::Down)
        } else if self.upper >= up {
            Some(Change::Up)
        } else {
            None
        };
        if change.is_some() {
            (self.upper, self.lower) = (0.0, 0.0);
            self.variance = settings.max_variance;
            self.shifted = true;
        }
        let gain = self.variance / (self.variance + open_variance + noise_variance);
        // Scores lie in [0, 1], so no level can be further from the slow mean than 1. Without the limit the two may run
        // away from each other without end: the weights learn the score less the level.
        self.level = (self.level + gain * innovation).clamp(-1.0, 1.0);
        self.variance *= 1.0 - gain;
        change
    }

    /// Makes the level as uncertain as it can be: the arm has changed and nobody knows how.
    pub fn unsettle(&mut self, settings: &DriftSettings) {
        self.variance = settings.max_variance;
        (self.upper, self.lower) = (0.0, 0.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_kalman_step_by_hand() {
        let settings = DriftSettings {
            walk_variance: 0.01,
            max_variance: 1.0,
            idle_variance: 1.0,
            reversion: 1e12,
            ..DriftSettings::default()
        };
        let mut drift = Drift::default();
        // p = 0.01 after one request, k = 0.01 / (0.01 + 0.04) = 0.2, delta = 0.2 * -0.5, p = 0.8 * 0.01.
        assert_eq!(drift.step(-0.5, 0.04, 0.0, 1, &settings), None);
        assert!((drift.level() + 0.1).abs() < 1e-12);
        assert!((drift.variance_at(1, &settings) - 0.008).abs() < 1e-12);
        assert!((drift.variance_at(3, &settings) - 0.028).abs() < 1e-12);
    }

    #[test]
    fn a_slow_model_that_is_far_off_does_not_drag_the_level_along() {
        let settings = DriftSettings::default();
        let mut drift = Drift::default();
        for clock in 1..5_000 {
            let residual = if clock % 2 == 0 { -40.0 } else { -30.0 };
            drift.step(residual, 0.04, 0.0, clock, &settings);
            assert!((-1.0..=1.0).contains(&drift.level()));
        }
    }

    #[test]
    fn a_change_back_takes_less_than_a_change() {
        let steps = |returning: f64| {
            let settings = DriftSettings {
                returning,
                ..DriftSettings::default()
            };
            let mut drift = Drift::default();
            for clock in 1..300 {
                drift.step(-0.4, 0.04, 0.0, clock, &settings);
            }
            (300..400).position(|clock| drift.step(0.0, 0.04, 0.0, clock, &settings) == Some(Change::Up))
        };
        // The level is some .35 below, an excess of 1.2 noise standard deviations a step: 9 / 1.2 and 7.2 / 1.2.
        let (alike, sooner) = (steps(1.0), steps(0.8));
        assert!(matches!(alike, Some(6..=10)), "{alike:?}");
        assert!(
            matches!(sooner, Some(4..=7)) && sooner < alike,
            "{sooner:?} {alike:?}"
        );
    }

    #[test]
    fn what_is_not_known_yet_is_no_change() {
        let settings = DriftSettings::default();
        let alarm = |open: f64| {
            let mut drift = Drift::default();
            let mut steps = 1..200;
            // The slow model is off by .1 and learns that in the course of some twenty scores.
            steps.find(|&clock| {
                let left = 20.0 / (20.0 + clock as f64);
                let change = drift.step(-0.1 * left, 1e-3, open * left, clock, &settings);
                change.is_some()
            })
        };
        assert!(matches!(alarm(0.0), Some(1..20)), "{:?}", alarm(0.0));
        assert_eq!(alarm(0.01), None);
    }

    #[test]
    fn a_lasting_drop_raises_the_alarm_and_the_level_follows() {
        let settings = DriftSettings::default();
        let mut drift = Drift::default();
        let alarm =
            (1..200).find(|&clock| drift.step(-0.3, 0.04, 0.0, clock, &settings) == Some(Change::Down));
        // z starts at 1.5 and excess at 1.0 a step: at least 9 steps, and the walk slows it but little.
        assert!(matches!(alarm, Some(9..=15)), "{alarm:?}");
        for clock in 200..300 {
            drift.step(-0.3, 0.04, 0.0, clock, &settings);
        }
        assert!((drift.level() + 0.3).abs() < 0.05, "{}", drift.level());
    }
}
