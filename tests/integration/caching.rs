//! Answers that are given again: to whom, how, what they cost, and what is never kept.

use std::ops::Deref;
use std::time::Duration;

use futures_util::StreamExt;
use pointsman::config::{self, Source};
use serde_json::{Value, json};

use crate::running::Running;
use crate::upstream::{Fault, Upstream, Wire, full_answer};

/// The server with one upstream `up`, whose model `up/m` the routes have.
struct House {
    server: Running,
    toml: String,
    _folder: tempfile::TempDir,
}

impl House {
    async fn open(upstream: &Upstream, cache: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let toml = format!(
            "[server]\nlisten = \"127.0.0.1:0\"\ndata_dir = {:?}\napi_keys_env = [\"ANNA\", \"BERT\"]\n\
             [[providers]]\nname = \"up\"\nkind = \"openai\"\nbase_url = \"{}\"\n\
             [[models]]\nid = \"up/m\"\ncontext_window = 8192\nmax_output_tokens = 1024\nmodalities = [\"text\"]\n\
             [models.price]\ninput_per_mtok = 1.0\noutput_per_mtok = 2.0\n\
             [[routes]]\nname = \"auto\"\nmodels = [\"up/m\"]\ncache = {cache}\n\
             [[routes]]\nname = \"plain\"\nmodels = [\"up/m\"]\n",
            folder.path().join("data"),
            upstream.base_url(),
        );
        Self {
            server: Running::start(read(&toml), 7).await,
            toml,
            _folder: folder,
        }
    }

    fn ask(&self, ask: &str, stream: bool) -> reqwest::RequestBuilder {
        self.send("auto", "anna", ask, json!({"stream": stream}))
    }

    fn send(&self, model: &str, key: &str, ask: &str, more: Value) -> reqwest::RequestBuilder {
        let mut body =
            json!({"model": model, "messages": [{"role": "user", "content": format!("please {ask}")}]});
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        self.post("/v1/chat/completions", &body)
            .header("authorization", format!("Bearer {key}"))
    }

    async fn get(&self, path: &str) -> Value {
        let answer = self.http.get(self.url(path)).header("x-api-key", "anna");
        serde_json::from_str(&answer.send().await.unwrap().text().await.unwrap()).unwrap()
    }

    async fn score(&self, id: &str, score: f64) {
        let scored = json!({"id": id, "score": score});
        let sent = self.post("/v1/feedback", &scored).header("x-api-key", "anna");
        assert_eq!(sent.send().await.unwrap().status().as_u16(), 200);
    }

    async fn figures(&self) -> Value {
        self.get("/v1/telemetry").await["caches"]["auto"].clone()
    }
}

impl Deref for House {
    type Target = Running;

    fn deref(&self) -> &Running {
        &self.server
    }
}

fn read(toml: &str) -> config::Config {
    let keys = |name: &str| match name {
        "ANNA" => Some("anna".to_owned()),
        "BERT" => Some("bert".to_owned()),
        _ => None,
    };
    config::parse(toml, Source::Text, &keys).unwrap()
}

/// An answer with what its headers say.
#[derive(Debug)]
struct Seen {
    status: u16,
    cache: Option<String>,
    headers: http::HeaderMap,
    id: String,
    text: String,
    usage: Value,
    /// The contents of each frame of a stream.
    frames: Vec<String>,
}

async fn see(request: reqwest::RequestBuilder) -> Seen {
    let answer = request.send().await.unwrap();
    let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
    let body = answer.text().await.unwrap();
    let events: Vec<Value> = if body.starts_with("data: ") {
        assert!(body.ends_with("data: [DONE]\n\n"), "{body}");
        body.split("\n\n")
            .filter_map(|event| serde_json::from_str(event.strip_prefix("data: ")?).ok())
            .collect()
    } else {
        vec![serde_json::from_str(&body).unwrap()]
    };
    let piece = |event: &Value| {
        let choice = &event["choices"][0];
        let text = choice["delta"]["content"]
            .as_str()
            .or(choice["message"]["content"].as_str());
        text.unwrap_or_default().to_owned()
    };
    let frames: Vec<String> = events.iter().map(piece).collect();
    Seen {
        status,
        cache: headers
            .get("x-router-cache")
            .map(|value| value.to_str().unwrap().to_owned()),
        headers,
        id: events[0]["id"].as_str().unwrap_or_default().to_owned(),
        text: frames.concat(),
        usage: events.last().unwrap()["usage"].clone(),
        frames,
    }
}

