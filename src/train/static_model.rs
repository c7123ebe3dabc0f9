//! Reads a static word model (one quantised row per word piece) and shortens its rows.

use std::path::Path;

use anyhow::{Context, ensure};
use ndarray::{Array2, Axis};
use serde_json::Value;

use super::linear_algebra::symmetric_eigen;

/// Word pieces and their rows.
#[derive(Clone, Debug)]
pub struct StaticModel {
    /// The pieces in the order of their ids, `##` before a continuation.
    pub pieces: Vec<String>,
    /// One row each.
    pub rows: Array2<f32>,
}

/// Reads `model.safetensors` (a tensor `embeddings` of signed bytes) and `tokenizer.json` (WordPiece) from `folder`.
///
/// # Errors
/// When a file is missing or is not of that form.
pub fn read(folder: &Path) -> anyhow::Result<StaticModel> {
    let file = |name: &str| {
        let path = folder.join(name);
        std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let pieces = vocabulary(&file("tokenizer.json")?).context("tokenizer.json")?;
    let rows = embeddings(&file("model.safetensors")?).context("model.safetensors")?;
    ensure!(
        pieces.len() == rows.nrows(),
        "{} word pieces but {} rows",
        pieces.len(),
        rows.nrows()
    );
    Ok(StaticModel { pieces, rows })
}

impl StaticModel {
    /// The rows along their `width` leading principal axes (about zero, since sums of rows are what is used),
    /// quantised to signed bytes with one scale.
    #[must_use]
    pub fn shorten(&self, width: usize) -> Vec<i8> {
        let rows = self.rows.mapv(f64::from);
        let (_, axes) = symmetric_eigen(&rows.t().dot(&rows));
        let short = rows.dot(&axes.slice_axis(Axis(1), (..width).into()));
        let largest = short
            .iter()
            .fold(f64::MIN_POSITIVE, |best, value| best.max(value.abs()));
        short
            .iter()
            .map(|value| (value / largest * 127.0).round() as i8)
            .collect()
    }
}

fn vocabulary(json: &[u8]) -> anyhow::Result<Vec<String>> {
    let tokenizer: Value = serde_json::from_slice(json)?;
    let vocabulary = tokenizer
        .pointer("/model/vocab")
        .and_then(Value::as_object)
        .context("no WordPiece vocabulary in it")?;
    let mut pieces = vec![String::new(); vocabulary.len()];
    for (piece, id) in vocabulary {
        let id = id.as_u64().context("an id is not a number")? as usize;
        ensure!(
            id < pieces.len() && !piece.contains('\n'),
            "piece {piece:?} with id {id} does not fit"
        );
        pieces[id].clone_from(piece);
    }
    Ok(pieces)
}

/// The safetensors form: length of the header (u64, little-endian), the header in JSON, the elements.
fn embeddings(bytes: &[u8]) -> anyhow::Result<Array2<f32>> {
    let (length, rest) = bytes.split_first_chunk::<8>().context("cut short")?;
    let length = usize::try_from(u64::from_le_bytes(*length))?;
    let header: Value = serde_json::from_slice(rest.get(..length).context("cut short")?)?;
    let tensor = &header["embeddings"];
    ensure!(
        tensor["dtype"] == "I8",
        "a tensor `embeddings` of signed bytes is needed"
    );
    let number = |value: &Value| value.as_u64().map(|value| value as usize).context("not a number");
    let (rows, columns) = (number(&tensor["shape"][0])?, number(&tensor["shape"][1])?);
    let (start, end) = (
        number(&tensor["data_offsets"][0])?,
        number(&tensor["data_offsets"][1])?,
    );
    let elements = rest[length..].get(start..end).context("cut short")?;
    let values = elements
        .iter()
        .map(|byte| f32::from(byte.cast_signed()))
        .collect();
    Ok(Array2::from_shape_vec((rows, columns), values)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn safetensors(header: &str, elements: &[u8]) -> Vec<u8> {
        [&(header.len() as u64).to_le_bytes(), header.as_bytes(), elements].concat()
    }

    #[test]
    fn a_known_file() {
        let header = r#"{"embeddings":{"dtype":"I8","shape":[2,3],"data_offsets":[0,6]}}"#;
        let rows = embeddings(&safetensors(header, &[1, 2, 3, 255, 254, 253])).unwrap();
        assert_eq!(rows, ndarray::array![[1.0, 2.0, 3.0], [-1.0, -2.0, -3.0]]);
        assert!(embeddings(&safetensors(header, &[1, 2])).is_err());
        assert!(embeddings(b"short").is_err());
        assert_eq!(
            vocabulary(br###"{"model":{"vocab":{"##b":1,"a":0}}}"###).unwrap(),
            ["a", "##b"]
        );
        assert!(vocabulary(br#"{"model":{"vocab":{"a":5}}}"#).is_err());
    }

    #[test]
    fn shortening_keeps_the_main_axis() {
        let rows = ndarray::array![[3.0, 3.0], [-3.0, -3.0], [1.0, 1.0]];
        let model = StaticModel {
            pieces: vec!["a".into(), "b".into(), "c".into()],
            rows,
        };
        let short = model.shorten(1);
        assert_eq!(short[0].abs(), 127);
        assert_eq!(short[0], -short[1]);
        assert_eq!(short[2].abs(), 42);
    }
}
