//! The expected duration of an attempt, from a log-normal fitted to the window.
//!
//! Durations of model calls are right-skewed; their logarithms are close to normal, so the mean of the fitted
//! distribution, exp(μ + σ²/2), is a steadier prediction than the mean of a few samples. Cut off attempts take
//! part with the expected logarithm *given* that it is larger than where they were cut:
//! E[y | y > c] = μ + σ·h and E[y² | y > c] = σ² + μ² + σ·h·(ln c + μ), with h = φ(a)/(1−Φ(a)) and
//! a = (ln c − μ)/σ. Iterating this is the EM algorithm for a censored normal sample
//! (A. P. Dempster, N. M. Laird, D. B. Rubin, JRSS B 39, 1977, section 4.2).

use super::latencies::Latencies;

/// EM steps. The rate of convergence is the censored share, which is small where this matters.
const STEPS: usize = 20;

/// A log-normal distribution of milliseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LogNormal {
    /// Mean of ln(ms).
    pub mu: f64,
    /// Standard deviation of ln(ms).
    pub sigma: f64,
    /// Observations behind it, cut off ones included.
    pub samples: u64,
}

impl LogNormal {
    /// Fits to a window. `None` unless at least two attempts ended.
    #[must_use]
    pub fn fit(latencies: &Latencies) -> Option<Self> {
        let logs = |buckets: Vec<(f64, u64)>| -> Vec<(f64, f64)> {
            let log = |(ms, count): (f64, u64)| (ms.max(0.01).ln(), count as f64);
            buckets.into_iter().map(log).collect()
        };
        let (ended, cut) = (
            logs(latencies.observed.buckets()),
            logs(latencies.censored.buckets()),
        );
        let count: f64 = ended.iter().map(|(_, n)| n).sum();
        if count < 2.0 {
            return None;
        }
        let sum: f64 = ended.iter().map(|(y, n)| y * n).sum();
        let squares: f64 = ended.iter().map(|(y, n)| y * y * n).sum();
        let all = count + cut.iter().map(|(_, n)| n).sum::<f64>();
        let mut mu = sum / count;
        let mut sigma = spread(squares / count, mu);
        for _ in 0..if cut.is_empty() { 0 } else { STEPS } {
            let (mut first, mut second) = (sum, squares);
            for (c, n) in &cut {
                let h = hazard((c - mu) / sigma);
                first += n * (mu + sigma * h);
                second += n * (sigma * sigma + mu * mu + sigma * h * (c + mu));
            }
            mu = first / all;
            sigma = spread(second / all, mu);
        }
        Some(Self {
            mu,
            sigma,
            samples: all as u64,
        })
    }

    /// The expected duration in milliseconds.
    #[must_use]
    pub fn mean_ms(&self) -> f64 {
        (self.mu + self.sigma * self.sigma / 2.0).exp()
    }
}

/// Standard deviation from the mean square; never quite zero, so that a division by it is safe.
fn spread(mean_square: f64, mean: f64) -> f64 {
    (mean_square - mean * mean).max(1e-6).sqrt()
}

/// φ(a)/(1−Φ(a)), by the continued fraction of Mills' ratio for large `a` and the error function's rational
/// approximation (Abramowitz and Stegun, 7.1.26, error below 1.5e-7) below.
fn hazard(a: f64) -> f64 {
    if a > 4.0 {
        return a + 1.0 / (a + 2.0 / (a + 3.0 / (a + 4.0 / (a + 5.0 / a))));
    }
    let density = (-a * a / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
    density / upper_tail(a).max(1e-12)
}

/// 1−Φ(a).
fn upper_tail(a: f64) -> f64 {
    let x = a.abs() / std::f64::consts::SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * x);
    let poly = t
        * (0.254_829_592
            + t * (-0.284_496_736 + t * (1.421_413_741 + t * (-1.453_152_027 + t * 1.061_405_429))));
    let tail = poly * (-x * x).exp() / 2.0;
    if a >= 0.0 { tail } else { 1.0 - tail }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rand::{Rng, SeedableRng};

    use super::*;
    use crate::telemetry::latencies::Observed;

    /// A normal draw by Box and Muller.
    fn normal(rng: &mut impl Rng) -> f64 {
        let (u, v): (f64, f64) = (rng.gen_range(1e-12..1.0), rng.r#gen());
        (-2.0 * u.ln()).sqrt() * (2.0 * std::f64::consts::PI * v).cos()
    }

    #[test]
    fn the_hazard_by_the_tables() {
        // φ(0)/0.5 = 0.797885; φ(2)/0.0227501 = 2.37322; φ(5)/2.86652e-7 = 5.18650.
        for (a, expected) in [(0.0, 0.797_885), (2.0, 2.373_22), (5.0, 5.186_50)] {
            assert!((hazard(a) - expected).abs() < 2e-3, "{a}: {}", hazard(a));
        }
    }

    #[test]
    fn a_mean_by_hand() {
        let mut latencies = Latencies::default();
        for ms in [100, 200] {
            latencies.record(Observed::Exact(Duration::from_millis(ms)));
        }
        let fit = LogNormal::fit(&latencies).unwrap();
        // ln 100 and ln 200: μ = 4.95174, σ = 0.34657; exp(μ + σ²/2) = 150.17.
        assert!((fit.mean_ms() / 150.17 - 1.0).abs() < 0.01, "{fit:?}");
        assert_eq!(LogNormal::fit(&Latencies::default()), None);
    }

    /// ln t ~ N(6, 0.5²), everything beyond 600 ms cut off (21 %). Ignoring the cut gives 345 ms, taking the cuts
    /// as answers 400 ms; the truth is exp(6.125) = 457 ms.
    #[test]
    fn recovers_a_censored_log_normal() {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(7);
        let mut latencies = Latencies::default();
        for _ in 0..20_000 {
            let ms = (6.0 + 0.5 * normal(&mut rng)).exp();
            latencies.record(if ms > 600.0 {
                Observed::AtLeast(Duration::from_millis(600))
            } else {
                Observed::Exact(Duration::from_secs_f64(ms / 1_000.0))
            });
        }
        let fit = LogNormal::fit(&latencies).unwrap();
        assert!(
            (fit.mean_ms() / 457.1 - 1.0).abs() < 0.02,
            "{fit:?} {}",
            fit.mean_ms()
        );
    }
}
