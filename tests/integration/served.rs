//! The whole server in front of upstreams that break in every way: what a client sees, what the log holds, and one
//! answer for each idempotency key.

use std::fmt::Write as _;
use std::ops::Deref;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use http::HeaderMap;
use pointsman::config::{self, Source};
use serde_json::{Value, json};

use crate::running::Running;
use crate::upstream::{Fault, Upstream, Wire, full_answer};

/// What a client sees of a model whose provider does that: whole, and streamed.
const VIEWS: [(Fault, View, View); 16] = {
    use View::{Answer, BreaksOff, Error};
    [
        (Fault::None, Answer, Answer),
        (Fault::Status(429, None), Error(429), Error(429)),
        (Fault::Status(429, Some(7)), Error(429), Error(429)),
        (Fault::Status(500, None), Error(502), Error(502)),
        (Fault::Status(503, None), Error(503), Error(503)),
        (Fault::Status(529, None), Error(503), Error(503)),
        (Fault::Status(401, None), Error(502), Error(502)),
        (Fault::QuotaExhausted, Error(429), Error(429)),
        (Fault::HangBeforeHeaders, Error(504), Error(504)),
        (Fault::HangAfterHeaders, Error(504), Error(504)),
        (Fault::SlowFirstToken(200), Answer, Answer),
        (Fault::ResetMidStream, Error(502), BreaksOff),
        (Fault::ErrorInside200, Error(503), Error(503)),
        (Fault::GarbageJson, Error(502), Error(502)),
        (Fault::Truncated, Error(502), BreaksOff),
        (Fault::DuplicateDone, Answer, Answer),
    ]
};

#[derive(Clone, Copy, Debug, PartialEq)]
enum View {
    Answer,
    Error(u16),
    BreaksOff,
}

/// The server with a provider `name` for each upstream, each with one model `name/m`.
pub struct House {
    server: Running,
    _folder: tempfile::TempDir,
}

impl House {
    /// `routes`: a name and the providers whose models it has.
    pub async fn open(upstreams: &[(String, &Upstream)], routes: &[(String, Vec<String>)]) -> Self {
        let routes: Vec<String> = routes
            .iter()
            .map(|(name, providers)| {
                let models: Vec<String> = providers.iter().map(|provider| format!("{provider}/m")).collect();
                format!("[[routes]]\nname = \"{name}\"\nmodels = {models:?}\n")
            })
            .collect();
        Self::with(upstreams, "", &routes.concat()).await
    }

    /// `provider`: further lines of every provider's block; `more`: blocks of their own.
    pub async fn with(upstreams: &[(String, &Upstream)], provider: &str, more: &str) -> Self {
        Self::serving("", upstreams, provider, more).await
    }

    /// `server`: further lines of the server's own block.
    pub async fn serving(
        server: &str,
        upstreams: &[(String, &Upstream)],
        provider: &str,
        more: &str,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut toml = format!(
            "[server]\nlisten = \"127.0.0.1:0\"\ndata_dir = {:?}\n{server}\n",
            folder.path().join("data")
        );
        for (name, upstream) in upstreams {
            let base = upstream.base_url();
            let kind = match upstream.wire() {
                Wire::OpenAi => "openai",
                Wire::Anthropic => "anthropic",
                Wire::Gemini => "gemini",
            };
            write!(
                toml,
                "[[providers]]\nname = \"{name}\"\nkind = \"{kind}\"\nbase_url = \"{base}\"\n{provider}\n\
                 [[models]]\nid = \"{name}/m\"\ncontext_window = 8192\nmax_output_tokens = 1024\n\
                 modalities = [\"text\"]\ntools = true\n[models.price]\ninput_per_mtok = 1.0\noutput_per_mtok = 2.0\n"
            )
            .unwrap();
        }
        toml.push_str(more);
        let config = config::parse(&toml, Source::Text, &|_| None).unwrap();
        Self {
            server: Running::start(config, 7).await,
            _folder: folder,
        }
    }

    pub fn ask(&self, model: &str, ask: &str, stream: bool, timeout: Duration) -> reqwest::RequestBuilder {
        let body = json!({
            "model": model, "stream": stream, "messages": [{"role": "user", "content": format!("please {ask}")}],
        });
        self.post("/v1/chat/completions", &body)
            .header("x-router-timeout-ms", timeout.as_millis().to_string())
    }
}

impl Deref for House {
    type Target = Running;

    fn deref(&self) -> &Running {
        &self.server
    }
}

