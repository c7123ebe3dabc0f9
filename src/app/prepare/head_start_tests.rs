use std::path::Path;

use bytes::Bytes;
use http::HeaderMap;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::app::prepare::Wishes;
use crate::app::{App, Options, Parts};
use crate::clock;
use crate::config::{self, Source};
use crate::dispatch::Deployment;
use crate::dispatch::testing::{Scripted, Step, error, good};
use crate::failure::{AttemptError, FailureKind, Retry};
use crate::request::{self, ChatRequest};
use crate::server::auth::Client;
use crate::store::{AttemptRow, DecisionRow};

/// Two models and a route for each reason to wait; `one` has none.
const HOUSE: &str = r#"
[embedding]
model = "off"
[[providers]]
name = "p"
kind = "openai"
base_url = "http://127.0.0.1:9/v1"
[[models]]
id = "p/m"
context_window = 8192
max_output_tokens = 1024
modalities = ["text"]
tools = false
[[models]]
id = "p/n"
context_window = 8192
max_output_tokens = 1024
modalities = ["text"]
[[routes]]
name = "one"
models = ["p/m"]
[[routes]]
name = "two"
models = ["p/m", "p/n"]
[[routes]]
name = "ruled"
models = ["p/m"]
[[routes.rules]]
when = { category = "code" }
models = ["p/n"]
[[routes]]
name = "limited"
models = ["p/m"]
max_cost_usd = 5.0
[[routes]]
name = "paced"
models = ["p/m"]
budget = { usd = 50.0, period = "day" }
[[routes]]
name = "backed"
models = ["p/m"]
fallbacks = ["p/n"]
[[routes]]
name = "tried"
models = ["p/m"]
[[experiments]]
name = "pair"
route = "tried"
arms = { control = "p/m", treatment = "p/n" }
"#;

struct House {
    app: App,
    request: Arc<ChatRequest>,
    wishes: Wishes,
    _folder: TempDir,
}

impl House {
    /// With a request of `model`, with `more` in its body.
    async fn asked(model: &str, more: Value) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let toml = format!("[server]\ndata_dir = {:?}\n{HOUSE}", folder.path());
        let options = Options {
            models_dir: Path::new(env!("CARGO_MANIFEST_DIR")).join("models"),
            seed: 7,
        };
        let app = Parts::start(config::parse(&toml, Source::Text, &|_| None).unwrap(), &options).unwrap();
        let (request, wishes) = request(model, more);
        Self {
            app,
            request,
            wishes,
            _folder: folder,
        }
    }

    fn came(&self) -> Came<'_> {
        Came {
            app: &self.app,
            request: &self.request,
            wishes: &self.wishes,
            received: clock::monotonic(),
        }
    }

    /// What the request meets.
    fn facts(&self) -> Facts {
        Facts::gather(&self.app, &self.request, &self.wishes).unwrap()
    }

    /// The same with its plan, `upstream` in the place of the provider.
    fn settled_with(&self, upstream: &Arc<Scripted>) -> (Facts, Plan) {
        let facts = self.facts();
        let came = self.came();
        let mut plan = settled(&came.met(&facts).unwrap(), &facts, came.received).expect("it is settled");
        plan.candidates[0].deployments = vec![Arc::new(Deployment::new("p", upstream.clone()))];
        (facts, plan)
    }

    /// A head start, and the id of its decision: the call goes out at the first poll.
    fn head_start(&self, upstream: &Arc<Scripted>) -> (Arc<str>, BoxFuture<'_, Result<Prepared, ApiError>>) {
        let (facts, plan) = self.settled_with(upstream);
        let id = Arc::clone(&facts.id);
        (id, HeadStart::take(self.came(), facts, plan).boxed())
    }

    async fn decision(&self, id: &str) -> Option<DecisionRow> {
        self.app.store.flush().await.unwrap();
        self.app.store.reader().decision(id).unwrap()
    }

    async fn attempts(&self) -> Vec<Arc<AttemptRow>> {
        self.app.store.flush().await.unwrap();
        let logged = self.app.store.reader().attempts_since(0, 10).unwrap();
        logged.into_iter().map(|row| row.attempt).collect()
    }
}

fn request(model: &str, more: Value) -> (Arc<ChatRequest>, Wishes) {
    let mut body = json!({"model": model, "messages": [{"role": "user", "content": "Write a loop in Rust"}]});
    body.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    let request = request::parse(Bytes::from(body.to_string())).unwrap();
    let wishes = Wishes::read(&request, &HeaderMap::new(), Client(Arc::from("tests"))).unwrap();
    (Arc::new(request), wishes)
}

/// A failure after which nothing else is tried.
fn refused() -> AttemptError {
    AttemptError {
        retry: Retry::No,
        ..error(FailureKind::InvalidRequest)
    }
}

