//! What can be wrong with a request's body.

/// Why a body is not a request. Every variant names the field, so that the client can find it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The body is not UTF-8.
    #[error("the body is not valid UTF-8 at byte {at}; send JSON encoded as UTF-8")]
    NotUtf8 {
        /// Offset of the first bad byte.
        at: usize,
    },
    /// The body is not JSON.
    #[error("the body is not valid JSON: {reason}")]
    NotJson {
        /// What the parser met, with line and column.
        reason: String,
    },
    /// The body is JSON, but no object.
    #[error("the body must be a JSON object, but is {found}")]
    NotAnObject {
        /// What it is.
        found: &'static str,
    },
    /// A field that must be there is not.
    #[error("`{path}` is missing")]
    Missing {
        /// The field.
        path: String,
    },
    /// A field holds the wrong type.
    #[error("`{path}` must be {expected}, but is {found}")]
    Type {
        /// The field.
        path: String,
        /// What it must be.
        expected: &'static str,
        /// What it is.
        found: &'static str,
    },
    /// A field holds a value that it may not.
    #[error("`{path}` must be {expected}")]
    Value {
        /// The field.
        path: String,
        /// What it must be.
        expected: &'static str,
    },
    /// A key that may not be there.
    #[error("`{path}` is not known; known keys are {known}")]
    UnknownKey {
        /// The key.
        path: String,
        /// The keys that may be there.
        known: &'static str,
    },
    /// Arrays and objects are nested too deeply.
    #[error("`{path}` is nested more than {limit} levels deep")]
    TooDeep {
        /// The field.
        path: String,
        /// The limit.
        limit: usize,
    },
}

impl RequestError {
    /// The field at fault, for the error's `param`.
    #[must_use]
    pub fn path(&self) -> Option<&str> {
        match self {
            Self::NotUtf8 { .. } | Self::NotJson { .. } | Self::NotAnObject { .. } => None,
            Self::Missing { path }
            | Self::Type { path, .. }
            | Self::Value { path, .. }
            | Self::UnknownKey { path, .. }
            | Self::TooDeep { path, .. } => Some(path).filter(|path| !path.is_empty()).map(String::as_str),
        }
    }
}
