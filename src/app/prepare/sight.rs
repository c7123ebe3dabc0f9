//! What a request looks like: what it holds, what its words say, and how long it took to see that.

use std::sync::Arc;
use std::time::Duration;

use crate::app::features::{FeatureSet, Looked};
use crate::app::late::Late;
use crate::clock;
use crate::content::ContentFacts;
use crate::context::Features;
use crate::features::content;
use crate::request::ChatRequest;
use crate::server::error::ApiError;

/// What was seen of one request.
pub(super) struct Sight {
    /// What it holds.
    pub(super) content: ContentFacts,
    /// How long the look at that took.
    pub(super) took: Duration,
    /// Its feature vectors.
    pub(super) features: Features,
    /// Its category: the one that the client names, else the classifier's.
    pub(super) category: Option<Arc<str>>,
    /// The embedding that did not come in time.
    pub(super) late: Option<Late>,
}

impl Sight {
    /// Looks at a request; at its embedding only if `embedded` says that a decision may go by that.
    ///
    /// # Errors
    /// Content that nobody could take.
    pub(super) async fn of(
        request: &ChatRequest,
        features: &FeatureSet,
        embedded: bool,
    ) -> Result<Self, ApiError> {
        let began = clock::monotonic();
        let content = content::look(request);
        let took = clock::monotonic().saturating_duration_since(began);
        if let Some(broken) = content.broken.first() {
            let message = format!("`{}` {}.", broken.path, broken.reason);
            return Err(ApiError::invalid(message, Some(&broken.path)));
        }
        let Looked {
            features,
            category,
            late,
        } = features.look(request, embedded).await;
        let named = request.routing.category.as_deref().map(Arc::from);
        Ok(Self {
            content,
            took,
            features,
            category: named.or(category),
            late,
        })
    }
}
