//! How a decision's context is kept in the log: what the learner needs to learn from it later, and to judge another
//! policy by it. Little-endian, with a version; the store takes it as opaque bytes.

use std::sync::Arc;

use crate::content::TextClass;
use crate::context::{Features, WordSet};
use crate::policy::{ArmScore, Strategy};
use crate::pricing::ContentKind;

/// Version of this encoding.
pub const CONTEXT_FORMAT: u32 = 3;
/// Those that are read: 1 lacked the kind of content, 2 the words.
const KNOWN: std::ops::RangeInclusive<u32> = 1..=CONTEXT_FORMAT;

/// What is kept of a decision beside the columns of its row.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    /// The prompt's feature vectors.
    pub features: Features,
    /// Price of a dollar in quality points when it was made.
    pub lambda: f64,
    /// Who decided.
    pub strategy: Strategy,
    /// What was expected of each candidate, in the order of the row's candidates.
    pub options: Vec<KeptOption>,
    /// What the prompt mostly holds, for the drawn arm: how tokens are counted is learned for each kind.
    pub kind: Option<ContentKind>,
}

/// What is kept of one candidate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KeptOption {
    /// Milliseconds expected, as the objective counts them.
    pub latency_ms: f32,
    /// Its score; `cost_usd` is the row's.
    pub score: ArmScore,
}

/// Why a context cannot be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// Written by another version.
    #[error("the context has format {found}; this version reads {} to {}", KNOWN.start(), KNOWN.end())]
    Format {
        /// The format found.
        found: u32,
    },
    /// Ends too early, or holds what it cannot.
    #[error("the context is damaged")]
    Damaged,
}

/// Encodes.
#[must_use]
pub fn encode(kept: &Kept) -> Vec<u8> {
    let embedding = kept.features.embedding.as_deref().unwrap_or_default();
    let floats = kept.features.text.len() + embedding.len();
    let mut out = Vec::with_capacity(32 + floats * 4 + kept.options.len() * 29);
    out.extend(kept.lambda.to_le_bytes());
    out.push(strategy_code(kept.strategy));
    view(&mut out, kept.features.text_version, &kept.features.text);
    view(&mut out, kept.features.embedding_version, embedding);
    out.extend((kept.options.len() as u32).to_le_bytes());
    for option in &kept.options {
        out.extend(option.latency_ms.to_le_bytes());
        for value in [
            option.score.mean,
            option.score.sd,
            option.score.cost_usd,
            option.score.value,
        ] {
            out.extend((value as f32).to_le_bytes());
        }
        out.push(u8::from(option.score.capable));
    }
    let words = kept.features.words.buckets();
    out.extend((words.len() as u16).to_le_bytes());
    words.iter().for_each(|word| out.extend(word.to_le_bytes()));
    out.push(kind_code(kept.kind));
    out
}

/// The kind of content alone, which is the last byte. `None` when it is not known.
#[must_use]
pub fn kind(format: u32, bytes: &[u8]) -> Option<ContentKind> {
    let code = bytes.last().filter(|_| KNOWN.contains(&format) && format > 1)?;
    kind_of(*code).ok().flatten()
}

const KINDS: [ContentKind; 5] = [
    ContentKind::Text(TextClass::Prose),
    ContentKind::Text(TextClass::Code),
    ContentKind::Text(TextClass::Cjk),
    ContentKind::Text(TextClass::Json),
    ContentKind::Media,
];

/// 0 for none, else the place among the kinds, from 1.
fn kind_code(kind: Option<ContentKind>) -> u8 {
    let place = kind.and_then(|kind| KINDS.iter().position(|&other| other == kind));
    place.map_or(0, |place| place as u8 + 1)
}

fn kind_of(code: u8) -> Result<Option<ContentKind>, CodecError> {
    match usize::from(code).checked_sub(1) {
        None => Ok(None),
        Some(place) => KINDS.get(place).copied().map(Some).ok_or(CodecError::Damaged),
    }
}

