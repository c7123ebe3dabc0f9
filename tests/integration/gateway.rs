//! What a user sees of the whole program: answers, scores, refusals, restarts.

use std::fs;
use std::time::Duration;

use http::StatusCode;
use pointsman::providers::http_client;
use serde_json::{Value, json};

use crate::program::{self, Program};

fn client() -> reqwest::Client {
    http_client(Duration::from_secs(1)).unwrap()
}

async fn post(http: &reqwest::Client, url: &str, body: impl Into<reqwest::Body>) -> (StatusCode, Value) {
    let answer = http
        .post(url)
        .header("content-type", "application/json")
        .body(body)
        .send()
        .await
        .unwrap();
    let status = answer.status();
    let text = answer.text().await.unwrap();
    (
        status,
        serde_json::from_str(&text).unwrap_or_else(|_| panic!("{status}: {text}")),
    )
}

async fn get(http: &reqwest::Client, url: &str) -> Value {
    serde_json::from_str(&http.get(url).send().await.unwrap().text().await.unwrap()).unwrap()
}

fn question(text: &str) -> String {
    json!({"model": "auto", "messages": [{"role": "user", "content": text}]}).to_string()
}

async fn ask(http: &reqwest::Client, program: &Program, text: &str) -> String {
    let (status, answer) = post(http, &program.url("/v1/chat/completions"), question(text)).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    answer["id"].as_str().unwrap().to_owned()
}

/// Polls until `done` says so; a bounded wait for what happens behind the request.
async fn eventually(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !done().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let came = tokio::time::timeout(Duration::from_secs(20), waiting).await;
    assert!(came.is_ok(), "{what} did not happen within 20 s");
}

