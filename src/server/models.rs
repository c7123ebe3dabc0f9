//! `GET /v1/models`: what may be asked for, in OpenAI's shape with what matters for choosing beside it.

use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};

use crate::app::App;
use crate::app::live::{Live, Served, Target};
use crate::clock;
use crate::config::Route;
use crate::failure::FailureKind;
use crate::request::Purpose;
use crate::server::error::ApiError;

/// Every route and model.
pub async fn list(State(app): State<App>) -> Json<Value> {
    let live = app.live.load();
    let routes = live.config.routes.iter().map(route);
    let arms = live
        .config
        .models
        .iter()
        .chain(&live.config.embedding_models)
        .filter_map(|model| live.arm(&model.arm.id));
    let data: Vec<Value> = routes.chain(arms.map(|served| arm(&live, served))).collect();
    Json(json!({"object": "list", "data": data}))
}

/// One of them.
pub async fn get(State(app): State<App>, Path(id): Path<String>) -> Result<Json<Value>, ApiError> {
    let live = app.live.load();
    match live.resolve(&id) {
        Some(Target::Route(named)) => Ok(Json(route(named))),
        Some(Target::Arm(served)) => Ok(Json(arm(&live, served))),
        None => Err(unknown(&live, &id)),
    }
}

/// The error for a model that is not served here: it says what is.
#[must_use]
pub fn unknown(live: &Live, model: &str) -> ApiError {
    let routes: Vec<&str> = live
        .config
        .routes
        .iter()
        .map(|route| route.name.as_str())
        .collect();
    let mut error = ApiError::new(
        FailureKind::NotFound,
        format!(
            "The model `{model}` is not served here. Routes: {}. `GET /v1/models` lists every model.",
            routes.join(", ")
        ),
    );
    error.param = Some("model".into());
    error
}

fn route(route: &Route) -> Value {
    json!({
        "id": route.name,
        "object": "model",
        "created": 0,
        "owned_by": "pointsman",
        "route": {"models": route.models, "fallbacks": route.fallbacks},
    })
}

fn arm(live: &Live, served: &Served) -> Value {
    let arm = &served.arm;
    let tariff = live.config.prices.at(&arm.id, clock::wall());
    let pricing = tariff.map(|tariff| {
        let rates = tariff.price().rates(0);
        let factor = tariff.multiplier().factor();
        json!({
            "input_per_mtok": rates.input.dollars() * factor,
            "cached_input_per_mtok": rates.cached_input.dollars() * factor,
            "output_per_mtok": rates.output.dollars() * factor,
        })
    });
    json!({
        "id": arm.id,
        "object": "model",
        "created": 0,
        "owned_by": arm.id.provider(),
        "context_window": arm.context_window,
        "max_output_tokens": arm.max_output_tokens,
        "modalities": arm.modalities,
        "embeddings": served.purpose == Purpose::Embedding,
        "tools": arm.tools,
        "structured_output": arm.structured_output,
        "pricing": pricing,
    })
}
