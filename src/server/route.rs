//! `POST /v1/route`: the decision alone. Nothing is called, nothing is logged.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use http::HeaderMap;
use serde_json::Value;

use crate::app::App;
use crate::app::prepare::{self, Wishes};
use crate::clock;
use crate::server::auth::Client;
use crate::server::body::RawBody;
use crate::server::error::ApiError;
use crate::server::{chat, explain};

/// Decides and explains.
pub async fn post(
    State(app): State<App>,
    client: Client,
    headers: HeaderMap,
    RawBody(body): RawBody,
) -> Result<Json<Value>, ApiError> {
    let request = Arc::new(chat::parse(body)?);
    let wishes = Wishes {
        outlook: true,
        ..Wishes::read(&request, &headers, client)?
    };
    let prepared = prepare::prepare(&app, &request, &wishes, clock::monotonic()).await?;
    let mut answer = explain::decision(&prepared.decided, &prepared.refused);
    let ranking: Vec<&str> = prepared.call.candidates().collect();
    answer["ranking"] = ranking.into();
    if let Some(outlook) = &prepared.outlook {
        outlook.explain(&prepared.look, &mut answer);
    }
    answer["experiment"] = prepared.experiment.as_deref().into();
    Ok(Json(answer))
}
