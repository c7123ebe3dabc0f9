//! A budget moves the choice long before it is spent: a user's, like everybody's.

use serde_json::{Value, json};

use super::houses::{House, Used};
use super::place::{Place, Providers, Reply, ask};

/// Two models that the shipped prior knows: the dear one is the better one.
const CHEAP: &str = "meta-llama/llama-3.1-8b-instruct";
const DEAR: &str = "google/gemini-2.5-pro";
const TOML: &str = r#"
[[models]]
id = "meta-llama/llama-3.1-8b-instruct"
context_window = 100000
modalities = ["text"]
[models.price]
input_per_mtok = 0.1
output_per_mtok = 0.3
[[models]]
id = "google/gemini-2.5-pro"
context_window = 100000
modalities = ["text"]
[models.price]
input_per_mtok = 10.0
output_per_mtok = 30.0
[[routes]]
name = "auto"
models = ["meta-llama/llama-3.1-8b-instruct", "google/gemini-2.5-pro"]
objective = "max_quality"
"#;

/// Two clocks half a day apart: whenever this runs, one of the two days has hours to go.
const ZONES: [&str; 2] = ["UTC", "Etc/GMT+12"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_users_budget_is_spread_over_his_day_and_nobody_elses() {
    let used = Used {
        fresh: 20,
        hit: 0,
        written_5m: 0,
        written_1h: 0,
        said: 100,
        thought: 0,
    };
    let providers = Providers::open(move |_| Reply::Whole(House::OpenAi.whole("Done.", Some(&used)))).await;
    let mut toml = providers.toml("meta-llama", "openai") + &providers.toml("google", "openai") + TOML;
    for (number, zone) in ZONES.iter().enumerate() {
        toml += &format!(
            "[[budgets]]\nname = \"users {number}\"\nscope = \"user\"\nusd = 1.0\nperiod = \"day\"\ntimezone = \"{zone}\"\n"
        );
    }
    let place = Place::open(&toml).await;
    let by = |user: &str| {
        let mut body = ask("auto", "Why is the sky blue?");
        body["user"] = json!(user);
        body["routing"] = json!({"explore": false});
        body
    };
    let selected = async |user: &str| {
        let told = place.post("/v1/route", &by(user)).await;
        assert_eq!(told.status, 200, "{told:?}");
        told.body["selected"].as_str().unwrap().to_owned()
    };
    assert_eq!(selected("busy").await, DEAR, "a dollar for one request");
    // Sixty requests at once would be more than a thousand by the end of the day.
    for _ in 0..60 {
        let mut body = by("busy");
        body["model"] = json!(CHEAP);
        assert_eq!(place.post("/v1/chat/completions", &body).await.status, 200);
    }
    assert_eq!(selected("busy").await, CHEAP);
    assert_eq!(selected("idle").await, DEAR);
    let told = place.get("/v1/budgets").await;
    let rows: Vec<&Value> = told["budgets"].as_array().unwrap().iter().collect();
    let of = |name: &str, user: &str| {
        let row = rows
            .iter()
            .find(|row| row["name"] == name && row["subject"] == user);
        (*row.unwrap()).clone()
    };
    for (number, zone) in ZONES.iter().enumerate() {
        let row = of(&format!("users {number}"), "busy");
        assert_eq!(row["timezone"], *zone);
        assert_eq!(row["requests"], 60);
        assert!(
            row["left_usd"].as_f64().unwrap() > 0.99,
            "hardly anything is spent: {row}"
        );
    }
    let targets = [0, 1].map(|number| {
        of(&format!("users {number}"), "busy")["target_usd"]
            .as_f64()
            .unwrap()
    });
    assert!(targets[0].min(targets[1]) < 0.003, "{targets:?}");
}
