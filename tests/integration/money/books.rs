//! 10,000 mixed calls, and our books equal the providers' to the nano-dollar.

use std::collections::BTreeMap;

use futures_util::{StreamExt, stream};
use pointsman::features::content;
use pointsman::request;
use serde_json::Value;

use super::bank::{Bank, Bill, Fate};
use super::houses::{HOUSES, House};
use super::shop::{self, Shop};

/// What becomes of call number `call`, at which house it is asked first, and whether it streams.
fn plan(call: u64) -> (House, Fate, bool) {
    let house = HOUSES[(call % 5) as usize];
    let (fate, streams) = match (call / 5) % 10 {
        0 => (Fate::Mute, false),
        1 => (Fate::Mute, true),
        2 => (Fate::Fails, call.is_multiple_of(2)),
        3 => (Fate::Cut, true),
        4 => (Fate::Late, true),
        odd => (Fate::Told, odd % 2 == 1),
    };
    (house, fate, streams)
}

/// Tokens that the router takes every prompt to have when nobody tells.
fn prompt_tokens() -> u64 {
    let tokens = |call, fate| {
        let body = shop::body(House::OpenAi, call, fate, false).to_string();
        content::look(&request::parse(body.into()).unwrap()).text.tokens
    };
    let all = [Fate::Told, Fate::Mute, Fate::Cut, Fate::Late].map(|fate| tokens(1, fate));
    assert_eq!(all, [tokens(999_999, Fate::Told); 4], "prompts are alike");
    all[0]
}

fn nanos(dollars: &Value) -> i64 {
    (dollars.as_f64().unwrap() * 1e9).round() as i64
}

/// Asks over HTTP; gives the cost that the client is told, if it stays to the end.
async fn ask(shop: &Shop, call: u64) -> Option<i64> {
    let (house, fate, streams) = plan(call);
    let body = shop::body(house, call, fate, streams);
    let request = shop
        .http
        .post(shop.url("/v1/chat/completions"))
        .header("content-type", "application/json")
        .body(body.to_string());
    let response = request.send().await.unwrap();
    assert_eq!(response.status().as_u16(), 200, "call {call}");
    if !streams {
        let header = response.headers()["x-router-cost-usd"]
            .to_str()
            .unwrap()
            .to_owned();
        let answer: Value = serde_json::from_str(&response.text().await.unwrap()).unwrap();
        let cost = nanos(&answer["usage"]["cost"]);
        assert_eq!(
            nanos(&serde_json::from_str(&header).unwrap()),
            cost,
            "header and body of call {call}"
        );
        assert_eq!(
            answer["usage"]["estimated"] == true,
            fate == Fate::Mute,
            "call {call}: {answer}"
        );
        return Some(cost);
    }
    let mut bytes = response.bytes_stream();
    let mut text = String::new();
    while let Some(piece) = bytes.next().await {
        text += std::str::from_utf8(&piece.unwrap()).unwrap();
        if fate == Fate::Cut && text.contains("settled, ") {
            return None;
        }
    }
    let last = text
        .split("\n\n")
        .filter(|frame| frame.contains("\"usage\""))
        .last()
        .unwrap();
    let last: Value = serde_json::from_str(last.strip_prefix("data: ").unwrap()).unwrap();
    Some(nanos(&last["usage"]["cost"]))
}

/// What each call cost by the router's log: its sum, and each attempt that was told or estimated.
async fn logged(shop: &Shop) -> BTreeMap<u64, Vec<(String, i64, bool)>> {
    shop.app.dispatcher.idle().await;
    shop.app.store.flush().await.unwrap();
    let mut calls: BTreeMap<u64, Vec<(String, i64, bool)>> = BTreeMap::new();
    let mut seq = 0;
    loop {
        let rows = shop.app.store.reader().attempts_since(seq, 1_000).unwrap();
        let Some(last) = rows.last() else { break };
        seq = last.seq;
        for row in rows {
            let user = row.decision.as_ref().unwrap().user.as_deref();
            let call: u64 = user.unwrap().parse().unwrap();
            let attempt = &row.attempt;
            let cost = attempt.cost.unwrap().nanos();
            // A call that was refused used nothing and is on nobody's bill.
            if let Some(usage) = &attempt.usage {
                calls
                    .entry(call)
                    .or_default()
                    .push((attempt.arm.to_string(), cost, !usage.estimated));
            } else {
                assert_eq!(
                    (cost, &*attempt.outcome),
                    (0, "provider_unavailable"),
                    "call {call}"
                );
            }
        }
    }
    calls
}