#[tokio::test]
async fn bad_input_is_refused_in_one_shape_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let toml = program::simulated(folder.path()).replace(
        "[server]\n",
        "[server]\nmax_body_bytes = 4096\napi_keys_env = [\"TEST_KEY\"]\n",
    );
    let program = Program::serve(folder.path(), &toml, &[("TEST_KEY", "sesame")]);
    let plain = client();
    let (status, answer) = post(&plain, &program.url("/v1/chat/completions"), question("hi")).await;
    assert_eq!(
        (status, &answer["error"]["code"]),
        (StatusCode::UNAUTHORIZED, &json!("authentication"))
    );
    let mut headers = http::HeaderMap::new();
    headers.insert("authorization", "Bearer sesame".parse().unwrap());
    let http = reqwest::Client::builder()
        .default_headers(headers)
        .build()
        .unwrap();
    let long = question(&"x".repeat(5000));
    let cases: [(&str, &str, u16, &str, &str); 13] = [
        (
            "/v1/chat/completions",
            "{",
            400,
            "invalid_request",
            "not valid JSON",
        ),
        (
            "/v1/chat/completions",
            r#"{"model":"auto"}"#,
            400,
            "invalid_request",
            "messages",
        ),
        (
            "/v1/chat/completions",
            r#"{"model":"auto","messages":[]}"#,
            400,
            "invalid_request",
            "messages",
        ),
        (
            "/v1/chat/completions",
            r#"{"model":"nope","messages":[{"role":"user","content":"x"}]}"#,
            404,
            "not_found",
            "GET /v1/models",
        ),
        (
            "/v1/chat/completions",
            r#"{"model":"auto","messages":[{"role":"user","content":"x"}],"routing":{"speed":1}}"#,
            400,
            "invalid_request",
            "routing.speed",
        ),
        ("/v1/chat/completions", &long, 413, "payload_too_large", "4096"),
        ("/v1/nowhere", "{}", 404, "not_found", "/v1/nowhere"),
        (
            "/v1/feedback",
            r#"{"id":"x","score":NaN}"#,
            400,
            "invalid_request",
            "not valid JSON",
        ),
        (
            "/v1/feedback",
            r#"{"id":"x","score":1.5}"#,
            400,
            "invalid_request",
            "[0,1]",
        ),
        (
            "/v1/feedback",
            r#"{"id":"x","score":"good"}"#,
            400,
            "invalid_request",
            "number",
        ),
        ("/v1/feedback", r#"{"score":1}"#, 400, "invalid_request", "`id`"),
        (
            "/v1/feedback",
            r#"{"id":"chatcmpl-a","decision_id":"b","score":1}"#,
            400,
            "invalid_request",
            "`id` and `decision_id`",
        ),
        (
            "/v1/feedback",
            r#"{"id":"chatcmpl-none","score":1}"#,
            404,
            "not_found",
            "chatcmpl-none",
        ),
    ];
    for (path, body, expected, code, says) in cases {
        let (status, answer) = post(&http, &program.url(path), body.to_owned()).await;
        let message = answer["error"]["message"].as_str().unwrap_or_default();
        assert_eq!(
            (status.as_u16(), answer["error"]["code"].as_str()),
            (expected, Some(code)),
            "{body}: {answer}"
        );
        assert!(message.contains(says), "{body}: {message}");
        assert!(!message.contains("sesame"));
    }
    for path in ["/v1/chat/completions", "/v1/messages", "/v1/feedback"] {
        let sent = |encoding: &'static str| {
            let ask = http.post(program.url(path)).header("content-encoding", encoding);
            ask.body("{")
        };
        let refused = sent("gzip").send().await.unwrap();
        assert_eq!(refused.status(), StatusCode::BAD_REQUEST, "{path}");
        let said = refused.text().await.unwrap();
        assert!(said.contains("content-encoding: gzip"), "{path}: {said}");
        let said = sent("identity").send().await.unwrap().text().await.unwrap();
        assert!(said.contains("not valid JSON"), "{path}: {said}");
    }
    let refused = http.delete(program.url("/v1/feedback")).send().await.unwrap();
    assert_eq!(refused.status(), StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn a_score_counts_once_is_revised_and_outlives_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let toml = program::simulated(folder.path());
    let program = Program::serve(folder.path(), &toml, &[]);
    let http = client();
    let ids = [
        ask(&http, &program, "one").await,
        ask(&http, &program, "two").await,
    ];
    let feedback = program.url("/v1/feedback");
    let score = |id: &str, score: f64| json!({"id": id, "score": score, "rater": "user:1"});
    let (status, first) = post(&http, &feedback, score(&ids[0], 0.5).to_string()).await;
    assert_eq!(
        (status, &first["recorded"], &first["duplicate"]),
        (StatusCode::OK, &json!(true), &json!(false))
    );
    let (_, again) = post(&http, &feedback, score(&ids[0], 0.5).to_string()).await;
    assert_eq!(
        (&again["duplicate"], &again["feedback_id"]),
        (&json!(true), &first["feedback_id"])
    );
    let (_, better) = post(&http, &feedback, score(&ids[0], 0.75).to_string()).await;
    assert_eq!(
        (&better["duplicate"], &better["revised"]),
        (&json!(false), &json!(true))
    );
    // A batch with one bad score: the good one counts, the answer says which was bad.
    let batch = json!([score(&ids[1], 1.0), score("chatcmpl-unknown", 1.0)]);
    let (status, answer) = post(&http, &feedback, batch.to_string()).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let results = &answer["error"]["metadata"]["results"];
    assert_eq!(
        (&results[0]["recorded"], &results[1]["recorded"]),
        (&json!(true), &json!(false)),
        "{answer}"
    );
    // Three entries of the log: 0.5, 0.75 in its place, 1.0.
    let learned = async |program: &Program| {
        get(&http, &program.url("/v1/telemetry")).await["learner"]["feedback_seq"] == 3
    };
    eventually("learning three scores", async || learned(&program).await).await;
    program.kill();
    let program = Program::serve(folder.path(), &toml, &[]);
    let (_, after) = post(
        &http,
        &program.url("/v1/feedback"),
        score(&ids[0], 0.75).to_string(),
    )
    .await;
    assert_eq!(
        after["duplicate"],
        json!(true),
        "an acknowledged score is known after a kill: {after}"
    );
    eventually("learning goes on where it was", async || learned(&program).await).await;
    assert_eq!(program.terminate(), Some(0));
}

#[tokio::test]
async fn eight_raters_of_one_bad_answer_are_one_observation() {
    let folder = tempfile::tempdir().unwrap();
    let toml = program::simulated(folder.path());
    let program = Program::serve(folder.path(), &toml, &[]);
    let http = client();
    let id = ask(&http, &program, "one").await;
    for rater in 0..8 {
        let score = f64::from(rater % 2) / 4.0;
        let scored = json!({"id": id, "score": score, "rater": format!("user:{rater}")});
        let (status, answer) = post(&http, &program.url("/v1/feedback"), scored.to_string()).await;
        assert_eq!((status, &answer["revised"]), (StatusCode::OK, &json!(false)));
    }
    let telemetry = async || get(&http, &program.url("/v1/telemetry")).await;
    eventually("learning eight scores", async || {
        telemetry().await["learner"]["feedback_seq"] == 8
    })
    .await;
    // Four times 0 and four times .25.
    let found = telemetry().await;
    let rows = found["quality"].as_array().unwrap();
    assert_eq!(rows.len(), 1, "{rows:?}");
    let hour = &rows[0]["last_hour"];
    assert_eq!(
        (&hour["count"], &hour["mean"]),
        (&json!(1), &json!(0.125)),
        "{rows:?}"
    );
    assert_eq!(found["learner"]["drift_alarms"], json!(0));
    assert_eq!(program.terminate(), Some(0));
}

