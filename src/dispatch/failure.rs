//! What a client is told when several attempts failed in different ways.

use std::sync::Arc;
use std::time::Duration;

use crate::dispatch::answer::DispatchFailure;
use crate::dispatch::plan::Plan;
use crate::failure::{AttemptError, FailureKind, FaultSource, Retry};

/// One attempt's failure and its provider.
type Told = (AttemptError, Arc<str>);

pub(super) fn out_of_time(provider: Option<Arc<str>>, allowed: Duration) -> DispatchFailure {
    let allowed_ms = allowed.as_micros().div_ceil(1000);
    let message = match &provider {
        Some(name) => format!("{name} did not answer within the request's {allowed_ms} ms"),
        None => format!("no provider answered within the request's {allowed_ms} ms"),
    };
    DispatchFailure {
        kind: FailureKind::Timeout,
        message,
        provider,
        retryable: true,
        retry_after: None,
        attempts: 0,
        tried: Vec::new(),
    }
}

/// Every deployment that was left had as many calls in flight as it may, until the time was up.
pub(super) fn crowded_out() -> DispatchFailure {
    DispatchFailure {
        kind: FailureKind::ProviderOverloaded,
        message: "every provider that is left had as many calls in flight as its max_in_flight allows"
            .to_owned(),
        provider: None,
        retryable: true,
        retry_after: None,
        attempts: 0,
        tried: Vec::new(),
    }
}

/// The failure that tells most about what to do next. One that every arm would repeat: that one. All bad requests: the primary's complaint, for the client can
/// mend that. All rate limits: the one that ends first. Otherwise the last one that was not the client's fault.
/// `wait`: the soonest end of the rests that providers asked for, if nothing else was left to try.
pub(super) fn nothing_left(failures: &[Told], wait: Option<Duration>, plan: &Plan) -> DispatchFailure {
    let limited = |(error, _): &&Told| error.kind == FailureKind::RateLimitExceeded;
    let hopeless = failures.iter().rfind(|(error, _)| error.retry == Retry::No);
    let chosen = if hopeless.is_some() {
        hopeless
    } else if failures.iter().all(|told| limited(&told)) {
        failures
            .iter()
            .min_by_key(|(error, _)| error.retry_after.unwrap_or(Duration::MAX))
    } else {
        failures
            .iter()
            .rfind(|(error, _)| error.fault != FaultSource::Client)
            .or(failures.first())
    };
    let Some((error, provider)) = chosen else {
        return nothing_tried(wait, plan);
    };
    let mut failure = DispatchFailure::told_by(error, Some(provider.clone()));
    if failure.retryable {
        failure.retry_after = [failure.retry_after, wait].into_iter().flatten().min();
    }
    failure
}

fn nothing_tried(wait: Option<Duration>, plan: &Plan) -> DispatchFailure {
    let (kind, message) = match (wait, plan.max_cost) {
        (Some(wait), _) => (
            FailureKind::RateLimitExceeded,
            format!(
                "every provider asked to be left alone for another {} ms",
                wait.as_millis()
            ),
        ),
        (None, Some(most)) if !plan.candidates.is_empty() => (
            FailureKind::BudgetExceeded,
            format!("every candidate is expected to cost more than the {most} USD allowed for this request"),
        ),
        _ => (
            FailureKind::NoCandidates,
            "no model can take this request".to_owned(),
        ),
    };
    DispatchFailure {
        kind,
        message,
        provider: None,
        retryable: wait.is_some(),
        retry_after: wait,
        attempts: 0,
        tried: Vec::new(),
    }
}
