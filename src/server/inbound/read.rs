//! Reading a foreign request: every complaint names its field.

use serde_json::{Map, Value};

use crate::server::error::ApiError;

/// An object's fields.
pub(super) type Fields = Map<String, Value>;

/// The body as an object.
pub(super) fn body(bytes: &[u8]) -> Result<Fields, ApiError> {
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err(ApiError::invalid("The body must be a JSON object.", None)),
        Err(error) => Err(ApiError::invalid(
            format!("The body is not valid JSON: {error}."),
            None,
        )),
    }
}

/// A complaint about the field at `path`: "`path` what."
pub(super) fn wrong(path: &str, what: &str) -> ApiError {
    ApiError::invalid(format!("`{path}` {what}."), Some(path))
}

pub(super) fn object(value: Value, path: &str) -> Result<Fields, ApiError> {
    match value {
        Value::Object(fields) => Ok(fields),
        _ => Err(wrong(path, "must be an object")),
    }
}

pub(super) fn list(value: Value, path: &str) -> Result<Vec<Value>, ApiError> {
    match value {
        Value::Array(items) => Ok(items),
        _ => Err(wrong(path, "must be an array")),
    }
}

pub(super) fn text<'a>(fields: &'a Fields, key: &str, path: &str) -> Result<&'a str, ApiError> {
    match fields.get(key) {
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(wrong(&format!("{path}.{key}"), "must be a string")),
        None => Err(wrong(&format!("{path}.{key}"), "is missing")),
    }
}

pub(super) fn kind<'a>(fields: &'a Fields, path: &str) -> Result<&'a str, ApiError> {
    text(fields, "type", path)
}

/// Fields that are the same everywhere: the model, sampling, and the router's own.
pub(super) fn is_shared(key: &str) -> bool {
    matches!(
        key,
        "model"
            | "stream"
            | "temperature"
            | "top_p"
            | "models"
            | "fallbacks"
            | "provider"
            | "routing"
            | "session_id"
            | "user"
            | "prompt_cache_key"
    )
}
