//! The model card: from what, how, and how good.

use std::fmt::Write;
use std::path::Path;

use anyhow::Context;
use sha2::{Digest, Sha256};

use super::classifier::Accuracy;
use super::measure::Figure;

/// All that the card tells.
#[derive(Clone, Debug, Default)]
pub struct Card {
    /// The command that makes the artefacts again.
    pub command: String,
    /// The seed.
    pub seed: u64,
    /// Sources: name, file's SHA-256, prompts, models.
    pub sources: Vec<(String, String, usize, usize)>,
    /// Files written: name, bytes, SHA-256, what it is.
    pub files: Vec<(String, usize, String, &'static str)>,
    /// The embedding model, if its view was fitted.
    pub embedding_model: Option<String>,
    /// Probability below which no category is named.
    pub least: f32,
    /// Accuracy of the classifier by what was held out.
    pub accuracy: Vec<(String, Accuracy)>,
    /// Figures of the features by source.
    pub figures: Vec<Figure>,
}

/// SHA-256 in hexadecimal.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .fold(String::with_capacity(64), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// Writes a file whole or not at all: a server that watches the folder must never read half of one.
///
/// # Errors
/// When the file cannot be written.
pub fn put(folder: &Path, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
    let (path, fresh) = (folder.join(name), folder.join(format!(".{name}.new")));
    let written = std::fs::write(&fresh, bytes).and_then(|()| std::fs::rename(&fresh, &path));
    written.with_context(|| format!("cannot write {}", path.display()))?;
    tracing::info!(path = %path.display(), bytes = bytes.len(), "written");
    Ok(())
}

impl Card {
    /// Writes `bytes` to `name` in `folder` and notes it.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(
        &mut self,
        folder: &Path,
        name: &str,
        bytes: &[u8],
        what: &'static str,
    ) -> anyhow::Result<()> {
        put(folder, name, bytes)?;
        self.files
            .push((name.to_owned(), bytes.len(), sha256(bytes), what));
        Ok(())
    }

    /// The card in Markdown.
    #[must_use]
    pub fn to_markdown(&self) -> String {
        let mut out =
            String::from("# Model card\n\nMade by `pointsman train`; do not edit, train again.\n\n");
        self.origin(&mut out);
        self.results(&mut out);
        out.push_str(
            "\n## Licence\nThe artefacts are derived weights under Apache-2.0, like the rest of the package. They hold no \
             prompt. `text-view.bin` holds the shortened word table of `static-minilm-256-i8`, and the embedding view \
             belongs to the model named above; both derive from all-MiniLM-L6-v2 (Apache-2.0, NOTICE beside them).\n",
        );
        out
    }

    fn origin(&self, out: &mut String) {
        let _ = writeln!(out, "## How\n```\n{}\n```\nSeed {}.", self.command, self.seed);
        if let Some(model) = &self.embedding_model {
            let _ = writeln!(out, "Embedding model: `{model}`.");
        }
        out.push_str("\n## Artefacts\n| file | what | bytes | SHA-256 |\n| --- | --- | ---: | --- |\n");
        for (name, bytes, digest, what) in &self.files {
            let _ = writeln!(out, "| `{name}` | {what} | {bytes} | `{digest}` |");
        }
        out.push_str(
            "\n## Data\nRecorded outcomes of real models; each prompt counts once. Prompts marked `test` are left out of \
             the seed prior. The classifier also learns from the prompts written for this project in \
             `training/categories.jsonl`.\n\n| source | prompts | models | SHA-256 |\n| --- | ---: | ---: | --- |\n",
        );
        for (name, digest, prompts, models) in &self.sources {
            let _ = writeln!(out, "| {name} | {prompts} | {models} | `{digest}` |");
        }
    }

    fn results(&self, out: &mut String) {
        if !self.accuracy.is_empty() {
            let _ = write!(
                out,
                "\n## Category classifier\nNames nothing below a probability of {:.2}. Held-out accuracy; *without* a source \
                 means that none of its prompts was learned from.\n\n| held out | prompts | most probable is right | named \
                 | named rightly |\n| --- | ---: | ---: | ---: | ---: |\n",
                self.least
            );
            for (name, accuracy) in &self.accuracy {
                let _ = writeln!(
                    out,
                    "| {name} | {} | {:.3} | {:.3} | {:.3} |",
                    accuracy.prompts, accuracy.top, accuracy.answered, accuracy.right_of_answered
                );
            }
        }
        features(&self.figures, out);
    }
}

/// What features tell of scores, by source; nothing where nothing was measured.
pub(super) fn features(figures: &[Figure], out: &mut String) {
    if figures.is_empty() {
        return;
    }
    out.push_str(
        "\n## Features\nFive-fold ridge regression of each model's score. R2: share of variance explained, mean over \
         models. Relative R2: of scores minus the prompt's mean over models, which is what a router needs. APGR: \
         average performance gap recovered, where there are two models (random: 0.5).\n\n| source | features | \
         prompts | R2 | relative R2 | APGR |\n| --- | --- | ---: | ---: | ---: | ---: |\n",
    );
    for figure in figures {
        let gap = figure.gap.map_or(String::new(), |gap| format!("{gap:.3}"));
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "| {} | {} | {} | {:.3} | {:.3} | {gap} |",
            figure.source, figure.features, figure.prompts, figure.absolute, figure.relative
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_card_names_files_sources_and_figures() {
        let folder = tempfile::tempdir().unwrap();
        let mut card = Card {
            command: "pointsman train".to_owned(),
            seed: 7,
            ..Card::default()
        };
        card.write(folder.path(), "a.bin", b"abc", "a view").unwrap();
        card.accuracy.push((
            "own".to_owned(),
            Accuracy {
                prompts: 2,
                top: 0.5,
                ..Accuracy::default()
            },
        ));
        let text = card.to_markdown();
        assert!(text.contains("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"));
        assert!(text.contains("| own | 2 | 0.500 | 0.000 | 0.000 |"));
        assert_eq!(std::fs::read(folder.path().join("a.bin")).unwrap(), b"abc");
        assert!(card.write(Path::new("/nowhere"), "a", b"", "").is_err());
    }
}
