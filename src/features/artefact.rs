//! The file format of everything that is learned offline and frozen: projections, classifier, priors.
//!
//! Layout, little-endian: `PTSMAN1\n`, kind (u8 length, UTF-8), number of tensors (u32), the tensors (name as u8
//! length and UTF-8, element type u8, rows u32, columns u32, elements), and the XXH3-64 of all before it. A file
//! that was cut short, altered, or made for another purpose is refused as a whole.

use std::collections::BTreeMap;

use thiserror::Error;
use xxhash_rust::xxh3::xxh3_64;

const MAGIC: &[u8; 8] = b"PTSMAN1\n";
/// No tensor of ours comes near this; a larger one is a corrupt header.
const MAX_ELEMENTS: usize = 1 << 27;

/// Elements of a tensor.
#[derive(Clone, Debug, PartialEq)]
pub enum Elements {
    /// 32-bit floats.
    F32(Vec<f32>),
    /// Signed bytes: quantised weights.
    I8(Vec<i8>),
    /// Unsigned bytes: texts.
    U8(Vec<u8>),
    /// 16-bit words: bfloat16 weights, indices.
    U16(Vec<u16>),
}

/// A matrix with its shape; a vector has one row.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Number of rows.
    pub rows: usize,
    /// Number of columns.
    pub columns: usize,
    /// `rows * columns` elements, row by row.
    pub elements: Elements,
}

/// A set of named tensors with a kind and a version.
#[derive(Clone, Debug, PartialEq)]
pub struct Artefact {
    kind: String,
    tensors: BTreeMap<String, Tensor>,
    version: u32,
}

/// Why an artefact cannot be used.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ArtefactError {
    /// It does not begin as one.
    #[error(
        "not a pointsman artefact: the first bytes differ; restore it from the release or run `pointsman train`"
    )]
    Magic,
    /// It ends too early, or a length inside is impossible.
    #[error(
        "the artefact is cut short or corrupt at byte {at}; restore it from the release or run `pointsman train`"
    )]
    Truncated {
        /// Where reading stopped.
        at: usize,
    },
    /// A byte differs from what was written.
    #[error("the artefact's checksum does not match; restore it from the release or run `pointsman train`")]
    Checksum,
    /// It is for another purpose.
    #[error("the artefact is a {found}, not a {expected}; check which file was given")]
    Kind {
        /// What was wanted.
        expected: String,
        /// What it is.
        found: String,
    },
    /// A tensor is missing, or its shape or element type does not fit.
    #[error(
        "tensor {name} is missing or is not {expected}; the artefact is of another version, run `pointsman train`"
    )]
    Tensor {
        /// Its name.
        name: String,
        /// What it should be.
        expected: String,
    },
    /// A weight is infinite or not a number.
    #[error("tensor {name} holds a value that is not finite; run `pointsman train` again")]
    NotFinite {
        /// Its name.
        name: String,
    },
}

impl Artefact {
    /// An artefact of `kind` with `tensors`. Its version is drawn from its content.
    ///
    /// # Errors
    /// When a tensor's elements do not fill its shape.
    pub fn new(kind: &str, tensors: Vec<(&str, Tensor)>) -> Result<Self, ArtefactError> {
        for (name, tensor) in &tensors {
            if tensor.elements.len() != tensor.rows * tensor.columns {
                return Err(expected(name, format!("{} x {}", tensor.rows, tensor.columns)));
            }
        }
        let tensors = tensors
            .into_iter()
            .map(|(name, tensor)| (name.to_owned(), tensor))
            .collect();
        let mut artefact = Self {
            kind: kind.to_owned(),
            tensors,
            version: 0,
        };
        artefact.version = fold(xxh3_64(&artefact.body()));
        Ok(artefact)
    }

    /// Reads an artefact of `kind`.
    ///
    /// # Errors
    /// When the bytes are not one, are altered, or are of another kind.
    pub fn read(kind: &str, bytes: &[u8]) -> Result<Self, ArtefactError> {
        if bytes.len() < MAGIC.len() || !bytes.starts_with(MAGIC) {
            return Err(ArtefactError::Magic);
        }
        let Some((body, checksum)) = bytes.split_last_chunk::<8>() else {
            return Err(ArtefactError::Truncated { at: bytes.len() });
        };
        let digest = xxh3_64(body);
        if digest != u64::from_le_bytes(*checksum) {
            return Err(ArtefactError::Checksum);
        }
        let mut input = Input {
            bytes: body,
            at: MAGIC.len(),
        };
        let found = input.name()?;
        if found != kind {
            return Err(ArtefactError::Kind {
                expected: kind.to_owned(),
                found,
            });
        }
        let count = input.u32()?;
        let mut tensors = BTreeMap::new();
        for _ in 0..count {
            let name = input.name()?;
            tensors.insert(name, input.tensor()?);
        }
        if input.at != body.len() {
            return Err(ArtefactError::Truncated { at: input.at });
        }
        Ok(Self {
            kind: found,
            tensors,
            version: fold(digest),
        })
    }

