//! A static word table: one short quantised vector per word piece, summed and normalised over a prompt.
//!
//! The rows already hold the weight of each piece (smooth inverse frequency, Arora et al. 2017), so a sum is enough.
//! On top of it: principal components, and a soft assignment a_c = 3 softmax_c(sharpness * cos(s - mean, centre_c))
//! that gives a linear policy the locality of nearest neighbours.

use std::hint::black_box;

use super::artefact::{Artefact, ArtefactError};
use super::numeric::{dot, normalise, softmax, standardise};
use super::wordpiece::Vocabulary;

/// What a full assignment to one cluster weighs beside the standardised features.
pub(super) const CLUSTER_WEIGHT: f32 = 3.0;

/// Principal components and soft clusters of a unit vector.
#[derive(Clone, Debug)]
pub(super) struct Neighbourhood {
    mean: Vec<f32>,
    basis: Vec<f32>,
    scale: Vec<f32>,
    centres: Vec<f32>,
    sharpness: f32,
}

impl Neighbourhood {
    /// Reads the tensors that begin with `prefix`, for vectors of length `dimensions`.
    pub(super) fn read(artefact: &Artefact, prefix: &str, dimensions: usize) -> Result<Self, ArtefactError> {
        let name = |part: &str| format!("{prefix}.{part}");
        let rows = |part: &str| artefact.shape(&name(part)).map_or(0, |(rows, _)| rows);
        let (components, clusters) = (rows("basis"), rows("centres"));
        Ok(Self {
            mean: artefact.floats(&name("mean"), 1, dimensions)?,
            basis: artefact.floats(&name("basis"), components, dimensions)?,
            scale: artefact.floats(&name("scale"), 1, components)?,
            centres: artefact.floats(&name("centres"), clusters, dimensions)?,
            sharpness: artefact.floats(&name("sharpness"), 1, 1)?[0],
        })
    }

    pub(super) fn width(&self) -> usize {
        self.scale.len() + self.centres.len() / self.mean.len().max(1)
    }

    /// Appends `width` features of `vector`, which is centred in place.
    pub(super) fn extract(&self, vector: &mut [f32], out: &mut Vec<f32>) {
        for (value, mean) in vector.iter_mut().zip(&self.mean) {
            *value -= mean;
        }
        let rows = self.basis.chunks_exact(self.mean.len());
        out.extend(
            rows.zip(&self.scale)
                .map(|(row, scale)| standardise(dot(row, vector), 0.0, *scale)),
        );
        normalise(vector);
        let start = out.len();
        let centres = self.centres.chunks_exact(self.mean.len());
        out.extend(centres.map(|centre| self.sharpness * dot(centre, vector)));
        softmax(&mut out[start..]);
        out[start..].iter_mut().for_each(|share| *share *= CLUSTER_WEIGHT);
    }
}

/// Word pieces and their quantised vectors.
#[derive(Clone, Debug)]
pub struct StaticTable {
    vocabulary: Vocabulary,
    /// A row of whole lines per piece, each value raised by [`BIAS`]: unsigned bytes widen to sums in half the
    /// instructions.
    rows: Vec<Line>,
    dimensions: usize,
}

/// A part of a row that is one cache line, and begins where one does.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Line([u8; LINE]);

const LINE: usize = 64;

/// Makes a signed byte unsigned.
const BIAS: i32 = 128;
/// Rows that sixteen bits can sum: 256 * 255 < 2^16.
const BLOCK: usize = 256;

impl StaticTable {
    /// A table of one row of `dimensions` signed bytes per piece; `None` when the sizes do not fit.
    #[must_use]
    pub fn new(vocabulary: Vocabulary, rows: Vec<i8>, dimensions: usize) -> Option<Self> {
        (dimensions > 0 && rows.len() == vocabulary.len() * dimensions).then(|| Self {
            vocabulary,
            rows: rows.chunks(dimensions).flat_map(in_lines).collect(),
            dimensions,
        })
    }

    pub(super) fn read(artefact: &Artefact) -> Result<Self, ArtefactError> {
        let text = artefact.text("word.vocabulary")?;
        let wrong = || ArtefactError::Tensor {
            name: "word.table".to_owned(),
            expected: "a row per word piece".to_owned(),
        };
        let vocabulary = Vocabulary::new(text.split('\n')).ok_or_else(wrong)?;
        let dimensions = artefact.shape("word.table").map_or(0, |(_, columns)| columns);
        let rows = artefact.bytes_i8("word.table", vocabulary.len(), dimensions)?;
        Self::new(vocabulary, rows, dimensions).ok_or_else(wrong)
    }

    /// Length of a pooled vector.
    #[must_use]
    pub fn dimensions(&self) -> usize {
        self.dimensions
    }

