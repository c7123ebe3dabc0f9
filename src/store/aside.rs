//! Moves a whole database out of the way.

use std::path::{Path, PathBuf};

use super::{FILE, StoreError, lock, schema};

/// Moves the database of `data_dir` into its folder `name`, in place of one that was moved there before. Tells where it
/// is now.
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
    let folder = data_dir.join(name);
    let aside = folder.join(FILE);
    let moved = std::fs::create_dir_all(&folder).and_then(|()| std::fs::rename(&path, &aside));
    moved.map_err(|error| StoreError::from_io(&aside, &error))?;
    Ok(aside)
}
