//! `GET /metrics` in Prometheus' text format.
//!
//! Counters grow from the start of the process. Money is in whole nano-dollars, which a scraper's floating point
//! holds exactly up to nine million dollars, so that sums here equal the log and the answers. No label is a client's
//! word: budgets of single users and tags are added up.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, header};

use crate::app::App;
use crate::cache::CacheFigures;
use crate::clock;
use crate::dispatch::Role;
use crate::pricing::budget::{BudgetRow, Scope};
use crate::telemetry::circuit::CircuitState;
use crate::telemetry::counters::{Buckets, OUTCOMES, TOKEN_CLASSES, outcome_word};
use crate::units::Usd;

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
    attempts(&app, &mut text);
    latencies(&app, &mut text);
    prompt_caches(&app, &mut text);
    caches(&app, &mut text);
    looks(&app, &mut text);
    circuits(&app, &mut text);
    budgets(&app, &mut text);
    queues(&app, &mut text);
    let mut response = text.0.into_response();
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
    response
}

fn process(app: &App, text: &mut Exposition) {
    text.family(
        "pointsman_build_info",
        "gauge",
        "The version that runs; always 1.",
    );
    text.sample(
        "pointsman_build_info",
        &[("version", env!("CARGO_PKG_VERSION"))],
        1,
    );
    text.family(
        "pointsman_start_time_seconds",
        "gauge",
        "When it was started, Unix time.",
    );
    text.sample("pointsman_start_time_seconds", &[], Millis(app.started.0));
}

fn requests(app: &App, text: &mut Exposition) {
    let name = "pointsman_http_requests_total";
    text.family(
        name,
        "counter",
        "Requests answered, by path and HTTP status. A stream counts when it begins.",
    );
    for ((path, status), count) in app.counters.answers() {
        text.sample(name, &[("path", path), ("status", &status.to_string())], count);
    }
    let name = "pointsman_requests_in_flight";
    text.family(
        name,
        "gauge",
        "Requests being answered, streams that still flow among them.",
    );
    text.sample(name, &[], app.dispatcher.in_flight());
    let name = "pointsman_overhead_seconds";
    text.family(
        name,
        "histogram",
        "Time of a request spent here rather than at a provider.",
    );
    text.histogram(name, &[], &app.counters.overheads());
    let name = "pointsman_hedge_stock";
    text.family(name, "gauge", "Hedges that may be sent now.");
    text.sample(name, &[], app.dispatcher.hedge_stock());
}

fn attempts(app: &App, text: &mut Exposition) {
    let arms = app.counters.arms();
    let name = "pointsman_attempts_total";
    text.family(
        name,
        "counter",
        "Calls to providers that are over, by role and outcome.",
    );
    for ((provider, model), counts) in &arms {
        for role in [Role::Primary, Role::Retry, Role::Fallback, Role::Hedge] {
            for outcome in 0..OUTCOMES {
                let count = counts.attempts(role as usize, outcome);
                // What has never happened has no line: 76 for each model would be mostly zeros.
                if count > 0 {
                    let labels = [
                        ("provider", &**provider),
                        ("model", model.as_str()),
                        ("role", role.as_str()),
                        ("outcome", outcome_word(outcome)),
                    ];
                    text.sample(name, &labels, count);
                }
            }
        }
    }
    let name = "pointsman_tokens_total";
    text.family(
        name,
        "counter",
        "Tokens used, by class. The classes do not overlap.",
    );
    for ((provider, model), counts) in &arms {
        for (class, tokens) in TOKEN_CLASSES.into_iter().zip(counts.tokens()) {
            let labels = [
                ("provider", &**provider),
                ("model", model.as_str()),
                ("class", class),
            ];
            text.sample(name, &labels, tokens);
        }
    }
    let name = "pointsman_cost_nanodollars_total";
    text.family(
        name,
        "counter",
        "What the calls cost, in 1e-9 US dollars, lost hedges and hang-ups included.",
    );
    for ((provider, model), counts) in &arms {
        let labels = [("provider", &**provider), ("model", model.as_str())];
        text.sample(name, &labels, counts.cost().nanos());
    }
    let name = "pointsman_attempts_unpriced_total";
    text.family(
        name,
        "counter",
        "Calls whose cost is not in the sum, because the model's price is unknown.",
    );
    for ((provider, model), counts) in &arms {
        let labels = [("provider", &**provider), ("model", model.as_str())];
        text.sample(name, &labels, counts.unpriced());
    }
    let name = "pointsman_attempts_estimated_total";
    text.family(
        name,
        "counter",
        "Calls whose provider told no usage, so that tokens and cost are estimates.",
    );
    for ((provider, model), counts) in &arms {
        let labels = [("provider", &**provider), ("model", model.as_str())];
        text.sample(name, &labels, counts.estimated());
    }
}