/// An answer taken apart: status, the text, the error, and whether a stream was closed as it should be.
#[derive(Debug)]
pub struct Seen {
    pub status: u16,
    pub headers: HeaderMap,
    pub model: String,
    pub retry_after: Option<String>,
    pub text: String,
    pub error: Option<Value>,
    pub finish: Option<String>,
    /// The last `usage.cost`.
    pub cost: Option<f64>,
}

pub async fn see(response: reqwest::Response) -> Seen {
    let status = response.status().as_u16();
    let headers = response.headers().clone();
    let header = |name: &str| {
        let value = headers.get(name)?;
        Some(value.to_str().unwrap().to_owned())
    };
    let is_stream = header("content-type").is_some_and(|kind| kind.starts_with("text/event-stream"));
    let (model, retry_after) = (
        header("x-router-model").unwrap_or_default(),
        header("retry-after"),
    );
    let body = response.text().await.unwrap();
    let mut seen = Seen {
        status,
        headers: headers.clone(),
        cost: None,
        model,
        retry_after,
        text: String::new(),
        error: None,
        finish: None,
    };
    if !is_stream {
        let body: Value = serde_json::from_str(&body).unwrap();
        seen.take(&body, "message");
        return seen;
    }
    let events: Vec<&str> = body
        .split("\n\n")
        .filter_map(|event| event.strip_prefix("data: "))
        .collect();
    let (last, events) = events.split_last().unwrap();
    assert_eq!(*last, "[DONE]", "{body}");
    for event in events {
        assert!(seen.error.is_none(), "something follows an error: {body}");
        seen.take(&serde_json::from_str(event).unwrap(), "delta");
    }
    seen
}

