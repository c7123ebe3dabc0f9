//! A model that is there for its vectors is not asked to talk, and a route, which chooses among models, is not asked for
//! vectors, which mean nothing to another model.

use crate::app::live::Target;
use crate::request::{ChatRequest, Purpose};
use crate::server::error::ApiError;

/// Whether what the client names does what it asks for.
///
/// # Errors
/// 400 that says where to go instead.
pub fn check(target: Target<'_>, request: &ChatRequest) -> Result<(), ApiError> {
    let message = match (request.purpose, target) {
        (Purpose::Chat, Target::Arm(served)) if served.purpose == Purpose::Embedding => format!(
            "The model `{}` makes embeddings: ask `POST /v1/embeddings` for them.",
            request.model
        ),
        (Purpose::Embedding, Target::Route(_)) => format!(
            "`{}` is a route, and vectors of different models cannot be compared: name a model.",
            request.model
        ),
        // Whether a model that is not marked makes vectors is known to its provider.
        _ => return Ok(()),
    };
    Err(ApiError::invalid(message, Some("model")))
}