fn prompt_caches(app: &App, text: &mut Exposition) {
    let arms = app.counters.arms();
    let name = "pointsman_prompt_cache_saved_nanodollars_total";
    text.family(
        name,
        "counter",
        "What input read from providers' prompt caches cost less than plain input, in 1e-9 US dollars.",
    );
    for ((provider, model), counts) in &arms {
        let labels = [("provider", &**provider), ("model", model.as_str())];
        text.sample(name, &labels, counts.prompt_cache().saved.nanos());
    }
    let name = "pointsman_prompt_cache_paid_nanodollars_total";
    text.family(
        name,
        "counter",
        "What input written to providers' prompt caches cost more than plain input, in 1e-9 US dollars.",
    );
    for ((provider, model), counts) in &arms {
        let labels = [("provider", &**provider), ("model", model.as_str())];
        text.sample(name, &labels, counts.prompt_cache().paid.nanos());
    }
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
    let name = "pointsman_cache_requests_total";
    text.family(
        name,
        "counter",
        "Requests of routes that keep answers, by what the cache had: an equal one's answer, one to a question that \
         means the same, one that was just coming, none.",
    );
    for (route, cache) in &caches {
        for (result, figure) in asked {
            text.sample(name, &[("route", route), ("result", result)], figure(cache));
        }
    }
    let made: [(&str, Figure); 3] = [
        ("kept", |cache| cache.kept),
        ("not_kept", |cache| cache.not_kept),
        ("evicted", |cache| cache.evicted),
    ];
    let name = "pointsman_cache_answers_total";
    text.family(
        name,
        "counter",
        "Answers by what became of them: kept, not fit to be kept, dropped for a bad score.",
    );
    for (route, cache) in &caches {
        for (fate, figure) in made {
            text.sample(name, &[("route", route), ("fate", fate)], figure(cache));
        }
    }
    let name = "pointsman_cache_saved_nanodollars_total";
    text.family(
        name,
        "counter",
        "What answers given again had cost the first time, in 1e-9 US dollars.",
    );
    for (route, cache) in &caches {
        text.sample(name, &[("route", route)], cache.saved_usd.nanos());
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
        text.family(name, "gauge", help);
        for (route, cache) in &caches {
            text.sample(name, &[("route", route)], figure(cache));
        }
    }
}

fn latencies(app: &App, text: &mut Exposition) {
    let arms = app.counters.arms();
    let name = "pointsman_ttft_seconds";
    text.family(name, "histogram", "Time to the first token of streamed answers.");
    for ((provider, model), counts) in &arms {
        let labels = [("provider", &**provider), ("model", model.as_str())];
        text.histogram(name, &labels, &counts.ttft.read());
    }
    let name = "pointsman_answer_seconds";
    text.family(name, "histogram", "Time to the end of answers that came.");
    for ((provider, model), counts) in &arms {
        let labels = [("provider", &**provider), ("model", model.as_str())];
        text.histogram(name, &labels, &counts.total.read());
    }
}

