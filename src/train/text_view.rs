//! Fits the text view: tf-idf and SVD of hashed n-grams, principal components and clusters of the static table.

use anyhow::Context;
use linfa::DatasetBase;
use linfa::traits::Fit;
use linfa_clustering::KMeans;
use linfa_reduction::Pca;
use ndarray::{Array1, Array2, Axis};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::static_model::StaticModel;
use super::subspace::right_singular_vectors;
use crate::features::artefact::{Artefact, Elements, Tensor};
use crate::features::static_table::StaticTable;
use crate::features::text::{BUCKETS, NGrams, PromptText, SURFACE, Surface, TEXT_VIEW};
use crate::features::wordpiece::Vocabulary;
use crate::features::{to_bf16, words};

/// Sizes of the parts of a text view.
#[derive(Clone, Copy, Debug)]
pub struct TextViewShape {
    /// Dimensions of the hashed n-grams.
    pub hashed: usize,
    /// Length of the shortened word rows.
    pub table: usize,
    /// Principal components of the pooled words.
    pub components: usize,
    /// Soft clusters of the pooled words.
    pub clusters: usize,
}

impl Default for TextViewShape {
    fn default() -> Self {
        Self {
            hashed: 20,
            table: 96,
            components: 12,
            clusters: 12,
        }
    }
}

/// Softmax of twelve times the cosine: about three clusters share a prompt.
pub(super) const SHARPNESS: f32 = 12.0;
/// Prompts drawn to fit components and clusters.
const SAMPLE: usize = 12_000;

/// Fits a text view on `sources`, each a list of prompts. A source weighs by the square root of its size, so that a
/// large one does not drown the rest.
///
/// # Errors
/// When there is too little text to fit the shape.
pub fn fit(
    sources: &[Vec<&str>],
    model: &StaticModel,
    shape: TextViewShape,
    seed: u64,
) -> anyhow::Result<Artefact> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let rows = model.shorten(shape.table);
    let vocabulary =
        Vocabulary::new(model.pieces.iter().map(String::as_str)).context("too many word pieces")?;
    let table = StaticTable::new(vocabulary, rows.clone(), shape.table).context("word rows do not fit")?;
    let looked: Vec<Looked> = sources.iter().flatten().map(|text| look(text, &table)).collect();
    let weights: Vec<f64> = sources
        .iter()
        .flat_map(|source| std::iter::repeat_n(1.0 / (source.len() as f64).sqrt(), source.len()))
        .collect();
    let mut tensors = vec![
        ("word.vocabulary", Tensor::text(&model.pieces.join("\n"))),
        (
            "word.table",
            Tensor {
                rows: model.pieces.len(),
                columns: shape.table,
                elements: Elements::I8(rows),
            },
        ),
    ];
    tensors.extend(hashed_tensors(&looked, &weights, shape.hashed, &mut rng));
    let pooled = Array2::from_shape_fn((looked.len(), shape.table), |(i, j)| {
        f64::from(looked[i].pooled[j])
    });
    let neighbourhood = Neighbourhood::fit(&pooled, &weights, shape.components, shape.clusters, &mut rng)?;
    let names = [
        "word.mean",
        "word.basis",
        "word.scale",
        "word.centres",
        "word.sharpness",
    ];
    tensors.extend(names.into_iter().zip(neighbourhood.into_tensors()));
    tensors.extend(surface_tensors(
        looked.iter().map(|looked| &looked.surface),
        &weights,
    ));
    Ok(Artefact::new(TEXT_VIEW, tensors)?)
}

/// What the view sees of a prompt before any projection.
struct Looked {
    ngrams: Vec<(u16, f32)>,
    pooled: Vec<f32>,
    surface: Surface,
}

