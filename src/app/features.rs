//! What looks at prompts: frozen projections, the classifier, the seed prior and the embedding model, read once at
//! the start.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::config::{Embedding, EmbeddingModel};
use crate::context::Features;
use crate::embedding::{EmbeddingCounts, EmbeddingPool, LocalEmbedder, OpenError, PoolSettings, StartError};
use crate::features::Category;
use crate::features::Embedder;
use crate::features::artefact::ArtefactError;
use crate::features::classifier::Classifier;
use crate::features::embedding::EmbeddingView;
use crate::features::text::{PromptText, Surface, TextView};
use crate::learner::Versions;
use crate::policy::View;
use crate::policy::arm_model::Dimensions;
use crate::policy::seed::Seed;
use crate::request::ChatRequest;

/// The embedding model that is shipped, within the models' folder.
const SHIPPED: &str = "all-minilm-l6-v2-exit3-q8";

/// The projections and models in use.
pub struct FeatureSet {
    text: TextView,
    classifier: Classifier,
    seed: Arc<Seed>,
    embedding: Option<Embeddings>,
}

/// The transformer's view.
struct Embeddings {
    view: EmbeddingView,
    pool: EmbeddingPool,
    budget: Duration,
}

/// What a prompt looks like.
pub struct Looked {
    /// Its feature vectors.
    pub features: Features,
    /// Its category, when one is probable enough.
    pub category: Option<Arc<str>>,
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
    #[error("{path} cannot be used: {reason}", path = path.display())]
    Artefact {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: ArtefactError,
    },
    /// The seed prior is no such thing.
    #[error("{path} cannot be used ({reason}): restore it from the release, or make it anew with `pointsman train`", path = path.display())]
    Seed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: serde_json::Error,
    },
    /// Artefacts that were not trained together.
    #[error("{} was trained for another {of}: make all of them anew with one run of `pointsman train`", path.display())]
    Apart {
        /// The file.
        path: PathBuf,
        /// What it does not fit.
        of: &'static str,
    },
    /// The embedding model.
    #[error(transparent)]
    Embedder(#[from] OpenError),
    /// Its threads.
    #[error(transparent)]
    Pool(#[from] StartError),
    /// A model was asked for that is not shipped.
    #[error("[embedding] model = \"{name}\" is not shipped: use \"shipped\" or \"off\"")]
    NotShipped {
        /// The model.
        name: String,
    },
}

impl FeatureSet {
    /// Reads `models_dir` and opens the embedding model that `embedding` names.
    ///
    /// # Errors
    /// A file that is missing, damaged, or was not trained with the others.
    pub fn load(models_dir: &Path, embedding: &Embedding) -> Result<Self, FeatureError> {
        let artefact = |path: PathBuf| move |reason| FeatureError::Artefact { path, reason };
        let path = models_dir.join("text-view.bin");
        let text = TextView::read(&read(&path)?).map_err(artefact(path))?;
        let path = models_dir.join("classifier.bin");
        let classifier = Classifier::read(&read(&path)?).map_err(artefact(path.clone()))?;
        if classifier.inputs() != text.word_dimensions()
            || classifier.view_version() != text.version().to_string()
        {
            return Err(FeatureError::Apart {
                path,
                of: "text view",
            });
        }
        let path = models_dir.join("seed-prior.json");
        let seed =
            serde_json::from_slice(&read(&path)?).map_err(|reason| FeatureError::Seed { path, reason })?;
        let embedding = match &embedding.model {
            EmbeddingModel::Off => None,
            EmbeddingModel::Named(name) => return Err(FeatureError::NotShipped { name: name.clone() }),
            EmbeddingModel::Shipped => Some(Embeddings::open(models_dir, embedding)?),
        };
        Ok(Self {
            text,
            classifier,
            seed: Arc::new(seed),
            embedding,
        })
    }

    /// Versions of the projections.
    #[must_use]
    pub fn versions(&self) -> Versions {
        Versions {
            text: self.text.version(),
            embedding: self
                .embedding
                .as_ref()
                .map_or(0, |embedding| embedding.view.version()),
        }
    }

    /// Version of the category classifier.
    #[must_use]
    pub fn classifier_version(&self) -> u32 {
        self.classifier.version()
    }

    /// The same by view, as the policy's statistics name them.
    #[must_use]
    pub fn view_versions(&self) -> BTreeMap<View, String> {
        let mut versions = BTreeMap::from([(View::Text, self.text.version().to_string())]);
        if let Some(embedding) = &self.embedding {
            versions.insert(View::Embedding, embedding.view.version().to_string());
        }
        versions
    }

    /// Lengths of the views' feature vectors.
    #[must_use]
    pub fn dimensions(&self) -> Dimensions {
        [
            Some(self.text.dimensions()),
            self.embedding
                .as_ref()
                .map(|embedding| embedding.view.dimensions()),
        ]
    }

    /// What is known of models before the first request.
    #[must_use]
    pub fn seed(&self) -> Arc<Seed> {
        Arc::clone(&self.seed)
    }

    /// What became of the prompts that were to be embedded. `None` without an embedding model.
    #[must_use]
    pub fn embedding_counts(&self) -> Option<EmbeddingCounts> {
        self.embedding.as_ref().map(|embedding| embedding.pool.counts())
    }

    /// The category of a request and the embedding of its words, if that is there in time.
    pub async fn meaning(&self, request: &ChatRequest) -> Option<(Category, Arc<[f32]>)> {
        let embedding = self.embedding.as_ref()?;
        let prompt = PromptText::of(request);
        let vector = embedding
            .pool
            .try_embed(&prompt, embedding.budget, |_| {})
            .await?;
        let words = self.text.words(&prompt, &Surface::of(request, &prompt));
        Some((self.classifier.classify(&words).category, vector))
    }

    /// Looks at a request. The text view and the category are there at once; the embedding is waited for no longer
    /// than its budget, and goes missing when it is late or the pool is busy.
    pub async fn look(&self, request: &ChatRequest) -> Looked {
        let prompt = PromptText::of(request);
        let surface = Surface::of(request, &prompt);
        let (text, words) = self.text.look(&prompt, &surface);
        let named = self.classifier.classify(&words).category;
        let embedded = match &self.embedding {
            Some(embedding) => embedding.look(&prompt, &surface).await,
            None => None,
        };
        let versions = self.versions();
        Looked {
            features: Features {
                text: Arc::from(text),
                text_version: versions.text,
                embedding: embedded,
                embedding_version: versions.embedding,
            },
            category: Some(Arc::from(named.name())),
        }
    }
}

impl Embeddings {
    fn open(models_dir: &Path, settings: &Embedding) -> Result<Self, FeatureError> {
        let path = models_dir.join("embedding-view.bin");
        let view = EmbeddingView::read(&read(&path)?).map_err(|reason| FeatureError::Artefact {
            path: path.clone(),
            reason,
        })?;
        if view.model() != SHIPPED {
            return Err(FeatureError::Apart {
                path,
                of: "embedding model",
            });
        }
        // One thread embeds some 150 prompts a second; more would take cores from the requests themselves.
        let threads = match settings.threads {
            0 => std::thread::available_parallelism()
                .map_or(1, |cores| cores.get() / 2)
                .max(1),
            threads => threads,
        };
        let mut embedders: Vec<Box<dyn Embedder>> = Vec::with_capacity(threads);
        for _ in 0..threads {
            embedders.push(Box::new(LocalEmbedder::open(&models_dir.join(SHIPPED))?));
        }
        let sizes = PoolSettings {
            queue: settings.queue,
            ..PoolSettings::default()
        };
        Ok(Self {
            view,
            pool: EmbeddingPool::start(embedders, sizes)?,
            budget: Duration::from_millis(settings.budget_ms),
        })
    }

    async fn look(&self, prompt: &PromptText, surface: &Surface) -> Option<Arc<[f32]>> {
        // A late embedding is in the cache for the next request with the same words.
        let embedding = self.pool.try_embed(prompt, self.budget, |_| {}).await?;
        self.view.project(&embedding, surface).map(Arc::from)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, FeatureError> {
    std::fs::read(path).map_err(|reason| FeatureError::Read {
        path: path.to_owned(),
        reason,
    })
}
