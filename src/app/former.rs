//! What looked at prompts before the last change of it, with what the policy had learned by it: new features, or a new
//! classifier, are compared with the router as it was, not with one that looks at no prompt.
//!
//! The data directory keeps the artefacts in use. When a start finds others in their place, those that were kept become
//! the former ones, together with the policy's last state under them. They learn no more: what they are compared with is
//! the router as the change found it. They go when no experiment asks for them any longer.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::app::features::FeatureSet;
use crate::app::policies;
use crate::config::Config;
use crate::context::WordSet;
use crate::experiments::FeatureVersions;
use crate::features::artefact::ArtefactError;
use crate::features::classifier::Classifier;
use crate::features::embedding::EmbeddingView;
use crate::features::text::{PromptText, Surface, TextView, Workspace};
use crate::learner::{self, Versions};
use crate::policy::{Contexts, Policy};
use crate::request::ChatRequest;
use crate::store::{Reader, StoreError};

/// The artefacts that are kept, by their names in the models' folder.
const ARTEFACTS: [&str; 3] = ["text-view.bin", "classifier.bin", "embedding-view.bin"];
/// Their versions, and the policy's last state under them.
const VERSIONS: &str = "versions.json";
const POLICY: &str = "policy.json";

/// Why the former look at prompts cannot be kept or used.
#[derive(Debug, thiserror::Error)]
pub enum FormerError {
    /// A file of it.
    #[error("{} cannot be read or written ({reason})", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system says.
        reason: std::io::Error,
    },
    /// An artefact is damaged.
    #[error("{} cannot be used ({reason})", path.display())]
    Artefact {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        reason: ArtefactError,
    },
    /// What is kept beside the artefacts is damaged.
    #[error("what is kept of the former features is damaged ({0})")]
    Damaged(#[from] serde_json::Error),
    /// The log cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The former look at prompts.
pub struct Former {
    text: TextView,
    classifier: Classifier,
    embedding: Option<EmbeddingView>,
    /// What the policy had learned by it; `None` if only the classifier is another, so that the policy in use has
    /// learned by these very views.
    policy: Option<Arc<dyn Policy>>,
}

/// What a prompt looks like to it.
pub struct FormerLook {
    text: Vec<f32>,
    embedding: Option<Vec<f32>>,
    words: WordSet,
    /// The prompt's category.
    pub category: Arc<str>,
}

impl FormerLook {
    /// The views.
    #[must_use]
    pub fn contexts(&self) -> Contexts<'_> {
        Contexts {
            text: Some(&self.text),
            embedding: self.embedding.as_deref(),
            words: self.words.buckets(),
        }
    }
}

/// The policy's state at the change.
#[derive(Serialize, Deserialize)]
struct Kept {
    /// How far of the log it had learned.
    attempt_seq: i64,
    state: serde_json::Value,
}

impl Former {
    /// Reads the former look at prompts, if there is one.
    ///
    /// # Errors
    /// When a file cannot be read or is damaged.
    pub fn load(
        data_dir: &Path,
        now: FeatureVersions,
        config: &Config,
        reader: &Reader,
    ) -> Result<Option<Self>, FormerError> {
        let folder = folder(data_dir);
        let Some(then) = versions(&folder)? else {
            return Ok(None);
        };
        Self::read(&folder, then, now, config, reader).map(Some)
    }

    fn read(
        folder: &Path,
        then: FeatureVersions,
        now: FeatureVersions,
        config: &Config,
        reader: &Reader,
    ) -> Result<Self, FormerError> {
        let [text, classifier, embedding] = ARTEFACTS.map(|name| folder.join(name));
        let artefact = |path: &Path| {
            let path = path.to_owned();
            move |reason| FormerError::Artefact { path, reason }
        };
        let embedding = if then.embedding == 0 {
            None
        } else {
            Some(EmbeddingView::read(&read(&embedding)?).map_err(artefact(&embedding))?)
        };
        let text = TextView::read(&read(&text)?).map_err(artefact(&text))?;
        let classifier = Classifier::read(&read(&classifier)?).map_err(artefact(&classifier))?;
        let policy = if (then.text, then.embedding) == (now.text, now.embedding) {
            None
        } else {
            let path = folder.join(POLICY);
            let kept: Kept = serde_json::from_slice(&read(&path)?)?;
            let learner = policies::former_learner(config, &text, embedding.as_ref());
            let versions = Versions {
                text: then.text,
                embedding: then.embedding,
            };
            let state = serde_json::to_vec(&kept.state)?;
            learner::recall(learner, &state, kept.attempt_seq, reader, &versions)?
        };
        Ok(Self {
            text,
            classifier,
            embedding,
            policy,
        })
    }

