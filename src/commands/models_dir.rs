//! Where the shipped models are.

use std::path::{Path, PathBuf};

/// What `--models-dir` is when nothing is said.
const DEFAULT: &str = "models";
/// A file that only the right folder holds.
const TELLTALE: &str = "text-view.bin";
/// Folders above the program's own that are looked at: `bin`, `release`, `target` and what they stand in.
const LEVELS: usize = 4;

/// `asked`; or, if that is the default and is not in the working directory, the folder that lies with the program: in
/// the repository that it was built in, or under `share/pointsman` where it was installed.
pub fn find(asked: &Path) -> PathBuf {
    if asked != Path::new(DEFAULT) || asked.join(TELLTALE).is_file() {
        return asked.to_owned();
    }
    let program = std::env::current_exe().and_then(|path| path.canonicalize());
    let near = program.ok().and_then(|program| beside(&program));
    near.unwrap_or_else(|| asked.to_owned())
}

fn beside(program: &Path) -> Option<PathBuf> {
    let folders = program.ancestors().skip(1).take(LEVELS);
    folders
        .flat_map(|folder| [folder.join(DEFAULT), folder.join("share/pointsman").join(DEFAULT)])
        .find(|folder| folder.join(TELLTALE).is_file())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_models_are_found_in_the_repository_and_where_the_program_was_installed() {
        for (program, models) in [
            ("target/release/pointsman", "models"),
            ("bin/pointsman", "share/pointsman/models"),
            ("pointsman", "models"),
        ] {
            let root = tempfile::tempdir().unwrap();
            let program = root.path().join(program);
            assert_eq!(beside(&program), None);
            let models = root.path().join(models);
            fs::create_dir_all(&models).unwrap();
            fs::write(models.join(TELLTALE), "").unwrap();
            assert_eq!(beside(&program), Some(models));
        }
    }

    #[test]
    fn a_folder_that_was_asked_for_is_taken_as_it_is() {
        assert_eq!(find(Path::new("/nowhere/models")), Path::new("/nowhere/models"));
    }
}
