//! Fits what is frozen before serving: the projections of both views, the category classifier and the seed prior.
//!
//! One command makes every artefact of `models/` from recorded outcomes, with one seed; the same input gives the same
//! bytes. The model card beside them says from what, how, and how good.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;

pub mod linear_algebra;
pub mod recorded;
pub mod static_model;
pub mod subspace;
pub mod text_view;

/// Folder of the static word model, within the models' folder.
const STATIC_MODEL: &str = "static-minilm-256-i8";

/// What `pointsman train` is told.
#[derive(Args, Clone, Debug)]
pub struct TrainArgs {
    /// Recorded outcomes to learn from: JSON Lines, plain or gzip; give it once per file
    #[arg(long = "dataset", value_name = "FILE", required = true, num_args = 1..)]
    pub datasets: Vec<PathBuf>,
    /// Folder to write the artefacts and the model card to
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Folder of the embedding models
    #[arg(long, value_name = "DIR", default_value = "models")]
    pub models_dir: PathBuf,
    /// Seed of every random choice
    #[arg(long, default_value_t = 7)]
    pub seed: u64,
}

/// Fits everything and writes it to `args.out`.
///
/// # Errors
/// When a file cannot be read or written, or the data are too few to fit.
pub fn run(args: &TrainArgs) -> anyhow::Result<()> {
    let sources = args
        .datasets
        .iter()
        .map(|path| recorded::read(path))
        .collect::<Result<Vec<_>, _>>()?;
    let static_model = static_model::read(&args.models_dir.join(STATIC_MODEL))?;
    let prompts: Vec<Vec<&str>> = sources
        .iter()
        .map(|source| {
            source
                .prompts
                .iter()
                .map(|recorded| recorded.prompt.as_str())
                .collect()
        })
        .collect();
    let view = text_view::fit(
        &prompts,
        &static_model,
        text_view::TextViewShape::default(),
        args.seed,
    )?;
    std::fs::create_dir_all(&args.out).with_context(|| format!("cannot create {}", args.out.display()))?;
    let path = args.out.join("text-view.bin");
    std::fs::write(&path, view.to_bytes()).with_context(|| format!("cannot write {}", path.display()))?;
    tracing::info!(path = %path.display(), version = view.version(), "text view written");
    Ok(())
}