    /// The policy that had learned by it: its own, else the one in use.
    #[must_use]
    pub fn policy<'a>(&'a self, in_use: &'a dyn Policy) -> &'a dyn Policy {
        self.policy.as_deref().unwrap_or(in_use)
    }

    /// Looks at a request. The embedding of its words is waited for no longer than the present features wait.
    pub async fn look(&self, request: &ChatRequest, features: &FeatureSet) -> FormerLook {
        let prompt = PromptText::of(request);
        let surface = Surface::of(request, &prompt);
        let (text, words) = self.text.look(&prompt, &surface, &mut Workspace::default());
        let embedding = match &self.embedding {
            Some(view) => features
                .embed(&prompt)
                .await
                .and_then(|vector| view.project(&vector, &surface)),
            None => None,
        };
        FormerLook {
            text,
            embedding,
            words: words.set().clone(),
            category: Arc::from(self.classifier.classify(&words).category.name()),
        }
    }
}

/// Keeps the artefacts in use, and makes those that were kept until now the former ones if they are others. Call it
/// before the policy learns under the new ones.
///
/// # Errors
/// When a file cannot be read or written, or is damaged.
pub fn keep_up(
    data_dir: &Path,
    models_dir: &Path,
    now: FeatureVersions,
    reader: &Reader,
) -> Result<(), FormerError> {
    let (present, former) = (data_dir.join("features/present"), folder(data_dir));
    let kept = versions(&present)?;
    if kept == Some(now) {
        return Ok(());
    }
    if let Some(kept) = kept.filter(|kept| differs(*kept, now)) {
        if (kept.text, kept.embedding) != (now.text, now.embedding) {
            keep_policy(&present, reader)?;
        }
        replace(&present, &former)?;
    }
    keep(models_dir, &present, now)
}

/// Whether there is a former look at prompts.
#[must_use]
pub fn exists(data_dir: &Path) -> bool {
    folder(data_dir).join(VERSIONS).exists()
}

/// Forgets the former look at prompts: nobody asks for it any longer.
pub fn forget(data_dir: &Path) {
    let folder = folder(data_dir);
    if let Err(error) = fs::remove_dir_all(&folder)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(%error, folder = %folder.display(), "the former features could not be removed");
    }
}

fn folder(data_dir: &Path) -> PathBuf {
    data_dir.join("features/former")
}

/// Whether routing by `now` is worth comparing with routing by `kept`. Going without the embedding is nobody's question,
/// and having it for the first time is answered by the views that stayed.
fn differs(kept: FeatureVersions, now: FeatureVersions) -> bool {
    let embedding = kept.embedding != now.embedding && kept.embedding != 0 && now.embedding != 0;
    (kept.text, kept.classifier) != (now.text, now.classifier) || embedding
}

fn versions(folder: &Path) -> Result<Option<FeatureVersions>, FormerError> {
    let path = folder.join(VERSIONS);
    match fs::read(&path) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(reason) if reason.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(reason) => Err(FormerError::File { path, reason }),
    }
}

/// Keeps the artefacts of `models_dir`. Their versions are written last: without them the folder counts as empty.
fn keep(models_dir: &Path, folder: &Path, versions: FeatureVersions) -> Result<(), FormerError> {
    let file = |path: &Path| {
        let path = path.to_owned();
        move |reason| FormerError::File { path, reason }
    };
    fs::create_dir_all(folder).map_err(file(folder))?;
    let told = folder.join(VERSIONS);
    if told.exists() {
        fs::remove_file(&told).map_err(file(&told))?;
    }
    for name in ARTEFACTS {
        let to = folder.join(name);
        // The embedding's view is there only where its model is.
        let from = models_dir.join(name);
        if from.exists() {
            fs::copy(&from, &to).map_err(file(&to))?;
        }
    }
    fs::write(&told, serde_json::to_vec(&versions)?).map_err(file(&told))
}

fn replace(from: &Path, to: &Path) -> Result<(), FormerError> {
    let file = |reason| FormerError::File {
        path: to.to_owned(),
        reason,
    };
    if to.exists() {
        fs::remove_dir_all(to).map_err(file)?;
    }
    fs::rename(from, to).map_err(file)
}

fn keep_policy(folder: &Path, reader: &Reader) -> Result<(), FormerError> {
    let Some(row) = reader.state(learner::STATE)? else {
        return Ok(());
    };
    let kept = Kept {
        attempt_seq: row.last_attempt_seq,
        state: serde_json::from_slice(&row.bytes)?,
    };
    let path = folder.join(POLICY);
    fs::write(&path, serde_json::to_vec(&kept)?).map_err(|reason| FormerError::File { path, reason })
}

fn read(path: &Path) -> Result<Vec<u8>, FormerError> {
    fs::read(path).map_err(|reason| FormerError::File {
        path: path.to_owned(),
        reason,
    })
}
