//! Moves a whole database out of the way.

use std::path::{Path, PathBuf};

use super::{FILE, StoreError, lock, schema};

/// Moves the database of `data_dir` into its folder `name`; where one was moved there before, into `name-2`, and so on.
/// Tells where it is now.
///
/// # Errors
/// When another process has the database, or it cannot be read or moved; it then stays where it is.
pub fn set_aside(data_dir: &Path, name: &str) -> Result<PathBuf, StoreError> {
    let _lock = lock(data_dir)?;
    let path = data_dir.join(FILE);
    let connection = schema::open_writer(&path)?;
    // What waits in the log beside it must not be left behind.
    connection
        .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        .map_err(|error| StoreError::from_sql(&path, &error))?;
    drop(connection);
    let (mut folder, mut number) = (data_dir.join(name), 1_u64);
    while folder.join(FILE).exists() {
        number += 1;
        folder = data_dir.join(format!("{name}-{number}"));
    }
    let aside = folder.join(FILE);
    let moved = std::fs::create_dir_all(&folder).and_then(|()| std::fs::rename(&path, &aside));
    moved.map_err(|error| StoreError::from_io(&aside, &error))?;
    Ok(aside)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_was_moved_before_is_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let moved = || {
            drop(schema::open_writer(&folder.path().join(FILE)).unwrap());
            set_aside(folder.path(), "simulated").unwrap()
        };
        let places = [moved(), moved(), moved()];
        for (place, name) in places.iter().zip(["simulated", "simulated-2", "simulated-3"]) {
            assert_eq!(place, &folder.path().join(name).join(FILE));
            assert!(place.exists());
        }
        assert!(!folder.path().join(FILE).exists());
    }
}