fn billed(bills: Vec<Bill>) -> BTreeMap<u64, Vec<(String, i64, bool)>> {
    let mut calls: BTreeMap<u64, Vec<(String, i64, bool)>> = BTreeMap::new();
    for bill in bills {
        let line = (bill.house.model(), bill.nanos, bill.told);
        calls.entry(bill.call).or_default().push(line);
    }
    calls
}

/// The books as everybody can read them, after the calls: metrics, budgets, log, the houses' own.
async fn compare(shop: &Shop, bank: &Bank, calls: u64) {
    let mut ours = logged(shop).await;
    let mut theirs = billed(bank.bills());
    assert_eq!(theirs.len() as u64, calls);
    for lines in ours.values_mut().chain(theirs.values_mut()) {
        lines.sort();
    }
    for (call, theirs) in &theirs {
        // A cut-off call is an estimate to us even where its prompt was told.
        let money = |lines: &[(String, i64, bool)]| -> Vec<(String, i64)> {
            lines
                .iter()
                .map(|(model, nanos, _)| (model.clone(), *nanos))
                .collect()
        };
        let ours = ours
            .get(call)
            .unwrap_or_else(|| panic!("call {call} is not in the log"));
        assert_eq!(money(ours), money(theirs), "call {call}: {:?}", plan(*call));
        if plan(*call).1 != Fate::Cut {
            assert_eq!(ours, theirs, "call {call}");
        }
    }
    assert_eq!(ours.len(), theirs.len());
    let metrics = shop.metrics().await;
    let mut total = 0;
    for house in HOUSES {
        let bills = theirs.values().flatten();
        let bills: i64 = bills
            .filter(|line| line.0 == house.model())
            .map(|line| line.1)
            .sum();
        let name = format!(
            "pointsman_cost_nanodollars_total{{provider=\"{}\",model=\"{}\"}}",
            house.name(),
            house.model()
        );
        let metric = metrics.iter().find(|(line, _)| *line == name).unwrap();
        assert_eq!(metric.1, bills.to_string(), "{name}");
        total += bills;
    }
    let spent = metrics
        .iter()
        .find(|(line, _)| line.starts_with("pointsman_budget_spent_nanodollars"));
    assert_eq!(spent.unwrap().1, total.to_string());
    let reserved = metrics
        .iter()
        .find(|(line, _)| line.starts_with("pointsman_budget_reserved_nanodollars"));
    assert_eq!(reserved.unwrap().1, "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_log_metrics_and_budgets_say_what_the_providers_bill() {
    settle(400).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "half a minute: cargo test --test integration -- --ignored ten_thousand"]
async fn ten_thousand_calls_are_booked_as_they_are_billed() {
    settle(10_000).await;
}

async fn settle(calls: u64) {
    let bank = Bank::open(prompt_tokens()).await;
    let shop = Shop::open(&bank).await;
    let (shop_ref, bank_ref) = (&shop, &bank);
    let told: Vec<(u64, Option<i64>)> = stream::iter(0..calls)
        .map(|call| async move { (call, ask(shop_ref, call).await) })
        .buffer_unordered(16)
        .collect()
        .await;
    compare(&shop, &bank, calls).await;
    let theirs = billed(bank_ref.bills());
    for (call, cost) in told {
        let sum: i64 = theirs[&call].iter().map(|line| line.1).sum();
        assert!(
            cost.is_none_or(|cost| cost == sum),
            "call {call}: {cost:?} for {sum}"
        );
    }
    let metrics = shop.metrics().await;
    let value = |name: &str| {
        let lines = metrics.iter().filter(|(line, _)| line.starts_with(name));
        lines.map(|(_, value)| value.parse::<f64>().unwrap()).sum::<f64>()
    };
    assert_eq!(
        value("pointsman_http_requests_total{path=\"/v1/chat/completions\",status=\"200\"}"),
        calls as f64
    );
    assert_eq!(value("pointsman_overhead_seconds_count"), calls as f64);
    let hedges = metrics
        .iter()
        .filter(|(line, _)| line.contains("outcome=\"lost_hedge\""));
    assert_eq!(
        hedges.map(|(_, n)| n.parse::<u64>().unwrap()).sum::<u64>(),
        calls / 10
    );
}
