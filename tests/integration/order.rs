//! The order in which a request's models are asked, and how calls are spread over one model's deployments.

use std::time::Duration;

use serde_json::{Value, json};

use crate::served::{House, see};
use crate::upstream::{Fault, Upstream, Wire};

const PATIENCE: Duration = Duration::from_secs(10);

/// A server with these providers, `auto` over all of them.
async fn house(faults: &[(&str, Fault)]) -> (Vec<Upstream>, House) {
    let mut upstreams = Vec::new();
    for (name, fault) in faults {
        upstreams.push(Upstream::always(name, Wire::OpenAi, *fault).await);
    }
    let named: Vec<(String, &Upstream)> = faults
        .iter()
        .zip(&upstreams)
        .map(|((name, _), upstream)| ((*name).to_owned(), upstream))
        .collect();
    let names: Vec<String> = faults.iter().map(|(name, _)| (*name).to_owned()).collect();
    let house = House::open(&named, &[("auto".to_owned(), names)]).await;
    (upstreams, house)
}

/// Asks `auto` with these extras; the models in the order in which they were tried, the last one having served.
async fn tried(house: &House, extras: &Value) -> Vec<String> {
    let mut body = json!({"model": "auto", "messages": [{"role": "user", "content": "please ask-1"}]});
    body.as_object_mut()
        .unwrap()
        .extend(extras.as_object().unwrap().clone());
    let answer = house
        .post("/v1/chat/completions", &body)
        .header("x-router-metadata", "enabled")
        .timeout(PATIENCE)
        .send()
        .await
        .unwrap();
    let answer: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
    let mut tried: Vec<String> = answer["router_metadata"]["attempts"]
        .as_array()
        .unwrap_or_else(|| panic!("{answer}"))
        .iter()
        .map(|attempt| attempt["provider"].as_str().unwrap().to_owned())
        .collect();
    // A retry on the same one is no change of order.
    tried.dedup();
    tried
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn providers_and_models_are_asked_in_the_clients_order() {
    let broken = Fault::Status(500, None);
    let faults = [("a", broken), ("b", broken), ("c", broken), ("d", Fault::None)];
    for (extras, expected) in [
        (
            json!({"provider": {"order": ["c", "b", "d"]}}),
            vec!["c", "b", "d"],
        ),
        (
            json!({"provider": {"order": ["B", "nobody", "a", "d"]}}),
            vec!["b", "a", "d"],
        ),
        (json!({"provider": {"order": ["d"]}}), vec!["d"]),
        // A model by name, then the fallbacks that are named, in their order; those that nobody knows are passed over.
        (
            json!({"model": "a/m", "models": ["c/m", "typo/m", "d/m"]}),
            vec!["a", "c", "d"],
        ),
        (
            json!({"model": "b/m", "fallbacks": ["a/m", "d/m"]}),
            vec!["b", "a", "d"],
        ),
        // The named fallbacks come before the order of providers, which decides among the others.
        (
            json!({"provider": {"order": ["b"]}, "models": ["c/m", "d/m"]}),
            vec!["b", "c", "d"],
        ),
    ] {
        // Each in a house of its own: what has failed a few times is passed over.
        let (_upstreams, house) = house(&faults).await;
        assert_eq!(tried(&house, &extras).await, expected, "{extras}");
    }
    let (_upstreams, house) = house(&faults).await;
    let only = json!({"provider": {"order": ["a"], "allow_fallbacks": false}});
    let mut body = json!({"model": "auto", "messages": [{"role": "user", "content": "x"}]});
    body.as_object_mut()
        .unwrap()
        .extend(only.as_object().unwrap().clone());
    let refused = house.post("/v1/chat/completions", &body).send().await.unwrap();
    assert_eq!(see(refused).await.status, 502);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_are_spread_over_a_models_regions_and_never_exceed_their_limit() {
    let (near, far) = (
        Upstream::always("near", Wire::OpenAi, Fault::SlowFirstToken(150)).await,
        Upstream::always("far", Wire::OpenAi, Fault::SlowFirstToken(150)).await,
    );
    let more = "[[models]]\nid = \"near/wide\"\nupstream = \"m\"\nalso_at = [\"far\"]\ncontext_window = 8192\n\
                [models.price]\ninput_per_mtok = 1.0\noutput_per_mtok = 2.0\n";
    let named = [("near".to_owned(), &near), ("far".to_owned(), &far)];
    let house = House::with(&named, "max_in_flight = 2", more).await;
    let asked = (0..24).map(|number| {
        let ask = house.ask("near/wide", &format!("ask-{number}"), number % 2 == 0, PATIENCE);
        async { see(ask.send().await.unwrap()).await }
    });
    let seen = futures_util::future::join_all(asked).await;
    assert!(
        seen.iter().all(|seen| seen.status == 200 && seen.error.is_none()),
        "{seen:?}"
    );
    assert!(
        near.requests() >= 4 && far.requests() >= 4,
        "{} {}",
        near.requests(),
        far.requests()
    );
    assert_eq!(near.requests() + far.requests(), 24);
    assert!(near.most_at_once() <= 2 && far.most_at_once() <= 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_sets_its_own_patience() {
    let slow = Upstream::always("slow", Wire::OpenAi, Fault::SlowFirstToken(3000)).await;
    let quick = Upstream::always("quick", Wire::OpenAi, Fault::None).await;
    let named = [("slow".to_owned(), &slow), ("quick".to_owned(), &quick)];
    let route = "[[routes]]\nname = \"auto\"\nmodels = [\"slow/m\"]\nfallbacks = [\"quick/m\"]\n";
    let house = House::with(&named, "", route).await;
    let patient = see(house.ask("auto", "ask-1", true, PATIENCE).send().await.unwrap()).await;
    assert_eq!(patient.model, "slow/m");
    let ask = house.ask("auto", "ask-2", true, PATIENCE);
    let hasty = see(ask.header("x-router-ttft-ms", "200").send().await.unwrap()).await;
    assert_eq!(
        (hasty.model.as_str(), hasty.text.contains("ask-2")),
        ("quick/m", true),
        "{hasty:?}"
    );
    assert_eq!(hasty.headers["x-router-hedged"], "true");
    assert_eq!(hasty.headers["x-router-fallback-from"], "slow/m");
    let body = json!({
        "model": "auto", "stream": true, "messages": [{"role": "user", "content": "please ask-3"}],
        "routing": {"ttft_budget_ms": 200, "hedge": false},
    });
    let url = format!("http://{}/v1/chat/completions", house.address);
    let unhedged = see(house.http.post(url).body(body.to_string()).send().await.unwrap()).await;
    assert_eq!(unhedged.model, "slow/m");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fallback_that_does_not_fit_is_never_asked() {
    let broken = Upstream::always("broken", Wire::OpenAi, Fault::Status(500, None)).await;
    let misfit = Upstream::always("misfit", Wire::OpenAi, Fault::None).await;
    let good = Upstream::always("good", Wire::OpenAi, Fault::None).await;
    let named = [
        ("broken".to_owned(), &broken),
        ("misfit".to_owned(), &misfit),
        ("good".to_owned(), &good),
    ];
    let model = |name: &str, window: u32, price: f64| {
        format!(
            "[[models]]\nid = \"misfit/{name}\"\nupstream = \"m\"\ncontext_window = {window}\n\
             [models.price]\ninput_per_mtok = {price:?}\noutput_per_mtok = {price:?}\n"
        )
    };
    let more = model("tiny", 64, 1.0)
        + &model("dear", 8192, 100_000.0)
        + "[[routes]]\nname = \"auto\"\nmodels = [\"broken/m\"]\n\
           fallbacks = [\"misfit/tiny\", \"misfit/dear\", \"good/m\"]\nmax_cost_usd = 0.01\n";
    let house = House::with(&named, "", &more).await;
    let long = format!("ask-1 {}", "and more words ".repeat(50));
    let seen = see(house.ask("auto", &long, false, PATIENCE).send().await.unwrap()).await;
    assert_eq!((seen.model.as_str(), seen.status), ("good/m", 200), "{seen:?}");
    assert_eq!(misfit.requests(), 0);
}

/// A conversation's calls go where its prompt is cached, each to one place and all of them to both, until that place
/// fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conversation_stays_where_its_prompt_is_cached() {
    const SESSIONS: usize = 12;
    let (near, far) = (
        Upstream::always("near", Wire::OpenAi, Fault::None).await,
        Upstream::scripted("far", Wire::OpenAi, |number, _| {
            if number < 40 {
                Fault::None
            } else {
                Fault::Status(500, None)
            }
        })
        .await,
    );
    let more = "[embedding]\nmodel = \"off\"\n[[models]]\nid = \"near/wide\"\nupstream = \"m\"\nalso_at = [\"far\"]\n\
                context_window = 8192\n[models.price]\ninput_per_mtok = 1.0\noutput_per_mtok = 2.0\n";
    let named = [("near".to_owned(), &near), ("far".to_owned(), &far)];
    let house = House::with(&named, "", more).await;
    let ask = async |session: usize| {
        let body = json!({
            "model": "near/wide", "session_id": format!("session-{session}"),
            "messages": [{"role": "user", "content": "please ask-1"}],
        });
        let url = format!("http://{}/v1/chat/completions", house.address);
        let seen = see(house.http.post(url).body(body.to_string()).send().await.unwrap()).await;
        assert_eq!(seen.status, 200, "{seen:?}");
        seen.headers["x-router-provider"].to_str().unwrap().to_owned()
    };
    let mut homes = Vec::new();
    for session in 0..SESSIONS {
        homes.push(ask(session).await);
    }
    // Of twelve sessions all fall to one place by chance in one of 2,048 cases; these names do not.
    assert!(homes.iter().any(|home| home == "near") && homes.iter().any(|home| home == "far"));
    let at_far = homes.iter().filter(|home| *home == "far").count();
    let rounds = (39 - at_far) / at_far;
    for _ in 0..rounds {
        for (session, home) in homes.iter().enumerate() {
            assert_eq!(ask(session).await, *home, "session {session} has moved");
        }
    }
    assert_eq!(far.requests(), at_far * (rounds + 1));
    // Now the far place fails: its conversations go on at the near one, and the others stay.
    while far.requests() < 41 {
        for session in 0..SESSIONS {
            ask(session).await;
        }
    }
    for _ in 0..5 {
        for session in 0..SESSIONS {
            ask(session).await;
        }
    }
    let failures = far.requests() - 40;
    assert!(failures <= 8, "{failures} calls to a place that fails");
    for session in 0..SESSIONS {
        assert_eq!(ask(session).await, "near");
    }
}

/// In an outage the policy decides among those that are up, so that what it weighs and learns is what is served.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_ill_is_not_drawn() {
    let ill = Fault::Status(429, Some(600));
    let (upstreams, house) = house(&[("a", ill), ("b", Fault::None), ("c", Fault::None)]).await;
    let named = json!({"model": "a/m", "models": ["b/m"]});
    assert_eq!(tried(&house, &named).await, ["a", "b"]);
    let calls = upstreams[0].requests();

    let ask = json!({"model": "auto", "messages": [{"role": "user", "content": "please ask-1"}]});
    for _ in 0..20 {
        let answer = house
            .post("/v1/chat/completions", &ask)
            .header("x-router-metadata", "enabled")
            .send()
            .await
            .unwrap();
        assert!(answer.headers().get("x-router-fallback-from").is_none());
        let answer: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
        let decided = &answer["router_metadata"];
        assert_eq!(decided["attempts"].as_array().unwrap().len(), 1, "{decided}");
        let chances: Vec<(&str, f64)> = decided["candidates"]
            .as_array()
            .unwrap()
            .iter()
            .map(|candidate| {
                let model = candidate["model"].as_str().unwrap();
                (model, candidate["propensity"].as_f64().unwrap())
            })
            .collect();
        assert_eq!(chances.len(), 2, "{decided}");
        assert!(chances.iter().all(|(model, _)| *model != "a/m"), "{decided}");
        let sum: f64 = chances.iter().map(|(_, chance)| chance).sum();
        assert!((sum - 1.0).abs() < 1e-9, "{decided}");
        let left_out = &decided["excluded"][0];
        assert_eq!(left_out["model"], "a/m");
        assert!(
            left_out["excluded"].as_str().unwrap().contains("circuit"),
            "{decided}"
        );
    }
    assert_eq!(upstreams[0].requests(), calls);
    // Who is named stays the candidate, whatever its health: nobody else was asked for.
    let named = json!({"model": "a/m", "messages": ask["messages"]});
    let decided = house.post("/v1/route", &named).send().await.unwrap();
    let decided: Value = serde_json::from_str(&decided.text().await.unwrap()).unwrap();
    assert_eq!(decided["selected"], "a/m", "{decided}");
}

/// A new configuration is no reason to forget who is ill.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_known_of_health_outlives_a_reload() {
    let (upstreams, house) = house(&[("a", Fault::Status(500, None)), ("b", Fault::None)]).await;
    let named = json!({"model": "a/m", "models": ["b/m"]});
    for _ in 0..3 {
        assert_eq!(tried(&house, &named).await, ["a", "b"]);
    }
    let open = || {
        let rows = house.app.dispatcher.health(pointsman::clock::monotonic());
        let row = rows.into_iter().find(|row| row.model.as_str() == "a/m").unwrap();
        (row.state, row.reason)
    };
    let before = open();
    assert_eq!(before.0, pointsman::telemetry::circuit::CircuitState::Open);
    let mut config = house.app.live.load().config.clone();
    config.hash = "another".to_owned();
    pointsman::app::reload::apply(&house.app, config).unwrap();
    assert_eq!(open(), before);
    let calls = upstreams[0].requests();
    assert_eq!(tried(&house, &named).await, ["b"]);
    assert_eq!(upstreams[0].requests(), calls);
}