fn look(text: &str, table: &StaticTable) -> Looked {
    let prompt = PromptText::plain(text);
    let mut ngrams = NGrams::default();
    let mut ids = Vec::new();
    words::each(prompt.words(), |word| {
        ngrams.push(word);
        table.split(word, &mut ids);
    });
    Looked {
        ngrams: ngrams.weights(),
        pooled: table.pool(&ids),
        surface: Surface::plain(&prompt),
    }
}

/// idf_b = ln((1 + n) / (1 + df_b)) + 1; then the leading right singular vectors of the normalised rows.
fn hashed_tensors(
    looked: &[Looked],
    weights: &[f64],
    width: usize,
    rng: &mut ChaCha8Rng,
) -> Vec<(&'static str, Tensor)> {
    let mut frequency = vec![0_u32; BUCKETS];
    for (bucket, _) in looked.iter().flat_map(|looked| &looked.ngrams) {
        frequency[usize::from(*bucket)] += 1;
    }
    let count = 1.0 + looked.len() as f32;
    let idf: Vec<f32> = frequency
        .iter()
        .map(|df| (count / (1.0 + *df as f32)).ln() + 1.0)
        .collect();
    let mean_weight = weights.iter().sum::<f64>() / weights.len() as f64;
    let mut rows: Vec<Vec<(u16, f32)>> = looked
        .iter()
        .map(|looked| {
            let row: Vec<(u16, f32)> = looked
                .ngrams
                .iter()
                .map(|(bucket, weight)| (*bucket, weight * idf[usize::from(*bucket)]))
                .collect();
            let norm = row
                .iter()
                .map(|(_, value)| value * value)
                .sum::<f32>()
                .sqrt()
                .max(f32::MIN_POSITIVE);
            row.into_iter()
                .map(|(bucket, value)| (bucket, value / norm))
                .collect()
        })
        .collect();
    for (row, weight) in rows.iter_mut().zip(weights) {
        row.iter_mut()
            .for_each(|(_, value)| *value *= (weight / mean_weight) as f32);
    }
    let (basis, _) = right_singular_vectors(&rows, BUCKETS, width, rng);
    let basis = basis.mapv(|value| value as f32);
    let projected = Array2::from_shape_fn((rows.len(), width), |(i, j)| {
        let scale = (mean_weight / weights[i]) as f32;
        rows[i]
            .iter()
            .map(|(bucket, value)| f64::from(value * basis[[usize::from(*bucket), j]]))
            .sum::<f64>()
            * f64::from(scale)
    });
    let (mean, scale) = standard(&projected, weights);
    vec![
        ("hash.idf", Tensor::floats(1, BUCKETS, idf)),
        (
            "hash.basis",
            Tensor {
                rows: BUCKETS,
                columns: width,
                elements: Elements::U16(basis.iter().map(|value| to_bf16(*value)).collect()),
            },
        ),
        ("hash.mean", Tensor::floats(1, width, mean)),
        ("hash.scale", Tensor::floats(1, width, scale)),
    ]
}

/// Principal components and cluster centres of unit vectors.
#[derive(Clone, Debug)]
pub(super) struct Neighbourhood {
    mean: Vec<f32>,
    basis: Array2<f64>,
    scale: Vec<f32>,
    centres: Array2<f64>,
}