impl Seen {
    fn take(&mut self, body: &Value, field: &str) {
        self.text += body["choices"][0][field]["content"].as_str().unwrap_or_default();
        if let Some(finish) = body["choices"][0]["finish_reason"].as_str() {
            self.finish = Some(finish.to_owned());
        }
        if let Some(cost) = body["usage"]["cost"].as_f64() {
            self.cost = Some(cost);
        }
        if !body["error"].is_null() {
            self.error = Some(body["error"].clone());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_sees_an_answer_or_one_clear_error() {
    let mut upstreams = Vec::new();
    for (index, (fault, ..)) in VIEWS.iter().enumerate() {
        let name = format!("f{index}");
        let upstream = Upstream::always(&name, Wire::OpenAi, *fault).await;
        upstreams.push((name, upstream));
    }
    upstreams.push((
        "well".to_owned(),
        Upstream::always("well", Wire::OpenAi, Fault::None).await,
    ));
    let named: Vec<(String, &Upstream)> = upstreams
        .iter()
        .map(|(name, upstream)| (name.clone(), upstream))
        .collect();
    let routes: Vec<(String, Vec<String>)> = (0..VIEWS.len())
        .map(|index| {
            (
                format!("pair-{index}"),
                vec![format!("f{index}"), "well".to_owned()],
            )
        })
        .collect();
    let house = House::open(&named, &routes).await;

    let mut cases = Vec::new();
    for (index, (_, whole, streamed)) in VIEWS.into_iter().enumerate() {
        for (stream, view) in [(false, whole), (true, streamed)] {
            cases.extend([(index, stream, view, false), (index, stream, view, true)]);
        }
    }
    let house_ref = &house;
    let checks = stream::iter(cases).map(|(index, stream, view, pair)| async move {
        let model = if pair {
            format!("pair-{index}")
        } else {
            format!("f{index}/m")
        };
        let ask = format!("ask-{index}-{stream}-{pair}");
        let timeout = Duration::from_secs(if pair { 6 } else { 2 });
        let response = house_ref.ask(&model, &ask, stream, timeout).send().await.unwrap();
        let seen = see(response).await;
        check(&seen, VIEWS[index].0, view, pair, &ask);
    });
    checks.buffer_unordered(16).collect::<Vec<()>>().await;

    house.app.dispatcher.idle().await;
    house.app.store.flush().await.unwrap();
    let logged = house.app.store.reader().attempts_since(0, 10_000).unwrap();
    let requests: usize = upstreams.iter().map(|(_, upstream)| upstream.requests()).sum();
    assert_eq!(
        logged.len(),
        requests,
        "one row in the log for each request upstream"
    );
    assert!(
        logged
            .iter()
            .all(|row| row.attempt.cost.is_some() && row.decision.is_some())
    );
    let told: (u64, u64) = logged
        .iter()
        .filter_map(|row| row.attempt.usage.filter(|usage| !usage.estimated))
        .fold((0, 0), |sum, usage| (sum.0 + usage.input, sum.1 + usage.output));
    let answers = |fault| {
        matches!(
            fault,
            Fault::None | Fault::SlowFirstToken(_) | Fault::DuplicateDone
        )
    };
    let billed = upstreams
        .iter()
        .flat_map(|(_, upstream)| upstream.books())
        .filter(|dealt| answers(dealt.fault))
        .fold((0, 0), |sum, dealt| {
            (sum.0 + dealt.input_tokens, sum.1 + dealt.output_tokens)
        });
    assert_eq!(told, billed);
}

fn check(seen: &Seen, fault: Fault, view: View, pair: bool, ask: &str) {
    let context = format!("{fault:?} {ask}: {seen:?}");
    let rescued = pair && matches!(view, View::Error(_));
    let server = seen.model.split('/').next().unwrap_or_default().to_owned();
    match view {
        // Which of two the policy draws is its own business; one that breaks off in the middle may be drawn.
        View::BreaksOff if server != "well" => {
            assert_eq!(seen.status, 200, "{context}");
            assert!(
                seen.error.is_some() && seen.finish.as_deref() != Some("stop"),
                "{context}"
            );
            assert!(full_answer(&server, ask).starts_with(&seen.text), "{context}");
        }
        View::Error(status) if !rescued => {
            assert_eq!(seen.status, status, "{context}");
            let error = seen.error.as_ref().unwrap_or_else(|| panic!("{context}"));
            assert!(
                error["message"].is_string() && error["type"].is_string(),
                "{context}"
            );
            assert_eq!(error["code"], error["metadata"]["error_type"], "{context}");
            assert!(!error.to_string().contains("127.0.0.1"), "{context}");
            let waits = fault == Fault::Status(429, Some(7));
            assert!(
                !waits
                    || seen
                        .retry_after
                        .as_deref()
                        .is_some_and(|wait| wait.parse::<u32>().is_ok()),
                "{context}"
            );
        }
        _ => {
            assert_eq!((seen.status, seen.error.as_ref()), (200, None), "{context}");
            assert_eq!(seen.text, full_answer(&server, ask), "{context}");
            assert_eq!(seen.finish.as_deref(), Some("stop"), "{context}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_idempotency_key_is_one_request_upstream() {
    for stream in [false, true] {
        let upstream = Upstream::always("slow", Wire::OpenAi, Fault::Trickle(100)).await;
        let house = House::open(&[("slow".to_owned(), &upstream)], &[]).await;
        let ask = |word: &'static str| {
            let request = house.ask("slow/m", word, stream, Duration::from_secs(10));
            request.header("idempotency-key", "key-1").send()
        };
        let (first, second) = tokio::join!(ask("ask-1"), ask("ask-1"));
        let (first, second) = (
            first.unwrap().text().await.unwrap(),
            second.unwrap().text().await.unwrap(),
        );
        assert!(first.contains("ask-1"), "{first}");
        assert_eq!(first, second);
        let later = ask("ask-1").await.unwrap().text().await.unwrap();
        assert_eq!(first, later);
        assert_eq!(upstream.requests(), 1);
        let conflict = ask("ask-2").await.unwrap();
        assert_eq!(conflict.status().as_u16(), 422);
        assert_eq!(upstream.requests(), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_hangs_up_is_passed_on() {
    for stream in [false, true] {
        let upstream = Upstream::always("slow", Wire::OpenAi, Fault::Trickle(300)).await;
        let house = House::open(&[("slow".to_owned(), &upstream)], &[]).await;
        let request = house.ask("slow/m", "ask-1", stream, Duration::from_secs(20));
        let gone = tokio::time::timeout(Duration::from_millis(700), async {
            request.send().await.unwrap().text().await.unwrap()
        });
        assert!(gone.await.is_err());
        tokio::time::timeout(Duration::from_secs(5), house.app.dispatcher.idle())
            .await
            .expect("the request goes on without its client");
        house.app.store.flush().await.unwrap();
        let logged = house.app.store.reader().attempts_since(0, 10).unwrap();
        assert_eq!(logged.len(), 1);
        assert_eq!(logged[0].attempt.outcome, "client_gone");
        assert!(logged[0].attempt.cost.is_some_and(|cost| cost.nanos() > 0));
    }
}
