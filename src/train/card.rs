//! The model card: from what, how, and how good.

use std::fmt::Write;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use sha2::{Digest, Sha256};

use super::classifier::Accuracy;
use super::measure::Figure;

/// The card of a seed that was fitted alone.
pub const SEED_CARD: &str = "SEED_CARD.md";

/// All that the card tells.
#[derive(Clone, Debug, Default)]
pub struct Card {
    /// The command that makes the artefacts again.
    pub command: String,
    /// The seed.
    pub seed: u64,
    /// Sources: name, file's SHA-256, prompts, models.
    pub sources: Vec<(String, String, usize, usize)>,
    /// What was made: name, content, what it is. Written with the card once everything is there.
    pub files: Vec<(&'static str, Vec<u8>, &'static str)>,
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
    put_all(folder, &[(name, bytes)])
}

/// Writes files that belong together, in this order: each whole or not at all, and none is replaced before all of them
/// are on the disk, and nothing stands where they belong that no file replaces. Names change one after the other: whoever
/// is stopped in between, or may no longer write to the folder then, leaves the first ones new and the others old.
///
/// # Errors
/// When one cannot be written. But for what is said above, the folder then holds what it did before.
pub fn put_all(folder: &Path, files: &[(&str, &[u8])]) -> anyhow::Result<()> {
    let written = replace(folder, files);
    if written.is_err() {
        for (name, _) in files {
            // Half of one may be there on a full disk, and takes room.
            let _ = std::fs::remove_file(staged(folder, name));
        }
    }
    written
}

fn staged(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!(".{name}.new"))
}

fn replace(folder: &Path, files: &[(&str, &[u8])]) -> anyhow::Result<()> {
    let failed = |name: &str| format!("cannot write {}", folder.join(name).display());
    for (name, _) in files {
        ensure!(!folder.join(name).is_dir(), "{}: it is a folder", failed(name));
    }
    for (name, bytes) in files {
        stage(&staged(folder, name), bytes).with_context(|| failed(name))?;
    }
    for (name, bytes) in files {
        let path = folder.join(name);
        std::fs::rename(staged(folder, name), &path).with_context(|| failed(name))?;
        tracing::info!(path = %path.display(), bytes = bytes.len(), "written");
    }
    Ok(())
}

/// Writes a file through to the disk: a name that is given to it must not outlive its content when power fails.
fn stage(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

impl Card {
    /// Keeps what is to be written to `name`.
    pub fn add(&mut self, name: &'static str, bytes: Vec<u8>, what: &'static str) {
        self.files.push((name, bytes, what));
    }

    /// Writes all that was made, and the card, as [`put_all`] does. Nothing before: a run that is stopped or fails while
    /// it learns must not leave artefacts beside each other that were not made together.
    ///
    /// # Errors
    /// When a file cannot be written, or the card of a seed before cannot be removed: everything else is in place then.
    pub fn write(&self, folder: &Path) -> anyhow::Result<()> {
        let card = self.to_markdown();
        let files: Vec<(&str, &[u8])> = self
            .files
            .iter()
            .map(|(name, bytes, _)| (*name, bytes.as_slice()))
            .chain([("MODEL_CARD.md", card.as_bytes())])
            .collect();
        put_all(folder, &files)?;
        match std::fs::remove_file(folder.join(SEED_CARD)) {
            // It tells of a seed that is gone.
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {SEED_CARD} from {}", folder.display()))
            }
            _ => Ok(()),
        }
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
        for (name, bytes, what) in &self.files {
            let (size, digest) = (bytes.len(), sha256(bytes));
            let _ = writeln!(out, "| `{name}` | {what} | {size} | `{digest}` |");
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
        card.add("a.bin", b"abc".to_vec(), "a view");
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
        std::fs::write(folder.path().join(SEED_CARD), "of the seed before").unwrap();
        card.write(folder.path()).unwrap();
        assert!(!folder.path().join(SEED_CARD).exists());
        assert_eq!(std::fs::read(folder.path().join("a.bin")).unwrap(), b"abc");
        assert_eq!(
            std::fs::read(folder.path().join("MODEL_CARD.md")).unwrap(),
            text.as_bytes()
        );
        assert!(card.write(Path::new("/nowhere")).is_err());
    }

    #[test]
    fn files_that_belong_together_are_all_new_or_all_old() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        put_all(folder.path(), &[("a", b"old"), ("b", b"old")]).unwrap();
        // The second one cannot be written: a directory has its name.
        std::fs::create_dir(at(".b.new")).unwrap();
        let refused = put_all(folder.path(), &[("a", b"new"), ("b", b"new")]).unwrap_err();
        assert!(refused.to_string().contains("cannot write"), "{refused}");
        assert_eq!(std::fs::read(at("a")).unwrap(), b"old");
        assert!(!at(".a.new").exists(), "what was not put in place is gone");
        std::fs::remove_dir(at(".b.new")).unwrap();
        // Nor can this one, which is known only once it is put in place.
        std::fs::create_dir(at("c")).unwrap();
        let files: [(&str, &[u8]); 3] = [("a", b"new"), ("c", b"new"), ("b", b"new")];
        let refused = put_all(folder.path(), &files).unwrap_err();
        assert!(refused.to_string().contains("it is a folder"), "{refused}");
        let mut left: Vec<_> = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        left.sort();
        assert_eq!(left, ["a", "b", "c"]);
        assert_eq!(
            (std::fs::read(at("a")).unwrap(), std::fs::read(at("b")).unwrap()),
            (b"old".to_vec(), b"old".to_vec())
        );
    }
}
