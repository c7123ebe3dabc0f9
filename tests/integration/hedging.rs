//! Hedges through the whole server: when one is sent, who wins, what the loser costs, and how many there may be.

use std::time::Duration;

use futures_util::future::join_all;
use pointsman::store::AttemptRow;
use serde_json::{Value, json};

use crate::dispatch::faults::bill;
use crate::served::{House, Seen, see};
use crate::upstream::{Fault, Upstream, Wire, full_answer};

const PATIENCE: Duration = Duration::from_secs(30);

struct Pair {
    primary: Upstream,
    fallback: Upstream,
    house: House,
}

impl Pair {
    /// `auto`: a primary that does `fault`, then a fallback that is well.
    async fn open(fault: Fault, route: &str) -> Self {
        let primary = Upstream::always("primary", Wire::OpenAi, fault).await;
        let fallback = Upstream::always("fallback", Wire::Anthropic, Fault::None).await;
        let named = [
            ("primary".to_owned(), &primary),
            ("fallback".to_owned(), &fallback),
        ];
        let more = format!(
            "[embedding]\nmodel = \"off\"\n[[routes]]\nname = \"auto\"\nmodels = [\"primary/m\"]\n\
             fallbacks = [\"fallback/m\"]\n{route}\n"
        );
        let house = House::with(&named, "", &more).await;
        Self {
            primary,
            fallback,
            house,
        }
    }

    async fn ask(&self, ask: &str, stream: bool) -> Seen {
        see(self
            .house
            .ask("auto", ask, stream, PATIENCE)
            .send()
            .await
            .unwrap())
        .await
    }

    /// The same with further members of the body.
    async fn ask_with(&self, extras: &Value) -> Seen {
        // Streamed: a whole answer is waited for as long as the model usually takes for one.
        let mut body = json!({"model": "auto", "stream": true,
                              "messages": [{"role": "user", "content": "please ask-1"}]});
        body.as_object_mut()
            .unwrap()
            .extend(extras.as_object().unwrap().clone());
        let url = format!("http://{}/v1/chat/completions", self.house.address);
        see(self
            .house
            .http
            .post(url)
            .body(body.to_string())
            .send()
            .await
            .unwrap())
        .await
    }

    /// The attempts of a request, once all are booked.
    async fn attempts(&self, seen: &Seen) -> Vec<AttemptRow> {
        self.house.app.dispatcher.idle().await;
        self.house.app.store.flush().await.unwrap();
        let id = seen.headers["x-router-decision-id"].to_str().unwrap();
        let joined = self.house.app.store.reader().joined(id).unwrap().unwrap();
        joined.attempts
    }

    /// The primary's series of streams, or of whole answers.
    async fn series(&self, stream: bool) -> Value {
        let telemetry = self.house.get("/v1/telemetry").await;
        let rows = telemetry["series"].as_array().unwrap();
        let row = rows
            .iter()
            .find(|row| row["model"] == "primary/m" && row["stream"] == stream);
        row.unwrap()["last_hour"].clone()
    }
}

