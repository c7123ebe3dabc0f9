//! Lines of a file of recorded outcomes: plain or gzip, with what may be wrong with such a file told in one sentence.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};

/// A longer line is no prompt with outcomes, and must not fill the memory before that is noticed.
const LONGEST: u64 = 32 << 20;
/// How some editors begin a UTF-8 file.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Why a dataset cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    /// The file cannot be read.
    #[error("cannot read {}: {cause}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        cause: std::io::Error,
    },
    /// The file ends too early, or is no gzip file inside.
    #[error("{} is damaged after line {after} ({cause}): fetch or copy it again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Lines that could be read.
        after: usize,
        /// What the decompression says.
        cause: std::io::Error,
    },
    /// A line is not an outcome record.
    #[error("{} line {line}: {reason}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Line number, from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// Nothing is left to work on.
    #[error("{} has no {what}", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
        /// What is missing.
        what: String,
    },
    /// One model cannot be routed.
    #[error("{} has outcomes of {model} alone: there is nothing to choose; give outcomes of two models or more", path.display())]
    OneModel {
        /// The file.
        path: PathBuf,
        /// The model.
        model: String,
    },
}

/// Gives `take` every line that is not empty, with its number from 1.
///
/// # Errors
/// When the file cannot be read to its end, a line is too long, or `take` says what is wrong with one.
pub fn each(path: &Path, take: impl FnMut(usize, &str) -> Result<(), String>) -> Result<(), DatasetError> {
    let failed = |cause| DatasetError::Read {
        path: path.to_owned(),
        cause,
    };
    let mut file = BufReader::new(File::open(path).map_err(failed)?);
    if file.fill_buf().map_err(failed)?.starts_with(&[0x1f, 0x8b]) {
        each_of(path, BufReader::new(MultiGzDecoder::new(file)), take)
    } else {
        each_of(path, file, take)
    }
}

pub(super) fn each_of(
    path: &Path,
    mut reader: impl BufRead,
    mut take: impl FnMut(usize, &str) -> Result<(), String>,
) -> Result<(), DatasetError> {
    let mut bytes = Vec::new();
    for number in 1.. {
        bytes.clear();
        let read = reader.by_ref().take(LONGEST).read_until(b'\n', &mut bytes);
        let length = read.map_err(|cause| match cause.kind() {
            ErrorKind::UnexpectedEof | ErrorKind::InvalidInput | ErrorKind::InvalidData => {
                DatasetError::Damaged {
                    path: path.to_owned(),
                    after: number - 1,
                    cause,
                }
            }
            _ => DatasetError::Read {
                path: path.to_owned(),
                cause,
            },
        })?;
        if length == 0 {
            break;
        }
        let wrong = |reason: String| DatasetError::Line {
            path: path.to_owned(),
            line: number,
            reason,
        };
        if length as u64 == LONGEST {
            return Err(wrong(format!("it is longer than {} MB", LONGEST >> 20)));
        }
        let line = match number {
            1 => bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&bytes),
            _ => &bytes,
        };
        let line = std::str::from_utf8(line).map_err(|_| wrong("it is not UTF-8".to_owned()))?;
        if !line.trim().is_empty() {
            take(number, line).map_err(wrong)?;
        }
    }
    Ok(())
}

/// One record from its line.
///
/// # Errors
/// What is wrong with its JSON; which line it is, is told elsewhere.
pub fn record<T: DeserializeOwned>(line: &str) -> Result<T, String> {
    // A list would be taken for the fields in their order.
    if !line.trim_start().starts_with('{') {
        return Err("it is not a JSON object".to_owned());
    }
    serde_json::from_str(line).map_err(|error| json_reason(&error))
}

fn json_reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let what = text
        .rfind(" at line ")
        .map_or(text.as_str(), |place| &text[..place]);
    format!("{what} (column {})", error.column())
}

/// A score: a number, or whether the answer was right.
///
/// # Errors
/// Anything else.
pub fn score<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Score {
        Number(f64),
        Verdict(bool),
    }
    match Score::deserialize(deserializer) {
        Ok(Score::Number(score)) => Ok(score),
        Ok(Score::Verdict(verdict)) => Ok(f64::from(verdict)),
        Err(_) => Err(D::Error::custom("`score` is neither a number nor true or false")),
    }
}

