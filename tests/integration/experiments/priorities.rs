//! Who is asked when the first choice fails or is late: the order follows what is true now, of prices, of providers'
//! speed, of models and of what experiments have found.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use pointsman::app::reload;
use serde_json::{Value, json};

use super::{House, parse};
use crate::upstream::{Fault, Upstream, Wire};

/// A model `NAME/m` of its own provider, with the dollars of a million tokens.
struct Model<'a>(&'a str, &'a Upstream, f64);

/// A configuration of these models; `route` is the rest of `auto`'s section, `more` what comes behind it.
fn configuration(folder: &tempfile::TempDir, models: &[Model<'_>], route: &str, more: &str) -> String {
    let mut toml = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\ndata_dir = {:?}\n[embedding]\nmodel = \"off\"\n",
        folder.path().join("data")
    );
    for Model(name, upstream, price) in models {
        let base = upstream.base_url();
        write!(
            toml,
            "[[providers]]\nname = \"{name}\"\nkind = \"openai\"\nbase_url = \"{base}\"\n\
             [[models]]\nid = \"{name}/m\"\ncontext_window = 8192\nmax_output_tokens = 1024\n\
             modalities = [\"text\"]\n[models.price]\ninput_per_mtok = {price}\noutput_per_mtok = {price}\n"
        )
        .unwrap();
    }
    let names: Vec<String> = models.iter().map(|Model(name, ..)| format!("{name}/m")).collect();
    write!(
        toml,
        "[[routes]]\nname = \"auto\"\nmodels = {names:?}\nexperiments = {{ enabled = false }}\n{route}\n{more}"
    )
    .unwrap();
    toml
}

async fn well(name: &str) -> Upstream {
    Upstream::always(name, Wire::OpenAi, Fault::None).await
}

/// The order in which a request would try the route's models, nothing explored.
async fn ranking(house: &House) -> Vec<String> {
    let body = json!({
        "model": "auto", "routing": {"explore": false},
        "messages": [{"role": "user", "content": "Which of you?"}],
    });
    let (status, route) = house.post("/v1/route", &body).await;
    assert_eq!(status, 200, "{route}");
    let ranking = route["ranking"].as_array().unwrap().iter();
    ranking.map(|model| model.as_str().unwrap().to_owned()).collect()
}

