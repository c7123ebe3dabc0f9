//! A sentence-embedding model from a folder of files.

use std::io;
use std::path::{Path, PathBuf};

use fastembed::{
    InitOptionsUserDefined, Pooling, QuantizationMode, TextEmbedding, TokenizerFiles,
    UserDefinedEmbeddingModel,
};
use sha2::{Digest, Sha256};
use thiserror::Error;

use super::runtime::{Runtime, RuntimeError, choose};
use crate::features::prompt::cut;
use crate::features::{EmbedError, Embedder};

/// Word pieces that the model looks at. Cost grows faster than the length, and what a prompt is about shows early
/// or at the end.
const MAX_TOKENS: usize = 128;
/// Bytes of a text that are tokenised, head and tail: about [`MAX_TOKENS`] word pieces of English. fastembed
/// tokenises all it is given before it truncates: a megabyte would take half a second.
const MAX_BYTES: usize = 512;

/// Digests of a model's files, as `sha256sum` writes them. A folder without it is not checked.
const SUMS: &str = "SHA256SUMS";

/// A model that runs in this process. Holds its weights (about 60 MB for the shipped one).
pub struct LocalEmbedder {
    model: TextEmbedding,
    name: String,
    dimensions: usize,
    runtime: Runtime,
}

/// Why a model cannot be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// A file is missing or unreadable.
    #[error("cannot read {}: {cause}; restore it from the release or set `[embedding] model = \"off\"`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// A file is not what was shipped. A wrong weight would show in nothing else.
    #[error("{} is damaged, or SHA256SUMS beside it: they do not agree; restore both from the release or set `[embedding] model = \"off\"`", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// The files are not a usable model.
    #[error("{} is not a usable embedding model: {cause}; restore it from the release or set `[embedding] model = \"off\"`", folder.display())]
    Model {
        /// The folder.
        folder: PathBuf,
        /// What is wrong.
        cause: String,
    },
    /// The runtime is not usable.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

impl LocalEmbedder {
    /// Opens the model in `folder`: `model.onnx`, `tokenizer.json`, `config.json`, `special_tokens_map.json` and
    /// `tokenizer_config.json`. Blocks for about a tenth of a second.
    ///
    /// # Errors
    /// When a file is missing or damaged, or the model does not load or does not embed.
    pub fn open(folder: &Path) -> Result<Self, OpenError> {
        let sums = sums(folder)?;
        let read = |name: &str| {
            let path = folder.join(name);
            match std::fs::read(&path) {
                Ok(bytes) if sums.as_ref().is_none_or(|sums| is_whole(sums, name, &bytes)) => Ok(bytes),
                Ok(_) => Err(OpenError::Damaged { path }),
                Err(cause) => Err(OpenError::Read { path, cause }),
            }
        };
        let unusable = |cause: String| OpenError::Model {
            folder: folder.to_owned(),
            cause,
        };
        let tokenizer = TokenizerFiles {
            tokenizer_file: read("tokenizer.json")?,
            config_file: read("config.json")?,
            special_tokens_map_file: read("special_tokens_map.json")?,
            tokenizer_config_file: read("tokenizer_config.json")?,
        };
        let runtime = choose()?;
        let model = UserDefinedEmbeddingModel::new(read("model.onnx")?, tokenizer)
            .with_pooling(Pooling::Mean)
            .with_quantization(QuantizationMode::Dynamic);
        let options = InitOptionsUserDefined::new()
            .with_max_length(MAX_TOKENS)
            .with_intra_threads(1);
        let model = TextEmbedding::try_new_from_user_defined(model, options)
            .map_err(|cause| unusable(cause.to_string()))?;
        let name = folder
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        let mut embedder = Self {
            model,
            name,
            dimensions: 0,
            runtime,
        };
        embedder.dimensions = embedder
            .run("a first text")
            .map_err(|cause| unusable(cause.to_string()))?
            .len();
        Ok(embedder)
    }

    /// What it computes on.
    #[must_use]
    pub fn runtime(&self) -> Runtime {
        self.runtime
    }

