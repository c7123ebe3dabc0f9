//! The few dense routines that fitting needs: orthonormal columns and a symmetric eigenproblem.

use ndarray::{Array1, Array2, Axis};

/// Makes the columns of `matrix` orthonormal (modified Gram-Schmidt, twice for stability). A column that depends on
/// those before it becomes zero.
pub fn orthonormalise(matrix: &mut Array2<f64>) {
    let mut columns = matrix.t().as_standard_layout().into_owned();
    for index in 0..columns.nrows() {
        let (done, mut rest) = columns.view_mut().split_at(Axis(0), index);
        let mut current = rest.row_mut(0);
        let before = current.dot(&current).sqrt();
        for _ in 0..2 {
            for earlier in done.rows() {
                let overlap = earlier.dot(&current);
                current.scaled_add(-overlap, &earlier);
            }
        }
        let norm = current.dot(&current).sqrt();
        let inverse = if norm > before * 1e-10 && norm > 0.0 {
            1.0 / norm
        } else {
            0.0
        };
        current.mapv_inplace(|value| value * inverse);
    }
    matrix.assign(&columns.t());
}

/// Eigenvalues, largest first, and eigenvectors as columns, of a symmetric matrix, by cyclic Jacobi rotations
/// (Golub and Van Loan, 8.5).
#[must_use]
pub fn symmetric_eigen(matrix: &Array2<f64>) -> (Array1<f64>, Array2<f64>) {
    let size = matrix.nrows();
    let mut a = matrix.clone();
    let mut rows = Array2::<f64>::eye(size); // eigenvectors as rows: contiguous to rotate
    let scale = a
        .iter()
        .map(|value| value * value)
        .sum::<f64>()
        .sqrt()
        .max(f64::MIN_POSITIVE);
    for _ in 0..60 {
        let mut off = 0.0;
        for p in 0..size {
            for q in p + 1..size {
                off += a[[p, q]] * a[[p, q]];
                if a[[p, q]].abs() > 1e-16 * scale {
                    rotate(&mut a, &mut rows, p, q);
                }
            }
        }
        if off.sqrt() <= 1e-12 * scale {
            break;
        }
    }
    let mut order: Vec<usize> = (0..size).collect();
    order.sort_by(|i, j| a[[*j, *j]].total_cmp(&a[[*i, *i]]));
    let values = order.iter().map(|index| a[[*index, *index]]).collect();
    (values, rows.select(Axis(0), &order).reversed_axes())
}

/// One rotation that makes a[p,q] zero.
fn rotate(a: &mut Array2<f64>, rows: &mut Array2<f64>, p: usize, q: usize) {
    let theta = (a[[q, q]] - a[[p, p]]) / (2.0 * a[[p, q]]);
    let t = theta.signum() / (theta.abs() + (theta * theta + 1.0).sqrt());
    let t = if theta == 0.0 { 1.0 } else { t };
    let c = 1.0 / (t * t + 1.0).sqrt();
    let s = t * c;
    for k in 0..a.nrows() {
        let (x, y) = (a[[k, p]], a[[k, q]]);
        a[[k, p]] = c * x - s * y;
        a[[k, q]] = s * x + c * y;
    }
    for k in 0..a.nrows() {
        let (x, y) = (a[[p, k]], a[[q, k]]);
        a[[p, k]] = c * x - s * y;
        a[[q, k]] = s * x + c * y;
        let (x, y) = (rows[[p, k]], rows[[q, k]]);
        rows[[p, k]] = c * x - s * y;
        rows[[q, k]] = s * x + c * y;
    }
}

/// Solves `matrix` x = `right` for a symmetric positive definite matrix by Cholesky's factors; `None` when it is not.
#[must_use]
pub fn solve(matrix: &Array2<f64>, right: &Array2<f64>) -> Option<Array2<f64>> {
    let size = matrix.nrows();
    let mut lower = Array2::<f64>::zeros((size, size));
    for i in 0..size {
        for j in 0..=i {
            let sum = matrix[[i, j]] - (0..j).map(|k| lower[[i, k]] * lower[[j, k]]).sum::<f64>();
            if i == j {
                if sum <= 0.0 || !sum.is_finite() {
                    return None;
                }
                lower[[i, i]] = sum.sqrt();
            } else {
                lower[[i, j]] = sum / lower[[j, j]];
            }
        }
    }
    let mut x = right.clone();
    for column in 0..x.ncols() {
        for i in 0..size {
            let sum = (0..i).map(|k| lower[[i, k]] * x[[k, column]]).sum::<f64>();
            x[[i, column]] = (x[[i, column]] - sum) / lower[[i, i]];
        }
        for i in (0..size).rev() {
            let sum = (i + 1..size).map(|k| lower[[k, i]] * x[[k, column]]).sum::<f64>();
            x[[i, column]] = (x[[i, column]] - sum) / lower[[i, i]];
        }
    }
    Some(x)
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    #[test]
    fn a_known_eigenproblem() {
        let (values, vectors) = symmetric_eigen(&array![[2.0, 1.0, 0.0], [1.0, 2.0, 0.0], [0.0, 0.0, 7.0]]);
        for (value, expected) in values.iter().zip([7.0, 3.0, 1.0]) {
            assert!((value - expected).abs() < 1e-10);
        }
        assert!((vectors[[0, 1]].abs() - 0.5_f64.sqrt()).abs() < 1e-10);
        assert!((vectors[[2, 0]].abs() - 1.0).abs() < 1e-10);
    }

    #[test]
    fn a_known_system() {
        let x = solve(&array![[4.0, 2.0], [2.0, 3.0]], &array![[10.0], [8.0]]).unwrap();
        assert!((x[[0, 0]] - 1.75).abs() < 1e-12 && (x[[1, 0]] - 1.5).abs() < 1e-12);
        assert!(solve(&array![[1.0, 2.0], [2.0, 1.0]], &array![[1.0], [1.0]]).is_none());
    }

    proptest::proptest! {
        #[test]
        fn orthonormal_columns_and_a_faithful_spectrum(entries in proptest::collection::vec(-2.0_f64..2.0, 30)) {
            let mut matrix = Array2::from_shape_vec((10, 3), entries).unwrap();
            let gram = matrix.t().dot(&matrix);
            let (values, vectors) = symmetric_eigen(&gram);
            let rebuilt = vectors.dot(&Array2::from_diag(&values)).dot(&vectors.t());
            proptest::prop_assert!((&rebuilt - &gram).iter().all(|error| error.abs() < 1e-8));
            orthonormalise(&mut matrix);
            let identity = matrix.t().dot(&matrix);
            for ((i, j), value) in identity.indexed_iter() {
                proptest::prop_assert!((value - f64::from(u8::from(i == j))).abs() < 1e-8 || (i == j && *value == 0.0));
            }
        }
    }
}
