//! What every client may rely on, seen from outside: the configuration taken at its word, errors that say whether
//! another try helps, bodies that stall.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::program;
use crate::served::House;
use crate::upstream::{Fault, Upstream, Wire};

const EXAMPLE: &str = "examples/every-part.toml";

#[test]
fn the_example_of_every_part_passes_and_is_described() {
    let checked = program::run(&["check", "--config", EXAMPLE, "--without-keys"]);
    let text = String::from_utf8(checked.stdout).unwrap();
    assert_eq!(checked.status.code(), Some(0), "{text}");
    for part in [
        "mistral/mistral-small",
        "the cheapest within 0.02 of the best quality of mistral/mistral-small, anthropic/claude-haiku, google/gemini-pro",
        "rule: modality = image -> google/gemini-pro",
        "falls back to openai/gpt-4o-mini",
        "at most $0.05 a request",
        "control = anthropic/claude-haiku, treatment = openai/gpt-4o-mini",
        "budget \"route auto\": $50 each day",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    let without = program::run(&["check", "--config", EXAMPLE]);
    let text = String::from_utf8(without.stdout).unwrap();
    assert_eq!(without.status.code(), Some(2), "{text}");
    for name in [
        "MISTRAL_API_KEY",
        "ANTHROPIC_API_KEY",
        "GEMINI_API_KEY",
        "OPENAI_API_KEY",
    ] {
        assert!(text.contains(name), "{name} is not in\n{text}");
    }
}

#[test]
fn a_model_that_makes_embeddings_is_described_too() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("vectors.toml");
    let toml = "[[models]]\nid = \"openai/vectors\"\nkind = \"embedding\"\nprice = { input_per_mtok = 0.02 }\n\
                [[models]]\nid = \"openai/gpt-4o-mini\"\n";
    std::fs::write(&file, toml).unwrap();
    let checked = program::run(&["check", "--without-keys", "--config", file.to_str().unwrap()]);
    let text = String::from_utf8(checked.stdout).unwrap();
    let line = text.lines().find(|line| line.contains("openai/vectors"));
    assert!(
        line.is_some_and(|line| line.ends_with("makes embeddings")),
        "{text}"
    );
}

#[test]
fn numbers_that_cannot_be_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("two.jsonl");
    let outcomes = r#"{"id": "1", "prompt": "?", "outcomes": {"a": {"score": 1, "cost_usd": 1}, "b": {"score": 0, "cost_usd": 2}}}"#;
    std::fs::write(&file, outcomes).unwrap();
    let out = folder.path().join("out");
    let (file, out) = (file.to_str().unwrap(), out.to_str().unwrap());
    let replay = ["replay", "--dataset", file, "--out", out];
    let wrong: [(&[&str], &str); 4] = [
        (&["--margin", "1.5"], "--margin"),
        (&["--seeds", "0"], "--seeds"),
        (&["--seed-limit", "5"], "--seed-dataset"),
        (&["--feedback-rate", "2"], "--feedback-rate"),
    ];
    for (options, named) in wrong {
        let told = program::run(&[&replay[..], options].concat());
        let text = String::from_utf8(told.stderr).unwrap();
        assert_eq!(told.status.code(), Some(2), "{options:?}: {text}");
        assert!(text.contains(named), "{options:?}: {text}");
    }
    let told = program::run(&["report", "--margin", "1.5"]);
    assert!(String::from_utf8(told.stderr).unwrap().contains("from 0 to 1"));
    let done = program::run(&[&replay[..], &["--seeds", "1", "--no-baselines"]].concat());
    assert_eq!(done.status.code(), Some(0));
}

#[test]
fn without_a_key_one_sentence_names_the_variables_and_the_demo() {
    let folder = tempfile::tempdir().unwrap();
    let served = program::command()
        .current_dir(folder.path())
        .arg("serve")
        .output()
        .unwrap();
    assert_eq!(served.status.code(), Some(2));
    let text = String::from_utf8(served.stderr).unwrap();
    assert_eq!(text.trim_end().lines().count(), 1, "{text}");
    for word in ["OPENAI_API_KEY", "OPENROUTER_API_KEY", "GOOGLE_API_KEY", "--demo"] {
        assert!(text.contains(word), "{text}");
    }
}

#[test]
fn the_shipped_models_are_found_from_any_working_directory() {
    let folder = tempfile::tempdir().unwrap();
    // The port is taken, so that it ends after the configuration was read and before it would serve.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let help = program::command()
        .current_dir(folder.path())
        .args(["serve", "--demo", "--listen", &address])
        .output()
        .unwrap();
    let text = String::from_utf8(help.stderr).unwrap();
    assert!(text.contains("cannot listen on"), "{text}");
    let report = program::command()
        .current_dir(folder.path())
        .args(["evaluate", "--policy", "cheapest"])
        .output()
        .unwrap();
    let text = String::from_utf8(report.stderr).unwrap();
    assert!(!text.contains("text-view.bin"), "{text}");
}

