//! Symmetric matrices as upper triangles, row by row: products, and the exact solution.

/// Entries of the upper triangle of a square matrix.
pub(super) const fn triangle(dimensions: usize) -> usize {
    dimensions * (dimensions + 1) / 2
}

/// Adds `weight` x x' to an upper triangle.
pub(super) fn add_outer(upper: &mut [f64], features: &[f32], weight: f64) {
    let mut rest = upper;
    for (index, &feature) in features.iter().enumerate() {
        let (row, tail) = rest.split_at_mut(features.len() - index);
        let factor = weight * f64::from(feature);
        if factor != 0.0 {
            for (entry, &other) in row.iter_mut().zip(&features[index..]) {
                *entry += factor * f64::from(other);
            }
        }
        rest = tail;
    }
}

/// Dot product in eight lanes: one running sum would not vectorise, since float addition is not associative.
pub(in crate::policy) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; 8];
    let (a_blocks, b_blocks) = (a.chunks_exact(8), b.chunks_exact(8));
    let tail: f32 = a_blocks
        .remainder()
        .iter()
        .zip(b_blocks.remainder())
        .map(|(x, y)| x * y)
        .sum();
    for (x, y) in a_blocks.zip(b_blocks) {
        for lane in 0..8 {
            lanes[lane] += x[lane] * y[lane];
        }
    }
    lanes.iter().sum::<f32>() + tail
}

/// Solves A w = b and inverts A by Cholesky's factorisation of its upper triangle. `None` unless A is positive
/// definite and everything finite.
pub(super) fn solve(upper: &[f64], right: &[f64]) -> Option<(Vec<f64>, Vec<f64>)> {
    let size = right.len();
    let mut factor = vec![0.0; size * size]; // lower triangular L with A = L L'
    let mut start = 0;
    for row in 0..size {
        for column in row..size {
            factor[column * size + row] = upper[start + column - row];
        }
        start += size - row;
    }
    for column in 0..size {
        for row in column..size {
            let (a, b) = (&factor[row * size..row * size + column], &factor[column * size..]);
            let sum: f64 = a.iter().zip(b).map(|(x, y)| x * y).sum();
            factor[row * size + column] -= sum;
        }
        let pivot = factor[column * size + column];
        if !pivot.is_finite() || pivot <= 1e-12 {
            return None;
        }
        let root = pivot.sqrt();
        for row in column..size {
            factor[row * size + column] /= root;
        }
    }
    // Invert L by forward substitution, column by column; then A^-1 = L'^-1 L^-1.
    let mut inverse = vec![0.0; size * size];
    for column in 0..size {
        inverse[column * size + column] = 1.0 / factor[column * size + column];
        for row in column + 1..size {
            let sum: f64 = (column..row)
                .map(|k| factor[row * size + k] * inverse[k * size + column])
                .sum();
            inverse[row * size + column] = -sum / factor[row * size + row];
        }
    }
    let mut covariance = vec![0.0; size * size];
    for k in 0..size {
        for row in 0..=k {
            let left = inverse[k * size + row];
            for column in 0..=k {
                covariance[row * size + column] += left * inverse[k * size + column];
            }
        }
    }
    let solution: Vec<f64> = covariance
        .chunks_exact(size)
        .map(|row| row.iter().zip(right).map(|(x, y)| x * y).sum())
        .collect();
    solution
        .iter()
        .all(|x: &f64| x.is_finite())
        .then_some((solution, covariance))
}
