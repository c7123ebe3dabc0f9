//! Prices, models and routes that change while requests come: no request fails, nothing learned is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use pointsman::app::reload;
use pointsman::units::UnixMs;
use serde_json::{Value, json};

use super::houses::{House, Used};
use super::place::{Place, Providers, Reply, ask, eventually, parse};

const USED: Used = Used {
    fresh: 1_000,
    hit: 0,
    written_5m: 0,
    written_1h: 0,
    said: 500,
    thought: 0,
};

fn model(name: &str, input: f64) -> String {
    format!(
        "[[models]]\nid = \"p/{name}\"\ncontext_window = 100000\nmax_output_tokens = 4096\n\
         [models.price]\ninput_per_mtok = {input:?}\noutput_per_mtok = {:?}\n",
        input * 4.0
    )
}

fn route(models: &[&str]) -> String {
    let models: Vec<String> = models.iter().map(|name| format!("p/{name}")).collect();
    format!("[[routes]]\nname = \"auto\"\nmodels = {models:?}\nquality_margin = 1.0\n")
}

async fn providers() -> Providers {
    Providers::open(|_| Reply::Whole(House::OpenAi.whole("Done.", Some(&USED)))).await
}

/// The candidate's part of a decision.
async fn candidate(place: &Place, model: &str) -> Value {
    let mut body = ask("auto", "What is the capital of France?");
    body["routing"] = json!({"explore": false});
    let told = place.post("/v1/route", &body).await;
    let candidates = told.body["candidates"].as_array().unwrap().clone();
    let found = candidates
        .into_iter()
        .find(|candidate| candidate["model"] == model);
    found.unwrap_or_else(|| panic!("{model} is no candidate: {:?}", told.body))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_under_load_fail_no_request_and_forget_nothing() {
    let providers = providers().await;
    let base = providers.toml("p", "openai");
    let old = base.clone() + &model("cheap", 0.1) + &model("dear", 1.0) + &route(&["cheap", "dear"]);
    let place = Place::open(&old).await;
    // Something to forget.
    for turn in 0..30 {
        let told = place
            .post("/v1/chat/completions", &ask("auto", format!("Question {turn}?")))
            .await;
        let score = json!({"id": told.body["id"], "score": 0.9});
        assert_eq!(place.post("/v1/feedback", &score).await.status, 200);
    }
    place.settle().await;
    eventually("learning", async || place.app.learner.status().scores == 30).await;
    let before = candidate(&place, "p/cheap").await;

    let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let load: Vec<_> = (0..4)
        .map(|worker| {
            let (stop, served) = (Arc::clone(&stop), Arc::clone(&served));
            let (http, url) = (place.http.clone(), place.url("/v1/chat/completions"));
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let body = ask("auto", format!("Question of {worker}?")).to_string();
                    let request = http
                        .post(&url)
                        .header("content-type", "application/json")
                        .body(body);
                    let answer = request.send().await.unwrap();
                    let (status, text) = (answer.status().as_u16(), answer.text().await.unwrap());
                    assert_eq!(status, 200, "{text}");
                    served.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let more = async |count: usize| {
        let goal = served.load(Ordering::Relaxed) + count;
        eventually("more answers", async || served.load(Ordering::Relaxed) >= goal).await;
    };
    more(20).await;

    // A shock: a hundred times the price, by the admin's call, from the next decision on.
    let shock = json!({"model": "p/cheap", "price": {"input_per_mtok": 10.0, "output_per_mtok": 40.0}});
    let told = place.post("/v1/prices", &shock).await;
    assert_eq!(told.status, 200, "{told:?}");
    assert_eq!(told.body["before"]["rates"]["input"], 0.1);
    assert_eq!(told.body["after"]["rates"]["input"], 10.0);
    let shocked = candidate(&place, "p/cheap").await;
    let cost = |candidate: &Value| candidate["expected_cost_usd"].as_f64().unwrap();
    assert!(
        (cost(&shocked) / cost(&before) - 100.0).abs() < 15.0,
        "{before} {shocked}"
    );
    let mut body = ask("auto", "What is the capital of France?");
    body["routing"] = json!({"explore": false});
    eventually("leaving the dear one", async || {
        place.post("/v1/route", &body).await.body["selected"] == "p/dear"
    })
    .await;
    more(20).await;

    // And back: what was learned of the model is still there.
    let restored = place
        .http
        .delete(place.url("/v1/prices/p/cheap"))
        .send()
        .await
        .unwrap();
    assert_eq!(restored.status().as_u16(), 200);
    eventually("coming back", async || {
        place.post("/v1/route", &body).await.body["selected"] == "p/cheap"
    })
    .await;
    let after = candidate(&place, "p/cheap").await;
    let quality = |candidate: &Value| candidate["expected_quality"].as_f64().unwrap();
    assert!(
        (quality(&after) - quality(&before)).abs() < 0.02,
        "{before} {after}"
    );
    more(20).await;

    // A new model joins, and another one retires, by the file.
    let new = base + &model("cheap", 0.1) + &model("new", 0.05) + &route(&["cheap", "new"]);
    reload::apply(&place.app, parse(&place.folder.path().join("data"), &new)).unwrap();
    candidate(&place, "p/new").await;
    let asked_before = providers.got().len();
    more(40).await;
    let asked = providers.got().split_off(asked_before);
    // Those under way at the change may still end at the old one.
    let retired = asked.iter().skip(8).filter(|got| got.model == "dear").count();
    assert_eq!(retired, 0);
    stop.store(true, Ordering::Relaxed);
    for worker in load {
        worker.await.expect("every request is answered");
    }
    place.settle().await;
    let log = place.app.store.reader().attempts_since(0, 100_000).unwrap();
    assert!(
        log.iter()
            .all(|row| row.attempt.outcome == "succeeded" && row.attempt.cost.is_some())
    );
    // Each call was billed at the price that its decision saw.
    for row in log {
        let (arm, cost) = (row.attempt.arm.to_string(), row.attempt.cost.unwrap().nanos());
        let allowed: &[i64] = match arm.as_str() {
            "p/cheap" => &[300_000, 30_000_000],
            "p/dear" => &[3_000_000],
            _ => &[150_000],
        };
        assert!(allowed.contains(&cost), "{arm}: {cost}");
    }
    let events = place
        .app
        .store
        .reader()
        .events(Some("price"), UnixMs(0), UnixMs(i64::MAX), 1_000)
        .unwrap();
    let prices: Vec<Value> = events
        .iter()
        .filter(|event| event.subject == "p/cheap")
        .map(|event| serde_json::from_str(&event.detail).unwrap())
        .collect();
    let told: Vec<(Value, Value)> = prices
        .iter()
        .map(|event| {
            (
                event["before"]["rates"]["input"].clone(),
                event["after"]["rates"]["input"].clone(),
            )
        })
        .collect();
    assert_eq!(told, [(json!(0.1), json!(10.0)), (json!(10.0), json!(0.1))]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_price_that_was_set_outlives_restarts_and_reloads_and_bad_ones_are_refused() {
    let providers = providers().await;
    let toml = providers.toml("p", "openai") + &model("m", 1.0) + &route(&["m"]);
    let place = Place::open(&toml).await;
    let set = |price: Value| json!({"model": "p/m", "price": price});
    for (price, why) in [
        (
            json!({"input_per_mtok": -1.0, "output_per_mtok": 1.0}),
            "price.input_per_mtok",
        ),
        (json!({"input_per_mtok": 1.0}), "output_per_mtok"),
        (
            json!({"input_per_mtok": 1.0, "output_per_mtok": 1.0, "colour": 2}),
            "colour",
        ),
        (
            json!({"input_per_mtok": 1.0, "output_per_mtok": 1.0,
                "windows": [{"start": "25:00", "end": "26:00", "multiplier": 2.0}]}),
            "25:00",
        ),
        (
            json!({"input_per_mtok": 1.0, "output_per_mtok": 1.0,
                "tiers": [{"above_tokens": 5, "input_per_mtok": 1.0}, {"above_tokens": 5, "input_per_mtok": 2.0}]}),
            "overlaps",
        ),
    ] {
        let told = place.post("/v1/prices", &set(price)).await;
        assert_eq!(told.status, 400, "{told:?}");
        assert!(told.message().contains(why), "{why}: {}", told.message());
    }
    assert_eq!(place.post("/v1/prices", &json!({"price": {}})).await.status, 400);
    let unknown = json!({"model": "p/none", "price": {"input_per_mtok": 1.0, "output_per_mtok": 1.0}});
    assert_eq!(place.post("/v1/prices", &unknown).await.status, 404);
    let told = place
        .post(
            "/v1/prices",
            &set(json!({"input_per_mtok": 2.0, "output_per_mtok": 3.0})),
        )
        .await;
    assert_eq!(told.status, 200, "{told:?}");

    let folder = place.close().await;
    let place = Place::open_in(folder, &toml).await;
    let row = async || place.get("/v1/prices").await["prices"][0].clone();
    assert_eq!(
        (
            row().await["source"].clone(),
            row().await["price"]["rates"]["input"].clone()
        ),
        (json!("set"), json!(2.0))
    );
    let dearer = providers.toml("p", "openai") + &model("m", 9.0) + &route(&["m"]);
    reload::apply(&place.app, parse(&place.folder.path().join("data"), &dearer)).unwrap();
    assert_eq!(row().await["price"]["rates"]["input"], 2.0);
    place
        .http
        .delete(place.url("/v1/prices/p/m"))
        .send()
        .await
        .unwrap();
    assert_eq!(
        row().await["price"]["rates"]["input"],
        9.0,
        "the file's holds again"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_an_admin_changes_prices() {
    let providers = providers().await;
    let rest = providers.toml("p", "openai") + &model("m", 1.0) + &route(&["m"]);
    let price = json!({"model": "p/m", "price": {"input_per_mtok": 0.0, "output_per_mtok": 0.0}});
    let place = Place::open(&format!("[server]\nadmin_keys_env = [\"ADMIN_KEY\"]\n{rest}")).await;
    assert_eq!(place.post("/v1/prices", &price).await.status, 401);
    let wrong = [("authorization", "Bearer guess")];
    assert_eq!(place.post_with("/v1/prices", &price, &wrong).await.status, 401);
    let right = [("authorization", "Bearer open sesame")];
    assert_eq!(place.post_with("/v1/prices", &price, &right).await.status, 200);
    // Clients' keys without an admin's: nobody may.
    let place = Place::open(&format!("[server]\napi_keys_env = [\"ADMIN_KEY\"]\n{rest}")).await;
    let told = place.post_with("/v1/prices", &price, &right).await;
    assert_eq!(
        (told.status, told.body["error"]["code"].clone()),
        (403, json!("permission_denied"))
    );
    assert!(told.message().contains("admin_keys_env"));
}

/// A provider that counts 30 % more tokens than we do: learned within a few calls, kept over a restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn how_a_provider_counts_is_learned_and_kept() {
    let providers = Providers::open(|got| {
        let text = got.body["messages"][0]["content"].as_str().unwrap();
        // Every word of the prompts below is a token and a third.
        let words = text.split(' ').count() as u64;
        let used = Used {
            fresh: words * 4 / 3,
            ..USED
        };
        Reply::Whole(House::OpenAi.whole("Done.", Some(&used)))
    })
    .await;
    let toml = providers.toml("p", "openai") + &model("m", 1.0) + &route(&["m"]);
    let place = Place::open(&toml).await;
    let prose = |n: usize| {
        format!(
            "{n} {}",
            "our house stands by a small river that runs to the sea".repeat(30)
        )
    };
    let counted = |n: usize| prose(n).split(' ').count() as f64 * 4.0 / 3.0;
    let expected = async |place: &Place| {
        let told = place.post("/v1/route", &ask("auto", prose(1))).await;
        let candidate = told.body["candidates"][0].clone();
        (
            candidate["expected_input_tokens"].as_f64().unwrap(),
            candidate["interval"]["input_tokens"][1].as_f64().unwrap()
                / candidate["interval"]["input_tokens"][0].as_f64().unwrap(),
        )
    };
    let (naive, wide) = expected(&place).await;
    for n in 0..20 {
        assert_eq!(
            place
                .post("/v1/chat/completions", &ask("auto", prose(n)))
                .await
                .status,
            200
        );
    }
    place.settle().await;
    eventually("learning", async || place.app.learner.status().attempts == 20).await;
    let (learned, narrow) = expected(&place).await;
    assert!(
        (naive / counted(1) - 1.0).abs() > 0.04,
        "{naive} for {}: nothing to learn",
        counted(1)
    );
    assert!(
        (learned / counted(1) - 1.0).abs() < 0.01,
        "{learned} for {}",
        counted(1)
    );
    assert!(narrow < wide, "{narrow} {wide}");
    let place = Place::open_in(place.close().await, &toml).await;
    let (kept, _) = expected(&place).await;
    assert_eq!(kept, learned);
}