async fn refused(house: &House, body: &Value) -> (u16, bool, Value) {
    let answer = house.post("/v1/chat/completions", body).send().await.unwrap();
    let status = answer.status().as_u16();
    let again = answer.headers()["x-should-retry"] == "true";
    (
        status,
        again,
        serde_json::from_str(&answer.text().await.unwrap()).unwrap(),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_model_can_take_is_not_worth_another_try() {
    let upstream = Upstream::always("a", Wire::OpenAi, Fault::None).await;
    let route = "[[routes]]\nname = \"auto\"\nmodels = [\"a/m\"]\n";
    let house = House::with(&[("a".to_owned(), &upstream)], "", route).await;
    let ask = |text: &str, more: Value| {
        let mut body = json!({"model": "auto", "messages": [{"role": "user", "content": text}]});
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        body
    };
    // Its window is 8,192 tokens, and its answers have at most 1,024.
    for (body, status, code) in [
        (
            ask(&"word ".repeat(20_000), json!({})),
            400,
            "context_length_exceeded",
        ),
        (ask("hi", json!({"max_tokens": 2_000})), 503, "no_candidates"),
        (
            ask("hi", json!({"provider": {"ignore": ["a"]}})),
            503,
            "no_candidates",
        ),
        (
            ask("hi", json!({"routing": {"max_cost_usd": 0}})),
            503,
            "no_candidates",
        ),
    ] {
        let (got, again, error) = refused(&house, &body).await;
        assert_eq!((got, again), (status, false), "{error}");
        assert_eq!(error["error"]["code"], code, "{error}");
        assert_eq!(error["error"]["metadata"]["retryable"], false, "{error}");
        assert_eq!(
            error["error"]["metadata"]["excluded"][0]["model"], "a/m",
            "{error}"
        );
    }
    let (status, _, error) = refused(&house, &json!([])).await;
    assert_eq!((status, &error["error"]["param"]), (400, &Value::Null), "{error}");
    assert_eq!(
        error["error"]["message"],
        "The body must be a JSON object, but is an array."
    );
    assert_eq!(upstream.requests(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_with_another_base_url_is_told_where_to_go() {
    let upstream = Upstream::always("a", Wire::OpenAi, Fault::None).await;
    let house = House::open(&[("a".to_owned(), &upstream)], &[]).await;
    for (sent, meant) in [
        ("/chat/completions", "/v1/chat/completions"),
        ("/v1/v1/messages", "/v1/messages"),
        ("/nowhere", "/openapi.json"),
    ] {
        let answer = house
            .http
            .post(format!("http://{}{sent}", house.address))
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status().as_u16(), 404);
        let text = answer.text().await.unwrap();
        assert!(text.contains(meant), "{text}");
    }
    let wrong = house
        .ask("a/m", "ask-1", false, Duration::from_secs(5))
        .header("x-router-cache", "sometimes")
        .send()
        .await
        .unwrap();
    assert_eq!(wrong.status().as_u16(), 400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_is_announced_too_large_is_refused_before_it_comes() {
    let upstream = Upstream::always("a", Wire::OpenAi, Fault::None).await;
    let house = House::open(&[("a".to_owned(), &upstream)], &[]).await;
    let mut client = TcpStream::connect(house.address).await.unwrap();
    let head =
        "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99999999999\r\n\r\n{";
    client.write_all(head.as_bytes()).await.unwrap();
    let mut answer = vec![0; 4096];
    let read = tokio::time::timeout(Duration::from_secs(30), client.read(&mut answer)).await;
    let read = read.expect("the answer does not wait for the body").unwrap();
    let answer = String::from_utf8_lossy(&answer[..read]);
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(answer.contains("payload_too_large"), "{answer}");
}

#[test]
fn the_demonstration_ends_without_complaints() {
    let folder = tempfile::tempdir().unwrap();
    let mut demo = program::command()
        .current_dir(folder.path())
        .args(["serve", "--demo", "--listen", "127.0.0.1:0"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Its first row stands when requests have been answered, and more are under way.
    let mut screen = BufReader::new(demo.stdout.take().unwrap()).lines();
    assert!(screen.any(|line| line.unwrap().contains("100 %")));
    let told = Command::new("kill").arg(demo.id().to_string()).status().unwrap();
    assert!(told.success());
    let ended = demo.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(0));
    let complaints = String::from_utf8(ended.stderr).unwrap();
    assert!(!complaints.contains("could not be reached"), "{complaints}");
}
