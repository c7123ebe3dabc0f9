//! Fits the seed prior alone, on projections that stay: from a server's own log, from recorded outcomes, or from both.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

use super::embeddings::Embedded;
use super::log::{self, Learned};
use super::measure::{self, Figure};
use super::recorded::Source;
use super::{TrainArgs, card, command, embeddings, prior, recorded, told};
use crate::clock;
use crate::embedding::LocalEmbedder;
use crate::features::{EmbeddingView, TextView};
use crate::learner::Versions;
use crate::policy::View;
use crate::policy::seed::Seed;

/// What stays, within the models' folder; the last is there only with an embedding view.
const KEPT: [&str; 3] = ["text-view.bin", "classifier.bin", "embedding-view.bin"];
/// The seed's file, and the card that tells of it.
const SEED: &str = "seed-prior.json";

/// The projections that stay.
struct Views {
    text: TextView,
    embedding: Option<EmbeddingView>,
}

/// Fits the seed on the projections of the models' folder and writes it to `args.out`, with what it belongs to.
///
/// # Errors
/// When something cannot be read or written, or there is nothing to learn from.
pub(super) fn run(args: &TrainArgs, logs: &[PathBuf], files: &[PathBuf]) -> anyhow::Result<()> {
    let views = views(args)?;
    let logs = log::open_all(logs, clock::wall().0)?;
    let sources = files
        .iter()
        .map(|path| recorded::read(path))
        .collect::<Result<Vec<Source>, _>>()?;
    let path = args.models_dir.join(SEED);
    let mut seed =
        Seed::parse(&read(&path)?).with_context(|| format!("{} cannot be built on", path.display()))?;
    let text_version = views.text.version().to_string();
    ensure!(
        seed.view_versions
            .get(&View::Text)
            .is_none_or(|version| *version == text_version),
        "{} was trained for another text view than the one beside it: restore both from the release",
        path.display()
    );
    let mut figures = Vec::new();
    if !sources.is_empty() {
        let embedded = embedded(args, &views, &sources)?;
        from_files(&views, &sources, &embedded, &mut seed)?;
        if args.folds > 0 {
            // The projections stay as they are, so none is fitted without a source.
            figures = measure::figures(&sources, &views.text, None, &embedded, views.embedding.as_ref())?;
        }
    }
    let versions = Versions {
        text: views.text.version(),
        embedding: views.embedding.as_ref().map_or(0, EmbeddingView::version),
    };
    let mut learned = Vec::new();
    for log in &logs {
        learned.push((log.extent(), log.fit(&mut seed, &versions, args.folds)?));
    }
    std::fs::create_dir_all(&args.out).with_context(|| format!("cannot create {}", args.out.display()))?;
    keep(&args.models_dir, &args.out)?;
    let bytes = seed.to_bytes()?;
    let told = told(files, &sources)?;
    let text = text(args, &bytes, &told, &learned, &figures);
    card::put(&args.out, card::SEED_CARD, text.as_bytes())?;
    // Last: what is watched for changes is whole once this is there.
    card::put(&args.out, SEED, &bytes)
}

fn views(args: &TrainArgs) -> anyhow::Result<Views> {
    let path = args.models_dir.join(KEPT[0]);
    let text = TextView::read(&read(&path)?).with_context(|| format!("{} cannot be used", path.display()))?;
    let path = args.models_dir.join(KEPT[2]);
    let embedding = match args.embedding.as_str() {
        "off" => None,
        _ if !path.exists() => None,
        name => {
            let view = EmbeddingView::read(&read(&path)?)
                .with_context(|| format!("{} cannot be used", path.display()))?;
            ensure!(
                view.model() == name,
                "{} was trained for the embedding model {}: give --embedding {0} or --embedding off",
                path.display(),
                view.model()
            );
            Some(view)
        }
    };
    Ok(Views { text, embedding })
}

