//! `POST /v1/feedback`: one score or an array of them. A score is acknowledged once it is durable.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::app::App;
use crate::clock;
use crate::failure::FailureKind;
use crate::feedback::Feedback;
use crate::server::body::RawBody;
use crate::server::cached;
use crate::server::error::{ApiError, sentence};
use crate::store::{FeedbackAck, FeedbackRow, RecordError};

/// Scores in one array at most.
const MAX_BATCH: usize = 1000;

/// Records one score, or each of an array. In an array every good score is recorded even when another is bad; the
/// answer then has the first failure's status and tells of each item. Sending it again is safe: a score counts once.
pub async fn post(State(app): State<App>, RawBody(body): RawBody) -> Result<Response, ApiError> {
    let body: Value = serde_json::from_slice(&body)
        .map_err(|error| ApiError::invalid(format!("The body is not valid JSON: {error}."), None))?;
    match body {
        Value::Array(items) => batch(&app, &items).await,
        item => {
            let ack = record(&app, &item).await?;
            Ok(Json(acknowledgement(&ack)).into_response())
        }
    }
}

async fn batch(app: &App, items: &[Value]) -> Result<Response, ApiError> {
    if items.is_empty() || items.len() > MAX_BATCH {
        let message = format!(
            "An array must hold 1 to {MAX_BATCH} scores; this one holds {}.",
            items.len()
        );
        return Err(ApiError::invalid(message, None));
    }
    let results = futures_util::future::join_all(items.iter().map(|item| record(app, item))).await;
    let mut first_failure = None;
    let mut rows = Vec::with_capacity(results.len());
    for (index, result) in results.into_iter().enumerate() {
        match result {
            Ok(ack) => rows.push(acknowledgement(&ack)),
            Err(error) => {
                let mut row = error.body();
                row["recorded"] = false.into();
                row["index"] = index.into();
                rows.push(row);
                first_failure.get_or_insert((index, error));
            }
        }
    }
    let Some((index, mut error)) = first_failure else {
        return Ok(Json(rows).into_response());
    };
    error.message = format!(
        "Score {index} of the array: {} The other results are in `results`.",
        error.message
    );
    error.metadata.insert("results".into(), Value::Array(rows));
    Err(error)
}

async fn record(app: &App, item: &Value) -> Result<FeedbackAck, ApiError> {
    let feedback = Feedback::from_json(item).map_err(|error| {
        let param = error.param().map(str::to_owned);
        let mut refusal = ApiError::invalid(sentence(&error.to_string()), None);
        refusal.param = param;
        refusal
    })?;
    let id = feedback.target.id().to_owned();
    let (metric, score) = (feedback.metric.clone(), feedback.score);
    let ack = app
        .store
        .record_feedback(FeedbackRow::new(feedback, clock::wall()))
        .await;
    let ack = ack.map_err(|error| refusal(&id, &error))?;
    app.learner.scores_came();
    cached::scored(app, &ack.decision, &metric, score);
    Ok(ack)
}

fn refusal(id: &str, error: &RecordError) -> ApiError {
    if matches!(error, RecordError::UnknownId { .. }) {
        let message = format!(
            "No request with the id `{id}` was answered here. Send the response's `id`, its `x-router-decision-id`, or an episode's id."
        );
        let mut refusal = ApiError::new(FailureKind::NotFound, message);
        refusal.param = Some("id".into());
        return refusal;
    }
    // What is wrong with the database is told once, by the store, and not for every score that it concerns.
    tracing::debug!(%error, "a score could not be stored");
    ApiError::new(
        FailureKind::Server,
        "The score could not be stored and was not counted. Send it again later: it will count once.",
    )
}

fn acknowledgement(ack: &FeedbackAck) -> Value {
    json!({
        "feedback_id": ack.feedback_id,
        "recorded": true,
        "duplicate": ack.duplicate,
        "revised": ack.revised,
        "decision_id": ack.decision,
    })
}