/// The mission's case to the letter: the primary has not begun within two seconds, a duplicate goes to the fallback,
/// and the first to come is returned.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_silent_for_two_seconds_is_overtaken_by_the_fallback() {
    // Before its headers, and after headers and a first event that says nothing.
    for fault in [Fault::HangBeforeHeaders, Fault::SlowFirstToken(20_000)] {
        let pair = Pair::open(fault, "ttft_budget_ms = 2000").await;
        for stream in [false, true] {
            let seen = pair.ask("ask-1", stream).await;
            let context = format!("{fault:?} {seen:?}");
            assert_eq!(
                (seen.status, seen.model.as_str()),
                (200, "fallback/m"),
                "{context}"
            );
            assert_eq!(seen.text, full_answer("fallback", "ask-1"), "{context}");
            assert_eq!(seen.headers["x-router-hedged"], "true", "{context}");
            assert_eq!(seen.headers["x-router-fallback-from"], "primary/m", "{context}");
            let attempts = pair.attempts(&seen).await;
            let [lost, won] = attempts.as_slice() else {
                panic!("{attempts:#?}")
            };
            assert_eq!(
                (&*lost.role, &*lost.outcome, lost.served),
                ("primary", "lost_hedge", false)
            );
            assert_eq!(
                (&*won.role, &*won.outcome, won.served),
                ("hedge", "succeeded", true)
            );
            // Two seconds of silence, and no first token made up for it.
            assert!(lost.total_ms >= 2000.0 && lost.ttft_ms.is_none(), "{lost:?}");
            // The loser has read its prompt, which is paid, and is in what the client is told.
            let usage = lost.usage.unwrap();
            assert!(
                usage.estimated && usage.input > 0 && usage.output == 0,
                "{lost:?}"
            );
            let costs = [lost, won].map(|row| row.cost.unwrap().nanos());
            assert_eq!(costs[0], i64::try_from(usage.input).unwrap() * 1000);
            let told = seen.cost.unwrap();
            assert!(
                (told * 1e9 - costs.iter().sum::<i64>() as f64).abs() < 0.5,
                "{told} {costs:?}"
            );
            // At least two seconds is what is known of its latency; it has not failed.
            let series = pair.series(stream).await;
            let waited = if stream { &series["ttft"] } else { &series["total"] };
            assert_eq!(
                (&waited["samples"], &waited["censored"]),
                (&json!(0), &json!(1)),
                "{series}"
            );
            assert!(waited["longest_ms"].as_f64().unwrap() >= 1980.0, "{series}");
            assert_eq!(series["cancelled"]["lost_hedge"], 1, "{series}");
            assert_eq!(series["failed"], json!({}), "{series}");
        }
        let billed = bill(std::slice::from_ref(&pair.primary), 2).await;
        assert!(
            billed.iter().all(|dealt| dealt.hung_up),
            "the loser goes on: {billed:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_may_act_is_doubled_only_if_asked() {
    let pair = Pair::open(Fault::SlowFirstToken(900), "ttft_budget_ms = 100").await;
    let tools = json!([{"type": "function", "function": {"name": "pay", "parameters": {"type": "object"}}}]);
    let loop_of_tools = json!([
        {"role": "user", "content": "please ask-1"},
        {"role": "assistant", "content": null, "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "pay", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "call_1", "content": "paid"},
    ]);
    for (extras, hedged) in [
        (json!({}), true),
        (json!({"tools": tools.clone()}), false),
        (json!({"messages": loop_of_tools.clone()}), false),
        (json!({"tools": tools, "routing": {"hedge": true}}), true),
        (
            json!({"messages": loop_of_tools, "routing": {"hedge": true}}),
            true,
        ),
        (json!({"routing": {"hedge": false}}), false),
    ] {
        let calls = pair.fallback.requests();
        let seen = pair.ask_with(&extras).await;
        let expected = if hedged { "fallback/m" } else { "primary/m" };
        assert_eq!(
            (seen.status, seen.model.as_str()),
            (200, expected),
            "{extras} {seen:?}"
        );
        assert_eq!(pair.fallback.requests() - calls, usize::from(hedged), "{extras}");
    }
}

/// Five are in stock after a start, and each request brings a twentieth of another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hedges_stay_within_their_rate() {
    const REQUESTS: usize = 60;
    let pair = Pair::open(
        Fault::SlowFirstToken(900),
        "ttft_budget_ms = 100\nhedge = { enabled = true, max_rate = 0.05 }",
    )
    .await;
    let asks: Vec<String> = (0..REQUESTS).map(|number| format!("ask-{number}")).collect();
    let seen = join_all(asks.iter().map(|ask| pair.ask(ask, true))).await;
    for (seen, ask) in seen.iter().zip(&asks) {
        let server = seen.model.split('/').next().unwrap();
        assert_eq!(
            (seen.status, &seen.text),
            (200, &full_answer(server, ask)),
            "{seen:?}"
        );
    }
    let hedged = seen.iter().filter(|seen| seen.model == "fallback/m").count();
    assert!(
        (5..=8).contains(&hedged),
        "{hedged} hedges for {REQUESTS} requests"
    );
    assert_eq!(pair.fallback.requests(), hedged);
    let stock = pair.house.app.dispatcher.hedge_stock();
    let spent = 5.0 + 0.05 * REQUESTS as f64 - hedged as f64;
    assert!((stock - spent).abs() < 1e-6, "{stock} left, {spent} expected");
}

/// A failure is answered by the chain, not by the hedge's budget.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_takes_no_hedge() {
    let pair = Pair::open(Fault::Status(500, None), "ttft_budget_ms = 1000").await;
    for number in 0..4 {
        let seen = pair.ask(&format!("ask-{number}"), number % 2 == 0).await;
        assert_eq!((seen.status, seen.model.as_str()), (200, "fallback/m"));
        assert_eq!(seen.headers["x-router-hedged"], "false", "{seen:?}");
    }
    let stock = pair.house.app.dispatcher.hedge_stock();
    assert!((stock - 5.2).abs() < 1e-6, "{stock}");
}

/// What the client has it said for its own request goes before the route's settings.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_sets_its_own_deadline_for_all_attempts_together() {
    let pair = Pair::open(
        Fault::HangBeforeHeaders,
        "deadline_ms = 20000\nhedge = { enabled = false }",
    )
    .await;
    let stuck = Upstream::always("stuck", Wire::OpenAi, Fault::HangAfterHeaders).await;
    let named = [
        ("primary".to_owned(), &pair.primary),
        ("stuck".to_owned(), &stuck),
    ];
    let more = "[embedding]\nmodel = \"off\"\n[[routes]]\nname = \"auto\"\nmodels = [\"primary/m\"]\n\
                fallbacks = [\"stuck/m\"]\nhedge = { enabled = false }\n";
    let house = House::with(&named, "", more).await;
    let url = format!("http://{}/v1/chat/completions", house.address);
    for by_header in [true, false] {
        let mut body = json!({"model": "auto", "stream": true,
                              "messages": [{"role": "user", "content": "please ask-1"}]});
        let mut request = house.http.post(&url);
        if by_header {
            request = request.header("x-router-timeout-ms", "1200");
        } else {
            body["routing"] = json!({"deadline_ms": 1200});
        }
        let seen = see(request.body(body.to_string()).send().await.unwrap()).await;
        let error = seen.error.as_ref().unwrap();
        assert_eq!(
            (seen.status, &error["code"]),
            (504, &json!("timeout")),
            "{seen:?}"
        );
        assert_eq!(
            seen.headers["x-router-attempts"], "2",
            "the slow one leaves time for the next"
        );
        let tried = error["metadata"]["tried"].as_array().unwrap();
        let waited: u64 = tried
            .iter()
            .map(|tried| tried["latency_ms"].as_u64().unwrap())
            .sum();
        assert!(
            (1150..2400).contains(&waited),
            "both share the 1200 ms: {tried:?}"
        );
    }
}
