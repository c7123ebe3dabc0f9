//! Conversations: which model goes on with them, what its provider has cached, and whose thoughts are passed on.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::routing::post;
use pointsman::app::{App, Options, Parts};
use pointsman::config::{self, Source};
use pointsman::providers::http_client;
use pointsman::server;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// A provider of both wire formats that keeps every body, and caches prompts as providers do: what a prompt has in
/// common with the model's last one is read from the cache.
#[derive(Clone, Default)]
struct Fake(Arc<Mutex<Vec<Value>>>);

impl Fake {
    async fn open(&self) -> (SocketAddr, JoinHandle<()>) {
        let app = Router::new()
            .route("/v1/chat/completions", post(openai))
            .route("/v1/messages", post(anthropic))
            .with_state(self.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(async move {
            let _ = axum::serve(listener, app).await;
        });
        (address, serving)
    }

    fn last(&self) -> Value {
        self.0.lock().unwrap().last().unwrap().clone()
    }

    /// Keeps `body`; the prompt's tokens, four bytes each, and those of them that were there before.
    fn take(&self, body: Value) -> (usize, usize) {
        let prompt = body["messages"].to_string();
        let mut bodies = self.0.lock().unwrap();
        let before = bodies.iter().rev().find(|other| other["model"] == body["model"]);
        let common = before.map_or(0, |other| {
            let other = other["messages"].to_string();
            prompt
                .bytes()
                .zip(other.bytes())
                .take_while(|(a, b)| a == b)
                .count()
        });
        bodies.push(body);
        (prompt.len() / 4, common / 4)
    }
}

async fn openai(State(fake): State<Fake>, body: String) -> String {
    let (input, cached) = fake.take(serde_json::from_str(&body).unwrap());
    json!({
        "id": "chatcmpl-up", "object": "chat.completion", "created": 1, "model": "m",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "fine"}}],
        "usage": {"prompt_tokens": input, "completion_tokens": 20, "total_tokens": input + 20,
                  "prompt_tokens_details": {"cached_tokens": cached}},
    })
    .to_string()
}

async fn anthropic(State(fake): State<Fake>, body: String) -> String {
    let (input, _) = fake.take(serde_json::from_str(&body).unwrap());
    json!({
        "id": "msg_up", "type": "message", "role": "assistant", "model": "m", "stop_reason": "tool_use",
        "content": [
            {"type": "thinking", "thinking": "hm", "signature": "sig-of-claude"},
            {"type": "tool_use", "id": "toolu_0123456789012345678901234567890123456789", "name": "look", "input": {}},
        ],
        "usage": {"input_tokens": input, "output_tokens": 20},
    })
    .to_string()
}

struct House {
    app: App,
    address: SocketAddr,
    http: reqwest::Client,
    serving: [JoinHandle<()>; 2],
    fake: Fake,
    _folder: tempfile::TempDir,
}

impl House {
    async fn open(blocks: &str) -> Self {
        let fake = Fake::default();
        let (upstream, faking) = fake.open().await;
        let folder = tempfile::tempdir().unwrap();
        let toml = format!(
            "[server]\nlisten = \"127.0.0.1:0\"\ndata_dir = {:?}\n\
             [[providers]]\nname = \"up\"\nkind = \"openai\"\nbase_url = \"http://{upstream}/v1\"\n\
             [[providers]]\nname = \"claude\"\nkind = \"anthropic\"\nbase_url = \"http://{upstream}\"\n\
             prompt_cache = true\n{blocks}",
            folder.path().join("data"),
        );
        let config = config::parse(&toml, Source::Text, &|_| None).unwrap();
        let models_dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
        let app = Parts::start(config, &Options { models_dir, seed: 7 }).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let house = app.clone();
        let serving = tokio::spawn(async move {
            let _ = server::serve(listener, house, std::future::pending()).await;
        });
        Self {
            app,
            address,
            http: http_client(Duration::from_secs(1)).unwrap(),
            serving: [serving, faking],
            fake,
            _folder: folder,
        }
    }

    async fn post(&self, path: &str, body: &Value) -> Value {
        let sent = self
            .http
            .post(format!("http://{}{path}", self.address))
            .header("content-type", "application/json")
            .body(body.to_string());
        let answer = sent.send().await.unwrap().text().await.unwrap();
        let answer: Value = serde_json::from_str(&answer).unwrap();
        assert!(answer["error"].is_null(), "{answer}");
        answer
    }

    async fn telemetry(&self) -> Value {
        let answer = self.http.get(format!("http://{}/v1/telemetry", self.address));
        serde_json::from_str(&answer.send().await.unwrap().text().await.unwrap()).unwrap()
    }
}

impl Drop for House {
    fn drop(&mut self) {
        self.serving.iter().for_each(JoinHandle::abort);
    }
}

