//! What looks at prompts: frozen projections, the classifier, the seed prior and the embedding model, read once at
//! the start.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::app::late::Late;
use crate::config::{Embedding, EmbeddingModel};
use crate::context::Features;
use crate::embedding::{EmbeddingCounts, EmbeddingPool, LocalEmbedder, OpenError, PoolSettings, StartError};
use crate::experiments::FeatureVersions;
use crate::features::Category;
use crate::features::Embedder;
use crate::features::artefact::ArtefactError;
use crate::features::classifier::Classifier;
use crate::features::embedding::EmbeddingView;
use crate::features::text::{PromptText, Surface, TextView, Workspace};
use crate::learner::Versions;
use crate::policy::View;
use crate::policy::arm_model::Dimensions;
use crate::policy::seed::{Seed, SeedError};
use crate::request::ChatRequest;

/// The embedding model that is shipped, within the models' folder.
const SHIPPED: &str = "all-minilm-l6-v2-exit3-q8";
/// The seed prior.
const SEED: &str = "seed-prior.json";
/// Everything that is read again when it changes, within the models' folder.
pub const ARTEFACTS: [&str; 4] = ["text-view.bin", "embedding-view.bin", "classifier.bin", SEED];

/// The projections and models in use.
pub struct FeatureSet {
    text: TextView,
    classifier: Classifier,
    seed: Arc<Seed>,
    embedding: Option<Embeddings>,
    workspaces: Workspaces,
}

/// Rooms to look at prompts in, as many as there are prompts that are looked at in one moment.
#[derive(Default)]
struct Workspaces(Mutex<Vec<Workspace>>);

impl Workspaces {
    fn take(&self) -> Workspace {
        self.idle().pop().unwrap_or_else(Workspace::lasting)
    }

    fn give_back(&self, workspace: Workspace) {
        self.idle().push(workspace);
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Workspace>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The transformer's view.
struct Embeddings {
    view: Arc<EmbeddingView>,
    pool: EmbeddingPool,
    budget: Duration,
    settings: Embedding,
}

/// What tells one set of artefacts from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Fingerprint {
    /// Version of the text view's projection.
    pub text: u32,
    /// Of the embedding view's; 0 when there is none.
    pub embedding: u32,
    /// Of the category classifier.
    pub classifier: u32,
    /// Digest of the seed prior's file. As text: JavaScript and jq round a number of 64 bits.
    #[serde(serialize_with = "hexadecimal")]
    pub seed: u64,
}

fn hexadecimal<S: Serializer>(digest: &u64, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&format_args!("{digest:016x}"))
}

