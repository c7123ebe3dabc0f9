//! `pointsman evaluate` on what a server logged: serve, score, evaluate.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use pointsman::providers::http_client;
use serde_json::{Value, json};

use crate::program::{self, Program};

const REQUESTS: usize = 240;
/// One request in so many is never scored.
const UNSCORED: usize = 8;

/// One request in so many does without the dearest model's provider.
const WITHOUT: usize = 8;

/// Asks and scores: whoever answers, code scores high and the rest low, so that the mean is known.
async fn serve_and_score(program: &Program) -> f64 {
    let http = http_client(Duration::from_secs(2)).unwrap();
    let post = |path: &str, body: Value| {
        http.post(program.url(path))
            .header("content-type", "application/json")
            .body(body.to_string())
            .send()
    };
    let one = |number: usize| {
        let ignore: &[&str] = if number % WITHOUT == 3 {
            &["sim-google"]
        } else {
            &[]
        };
        let asked = post(
            "/v1/chat/completions",
            json!({
                "model": "auto", "provider": {"ignore": ignore},
                "messages": [{"role": "user", "content": format!("What is {number} plus {number}?")}],
            }),
        );
        let score = if number.is_multiple_of(4) { 0.25 } else { 1.0 };
        let post = &post;
        async move {
            let answer = asked.await.unwrap();
            assert_eq!(answer.status().as_u16(), 200);
            let answer: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
            if number % UNSCORED == 1 {
                return None;
            }
            let scored = post("/v1/feedback", json!({"id": answer["id"], "score": score}))
                .await
                .unwrap();
            assert_eq!(scored.status().as_u16(), 200);
            Some(score)
        }
    };
    let scores: Vec<f64> = stream::iter((0..REQUESTS).map(one))
        .buffer_unordered(16)
        .filter_map(|score| async move { score })
        .collect()
        .await;
    scores.iter().sum::<f64>() / scores.len() as f64
}

fn evaluate(data: &str, more: &[&str]) -> (i32, String, String) {
    let found = program::run(&[&["evaluate", "--data-dir", data][..], more].concat());
    (
        found.status.code().unwrap(),
        String::from_utf8(found.stdout).unwrap(),
        String::from_utf8(found.stderr).unwrap(),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policies_are_estimated_from_what_a_server_logged() {
    let folder = tempfile::tempdir().unwrap();
    let toml = program::simulated(folder.path());
    let program = Program::serve(folder.path(), &toml, &[]);
    let mean = serve_and_score(&program).await;
    assert_eq!(program.terminate(), Some(0));
    let data = folder.path().join("data");
    let data = data.to_str().unwrap();

    let (status, out, err) = evaluate(data, &["--policy", "contextual", "--json"]);
    assert_eq!(status, 0, "{err}");
    let found: Value = serde_json::from_str(&out).unwrap();
    let scored = REQUESTS - REQUESTS / UNSCORED;
    // A hedge that won on a busy machine is another model's answer.
    let others = found["left_out"]["other_answered"].as_u64().unwrap();
    assert_eq!(
        found["decisions"].as_u64().unwrap() + others,
        u64::try_from(scored).unwrap()
    );
    assert!(
        others * 20 < u64::try_from(scored).unwrap(),
        "{others} answered by others"
    );
    assert_eq!(found["left_out"]["unscored"], json!(REQUESTS / UNSCORED));
    // Nobody's answer scored better than another's, so whatever the policy, the log's mean is the truth.
    for estimate in ["snips", "dr"] {
        let interval = &found["quality"][estimate];
        let (low, high) = (
            interval["low"].as_f64().unwrap(),
            interval["high"].as_f64().unwrap(),
        );
        assert!(low < mean && mean < high, "{estimate}: {interval} for {mean}");
    }
    let log = found["logged_quality"]["estimate"].as_f64().unwrap();
    assert!((log - mean).abs() < 0.1, "{log} for {mean}");
    // A mean of costs is above 0, however far off the costs were that were expected at first.
    for estimate in ["snips", "dr"] {
        let cost = found["cost_usd"][estimate]["estimate"].as_f64().unwrap();
        assert!(cost > 0.0, "{estimate}: {}", found["cost_usd"]);
    }

    // What a model would have answered is not told by requests that it could not have had.
    let (status, out, err) = evaluate(data, &["--policy", "single:sim-google/gemini-2.5-pro", "--json"]);
    assert_eq!(status, 0, "{err}");
    let found: Value = serde_json::from_str(&out).unwrap();
    let left = found["left_out"]["not_a_candidate"].as_u64().unwrap();
    assert!(
        (1..=u64::try_from(REQUESTS / WITHOUT).unwrap()).contains(&left),
        "{out}"
    );
    assert_eq!(
        found["decisions"].as_u64().unwrap() + others + left,
        u64::try_from(scored).unwrap()
    );

    // Drawn by the exploration floor alone: a handful of draws is no evidence.
    let (status, out, _) = evaluate(data, &["--policy", "dearest"]);
    assert_eq!(status, 0);
    assert!(out.contains("verdict: none."), "{out}");

    let (status, _, err) = evaluate(data, &["--policy", "single:nobody/none"]);
    assert!(status == 2 && err.contains("known are: sim-"), "{err}");
    let (status, _, err) = evaluate(data, &["--policy", "best"]);
    assert!(
        status == 2 && err.contains("there is no policy \"best\""),
        "{err}"
    );
    let (status, _, err) = evaluate(data, &["--policy", "random", "--since", "2999-01-01"]);
    assert!(status == 2 && err.contains("send traffic"), "{err}");
}
