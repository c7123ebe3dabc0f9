//! Clients that leave: the calls upstream end, what was used is paid, and what was set aside is given back.

use std::time::Duration;

use crate::dispatch::faults::bill;
use crate::served::House;
use crate::upstream::{Dealt, Fault, Upstream, Wire};

const PATIENCE: Duration = Duration::from_secs(30);

/// The budget's dollars spent and set aside.
async fn account(house: &House) -> (f64, f64) {
    let budgets = house.get("/v1/budgets").await;
    let row = &budgets["budgets"][0];
    (
        row["spent_usd"].as_f64().unwrap(),
        row["reserved_usd"].as_f64().unwrap(),
    )
}

/// Leaves as soon as `word` has come.
async fn read_until(request: reqwest::RequestBuilder, word: &str) {
    let mut response = request.send().await.unwrap();
    let mut text = String::new();
    while !text.contains(word) {
        let bytes = response.chunk().await.unwrap().expect("the word comes first");
        text += std::str::from_utf8(&bytes).unwrap();
    }
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

fn route(more: &str) -> String {
    format!(
        "[embedding]\nmodel = \"off\"\n[[routes]]\nname = \"auto\"\nmodels = [\"slow/m\"]\n\
         budget = {{ usd = 50.0, period = \"day\", on_exhausted = \"reject\" }}\n{more}\n"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_set_aside_comes_back_and_what_was_used_is_paid() {
    for (fault, stream) in [
        // Before anything has come, in the middle of a stream, and in the middle of a whole answer.
        (Fault::HangBeforeHeaders, false),
        (Fault::HangBeforeHeaders, true),
        (Fault::Trickle(250), true),
        (Fault::Trickle(250), false),
    ] {
        let slow = Upstream::always("slow", Wire::OpenAi, fault).await;
        let house = House::with(
            &[("slow".to_owned(), &slow)],
            "",
            &route("hedge = { enabled = false }"),
        )
        .await;
        let request = house.ask("auto", "ask-1", stream, PATIENCE);
        let client = tokio::spawn(read_until(request, "answers "));
        eventually("the call", async || slow.requests() == 1).await;
        eventually("the reservation", async || account(&house).await.1 > 0.0).await;
        if matches!(fault, Fault::Trickle(_)) && stream {
            client.await.unwrap();
        } else {
            client.abort();
        }
        eventually("the end of the request", async || {
            house.app.dispatcher.in_flight() == 0 && house.app.pending.is_empty()
        })
        .await;
        let context = format!("{fault:?} {stream}");
        let billed: Vec<Dealt> = bill(std::slice::from_ref(&slow), 1).await;
        assert!(billed[0].hung_up, "{context}: the call goes on");
        house.app.store.flush().await.unwrap();
        let logged = house.app.store.reader().attempts_since(0, 10).unwrap();
        let [row] = logged.as_slice() else {
            panic!("{context}: {logged:#?}")
        };
        let row = &row.attempt;
        assert_eq!((&*row.outcome, row.stream), ("client_gone", stream), "{context}");
        let usage = row.usage.unwrap();
        assert!(usage.estimated && usage.input > 0, "{context}: {row:?}");
        if stream {
            assert_eq!(usage.output, billed[0].output_tokens, "{context}");
        }
        let cost = row.cost.unwrap().nanos();
        assert_eq!(
            cost,
            i64::try_from(usage.input * 1000 + usage.output * 2000).unwrap(),
            "{context}"
        );
        let (spent, reserved) = account(&house).await;
        assert!(
            (spent * 1e9 - cost as f64).abs() < 0.5,
            "{context}: {spent} {cost}"
        );
        assert_eq!(reserved, 0.0, "{context}");
        let telemetry = house.get("/v1/telemetry").await;
        let told = &telemetry["series"][0]["last_hour"];
        assert_eq!(told["cancelled"]["client_gone"], 1, "{context}: {told}");
        assert_eq!(told["failed"], serde_json::json!({}), "{context}: {told}");
        assert_eq!(telemetry["circuits"][0]["in_flight"], 0, "{context}");
    }
}

/// Primary and hedge run when the client leaves: both end, and both are paid.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_a_hedged_request_ends_both_calls() {
    let slow = Upstream::always("slow", Wire::OpenAi, Fault::HangBeforeHeaders).await;
    let other = Upstream::always("other", Wire::Gemini, Fault::HangAfterHeaders).await;
    let named = [("slow".to_owned(), &slow), ("other".to_owned(), &other)];
    let more = route("fallbacks = [\"other/m\"]\nttft_budget_ms = 100");
    let house = House::with(&named, "", &more).await;
    let request = house.ask("auto", "ask-1", true, PATIENCE);
    let client = tokio::spawn(async move { request.send().await?.text().await });
    eventually("the hedge", async || other.requests() == 1).await;
    client.abort();
    eventually("the end of the request", async || {
        house.app.dispatcher.in_flight() == 0 && house.app.pending.is_empty()
    })
    .await;
    for upstream in [&slow, &other] {
        assert!(bill(std::slice::from_ref(upstream), 1).await[0].hung_up);
    }
    house.app.store.flush().await.unwrap();
    let logged = house.app.store.reader().attempts_since(0, 10).unwrap();
    let rows: Vec<_> = logged.iter().map(|row| &row.attempt).collect();
    let mut told: Vec<_> = rows.iter().map(|row| (&*row.role, &*row.outcome)).collect();
    told.sort_unstable();
    assert_eq!(told, [("hedge", "client_gone"), ("primary", "client_gone")]);
    let paid: i64 = rows.iter().map(|row| row.cost.unwrap().nanos()).sum();
    let (spent, reserved) = account(&house).await;
    assert!(
        paid > 0 && (spent * 1e9 - paid as f64).abs() < 0.5,
        "{spent} {paid}"
    );
    assert_eq!(reserved, 0.0);
}