#[tokio::test]
async fn only_what_nothing_can_change_has_a_head_start() {
    let house = House::asked("one", json!({})).await;
    let picture = json!({"messages": [{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
    ]}]});
    let tool = json!({"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]});
    for (model, more, expected) in [
        ("one", json!({}), true),
        ("p/m", json!({}), true),
        (
            "one",
            json!({"stream": true, "session_id": "s", "user": "u"}),
            true,
        ),
        (
            "one",
            json!({"routing": {"quality_floor": 0.9, "explore": false}}),
            true,
        ),
        ("two", json!({}), false),
        ("ruled", json!({}), false),
        ("limited", json!({}), false),
        ("paced", json!({}), false),
        ("backed", json!({}), false),
        ("tried", json!({}), false),
        ("one", json!({"routing": {"max_cost_usd": 1.0}}), false),
        ("p/m", json!({"models": ["p/n"]}), false),
        ("one", json!({"provider": {"order": ["p"]}}), false),
        ("one", json!({"provider": {"max_price": {"prompt": 1.0}}}), false),
        // What the model cannot take is refused, and never sent.
        ("one", picture, false),
        ("p/m", tool, false),
    ] {
        let (request, wishes) = request(model, more);
        let facts = Facts::gather(&house.app, &request, &wishes).unwrap();
        let arrived = Arrived::of(&house.app, &request, &wishes, &facts).unwrap();
        let plan = settled(&arrived, &facts, clock::monotonic());
        let context = format!("{model} {}", String::from_utf8_lossy(&request.body));
        assert_eq!(plan.is_some(), expected, "{context}");
        let Some(plan) = plan else { continue };
        let tried: Vec<&str> = plan.candidates.iter().map(|one| one.arm.id.as_str()).collect();
        assert_eq!(tried, ["p/m"], "{context}");
        // Those who only want to know are told, and nothing is sent.
        let curious = Wishes {
            outlook: true,
            ..wishes
        };
        let arrived = Arrived::of(&house.app, &request, &curious, &facts).unwrap();
        assert!(
            settled(&arrived, &facts, clock::monotonic()).is_none(),
            "{context}"
        );
    }
}

#[tokio::test]
async fn the_call_is_out_before_the_words_are_looked_at_and_the_decision_is_the_same() {
    let house = House::asked("one", json!({})).await;
    let upstream = good();
    let (facts, plan) = house.settled_with(&upstream);
    let id = Arc::clone(&facts.id);
    let (wanted, planned) = (
        decide(house.came(), house.facts(), None).await.unwrap(),
        plan.clone(),
    );
    let mut start = Box::pin(HeadStart::take(house.came(), facts, plan));
    assert!(poll_immediate(&mut start).await.is_none());
    assert_eq!(upstream.calls(), 1);
    assert!(house.decision(&id).await.is_none());

    let prepared = start.await.unwrap();
    let (came, expected) = (&prepared.decided, &wanted.decided);
    assert_eq!(came.id, id);
    assert!(came.category.is_some());
    assert_eq!(came.category, expected.category);
    assert_eq!(came.features.text, expected.features.text);
    assert_eq!(came.arm(), expected.arm());
    assert_eq!(came.expected(), expected.expected());
    assert_eq!(came.strategy, expected.strategy);
    assert_eq!(came.decision.propensity, 1.0);
    let Call::Planned(ordinary) = wanted.call else {
        panic!("it was begun")
    };
    assert_eq!(ordinary.candidates[0].arm, planned.candidates[0].arm);
    assert_eq!(
        (
            ordinary.fixed,
            ordinary.hedge,
            ordinary.input_tokens,
            ordinary.candidates.len()
        ),
        (
            planned.fixed,
            planned.hedge,
            planned.input_tokens,
            planned.candidates.len()
        )
    );

    house.app.log_decision(&prepared, &house.request);
    assert!(house.attempts().await.is_empty(), "it is still under way");
    prepared.call.answer(&house.app.dispatcher).await.unwrap();
    assert_eq!(upstream.calls(), 1);
    let attempts = house.attempts().await;
    assert_eq!((attempts.len(), &*attempts[0].outcome), (1, "succeeded"));
    assert_eq!(attempts[0].decision, id);
    assert!(house.decision(&id).await.is_some());
}

#[tokio::test]
async fn an_attempt_that_fails_at_once_waits_for_its_decision() {
    let house = House::asked("p/m", json!({})).await;
    let upstream = Scripted::new([vec![Step::Fail(refused())]]);
    let (id, start) = house.head_start(&upstream);
    let prepared = start.await.unwrap();
    assert_eq!(upstream.calls(), 1);
    assert!(house.attempts().await.is_empty());
    house.app.log_decision(&prepared, &house.request);
    let attempts = house.attempts().await;
    assert_eq!(attempts.len(), 1);
    assert_eq!((&attempts[0].decision, &*attempts[0].role), (&id, "primary"));
    assert!(house.decision(&id).await.is_some());
    assert!(prepared.call.answer(&house.app.dispatcher).await.is_err());
    assert_eq!(house.attempts().await.len(), 1);
}

#[tokio::test]
async fn a_client_that_leaves_at_once_leaves_the_decision_and_the_attempt() {
    for step in [Step::Hang, Step::Fail(refused())] {
        let house = House::asked("one", json!({"stream": true})).await;
        let upstream = Scripted::new([vec![step]]);
        let (id, mut start) = house.head_start(&upstream);
        assert!(poll_immediate(&mut start).await.is_none());
        assert!(house.attempts().await.is_empty() && house.decision(&id).await.is_none());
        drop(start);
        let decision = house.decision(&id).await.expect("it is logged");
        assert_eq!(decision.arm.as_str(), "p/m");
        assert!(!decision.category.is_empty() && decision.stream);
        let attempts = house.attempts().await;
        assert_eq!(attempts.len(), 1);
        assert_eq!(attempts[0].decision, id);
        assert!(house.app.pending.is_empty());
        assert_eq!(house.app.dispatcher.in_flight(), 0);
    }
}
