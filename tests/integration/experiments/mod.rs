//! Experiments through the whole server: they start by themselves, run on requests and scores that come over HTTP,
//! and end with a report.

mod crash;
mod families;
mod features;
mod hedges;
mod kinds;
mod priorities;
mod repriced;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use pointsman::app::{Options, demonstration, reload};
use pointsman::config::{self, Config, Source};
use pointsman::demo::{self, LoadSettings};
use pointsman::providers::simulated::recorded;
use pointsman::units::UnixMs;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::running::Running;
use crate::upstream::{Fault, Upstream, Wire};

fn parse(toml: &str) -> Config {
    config::parse(toml, Source::Text, &|_| None).unwrap_or_else(|problems| panic!("{problems}\n{toml}"))
}

fn fast(toml: String) -> String {
    toml.replace("speed=20", "speed=2000") + "\n[embedding]\nmodel = \"off\"\n"
}

/// A configuration of one model `NAME/m` at each of these providers, and `more`.
fn scripted(folder: &tempfile::TempDir, models: &[(&str, String)], more: &str) -> String {
    let data = folder.path().join("data");
    let mut toml =
        format!("[server]\nlisten = \"127.0.0.1:0\"\ndata_dir = {data:?}\n[embedding]\nmodel = \"off\"\n");
    for (name, base) in models {
        toml += &format!(
            "[[providers]]\nname = \"{name}\"\nkind = \"openai\"\nbase_url = \"{base}\"\n\
             [[models]]\nid = \"{name}/m\"\ncontext_window = 8192\nmax_output_tokens = 1024\n\
             modalities = [\"text\"]\n[models.price]\ninput_per_mtok = 1.0\noutput_per_mtok = 2.0\n"
        );
    }
    toml + more
}

async fn json_of(response: reqwest::Response) -> Value {
    serde_json::from_str(&response.text().await.unwrap()).unwrap()
}

/// A server in front of the demonstration's simulated providers, with the means to ask and to rate.
struct House {
    server: Running,
    folder: Arc<tempfile::TempDir>,
}

const LLAMA: &str = "sim-meta/llama-3.1-8b";
const MISTRAL: &str = "sim-mistral/mistral-large-2512";
const PRO: &str = "sim-google/gemini-2.5-pro";

impl House {
    /// `more` is added to the demonstration's configuration, whose text `change` may alter.
    async fn open(more: &str, change: impl Fn(String) -> String) -> Self {
        Self::again(Arc::new(tempfile::tempdir().unwrap()), more, change).await
    }

    async fn again(folder: Arc<tempfile::TempDir>, more: &str, change: impl Fn(String) -> String) -> Self {
        let config = Self::config(&folder, more, change);
        Self::of(folder, config).await
    }

    async fn of(folder: Arc<tempfile::TempDir>, config: Config) -> Self {
        let models_dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
        Self::looking_with(folder, config, models_dir).await
    }

    async fn looking_with(folder: Arc<tempfile::TempDir>, config: Config, models_dir: PathBuf) -> Self {
        let server = Running::with(config, Options { models_dir, seed: 1 }).await;
        Self { server, folder }
    }

    fn config(folder: &tempfile::TempDir, more: &str, change: impl Fn(String) -> String) -> Config {
        let data = folder.path().join("data");
        let toml = demo::config_toml(&recorded().unwrap(), "127.0.0.1:0", &data);
        parse(&change(fast(toml) + more))
    }

