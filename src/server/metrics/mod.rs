//! `GET /metrics` in Prometheus' text format.
//!
//! Counters grow from the start of the process. Money is in whole nano-dollars, which a scraper's floating point
//! holds exactly up to nine million dollars, so that sums here equal the log and the answers. No label is a client's
//! word: budgets of single users and tags are added up.

mod budgets;
mod calls;
mod exposition;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, header};

use crate::app::App;
use crate::cache::CacheFigures;
use crate::clock;
use crate::server::metrics::exposition::{Exposition, Millis};
use crate::telemetry::circuit::CircuitState;

/// What the format calls itself.
const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The label of a request's path: one of ours, or `other`.
#[must_use]
pub fn path(path: &str) -> &'static str {
    const KNOWN: [&str; 14] = [
        "/v1/chat/completions",
        "/v1/messages",
        "/v1/responses",
        "/v1/embeddings",
        "/v1/feedback",
        "/v1/route",
        "/v1/models",
        "/v1/telemetry",
        "/v1/budgets",
        "/v1/prices",
        "/v1/experiments",
        "/health",
        "/ready",
        "/metrics",
    ];
    KNOWN.into_iter().find(|known| *known == path).unwrap_or("other")
}

/// Everything that is counted.
pub async fn get(State(app): State<App>) -> Response {
    let mut text = Exposition::default();
    process(&app, &mut text);
    requests(&app, &mut text);
    calls::attempts(&app, &mut text);
    calls::latencies(&app, &mut text);
    calls::prompt_caches(&app, &mut text);
    caches(&app, &mut text);
    looks(&app, &mut text);
    circuits(&app, &mut text);
    budgets::budgets(&app, &mut text);
    queues(&app, &mut text);
    let mut response = text.finish().into_response();
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
    response
}

fn process(app: &App, text: &mut Exposition) {
    let mut family = text.gauge("pointsman_build_info", "The version that runs; always 1.");
    family.sample(&[("version", env!("CARGO_PKG_VERSION"))], 1);
    let mut family = text.gauge("pointsman_start_time_seconds", "When it was started, Unix time.");
    family.sample(&[], Millis(app.started.0));
}

fn requests(app: &App, text: &mut Exposition) {
    let mut family = text.counter(
        "pointsman_http_requests_total",
        "Requests answered, by path and HTTP status. A stream counts when it begins.",
    );
    for ((path, status), count) in app.counters.answers() {
        family.sample(&[("path", path), ("status", &status.to_string())], count);
    }
    let mut family = text.gauge(
        "pointsman_requests_in_flight",
        "Requests being answered, streams that still flow among them.",
    );
    family.sample(&[], app.dispatcher.in_flight());
    let mut family = text.histogram(
        "pointsman_overhead_seconds",
        "Time of a request spent here rather than at a provider.",
    );
    family.buckets(&[], &app.counters.overheads());
    let mut family = text.gauge("pointsman_hedge_stock", "Hedges that may be sent now.");
    family.sample(&[], app.dispatcher.hedge_stock());
}

fn caches(app: &App, text: &mut Exposition) {
    let live = app.live.load();
    let caches = live.caches.figures();
    type Figure = fn(&CacheFigures) -> u64;
    let asked: [(&str, Figure); 6] = [
        ("exact", |cache| cache.hits.saturating_sub(cache.alike)),
        ("semantic", |cache| cache.alike),
        ("joined", |cache| cache.joined),
        ("miss", |cache| cache.misses),
        ("refresh", |cache| cache.refreshes),
        ("bypass", |cache| cache.bypassed),
    ];
    let mut family = text.counter("pointsman_cache_requests_total", "Requests of routes that keep answers, by what the cache had: an equal one's answer, one to a question that \
         means the same, one that was just coming, none.");
    for (route, cache) in &caches {
        for (result, figure) in asked {
            family.sample(&[("route", route), ("result", result)], figure(cache));
        }
    }
    let made: [(&str, Figure); 3] = [
        ("kept", |cache| cache.kept),
        ("not_kept", |cache| cache.not_kept),
        ("evicted", |cache| cache.evicted),
    ];
    let mut family = text.counter(
        "pointsman_cache_answers_total",
        "Answers by what became of them: kept, not fit to be kept, dropped for a bad score.",
    );
    for (route, cache) in &caches {
        for (fate, figure) in made {
            family.sample(&[("route", route), ("fate", fate)], figure(cache));
        }
    }
    let mut family = text.counter(
        "pointsman_cache_saved_nanodollars_total",
        "What answers given again had cost the first time, in 1e-9 US dollars.",
    );
    for (route, cache) in &caches {
        family.sample(&[("route", route)], cache.saved_usd.nanos());
    }
    let sizes: [(&str, &str, Figure); 2] = [
        ("pointsman_cache_entries", "Answers kept now.", |cache| {
            cache.entries
        }),
        (
            "pointsman_cache_bytes",
            "About the bytes that they take.",
            |cache| cache.bytes,
        ),
    ];
    for (name, help, figure) in sizes {
        let mut family = text.gauge(name, help);
        for (route, cache) in &caches {
            family.sample(&[("route", route)], figure(cache));
        }
    }
}

