//! What dispatch promises of chat's answers holds for the other schemas at the door: hedges, fallbacks, deadlines, one
//! run for a key, an error that is an error, and clients that leave.

use std::time::Duration;

use http::HeaderMap;
use pointsman::store::AttemptRow;
use serde_json::{Value, json};

use crate::dispatch::faults::bill;
use crate::served::House;
use crate::upstream::{Fault, Upstream, Wire, full_answer};

#[derive(Clone, Copy, Debug)]
enum Schema {
    Messages,
    Responses,
}

/// Every schema, whole and streamed.
const FORMS: [(Schema, bool); 4] = [
    (Schema::Messages, false),
    (Schema::Messages, true),
    (Schema::Responses, false),
    (Schema::Responses, true),
];

impl Schema {
    const fn path(self) -> &'static str {
        match self {
            Self::Messages => "/v1/messages",
            Self::Responses => "/v1/responses",
        }
    }

    fn body(self, stream: bool) -> Value {
        match self {
            Self::Messages => json!({
                "model": "auto", "stream": stream, "max_tokens": 100,
                "messages": [{"role": "user", "content": "please ask-1"}],
            }),
            Self::Responses => json!({"model": "auto", "stream": stream, "input": "please ask-1"}),
        }
    }

    /// Where an error stands, its kind and its provider.
    fn error(self, told: &Value) -> (String, Value) {
        let error = match self {
            Self::Messages => &told["error"],
            Self::Responses if told["response"].is_object() => &told["response"]["error"],
            Self::Responses => &told["error"],
        };
        let kind = match self {
            Self::Messages => &error["type"],
            Self::Responses => &error["code"],
        };
        (
            kind.as_str().unwrap_or_default().to_owned(),
            error["metadata"].clone(),
        )
    }
}

/// What a client saw.
#[derive(Debug)]
struct Seen {
    status: u16,
    headers: HeaderMap,
    text: String,
    /// The body of an answer that is no stream; the last event of one that is.
    last: Value,
    comments: usize,
}

async fn see(schema: Schema, answer: reqwest::Response) -> Seen {
    let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
    let is_stream = headers["content-type"]
        .to_str()
        .unwrap()
        .starts_with("text/event-stream");
    let body = answer.text().await.unwrap();
    if !is_stream {
        let last: Value = serde_json::from_str(&body).unwrap_or_else(|_| panic!("{status} {body}"));
        let text = match schema {
            Schema::Messages => &last["content"][0]["text"],
            Schema::Responses => &last["output"][0]["content"][0]["text"],
        };
        let text = text.as_str().unwrap_or_default().to_owned();
        return Seen {
            status,
            headers,
            text,
            last,
            comments: 0,
        };
    }
    assert!(body.ends_with("\n\n"), "{body}");
    let (mut text, mut last, mut comments) = (String::new(), Value::Null, 0);
    for frame in body.split_terminator("\n\n") {
        if frame.starts_with(": ") || frame.starts_with("event: ping\n") {
            comments += 1;
            continue;
        }
        let (name, data) = frame.split_once("\ndata: ").unwrap_or_else(|| panic!("{body}"));
        last = serde_json::from_str(data).unwrap_or_else(|_| panic!("{body}"));
        assert_eq!(name.strip_prefix("event: "), last["type"].as_str(), "{body}");
        let piece = match schema {
            Schema::Messages => &last["delta"]["text"],
            Schema::Responses if last["type"] == "response.output_text.delta" => &last["delta"],
            Schema::Responses => &Value::Null,
        };
        text += piece.as_str().unwrap_or_default();
    }
    Seen {
        status,
        headers,
        text,
        last,
        comments,
    }
}

async fn ask(house: &House, schema: Schema, stream: bool) -> Seen {
    let request = house.post(schema.path(), &schema.body(stream));
    see(schema, request.send().await.unwrap()).await
}

/// `auto`: a primary that does `fault`, then a fallback that does `then`.
async fn pair(fault: Fault, then: Fault, server: &str, route: &str) -> ([Upstream; 2], House) {
    let primary = Upstream::always("primary", Wire::Anthropic, fault).await;
    let fallback = Upstream::always("fallback", Wire::OpenAi, then).await;
    let named = [
        ("primary".to_owned(), &primary),
        ("fallback".to_owned(), &fallback),
    ];
    let more = format!(
        "[embedding]\nmodel = \"off\"\n[[routes]]\nname = \"auto\"\nmodels = [\"primary/m\"]\n\
         fallbacks = [\"fallback/m\"]\n{route}\n"
    );
    let house = House::serving(server, &named, "", &more).await;
    ([primary, fallback], house)
}

