//! What looks at prompts: frozen projections and models, read once at the start.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::Embedding;
use crate::context::Features;
use crate::features::artefact::ArtefactError;
use crate::features::text::{PromptText, Surface, TextView};
use crate::learner::Versions;
use crate::request::ChatRequest;

/// The projections and models in use.
pub struct FeatureSet {
    text: TextView,
}

/// Why a model file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FeatureError {
    /// It cannot be read.
    #[error("{path} cannot be read ({reason}): run from the repository's root, or name the folder with --models-dir", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        reason: std::io::Error,
    },
    /// It is damaged or of another kind.
    #[error("{path} cannot be used ({reason}): restore it from the release, or make it anew with `pointsman train`", path = path.display())]
    Artefact {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: ArtefactError,
    },
}

impl FeatureSet {
    /// Reads `models_dir`.
    ///
    /// # Errors
    /// A file that is missing or damaged.
    pub fn load(models_dir: &Path, _embedding: &Embedding) -> Result<Self, FeatureError> {
        let path = models_dir.join("text-view.bin");
        let bytes = read(&path)?;
        let text = TextView::read(&bytes).map_err(|reason| FeatureError::Artefact { path, reason })?;
        Ok(Self { text })
    }

    /// Versions of the projections.
    #[must_use]
    pub fn versions(&self) -> Versions {
        Versions {
            text: self.text.version(),
            embedding: 0,
        }
    }

    /// Lengths of the views' feature vectors.
    #[must_use]
    pub fn dimensions(&self) -> crate::policy::arm_model::Dimensions {
        [Some(self.text.dimensions()), None]
    }

    /// The text view of a request.
    #[must_use]
    pub fn text(&self, request: &ChatRequest) -> Features {
        let prompt = PromptText::of(request);
        let surface = Surface::of(request, &prompt);
        let mut features = Vec::with_capacity(self.text.dimensions());
        self.text.extract(&prompt, &surface, &mut features);
        Features {
            text: Arc::from(features),
            text_version: self.text.version(),
            embedding: None,
            embedding_version: 0,
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, FeatureError> {
    std::fs::read(path).map_err(|reason| FeatureError::Read {
        path: path.to_owned(),
        reason,
    })
}