fn looks(app: &App, text: &mut Exposition) {
    let name = "pointsman_look_seconds";
    text.family(name, "histogram", "Time spent finding out what a request holds.");
    text.histogram(name, &[], &app.counters.look_times());
    let looks = app.counters.looks();
    let name = "pointsman_saved_nanodollars_total";
    text.family(
        name,
        "counter",
        "Expected cost of the dearest model that could have served, less that of the one drawn.",
    );
    for (route, counts) in &looks {
        text.sample(name, &[("route", route)], counts.saved().nanos());
    }
    let name = "pointsman_unable_total";
    text.family(
        name,
        "counter",
        "Models left out because they could not have taken the request.",
    );
    for (route, counts) in &looks {
        text.sample(name, &[("route", route)], counts.unable());
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
    let name = "pointsman_circuit_state";
    text.family(
        name,
        "gauge",
        "1 for the state that the circuit of a model at a deployment is in.",
    );
    for row in &rows {
        for (state, word) in STATES {
            let labels = [
                ("deployment", &*row.deployment),
                ("model", row.model.as_str()),
                ("state", word),
            ];
            text.sample(name, &labels, u8::from(row.state == state));
        }
    }
    let name = "pointsman_attempts_in_flight";
    text.family(name, "gauge", "Calls to a provider that are running.");
    for row in &rows {
        let labels = [("deployment", &*row.deployment), ("model", row.model.as_str())];
        text.sample(name, &labels, row.in_flight);
    }
}

/// A budget's accounts added up, or its only one.
#[derive(Default)]
struct Sums {
    accounts: u64,
    limit: Usd,
    spent: Usd,
    reserved: Usd,
    left: Usd,
    renews_ms: i64,
}

impl Sums {
    fn add(&mut self, row: &BudgetRow) {
        self.accounts += 1;
        self.limit += row.limit_usd;
        self.spent += row.spent_usd;
        self.reserved += row.reserved_usd;
        self.left += row.left_usd;
        self.renews_ms = self.renews_ms.max(row.renews_ms.0);
    }
}

fn budgets(app: &App, text: &mut Exposition) {
    let mut sums: BTreeMap<(String, String), Sums> = BTreeMap::new();
    for row in app.budgets.rows(clock::wall()) {
        // Users and tags are clients' words, and there may be very many.
        let subject = match row.scope {
            Scope::User | Scope::Tag(_) => String::new(),
            Scope::All | Scope::Route | Scope::Key => row.subject.clone(),
        };
        sums.entry((row.name.clone(), subject)).or_default().add(&row);
    }
    type Figure = fn(&Sums) -> i64;
    let figures: [(&str, &str, Figure); 5] = [
        (
            "pointsman_budget_limit_nanodollars",
            "What may be spent in a period.",
            |sums| sums.limit.nanos(),
        ),
        (
            "pointsman_budget_spent_nanodollars",
            "What was spent in this period.",
            |sums| sums.spent.nanos(),
        ),
        (
            "pointsman_budget_reserved_nanodollars",
            "What requests under way may still spend.",
            |sums| sums.reserved.nanos(),
        ),
        (
            "pointsman_budget_left_nanodollars",
            "What is left of it.",
            |sums| sums.left.nanos(),
        ),
        (
            "pointsman_budget_accounts",
            "Accounts: one, or one for each user or tag.",
            |sums| i64::try_from(sums.accounts).unwrap_or(i64::MAX),
        ),
    ];
    for (name, help, figure) in figures {
        text.family(name, "gauge", help);
        for ((budget, subject), sums) in &sums {
            text.sample(name, &[("budget", budget), ("subject", subject)], figure(sums));
        }
    }
    let name = "pointsman_budget_renews_time_seconds";
    text.family(name, "gauge", "When the period ends, Unix time.");
    for ((budget, subject), sums) in &sums {
        text.sample(
            name,
            &[("budget", budget), ("subject", subject)],
            Millis(sums.renews_ms),
        );
    }
}

fn queues(app: &App, text: &mut Exposition) {
    let log = app.store.stats();
    text.family(
        "pointsman_log_queued",
        "gauge",
        "Log entries that wait to be written.",
    );
    text.sample("pointsman_log_queued", &[], log.queued);
    let name = "pointsman_log_entries_total";
    text.family(name, "counter", "Log entries by what became of them.");
    for (fate, count) in [
        ("written", log.written),
        ("rejected", log.rejected),
        ("dropped", log.dropped_decisions + log.dropped_others),
    ] {
        text.sample(name, &[("fate", fate)], count);
    }
    let name = "pointsman_log_transactions_total";
    text.family(name, "counter", "Transactions of the log.");
    text.sample(name, &[("result", "committed")], log.commits);
    text.sample(name, &[("result", "failed")], log.failures);
    let learner = app.learner.status();
    let name = "pointsman_learned_total";
    text.family(name, "counter", "What was learned from since the start.");
    for (kind, count) in [
        ("scores", learner.scores),
        ("attempts", learner.attempts),
        ("drift_alarms", learner.drift_alarms),
    ] {
        text.sample(name, &[("kind", kind)], count);
    }
    if let Some(counts) = app.features.load().embedding_counts() {
        let name = "pointsman_embeddings_total";
        text.family(name, "counter", "Prompts by what became of their embedding.");
        for (fate, count) in [
            ("cached", counts.cached),
            ("in_time", counts.in_time),
            ("late", counts.late),
            ("dropped", counts.dropped),
            ("failed", counts.failed),
        ] {
            text.sample(name, &[("fate", fate)], count);
        }
    }
}

/// Milliseconds, written as exact seconds.
struct Millis(i64);

impl std::fmt::Display for Millis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{:03}", self.0.div_euclid(1_000), self.0.rem_euclid(1_000))
    }
}

