//! Held-out figures of every source, each beside its honest baselines.

use std::collections::BTreeMap;

use super::embeddings::Embedded;
use super::quality::{Scores, determination, gap_recovered, held_out};
use super::recorded::Source;
use super::static_model::StaticModel;
use super::text_view::{TextViewShape, fit};
use crate::features::text::SURFACE;
use crate::features::{EmbeddingView, TextView};

/// Prompts of a source that are measured on.
const MOST_PROMPTS: usize = 4000;

/// Figures of one kind of features on one source.
#[derive(Clone, Debug)]
pub struct Figure {
    /// The source.
    pub source: String,
    /// The features.
    pub features: &'static str,
    /// Prompts measured on.
    pub prompts: usize,
    /// Share of the variance of scores explained.
    pub absolute: f64,
    /// The same for scores relative to the prompt's mean.
    pub relative: f64,
    /// Gap recovered, for sources of two models.
    pub gap: Option<f64>,
}

/// What projections are fitted on, so that one can be fitted again without a source.
#[derive(Clone, Copy)]
pub struct Refit<'a> {
    /// The prompts of every source, in the sources' order.
    pub lists: &'a [Vec<&'a str>],
    /// Word vectors.
    pub model: &'a StaticModel,
    /// Of random choices.
    pub seed: u64,
}

/// Measures every source: the text view, the same with a projection fitted without the source (not where projections
/// stay as they are), its surface part, the source's own category labels, and the embedding view on the prompts that were
/// embedded.
///
/// # Errors
/// When a projection cannot be fitted.
pub fn figures(
    sources: &[Source],
    view: &TextView,
    refit: Option<Refit<'_>>,
    embedded: &[Embedded],
    embedding_view: Option<&EmbeddingView>,
) -> anyhow::Result<Vec<Figure>> {
    let mut out = Vec::new();
    for (place, source) in sources.iter().enumerate() {
        let step = source.prompts.len().div_ceil(MOST_PROMPTS).max(1);
        let indices: Vec<usize> = (0..source.prompts.len()).step_by(step).collect();
        let scores = Scores::of(source, &indices);
        let of_view = |view: &TextView| -> Vec<Vec<f32>> {
            indices
                .iter()
                .map(|index| view.features(&source.prompts[*index].prompt))
                .collect()
        };
        let features = of_view(view);
        let mut add =
            |name, rows: &[Vec<f32>], scores: &Scores| out.extend(figure(source, name, rows, scores));
        add(
            "surface only",
            &features.iter().map(|row| surface_part(row)).collect::<Vec<_>>(),
            &scores,
        );
        add("category labels", &indicators(source, &indices), &scores);
        add("text view", &features, &scores);
        if let Some(Refit { lists, model, seed }) = refit {
            let mut others = lists.to_vec();
            others.remove(place);
            let unseen = TextView::from_artefact(&fit(&others, model, TextViewShape::default(), seed)?)?;
            add("text view fitted without this source", &of_view(&unseen), &scores);
        }
        if let Some(embedding_view) = embedding_view {
            let own = || embedded.iter().filter(|one| one.source == place);
            let indices: Vec<usize> = own().map(|one| one.index).collect();
            let meanings: Vec<Vec<f32>> = own()
                .filter_map(|one| embedding_view.project(&one.embedding, &one.surface))
                .collect();
            let words: Vec<Vec<f32>> = indices
                .iter()
                .map(|index| view.features(&source.prompts[*index].prompt))
                .collect();
            let scores = Scores::of(source, &indices);
            add("text view, embedded sample", &words, &scores);
            add("embedding view, same sample", &meanings, &scores);
        }
        tracing::info!(source = %source.name, "measured");
    }
    Ok(out)
}

fn figure(source: &Source, features: &'static str, rows: &[Vec<f32>], scores: &Scores) -> Option<Figure> {
    let predicted = held_out(rows, &scores.matrix)?;
    Some(Figure {
        source: source.name.clone(),
        features,
        prompts: rows.len(),
        absolute: determination(&predicted, &scores.matrix, false),
        relative: determination(&predicted, &scores.matrix, true),
        gap: gap_recovered(&predicted, &scores.matrix),
    })
}

fn surface_part(row: &[f32]) -> Vec<f32> {
    let mut part = vec![1.0];
    part.extend_from_slice(&row[row.len() - SURFACE..]);
    part
}

/// A 1, and a 1 in the column of the prompt's category.
fn indicators(source: &Source, indices: &[usize]) -> Vec<Vec<f32>> {
    let mut columns: BTreeMap<&str, usize> = BTreeMap::new();
    for index in indices {
        let next = columns.len() + 1;
        columns.entry(&source.prompts[*index].category).or_insert(next);
    }
    indices
        .iter()
        .map(|index| {
            let mut row = vec![0.0; columns.len() + 1];
            row[0] = 1.0;
            row[columns[source.prompts[*index].category.as_str()]] = 1.0;
            row
        })
        .collect()
}