impl Neighbourhood {
    /// Fits on a weighted sample of the rows of `vectors`.
    pub(super) fn fit(
        vectors: &Array2<f64>,
        weights: &[f64],
        components: usize,
        clusters: usize,
        rng: &mut ChaCha8Rng,
    ) -> anyhow::Result<Self> {
        let indices: Vec<usize> = (0..vectors.nrows()).collect();
        let mut drawn: Vec<usize> = indices
            .choose_multiple_weighted(rng, SAMPLE.min(indices.len()), |index| weights[*index])?
            .copied()
            .collect();
        drawn.sort_unstable();
        let sample = vectors.select(Axis(0), &drawn);
        let mean = sample.mean_axis(Axis(0)).context("no prompts to fit on")?;
        let pca = Pca::params(components).fit(&DatasetBase::from(sample.clone()))?;
        let mut basis = pca.components().to_owned();
        fix_signs(&mut basis);
        let projected = (&sample - &mean).dot(&basis.t());
        let spread = projected.std_axis(Axis(0), 0.0);
        let directions = unit_rows(&sample - &mean);
        let kmeans = KMeans::params_with_rng(clusters, rng.clone())
            .n_runs(3)
            .max_n_iterations(100)
            .tolerance(1e-4)
            .fit(&DatasetBase::from(directions))?;
        Ok(Self {
            mean: mean.iter().map(|value| *value as f32).collect(),
            basis,
            scale: spread
                .iter()
                .map(|value| (1.0 / value.max(1e-6)) as f32)
                .collect(),
            centres: unit_rows(kmeans.centroids().to_owned()),
        })
    }

    /// Mean, basis, scale, centres, sharpness.
    pub(super) fn into_tensors(self) -> [Tensor; 5] {
        let dimensions = self.mean.len();
        let dense = |matrix: &Array2<f64>| {
            Tensor::floats(
                matrix.nrows(),
                dimensions,
                matrix.iter().map(|value| *value as f32).collect(),
            )
        };
        [
            Tensor::floats(1, dimensions, self.mean.clone()),
            dense(&self.basis),
            Tensor::floats(1, self.scale.len(), self.scale.clone()),
            dense(&self.centres),
            Tensor::floats(1, 1, vec![SHARPNESS]),
        ]
    }
}

/// Mean and inverse standard deviation of the surface. The four features that a recorded prompt cannot show (context,
/// turns, tools, media) are centred on a bare prompt with a spread set by hand.
pub(super) fn surface_tensors<'a>(
    surfaces: impl Iterator<Item = &'a Surface>,
    weights: &[f64],
) -> Vec<(&'static str, Tensor)> {
    let values: Vec<f64> = surfaces
        .flat_map(|surface| surface.values().map(f64::from))
        .collect();
    let rows = values.len() / SURFACE;
    let matrix = Array2::from_shape_fn((rows, SURFACE), |(i, j)| values[i * SURFACE + j]);
    let (mut mean, mut scale) = standard(&matrix, weights);
    for (index, spread) in [(8, 4.0), (9, 1.0), (10, 0.5), (11, 0.5)] {
        mean[index] = 0.0;
        scale[index] = 1.0 / spread;
    }
    vec![
        ("surface.mean", Tensor::floats(1, SURFACE, mean)),
        ("surface.scale", Tensor::floats(1, SURFACE, scale)),
    ]
}

/// Weighted mean and inverse standard deviation of each column.
fn standard(matrix: &Array2<f64>, weights: &[f64]) -> (Vec<f32>, Vec<f32>) {
    let weights = Array1::from(weights.to_vec());
    let total = weights.sum();
    let mean = weights.dot(matrix) / total;
    let variance = weights.dot(&(matrix - &mean).mapv(|value| value * value)) / total;
    let scale = variance.iter().map(|value| {
        if *value > 1e-12 {
            (1.0 / value.sqrt()) as f32
        } else {
            1.0
        }
    });
    (mean.iter().map(|value| *value as f32).collect(), scale.collect())
}

fn unit_rows(mut matrix: Array2<f64>) -> Array2<f64> {
    for mut row in matrix.rows_mut() {
        let norm = row.dot(&row).sqrt();
        if norm > 0.0 {
            row.mapv_inplace(|value| value / norm);
        }
    }
    matrix
}

fn fix_signs(basis: &mut Array2<f64>) {
    for mut row in basis.rows_mut() {
        let largest = row.iter().copied().fold(
            0.0_f64,
            |best, value| if value.abs() > best.abs() { value } else { best },
        );
        if largest < 0.0 {
            row.mapv_inplace(|value| -value);
        }
    }
}