fn model(id: &str, input: f64, cached: f64, output: f64) -> String {
    format!(
        "[[models]]\nid = \"{id}\"\ncontext_window = 100000\nmax_output_tokens = 64000\nmodalities = [\"text\"]\n\
         tools = true\n[models.price]\ninput_per_mtok = {input:?}\ncached_input_per_mtok = {cached:?}\n\
         output_per_mtok = {output:?}\n"
    )
}

/// A conversation with so many turns behind it; each turn's text is long.
fn conversation(turns: usize) -> Vec<Value> {
    let mut messages = vec![json!({"role": "system", "content": "You help with contracts. ".repeat(400)})];
    for turn in 0..=turns {
        let question = format!("Question {turn}. {}", "Please explain. ".repeat(40));
        messages.push(json!({"role": "user", "content": question}));
        if turn < turns {
            messages.push(json!({"role": "assistant", "content": "fine"}));
        }
    }
    messages
}

/// The id of a conversation comes from wherever clients put it, the body's own field first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conversation_goes_by_its_usual_names() {
    let house = House::open(&model("up/m", 1.0, 0.1, 2.0)).await;
    let field = |name: &str| json!({name: "in-field"});
    let tag = |name: &str| json!({"metadata": {name: "in-tag"}});
    let cases: [(Value, Option<&str>, &str); 11] = [
        (field("session_id"), None, "in-field"),
        (field("prompt_cache_key"), None, "in-field"),
        (tag("session_id"), None, "in-tag"),
        (tag("conversation_id"), None, "in-tag"),
        (tag("thread_id"), None, "in-tag"),
        (json!({}), Some("x-session-id"), "in-header"),
        (json!({}), Some("x-conversation-id"), "in-header"),
        (json!({}), Some("x-claude-code-session-id"), "in-header"),
        (json!({}), Some("x-litellm-session-id"), "in-header"),
        (json!({}), Some("helicone-session-id"), "in-header"),
        (field("session_id"), Some("x-session-id"), "in-field"),
    ];
    for (more, header, _) in &cases {
        let mut body = json!({"model": "up/m", "messages": [{"role": "user", "content": "hi"}]});
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        let mut sent = house
            .http
            .post(format!("http://{}/v1/chat/completions", house.address))
            .header("content-type", "application/json")
            .body(body.to_string());
        if let Some(header) = header {
            sent = sent.header(*header, "in-header");
        }
        assert_eq!(sent.send().await.unwrap().status().as_u16(), 200);
    }
    house.app.dispatcher.idle().await;
    house.app.store.flush().await.unwrap();
    let rows = house.app.store.reader().attempts_since(0, 100).unwrap();
    let named: Vec<_> = rows
        .into_iter()
        .map(|row| row.decision.unwrap().episode.as_ref().unwrap().to_string())
        .collect();
    assert_eq!(named, cases.map(|(_, _, name)| name.to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conversation_changes_its_model_only_when_that_saves_more_than_the_lost_prefix() {
    // Good enough, all of them: what the prior thinks of their prices is within the margin. `near` is a third cheaper
    // by list, `far` thirty times.
    let blocks = [
        model("up/home", 3.0, 0.3, 15.0),
        model("up/near", 2.0, 0.2, 10.0),
        model("up/far", 0.1, 0.01, 0.5),
        "[[routes]]\nname = \"close\"\nmodels = [\"up/home\", \"up/near\"]\nquality_margin = 0.2\n"
            .to_owned(),
        "[[routes]]\nname = \"wide\"\nmodels = [\"up/home\", \"up/far\"]\nquality_margin = 1.0\n".to_owned(),
    ]
    .concat();
    let house = House::open(&blocks).await;
    let ask = |model: &str, turns: usize, session: Option<&str>| {
        let mut body = json!({"model": model, "messages": conversation(turns)});
        if let Some(session) = session {
            body["metadata"] = json!({"conversation_id": session});
        }
        body
    };
    // The conversation begins with a model that the client names, and goes on until the shares are learned.
    for turn in 0..6 {
        house
            .post("/v1/chat/completions", &ask("up/home", turn, Some("s")))
            .await;
    }
    house.app.store.flush().await.unwrap();
    let learned = async {
        while house.telemetry().await["prompt_cache"]["up/home"]["calls"] != json!(6) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), learned)
        .await
        .unwrap();
    let shares = house.telemetry().await["prompt_cache"]["up/home"].clone();
    assert!(shares["of_long_prefix"].as_f64().unwrap() > 0.85, "{shares}");
    // Within the conversation the dearer model stays; without it, the cheaper one is taken most of the time.
    let mut fresh = 0;
    for _ in 0..20 {
        let route = house.post("/v1/route", &ask("close", 6, Some("s"))).await;
        assert_eq!(route["selected"], "up/home", "{route}");
        assert_eq!(route["session"]["incumbent"], "up/home");
        let switch = &route["session"]["switches"][0];
        assert_eq!(
            (&switch["model"], &switch["worth_it"]),
            (&json!("up/near"), &json!(false))
        );
        assert!(switch["saving_usd"].as_f64() < switch["lost_prefix_usd"].as_f64());
        let home = &route["candidates"][0];
        assert!(home["expected_cached_tokens"].as_u64() > Some(2_000), "{home}");
        let alone = house.post("/v1/route", &ask("close", 6, None)).await;
        assert!(alone["session"].is_null());
        fresh += u32::from(alone["selected"] == "up/near");
    }
    assert!(fresh >= 15, "{fresh}");
    // A model that is cheap enough to read everything again is changed to, where any quality will do.
    let mut changed = 0;
    for _ in 0..20 {
        let route = house.post("/v1/route", &ask("wide", 6, Some("s"))).await;
        assert_eq!(
            route["session"]["switches"][0]["worth_it"],
            json!(true),
            "{route}"
        );
        changed += u32::from(route["selected"] == "up/far");
    }
    let last = house.post("/v1/route", &ask("wide", 6, Some("s"))).await;
    assert!(changed >= 15, "{changed} {last:#}");
    // The same session name over another conversation is another conversation.
    let mut other = ask("close", 6, Some("s"));
    other["messages"][0]["content"] = "Something else.".into();
    assert!(house.post("/v1/route", &other).await["session"].is_null());
    // The expected cost of the incumbent is near what it then costs: the prior of one half still counts a little, but
    // without the cache it would be five times as much.
    let expected = house.post("/v1/route", &ask("close", 6, Some("s"))).await;
    let expected = expected["candidates"][0]["expected_cost_usd"].as_f64().unwrap();
    let answer = house
        .post("/v1/chat/completions", &ask("close", 6, Some("s")))
        .await;
    let cost = answer["usage"]["cost"].as_f64().unwrap();
    assert!((1.0..1.7).contains(&(expected / cost)), "{expected} {cost}");
    assert!(answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64() > Some(1_000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thoughts_stay_with_the_model_that_had_them_and_tool_ids_hold_together() {
    let blocks = [
        model("claude/claude-sonnet-4-5", 3.0, 0.3, 15.0),
        model("claude/claude-opus-4-5", 5.0, 0.5, 25.0),
        model("up/m", 1.0, 0.1, 2.0),
    ]
    .concat();
    let house = House::open(&blocks).await;
    let tools = json!([{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]);
    let question = json!({"role": "user", "content": "Look it up. ".repeat(500)});
    let mut messages = vec![question];
    let ask = |model: &str, messages: &[Value]| {
        json!({"model": model, "session_id": "s", "reasoning_effort": "high", "max_tokens": 30_000,
               "tools": tools, "messages": messages})
    };
    let body = ask("claude/claude-sonnet-4-5", &messages);
    let first = house.post("/v1/chat/completions", &body).await;
    assert_eq!(
        house.fake.last()["messages"][0]["content"][0]["cache_control"],
        json!({"type": "ephemeral"}),
        "the beginning of a session is marked for the prompt cache"
    );
    let mut said = first["choices"][0]["message"].clone();
    assert_eq!(said["thinking_blocks"][0]["signature"], "sig-of-claude", "{said}");
    let call = said["tool_calls"][0]["id"].as_str().unwrap().to_owned();
    said["role"] = "assistant".into();
    messages.push(said);
    messages.push(json!({"role": "tool", "tool_call_id": call, "content": "found"}));

    // The same model sees its own thoughts, signature and all.
    house
        .post(
            "/v1/chat/completions",
            &ask("claude/claude-sonnet-4-5", &messages),
        )
        .await;
    let sent = house.fake.last();
    assert_eq!(
        sent["messages"][1]["content"][0]["signature"], "sig-of-claude",
        "{sent}"
    );
    assert_eq!(
        sent["messages"][1]["content"][1]["id"],
        sent["messages"][2]["content"][0]["tool_use_id"]
    );

    // Another one of the same provider does not, and is not told to think in the middle of another's tool loop.
    house
        .post("/v1/chat/completions", &ask("claude/claude-opus-4-5", &messages))
        .await;
    let sent = house.fake.last();
    assert!(!sent.to_string().contains("sig-of-claude"), "{sent}");
    assert!(sent["thinking"].is_null(), "{sent}");
    assert_eq!(
        sent["messages"][1]["content"][0]["id"],
        sent["messages"][2]["content"][0]["tool_use_id"]
    );

    // Nor does another provider; an id that is too long for it is shortened, the call's and its result's alike.
    let mut followed = messages.clone();
    followed.push(json!({"role": "assistant", "content": "Here it is."}));
    followed.push(json!({"role": "user", "content": "Thanks. And now?"}));
    house
        .post(
            "/v1/chat/completions",
            &ask("claude/claude-sonnet-4-5", &messages),
        )
        .await;
    house.post("/v1/chat/completions", &ask("up/m", &followed)).await;
    let sent = house.fake.last();
    assert!(!sent.to_string().contains("sig-of-claude"), "{sent}");
    let id = sent["messages"][1]["tool_calls"][0]["id"].as_str().unwrap();
    assert!(id.len() <= 40 && id != call, "{id}");
    assert_eq!(sent["messages"][2]["tool_call_id"], id);
}
