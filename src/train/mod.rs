//! Fits what is frozen before serving: the projections of both views, the category classifier and the seed prior.
//!
//! One command makes every artefact of `models/` from recorded outcomes, with one seed; the same input gives the same
//! bytes. The model card beside them says from what, how, and how good.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use clap::Args;

use self::card::Card;
use self::classifier::Labelled;
use self::embeddings::Embedded;
use self::recorded::Source;
use self::text_view::TextViewShape;
use crate::embedding::LocalEmbedder;
use crate::features::artefact::Artefact;
use crate::features::{Embedder, EmbeddingView, TextView};

pub mod card;
pub mod categories;
pub mod classifier;
pub mod embeddings;
mod kept;
pub mod linear_algebra;
pub mod log;
pub mod measure;
pub mod prior;
pub mod quality;
pub mod recorded;
pub mod static_model;
pub mod subspace;
pub mod text_view;

/// Folder of the static word model, within the models' folder.
const STATIC_MODEL: &str = "static-minilm-256-i8";
/// Our own labelled prompts, within the models' folder.
const OWN_PROMPTS: &str = "training/categories.jsonl";

/// What `pointsman train` is told.
#[derive(Args, Clone, Debug)]
pub struct TrainArgs {
    /// What to learn from: recorded outcomes (JSON Lines, plain or gzip), or the data directory of a server, whose own
    /// log is then learned from
    #[arg(long = "dataset", value_name = "FILE", required = true, num_args = 1..)]
    pub datasets: Vec<PathBuf>,
    /// Folder to write the artefacts and the model card to
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Keep the projections and the classifier of --models-dir and fit the seed prior alone, so that a running server
    /// keeps what it has learned; a log is always learned from so, because it holds no prompts
    #[arg(long)]
    pub keep_features: bool,
    /// Report figures on held-out prompts: N-fold, and with each source left out; 0: none
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub folds: usize,
    /// Folder of the embedding models and our own labelled prompts
    #[arg(
        long,
        value_name = "DIR",
        default_value = "models",
        env = "POINTSMAN_MODELS_DIR"
    )]
    pub models_dir: PathBuf,
    /// Embedding model, within the models' folder; `off`: no embedding view
    #[arg(long, value_name = "NAME", default_value = "all-minilm-l6-v2-exit3-q8")]
    pub embedding: String,
    /// Prompts of each source to embed
    #[arg(long, value_name = "N", default_value_t = 600)]
    pub embedding_sample: usize,
    /// Seed of every random choice
    #[arg(long, default_value_t = 7)]
    pub seed: u64,
}

/// Fits everything and writes it to `args.out`.
///
/// # Errors
/// When a file cannot be read or written, or the data are too few to fit.
pub fn run(args: &TrainArgs) -> anyhow::Result<()> {
    ensure!(
        args.folds != 1,
        "--folds 1 holds nothing out; give 2 or more, or 0 for no figures"
    );
    let (logs, files): (Vec<PathBuf>, Vec<PathBuf>) =
        args.datasets.iter().cloned().partition(|path| log::is_log(path));
    if args.keep_features || !logs.is_empty() {
        return kept::run(args, &logs, &files);
    }
    let sources = args
        .datasets
        .iter()
        .map(|path| recorded::read(path))
        .collect::<Result<Vec<Source>, _>>()?;
    let own = categories::read_own(&args.models_dir.join(OWN_PROMPTS))?;
    let static_model = static_model::read(&args.models_dir.join(STATIC_MODEL))?;
    std::fs::create_dir_all(&args.out).with_context(|| format!("cannot create {}", args.out.display()))?;
    let mut card = Card {
        command: command(args),
        seed: args.seed,
        sources: told(&args.datasets, &sources)?,
        ..Card::default()
    };

    // Our own prompts are a source like the others: they are what support desks and offices ask.
    let mut lists: Vec<Vec<&str>> = sources
        .iter()
        .map(|source| {
            source
                .prompts
                .iter()
                .map(|recorded| recorded.prompt.as_str())
                .collect()
        })
        .collect();
    lists.push(own.iter().map(|own| own.prompt.as_str()).collect());
    let artefact = text_view::fit(&lists, &static_model, TextViewShape::default(), args.seed)?;
    card.add("text-view.bin", artefact.to_bytes(), "text view");
    let view = TextView::from_artefact(&artefact)?;

    let (embedded, embedding_view) = match &*args.embedding {
        "off" => (Vec::new(), None),
        name => {
            let (embedded, artefact) = embed(args, name, &lists)?;
            card.add("embedding-view.bin", artefact.to_bytes(), "embedding view");
            card.embedding_model = Some(name.to_owned());
            (embedded, Some(EmbeddingView::from_artefact(&artefact)?))
        }
    };

    let examples = categories::examples(&own, &sources);
    let labelled = Labelled::new(&examples, &view);
    card.least = Labelled::default_least();
    if args.folds > 0 {
        measure_classifier(args, &labelled, &sources, &mut card)?;
    }
    let classifier = labelled.fit(|_| true, card.least)?;
    card.add("classifier.bin", classifier.to_bytes(), "category classifier");

    let seed = prior::fit(&sources, &view, &embedded, embedding_view.as_ref());
    card.add("seed-prior.json", seed.to_bytes()?, "seed prior of known models");

    if args.folds > 0 {
        card.figures = measure::figures(
            &sources,
            &view,
            Some(measure::Refit {
                lists: &lists,
                model: &static_model,
                seed: args.seed,
            }),
            &embedded,
            embedding_view.as_ref(),
        )?;
    }
    card.write(&args.out)
}