    async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let response = self.server.post(path, body).send().await.unwrap();
        (response.status().as_u16(), json_of(response).await)
    }

    /// Asks once, and rates the answer if there is a score; (header of the experiment, model).
    async fn ask(&self, i: u64, score: Option<f64>) -> (String, String) {
        self.ask_and_rate(i, |_, _| score).await
    }

    /// The same, rated by the experiment's arm and the model that answered.
    async fn ask_and_rate(&self, i: u64, score: impl Fn(&str, &str) -> Option<f64>) -> (String, String) {
        let body = json!({
            "model": "auto", "user": format!("user-{}", i % 50),
            "messages": [{"role": "user", "content": format!("How many sheep are {i} sheep?")}],
        });
        let request = self.server.post("/v1/chat/completions", &body);
        let response = request.send().await.unwrap();
        assert_eq!(response.status().as_u16(), 200);
        let header = |name: &str| {
            let value = response.headers().get(name);
            value.map_or_else(String::new, |value| value.to_str().unwrap().to_owned())
        };
        let (experiment, model) = (header("x-router-experiment"), header("x-router-model"));
        let answer = json_of(response).await;
        if let Some(score) = score(&experiment, &model) {
            let feedback = json!({"id": answer["id"], "metric": "quality", "score": score});
            let (status, _) = self.post("/v1/feedback", &feedback).await;
            assert_eq!(status, 200);
        }
        (experiment, model)
    }

    /// Waits until the desk has counted what was logged.
    async fn experiment_when(&self, name: &str, ready: impl Fn(&Value) -> bool) -> Value {
        for _ in 0..200 {
            let view = self.get(&format!("/v1/experiments/{name}")).await;
            if ready(&view) {
                return view;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!(
            "{name} did not come to that: {}",
            self.get("/v1/experiments").await
        );
    }

    async fn events(&self, name: &str) -> Vec<String> {
        self.app.store.flush().await.unwrap();
        let events = self
            .app
            .store
            .reader()
            .events(Some("experiment"), UnixMs(0), UnixMs(i64::MAX), 1_000)
            .unwrap();
        events
            .into_iter()
            .filter(|event| event.subject == name)
            .map(|event| {
                let detail: Value = serde_json::from_str(&event.detail).unwrap();
                detail["event"].as_str().unwrap().to_owned()
            })
            .collect()
    }

    async fn close(self) -> Arc<tempfile::TempDir> {
        self.leave();
        self.app.dispatcher.idle().await;
        self.app.stop().await;
        self.app.store.close();
        self.folder
    }
}

impl Deref for House {
    type Target = Running;

    fn deref(&self) -> &Running {
        &self.server
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_is_started_stopped_shipped_and_undone_over_http() {
    // Nothing but what is asked for: half marks for everybody would be a drift.
    let quiet = |toml: String| toml.replace("traffic = 0.5", "enabled = false, traffic = 0.5");
    let house = House::open("", quiet).await;
    let asked = json!({
        "name": "llama-for-all", "route": "auto", "arms": {"control": "router", "treatment": LLAMA},
        "hypothesis": "non_inferior", "margin": 0.1, "sticky_by": "user", "split": "fixed", "traffic": 1.0,
        "guardrails": {"errors": 0.05}, "max_samples": 500,
    });
    let (status, view) = house.post("/v1/experiments", &asked).await;
    assert_eq!((status, view["phase"].as_str()), (201, Some("running")), "{view}");
    assert_eq!(view["definition"]["origin"], "api");
    let (status, error) = house.post("/v1/experiments", &asked).await;
    assert_eq!(status, 400, "{error}");
    for (key, wrong, hint) in [
        ("route", json!("nowhere"), "nowhere"),
        (
            "arms",
            json!({"control": "router", "treatment": "policy:best"}),
            "contextual",
        ),
        ("margn", json!(1), "margin"),
        ("name", json!("../up"), "name"),
    ] {
        let mut body = asked.clone();
        body["name"] = json!("another");
        body[key] = wrong;
        let (status, error) = house.post("/v1/experiments", &body).await;
        assert_eq!(status, 400, "{key}");
        assert!(
            error["error"]["message"].as_str().unwrap().contains(hint),
            "{error}"
        );
    }

    // A user keeps the arm, and the treatment's arm is its model.
    let mut arms: BTreeMap<u64, String> = BTreeMap::new();
    for i in 0..150 {
        let (experiment, model) = house.ask(i, Some(0.5)).await;
        let kept = arms.entry(i % 50).or_insert_with(|| experiment.clone());
        assert_eq!(*kept, experiment);
        assert!(
            experiment == "llama-for-all=control" || model == LLAMA,
            "{experiment} {model}"
        );
    }
    let both: BTreeSet<&String> = arms.values().collect();
    assert_eq!(both.len(), 2);
    let scored = |view: &Value| {
        let arms = view["arms"].as_array().unwrap().iter();
        arms.map(|arm| arm["scored"].as_u64().unwrap()).sum::<u64>()
    };
    let view = house
        .experiment_when("llama-for-all", |view| scored(view) == 150)
        .await;
    assert_eq!(view["reading"]["units"], 50, "a user is one unit, however often");

    let act = async |action: Value| house.post("/v1/experiments/llama-for-all", &action).await;
    let (status, _) = act(json!({"action": "ship", "arm": "treatment", "reason": "cheap"})).await;
    assert_eq!(status, 200);
    for i in 0..20 {
        let (experiment, model) = house.ask(1_000 + i, None).await;
        assert_eq!((experiment.as_str(), model.as_str()), ("", LLAMA));
    }
    let (status, view) = act(json!({"action": "undo", "reason": "complaints"})).await;
    assert_eq!((status, view["phase"].as_str()), (200, Some("undone")));
    let (status, _) = act(json!({"action": "stop"})).await;
    assert_eq!(status, 400, "it is over");
    let (status, told) = house
        .post("/v1/experiments/nobody", &json!({"action": "stop"}))
        .await;
    assert_eq!((status, told["error"]["code"].as_str()), (404, Some("not_found")));
    assert_eq!(
        house.events("llama-for-all").await,
        ["defined", "started", "overridden", "overridden"]
    );
    house.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_that_the_route_does_not_name_serves_for_its_experiment_only() {
    // The dearest is a fallback, and its experiment is on code alone.
    let change = |toml: String| {
        toml.replace(&format!(", \"{PRO}\""), "")
            .replace("objective = ", &format!("fallbacks = [\"{PRO}\"]\nobjective = "))
            .replace("traffic = 0.5", "enabled = false, traffic = 0.5")
    };
    let more = format!(
        "[[experiments]]\nname = \"pro\"\nroute = \"auto\"\ncategory = \"code\"\nsplit = \"fixed\"\n\
         arms = {{ control = \"{LLAMA}\", treatment = \"{PRO}\" }}\n"
    );
    let house = House::open(&more, change).await;
    let ask = async |category: &str, i: u32| {
        let body = json!({
            "model": "auto", "routing": {"category": category},
            "messages": [{"role": "user", "content": format!("What of {i}?")}],
        });
        let (status, route) = house.post("/v1/route", &body).await;
        assert_eq!(status, 200, "{route}");
        let candidates = route["candidates"].as_array().unwrap().iter();
        let known = candidates.filter(|candidate| candidate["model"] == PRO).count();
        let text = |key: &str| route[key].as_str().unwrap_or_default().to_owned();
        (text("experiment"), text("selected"), known)
    };
    let mut seen = BTreeSet::new();
    for i in 0..60 {
        let (experiment, model, known) = ask("code", i).await;
        assert_eq!(known, 1);
        seen.insert((experiment, model));
        let (experiment, model, known) = ask("maths", i).await;
        assert_eq!((experiment.as_str(), known), ("", 0));
        assert_ne!(model, PRO);
    }
    let both =
        [("pro=control", LLAMA), ("pro=treatment", PRO)].map(|(arm, model)| (arm.into(), model.into()));
    assert_eq!(seen, BTreeSet::from(both));

    // Once it has been put in the other's place it stands there, and nowhere else.
    let ship = json!({"action": "ship", "arm": "treatment", "reason": "better"});
    assert_eq!(house.post("/v1/experiments/pro", &ship).await.0, 200);
    for i in 0..60 {
        let (experiment, model, known) = ask("code", i).await;
        assert_eq!((experiment.as_str(), known), ("", 1));
        assert_ne!(model, LLAMA);
        assert_eq!(ask("maths", i).await.2, 0);
    }
    assert_eq!(
        house
            .post("/v1/experiments/pro", &json!({"action": "undo"}))
            .await
            .0,
        200
    );
    assert_eq!(ask("code", 0).await.2, 0);

    // Against the router itself it would be compared with something that it is no part of.
    let mixed = json!({"name": "mixed", "route": "auto", "arms": {"control": "router", "treatment": PRO}});
    let (status, error) = house.post("/v1/experiments", &mixed).await;
    assert_eq!(status, 400, "{error}");
    house.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn families_margins_and_policies_are_routed_by_configuration() {
    let section = |name: &str, category: &str, control: &str, treatment: &str| {
        format!(
            "[[experiments]]\nname = \"{name}\"\nroute = \"auto\"\ncategory = \"{category}\"\nlayer = \"{name}\"\n\
             arms = {{ control = \"{control}\", treatment = \"{treatment}\" }}\n"
        )
    };
    let more = section("families", "code", "family:llama", "family:gemini")
        + &section("policies", "maths", "policy:cheapest", "policy:random")
        + &section(
            "tables",
            "creative",
            PRO,
            &format!("categories:creative={MISTRAL}"),
        );
    let house = House::open(&more, |toml| toml).await;
    let ask = async |category: &str, i: u32| {
        let body = json!({
            "model": "auto", "routing": {"category": category},
            "messages": [{"role": "user", "content": format!("What of {i}?")}],
        });
        let (status, route) = house.post("/v1/route", &body).await;
        assert_eq!(status, 200, "{route}");
        route
    };
    let mut seen: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for i in 0..60 {
        for category in ["code", "maths", "creative", "summarisation"] {
            let route = ask(category, i).await;
            let arm = route["experiment"].as_str().unwrap_or(category).to_owned();
            seen.entry(arm)
                .or_default()
                .insert(route["selected"].as_str().unwrap().to_owned());
        }
    }
    let of = |arm: &str| seen.get(arm).unwrap_or_else(|| panic!("{arm} in {seen:?}"));
    assert!(of("families=control").iter().all(|model| model == LLAMA));
    assert!(
        of("families=treatment")
            .iter()
            .all(|model| model.contains("gemini"))
    );
    assert!(of("policies=control").iter().all(|model| model == LLAMA));
    assert!(of("policies=treatment").len() > 2, "{seen:?}");
    assert!(of("tables=control").iter().all(|model| model == PRO));
    assert!(of("tables=treatment").iter().all(|model| model == MISTRAL));
    assert!(seen.contains_key("summarisation"), "no experiment is on it");
    house.close().await;
}

/// Every key of the configuration's section does what it says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_configurations_words_are_kept() {
    let more = format!(
        "[[experiments]]\nname = \"words\"\nroute = \"auto\"\ncategory = \"code\"\nmetric = \"thumbs\"\n\
         hypothesis = \"non_inferior\"\nmargin = 0.07\nsplit = \"fixed\"\nsticky_by = \"session\"\nfutility = 0.0\n\
         arms = {{ control = \"{PRO}\", treatment = \"{MISTRAL}\" }}\n"
    );
    let house = House::open(&more, |toml| toml).await;
    let view = house.get("/v1/experiments/words").await;
    let definition = &view["definition"];
    assert_eq!(
        definition["design"]["hypothesis"],
        json!({"kind": "non_inferior", "margin": 0.07})
    );
    assert_eq!(definition["design"]["futility"], 0.0);
    for (key, value) in [
        ("category", "code"),
        ("metric", "thumbs"),
        ("split", "fixed"),
        ("sticky_by", "session"),
    ] {
        assert_eq!(definition[key], value, "{key}");
    }
    // A session keeps its arm whatever it asks, and prompts of another category take no part.
    let mut arms: BTreeMap<u32, String> = BTreeMap::new();
    for i in 0..120u32 {
        let session = i % 20;
        let body = json!({
            "model": "auto", "session_id": format!("session-{session}"), "user": format!("user-{i}"),
            "routing": {"category": if i % 3 == 0 { "maths" } else { "code" }},
            "messages": [{"role": "user", "content": format!("What of {i}?")}],
        });
        let (status, route) = house.post("/v1/route", &body).await;
        assert_eq!(status, 200, "{route}");
        if i % 3 == 0 {
            assert_eq!(route["experiment"], Value::Null);
            continue;
        }
        let arm = route["experiment"].as_str().unwrap().to_owned();
        assert_eq!(arms.entry(session).or_insert_with(|| arm.clone()), &arm);
    }
    assert_eq!(arms.values().collect::<BTreeSet<_>>().len(), 2, "{arms:?}");
    house.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_ask_their_questions_with_a_restart_in_between_too() {
    let without = |toml: String| toml.replace(&format!(", \"{MISTRAL}\""), "");
    // The first configuration lacks a model in the route.
    let house = House::open("", without).await;
    let names = async |house: &House| -> Vec<String> {
        let list = house.get("/v1/experiments").await;
        let experiments = list["experiments"].as_array().unwrap().iter();
        let mut names: Vec<String> = experiments
            .map(|view| view["definition"]["name"].as_str().unwrap().to_owned())
            .chain(
                list["waiting"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|name| name.as_str().unwrap().to_owned()),
            )
            .collect();
        names.sort();
        names
    };
    assert!(names(&house).await.is_empty(), "nothing has changed yet");
    let folder = house.close().await;

    let house = House::again(folder, "", |toml| toml).await;
    let new_model = "new-sim-mistral-mistral-large-2512".to_owned();
    assert_eq!(names(&house).await, std::slice::from_ref(&new_model));
    let defined = house.get(&format!("/v1/experiments/{new_model}")).await;
    assert_eq!(defined["definition"]["origin"], "new_model");
    assert_eq!(defined["definition"]["variants"][0][1]["value"], PRO, "{defined}");
    assert_eq!(house.events(&new_model).await, ["defined", "started"]);

    // Another margin, and prices that turn the ranking over: the large model costs next to nothing.
    let other = |toml: String| {
        let at = toml.find(&format!("id = \"{PRO}\"")).unwrap();
        let (before, after) = toml.split_at(at);
        let lines: Vec<String> = after
            .lines()
            .map(|line| match line.split_once(" = ") {
                Some((key @ ("input_per_mtok" | "output_per_mtok"), _)) => format!("{key} = 0.0001"),
                _ => line.to_owned(),
            })
            .collect();
        format!("{before}{}\n", lines.join("\n")).replace("quality_margin = 0.01", "quality_margin = 0.03")
    };
    let config = House::config(&house.folder, "", other);
    reload::apply(&house.app, config).unwrap();
    assert_eq!(
        names(&house).await,
        [
            "margin-auto-0.03".to_owned(),
            new_model.clone(),
            "price-sim-google-gemini-2.5-pro".to_owned()
        ]
    );
    let price = house.get("/v1/experiments/price-sim-google-gemini-2.5-pro").await;
    assert_eq!(price["definition"]["variants"][1][1]["value"], PRO, "{price}");

    // What the configuration asks of one that started by itself.
    let more = format!("[[experiments]]\nname = \"{new_model}\"\noverride = \"stop\"\n");
    let config = House::config(&house.folder, &more, other);
    reload::apply(&house.app, config).unwrap();
    let stopped = house.get(&format!("/v1/experiments/{new_model}")).await;
    assert_eq!(stopped["phase"], "stopped");
    assert_eq!(
        house.events(&new_model).await,
        ["defined", "started", "overridden"]
    );

    // And a route that wants none.
    let none = |toml: String| {
        other(toml)
            .replace("traffic = 0.5", "enabled = false, traffic = 0.5")
            .replace("quality_margin = 0.03", "quality_margin = 0.04")
    };
    reload::apply(&house.app, House::config(&house.folder, "", none)).unwrap();
    assert!(!names(&house).await.contains(&"margin-auto-0.04".to_owned()));
    house.close().await;
}

/// The treatment's provider fails every call. Its fallback's answers are good and scored well: not a point of that may
/// count for it, nor for the control, and it is stopped for the errors.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fallback_never_counts_for_the_arm_that_failed() {
    let well = Upstream::always("well", Wire::OpenAi, Fault::None).await;
    let broken = Upstream::always("broken", Wire::OpenAi, Fault::Status(500, None)).await;
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let models = [("well", well.base_url()), ("broken", broken.base_url())];
    let more = "[[routes]]\nname = \"auto\"\nmodels = [\"well/m\", \"broken/m\"]\nexperiments = { enabled = false }\n\
                [[experiments]]\nname = \"pair\"\nroute = \"auto\"\nsplit = \"fixed\"\n\
                arms = { control = \"well/m\", treatment = \"broken/m\" }\n";
    let toml = scripted(&folder, &models, more);
    let house = House::of(folder, parse(&toml)).await;
    let served = stream::iter(0..120)
        .map(|i| house.ask(i, Some(1.0)))
        .buffer_unordered(8)
        .collect::<Vec<_>>()
        .await;
    assert!(served.iter().all(|(_, model)| model == "well/m"), "{served:?}");
    let own = served
        .iter()
        .filter(|(experiment, _)| experiment == "pair=control")
        .count() as u64;
    let others = served
        .iter()
        .filter(|(experiment, _)| experiment == "pair=treatment")
        .count() as u64;
    let view = house
        .experiment_when("pair", |view| {
            view["arms"][0]["scored"] == own && view["arms"][1]["exposures"] == others
        })
        .await;
    let treatment = &view["arms"][1];
    assert_eq!(
        (&treatment["scored"], &treatment["clean"]),
        (&json!(0), &json!(0))
    );
    assert_eq!(treatment["errors"]["estimate"], 1.0);
    assert_eq!(view["arms"][0]["errors"]["estimate"], 0.0);
    assert_eq!(view["phase"], "stopped_for_harm", "{view}");
    house.close().await;
}

/// One arm's provider takes its time. What is still under way there must not make the split look wrong.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_arm_is_no_sample_ratio_mismatch() {
    let quick = Upstream::always("quick", Wire::OpenAi, Fault::None).await;
    let slow = Upstream::always("slow", Wire::OpenAi, Fault::SlowFirstToken(60_000)).await;
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let models = [("quick", quick.base_url()), ("slow", slow.base_url())];
    let more = "[[routes]]\nname = \"auto\"\nmodels = [\"quick/m\", \"slow/m\"]\nhedge = { enabled = false }\n\
                experiments = { enabled = false }\n\
                [[experiments]]\nname = \"pair\"\nroute = \"auto\"\nsplit = \"fixed\"\n\
                arms = { control = \"quick/m\", treatment = \"slow/m\" }\n";
    let house = House::of(Arc::clone(&folder), parse(&scripted(&folder, &models, more))).await;
    let asked = 120;
    let all = (0..asked).map(|i| {
        let body = json!({"model": "auto", "messages": [{"role": "user", "content": format!("ask-{i}")}]});
        let request = house.http.post(house.url("/v1/chat/completions"));
        tokio::spawn(
            request
                .header("content-type", "application/json")
                .body(body.to_string())
                .send(),
        )
    });
    let all: Vec<_> = all.collect();
    let exposures = |view: &Value, arm: usize| view["arms"][arm]["exposures"].as_u64().unwrap();
    let view = house
        .experiment_when("pair", |view| {
            exposures(view, 0) + slow.requests() as u64 == asked && exposures(view, 0) > 0
        })
        .await;
    assert_eq!(exposures(&view, 1), 0, "the slow ones are under way");
    assert!(slow.requests() > 30, "{}", slow.requests());
    assert_eq!(
        view["reading"]["checks"]["sample_ratio"]["health"], "passed",
        "{view}"
    );
    all.iter().for_each(JoinHandle::abort);
    house.leave();
}

/// A score that is corrected later counts once, with its last value.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_and_revised_scores_count_once() {
    let more = format!(
        "[[experiments]]\nname = \"pair\"\nroute = \"auto\"\n\
         arms = {{ control = \"{PRO}\", treatment = \"{MISTRAL}\" }}\n"
    );
    let quiet = |toml: String| toml.replace("traffic = 0.5", "enabled = false, traffic = 0.5");
    let house = House::open(&more, quiet).await;
    let body = json!({"model": "auto", "messages": [{"role": "user", "content": "Hello"}]});
    let mut ids = Vec::new();
    for _ in 0..20 {
        ids.push(house.post("/v1/chat/completions", &body).await.1["id"].clone());
    }
    for score in [0.2, 0.9, 0.9] {
        for id in &ids {
            let feedback = json!({"id": id, "metric": "quality", "score": score, "rater": "r"});
            assert_eq!(house.post("/v1/feedback", &feedback).await.0, 200);
        }
    }
    let sums = |view: &Value, what: &str| -> f64 {
        let arms = view["arms"].as_array().unwrap().iter();
        arms.map(|arm| arm["quality_sums"][what].as_f64().unwrap()).sum()
    };
    // Even split: each score weighs 2. The last word is .9 for all twenty.
    let view = house
        .experiment_when("pair", |view| (sums(view, "wy") - 20.0 * 0.9 * 2.0).abs() < 1e-6)
        .await;
    assert!((sums(&view, "samples") - 20.0).abs() < 1e-9, "{view}");
    house.close().await;
}

/// The demonstration at ten times its pace: the verdict must come within a tenth of two minutes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_demonstration_comes_to_a_verdict_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let recorded = recorded().unwrap();
    let opening = parse(&fast(demo::opening_toml(&recorded, "127.0.0.1:0", &data)));
    let newcomer = parse(&fast(demo::config_toml(&recorded, "127.0.0.1:0", &data)));
    let server = Running::start(opening, 1).await;

    let settings = LoadSettings {
        per_second: 400,
        before: 100,
        brisk: 3_200,
        most: 3_200,
        reports: data.join("reports").display().to_string(),
        ..LoadSettings::new(&server.url(""))
    };
    let mut shown = Vec::new();
    let newcomer = (demonstration::NEWCOMER_AFTER / 10, newcomer);
    let ledger = demonstration::run(&server.app, &settings, newcomer, &mut shown)
        .await
        .unwrap();
    let shown = String::from_utf8(shown).unwrap();
    println!("{shown}");
    assert_eq!(ledger.failed, 0);
    let name = "new-sim-google-gemini-2.5-flash";
    assert!(shown.contains(&format!("An experiment has started by itself: {name}")));
    assert!(
        shown.contains("Hypothesis, written down before the first sample: sim-google/gemini-2.5-flash is")
    );
    assert!(shown.contains(&format!("Verdict on {name}: ")));
    let dir = data.join("reports").join(name);
    assert!(shown.contains(&format!("{}", dir.join("report.html").display())));
    let read = |file: &str| std::fs::read_to_string(dir.join(file)).unwrap();
    let json: Value = serde_json::from_str(&read("report.json")).unwrap();
    // Its true mean is .013 below the best model's and the margin .05: it ships but for one case in twenty.
    assert_eq!(json["outcome"]["verdict"], "ship", "{}", json["outcome"]);
    assert!(read("report.html").contains("It is over") && read("report.md").contains("It is over"));
    // On the same requests, what other policies would have cost and scored.
    let others = json["logged"]["off_policy"].as_array().unwrap();
    assert!(others.len() > 2 && others.iter().all(|line| line["decisions"].as_u64() > Some(0)));

    // The hypothesis is in the log before the first decision that it concerns.
    server.app.store.flush().await.unwrap();
    let reader = server.app.store.reader();
    let events = reader
        .events(
            Some("experiment"),
            pointsman::units::UnixMs(0),
            pointsman::units::UnixMs(i64::MAX),
            100,
        )
        .unwrap();
    let defined = events
        .iter()
        .find(|event| event.detail.contains("\"defined\""))
        .unwrap();
    let first = reader
        .attempts_since(0, 10_000)
        .unwrap()
        .into_iter()
        .filter_map(|row| row.decision)
        .find(|decision| decision.experiment.is_some())
        .unwrap();
    assert!(defined.at <= first.at);
    server.leave();
    server.app.dispatcher.idle().await;
    server.app.stop().await;
    server.app.store.close();
}
