//! What a request's words say.

use std::sync::Arc;

use crate::app::features::{FeatureSet, Looked};
use crate::app::late::Late;
use crate::context::Features;
use crate::request::ChatRequest;

/// What was seen of one request's words.
pub(super) struct Sight {
    /// Its feature vectors.
    pub(super) features: Features,
    /// Its category: the one that the client names, else the classifier's.
    pub(super) category: Option<Arc<str>>,
    /// The embedding that did not come in time.
    pub(super) late: Option<Late>,
}

impl Sight {
    /// Looks at a request's words; waits for their embedding only if `embedded` says that a decision may go by that.
    pub(super) async fn of(request: &ChatRequest, features: &FeatureSet, embedded: bool) -> Self {
        let Looked {
            features,
            category,
            late,
        } = features.look(request, embedded).await;
        let named = request.routing.category.as_deref().map(Arc::from);
        Self {
            features,
            category: named.or(category),
            late,
        }
    }
}
