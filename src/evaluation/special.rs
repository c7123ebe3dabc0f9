//! The distribution functions that the tests of this room need, from their series and continued fractions.

/// Iterations after which a series or continued fraction counts as converged: both need about `sqrt(a)` terms.
const MAX_TERMS: u32 = 10_000;
/// Relative size of a term that no longer matters.
const EPSILON: f64 = 1e-15;

/// `ln Γ(x)` for `x > 0`: Stirling's series after shifting `x` above 10 by the recurrence Γ(x+1) = xΓ(x).
/// NaN for `x <= 0`.
#[must_use]
pub fn ln_gamma(x: f64) -> f64 {
    if x <= 0.0 || x.is_nan() {
        return f64::NAN;
    }
    let (mut shifted, mut product) = (x, 1.0);
    while shifted < 10.0 {
        product *= shifted;
        shifted += 1.0;
    }
    let inverse = 1.0 / shifted;
    let square = inverse * inverse;
    // Bernoulli terms 1/12x, -1/360x^3, 1/1260x^5, -1/1680x^7.
    let tail = inverse * (1.0 / 12.0 - square * (1.0 / 360.0 - square * (1.0 / 1260.0 - square / 1680.0)));
    (shifted - 0.5) * shifted.ln() - shifted + 0.5 * std::f64::consts::TAU.ln() + tail - product.ln()
}

/// The regularised upper incomplete gamma function Q(a, x) = Γ(a, x) / Γ(a), in [0, 1]. NaN unless `a > 0` and
/// `x >= 0`. Abramowitz and Stegun, 6.5.29 (series) below `a + 1`, 6.5.31 (continued fraction) above.
#[must_use]
pub fn upper_gamma(a: f64, x: f64) -> f64 {
    if a <= 0.0 || x < 0.0 || a.is_nan() || x.is_nan() {
        return f64::NAN;
    }
    if x == 0.0 {
        return 1.0;
    }
    let scale = (a * x.ln() - x - ln_gamma(a)).exp();
    if x < a + 1.0 {
        let (mut term, mut sum) = (1.0 / a, 1.0 / a);
        for k in 1..MAX_TERMS {
            term *= x / (a + f64::from(k));
            sum += term;
            if term < sum * EPSILON {
                break;
            }
        }
        return (1.0 - scale * sum).clamp(0.0, 1.0);
    }
    // Modified Lentz evaluation; `tiny` stands for a zero denominator.
    let tiny = 1e-300;
    let mut b = x + 1.0 - a;
    let mut c = 1.0 / tiny;
    let mut d = 1.0 / b;
    let mut fraction = d;
    for k in 1..MAX_TERMS {
        let k = f64::from(k);
        let numerator = -k * (k - a);
        b += 2.0;
        d = numerator * d + b;
        d = 1.0 / if d.abs() < tiny { tiny } else { d };
        c = b + numerator / c;
        c = if c.abs() < tiny { tiny } else { c };
        fraction *= d * c;
        if (d * c - 1.0).abs() < EPSILON {
            break;
        }
    }
    (scale * fraction).clamp(0.0, 1.0)
}

/// P(X > `statistic`) for a chi-square variable with `freedom` degrees of freedom (> 0).
#[must_use]
pub fn chi_square_tail(statistic: f64, freedom: f64) -> f64 {
    upper_gamma(freedom / 2.0, statistic.max(0.0) / 2.0)
}

/// P(|Z| > |z|) for a standard normal variable: the two-sided p-value of `z`.
#[must_use]
pub fn normal_two_sided(z: f64) -> f64 {
    upper_gamma(0.5, z * z / 2.0)
}

/// Φ(z), the standard normal distribution function.
#[must_use]
pub fn normal_cdf(z: f64) -> f64 {
    let half = 0.5 * normal_two_sided(z);
    if z < 0.0 { half } else { 1.0 - half }
}

/// The standard normal quantile of `p` in (0, 1), by bisection of [`normal_cdf`] to 1e-12; infinite at the ends.
#[must_use]
pub fn normal_quantile(p: f64) -> f64 {
    if p <= 0.0 {
        return f64::NEG_INFINITY;
    }
    if p >= 1.0 {
        return f64::INFINITY;
    }
    let (mut low, mut high) = (-40.0, 40.0);
    for _ in 0..100 {
        let middle = 0.5 * (low + high);
        if normal_cdf(middle) < p {
            low = middle;
        } else {
            high = middle;
        }
    }
    0.5 * (low + high)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64, tolerance: f64) {
        assert!((a - b).abs() <= tolerance, "{a} is not {b}");
    }

    #[test]
    fn gamma_of_whole_numbers_is_a_factorial() {
        close(ln_gamma(5.0), 24f64.ln(), 1e-10);
        close(ln_gamma(0.5), std::f64::consts::PI.sqrt().ln(), 1e-10);
    }

    #[test]
    fn tails_match_printed_tables() {
        close(normal_two_sided(1.959_963_985), 0.05, 1e-9);
        close(normal_two_sided(3.290_526_731), 0.001, 1e-11);
        close(chi_square_tail(3.841_458_821, 1.0), 0.05, 1e-9);
        close(chi_square_tail(10.827_566_17, 1.0), 0.001, 1e-10);
        close(chi_square_tail(5.991_464_547, 2.0), 0.05, 1e-9);
        // Two degrees of freedom: the tail is exp(-x / 2) exactly, on both branches.
        close(chi_square_tail(0.5, 2.0), (-0.25f64).exp(), 1e-12);
        close(chi_square_tail(60.0, 2.0), (-30f64).exp(), 1e-24);
    }

    #[test]
    fn quantiles_invert_the_distribution() {
        close(normal_quantile(0.975), 1.959_963_985, 1e-8);
        close(normal_quantile(0.2), -0.841_621_234, 1e-8);
        close(normal_quantile(0.5), 0.0, 1e-9);
    }
}