    /// Appends the pieces of `word` to `ids`.
    pub fn split(&self, word: &str, ids: &mut Vec<u16>) {
        self.vocabulary.split(word, ids);
    }

    /// Has what the first piece of each of `words` is found by come from memory, for all of them at once.
    pub(super) fn fetch<'a>(&self, words: impl Iterator<Item = &'a str> + Clone) {
        self.vocabulary.fetch(words);
    }

    /// The unit vector of a prompt from the ids of its pieces; zero when none has a meaning.
    #[must_use]
    pub fn pool(&self, ids: &[u16]) -> Vec<f32> {
        let lines = self.dimensions.div_ceil(LINE);
        let row = |id: u16| &self.rows[usize::from(id) * lines..][..lines];
        let mut sums = vec![-BIAS * ids.len() as i32; self.dimensions];
        let mut block = vec![[0_u16; LINE]; lines];
        for ids in ids.chunks(BLOCK) {
            block.fill([0; LINE]);
            // Nearly every line comes from memory. Asked for one right after another they come together.
            for &id in ids {
                black_box(row(id).iter().fold(0, |any, line| any | line.0[0]));
            }
            // Four rows at a time: the sums are read and written a quarter as often.
            let (fours, rest) = ids.as_chunks::<4>();
            for &[a, b, c, d] in fours {
                let rows = row(a).iter().zip(row(b)).zip(row(c).iter().zip(row(d)));
                for (sums, ((a, b), (c, d))) in block.iter_mut().zip(rows) {
                    for (i, sum) in sums.iter_mut().enumerate() {
                        *sum += u16::from(a.0[i]) + u16::from(b.0[i]) + u16::from(c.0[i]) + u16::from(d.0[i]);
                    }
                }
            }
            for &id in rest {
                for (sums, line) in block.iter_mut().zip(row(id)) {
                    for (sum, value) in sums.iter_mut().zip(&line.0) {
                        *sum += u16::from(*value);
                    }
                }
            }
            for (sum, block) in sums.iter_mut().zip(block.as_flattened()) {
                *sum += i32::from(*block);
            }
        }
        let mut pooled: Vec<f32> = sums.into_iter().map(|sum| sum as f32).collect();
        normalise(&mut pooled);
        pooled
    }
}

/// A row of signed bytes in lines, the last filled up.
fn in_lines(row: &[i8]) -> impl Iterator<Item = Line> {
    row.chunks(LINE).map(|values| {
        let mut line = [0; LINE];
        for (byte, value) in line.iter_mut().zip(values) {
            *byte = (i32::from(*value) + BIAS) as u8;
        }
        Line(line)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pooling_sums_rows_and_normalises() {
        let table = StaticTable::new(Vocabulary::new(["a", "b"]).unwrap(), vec![3, 0, 0, 4], 2).unwrap();
        let mut ids = Vec::new();
        ["a", "b", "c"]
            .iter()
            .for_each(|word| table.split(word, &mut ids));
        let pooled = table.pool(&ids);
        assert!((pooled[0] - 0.6).abs() < 1e-6 && (pooled[1] - 0.8).abs() < 1e-6);
        assert_eq!(table.pool(&[]), [0.0, 0.0]);
        assert!(StaticTable::new(Vocabulary::new(["a"]).unwrap(), vec![1], 2).is_none());
    }

    #[test]
    fn a_long_prompt_overflows_no_sum() {
        let table = StaticTable::new(
            Vocabulary::new(["a", "b"]).unwrap(),
            vec![127, -128, -128, 127],
            2,
        )
        .unwrap();
        let pooled = table.pool(&[0; 1031]);
        assert!((pooled[0] / pooled[1] + 127.0 / 128.0).abs() < 1e-6, "{pooled:?}");
        let few = table.pool(&[0, 0, 0, 1, 1]);
        assert!((few[0] / few[1] + 125.0 / 130.0).abs() < 1e-6, "{few:?}");
    }

    #[test]
    fn a_vector_at_a_centre_belongs_to_it() {
        let neighbourhood = Neighbourhood {
            mean: vec![0.0, 0.0],
            basis: vec![1.0, 0.0],
            scale: vec![2.0],
            centres: vec![1.0, 0.0, 0.0, 1.0],
            sharpness: 12.0,
        };
        let mut out = Vec::new();
        neighbourhood.extract(&mut [1.0, 0.0], &mut out);
        assert_eq!(neighbourhood.width(), 3);
        assert_eq!(out[0], 1.0, "(1 - 0) * 2, halved");
        assert!(out[1] > 2.99 && (out[1] + out[2] - 3.0).abs() < 1e-5);
    }
}