/// What a prompt looks like.
pub struct Looked {
    /// Its feature vectors.
    pub features: Features,
    /// Its category, when one is probable enough.
    pub category: Option<Arc<str>>,
    /// The embedding that is still on its way.
    pub late: Option<Late>,
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
        reason: SeedError,
    },
    /// Artefacts that were not trained together.
    #[error("{} was trained for another {of}: make all of them anew with one run of `pointsman train`", path.display())]
    Apart {
        /// The file.
        path: PathBuf,
        /// What it does not fit.
        of: &'static str,
    },
    /// Training left the embedding's view out.
    #[error("{} is not there, as after `pointsman train --embedding off`: set [embedding] model = \"off\", or name another folder with --models-dir", path.display())]
    NoView {
        /// The file.
        path: PathBuf,
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
        Self::load_beside(models_dir, embedding, None)
    }

    /// The same, sharing the embedding model and its threads with `running` where the settings are the same: that model
    /// is read at a start only.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_beside(
        models_dir: &Path,
        embedding: &Embedding,
        running: Option<&Self>,
    ) -> Result<Self, FeatureError> {
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
        let path = models_dir.join(SEED);
        let seed = Seed::parse(&read(&path)?).map_err(|reason| FeatureError::Seed { path, reason })?;
        let embedding = match &embedding.model {
            EmbeddingModel::Off => None,
            EmbeddingModel::Named(name) => return Err(FeatureError::NotShipped { name: name.clone() }),
            EmbeddingModel::Shipped => {
                let running = running.and_then(|running| running.embedding.as_ref());
                Some(Embeddings::open(models_dir, embedding, running)?)
            }
        };
        let set = Self {
            text,
            classifier,
            seed: Arc::new(seed),
            embedding,
            workspaces: Workspaces::default(),
        };
        set.check_seed(models_dir)?;
        Ok(set)
    }

    /// The seed's statistics belong to these projections, or to none of them.
    fn check_seed(&self, models_dir: &Path) -> Result<(), FeatureError> {
        let versions = &self.seed.view_versions;
        for (view, of) in [(View::Text, "text view"), (View::Embedding, "embedding view")] {
            let own = self.view_versions().remove(&view);
            if own.is_some()
                && versions
                    .get(&view)
                    .is_some_and(|theirs| own.as_ref() != Some(theirs))
            {
                return Err(FeatureError::Apart {
                    path: models_dir.join(SEED),
                    of,
                });
            }
        }
        Ok(())
    }

    /// What tells it from another set.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        let versions = self.versions();
        Fingerprint {
            text: versions.text,
            embedding: versions.embedding,
            classifier: self.classifier.version(),
            seed: self.seed.digest,
        }
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

    /// Versions of all that looks at prompts.
    #[must_use]
    pub fn all_versions(&self) -> FeatureVersions {
        let Versions { text, embedding } = self.versions();
        FeatureVersions {
            text,
            embedding,
            classifier: self.classifier.version(),
        }
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

    /// The embedding of a prompt's words, if that is there in time.
    pub async fn embed(&self, prompt: &PromptText) -> Option<Arc<[f32]>> {
        let embedding = self.embedding.as_ref()?;
        embedding.pool.try_embed(prompt, embedding.budget, |_| {}).await
    }

    /// Looks at a request. The text view and the category are there at once. The embedding is waited for only where
    /// `decides` says that a decision may go by it, and no longer than its budget; else it is made when there is time
    /// for it, and learned from.
    pub async fn look(&self, request: &ChatRequest, decides: bool) -> Looked {
        let prompt = PromptText::of(request);
        let surface = Surface::of(request, &prompt);
        let mut workspace = self.workspaces.take();
        let (text, words) = self.text.look(&prompt, &surface, &mut workspace);
        self.workspaces.give_back(workspace);
        let named = self.classifier.classify(&words).category;
        let (embedded, late) = match &self.embedding {
            Some(embedding) => embedding.look(&prompt, &surface, decides).await,
            None => (None, None),
        };
        let versions = self.versions();
        Looked {
            features: Features {
                text: Arc::from(text),
                text_version: versions.text,
                embedding: embedded,
                embedding_version: versions.embedding,
                words: words.set().clone(),
            },
            category: Some(Arc::from(named.name())),
            late,
        }
    }
}

impl Embeddings {
    fn open(models_dir: &Path, settings: &Embedding, running: Option<&Self>) -> Result<Self, FeatureError> {
        let path = models_dir.join("embedding-view.bin");
        if !path.exists() {
            return Err(FeatureError::NoView { path });
        }
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
        let view = Arc::new(view);
        if let Some(running) = running.filter(|running| running.settings == *settings) {
            return Ok(Self {
                view,
                pool: running.pool.clone(),
                budget: running.budget,
                settings: settings.clone(),
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
            background_percent: settings.background_percent,
            ..PoolSettings::default()
        };
        Ok(Self {
            view,
            pool: EmbeddingPool::start(embedders, sizes)?,
            budget: Duration::from_millis(settings.budget_ms),
            settings: settings.clone(),
        })
    }

    /// The features of the embedding that is there in time, or else where they go when they come.
    async fn look(
        &self,
        prompt: &PromptText,
        surface: &Surface,
        decides: bool,
    ) -> (Option<Arc<[f32]>>, Option<Late>) {
        let late = Late::default();
        let (theirs, view, shape) = (late.clone(), Arc::clone(&self.view), *surface);
        let came = move |embedding: Arc<[f32]>| {
            if let Some(features) = view.project(&embedding, &shape) {
                theirs.came(view.version(), &features);
            }
        };
        let known = if decides {
            self.pool.try_embed(prompt, self.budget, came).await
        } else {
            self.pool.embed_later(prompt, came)
        };
        match known {
            Some(embedding) => (self.view.project(&embedding, surface).map(Arc::from), None),
            None => (None, Some(late)),
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, FeatureError> {
    std::fs::read(path).map_err(|reason| FeatureError::Read {
        path: path.to_owned(),
        reason,
    })
}
