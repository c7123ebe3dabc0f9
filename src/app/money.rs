//! Budgets at work: what they say before a decision, what is set aside for it, the pace they give each route, and
//! their accounts in the database.

use std::sync::Weak;
use std::time::Duration;

use crate::app::prepare::{Prepared, Wishes};
use crate::app::{App, Parts, policies, prices};
use crate::clock;
use crate::failure::FailureKind;
use crate::pricing::budget::{AccountState, Budgets, Exhausted, Parties, Standing};
use crate::request::ChatRequest;
use crate::server::error::ApiError;
use crate::store::{DocRow, Reader, StoreError};
use crate::units::{UnixMs, Usd};

/// Where the accounts are kept.
const KIND: &str = "budgets";
const NAME: &str = "accounts";
/// Time between two saves of the accounts: what a crash may forget.
const SAVE_EVERY: Duration = Duration::from_secs(2);
/// Saves between two looks at the pace.
const PACE_EVERY: u32 = 15;
/// Change of a route's dollars per request below which its pace is left alone.
const PACE_STEP: f64 = 0.02;

/// The accounts as they were saved, under these rules.
///
/// # Errors
/// When the database cannot be read.
pub fn restore(budgets: &Budgets, reader: &Reader) -> Result<(), StoreError> {
    if let Some(row) = reader.doc(KIND, NAME)? {
        match serde_json::from_str::<Vec<AccountState>>(&row.json) {
            Ok(states) => budgets.restore(states),
            Err(error) => tracing::error!(%error, "the budgets' accounts are damaged and start at zero"),
        }
    }
    Ok(())
}

/// What the budgets say of a request.
///
/// # Errors
/// 402 when one that refuses has nothing left.
pub fn standing(
    app: &App,
    request: &ChatRequest,
    wishes: &Wishes,
    route: &str,
    now: UnixMs,
) -> Result<Standing, ApiError> {
    app.budgets
        .standing(now, &parties(request, wishes, route))
        .map_err(|spent| refusal(&spent))
}

/// Sets aside what the decision is expected to cost. The rest goes back when the request's account is closed.
///
/// # Errors
/// 402 when a budget that refuses has less than that left.
pub fn reserve(
    app: &App,
    prepared: &Prepared,
    request: &ChatRequest,
    wishes: &Wishes,
) -> Result<(), ApiError> {
    let parties = parties(request, wishes, &prepared.decided.route);
    let hold = app
        .budgets
        .reserve(prepared.decided.at, &parties, prepared.decided.expected().cost)
        .map_err(|spent| refusal(&spent))?;
    prepared.account.ledger().hold(hold);
    Ok(())
}

/// The refusal of a budget that has less left than `cheapest`, the least that the request could cost.
#[must_use]
pub fn too_little(
    app: &App,
    request: &ChatRequest,
    wishes: &Wishes,
    route: &str,
    cheapest: Usd,
) -> Option<ApiError> {
    let hold = app
        .budgets
        .reserve(clock::wall(), &parties(request, wishes, route), cheapest);
    hold.err().map(|spent| refusal(&spent))
}

fn parties<'a>(request: &'a ChatRequest, wishes: &'a Wishes, route: &'a str) -> Parties<'a> {
    Parties {
        route,
        key: &wishes.client.0,
        user: request.user.as_deref(),
        tags: &request.metadata,
    }
}

fn refusal(spent: &Exhausted) -> ApiError {
    let wait = spent.renews.since(clock::wall());
    let mut error = ApiError::new(
        FailureKind::BudgetExceeded,
        format!(
            "The budget \"{}\" of ${} has ${} left, which is not enough. It renews in {} s.",
            spent.budget,
            spent.limit,
            spent.left,
            wait.as_secs()
        ),
    )
    .with("budget", serde_json::to_value(spent).unwrap_or_default());
    error.retry_after = Some(wait);
    error
}

/// Gives each route with a budget the dollars per request that make the money last.
pub fn pace(app: &App, paces: &mut std::collections::HashMap<String, f64>) {
    let live = app.live.load_full();
    let now = clock::wall();
    for route in live.config.routes.iter().filter(|route| route.budget.is_some()) {
        let parties = Parties {
            route: &route.name,
            ..Parties::default()
        };
        let target = app
            .budgets
            .standing(now, &parties)
            .ok()
            .and_then(|standing| standing.target);
        let Some(target) = target
            .map(|target| target.dollars())
            .filter(|&target| target > 0.0)
        else {
            continue;
        };
        let known = paces.get(&route.name).copied().unwrap_or(0.0);
        if (target / known - 1.0).abs() < PACE_STEP {
            continue;
        }
        paces.insert(route.name.clone(), target);
        let mut settings = policies::settings(&live.config, route, now);
        settings.budget_usd = Some(target);
        let name = route.name.clone();
        app.learner
            .change(move |learner| learner.ensure_route(&name, settings));
    }
}

/// Saves the accounts and keeps the pace, for as long as the program runs.
pub async fn keep(app: Weak<Parts>) {
    let mut paces = std::collections::HashMap::new();
    let mut hash = String::new();
    let mut saved = String::new();
    for tick in 0u32.. {
        let Some(app) = app.upgrade() else { return };
        let current = app.live.load().config.hash.clone();
        if current != hash {
            // Another configuration: the learner was told its routes without a pace.
            hash = current;
            paces.clear();
            pace(&app, &mut paces);
        } else if tick.is_multiple_of(PACE_EVERY) {
            pace(&app, &mut paces);
        }
        prices::follow(&app);
        save(&app, &mut saved).await;
        drop(app);
        tokio::time::sleep(SAVE_EVERY).await;
    }
}

async fn save(app: &App, saved: &mut String) {
    let states = app.budgets.snapshot();
    let json = serde_json::to_string(&states).unwrap_or_default();
    if states.is_empty() || json == *saved {
        return;
    }
    let row = DocRow {
        kind: KIND.into(),
        name: NAME.into(),
        at: clock::wall(),
        json: json.clone(),
    };
    match app.store.put_doc(row).await {
        Ok(()) => *saved = json,
        Err(error) => tracing::warn!(%error, "the budgets' accounts were not saved"),
    }
}

/// Saves the accounts once more, at the end.
pub async fn save_last(app: &App) {
    save(app, &mut String::new()).await;
}