fn looks(app: &App, text: &mut Exposition) {
    let mut family = text.histogram(
        "pointsman_look_seconds",
        "Time spent finding out what a request holds.",
    );
    family.buckets(&[], &app.counters.look_times());
    let looks = app.counters.looks();
    let mut family = text.counter(
        "pointsman_saved_nanodollars_total",
        "Expected cost of the dearest model that could have served, less that of the one drawn.",
    );
    for (route, counts) in &looks {
        family.sample(&[("route", route)], counts.saved().nanos());
    }
    let mut family = text.counter(
        "pointsman_unable_total",
        "Models left out because they could not have taken the request.",
    );
    for (route, counts) in &looks {
        family.sample(&[("route", route)], counts.unable());
    }
}

fn circuits(app: &App, text: &mut Exposition) {
    const STATES: [(CircuitState, &str); 4] = [
        (CircuitState::Closed, "closed"),
        (CircuitState::Open, "open"),
        (CircuitState::HalfOpen, "half_open"),
        (CircuitState::Recovering, "recovering"),
    ];
    let rows = app.dispatcher.health(clock::monotonic());
    let mut family = text.gauge(
        "pointsman_circuit_state",
        "1 for the state that the circuit of a model at a deployment is in.",
    );
    for row in &rows {
        for (state, word) in STATES {
            let labels = [
                ("deployment", &*row.deployment),
                ("model", row.model.as_str()),
                ("state", word),
            ];
            family.sample(&labels, u8::from(row.state == state));
        }
    }
    let mut family = text.gauge(
        "pointsman_attempts_in_flight",
        "Calls to a provider that are running.",
    );
    for row in &rows {
        let labels = [("deployment", &*row.deployment), ("model", row.model.as_str())];
        family.sample(&labels, row.in_flight);
    }
}

fn queues(app: &App, text: &mut Exposition) {
    let log = app.store.stats();
    let mut family = text.gauge("pointsman_log_queued", "Log entries that wait to be written.");
    family.sample(&[], log.queued);
    let mut family = text.counter(
        "pointsman_log_entries_total",
        "Log entries by what became of them.",
    );
    for (fate, count) in [
        ("written", log.written),
        ("rejected", log.rejected),
        ("dropped", log.dropped_decisions + log.dropped_others),
    ] {
        family.sample(&[("fate", fate)], count);
    }
    let mut family = text.counter("pointsman_log_transactions_total", "Transactions of the log.");
    family.sample(&[("result", "committed")], log.commits);
    family.sample(&[("result", "failed")], log.failures);
    let learner = app.learner.status();
    let mut family = text.counter(
        "pointsman_learned_total",
        "What was learned from since the start.",
    );
    for (kind, count) in [
        ("scores", learner.scores),
        ("attempts", learner.attempts),
        ("drift_alarms", learner.drift_alarms),
    ] {
        family.sample(&[("kind", kind)], count);
    }
    if let Some(counts) = app.features.load().embedding_counts() {
        let mut family = text.counter(
            "pointsman_embeddings_total",
            "Prompts by what became of their embedding.",
        );
        for (fate, count) in [
            ("cached", counts.cached),
            ("in_time", counts.in_time),
            ("late", counts.late),
            ("dropped", counts.dropped),
            ("spared", counts.spared),
            ("failed", counts.failed),
        ] {
            family.sample(&[("fate", fate)], count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_paths_make_no_label_of_their_own() {
        assert_eq!(path("/v1/route"), "/v1/route");
        assert_eq!(path("/v1/models/some/name"), "other");
        assert_eq!(path("/secret?key=1"), "other");
    }
}