/// The embeddings of a sample of each source, where there is an embedding view.
fn embedded(args: &TrainArgs, views: &Views, sources: &[Source]) -> anyhow::Result<Vec<Embedded>> {
    if views.embedding.is_none() {
        return Ok(Vec::new());
    }
    let lists: Vec<Vec<&str>> = sources
        .iter()
        .map(|source| source.prompts.iter().map(|one| one.prompt.as_str()).collect())
        .collect();
    let mut embedder = LocalEmbedder::open(&args.models_dir.join(&args.embedding))?;
    embeddings::embed(&lists, &mut embedder, args.embedding_sample, args.seed)
}

/// Recorded outcomes take the place of what was known of their models.
fn from_files(
    views: &Views,
    sources: &[Source],
    embedded: &[Embedded],
    seed: &mut Seed,
) -> anyhow::Result<()> {
    let fitted = prior::fit(sources, &views.text, embedded, views.embedding.as_ref());
    ensure!(
        !fitted.arms.is_empty(),
        "every prompt is marked `test`: those are left out of a prior"
    );
    seed.arms
        .retain(|arm| !fitted.arms.iter().any(|new| new.model == arm.model));
    for mark in &mut seed.learned {
        mark.arms
            .retain(|arm| !fitted.arms.iter().any(|new| new.model == *arm));
    }
    seed.arms.extend(fitted.arms);
    Ok(())
}

/// Copies what the seed belongs to, unless it is there already.
fn keep(from: &Path, to: &Path) -> anyhow::Result<()> {
    for name in KEPT {
        let path = from.join(name);
        if !path.exists() {
            continue;
        }
        let bytes = read(&path)?;
        if std::fs::read(to.join(name)).ok().as_ref() != Some(&bytes) {
            card::put(to, name, &bytes)?;
        }
    }
    Ok(())
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path)
        .with_context(|| format!("cannot read {}; --models-dir names its folder", path.display()))
}

/// The card of the seed.
fn text(
    args: &TrainArgs,
    bytes: &[u8],
    told: &[(String, String, usize, usize)],
    learned: &[(String, Learned)],
    figures: &[Figure],
) -> String {
    let mut out = format!(
        "# Seed card\n\n`{SEED}` was fitted by `pointsman train` on projections that stayed as they were; for those see the \
         model card.\n\n## How\n```\n{}\n```\n{} bytes, SHA-256 `{}`.\n",
        command(args),
        bytes.len(),
        card::sha256(bytes)
    );
    if !told.is_empty() {
        out.push_str(
            "\n## Recorded outcomes\n| source | prompts | models | SHA-256 |\n| --- | ---: | ---: | --- |\n",
        );
        for (name, digest, prompts, models) in told {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "| {name} | {prompts} | {models} | `{digest}` |");
        }
    }
    card::features(figures, &mut out);
    for (extent, learned) in learned {
        let _ = write!(
            out,
            "\n## Decision log `{}`\n{extent}. A server with this log learns only what came after on top. {} scores were \
             given to answers decided on other projections and say nothing here.\n\n",
            learned.log, learned.other_features
        );
        let _ = match args.folds {
            0 => out.write_str("How far held-out scores are missed was not asked for (`--folds`).\n\n"),
            folds => write!(
                out,
                "Held-out errors are root mean squares over {folds} parts: of the mean of a model's other scores, of \
                 what was known of it before, of this seed.\n\n"
            ),
        };
        out.push_str("| model | scores | mean | before | this seed |\n| --- | ---: | ---: | ---: | ---: |\n");
        for (model, scores) in &learned.scores {
            let roots = learned.errors.get(model).map(|errors| errors.roots());
            let cell =
                |index: usize| roots.map_or_else(|| "-".to_owned(), |roots| format!("{:.4}", roots[index]));
            let _ = writeln!(
                out,
                "| {model} | {scores} | {} | {} | {} |",
                cell(0),
                cell(1),
                cell(2)
            );
        }
    }
    out.push_str("\nIt holds no prompt and no answer.\n");
    out
}