fn embed(args: &TrainArgs, name: &str, lists: &[Vec<&str>]) -> anyhow::Result<(Vec<Embedded>, Artefact)> {
    let mut embedder = LocalEmbedder::open(&args.models_dir.join(name))?;
    let embedded = embeddings::embed(lists, &mut embedder, args.embedding_sample, args.seed)?;
    let artefact = embeddings::fit(&embedded, embedder.name(), args.seed)?;
    Ok((embedded, artefact))
}

/// Accuracy by folds, on our own prompts and on all; then with each source left out.
fn measure_classifier(
    args: &TrainArgs,
    labelled: &Labelled<'_>,
    sources: &[Source],
    card: &mut Card,
) -> anyhow::Result<()> {
    let named = labelled.held_out(&labelled.random_parts(args.folds, args.seed))?;
    card.least = labelled.choose_least(&named);
    let own = |index: usize| labelled.examples[index].source.is_none();
    let note = |card: &mut Card, what: String, accuracy| card.accuracy.push((what, accuracy));
    note(
        card,
        format!("{} folds, our own prompts", args.folds),
        labelled.accuracy(&named, card.least, own),
    );
    note(
        card,
        format!("{} folds, recorded prompts", args.folds),
        labelled.accuracy(&named, card.least, |i| !own(i)),
    );
    // Parts by source: ours are part 0 and are always learned from, so that every category is known.
    let parts: Vec<usize> = labelled
        .examples
        .iter()
        .map(|example| example.source.map_or(0, |source| source + 1))
        .collect();
    for (place, source) in sources.iter().enumerate() {
        let held = |index: usize| parts[index] == place + 1;
        if !(0..parts.len()).any(held) {
            continue;
        }
        let classifier = labelled.fit(|index| !held(index), 0.0)?;
        let named = labelled.named_by(&classifier)?;
        note(
            card,
            format!("without {}", source.name),
            labelled.accuracy(&named, card.least, held),
        );
    }
    Ok(())
}

/// The command to give again, with the files' names only.
fn command(args: &TrainArgs) -> String {
    let name = |path: &Path| {
        path.file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default()
    };
    let datasets: Vec<String> = args.datasets.iter().map(|path| name(path)).collect();
    format!(
        "pointsman train --dataset {}{} --out models --folds {} --embedding {} --embedding-sample {} --seed {}",
        datasets.join(" "),
        if args.keep_features {
            " --keep-features"
        } else {
            ""
        },
        args.folds,
        args.embedding,
        args.embedding_sample,
        args.seed
    )
}

fn told(files: &[PathBuf], sources: &[Source]) -> anyhow::Result<Vec<(String, String, usize, usize)>> {
    let mut told = Vec::new();
    for (path, source) in files.iter().zip(sources) {
        let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let models: BTreeSet<&String> = source
            .prompts
            .iter()
            .flat_map(|recorded| recorded.outcomes.keys())
            .collect();
        told.push((
            source.name.clone(),
            card::sha256(&bytes),
            source.prompts.len(),
            models.len(),
        ));
    }
    Ok(told)
}