/// Decodes what [`encode`] of the same format wrote.
///
/// # Errors
/// Another format, or bytes that no encoder wrote.
pub fn decode(format: u32, bytes: &[u8]) -> Result<Kept, CodecError> {
    if !KNOWN.contains(&format) {
        return Err(CodecError::Format { found: format });
    }
    let mut reader = Reader(bytes);
    let lambda = f64::from_le_bytes(reader.take()?);
    let strategy = strategy_of(reader.byte()?)?;
    let (text_version, text) = reader.view()?;
    let (embedding_version, embedding) = reader.view()?;
    let count = reader.u32()? as usize;
    let mut options = Vec::with_capacity(count.min(256));
    for _ in 0..count {
        options.push(KeptOption {
            latency_ms: reader.f32()?,
            score: ArmScore {
                mean: reader.f32()?.into(),
                sd: reader.f32()?.into(),
                cost_usd: reader.f32()?.into(),
                value: reader.f32()?.into(),
                capable: reader.byte()? != 0,
            },
        });
    }
    let words = match format {
        1 | 2 => WordSet::default(),
        _ => reader.words()?,
    };
    let kind = match format {
        1 => None,
        _ => kind_of(reader.byte()?)?,
    };
    Ok(Kept {
        kind,
        features: Features {
            text,
            text_version,
            embedding: (!embedding.is_empty()).then_some(embedding),
            embedding_version,
            words,
        },
        lambda,
        strategy,
        options,
    })
}

fn view(out: &mut Vec<u8>, version: u32, features: &[f32]) {
    out.extend(version.to_le_bytes());
    out.extend((features.len() as u32).to_le_bytes());
    for feature in features {
        out.extend(feature.to_le_bytes());
    }
}

const STRATEGIES: [Strategy; 3] = [Strategy::Contextual, Strategy::StaticMix, Strategy::Baseline];

fn strategy_code(strategy: Strategy) -> u8 {
    STRATEGIES
        .iter()
        .position(|&other| other == strategy)
        .unwrap_or(0) as u8
}