    /// The file's bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.body();
        let digest = xxh3_64(&bytes);
        bytes.extend(digest.to_le_bytes());
        bytes
    }

    /// A number drawn from the content: two artefacts that differ anywhere differ here, but for a chance of 2^-32.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The shape of a tensor, if it is there.
    #[must_use]
    pub fn shape(&self, name: &str) -> Option<(usize, usize)> {
        self.tensors.get(name).map(|tensor| (tensor.rows, tensor.columns))
    }

    /// The finite floats of tensor `name` of the given shape.
    ///
    /// # Errors
    /// When it is missing, of another shape or type, or holds a value that is not finite.
    pub fn floats(&self, name: &str, rows: usize, columns: usize) -> Result<Vec<f32>, ArtefactError> {
        match self.find(name, rows, columns)? {
            Elements::F32(values) if values.iter().all(|value| value.is_finite()) => Ok(values.clone()),
            Elements::F32(_) => Err(ArtefactError::NotFinite {
                name: name.to_owned(),
            }),
            _ => Err(expected(name, format!("{rows} x {columns} floats"))),
        }
    }

    /// The signed bytes of tensor `name` of the given shape.
    ///
    /// # Errors
    /// When it is missing or of another shape or type.
    pub fn bytes_i8(&self, name: &str, rows: usize, columns: usize) -> Result<Vec<i8>, ArtefactError> {
        match self.find(name, rows, columns)? {
            Elements::I8(values) => Ok(values.clone()),
            _ => Err(expected(name, format!("{rows} x {columns} signed bytes"))),
        }
    }

    /// The 16-bit words of tensor `name` of the given shape.
    ///
    /// # Errors
    /// When it is missing or of another shape or type.
    pub fn words_u16(&self, name: &str, rows: usize, columns: usize) -> Result<Vec<u16>, ArtefactError> {
        match self.find(name, rows, columns)? {
            Elements::U16(values) => Ok(values.clone()),
            _ => Err(expected(name, format!("{rows} x {columns} words of 16 bits"))),
        }
    }

    /// The text of tensor `name`.
    ///
    /// # Errors
    /// When it is missing or not UTF-8.
    pub fn text(&self, name: &str) -> Result<String, ArtefactError> {
        match self.tensors.get(name).map(|tensor| &tensor.elements) {
            Some(Elements::U8(bytes)) => {
                String::from_utf8(bytes.clone()).map_err(|_| expected(name, "UTF-8".to_owned()))
            }
            _ => Err(expected(name, "a text".to_owned())),
        }
    }

    fn find(&self, name: &str, rows: usize, columns: usize) -> Result<&Elements, ArtefactError> {
        self.tensors
            .get(name)
            .filter(|tensor| (tensor.rows, tensor.columns) == (rows, columns))
            .map(|tensor| &tensor.elements)
            .ok_or_else(|| expected(name, format!("{rows} x {columns}")))
    }

    fn body(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        put_name(&mut out, &self.kind);
        out.extend((self.tensors.len() as u32).to_le_bytes());
        for (name, tensor) in &self.tensors {
            put_name(&mut out, name);
            out.push(tensor.elements.code());
            out.extend((tensor.rows as u32).to_le_bytes());
            out.extend((tensor.columns as u32).to_le_bytes());
            tensor.elements.put(&mut out);
        }
        out
    }
}

impl Tensor {
    /// A matrix of floats.
    #[must_use]
    pub fn floats(rows: usize, columns: usize, values: Vec<f32>) -> Self {
        Self {
            rows,
            columns,
            elements: Elements::F32(values),
        }
    }

    /// A text.
    #[must_use]
    pub fn text(text: &str) -> Self {
        Self {
            rows: 1,
            columns: text.len(),
            elements: Elements::U8(text.as_bytes().to_vec()),
        }
    }
}

impl Elements {
    fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::I8(values) => values.len(),
            Self::U8(values) => values.len(),
            Self::U16(values) => values.len(),
        }
    }

    fn code(&self) -> u8 {
        match self {
            Self::F32(_) => 0,
            Self::I8(_) => 1,
            Self::U8(_) => 2,
            Self::U16(_) => 3,
        }
    }

    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::F32(values) => out.extend(values.iter().flat_map(|value| value.to_le_bytes())),
            Self::I8(values) => out.extend(values.iter().map(|value| value.cast_unsigned())),
            Self::U8(values) => out.extend_from_slice(values),
            Self::U16(values) => out.extend(values.iter().flat_map(|value| value.to_le_bytes())),
        }
    }
}

