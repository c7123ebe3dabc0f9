//! The embedding view: from a transformer's vector to features.
//!
//! Order: 1 (the bias), principal components, soft clusters, surface; scaled as in the [text view](super::text).

use super::artefact::{Artefact, ArtefactError};
use super::static_table::Neighbourhood;
use super::surface::{SURFACE, Surface};
use super::text::Standard;

/// Kind of the artefact that holds an embedding view.
pub const EMBEDDING_VIEW: &str = "embedding-view";

/// The frozen projection of one embedding model's vectors.
#[derive(Clone, Debug)]
pub struct EmbeddingView {
    neighbourhood: Neighbourhood,
    surface: Standard,
    inputs: usize,
    model: String,
    version: u32,
}

impl EmbeddingView {
    /// Reads a view from the bytes of its artefact.
    ///
    /// # Errors
    /// When the bytes are not an embedding view, or are corrupt.
    pub fn read(bytes: &[u8]) -> Result<Self, ArtefactError> {
        Self::from_artefact(&Artefact::read(EMBEDDING_VIEW, bytes)?)
    }

    /// The view that `artefact` describes.
    ///
    /// # Errors
    /// When a tensor is missing or of the wrong shape.
    pub fn from_artefact(artefact: &Artefact) -> Result<Self, ArtefactError> {
        let inputs = artefact.shape("space.mean").map_or(0, |(_, columns)| columns);
        Ok(Self {
            neighbourhood: Neighbourhood::read(artefact, "space", inputs)?,
            surface: Standard::read(artefact)?,
            inputs,
            model: artefact.text("model")?,
            version: artefact.version(),
        })
    }

    /// Length of every feature vector.
    #[must_use]
    pub fn dimensions(&self) -> usize {
        1 + self.neighbourhood.width() + SURFACE
    }

    /// The feature version: statistics learned under another one must not be used.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The embedding model this projection was fitted on; it means nothing for another.
    #[must_use]
    pub fn model(&self) -> &str {
        &self.model
    }

    /// The features of an embedding: [`EmbeddingView::dimensions`] finite values, the first of them 1. `None` when
    /// the embedding is not of the model's length.
    #[must_use]
    pub fn project(&self, embedding: &[f32], surface: &Surface) -> Option<Vec<f32>> {
        if embedding.len() != self.inputs || !embedding.iter().all(|value| value.is_finite()) {
            return None;
        }
        let mut out = Vec::with_capacity(self.dimensions());
        out.push(1.0);
        self.neighbourhood.extract(&mut embedding.to_vec(), &mut out);
        self.surface.extract(surface, &mut out);
        Some(out)
    }
}