fn strategy_of(code: u8) -> Result<Strategy, CodecError> {
    STRATEGIES
        .get(usize::from(code))
        .copied()
        .ok_or(CodecError::Damaged)
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], CodecError> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(CodecError::Damaged)?;
        self.0 = rest;
        Ok(*head)
    }

    fn byte(&mut self) -> Result<u8, CodecError> {
        self.take::<1>().map(|[byte]| byte)
    }

    fn u32(&mut self) -> Result<u32, CodecError> {
        self.take().map(u32::from_le_bytes)
    }

    fn f32(&mut self) -> Result<f32, CodecError> {
        self.take().map(f32::from_le_bytes)
    }

    fn words(&mut self) -> Result<WordSet, CodecError> {
        let count = u16::from_le_bytes(self.take()?);
        let words: Result<Vec<u16>, _> = (0..count).map(|_| self.take().map(u16::from_le_bytes)).collect();
        Ok(WordSet::new(words?))
    }

    fn view(&mut self) -> Result<(u32, Arc<[f32]>), CodecError> {
        let version = self.u32()?;
        let length = self.u32()? as usize;
        if length > self.0.len() / 4 {
            return Err(CodecError::Damaged);
        }
        let features: Result<Vec<f32>, _> = (0..length).map(|_| self.f32()).collect();
        Ok((version, features?.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn kept(text: Vec<f32>, embedding: Option<Vec<f32>>, scores: usize) -> Kept {
        Kept {
            features: Features {
                text: text.into(),
                text_version: 3,
                embedding: embedding.map(Into::into),
                embedding_version: 9,
                words: WordSet::new((0..scores as u16).map(|word| word * 7)),
            },
            lambda: 12.5,
            strategy: crate::policy::Strategy::StaticMix,
            kind: scores
                .is_multiple_of(2)
                .then_some(ContentKind::Text(TextClass::Cjk)),
            options: (0..scores)
                .map(|index| KeptOption {
                    latency_ms: 250.0,
                    score: ArmScore {
                        mean: 0.5,
                        sd: 0.25,
                        cost_usd: 0.125,
                        value: index as f64,
                        capable: index % 2 == 0,
                    },
                })
                .collect(),
        }
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(text in prop::collection::vec(-9f32..9.0, 0..70),
                                    embedding in prop::option::of(prop::collection::vec(-9f32..9.0, 1..70)),
                                    scores in 0usize..20) {
            let kept = kept(text, embedding, scores);
            prop_assert_eq!(decode(CONTEXT_FORMAT, &encode(&kept)), Ok(kept));
        }

        #[test]
        fn damaged_bytes_are_refused_not_believed(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            // Any answer will do but a panic or a huge allocation.
            let _ = decode(CONTEXT_FORMAT, &bytes);
        }
    }

    #[test]
    fn every_truncation_is_noticed() {
        let bytes = encode(&kept(vec![1.0; 5], Some(vec![2.0; 3]), 2));
        for length in 0..bytes.len() {
            assert_eq!(decode(CONTEXT_FORMAT, &bytes[..length]), Err(CodecError::Damaged));
        }
        assert_eq!(
            kind(CONTEXT_FORMAT, &bytes),
            Some(ContentKind::Text(TextClass::Cjk))
        );
    }

    /// One decision, byte by byte, as each format wrote it.
    fn written(format: u32) -> Vec<u8> {
        let mut bytes = vec![0, 0, 0, 0, 0, 0, 0x29, 0x40, 1]; // 12.5, the static mix
        bytes.extend([3, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0]); // version 3: 1 and -2
        bytes.extend([9, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0x3f]); // version 9: 0.5
        bytes.extend([1, 0, 0, 0, 0, 0, 0x7a, 0x43]); // one option: 250 ms
        bytes.extend([0, 0, 0, 0x3f, 0, 0, 0x80, 0x3e, 0, 0, 0, 0x3e, 0, 0, 0, 0x40, 1]); // 0.5, 0.25, 0.125, 2, capable
        if format > 2 {
            bytes.extend([2, 0, 7, 0, 0, 2]); // two words: 7 and 512
        }
        if format > 1 {
            bytes.push(3); // CJK text
        }
        bytes
    }

    #[test]
    fn logs_of_each_format_are_read() {
        let cjk = Some(ContentKind::Text(TextClass::Cjk));
        let cases = [(1, &[][..], None), (2, &[], cjk), (3, &[7, 512], cjk)];
        assert_eq!(cases.len(), CONTEXT_FORMAT as usize, "each format has its case");
        for (format, words, content) in cases {
            let bytes = written(format);
            let expected = Kept {
                features: Features {
                    text: [1.0, -2.0].into(),
                    text_version: 3,
                    embedding: Some([0.5].into()),
                    embedding_version: 9,
                    words: WordSet::new(words.iter().copied()),
                },
                lambda: 12.5,
                strategy: crate::policy::Strategy::StaticMix,
                options: vec![KeptOption {
                    latency_ms: 250.0,
                    score: ArmScore {
                        mean: 0.5,
                        sd: 0.25,
                        cost_usd: 0.125,
                        value: 2.0,
                        capable: true,
                    },
                }],
                kind: content,
            };
            assert_eq!(decode(format, &bytes).as_ref(), Ok(&expected), "format {format}");
            assert_eq!(kind(format, &bytes), content, "format {format}");
            let cut = &bytes[..bytes.len() - 1];
            assert_eq!(decode(format, cut), Err(CodecError::Damaged), "format {format}");
            if format == CONTEXT_FORMAT {
                assert_eq!(encode(&expected), bytes);
            }
        }
    }

    #[test]
    fn other_formats_are_refused_with_those_that_are_read() {
        for format in [0, 4, 7] {
            let refused = decode(format, &written(CONTEXT_FORMAT)).unwrap_err();
            assert_eq!(
                refused.to_string(),
                format!("the context has format {format}; this version reads 1 to 3")
            );
            assert_eq!(kind(format, &written(CONTEXT_FORMAT)), None);
        }
    }
}
