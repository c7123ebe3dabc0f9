//! Many slices, one error rate.

/// Which of the hypotheses may be rejected with a false-discovery rate of at most `rate`: the step-up procedure
/// of Benjamini and Hochberg, *Controlling the false discovery rate*, JRSS B 57 (1995): with the p-values in
/// ascending order, reject the first k for the largest k with `p_(k) <= k/m · rate`. The answers are in the order
/// given; a NaN is never rejected and does count in m. Valid for independent or positively dependent tests.
#[must_use]
pub fn benjamini_hochberg(p_values: &[f64], rate: f64) -> Vec<bool> {
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    order.sort_by(|a, b| p_values[*a].total_cmp(&p_values[*b]));
    let m = p_values.len() as f64;
    let last = order
        .iter()
        .enumerate()
        .filter(|(k, i)| p_values[**i] <= (k + 1) as f64 / m * rate)
        .map(|(k, _)| k)
        .next_back();
    let mut rejected = vec![false; p_values.len()];
    for i in order.iter().take(last.map_or(0, |k| k + 1)) {
        rejected[*i] = true;
    }
    rejected
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worked_example() {
        // m = 5, rate .05: thresholds .01 .02 .03 .04 .05 against .005 .011 .035 .039 .6: the fourth passes, so
        // the third does too although it is above its own threshold.
        let rejected = benjamini_hochberg(&[0.6, 0.005, 0.039, 0.011, 0.035], 0.05);
        assert_eq!(rejected, [false, true, true, true, true]);
        assert!(benjamini_hochberg(&[], 0.05).is_empty());
        assert_eq!(benjamini_hochberg(&[f64::NAN, 0.2], 0.05), [false, false]);
    }
}
