//! `/v1/prices`: what models cost now, and the admin's call that changes it.

use axum::Json;
use axum::extract::{Path, State};
use http::HeaderMap;
use serde_json::{Value, json};

use crate::app::App;
use crate::app::prices::{self, Changed, SetError};
use crate::arm::ArmId;
use crate::clock;
use crate::config::PriceSource;
use crate::failure::FailureKind;
use crate::server::auth::Client;
use crate::server::body::RawBody;
use crate::server::error::ApiError;

/// Every model with the price that holds now and where it is from.
pub async fn list(State(app): State<App>) -> Json<Value> {
    let live = app.live.load_full();
    let now = clock::wall();
    let rows: Vec<Value> = live
        .config
        .models
        .iter()
        .map(|model| {
            let id = &model.arm.id;
            let source = match model.price_source {
                _ if app.prices.is_set(id) => "set",
                PriceSource::Configured => "configuration",
                PriceSource::Catalogue => "catalogue",
                PriceSource::Unknown => "unknown",
            };
            let tariff = live.config.prices.at(id, now);
            json!({
                "model": id.as_str(),
                "source": source,
                "price": live.config.prices.price(id, now),
                "multiplier_now": tariff.map(|tariff| tariff.multiplier()),
            })
        })
        .collect();
    Json(json!({"prices": rows}))
}

/// Sets a price: `{"model": "provider/model", "price": {...}}` or dated `"prices": [{...}]`, with the configuration's
/// keys.
pub async fn post(
    State(app): State<App>,
    headers: HeaderMap,
    RawBody(body): RawBody,
) -> Result<Json<Value>, ApiError> {
    let admin = admin(&app, &headers)?;
    let mut json: Value = serde_json::from_slice(&body)
        .map_err(|error| ApiError::invalid(format!("The body is not valid JSON: {error}."), None))?;
    let model = json
        .as_object_mut()
        .and_then(|fields| fields.shift_remove("model"));
    let Some(Value::String(model)) = model else {
        return Err(ApiError::invalid(
            "`model` is missing: whose price it is, as provider/model.",
            Some("model"),
        ));
    };
    let arm = ArmId::new(&model);
    let changed = prices::set(&app, &arm, &json, &admin.0).await.map_err(refusal)?;
    Ok(Json(told(&arm, &changed)))
}

/// Takes a price that was set back.
pub async fn delete(
    State(app): State<App>,
    headers: HeaderMap,
    Path(model): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let admin = admin(&app, &headers)?;
    let arm = ArmId::new(&model);
    let changed = prices::clear(&app, &arm, &admin.0).await.map_err(refusal)?;
    Ok(Json(told(&arm, &changed)))
}

fn told(arm: &ArmId, changed: &Changed) -> Value {
    json!({"model": arm.as_str(), "before": changed.before, "after": changed.after})
}

/// Who may change prices: an admin's key. Without any, everyone while there are no clients' keys, for then only this
/// machine can be listened on; a client's key is never enough.
fn admin(app: &App, headers: &HeaderMap) -> Result<Client, ApiError> {
    let live = app.live.load();
    if live.admins.is_open() && !live.keys.is_open() {
        return Err(ApiError::new(
            FailureKind::PermissionDenied,
            "Prices can be changed with an admin's key only. Name its variable in server.admin_keys_env.",
        ));
    }
    live.admins.authenticate(headers)
}

fn refusal(error: SetError) -> ApiError {
    match error {
        SetError::Price(problems) => {
            let param = problems
                .0
                .first()
                .map(|problem| problem.path.clone())
                .unwrap_or_default();
            let problems = problems.to_string().replace('\n', "; ");
            ApiError::invalid(format!("The price was refused: {problems}."), Some(&param))
        }
        SetError::Unknown(_) => ApiError::new(FailureKind::NotFound, format!("{error}.")),
        SetError::Store(error) => {
            tracing::error!(%error, "a price could not be kept");
            ApiError::internal()
        }
    }
}