/// Microseconds, written as exact seconds.
struct Micros(u64);

impl std::fmt::Display for Micros {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}

/// The text as it grows.
#[derive(Default)]
struct Exposition(String);

impl Exposition {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        self.0.push_str(name);
        self.labels(labels);
        let _ = writeln!(self.0, " {value}");
    }

    fn labels(&mut self, labels: &[(&str, &str)]) {
        for (index, (name, value)) in labels.iter().enumerate() {
            self.0.push(if index == 0 { '{' } else { ',' });
            let _ = write!(self.0, "{name}=\"");
            for letter in value.chars() {
                match letter {
                    '\\' => self.0.push_str("\\\\"),
                    '"' => self.0.push_str("\\\""),
                    '\n' => self.0.push_str("\\n"),
                    other => self.0.push(other),
                }
            }
            self.0.push('"');
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
    }

    fn histogram(&mut self, name: &str, labels: &[(&str, &str)], buckets: &Buckets) {
        let bucket = format!("{name}_bucket");
        for &(bound, count) in &buckets.up_to {
            let bound = Micros(bound).to_string();
            let bound = bound.trim_end_matches('0').trim_end_matches('.');
            self.sample(&bucket, &[labels, &[("le", bound)]].concat(), count);
        }
        self.sample(&bucket, &[labels, &[("le", "+Inf")]].concat(), buckets.count);
        self.sample(&format!("{name}_sum"), labels, Micros(buckets.sum_us));
        self.sample(&format!("{name}_count"), labels, buckets.count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped_and_histograms_end_with_infinity() {
        let mut text = Exposition::default();
        text.sample("a", &[("b", "x\"y\\z\nw")], 1);
        let buckets = Buckets {
            up_to: vec![(50, 1), (1_000_000, 2), (20_000_000, 2)],
            count: 3,
            sum_us: 1_500_050,
        };
        text.histogram("h", &[("m", "p/q")], &buckets);
        let lines: Vec<&str> = text.0.lines().collect();
        assert_eq!(
            lines,
            [
                r#"a{b="x\"y\\z\nw"} 1"#,
                r#"h_bucket{m="p/q",le="0.00005"} 1"#,
                r#"h_bucket{m="p/q",le="1"} 2"#,
                r#"h_bucket{m="p/q",le="20"} 2"#,
                r#"h_bucket{m="p/q",le="+Inf"} 3"#,
                r#"h_sum{m="p/q"} 1.500050"#,
                r#"h_count{m="p/q"} 3"#,
            ]
        );
    }

    #[test]
    fn unknown_paths_make_no_label_of_their_own() {
        assert_eq!(path("/v1/route"), "/v1/route");
        assert_eq!(path("/v1/models/some/name"), "other");
        assert_eq!(path("/secret?key=1"), "other");
    }
}
