//! The other schemas at the door, through the real server: Anthropic's Messages, OpenAI's Responses, embeddings.

use std::time::Duration;

use http::StatusCode;
use pointsman::providers::http_client;
use serde_json::{Value, json};

use crate::program::{self, Program};
use crate::served::House;
use crate::upstream::{Fault, Upstream, Wire, full_answer};

fn client() -> reqwest::Client {
    http_client(Duration::from_secs(1)).unwrap()
}

async fn post(http: &reqwest::Client, url: &str, body: &Value) -> (StatusCode, Value) {
    let answer = http.post(url).body(body.to_string()).send().await.unwrap();
    let status = answer.status();
    let text = answer.text().await.unwrap();
    (
        status,
        serde_json::from_str(&text).unwrap_or_else(|_| panic!("{status}: {text}")),
    )
}

/// The events of a stream, each as its name and data.
async fn events(http: &reqwest::Client, url: &str, body: &Value) -> Vec<(String, Value)> {
    let answer = http.post(url).body(body.to_string()).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert!(
        answer.headers()["content-type"]
            .to_str()
            .unwrap()
            .starts_with("text/event-stream")
    );
    parsed(&answer.text().await.unwrap())
}

fn parsed(text: &str) -> Vec<(String, Value)> {
    let frames = text.split_terminator("\n\n").map(|frame| {
        let (name, data) = frame.split_once('\n').unwrap_or_else(|| panic!("{text}"));
        let data = data.strip_prefix("data: ").unwrap();
        let name = name.strip_prefix("event: ").unwrap();
        (name.to_owned(), serde_json::from_str(data).unwrap())
    });
    frames.collect()
}

/// What stands at `path` in the events of that name, put together.
fn texts(events: &[(String, Value)], name: &str, path: &str) -> String {
    let told = events.iter().filter(|(event, _)| event == name);
    told.filter_map(|(_, data)| data.pointer(path)?.as_str())
        .collect()
}

async fn house(name: &str, wire: Wire, fault: Fault) -> (Upstream, House) {
    let upstream = Upstream::always(name, wire, fault).await;
    let house = House::open(&[(name.to_owned(), &upstream)], &[]).await;
    (upstream, house)
}