/// The attempts of a request, once all are booked.
async fn attempts(house: &House, seen: &Seen) -> Vec<AttemptRow> {
    house.app.dispatcher.idle().await;
    house.app.store.flush().await.unwrap();
    let id = seen.headers["x-router-decision-id"].to_str().unwrap();
    house.app.store.reader().joined(id).unwrap().unwrap().attempts
}

fn told(attempts: &[AttemptRow]) -> Vec<(&str, &str, bool)> {
    attempts
        .iter()
        .map(|row| (&*row.role, &*row.outcome, row.served))
        .collect()
}

async fn eventually(what: &str, mut done: impl AsyncFnMut() -> bool) {
    for _ in 0..1000 {
        if done().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what} does not come about");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_primary_is_overtaken_in_every_schema() {
    let (_upstreams, house) = pair(Fault::HangAfterHeaders, Fault::None, "", "ttft_budget_ms = 200").await;
    for (schema, stream) in FORMS {
        let seen = ask(&house, schema, stream).await;
        let context = format!("{schema:?} {stream} {seen:?}");
        assert_eq!(seen.text, full_answer("fallback", "ask-1"), "{context}");
        assert_eq!(seen.headers["x-router-hedged"], "true", "{context}");
        assert_eq!(seen.headers["x-router-fallback-from"], "primary/m", "{context}");
        let attempts = attempts(&house, &seen).await;
        assert_eq!(
            told(&attempts),
            [("primary", "lost_hedge", false), ("hedge", "succeeded", true)],
            "{context}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_breaks_before_the_first_word_falls_back_in_every_schema() {
    for (fault, outcome) in [
        (Fault::ErrorInside200, "provider_overloaded"),
        (Fault::TooLong, "context_length_exceeded"),
        (Fault::GarbageJson, "provider_unavailable"),
    ] {
        let (_upstreams, house) = pair(fault, Fault::None, "", "hedge = { enabled = false }").await;
        for (schema, stream) in FORMS {
            let seen = ask(&house, schema, stream).await;
            let context = format!("{fault:?} {schema:?} {stream} {seen:?}");
            assert_eq!(
                (seen.status, seen.text.as_str()),
                (200, &*full_answer("fallback", "ask-1")),
                "{context}"
            );
            let attempts = attempts(&house, &seen).await;
            // A circuit may have opened in the meantime: then the fallback is asked alone.
            let served = attempts.last().unwrap();
            assert_eq!(
                (&*served.role, &*served.outcome, served.served),
                ("fallback", "succeeded", true),
                "{context}"
            );
            for lost in &attempts[..attempts.len() - 1] {
                assert_eq!((&*lost.outcome, lost.served), (outcome, false), "{context}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_says_the_same_in_every_schema() {
    let (_upstreams, house) = pair(
        Fault::Status(429, Some(7)),
        Fault::Status(429, Some(9)),
        "",
        "hedge = { enabled = false }",
    )
    .await;
    for (schema, stream) in FORMS {
        let seen = ask(&house, schema, stream).await;
        let context = format!("{schema:?} {stream} {seen:?}");
        let (kind, metadata) = schema.error(&seen.last);
        let expected = match schema {
            Schema::Messages => "rate_limit_error",
            Schema::Responses => "rate_limit_exceeded",
        };
        assert_eq!((seen.status, kind.as_str()), (429, expected), "{context}");
        assert_eq!(metadata["retryable"], true, "{context}");
        let wait: u64 = seen.headers["retry-after"].to_str().unwrap().parse().unwrap();
        assert!((1..=7).contains(&wait), "{context}");
    }
}

/// The client's own deadline holds for all attempts, and what it is told then: an error where nothing was promised,
/// an event where comments have kept the connection open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_deadline_is_told_in_every_schema() {
    for (keepalive, promised) in [("", false), ("keepalive_ms = 100", true)] {
        let hang = Fault::HangBeforeHeaders;
        let (_upstreams, house) = pair(hang, hang, keepalive, "hedge = { enabled = false }").await;
        for (schema, stream) in FORMS {
            let request = house.post(schema.path(), &schema.body(stream));
            let answer = request
                .header("x-router-timeout-ms", "1000")
                .send()
                .await
                .unwrap();
            let seen = see(schema, answer).await;
            let context = format!("{schema:?} {stream} {seen:?}");
            let (kind, _) = schema.error(&seen.last);
            let expected = match schema {
                Schema::Messages => "timeout_error",
                Schema::Responses => "timeout",
            };
            assert_eq!(kind, expected, "{context}");
            let promised = promised && stream;
            assert_eq!(seen.status, if promised { 200 } else { 504 }, "{context}");
            assert_eq!(seen.comments > 0, promised, "{context}");
            let attempts = attempts(&house, &seen).await;
            assert_eq!(attempts.len(), 2, "{context}");
            assert!(attempts.iter().all(|row| !row.served), "{context}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_body_under_the_same_key_is_refused_in_every_schema() {
    let ([primary, _], house) = pair(Fault::None, Fault::None, "", "").await;
    for (number, (schema, stream)) in FORMS.into_iter().enumerate() {
        let key = format!("{schema:?} {stream}");
        let ask = |body: Value| {
            let request = house.post(schema.path(), &body).header("idempotency-key", &key);
            async move { see(schema, request.send().await.unwrap()).await }
        };
        let first = ask(schema.body(stream)).await;
        assert_eq!(first.text, full_answer("primary", "ask-1"), "{key} {first:?}");
        let again = ask(schema.body(stream)).await;
        assert_eq!((&again.text, &again.last), (&first.text, &first.last), "{key}");
        assert_eq!(again.headers["x-router-idempotent-replay"], "true", "{key}");
        let mut other = schema.body(stream);
        other["temperature"] = json!(0.5);
        let refused = ask(other).await;
        assert_eq!(refused.status, 422, "{key} {refused:?}");
        assert_eq!(primary.requests(), number + 1, "{key}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_is_passed_on_in_every_schema() {
    for (schema, stream) in FORMS {
        let context = format!("{schema:?} {stream}");
        let budget = "hedge = { enabled = false }\n\
                      budget = { usd = 50.0, period = \"day\", on_exhausted = \"reject\" }";
        let ([primary, _], house) = pair(Fault::Trickle(250), Fault::None, "", budget).await;
        let request = house.post(schema.path(), &schema.body(stream));
        let client = tokio::spawn(async move {
            let mut answer = request.send().await.unwrap();
            let mut text = String::new();
            while !text.contains("answers ") {
                let bytes = answer.chunk().await.unwrap().expect("the word comes first");
                text += std::str::from_utf8(&bytes).unwrap();
            }
        });
        eventually("the call", async || primary.requests() == 1).await;
        if stream {
            client.await.unwrap();
        } else {
            client.abort();
        }
        eventually("the end of the request", async || {
            house.app.dispatcher.in_flight() == 0 && house.app.pending.is_empty()
        })
        .await;
        assert!(
            bill(std::slice::from_ref(&primary), 1).await[0].hung_up,
            "{context}"
        );
        house.app.store.flush().await.unwrap();
        let logged = house.app.store.reader().attempts_since(0, 10).unwrap();
        let [row] = logged.as_slice() else {
            panic!("{context}: {logged:#?}")
        };
        assert_eq!(&*row.attempt.outcome, "client_gone", "{context}");
        let usage = row.attempt.usage.unwrap();
        assert!(
            usage.input > 0 && (usage.output > 0) == stream,
            "{context}: {usage:?}"
        );
        let budgets = house.get("/v1/budgets").await;
        let (spent, reserved) = (
            budgets["budgets"][0]["spent_usd"].as_f64().unwrap(),
            budgets["budgets"][0]["reserved_usd"].as_f64().unwrap(),
        );
        let cost = row.attempt.cost.unwrap().nanos() as f64;
        assert!(
            cost > 0.0 && (spent * 1e9 - cost).abs() < 0.5,
            "{context}: {spent} {cost}"
        );
        assert_eq!(reserved, 0.0, "{context}");
    }
}