#[tokio::test]
async fn killed_in_the_middle_of_load_no_acknowledged_score_is_lost_or_doubled() {
    let folder = tempfile::tempdir().unwrap();
    let toml = program::simulated(folder.path());
    let http = client();
    let mut acknowledged = 0;
    for round in 0..3 {
        let program = Program::serve(folder.path(), &toml, &[]);
        let (told, mut scores) = tokio::sync::mpsc::unbounded_channel();
        let load: Vec<_> = (0..8)
            .map(|worker| {
                let (http, told, base) = (http.clone(), told.clone(), program.base_url.clone());
                tokio::spawn(async move {
                    // Ends with the first request that the kill cuts off, or after enough of them.
                    for number in 0..200 {
                        let text = format!("round {round} worker {worker} number {number}");
                        let chat = http
                            .post(format!("{base}/v1/chat/completions"))
                            .body(question(&text))
                            .send()
                            .await;
                        let Ok(chat) = chat else { return };
                        let Ok(answer) = chat.bytes().await else { return };
                        let Ok(answer) = serde_json::from_slice::<Value>(&answer) else {
                            return;
                        };
                        let score = json!({"id": answer["id"], "score": 0.5});
                        let sent = http
                            .post(format!("{base}/v1/feedback"))
                            .body(score.to_string())
                            .send()
                            .await;
                        let Ok(sent) = sent else { return };
                        assert_eq!(sent.status(), StatusCode::OK);
                        if sent.bytes().await.is_ok() {
                            let _ = told.send(());
                        }
                    }
                })
            })
            .collect();
        drop(told);
        for _ in 0..60 {
            scores.recv().await.unwrap();
            acknowledged += 1;
        }
        program.kill();
        for worker in load {
            worker.await.unwrap();
        }
        while scores.recv().await.is_some() {
            acknowledged += 1;
        }
    }
    let program = Program::serve(folder.path(), &toml, &[]);
    let stored = || async {
        get(&http, &program.url("/v1/telemetry")).await["learner"]["feedback_seq"]
            .as_i64()
            .unwrap()
    };
    let mut seen = 0;
    eventually("learning all acknowledged scores", async || {
        seen = stored().await;
        seen >= acknowledged
    })
    .await;
    // A score may have been stored whose acknowledgement the kill cut off: at most one for each worker and round.
    assert!(
        seen <= acknowledged + 24,
        "{seen} scores stored, {acknowledged} acknowledged"
    );
}

#[tokio::test]
async fn a_decision_can_be_asked_for_alone_and_explains_itself() {
    let folder = tempfile::tempdir().unwrap();
    let program = Program::serve(folder.path(), &program::simulated(folder.path()), &[]);
    let http = client();
    let picture = json!({"model": "auto", "messages": [{"role": "user", "content": [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
    ]}]});
    let (status, answer) = post(&http, &program.url("/v1/route"), picture.to_string()).await;
    assert_eq!(
        (status, &answer["error"]["code"]),
        (StatusCode::SERVICE_UNAVAILABLE, &json!("no_candidates"))
    );
    let excluded = answer["error"]["metadata"]["excluded"].as_array().unwrap();
    assert_eq!(excluded.len(), 4);
    assert!(
        excluded
            .iter()
            .all(|row| row["excluded"] == "does not accept image"),
        "{answer}"
    );
    let (status, decision) = post(&http, &program.url("/v1/route"), question("Hello")).await;
    assert_eq!(status, StatusCode::OK);
    let candidates = decision["candidates"].as_array().unwrap();
    let sum: f64 = candidates
        .iter()
        .map(|row| row["propensity"].as_f64().unwrap())
        .sum();
    assert!((sum - 1.0).abs() < 1e-6, "{decision}");
    assert!(
        candidates
            .iter()
            .all(|row| row["expected_cost_usd"].as_f64().unwrap() > 0.0)
    );
    assert_eq!(decision["ranking"].as_array().unwrap().len(), 4);
}

