//! The dashboard and what it asks for: `/`, `/v1/overview`, `/v1/experiments`, `/reports/{name}/{file}`.

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{Html, IntoResponse, Response};
use http::{StatusCode, header};
use serde::Deserialize;
use serde_json::Value;

use crate::app::App;
use crate::clock;
use crate::experiments::{Intervention, InterventionError};
use crate::failure::FailureKind;
use crate::pricing::budget::BudgetRow;
use crate::report::dashboard::{self, BudgetView, ExperimentList, Overview};
use crate::server::error::ApiError;
use crate::units::UnixMs;

/// The page. It holds no figures, so it needs no key; what it asks for does.
pub async fn page(State(app): State<App>) -> Html<&'static str> {
    Html(dashboard::page(!app.live.load().keys.is_open()))
}

/// Figures for the page.
pub async fn overview(State(app): State<App>) -> Json<Overview> {
    let data_dir = app.live.load().config.server.data_dir.clone();
    let reports = tokio::task::spawn_blocking(move || written(&data_dir.join("reports")))
        .await
        .unwrap_or_default();
    let now = clock::wall();
    let budgets = app.budgets.rows(now);
    let budgets = budgets.iter().map(|row| budget(row, now)).collect();
    let mut overview = app.desk.overview(now, budgets, reports);
    for (_, look) in app.counters.looks() {
        overview.look_saved_usd += look.saved();
        overview.left_out += look.unable();
    }
    Json(overview)
}

fn budget(row: &BudgetRow, now: UnixMs) -> BudgetView {
    let length = row.renews_ms.since(row.since_ms).as_secs_f64();
    let period = serde_json::to_value(row.period).ok();
    BudgetView {
        name: if row.subject.is_empty() || row.name.ends_with(&row.subject) {
            row.name.clone()
        } else {
            format!("{}: {}", row.name, row.subject)
        },
        period: period
            .as_ref()
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned(),
        limit_usd: row.limit_usd.dollars(),
        spent_usd: row.spent_usd.dollars(),
        elapsed: if length > 0.0 {
            (now.since(row.since_ms).as_secs_f64() / length).clamp(0.0, 1.0)
        } else {
            1.0
        },
    }
}

/// Names of the reports that there are.
fn written(dir: &std::path::Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter(|entry| entry.path().join("report.html").is_file())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

/// Every experiment.
pub async fn experiments(State(app): State<App>) -> Json<ExperimentList> {
    Json(app.desk.list())
}

/// One experiment.
pub async fn experiment(State(app): State<App>, Path(name): Path<String>) -> Result<Json<Value>, ApiError> {
    let list = app.desk.list();
    let found = list
        .experiments
        .into_iter()
        .find(|view| view.definition.name == name);
    let view = found.ok_or_else(|| unknown(&name))?;
    Ok(Json(serde_json::to_value(view).unwrap_or_default()))
}

fn unknown(name: &str) -> ApiError {
    ApiError::new(
        FailureKind::NotFound,
        format!("There is no experiment \"{name}\". GET /v1/experiments lists them."),
    )
}

/// Starts one: the keys of an `[[experiments]]` section, as JSON.
pub async fn start(
    State(app): State<App>,
    body: bytes::Bytes,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let asked: serde_json::Map<String, Value> = serde_json::from_slice(&body).map_err(|error| {
        let keys = "name, route, arms {control, treatment}, hypothesis, margin, ...";
        ApiError::invalid(
            format!("The body must be a JSON object with {keys}: {error}."),
            None,
        )
    })?;
    let text = toml::to_string(&asked).map_err(|error| ApiError::invalid(error.to_string(), None))?;
    let live = app.live.load_full();
    let experiment = live.config.experiment(&text).map_err(|problems| {
        let param = problems
            .0
            .first()
            .map(|problem| problem.path.clone())
            .filter(|path| !path.is_empty());
        ApiError::invalid(format!("{problems}."), param.as_deref())
    })?;
    app.desk
        .start(&experiment, clock::wall())
        .map_err(|error| ApiError::invalid(error.to_string(), None))?;
    keep(&app).await?;
    let view = self::experiment(State(app), Path(experiment.name.clone())).await;
    // One that waits for room in its layer has nothing to show yet.
    let body =
        view.unwrap_or_else(|_| Json(serde_json::json!({"name": experiment.name, "phase": "waiting"})));
    Ok((StatusCode::CREATED, body))
}

/// What may be asked of an experiment.
#[derive(Debug, Deserialize)]
pub struct Ask {
    #[serde(flatten)]
    intervention: Intervention,
    #[serde(default)]
    reason: String,
}

/// Ends, ships or takes back: `{"action": "stop" | "ship" | "undo", "arm": "...", "reason": "..."}`.
pub async fn intervene(
    State(app): State<App>,
    Path(name): Path<String>,
    body: bytes::Bytes,
) -> Result<Json<Value>, ApiError> {
    let ask: Ask = serde_json::from_slice(&body).map_err(|error| {
        ApiError::invalid(
            format!("The body must be {{\"action\": \"stop\" | \"ship\" | \"undo\", \"arm\", \"reason\"}}: {error}."),
            None,
        )
    })?;
    app.desk
        .intervene(&name, &ask.intervention, &ask.reason, clock::wall())
        .map_err(|error| match error {
            InterventionError::Unknown { .. } => unknown(&name),
            error => ApiError::invalid(error.to_string(), None),
        })?;
    keep(&app).await?;
    // What is ruled now may go by former features, which are read from the disk.
    let noticing = app.clone();
    drop(tokio::task::spawn_blocking(move || noticing.notice()).await);
    let view = experiment(State(app), Path(name.clone())).await;
    // One that waited for room has nothing to show.
    Ok(view.unwrap_or_else(|_| Json(serde_json::json!({"name": name, "phase": "stopped"}))))
}

/// What is acknowledged outlives a crash.
async fn keep(app: &App) -> Result<(), ApiError> {
    app.desk.keep().await.map_err(|error| {
        tracing::error!(%error, "an experiment's change is in force and could not be saved");
        ApiError::new(
            FailureKind::Server,
            "The change is in force but could not be saved: after a crash it would have to be made again. Is the disk full?",
        )
    })
}

/// A report's file.
pub async fn report(
    State(app): State<App>,
    Path((name, file)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    let kind = match file.as_str() {
        "report.html" => "text/html; charset=utf-8",
        "report.json" => "application/json",
        "report.md" => "text/markdown; charset=utf-8",
        _ => return Err(no_report(&name)),
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.starts_with('.') || !name.chars().all(plain) {
        return Err(no_report(&name));
    }
    let path = app
        .live
        .load()
        .config
        .server
        .data_dir
        .join("reports")
        .join(&name)
        .join(&file);
    let text = tokio::fs::read(path).await.map_err(|_| no_report(&name))?;
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}

fn no_report(name: &str) -> ApiError {
    ApiError::new(
        FailureKind::NotFound,
        format!("There is no report \"{name}\" yet."),
    )
}
