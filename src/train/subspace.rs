//! The leading right singular vectors of a large sparse matrix by randomised subspace iteration.
//!
//! Halko, Martinsson and Tropp (2011), algorithm 4.4, followed by a Rayleigh-Ritz step: draw a Gaussian block, apply
//! A'A a few times with orthonormalisation between, and turn the block so that it diagonalises A'A.

use ndarray::{Array2, Axis};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::linear_algebra::{orthonormalise, symmetric_eigen};

/// Extra directions carried along for accuracy.
const OVERSAMPLING: usize = 10;
/// Applications of A'A; the spectrum of word counts falls slowly.
const ITERATIONS: usize = 6;

/// Rows of (column, value) pairs.
pub type SparseRows = [Vec<(u16, f32)>];

/// The `width` leading right singular vectors of `rows` with `columns` columns, as the columns of a matrix, and the
/// singular values, largest first. Signs are fixed, so that equal input gives equal output.
#[must_use]
pub fn right_singular_vectors(
    rows: &SparseRows,
    columns: usize,
    width: usize,
    rng: &mut ChaCha8Rng,
) -> (Array2<f64>, Vec<f64>) {
    let block = (width + OVERSAMPLING).min(columns).min(rows.len().max(1));
    let width = width.min(block);
    let mut basis = Array2::from_shape_simple_fn((columns, block), || gaussian(rng));
    orthonormalise(&mut basis);
    for _ in 0..ITERATIONS {
        basis = transposed_product(rows, &product(rows, &basis), columns);
        orthonormalise(&mut basis);
    }
    let image = product(rows, &basis);
    let (values, turn) = symmetric_eigen(&image.t().dot(&image));
    let mut vectors = basis.dot(&turn.slice_axis(Axis(1), (..width).into()));
    for mut vector in vectors.columns_mut() {
        let largest =
            vector.iter().copied().fold(
                0.0_f64,
                |best, value| if value.abs() > best.abs() { value } else { best },
            );
        if largest < 0.0 {
            vector.mapv_inplace(|value| -value);
        }
    }
    (
        vectors,
        values
            .iter()
            .take(width)
            .map(|value| value.max(0.0).sqrt())
            .collect(),
    )
}

/// A X for a sparse A.
fn product(rows: &SparseRows, dense: &Array2<f64>) -> Array2<f64> {
    let mut out = Array2::zeros((rows.len(), dense.ncols()));
    for (row, mut sums) in rows.iter().zip(out.rows_mut()) {
        for (column, value) in row {
            sums.scaled_add(f64::from(*value), &dense.row(usize::from(*column)));
        }
    }
    out
}

/// A' Y for a sparse A.
fn transposed_product(rows: &SparseRows, dense: &Array2<f64>, columns: usize) -> Array2<f64> {
    let mut out = Array2::zeros((columns, dense.ncols()));
    for (row, values) in rows.iter().zip(dense.rows()) {
        for (column, value) in row {
            out.row_mut(usize::from(*column))
                .scaled_add(f64::from(*value), &values);
        }
    }
    out
}

/// A standard normal draw (Box and Muller 1958).
fn gaussian(rng: &mut ChaCha8Rng) -> f64 {
    let u: f64 = rng.gen_range(f64::MIN_POSITIVE..1.0);
    let v: f64 = rng.gen_range(0.0..std::f64::consts::TAU);
    (-2.0 * u.ln()).sqrt() * v.cos()
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn a_diagonal_matrix_gives_its_axes() {
        let rows = vec![vec![(2, 5.0)], vec![(0, 3.0)], vec![(1, 1.0)]];
        let (vectors, values) = right_singular_vectors(&rows, 4, 2, &mut ChaCha8Rng::seed_from_u64(1));
        assert!((values[0] - 5.0).abs() < 1e-9 && (values[1] - 3.0).abs() < 1e-9);
        assert!((vectors[[2, 0]] - 1.0).abs() < 1e-9 && (vectors[[0, 1]] - 1.0).abs() < 1e-9);
    }

    proptest::proptest! {
        #[test]
        fn vectors_are_orthonormal_and_seeded(seed in 0_u64..1000) {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let rows: Vec<Vec<(u16, f32)>> =
                (0..40).map(|_| (0..6).map(|_| (rng.gen_range(0..30), rng.gen_range(-1.0..1.0))).collect()).collect();
            let run = || right_singular_vectors(&rows, 30, 5, &mut ChaCha8Rng::seed_from_u64(seed));
            let (vectors, values) = run();
            proptest::prop_assert_eq!(&run().0, &vectors);
            proptest::prop_assert!(values.windows(2).all(|pair| pair[0] >= pair[1] - 1e-9));
            for ((i, j), value) in vectors.t().dot(&vectors).indexed_iter() {
                proptest::prop_assert!((value - f64::from(u8::from(i == j))).abs() < 1e-8);
            }
        }
    }
}