impl Seen {
    fn word(&self) -> &str {
        self.cache.as_deref().unwrap_or("none")
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_equal_request_is_answered_again_for_nothing_under_an_id_of_its_own() {
    let upstream = Upstream::always("up", Wire::OpenAi, Fault::None).await;
    let house = House::open(&upstream, "{ ttl_seconds = 60 }").await;
    for stream in [false, true] {
        let asked = upstream.requests();
        let ask = if stream { "ask-s" } else { "ask-w" };
        let first = see(house.ask(ask, stream)).await;
        let again = see(house.ask(ask, stream)).await;
        assert_eq!((first.word(), again.word()), ("miss", "hit"));
        assert_eq!(upstream.requests(), asked + 1);
        assert_eq!(again.text, full_answer("up", ask));
        assert_eq!(first.frames, again.frames, "the same chunks");
        assert!(
            first.id.starts_with("chatcmpl-") && again.id.starts_with("chatcmpl-") && first.id != again.id
        );
        assert_eq!(
            again.id,
            format!("chatcmpl-{}", again.header("x-router-decision-id"))
        );
        assert!(first.usage["cost"].as_f64().unwrap() > 0.0);
        assert_eq!(again.usage["cost"], json!(0.0));
        assert_eq!(first.usage["total_tokens"], again.usage["total_tokens"]);
        assert_eq!(
            (
                again.header("x-router-model"),
                again.header("x-router-strategy"),
                again.header("x-router-attempts")
            ),
            ("up/m", "cache", "0")
        );
        // Another client's is apart, and a route without a cache has none.
        let other = json!({"stream": stream});
        assert_eq!(
            see(house.send("auto", "bert", ask, other.clone())).await.word(),
            "miss"
        );
        assert_eq!(see(house.send("plain", "anna", ask, other)).await.word(), "none");
        // A score for the answer that was given again is taken; a bad one drops the answer.
        house.score(&again.id, 0.9).await;
        assert_eq!(see(house.ask(ask, stream)).await.word(), "hit");
        house.score(&again.id, 0.1).await;
        assert_eq!(see(house.ask(ask, stream)).await.word(), "miss");
    }
    house.app.dispatcher.idle().await;
    house.app.store.flush().await.unwrap();
    let figures = house.figures().await;
    assert_eq!(
        (&figures["hits"], &figures["misses"], &figures["evicted"]),
        (&json!(4), &json!(6), &json!(2))
    );
    let logged = house.app.store.reader().attempts_since(0, 100).unwrap();
    let hits: Vec<_> = logged
        .iter()
        .filter(|row| row.attempt.saved().is_some())
        .collect();
    assert_eq!((logged.len(), hits.len()), (12, 4));
    assert!(
        hits.iter()
            .all(|row| row.attempt.cost.is_some_and(|cost| cost.nanos() == 0))
    );
    let saved: i64 = hits.iter().map(|row| row.attempt.saved().unwrap().nanos()).sum();
    assert!(saved > 0);
    assert_eq!(figures["saved_usd"].as_f64().unwrap(), saved as f64 / 1e9);
    let reader = house.app.store.reader().clone();
    let data = house._folder.path().join("data");
    let made = pointsman::app::reports::write_routing(&reader, &data, pointsman::clock::wall());
    assert!(made.is_ok());
    let text = std::fs::read_to_string(data.join("reports/routing/report.json")).unwrap();
    let totals = &serde_json::from_str::<Value>(&text).unwrap()["totals"];
    assert_eq!(
        (&totals["requests"], &totals["cache_hits"], &totals["unpriced"]),
        (&json!(8), &json!(4), &json!(0))
    );
    assert_eq!(totals["cache_saved_usd"].as_f64().unwrap(), saved as f64 / 1e9);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whole_and_streamed_answers_stand_for_each_other() {
    let upstream = Upstream::always("up", Wire::OpenAi, Fault::None).await;
    let house = House::open(&upstream, "{ ttl_seconds = 60 }").await;
    for stream in [false, true] {
        let ask = if stream { "ask-s" } else { "ask-w" };
        let asked = upstream.requests();
        let first = see(house.ask(ask, stream)).await;
        let other = see(house.ask(ask, !stream)).await;
        assert_eq!((first.word(), other.word()), ("miss", "hit"));
        assert_eq!(upstream.requests(), asked + 1);
        assert_eq!(other.text, full_answer("up", ask));
        assert_eq!(
            (&other.usage["cost"], other.frames.len() > 1),
            (&json!(0.0), !stream)
        );
        assert_eq!(first.usage["total_tokens"], other.usage["total_tokens"]);
        assert_ne!(first.id, other.id);
    }
    // Who asks for a whole answer while it is streamed to another waits for its end, and the reverse.
    for stream in [false, true] {
        let upstream = Upstream::always("up", Wire::OpenAi, Fault::Trickle(30)).await;
        let house = House::open(&upstream, "{ ttl_seconds = 60 }").await;
        let (leader, follower) =
            tokio::join!(see(house.ask("ask-1", stream)), see(house.ask("ask-1", !stream)),);
        assert_eq!(upstream.requests(), 1, "{} {}", leader.word(), follower.word());
        assert_eq!(leader.text, follower.text);
        assert_eq!(leader.text, full_answer("up", "ask-1"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn equal_requests_at_the_same_time_are_one_upstream() {
    for stream in [false, true] {
        let upstream = Upstream::always("up", Wire::OpenAi, Fault::Trickle(60)).await;
        let house = House::open(&upstream, "{ ttl_seconds = 60 }").await;
        let asks = (0..6).map(|_| see(house.ask("ask-1", stream)));
        let seen = futures_util::future::join_all(asks).await;
        assert_eq!(upstream.requests(), 1);
        let mut words: Vec<&str> = seen.iter().map(Seen::word).collect();
        words.sort_unstable();
        assert_eq!(words, ["hit", "hit", "hit", "hit", "hit", "miss"]);
        let ids: std::collections::BTreeSet<&str> = seen.iter().map(|seen| seen.id.as_str()).collect();
        assert_eq!(ids.len(), 6);
        for one in &seen {
            assert_eq!(one.text, full_answer("up", "ask-1"));
            assert_eq!(one.usage["cost"] == json!(0.0), one.word() == "hit");
        }
        assert_eq!(house.figures().await["joined"], json!(5));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leaves_takes_nothing_from_those_who_follow() {
    // Whoever leaves the second answer does so seconds before its end.
    let upstream = Upstream::scripted("up", Wire::OpenAi, |number, _| match number {
        0 => Fault::Trickle(150),
        1 => Fault::Trickle(2_000),
        _ => Fault::None,
    })
    .await;
    let house = House::open(&upstream, "{ ttl_seconds = 60 }").await;
    let leader = house.ask("ask-1", true).send().await.unwrap();
    let mut body = leader.bytes_stream();
    assert!(body.next().await.unwrap().is_ok());
    let follower = tokio::spawn(see(house.ask("ask-1", true)));
    // The follower is one as soon as it is counted.
    let joined = async {
        while house.figures().await["joined"] != json!(1) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), joined)
        .await
        .unwrap();
    drop(body);
    let seen = follower.await.unwrap();
    assert_eq!(
        (seen.word(), seen.text.as_str()),
        ("hit", full_answer("up", "ask-1").as_str())
    );
    assert_eq!(upstream.requests(), 1);
    assert_eq!(
        see(house.ask("ask-1", true)).await.word(),
        "hit",
        "the answer was complete"
    );
    // Nobody follows: the upstream call ends with its client.
    let alone = house.ask("ask-2", true).send().await.unwrap();
    drop(alone);
    tokio::time::timeout(Duration::from_secs(5), house.app.dispatcher.idle())
        .await
        .expect("the request goes on without its client");
    assert_eq!(see(house.ask("ask-2", true)).await.word(), "miss");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_and_halves_are_never_kept() {
    let faults = [
        Fault::Status(400, None),
        Fault::Truncated,
        Fault::ResetMidStream,
        Fault::ErrorInside200,
    ];
    let upstream = Upstream::scripted("up", Wire::OpenAi, move |_, ask| {
        let number = ask.trim_start_matches("ask-").parse::<usize>();
        number.map_or(Fault::None, |number| faults[number])
    })
    .await;
    let house = House::open(&upstream, "{}").await;
    for (number, fault) in faults.iter().enumerate() {
        for stream in [false, true] {
            for _ in 0..2 {
                let request = house.ask(&format!("ask-{number}"), stream);
                let answer = request
                    .header("x-router-timeout-ms", "1000")
                    .send()
                    .await
                    .unwrap();
                let word = answer.headers().get("x-router-cache").cloned();
                assert!(word.is_none_or(|word| word == "miss"), "{fault:?} {stream}");
                let body = answer.text().await.unwrap();
                assert!(body.contains("\"error\""), "{fault:?} {stream}: {body}");
            }
        }
    }
    let figures = house.figures().await;
    assert_eq!((&figures["hits"], &figures["kept"]), (&json!(0), &json!(0)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_say_how_the_cache_is_used() {
    let upstream = Upstream::always("up", Wire::OpenAi, Fault::None).await;
    let house = House::open(&upstream, "{ ttl_seconds = 60 }").await;
    let with = |name: &'static str, value: &'static str| see(house.ask("ask-1", false).header(name, value));
    assert_eq!(with("x-router-cache", "off").await.word(), "bypass");
    assert_eq!(with("cache-control", "no-store").await.word(), "bypass");
    assert_eq!(
        house.figures().await["kept"],
        json!(0),
        "what bypasses is not kept"
    );
    assert_eq!(with("cache-control", "no-cache").await.word(), "refresh");
    assert_eq!(with("x-router-cache", "read").await.word(), "hit");
    assert_eq!(with("cache-control", "max-age=3600").await.word(), "hit");
    assert_eq!(with("x-router-cache", "refresh").await.word(), "refresh");
    assert_eq!(upstream.requests(), 4);
    let bad = with("x-router-cache", "maybe").await;
    assert_eq!(bad.status, 400);
    // Volatile fields make no difference; those that may change the answer do.
    let more = |more: Value| see(house.send("auto", "anna", "ask-1", more));
    let same = json!({"stream": false, "session_id": "s", "metadata": {"trace": "1"}, "routing": {"deadline_ms": 9000}});
    assert_eq!(more(same).await.word(), "hit");
    assert_eq!(
        more(json!({"stream": false, "temperature": 0.1})).await.word(),
        "miss"
    );
    assert_eq!(more(json!({"stream": false, "user": "u1"})).await.word(), "miss");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shared_answers_cross_clients_and_a_reload_keeps_what_still_holds() {
    let upstream = Upstream::always("up", Wire::OpenAi, Fault::None).await;
    let house = House::open(&upstream, "{ ttl_seconds = 60, shared = true }").await;
    let ask = |key: &'static str| see(house.send("auto", key, "ask-1", json!({"user": key})));
    assert_eq!(ask("anna").await.word(), "miss");
    assert_eq!(ask("bert").await.word(), "hit");
    // Another price does not change the answer; another output limit may.
    let dearer = house.toml.replace("input_per_mtok = 1.0", "input_per_mtok = 3.0");
    pointsman::app::reload::apply(&house.app, read(&dearer)).unwrap();
    assert_eq!(ask("anna").await.word(), "hit");
    let longer = house
        .toml
        .replace("max_output_tokens = 1024", "max_output_tokens = 2048");
    pointsman::app::reload::apply(&house.app, read(&longer)).unwrap();
    assert_eq!(ask("anna").await.word(), "miss");
    assert_eq!(house.figures().await["hits"], json!(2), "figures go on");
}

/// What a client sees of a question after `first` was answered.
async fn asked_after(house: &House, first: &str, question: &str) -> Seen {
    let ask = |text: &str| see(house.send("auto", "anna", "x", said(text)));
    ask(first).await;
    ask(question).await
}

fn said(text: &str) -> Value {
    json!({"stream": false, "messages": [
        {"role": "system", "content": "You help customers of a shop."}, {"role": "user", "content": text}]})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_that_means_the_same_is_answered_again_and_one_that_does_not_is_not() {
    let upstream = Upstream::always("up", Wire::OpenAi, Fault::None).await;
    let cache = "{ shared = true, semantic = { threshold = 0.8, categories = { maths = 1.0 } } }";
    // Embedding is not fast here; a late one is a miss.
    let house = House::open(&upstream, &format!("{cache}\n[embedding]\nbudget_ms = 5000")).await;
    let first = "ask-1 How do I send an item back to the shop?";
    let alike = asked_after(&house, first, "ask-1 How can I send an item back to the shop?").await;
    assert_eq!(alike.word(), "hit", "{alike:?}");
    let similarity: f32 = alike.header("x-router-cache-similarity").parse().unwrap();
    assert!((0.8..1.0).contains(&similarity));
    assert_eq!(
        (alike.usage["cost"].clone(), alike.header("x-router-strategy")),
        (json!(0.0), "cache")
    );
    let ask = |key: &'static str, more: Value| see(house.send("auto", key, "x", more));
    // A "not" or a number makes it another question, however alike; so does anything else in the request.
    let other = "ask-1 How can I not send an item back to the shop?";
    assert_eq!(ask("anna", said(other)).await.word(), "miss");
    let again = "ask-1 How could I send an item back to the shop?";
    let mut with_tools = said(again);
    with_tools["tools"] = json!([{"type": "function", "function": {"name": "f"}}]);
    let mut with_turns = said(again);
    with_turns["messages"]
        .as_array_mut()
        .unwrap()
        .insert(1, json!({"role": "assistant", "content": "Hi."}));
    let mut warmer = said(again);
    warmer["temperature"] = json!(1.5);
    for different in [with_turns, warmer] {
        assert_eq!(ask("anna", different).await.word(), "miss");
    }
    let tools = ask("anna", with_tools).await;
    assert_ne!(tools.word(), "hit");
    // Never across clients, though equal questions are shared here.
    assert_eq!(ask("bert", said(again)).await.word(), "miss");
    assert_eq!(ask("bert", said(first)).await.word(), "hit");
    // A category with a threshold of its own.
    let mut maths = said("ask-1 How might I send an item back to the shop?");
    maths["routing"] = json!({"category": "maths"});
    assert_eq!(ask("anna", maths).await.word(), "miss");
    // A bad score for what was given takes the answer away.
    house.score(&alike.id, 0.0).await;
    assert_eq!(ask("anna", said(first)).await.word(), "miss");
    assert_eq!(house.figures().await["alike"], json!(1));
}
