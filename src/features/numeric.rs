//! Small flat-slice arithmetic shared by the views.

/// The dot product of two slices of one length, in four lanes so that it vectorises.
#[inline]
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; 8];
    let (a_chunks, a_rest) = a.as_chunks::<8>();
    let (b_chunks, b_rest) = b.as_chunks::<8>();
    for (x, y) in a_chunks.iter().zip(b_chunks) {
        for lane in 0..8 {
            lanes[lane] += x[lane] * y[lane];
        }
    }
    lanes.iter().sum::<f32>() + a_rest.iter().zip(b_rest).map(|(x, y)| x * y).sum::<f32>()
}

/// How many of `bytes` are of a kind. Sums of single bytes vectorise; a block holds no more than such a sum can.
#[inline]
pub(super) fn count(bytes: &[u8], is_one: impl Fn(u8) -> bool) -> usize {
    count_pairs(bytes, bytes, |byte, _| is_one(byte))
}

/// How many pairs of bytes in the same place of `a` and `b` are of a kind.
#[inline]
pub(super) fn count_pairs(a: &[u8], b: &[u8], is_one: impl Fn(u8, u8) -> bool) -> usize {
    const BLOCK: usize = u8::MAX as usize;
    let blocks = a.chunks(BLOCK).zip(b.chunks(BLOCK));
    let in_block = |(a, b): (&[u8], &[u8])| {
        let ones = a.iter().zip(b).map(|(a, b)| u8::from(is_one(*a, *b)));
        usize::from(ones.sum::<u8>())
    };
    blocks.map(in_block).sum()
}

/// What so many of a kind count for, at least one: 1 + ln n. Most are one, which takes no logarithm.
pub(super) fn dampened(count: usize) -> f32 {
    if count == 1 {
        1.0
    } else {
        1.0 + (count as f32).ln()
    }
}

/// Divides by the Euclidean norm; leaves a zero vector as it is.
pub(super) fn normalise(vector: &mut [f32]) {
    let norm = dot(vector, vector).sqrt();
    if norm > 0.0 && norm.is_finite() {
        vector.iter_mut().for_each(|value| *value /= norm);
    }
}

/// Softmax in place: p_i = exp(v_i - max v) / sum_j exp(v_j - max v).
pub(super) fn softmax(values: &mut [f32]) {
    let max = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut total = 0.0;
    for value in values.iter_mut() {
        *value = (*value - max).exp();
        total += *value;
    }
    values.iter_mut().for_each(|value| *value /= total);
}

/// The bfloat16 nearest to a finite float.
#[must_use]
pub fn to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    ((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) as u16
}

/// Features beyond this many half standard deviations carry no more meaning, only leverage.
const LIMIT: f32 = 4.0;

/// (v - mean) * scale, held within +-2: features are standardised to a standard deviation of one half.
#[inline]
pub(super) fn standardise(value: f32, mean: f32, scale: f32) -> f32 {
    let standard = ((value - mean) * scale).clamp(-LIMIT, LIMIT);
    if standard.is_finite() { standard * 0.5 } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_pass_the_bounds_of_blocks() {
        let bytes: Vec<u8> = (0..=u8::MAX).cycle().take(1000).collect();
        assert_eq!(count(&bytes, |_| true), 1000);
        assert_eq!(count(&bytes, |byte| byte < 10), 40);
        assert_eq!(count_pairs(&bytes, &bytes[1..], |a, b| a > b), 3);
        assert_eq!(count(&[], |_| true), 0);
    }

    #[test]
    fn bfloat16_rounds_to_nearest() {
        for value in [0.0, 1.0, -0.337, 1e-20, -3e8] {
            // The upper half of a float's bits.
            let back = f32::from_bits(u32::from(to_bf16(value)) << 16);
            assert!(
                (back - value).abs() <= value.abs() / 256.0,
                "{value} became {back}"
            );
        }
    }

    #[test]
    fn softmax_of_a_known_pair() {
        let mut values = [0.0, 3.0_f32.ln()];
        softmax(&mut values);
        assert!((values[0] - 0.25).abs() < 1e-6 && (values[1] - 0.75).abs() < 1e-6);
    }

    #[test]
    fn dot_covers_the_rest_beyond_whole_chunks() {
        let a: Vec<f32> = (0..11).map(|i| i as f32).collect();
        assert_eq!(dot(&a, &a), 385.0);
    }

    #[test]
    fn standardising_clamps_and_survives_nonsense() {
        assert_eq!(standardise(3.0, 1.0, 0.5), 0.5);
        assert_eq!(standardise(1e30, 0.0, 1.0), 2.0);
        assert_eq!(standardise(f32::NAN, 0.0, 1.0), 0.0);
    }
}