struct Input<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Input<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], ArtefactError> {
        let taken = self.bytes[self.at..]
            .get(..length)
            .ok_or(ArtefactError::Truncated { at: self.at })?;
        self.at += length;
        Ok(taken)
    }

    fn u8(&mut self) -> Result<u8, ArtefactError> {
        Ok(self.take(1)?[0])
    }

    fn u32(&mut self) -> Result<u32, ArtefactError> {
        let mut word = [0; 4];
        word.copy_from_slice(self.take(4)?);
        Ok(u32::from_le_bytes(word))
    }

    fn name(&mut self) -> Result<String, ArtefactError> {
        let length = usize::from(self.u8()?);
        let at = self.at;
        String::from_utf8(self.take(length)?.to_vec()).map_err(|_| ArtefactError::Truncated { at })
    }

    fn tensor(&mut self) -> Result<Tensor, ArtefactError> {
        let code = self.u8()?;
        let (rows, columns) = (self.u32()? as usize, self.u32()? as usize);
        let at = self.at;
        let count = rows
            .checked_mul(columns)
            .filter(|count| *count <= MAX_ELEMENTS)
            .ok_or(ArtefactError::Truncated { at })?;
        let elements = match code {
            0 => Elements::F32(
                self.take(count * 4)?
                    .as_chunks::<4>()
                    .0
                    .iter()
                    .map(|b| f32::from_le_bytes(*b))
                    .collect(),
            ),
            1 => Elements::I8(self.take(count)?.iter().map(|byte| byte.cast_signed()).collect()),
            2 => Elements::U8(self.take(count)?.to_vec()),
            3 => Elements::U16(
                self.take(count * 2)?
                    .as_chunks::<2>()
                    .0
                    .iter()
                    .map(|b| u16::from_le_bytes(*b))
                    .collect(),
            ),
            _ => return Err(ArtefactError::Truncated { at }),
        };
        Ok(Tensor {
            rows,
            columns,
            elements,
        })
    }
}

fn put_name(out: &mut Vec<u8>, name: &str) {
    let length = name.len().min(255);
    out.push(length as u8);
    out.extend(&name.as_bytes()[..length]);
}

fn fold(digest: u64) -> u32 {
    (digest ^ (digest >> 32)) as u32
}

fn expected(name: &str, expected: String) -> ArtefactError {
    ArtefactError::Tensor {
        name: name.to_owned(),
        expected,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Artefact {
        Artefact::new(
            "sample",
            vec![
                ("weights", Tensor::floats(2, 2, vec![1.0, -2.5, 0.0, 3.25])),
                (
                    "small",
                    Tensor {
                        rows: 1,
                        columns: 3,
                        elements: Elements::I8(vec![-128, 0, 127]),
                    },
                ),
                (
                    "half",
                    Tensor {
                        rows: 1,
                        columns: 2,
                        elements: Elements::U16(vec![0, 65535]),
                    },
                ),
                ("name", Tensor::text("größe")),
            ],
        )
        .unwrap()
    }

    #[test]
    fn what_is_written_is_read() {
        let read = Artefact::read("sample", &sample().to_bytes()).unwrap();
        assert_eq!(read, sample());
        assert_eq!(read.floats("weights", 2, 2).unwrap(), [1.0, -2.5, 0.0, 3.25]);
        assert_eq!(read.bytes_i8("small", 1, 3).unwrap(), [-128, 0, 127]);
        assert_eq!(read.words_u16("half", 1, 2).unwrap(), [0, 65535]);
        assert_eq!(read.text("name").unwrap(), "größe");
    }

    #[test]
    fn every_altered_byte_and_every_cut_is_refused() {
        let bytes = sample().to_bytes();
        for at in 0..bytes.len() {
            let mut altered = bytes.clone();
            altered[at] ^= 0x10;
            assert!(Artefact::read("sample", &altered).is_err(), "byte {at}");
            assert!(Artefact::read("sample", &bytes[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn another_kind_shape_or_value_is_refused() {
        let bytes = sample().to_bytes();
        assert!(matches!(
            Artefact::read("other", &bytes),
            Err(ArtefactError::Kind { .. })
        ));
        assert!(sample().floats("weights", 1, 4).is_err());
        assert!(sample().floats("small", 1, 3).is_err());
        let nan = Artefact::new("sample", vec![("w", Tensor::floats(1, 1, vec![f32::NAN]))]).unwrap();
        assert_eq!(
            nan.floats("w", 1, 1),
            Err(ArtefactError::NotFinite { name: "w".to_owned() })
        );
        assert!(Artefact::new("sample", vec![("w", Tensor::floats(1, 2, vec![0.0]))]).is_err());
    }

    #[test]
    fn the_version_follows_the_content() {
        let other = Artefact::new("sample", vec![("weights", Tensor::floats(1, 1, vec![1.0]))]).unwrap();
        assert_ne!(sample().version(), other.version());
        assert_eq!(
            sample().version(),
            Artefact::read("sample", &sample().to_bytes()).unwrap().version()
        );
    }
}