    fn run(&mut self, text: &str) -> Result<Vec<f32>, EmbedError> {
        let mut embeddings =
            self.model
                .embed([cut(text, MAX_BYTES)], None)
                .map_err(|cause| EmbedError::Runtime {
                    cause: cause.to_string(),
                })?;
        Ok(embeddings.pop().unwrap_or_default())
    }
}

/// The text of [`SUMS`], if it is there.
fn sums(folder: &Path) -> Result<Option<String>, OpenError> {
    let path = folder.join(SUMS);
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text)),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(OpenError::Read { path, cause }),
    }
}

/// Whether `bytes` have the digest that `sums` names for the file.
fn is_whole(sums: &str, name: &str, bytes: &[u8]) -> bool {
    let line = format!("{:x}  {name}", Sha256::digest(bytes));
    sums.lines().any(|known| known == line)
}

impl Embedder for LocalEmbedder {
    fn embed(&mut self, text: &str) -> Result<Vec<f32>, EmbedError> {
        let embedding = self.run(text)?;
        let finite = embedding.iter().filter(|value| value.is_finite()).count();
        if finite != self.dimensions || embedding.len() != self.dimensions {
            return Err(EmbedError::Shape {
                expected: self.dimensions,
                got: finite,
            });
        }
        Ok(embedding)
    }

    fn dimensions(&self) -> usize {
        self.dimensions
    }

    fn name(&self) -> &str {
        &self.name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shipped() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("models/all-minilm-l6-v2-exit3-q8")
    }

    fn cosine(a: &[f32], b: &[f32]) -> f32 {
        a.iter().zip(b).map(|(a, b)| a * b).sum()
    }

    #[test]
    fn the_shipped_model_knows_what_is_alike_and_takes_any_text() {
        let mut embedder = LocalEmbedder::open(&shipped()).unwrap();
        assert_eq!(embedder.dimensions(), 384);
        assert_eq!(embedder.name(), "all-minilm-l6-v2-exit3-q8");
        let mut embed = |text: &str| embedder.embed(text).unwrap();
        let rust = embed("Write a Rust function that reverses a string");
        assert!((cosine(&rust, &rust) - 1.0).abs() < 1e-4, "a unit vector");
        let again = embed("fn reverse(s: &str) -> String in Rust, please");
        let medicine = embed("What are the side effects of ibuprofen?");
        assert!(cosine(&rust, &again) > cosine(&rust, &medicine) + 0.1);
        for text in [
            "",
            "   ",
            "a\0b",
            &"\u{1f642}".repeat(3000),
            &"x".repeat(200_000),
            &"lorem ipsum ".repeat(90_000),
        ] {
            assert!(embed(text).iter().all(|value| value.is_finite()));
        }
    }

    #[test]
    fn a_broken_model_says_what_to_do() {
        let missing = LocalEmbedder::open(Path::new("/nowhere"))
            .err()
            .unwrap()
            .to_string();
        assert!(
            missing.contains("/nowhere/tokenizer.json") && missing.contains("[embedding]"),
            "{missing}"
        );
        let folder = tempfile::tempdir().unwrap();
        for name in [
            "tokenizer.json",
            "config.json",
            "special_tokens_map.json",
            "tokenizer_config.json",
        ] {
            std::fs::copy(shipped().join(name), folder.path().join(name)).unwrap();
        }
        let mut model = std::fs::read(shipped().join("model.onnx")).unwrap();
        std::fs::write(folder.path().join("model.onnx"), &model[..1_000_000]).unwrap();
        let corrupt = LocalEmbedder::open(folder.path()).err().unwrap().to_string();
        assert!(corrupt.contains("not a usable embedding model"), "{corrupt}");
        // One wrong weight: it loads and embeds, and only the digest tells.
        std::fs::copy(shipped().join(SUMS), folder.path().join(SUMS)).unwrap();
        let middle = model.len() / 2;
        model[middle] ^= 0x55;
        std::fs::write(folder.path().join("model.onnx"), &model).unwrap();
        let altered = LocalEmbedder::open(folder.path()).err().unwrap().to_string();
        assert!(
            altered.contains("model.onnx is damaged") && altered.contains("[embedding]"),
            "{altered}"
        );
    }
}