/// Waits until the order is this one: what is learned from the first requests is in force a moment later.
async fn ranking_becomes(house: &House, expected: &[&str]) {
    let mut order = Vec::new();
    for _ in 0..100 {
        order = ranking(house).await;
        if order == expected {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{order:?} is not {expected:?}");
}

/// Has these models answer once, so that how much each of them writes is no guess, and the route find its price of a
/// dollar, which there is none of before the first request.
async fn heard(house: &House, models: &[&str]) {
    for model in models {
        assert_eq!(served_by(house, model, &json!({})).await.0, *model);
    }
    house.ask(1, None).await;
}

/// Asks as `extras` say; the model that served, and whether it was a hedge's.
async fn served_by(house: &House, model: &str, extras: &Value) -> (String, bool) {
    let mut body = json!({
        "model": model, "stream": true, "messages": [{"role": "user", "content": "please ask-1"}],
    });
    body["routing"] = extras.clone();
    let request = house.http.post(house.url("/v1/chat/completions"));
    let response = request
        .header("content-type", "application/json")
        .body(body.to_string())
        .send()
        .await
        .unwrap();
    assert_eq!(response.status().as_u16(), 200);
    let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
    let seen = (header("x-router-model"), header("x-router-hedged") == "true");
    response.text().await.unwrap();
    seen
}

const BY_COST: &str = "objective = \"weighted\"\nlambda = 100000.0";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fallbacks_follow_a_price_and_a_new_model() {
    let (a, b, c, d) = (well("a").await, well("b").await, well("c").await, well("d").await);
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let models = |of_b: f64| [Model("a", &a, 1.0), Model("b", &b, of_b), Model("c", &c, 4.0)];
    let toml = configuration(&folder, &models(2.0), BY_COST, "");
    let house = House::of(Arc::clone(&folder), parse(&toml)).await;
    heard(&house, &["a/m", "b/m", "c/m"]).await;
    ranking_becomes(&house, &["a/m", "b/m", "c/m"]).await;

    reload::apply(
        &house.app,
        parse(&configuration(&folder, &models(8.0), BY_COST, "")),
    )
    .unwrap();
    ranking_becomes(&house, &["a/m", "c/m", "b/m"]).await;

    let four: Vec<Model<'_>> = models(8.0).into_iter().chain([Model("d", &d, 1.5)]).collect();
    reload::apply(&house.app, parse(&configuration(&folder, &four, BY_COST, ""))).unwrap();
    heard(&house, &["d/m"]).await;
    ranking_becomes(&house, &["a/m", "d/m", "c/m", "b/m"]).await;
    house.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fallbacks_and_hedges_leave_a_provider_that_slows() {
    // The first choice is well, later fails (1) or stalls (2); the second is well, and later slow (1).
    let (first_is, second_is) = (Arc::new(AtomicU8::new(0)), Arc::new(AtomicU8::new(0)));
    let (of_first, of_second) = (Arc::clone(&first_is), Arc::clone(&second_is));
    let first = Upstream::scripted("first", Wire::OpenAi, move |_, _| {
        match of_first.load(Ordering::Relaxed) {
            0 => Fault::None,
            1 => Fault::Status(503, None),
            _ => Fault::SlowFirstToken(20_000),
        }
    })
    .await;
    let second = Upstream::scripted("second", Wire::OpenAi, move |_, _| {
        match of_second.load(Ordering::Relaxed) {
            0 => Fault::None,
            _ => Fault::SlowFirstToken(1_300),
        }
    })
    .await;
    let third = well("third").await;
    let models = || {
        [
            Model("first", &first, 1.0),
            Model("second", &second, 2.0),
            Model("third", &third, 4.0),
        ]
    };
    let plain = json!({"explore": false});
    let hasty = json!({"explore": false, "hedge": true, "ttft_budget_ms": 150});
    for hedged in [false, true] {
        // A house of its own each: a circuit that has opened would hide whom a hedge goes to.
        let folder = Arc::new(tempfile::tempdir().unwrap());
        first_is.store(0, Ordering::Relaxed);
        second_is.store(0, Ordering::Relaxed);
        let extras = if hedged { &hasty } else { &plain };
        let toml = configuration(&folder, &models(), BY_COST, "");
        let house = House::of(folder, parse(&toml)).await;
        // What was never heard of is not known to be faster.
        heard(&house, &["first/m", "second/m", "third/m"]).await;
        ranking_becomes(&house, &["first/m", "second/m", "third/m"]).await;
        first_is.store(if hedged { 2 } else { 1 }, Ordering::Relaxed);
        assert_eq!(
            served_by(&house, "auto", extras).await,
            ("second/m".to_owned(), hedged)
        );
        second_is.store(1, Ordering::Relaxed);
        assert_eq!(served_by(&house, "second/m", &plain).await.0, "second/m");
        assert_eq!(
            served_by(&house, "auto", extras).await,
            ("third/m".to_owned(), hedged)
        );
        house.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fallbacks_follow_what_an_experiment_finds_while_it_runs() {
    let (a, b, c) = (well("a").await, well("b").await, well("c").await);
    let models = [Model("a", &a, 1.0), Model("b", &b, 1.0), Model("c", &c, 1.0)];
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let more = "[[experiments]]\nname = \"pair\"\nroute = \"auto\"\nsplit = \"fixed\"\n\
                arms = { control = \"b/m\", treatment = \"c/m\" }\n";
    let toml = configuration(&folder, &models, "objective = \"max_quality\"", more);
    let house = House::of(folder, parse(&toml)).await;
    let behind = async |house: &House| -> Vec<String> {
        let order = ranking(house).await;
        order.into_iter().filter(|model| model != "a/m").collect()
    };
    // Whatever it begins with, the one that scores well comes before the other, and not only as first choice.
    for (good, bad) in [("c/m", "b/m"), ("b/m", "c/m")] {
        let mut turned = false;
        for i in 0..600 {
            let score = |_: &str, model: &str| Some(if model == good { 1.0 } else { 0.1 });
            let (experiment, _) = house.ask_and_rate(i, score).await;
            assert!(experiment.starts_with("pair="), "{experiment}");
            turned = behind(&house).await == [good, bad];
            if turned {
                break;
            }
        }
        assert!(turned, "{good} before {bad}: {:?}", behind(&house).await);
    }
    house.close().await;
}

/// Where an experiment put another model in the control's place, nothing was found against the control: it answers
/// when the new one fails. A model that did harm does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_replaced_stands_in_and_what_did_harm_stays_out() {
    let (a, broken) = (
        well("a").await,
        Upstream::always("b", Wire::OpenAi, Fault::Status(500, None)).await,
    );
    let both = [Model("a", &a, 2.0), Model("b", &broken, 1.0)];
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let more = "[[experiments]]\nname = \"pair\"\nroute = \"auto\"\nsplit = \"fixed\"\n\
                arms = { control = \"a/m\", treatment = \"b/m\" }\n\
                [[experiments]]\nname = \"pair\"\noverride = \"ship\"\narm = \"treatment\"\n";
    let house = House::of(
        Arc::clone(&folder),
        parse(&configuration(&folder, &both, "", more)),
    )
    .await;
    assert_eq!(ranking(&house).await, ["b/m", "a/m"]);
    assert_eq!(
        served_by(&house, "auto", &json!({"explore": false})).await.0,
        "a/m",
        "b/m fails"
    );
    house.close().await;

    let folder = Arc::new(tempfile::tempdir().unwrap());
    let old = parse(&configuration(&folder, &both[..1], "", ""));
    let house = House::of(Arc::clone(&folder), old).await;
    let enabled = configuration(&folder, &both, "", "").replace(
        "experiments = { enabled = false }",
        "experiments = { traffic = 1.0 }",
    );
    reload::apply(&house.app, parse(&enabled)).unwrap();
    for i in 0..200 {
        house.ask(i, Some(0.9)).await;
    }
    let over = house
        .experiment_when("new-b-m", |view| view["phase"] != "running")
        .await;
    assert_eq!(over["phase"], "stopped_for_harm", "{over}");
    assert_eq!(ranking(&house).await, ["a/m"]);
    house.close().await;
}