/// An id: a text or a number.
///
/// # Errors
/// Anything else.
pub fn id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    match serde_json::Value::deserialize(deserializer)? {
        serde_json::Value::String(id) => Ok(id),
        serde_json::Value::Number(id) => Ok(id.to_string()),
        _ => Err(D::Error::custom("`id` is neither a text nor a number")),
    }
}

/// What models made of a prompt, by name; null is no outcome.
///
/// # Errors
/// Anything else than an object of outcomes.
pub fn outcomes<'de, D, T, M>(deserializer: D) -> Result<M, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
    M: FromIterator<(String, T)>,
{
    let all = HashMap::<String, Option<T>>::deserialize(deserializer)?;
    Ok(all
        .into_iter()
        .filter_map(|(model, outcome)| Some((model, outcome?)))
        .collect())
}

/// A text, empty where there is none.
///
/// # Errors
/// Anything else than a text or null.
pub fn or_empty<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.unwrap_or_default())
}

/// No call costs so many dollars or takes so many tokens: larger numbers are mistakes, and their squares would overflow.
const MOST: f64 = 1e9;

/// What is wrong with an outcome's numbers, if anything.
///
/// # Errors
/// A score outside \[0,1\], or a cost that is no amount.
pub fn sound(model: &str, score: f64, cost_usd: f64) -> Result<(), String> {
    if !(0.0..=1.0).contains(&score) {
        return Err(format!("score {score} of {model} is not in [0, 1]"));
    }
    if !(0.0..=MOST).contains(&cost_usd) {
        return Err(format!("cost_usd {cost_usd} of {model} is not an amount"));
    }
    Ok(())
}

/// What is wrong with a number of tokens, if anything.
///
/// # Errors
/// A number that is no count.
pub fn count(model: &str, name: &str, tokens: Option<f64>) -> Result<(), String> {
    match tokens {
        Some(tokens) if !(0.0..=MOST).contains(&tokens) => {
            Err(format!("{name} {tokens} of {model} is not a count"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn read(bytes: &[u8]) -> Result<Vec<(usize, String)>, DatasetError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.jsonl");
        std::fs::write(&path, bytes).unwrap();
        let mut lines = Vec::new();
        each(&path, |number, line| {
            lines.push((number, line.trim_end().to_owned()));
            Ok(())
        })?;
        Ok(lines)
    }

    #[test]
    fn marks_returns_and_empty_lines_are_no_content() {
        let found = read(b"\xef\xbb\xbfa\r\n\r\nb\n").unwrap();
        assert_eq!(found, [(1, "a".to_owned()), (3, "b".to_owned())]);
    }

    #[test]
    fn a_file_that_was_cut_off_is_told_with_the_last_good_line() {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::none());
        for number in 0..30_000 {
            writeln!(encoder, "line {number}").unwrap();
        }
        let whole = encoder.finish().unwrap();
        let error = read(&whole[..whole.len() / 2]).unwrap_err();
        let DatasetError::Damaged { after, .. } = &error else {
            panic!("{error}");
        };
        assert!((5_000..20_000).contains(after), "{error}");
        assert!(error.to_string().contains("fetch or copy it again"), "{error}");
        let mut flipped = whole;
        let middle = flipped.len() / 2;
        flipped[middle] ^= 1;
        assert!(matches!(read(&flipped), Err(DatasetError::Damaged { .. })));
    }

    #[test]
    fn a_line_without_end_does_not_fill_the_memory() {
        let mut long = vec![b'x'; (LONGEST + 10) as usize];
        long.push(b'\n');
        let message = read(&long).unwrap_err().to_string();
        assert!(message.ends_with("line 1: it is longer than 32 MB"), "{message}");
        let message = read(b"{}\n\xff\xfe\n").unwrap_err().to_string();
        assert!(message.ends_with("line 2: it is not UTF-8"), "{message}");
    }
}
