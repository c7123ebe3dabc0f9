//! The answer to a request that no arm can or may take.

use crate::app::money;
use crate::app::prepare::asked::Asked;
use crate::app::prepare::field::Field;
use crate::app::prepare::pool::Pool;
use crate::failure::FailureKind;
use crate::server::error::ApiError;
use crate::server::explain::Refused;

/// Why: a budget that has less left than the cheapest arm would take, else what each arm lacks.
pub(super) fn refusal(asked: &Asked<'_>, pool: &Pool<'_>, field: &Field) -> ApiError {
    let priced = pool.expected.iter().filter(|expected| expected.priced);
    let cheapest = priced.map(|expected| expected.cost).min();
    cheapest
        .filter(|&cheapest| asked.standing.most.is_some_and(|most| cheapest > most))
        .and_then(|cheapest| money::too_little(asked.app, asked.request, asked.wishes, asked.name, cheapest))
        .unwrap_or_else(|| no_candidates(&field.refused, field.too_long))
}

/// The error for a request that no arm can take: it says why each cannot. Sent again it fails again.
fn no_candidates(refused: &[Refused], too_long: bool) -> ApiError {
    let (kind, sentence) = if too_long {
        (
            FailureKind::ContextLengthExceeded,
            "The prompt is too long for every model.",
        )
    } else {
        (FailureKind::NoCandidates, "No model can take this request.")
    };
    let reasons: Vec<String> = refused
        .iter()
        .map(|(arm, reason)| format!("{arm}: {reason}"))
        .collect();
    let message = if reasons.is_empty() {
        sentence.to_owned()
    } else {
        format!("{sentence} {}.", reasons.join("; "))
    };
    let list: Vec<_> = refused
        .iter()
        .map(|(arm, reason)| serde_json::json!({"model": arm.as_str(), "excluded": reason}))
        .collect();
    ApiError::new(kind, message)
        .with("excluded", list)
        .with("retryable", false)
}
