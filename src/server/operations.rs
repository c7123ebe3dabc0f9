//! Operations: `/health`, `/ready`, `/v1/telemetry`.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde_json::{Value, json};

use crate::app::App;
use crate::clock;

/// The process lives.
pub async fn health() -> Json<Value> {
    Json(json!({"status": "ok"}))
}

/// It can take requests: the database is open and it is not shutting down.
pub async fn ready(State(app): State<App>) -> Response {
    let problems = app.problems();
    let status = if problems.is_empty() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let body = json!({
        "status": if problems.is_empty() { "ready" } else { "not ready" },
        "problems": problems,
        "warnings": app.warnings(),
        "version": env!("CARGO_PKG_VERSION"),
    });
    (status, Json(body)).into_response()
}

/// Latency, errors, health and the log's own state, live.
pub async fn telemetry(State(app): State<App>) -> Json<Value> {
    let mut telemetry = serde_json::to_value(app.telemetry.snapshot(clock::wall())).unwrap_or_default();
    telemetry["circuits"] =
        serde_json::to_value(app.dispatcher.health(clock::monotonic())).unwrap_or_default();
    telemetry["requests_in_flight"] = app.dispatcher.in_flight().into();
    telemetry["process"] = json!({
        "tasks": tokio::runtime::Handle::current().metrics().num_alive_tasks(),
        "requests_under_way": app.pending.len(),
    });
    telemetry["hedge_stock"] = app.dispatcher.hedge_stock().into();
    telemetry["learner"] = serde_json::to_value(app.learner.status()).unwrap_or_default();
    telemetry["embedding"] = serde_json::to_value(app.features.load().embedding_counts()).unwrap_or_default();
    telemetry["models"] = serde_json::to_value(app.features.load().fingerprint()).unwrap_or_default();
    let policy = app.learner.policy();
    let shares: serde_json::Map<String, Value> = app
        .live
        .load()
        .config
        .arms()
        .filter_map(|arm| {
            let shares = policy.cached_shares(&arm.id).filter(|shares| shares.calls > 0)?;
            Some((arm.id.to_string(), serde_json::to_value(shares).ok()?))
        })
        .collect();
    telemetry["prompt_cache"] = Value::Object(shares);
    telemetry["sessions"] = serde_json::to_value(app.sessions.figures()).unwrap_or_default();
    telemetry["caches"] = serde_json::to_value(app.live.load().caches.figures()).unwrap_or_default();
    telemetry["log"] = serde_json::to_value(app.store.stats()).unwrap_or_default();
    Json(telemetry)
}

/// Every budget's account: what is spent, set aside and left, and when it renews.
pub async fn budgets(State(app): State<App>) -> Json<Value> {
    let rows = app.budgets.rows(clock::wall());
    Json(json!({"budgets": serde_json::to_value(rows).unwrap_or_default()}))
}
