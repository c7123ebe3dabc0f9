//! Budgets at work: what they say before a decision, what is set aside for it, and their accounts in the database.

use std::sync::Weak;
use std::time::Duration;

use crate::app::desk::Detail;
use crate::app::prepare::{Prepared, Wishes};
use crate::app::{App, Parts, prices};
use crate::clock;
use crate::failure::FailureKind;
use crate::pricing::budget::{AccountState, Budgets, Entry, Exhausted, Parties, Standing};
use crate::request::ChatRequest;
use crate::server::error::ApiError;
use crate::store::{DocRow, Reader, StoreError};
use crate::units::{UnixMs, Usd};

/// Where the accounts are kept.
const KIND: &str = "budget-account";
/// Up to where the log is in all of them.
const MARK: &str = "budget-mark";
/// Entries of the log read at once.
const CHUNK: u32 = 1_000;
/// Saves between two looks for accounts that nobody uses.
const PRUNE_EVERY: u32 = 900;
/// Time between two saves of the accounts: what a crash leaves to be read from the log.
const SAVE_EVERY: Duration = Duration::from_secs(2);

/// The accounts as they were saved, under these rules, and what the log has beyond them: after a crash the calls since
/// the last save are booked again, each once.
///
/// # Errors
/// When the database cannot be read.
pub fn restore(budgets: &Budgets, reader: &Reader, now: UnixMs) -> Result<(), StoreError> {
    let mut states = Vec::new();
    for row in reader.docs(KIND)? {
        match serde_json::from_str::<AccountState>(&row.json) {
            Ok(state) => states.push(state),
            Err(error) => {
                tracing::error!(%error, "a budget's account is damaged and is made up from the log")
            }
        }
    }
    budgets.restore(states);
    let mark = reader.doc(MARK, MARK)?;
    let mut seq = mark.and_then(|row| row.json.parse::<i64>().ok()).unwrap_or(0);
    let mut caught_up = 0u64;
    loop {
        let rows = reader.attempts_since(seq, CHUNK)?;
        let Some(last) = rows.last() else { break };
        seq = last.seq;
        for row in &rows {
            let (attempt, decision) = (&row.attempt, row.decision.as_ref());
            let detail = decision.and_then(|decision| decision.detail.as_deref());
            let detail = detail.and_then(|detail| serde_json::from_str::<Detail>(detail).ok());
            let (Some(detail), Some(cost)) = (detail, attempt.cost) else {
                continue;
            };
            let entry = Entry {
                seq: row.seq,
                decision: &attempt.decision,
                number: attempt.number,
                at: attempt.at,
                cost,
            };
            for (budget, subject) in &detail.budgets {
                budgets.catch_up(now, budget, subject, &entry);
                caught_up += 1;
            }
        }
    }
    if caught_up > 0 {
        tracing::info!(caught_up, "the budgets were compared with the end of the log");
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
    if prepared.call.is_under_way() {
        // It was begun because no budget counted it.
        return Ok(());
    }
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

/// Saves the accounts and follows the prices, for as long as the program runs.
pub async fn keep(app: Weak<Parts>) {
    for tick in 0u32.. {
        let Some(app) = app.upgrade() else { return };
        prices::follow(&app);
        save(&app).await;
        if tick.is_multiple_of(PRUNE_EVERY) {
            prune(&app).await;
        }
        drop(app);
        tokio::time::sleep(SAVE_EVERY).await;
    }
}

/// Stores what has changed: each account apart, then how far in the log all of them are.
async fn save(app: &App) {
    app.budgets.begin_save();
    if let Err(error) = app.store.flush().await {
        // Why the log is not written is told once, by the store.
        tracing::debug!(%error, "the budgets' accounts are not saved, because the log is not");
        return;
    }
    let log_seq = match app.store.reader().last_attempt() {
        Ok(seq) => seq,
        Err(error) => return tracing::warn!(%error, "the budgets' accounts are not saved"),
    };
    let states = app.budgets.changed(log_seq);
    if states.is_empty() {
        return;
    }
    let at = clock::wall();
    let doc = |kind: &str, name: String, json: String| DocRow {
        kind: kind.into(),
        name,
        at,
        json,
    };
    let accounts = states.iter().map(|state| {
        let name = account_name(&state.budget, &state.subject);
        doc(KIND, name, serde_json::to_string(state).unwrap_or_default())
    });
    let writes: Vec<_> = accounts.map(|row| app.store.put_doc(row)).collect();
    let mut kept = Ok(());
    for write in writes {
        kept = kept.and(write.await);
    }
    if kept.is_ok() {
        kept = app
            .store
            .put_doc(doc(MARK, MARK.into(), log_seq.to_string()))
            .await;
    }
    if let Err(error) = kept {
        app.budgets.not_saved(&states);
        tracing::warn!(%error, "the budgets' accounts were not saved");
    }
}

fn account_name(budget: &str, subject: &str) -> String {
    format!("{budget}\u{1f}{subject}")
}

/// Forgets accounts that nobody has used for long.
async fn prune(app: &App) {
    for (budget, subject) in app.budgets.prune(clock::wall()) {
        if let Err(error) = app.store.drop_doc(KIND, &account_name(&budget, &subject)).await {
            tracing::warn!(%error, "an account that nobody uses was not forgotten");
        }
    }
}

/// Saves the accounts once more, at the end.
pub async fn save_last(app: &App) {
    save(app).await;
}
