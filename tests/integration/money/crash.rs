//! The budgets' accounts after kill -9: what the log has and the last save lacked is read from the log again.

use std::time::Duration;

use pointsman::providers::http_client;
use pointsman::store::Reader;
use serde_json::{Value, json};

use super::place::eventually;
use crate::program::{self, Program};

async fn get(http: &reqwest::Client, url: String) -> Value {
    let text = http.get(url).send().await.unwrap().text().await.unwrap();
    serde_json::from_str(&text).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_forgets_no_spending() {
    let folder = tempfile::tempdir().unwrap();
    let budgets = "\n[[budgets]]\nname = \"each user\"\nscope = \"user\"\nusd = 1000.0\nperiod = \"month\"\n";
    let toml = program::simulated(folder.path()) + budgets;
    let http = http_client(Duration::from_secs(5)).unwrap();
    let spent = async |program: &Program| {
        let rows = get(&http, program.url("/v1/budgets")).await["budgets"].clone();
        let rows = rows.as_array().unwrap().clone();
        let row = rows.into_iter().find(|row| row["subject"] == "ada");
        row.map_or(0, |row| (row["spent_usd"].as_f64().unwrap() * 1e9).round() as i64)
    };
    let mut told = 0;
    let mut program = Program::serve(folder.path(), &toml, &[]);
    for round in 0..3 {
        for turn in 0..10 {
            let body = json!({"model": "auto", "user": "ada",
                "messages": [{"role": "user", "content": format!("Question {round} {turn}: what is a router?")}]});
            let request = http
                .post(program.url("/v1/chat/completions"))
                .header("content-type", "application/json")
                .body(body.to_string());
            let answer: Value =
                serde_json::from_str(&request.send().await.unwrap().text().await.unwrap()).unwrap();
            told += (answer["usage"]["cost"]
                .as_f64()
                .unwrap_or_else(|| panic!("{answer}"))
                * 1e9)
                .round() as i64;
        }
        // The log is written a few milliseconds behind; a kill before that loses the entry itself.
        eventually("the log is written", async || {
            let log = Reader::open(&folder.path().join("data")).unwrap();
            log.attempts_since(0, 1_000).unwrap().len() == 10 * (round + 1)
        })
        .await;
        assert_eq!(spent(&program).await, told);
        program.kill();
        program = Program::serve(folder.path(), &toml, &[]);
        assert_eq!(spent(&program).await, told, "after kill number {}", round + 1);
    }
}
