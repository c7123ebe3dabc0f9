//! What can go wrong with the database, and what to do about it.

use std::path::Path;

use rusqlite::ErrorCode;

/// Why the database could not be opened, read or written. Cheap to clone: one failed commit answers many callers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Another pointsman has this data directory.
    #[error("{path} is held by another running pointsman: stop that one, or set another `server.data_dir`")]
    InUse {
        /// The lock file.
        path: String,
    },
    /// Another program holds a lock on the database.
    #[error(
        "{path} is locked by another program: close it (an open `sqlite3` shell, a backup) and try again"
    )]
    Locked {
        /// The database.
        path: String,
    },
    /// The file is damaged, or no database at all.
    #[error(
        "{path} is damaged ({detail}) and was left as it is: move it aside together with its -wal and -shm files to \
         start anew, or recover it with `sqlite3 {path} .recover`"
    )]
    Corrupt {
        /// The database.
        path: String,
        /// What SQLite found.
        detail: String,
    },
    /// A database, but none of ours.
    #[error(
        "{path} is another program's database and was left as it is: set another `server.data_dir`, or move it aside"
    )]
    Foreign {
        /// The database.
        path: String,
    },
    /// The file was emptied, but what was written last still waits in the log beside it.
    #[error(
        "{path} is empty, but {path}-wal beside it is not, and opening it would delete that: put the database back \
         from a copy, or move both aside to start anew"
    )]
    Emptied {
        /// The database.
        path: String,
    },
    /// The file was written by a later version.
    #[error(
        "{path} has schema version {found}, but this pointsman knows none later than {known}: run the newer version, \
         or set another `server.data_dir`"
    )]
    NewerSchema {
        /// The database.
        path: String,
        /// The file's version.
        found: i64,
        /// Our version.
        known: i64,
    },
    /// No space is left.
    #[error("no space left to write {path}: free some; writing resumes by itself and nothing stored is lost")]
    Full {
        /// The database.
        path: String,
    },
    /// The file was deleted or replaced while it was open.
    #[error(
        "{path} was deleted or replaced under this pointsman, and what is written now would be lost: put that file \
         back, or restart"
    )]
    Gone {
        /// The database.
        path: String,
    },
    /// There is no database yet.
    #[error("{path} does not exist yet: run `pointsman serve` with this `server.data_dir` first")]
    Missing {
        /// The database.
        path: String,
    },
    /// The file system refuses.
    #[error("{path} cannot be read or written ({detail}): check that it exists and its permissions")]
    Io {
        /// The database or its directory.
        path: String,
        /// What the system says.
        detail: String,
    },
    /// Too much waits to be written.
    #[error("too much is waiting to be written to the database: try again in a moment")]
    Overloaded,
    /// The store was closed.
    #[error("the store is shutting down: try again when it runs")]
    Closed,
    /// Anything else.
    #[error("{path}: {detail}")]
    Sql {
        /// The database.
        path: String,
        /// What SQLite says.
        detail: String,
    },
}

impl StoreError {
    /// Whether everything else will fail alike until something outside changes. Otherwise one row is at fault.
    #[must_use]
    pub fn is_general(&self) -> bool {
        !matches!(self, Self::Sql { .. })
    }

    pub(super) fn from_sql(path: &Path, error: &rusqlite::Error) -> Self {
        let path = path.display().to_string();
        let detail = error.to_string();
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Locked { path },
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Corrupt { path, detail },
            Some(ErrorCode::DiskFull) => Self::Full { path },
            Some(
                ErrorCode::SystemIoFailure
                | ErrorCode::CannotOpen
                | ErrorCode::ReadOnly
                | ErrorCode::PermissionDenied
                | ErrorCode::OutOfMemory
                | ErrorCode::FileLockingProtocolFailed,
            ) => Self::Io { path, detail },
            _ => Self::Sql { path, detail },
        }
    }

    pub(super) fn from_io(path: &Path, error: &std::io::Error) -> Self {
        let path = path.display().to_string();
        if error.kind() == std::io::ErrorKind::StorageFull {
            return Self::Full { path };
        }
        Self::Io {
            path,
            detail: error.to_string(),
        }
    }
}

/// Why a score was not recorded. Nothing of it was stored.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum RecordError {
    /// No decision, response or episode has this id.
    #[error("no response, decision or episode has the id `{id}`: send the `id` of a response of this server")]
    UnknownId {
        /// The id as given.
        id: String,
    },
    /// Scores are in [0,1].
    #[error("score is {score}, but must be in [0,1]")]
    OutOfRange {
        /// The score as given.
        score: f64,
    },
    /// The database could not take it. It is safe to send it again.
    #[error(transparent)]
    Store(#[from] StoreError),
}
