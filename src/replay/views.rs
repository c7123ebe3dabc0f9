//! What replayed prompts look like: the text view of each, or its embedding.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use indicatif::ProgressBar;

use super::dataset::Dataset;
use super::progress;
use crate::context::WordSet;
use crate::embedding::LocalEmbedder;
use crate::features::text::{PromptText, SURFACE, Surface, TextView, word_set};
use crate::features::{Embedder, EmbeddingView};
use crate::policy::View;

/// Features of prompts, one row each.
pub type Rows = Arc<Vec<Arc<[f32]>>>;

/// The words of prompts, one set each.
pub type Words = Arc<Vec<WordSet>>;

/// The words of every prompt.
pub(super) fn words(dataset: &Dataset) -> Words {
    let of = |text: &str| word_set(&PromptText::plain(text));
    Arc::new(dataset.prompts.iter().map(|prompt| of(&prompt.text)).collect())
}

/// A view that is replayed by.
pub(super) enum Looks {
    /// Words and surface.
    Text(Box<TextView>),
    /// A transformer's embedding and surface, with the model behind it, and the rows of the prompts that it has seen: each
    /// prompt is in every fold.
    Embedding(
        Box<LocalEmbedder>,
        Box<EmbeddingView>,
        HashMap<String, Arc<[f32]>>,
    ),
}

impl Looks {
    /// Opens a view of the models' folder.
    pub(super) fn open(folder: &Path, view: View) -> Result<Self> {
        let read = |name: &str| {
            let path = folder.join(name);
            let bytes = std::fs::read(&path);
            bytes.with_context(|| format!("cannot read {}; --models-dir names its folder", path.display()))
        };
        let unusable = |name: &str| format!("{} is not usable", folder.join(name).display());
        match view {
            View::Text => {
                let name = "text-view.bin";
                let view = TextView::read(&read(name)?).with_context(|| unusable(name))?;
                Ok(Self::Text(Box::new(view)))
            }
            View::Embedding => {
                let name = "embedding-view.bin";
                let view = EmbeddingView::read(&read(name)?).with_context(|| unusable(name))?;
                let embedder = LocalEmbedder::open(&folder.join(view.model()))?;
                Ok(Self::Embedding(
                    Box::new(embedder),
                    Box::new(view),
                    HashMap::new(),
                ))
            }
        }
    }

    /// Which view it is.
    pub(super) const fn view(&self) -> View {
        match self {
            Self::Text(_) => View::Text,
            Self::Embedding(..) => View::Embedding,
        }
    }

    /// Version of the projection.
    pub(super) fn version(&self) -> u32 {
        match self {
            Self::Text(view) => view.version(),
            Self::Embedding(_, view, _) => view.version(),
        }
    }

    /// Where the surface features begin in a row.
    pub(super) fn surface_offset(&self) -> usize {
        match self {
            Self::Text(view) => view.surface_offset(),
            Self::Embedding(_, view, _) => view.dimensions() - SURFACE,
        }
    }

    /// Features of every prompt.
    pub(super) fn rows(&mut self, dataset: &Dataset) -> Result<Rows> {
        let bar = match self {
            Self::Text(_) => ProgressBar::hidden(),
            Self::Embedding(..) => progress(dataset.prompts.len() as u64),
        };
        bar.set_message("embedding prompts");
        let mut rows = Vec::with_capacity(dataset.prompts.len());
        for prompt in &dataset.prompts {
            rows.push(self.row(&prompt.text)?);
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok(Arc::new(rows))
    }

    fn row(&mut self, text: &str) -> Result<Arc<[f32]>> {
        match self {
            Self::Text(view) => Ok(view.features(text).into()),
            Self::Embedding(embedder, view, seen) => {
                if let Some(row) = seen.get(text) {
                    return Ok(Arc::clone(row));
                }
                let prompt = PromptText::plain(text);
                let embedding = embedder.embed(prompt.words())?;
                let row = view.project(&embedding, &Surface::plain(&prompt));
                ensure!(
                    row.is_some(),
                    "the embedding model and its view do not fit each other"
                );
                let row: Arc<[f32]> = row.unwrap_or_default().into();
                seen.insert(text.to_owned(), Arc::clone(&row));
                Ok(row)
            }
        }
    }
}
