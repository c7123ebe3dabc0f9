//! Embeds a sample of every source, and fits the embedding view on it.

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use ndarray::Array2;
use rand::SeedableRng;
use rand::seq::index;
use rand_chacha::ChaCha8Rng;

use super::text_view::{Neighbourhood, surface_tensors};
use crate::features::Embedder;
use crate::features::artefact::{Artefact, Tensor};
use crate::features::embedding::EMBEDDING_VIEW;
use crate::features::text::{PromptText, Surface};

/// Principal components and soft clusters of the embedding view.
const COMPONENTS: usize = 24;
const CLUSTERS: usize = 24;

/// An embedded prompt.
#[derive(Clone, Debug)]
pub struct Embedded {
    /// Place of its list.
    pub source: usize,
    /// Its place in the list.
    pub index: usize,
    /// Its surface.
    pub surface: Surface,
    /// Its embedding.
    pub embedding: Vec<f32>,
}

/// Embeds at most `per_source` prompts of each list, drawn at random.
///
/// # Errors
/// When the model fails.
pub fn embed(
    sources: &[Vec<&str>],
    embedder: &mut dyn Embedder,
    per_source: usize,
    seed: u64,
) -> anyhow::Result<Vec<Embedded>> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let total: usize = sources.iter().map(|source| source.len().min(per_source)).sum();
    let style = ProgressStyle::with_template("embedding {bar:40} {pos}/{len} {eta}")?;
    let bar = ProgressBar::new(total as u64).with_style(style);
    let mut out = Vec::with_capacity(total);
    for (source, prompts) in sources.iter().enumerate() {
        let mut drawn = index::sample(&mut rng, prompts.len(), prompts.len().min(per_source)).into_vec();
        drawn.sort_unstable();
        for index in drawn {
            let prompt = PromptText::plain(prompts[index]);
            let embedding = embedder
                .embed(prompt.words())
                .context("a prompt could not be embedded")?;
            out.push(Embedded {
                source,
                index,
                surface: Surface::plain(&prompt),
                embedding,
            });
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    Ok(out)
}

/// Fits the embedding view.
///
/// # Errors
/// When there are too few prompts.
pub fn fit(embedded: &[Embedded], model: &str, seed: u64) -> anyhow::Result<Artefact> {
    let inputs = embedded.first().context("no prompts to embed")?.embedding.len();
    let vectors = Array2::from_shape_fn((embedded.len(), inputs), |(i, j)| {
        f64::from(embedded[i].embedding[j])
    });
    let weights = vec![1.0; embedded.len()];
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let space = Neighbourhood::fit(&vectors, &weights, COMPONENTS, CLUSTERS, &mut rng)?;
    let names = [
        "space.mean",
        "space.basis",
        "space.scale",
        "space.centres",
        "space.sharpness",
    ];
    let mut tensors: Vec<(&str, Tensor)> = names.into_iter().zip(space.into_tensors()).collect();
    tensors.push(("model", Tensor::text(model)));
    tensors.extend(surface_tensors(
        embedded.iter().map(|embedded| &embedded.surface),
        &weights,
    ));
    Ok(Artefact::new(EMBEDDING_VIEW, tensors)?)
}