#[tokio::test]
async fn a_changed_configuration_takes_effect_and_a_broken_one_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let toml = program::simulated(folder.path());
    let program = Program::serve(folder.path(), &toml, &[]);
    let http = client();
    let file = folder.path().join("pointsman.toml");
    fs::write(&file, toml.replace("name = \"auto\"", "name = \"smart\"")).unwrap();
    let models = program.url("/v1/models");
    let named = async |name: &str| {
        let list = get(&http, &models).await;
        list["data"]
            .as_array()
            .unwrap()
            .iter()
            .any(|model| model["id"] == name)
    };
    eventually("the new route", async || named("smart").await).await;
    assert!(!named("auto").await);
    fs::write(&file, "[server]\nlisten = 7").unwrap();
    let log = folder.path().join("data/pointsman.db");
    let refused = || {
        let reader = pointsman::store::Reader::open(log.parent().unwrap()).unwrap();
        let all = (pointsman::units::UnixMs(0), pointsman::units::UnixMs(i64::MAX));
        reader
            .events(Some("config"), all.0, all.1, 100)
            .unwrap()
            .iter()
            .any(|event| event.subject == "refused")
    };
    eventually("refusing the broken file", async || refused()).await;
    assert!(named("smart").await, "the old configuration stays");
}

#[test]
fn the_program_says_why_it_cannot_start() {
    let folder = tempfile::tempdir().unwrap();
    let nothing = program::run(&["serve"]);
    let said = String::from_utf8_lossy(&nothing.stderr).into_owned();
    assert_eq!(nothing.status.code(), Some(2));
    assert!(
        said.contains("OPENAI_API_KEY") && said.contains("--demo"),
        "{said}"
    );
    let open = program::run(&["serve", "--demo", "--listen", "0.0.0.0:0"]);
    let said = String::from_utf8_lossy(&open.stderr).into_owned();
    assert!(said.contains("client key"), "{said}");
    // A corrupt model file.
    let models = folder.path().join("models");
    fs::create_dir(&models).unwrap();
    fs::write(models.join("text-view.bin"), b"not a model").unwrap();
    let data = folder.path().join("data");
    let arguments = ["serve", "--demo", "--listen", "127.0.0.1:0", "--models-dir"];
    let corrupt = program::command()
        .args(arguments)
        .arg(&models)
        .arg("--data-dir")
        .arg(&data)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&corrupt.stderr).into_owned();
    assert_eq!(corrupt.status.code(), Some(2));
    assert!(
        said.contains("text-view.bin") && said.contains("pointsman train"),
        "{said}"
    );
    // A corrupt database is named and left alone.
    fs::create_dir_all(&data).unwrap();
    let garbage = b"this is not a database, but somebody's file".repeat(100);
    fs::write(data.join("pointsman.db"), &garbage).unwrap();
    let corrupt = program::command()
        .args(&arguments[..4])
        .arg("--data-dir")
        .arg(&data)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&corrupt.stderr).into_owned();
    assert!(
        said.contains("pointsman.db") && said.contains("move it aside"),
        "{said}"
    );
    assert_eq!(fs::read(data.join("pointsman.db")).unwrap(), garbage);
}

#[tokio::test]
async fn a_spent_budget_refuses_tells_when_it_renews_and_is_remembered() {
    let folder = tempfile::tempdir().unwrap();
    let toml = program::simulated(folder.path()).replace(
        "objective = \"cheapest_capable\"",
        "objective = \"cheapest_capable\"\nbudget = { usd = 0.0002, period = \"day\", on_exhausted = \"reject\" }",
    );
    let program = Program::serve(folder.path(), &toml, &[]);
    let http = client();
    let mut spent = 0.0;
    let mut refusal = None;
    for number in 0..500 {
        let text = format!("Explain paragraph {number} of the contract");
        let (status, answer) = post(&http, &program.url("/v1/chat/completions"), question(&text)).await;
        if status == StatusCode::OK {
            spent += answer["usage"]["cost"].as_f64().unwrap();
            continue;
        }
        assert_eq!(
            (status, &answer["error"]["code"]),
            (StatusCode::PAYMENT_REQUIRED, &json!("budget_exceeded"))
        );
        refusal = Some(answer);
        break;
    }
    let refusal = refusal.expect("the budget of $0.0002 must be spent within 500 requests");
    assert!(
        refusal["error"]["metadata"]["budget"]["renews_ms"].is_i64(),
        "{refusal}"
    );
    let account =
        async |program: &Program| get(&http, &program.url("/v1/budgets")).await["budgets"][0].clone();
    let before = account(&program).await;
    let booked = before["spent_usd"].as_f64().unwrap();
    assert!(
        (booked - spent).abs() < 1e-9,
        "the account says {booked}, the answers {spent}: {before}"
    );
    assert_eq!(program.terminate(), Some(0));
    let program = Program::serve(folder.path(), &toml, &[]);
    assert_eq!(account(&program).await["spent_usd"], before["spent_usd"]);
}
