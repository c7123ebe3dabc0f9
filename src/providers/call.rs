//! What a provider is asked, and how: the seam between `dispatch`, which knows no wire format, and the adapters.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::Stream;
use futures_util::future::BoxFuture;

use crate::arm::Arm;
use crate::completion::{Completion, StreamEvent};
use crate::failure::AttemptError;
use crate::request::ChatRequest;

/// One attempt's question to a provider. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Call {
    /// The canonical request, with the client's own bytes.
    pub request: Arc<ChatRequest>,
    /// The arm that must serve it.
    pub arm: Arc<Arm>,
    /// The arm was changed, by a fallback, a hedge or another decision than the last turn's, or has refused what the
    /// conversation holds: what belongs to another provider's conversation (tool call ids, thinking signatures) must be
    /// translated or stripped.
    pub fallback: bool,
}

/// The events of a streamed answer. Dropping it cancels the upstream call. Events that have already arrived are
/// yielded without waiting, so that they can be merged into one write. A stream that ends without
/// [`StreamEvent::End`] was cut off.
pub type EventStream = Pin<Box<dyn Stream<Item = Result<StreamEvent, AttemptError>> + Send>>;

/// A server that answers calls: a provider with one key of ours, a simulated provider, or a script in a test.
///
/// Boxed futures, because `dispatch` holds many kinds of upstream at once; one allocation a call is nothing
/// beside the call.
pub trait Upstream: Send + Sync {
    /// The whole answer. Dropping the future cancels the upstream call.
    fn complete<'a>(&'a self, call: &'a Call) -> BoxFuture<'a, Result<Completion, AttemptError>>;

    /// Resolves once the upstream has accepted the call (its 2xx headers are in).
    fn stream<'a>(&'a self, call: &'a Call) -> BoxFuture<'a, Result<EventStream, AttemptError>>;
}
