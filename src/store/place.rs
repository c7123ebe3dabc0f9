//! Whether the file that is open is still the one that its path names. SQLite writes on into a file that was deleted, and
//! nothing of that can be found again.

use std::fs::Metadata;
use std::io::ErrorKind;
use std::path::Path;

use super::error::StoreError;

/// What tells a file from another one at the same path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity(u64, u64);

impl Identity {
    /// Of the file at `path`.
    pub(super) fn of(path: &Path) -> Result<Self, StoreError> {
        match std::fs::metadata(path) {
            Ok(metadata) => Ok(identity(&metadata)),
            Err(error) => Err(StoreError::from_io(path, &error)),
        }
    }

    /// Fails if this file is no longer at `path`. What else may be wrong there is told by whoever writes.
    pub(super) fn check(self, path: &Path) -> Result<(), StoreError> {
        let there = match std::fs::metadata(path) {
            Ok(metadata) => identity(&metadata) == self,
            Err(error) => !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory),
        };
        if there {
            return Ok(());
        }
        Err(StoreError::Gone {
            path: path.display().to_string(),
        })
    }
}

#[cfg(unix)]
fn identity(metadata: &Metadata) -> Identity {
    use std::os::unix::fs::MetadataExt;
    Identity(metadata.dev(), metadata.ino())
}

/// Elsewhere a file that is open cannot be deleted.
#[cfg(not(unix))]
fn identity(_: &Metadata) -> Identity {
    Identity(0, 0)
}