fn message(model: &str, stream: bool) -> Value {
    json!({
        "model": model, "max_tokens": 100, "stream": stream, "thinking": {"type": "enabled", "budget_tokens": 1024},
        "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
        "messages": [{"role": "user", "content": "please ask-1"}],
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_are_answered_by_every_kind_of_provider() {
    let http = client();
    for wire in [Wire::OpenAi, Wire::Anthropic, Wire::Gemini] {
        let (upstream, house) = house("p", wire, Fault::None).await;
        let url = format!("http://{}/v1/messages", house.address);
        let (status, whole) = post(&http, &url, &message("p/m", false)).await;
        assert_eq!(status, StatusCode::OK, "{whole}");
        let full = full_answer("p", "ask-1");
        assert_eq!(whole["content"], json!([{"type": "text", "text": full}]));
        assert_eq!(
            (&whole["type"], &whole["stop_reason"]),
            (&json!("message"), &json!("end_turn"))
        );
        assert_eq!(whole["usage"]["input_tokens"], 11);
        assert!(whole["usage"]["cost"].as_f64().unwrap() > 0.0);
        assert!(whole["id"].as_str().unwrap().starts_with("msg_"));
        let heard = upstream.heard();
        match wire {
            // What is Anthropic's own goes to Anthropic as it came, and to nobody else.
            Wire::Anthropic => {
                assert_eq!(heard["system"][0]["cache_control"]["type"], "ephemeral");
                assert_eq!(heard["thinking"]["budget_tokens"], 1024);
            }
            Wire::OpenAi | Wire::Gemini => {
                let text = heard.to_string();
                assert!(
                    !text.contains("thinking") && !text.contains("anthropic"),
                    "{text}"
                );
            }
        }
        let events = events(&http, &url, &message("p/m", true)).await;
        let names: Vec<&str> = events.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!((names[0], names[1]), ("message_start", "content_block_start"));
        assert_eq!(
            names[names.len() - 3..],
            ["content_block_stop", "message_delta", "message_stop"]
        );
        assert_eq!(texts(&events, "content_block_delta", "/delta/text"), full);
        let (_, end) = &events[events.len() - 2];
        assert_eq!(end["usage"]["input_tokens"], 11, "{end}");
    }
}

/// Anthropic tells which of the request's stop sequences ended the answer; OpenAI's `stop` is the same for both, and
/// some who speak its format tell it beside that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_sequence_is_told_where_the_provider_tells_it() {
    const ANTHROPIC_WHOLE: &str = r#"{"id":"msg_1","type":"message","role":"assistant","model":"m",
        "content":[{"type":"text","text":"One"}],"stop_reason":"stop_sequence","stop_sequence":"END",
        "usage":{"input_tokens":11,"output_tokens":1}}"#;
    const ANTHROPIC_STREAM: &str = concat!(
        r#"data: {"type":"message_start","message":{"id":"msg_1","usage":{"input_tokens":11,"output_tokens":1}}}"#,
        "\n\n",
        r#"data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":"One"}}"#,
        "\n\n",
        r#"data: {"type":"content_block_stop","index":0}"#,
        "\n\n",
        r#"data: {"type":"message_delta","delta":{"stop_reason":"stop_sequence","stop_sequence":"END"}}"#,
        "\n\n",
        r#"data: {"type":"message_stop"}"#,
        "\n\n",
    );
    const OPENAI_WHOLE: &str = r#"{"id":"1","object":"chat.completion","created":1,"model":"m",
        "choices":[{"index":0,"finish_reason":"stop","message":{"role":"assistant","content":"One"}}],
        "usage":{"prompt_tokens":11,"completion_tokens":1}}"#;
    const OPENAI_STREAM: &str = concat!(
        r#"data: {"id":"1","model":"m","choices":[{"index":0,"delta":{"content":"One"},"finish_reason":null}]}"#,
        "\n\n",
        r#"data: {"id":"1","model":"m","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#,
        "\n\ndata: [DONE]\n\n",
    );
    const VLLM_WHOLE: &str = r#"{"id":"1","object":"chat.completion","created":1,"model":"m",
        "choices":[{"index":0,"finish_reason":"stop","stop_reason":"END","message":{"role":"assistant","content":"One"}}],
        "usage":{"prompt_tokens":11,"completion_tokens":1}}"#;
    const VLLM_STREAM: &str = concat!(
        r#"data: {"id":"1","model":"m","choices":[{"index":0,"delta":{"content":"One"},"finish_reason":null,"stop_reason":null}]}"#,
        "\n\n",
        r#"data: {"id":"1","model":"m","choices":[{"index":0,"delta":{"content":""},"finish_reason":"stop","stop_reason":"END"}]}"#,
        "\n\ndata: [DONE]\n\n",
    );
    let (told, untold) = (json!(["stop_sequence", "END"]), json!(["end_turn", Value::Null]));
    let http = client();
    for (wire, stream, body, expected) in [
        (Wire::Anthropic, false, ANTHROPIC_WHOLE, &told),
        (Wire::Anthropic, true, ANTHROPIC_STREAM, &told),
        (Wire::OpenAi, false, OPENAI_WHOLE, &untold),
        (Wire::OpenAi, true, OPENAI_STREAM, &untold),
        (Wire::OpenAi, false, VLLM_WHOLE, &told),
        (Wire::OpenAi, true, VLLM_STREAM, &told),
    ] {
        let (upstream, house) = house("p", wire, Fault::Says(200, "", body)).await;
        let url = format!("http://{}/v1/messages", house.address);
        let mut asked = message("p/m", stream);
        asked["stop_sequences"] = json!(["STOP", "END"]);
        let end = if stream {
            let mut events = events(&http, &url, &asked).await;
            assert_eq!(events.last().unwrap().0, "message_stop");
            events.remove(events.len() - 2).1["delta"].take()
        } else {
            post(&http, &url, &asked).await.1
        };
        assert_eq!(
            &json!([end["stop_reason"], end["stop_sequence"]]),
            expected,
            "{wire:?} {end}"
        );
        let stops = if wire == Wire::Anthropic {
            "stop_sequences"
        } else {
            "stop"
        };
        assert_eq!(upstream.heard()[stops], asked["stop_sequences"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_breaks_says_so_in_every_schema() {
    let http = client();
    let (_upstream, house) = house("p", Wire::OpenAi, Fault::ResetMidStream).await;
    let url = |path: &str| format!("http://{}{path}", house.address);
    let told = events(&http, &url("/v1/messages"), &message("p/m", true)).await;
    let (name, error) = told.last().unwrap();
    assert_eq!(
        (name.as_str(), &error["error"]["type"]),
        ("error", &json!("api_error"))
    );
    assert!(told.iter().all(|(name, _)| name != "message_stop"));
    let asked = json!({"model": "p/m", "input": "please ask-1", "stream": true});
    let told = events(&http, &url("/v1/responses"), &asked).await;
    let (name, failed) = told.last().unwrap();
    assert_eq!(
        (name.as_str(), &failed["response"]["status"]),
        ("response.failed", &json!("failed"))
    );
    assert_eq!(failed["response"]["error"]["code"], "provider_unavailable");
    let (status, whole) = post(&http, &url("/v1/messages"), &message("p/m", false)).await;
    assert_eq!(
        (status.as_u16(), &whole["error"]["type"]),
        (502, &json!("api_error")),
        "{whole}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_key_is_one_run_in_every_schema() {
    let http = client();
    let (upstream, house) = house("p", Wire::OpenAi, Fault::Trickle(50)).await;
    let asked = [
        ("/v1/messages", message("p/m", true)),
        (
            "/v1/responses",
            json!({"model": "p/m", "input": "please ask-1", "stream": true}),
        ),
    ];
    for (number, (path, body)) in asked.into_iter().enumerate() {
        let ask = || {
            let request = http
                .post(format!("http://{}{path}", house.address))
                .header("idempotency-key", "one")
                .body(body.to_string());
            async { request.send().await.unwrap().text().await.unwrap() }
        };
        let (first, second) = tokio::join!(ask(), ask());
        assert_eq!(first, second);
        assert!(first.contains("ask-1"), "{first}");
        assert_eq!(first, ask().await);
        assert_eq!(upstream.requests(), number + 1, "the paths' keys are apart");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn responses_are_whole_or_told_event_by_event() {
    let http = client();
    let (_upstream, house) = house("p", Wire::Anthropic, Fault::None).await;
    let url = format!("http://{}/v1/responses", house.address);
    let full = full_answer("p", "ask-1");
    let asked = json!({"model": "p/m", "input": [{"role": "user", "content": "please ask-1"}], "instructions": "Brief."});
    let (status, whole) = post(&http, &url, &asked).await;
    assert_eq!(status, StatusCode::OK, "{whole}");
    assert_eq!(
        (&whole["object"], &whole["status"]),
        (&json!("response"), &json!("completed"))
    );
    assert_eq!(whole["output"][0]["content"][0]["text"], full);
    assert_eq!(
        (&whole["usage"]["input_tokens"], &whole["instructions"]),
        (&json!(11), &json!("Brief."))
    );
    let mut streamed = asked;
    streamed["stream"] = true.into();
    let events = events(&http, &url, &streamed).await;
    assert_eq!(
        (events[0].0.as_str(), events[events.len() - 1].0.as_str()),
        ("response.created", "response.completed")
    );
    assert_eq!(texts(&events, "response.output_text.delta", "/delta"), full);
    let kept = json!({"model": "p/m", "input": "x", "previous_response_id": "resp_1"});
    let (status, refusal) = post(&http, &url, &kept).await;
    assert_eq!(
        (status.as_u16(), &refusal["error"]["param"]),
        (400, &json!("previous_response_id"))
    );
}

#[tokio::test]
async fn keys_errors_scores_and_counts_are_anthropics_on_its_path() {
    let folder = tempfile::tempdir().unwrap();
    let toml =
        program::simulated(folder.path()).replace("[server]\n", "[server]\napi_keys_env = [\"TEST_KEY\"]\n");
    let program = Program::serve(folder.path(), &toml, &[("TEST_KEY", "sesame")]);
    let (status, error) = post(&client(), &program.url("/v1/messages"), &message("auto", false)).await;
    assert_eq!(
        (status, &error["type"], &error["error"]["type"]),
        (
            StatusCode::UNAUTHORIZED,
            &json!("error"),
            &json!("authentication_error")
        ),
    );
    let mut headers = http::HeaderMap::new();
    headers.insert("x-api-key", "sesame".parse().unwrap());
    let http = reqwest::Client::builder()
        .default_headers(headers)
        .build()
        .unwrap();
    for (body, expected, kind) in [
        (json!({"model": "auto"}), 400, "invalid_request_error"),
        (
            json!({"model": "nope", "messages": [{"role": "user", "content": "x"}]}),
            404,
            "not_found_error",
        ),
    ] {
        let (status, error) = post(&http, &program.url("/v1/messages"), &body).await;
        assert_eq!(
            (status.as_u16(), &error["error"]["type"]),
            (expected, &json!(kind)),
            "{error}"
        );
    }
    let asked = json!({"model": "auto", "max_tokens": 50, "messages": [{"role": "user", "content": "How old is the sea?"}]});
    let (_, answer) = post(&http, &program.url("/v1/messages"), &asked).await;
    let score = json!({"id": answer["id"], "score": 0.5});
    let (status, told) = post(&http, &program.url("/v1/feedback"), &score).await;
    assert_eq!(
        (status, &told["recorded"]),
        (StatusCode::OK, &json!(true)),
        "{told}"
    );
    let (status, count) = post(&http, &program.url("/v1/messages/count_tokens"), &asked).await;
    assert_eq!(status, StatusCode::OK);
    assert!(
        (3..40).contains(&count["input_tokens"].as_u64().unwrap()),
        "{count}"
    );
}

#[tokio::test]
async fn texts_are_embedded_priced_and_logged() {
    let folder = tempfile::tempdir().unwrap();
    let toml = program::simulated(folder.path());
    let provider = toml
        .lines()
        .find_map(|line| line.strip_prefix("name = \"sim-"))
        .unwrap();
    let provider = format!("sim-{}", provider.trim_end_matches('"'));
    let toml = format!(
        "{toml}\n[[models]]\nid = \"{provider}/vectors\"\nkind = \"embedding\"\n[models.price]\ninput_per_mtok = 1000.0\n"
    );
    let program = Program::serve(folder.path(), &toml, &[]);
    let http = client();
    let model = format!("{provider}/vectors");
    let url = program.url("/v1/embeddings");
    let asked = json!({"model": model, "input": ["a green hill", "a green field"], "dimensions": 8});
    let answer = http.post(&url).body(asked.to_string()).send().await.unwrap();
    let decision = answer.headers()["x-router-decision-id"]
        .to_str()
        .unwrap()
        .to_owned();
    let cost = answer.headers()["x-router-cost-usd"].to_str().unwrap().to_owned();
    let answer: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
    assert_eq!(
        (&answer["object"], &answer["model"]),
        (&json!("list"), &json!(model))
    );
    assert_eq!(answer["data"][1]["index"], 1);
    assert_eq!(answer["data"][0]["embedding"].as_array().unwrap().len(), 8);
    // 3 + 4 tokens at a thousand dollars a million.
    assert_eq!(
        (&answer["usage"]["prompt_tokens"], &answer["usage"]["cost"]),
        (&json!(7), &json!(0.007))
    );
    assert_eq!(cost.parse::<f64>().unwrap(), 0.007);
    let in_base64 = json!({"model": model, "input": "a green hill", "encoding_format": "base64"});
    let (_, answer) = post(&http, &url, &in_base64).await;
    assert!(answer["data"][0]["embedding"].is_string(), "{answer}");
    let chat = |model: &str| json!({"model": model, "messages": [{"role": "user", "content": "x"}]});
    for (path, body, param) in [
        ("/v1/embeddings", json!({"model": "auto", "input": "x"}), "model"),
        ("/v1/embeddings", json!({"model": model}), "input"),
        ("/v1/embeddings", json!({"model": model, "input": []}), "input"),
        (
            "/v1/embeddings",
            json!({"model": model, "input": {"text": "x"}}),
            "input",
        ),
        ("/v1/chat/completions", chat(&model), "model"),
    ] {
        let (status, error) = post(&http, &program.url(path), &body).await;
        assert_eq!(
            (status.as_u16(), &error["error"]["param"]),
            (400, &json!(param)),
            "{body}: {error}"
        );
    }
    assert_eq!(program.terminate(), Some(0));
    let reader = pointsman::store::Reader::open(&folder.path().join("data")).unwrap();
    let joined = reader.joined(&decision).unwrap().unwrap();
    assert_eq!(joined.decision.arm.as_str(), model);
    assert_eq!(joined.attempts[0].cost.unwrap().nanos(), 7_000_000);
}

#[tokio::test]
async fn the_description_names_every_path_and_every_path_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let program = Program::serve(folder.path(), &program::simulated(folder.path()), &[]);
    let http = client();
    let text = http
        .get(program.url("/openapi.json"))
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    let document: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    let paths = document["paths"].as_object().unwrap();
    let routes = include_str!("../../src/server/mod.rs");
    let written: Vec<&str> = routes
        .split("\"/")
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
        .collect();
    assert!(written.len() >= 18, "{written:?}");
    for path in written {
        let path = format!("/{}", path.replace("{*", "{"));
        assert!(paths.contains_key(&path), "{path} is not described");
    }
    for (path, methods) in paths {
        for method in methods.as_object().unwrap().keys() {
            let method = reqwest::Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
            let filled = path
                .replace("{id}", "auto")
                .replace("{model}", "auto")
                .replace("{name}", "routing")
                .replace("{file}", "report.md");
            let answer = http
                .request(method.clone(), program.url(&filled))
                .send()
                .await
                .unwrap();
            let status = answer.status();
            let body = answer.text().await.unwrap();
            assert!(status != StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
            assert!(!body.contains("There is no /"), "{method} {path}: {body}");
        }
    }
}
