//! Recorded outcomes of real models on real prompts: JSON Lines, plain or gzip.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use serde::Deserialize;

use crate::replay::lines::{self, DatasetError};

/// One prompt with what each model made of it.
#[derive(Clone, Debug, Deserialize)]
pub struct Recorded {
    /// Unique within the file.
    #[serde(deserialize_with = "lines::id")]
    pub id: String,
    /// The source's own name for the kind of prompt.
    #[serde(default, deserialize_with = "lines::or_empty")]
    pub category: String,
    /// The prompt.
    pub prompt: String,
    /// By model name.
    #[serde(deserialize_with = "lines::outcomes")]
    pub outcomes: BTreeMap<String, Outcome>,
    /// `val`, `test`, ... where the source has splits.
    pub split: Option<String>,
}

/// What one model made of one prompt.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(expecting = "an object with score and cost_usd")]
pub struct Outcome {
    /// Quality in [0,1].
    #[serde(deserialize_with = "lines::score")]
    pub score: f64,
    /// Tokens of the prompt.
    pub input_tokens: Option<f64>,
    /// Tokens of the answer.
    pub output_tokens: Option<f64>,
    /// What the call cost.
    pub cost_usd: f64,
}

/// A source of recorded outcomes.
#[derive(Clone, Debug)]
pub struct Source {
    /// The file's name without its extensions.
    pub name: String,
    /// Its prompts, each text once.
    pub prompts: Vec<Recorded>,
}

/// Reads a source; a prompt that comes twice is kept once, so that no fold can learn its own answers.
///
/// # Errors
/// When the file cannot be read, a line does not parse, or a score lies outside [0,1].
pub fn read(path: &Path) -> Result<Source, DatasetError> {
    let mut prompts = Vec::new();
    let mut seen = HashSet::new();
    lines::each(path, |_, line| {
        let recorded: Recorded = lines::record(line)?;
        for (model, outcome) in &recorded.outcomes {
            lines::sound(model, outcome.score, outcome.cost_usd)?;
            lines::count(model, "input_tokens", outcome.input_tokens)?;
            lines::count(model, "output_tokens", outcome.output_tokens)?;
        }
        if seen.insert(recorded.prompt.clone()) {
            prompts.push(recorded);
        }
        Ok(())
    })?;
    if prompts.is_empty() {
        return Err(DatasetError::Empty {
            path: path.to_owned(),
            what: "prompt".to_owned(),
        });
    }
    Ok(Source {
        name: source_name(path),
        prompts,
    })
}

fn source_name(path: &Path) -> String {
    let name = path
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    name.split('.').next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::path::PathBuf;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    const LINE: &str =
        r#"{"id":"1","category":"math","prompt":"2+2?","outcomes":{"m":{"score":1.0,"cost_usd":0.1}}}"#;

    fn write(name: &str, bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        (dir, path)
    }

    #[test]
    fn plain_and_gzip_read_alike_and_doubles_count_once() {
        let text = format!("{LINE}\n\n{LINE}\n");
        let (_plain_dir, plain) = write("some.jsonl", text.as_bytes());
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text.as_bytes()).unwrap();
        let (_gzip_dir, gzip) = write("some.jsonl.gz", &encoder.finish().unwrap());
        for path in [plain, gzip] {
            let source = read(&path).unwrap();
            assert_eq!((source.name.as_str(), source.prompts.len()), ("some", 1));
            assert_eq!(source.prompts[0].outcomes["m"].score, 1.0);
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        let (_dir, path) = write(
            "bad.jsonl",
            format!("{LINE}\n{}\n", LINE.replace("1.0", "1.5")).as_bytes(),
        );
        let message = read(&path).unwrap_err().to_string();
        assert!(message.contains("line 2") && message.contains("1.5"), "{message}");
        for (wrong, told) in [
            ("\"cost_usd\":1e300", "cost_usd 1000"),
            (
                "\"cost_usd\":1,\"input_tokens\":-4",
                "input_tokens -4 of m is not a count",
            ),
        ] {
            let (_dir, path) = write("bad.jsonl", LINE.replace("\"cost_usd\":0.1", wrong).as_bytes());
            let message = read(&path).unwrap_err().to_string();
            assert!(message.contains("line 1") && message.contains(told), "{message}");
        }
        let (_dir, path) = write("none.jsonl", b"\n");
        assert!(matches!(read(&path), Err(DatasetError::Empty { .. })));
        assert!(matches!(
            read(Path::new("/nowhere/x")),
            Err(DatasetError::Read { .. })
        ));
    }
}
