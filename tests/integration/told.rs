//! What a provider says is obeyed by its meaning, through the whole server: what the client is told, whom the next
//! request asks, which circuit opens and why, and what the log keeps of it.

use std::fmt::Write as _;
use std::time::Duration;

use pointsman::clock;
use serde_json::Value;

use crate::served::{House, Seen, see};
use crate::upstream::{Fault, Upstream, Wire, full_answer};

const PATIENCE: Duration = Duration::from_secs(10);

/// What is known of a provider after it has said that to one request.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mark {
    /// Nothing: the request was at fault.
    None,
    /// The model failed, and is asked again.
    Counted,
    /// It asked to be left alone for so many seconds, and is.
    Waits(u64),
    /// The model and its key rest: there is no quota left.
    Quota,
    /// The key rests, the model is not to blame.
    Key,
}

/// One thing that a provider says.
struct Case {
    name: &'static str,
    wire: Wire,
    says: (u16, String, &'static str),
    stream: bool,
    /// Status and code that a client sees when nobody else can answer.
    told: (u16, &'static str),
    mark: Mark,
    /// Calls of the first request that has a fallback; 0: no fallback is tried, the client is told at once.
    calls: usize,
}

const RATE: &str = r#"{"error":{"message":"Rate limit reached for requests","type":"requests","param":null,"code":"rate_limit_exceeded"}}"#;
const GEMINI_MINUTE: &str = r#"{"error":{"code":429,"message":"You exceeded your current quota, please check your plan.","status":"RESOURCE_EXHAUSTED","details":[{"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{"quotaId":"GenerateRequestsPerMinutePerProjectPerModel"}]},{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"34.5s"}]}}"#;
const HIDDEN_RATE: &str =
    r#"{"error":{"message":"Too many requests: rate limit exceeded","type":"invalid_request_error"}}"#;
const SPENT: &str = r#"{"error":{"message":"You exceeded your current quota, please check your plan and billing details.","type":"insufficient_quota","code":"insufficient_quota"}}"#;
const BALANCE: &str =
    r#"{"error":{"message":"Insufficient Balance","type":"unknown_error","code":"invalid_request_error"}}"#;
const CREDIT: &str = r#"{"type":"error","error":{"type":"invalid_request_error","message":"Your credit balance is too low to access the Anthropic API."}}"#;
const BAD_KEY: &str = r#"{"error":{"message":"Incorrect API key provided: sk-live-0123456789abcdef.","type":"invalid_request_error","code":"invalid_api_key"}}"#;
const GEMINI_BAD_KEY: &str = r#"{"error":{"code":400,"message":"API key not valid. Please pass a valid API key.","status":"INVALID_ARGUMENT","details":[{"reason":"API_KEY_INVALID"}]}}"#;
const GONE: &str = r#"{"error":{"message":"Project `p` does not have access to model `m`","type":"invalid_request_error","code":"model_not_found"}}"#;
const OVERLOADED: &str = r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"},"request_id":"req_011CSHoEeqs5C35K2UUqR7Fy"}"#;
const TOO_LONG: &str = r#"{"error":{"message":"This model's maximum context length is 9 tokens.","type":"invalid_request_error","param":"messages","code":"context_length_exceeded"}}"#;
const FILTERED: &str = r#"{"error":{"code":"data_inspection_failed","message":"Input data may contain inappropriate content.","type":"data_inspection_failed"}}"#;
const WRONG: &str = r#"{"error":{"message":"Invalid type for 'messages[0].name'.","type":"invalid_request_error","param":"messages[0].name","code":null}}"#;
const OVERLOADED_EVENT: &str = "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}\n\n";
const RATE_EVENT: &str = ": OPENROUTER PROCESSING\n\ndata: {\"error\":{\"code\":429,\"message\":\"Provider returned error\",\"metadata\":{\"raw\":\"slow down\"}}}\n\n";
const SPENT_EVENT: &str = "data: {\"error\":{\"message\":\"You have no credit\",\"type\":\"insufficient_quota\",\"code\":\"insufficient_quota\"}}\n\n";

fn cases() -> Vec<Case> {
    use Wire::{Anthropic, Gemini, OpenAi};
    // An HTTP date has whole seconds.
    let date = jiff::Timestamp::from_millisecond(clock::wall().0 + 41_000).unwrap();
    let date = date
        .strftime("retry-after: %a, %d %b %Y %H:%M:%S GMT\r\n")
        .to_string();
    let limited = (429, "rate_limit_exceeded");
    let case = |name, wire, says: (u16, &str, &'static str), told, mark, calls| Case {
        name,
        wire,
        says: (says.0, says.1.to_owned(), says.2),
        stream: false,
        told,
        mark,
        calls,
    };
    let streamed = |case: Case| Case { stream: true, ..case };
    let wait = Mark::Waits;
    #[rustfmt::skip]
    let cases = vec![
        case("seconds", OpenAi, (429, "retry-after: 30\r\n", RATE), limited, wait(30), 1),
        case("a date", OpenAi, (429, &date, RATE), limited, wait(41), 1),
        case("milliseconds", OpenAi, (429, "retry-after-ms: 25000\r\nretry-after: 1\r\n", RATE), limited, wait(25), 1),
        case("the reset of a spent limit", Anthropic, (429, "anthropic-ratelimit-requests-remaining: 0\r\nanthropic-ratelimit-requests-reset: 2999-01-01T00:00:00Z\r\n",
              r#"{"type":"error","error":{"type":"rate_limit_error","message":"slow"}}"#), limited, wait(3600), 1),
        case("Gemini's RetryInfo", Gemini, (429, "", GEMINI_MINUTE), limited, wait(35), 1),
        case("a 400 that is a rate limit", OpenAi, (400, "retry-after: 30\r\n", HIDDEN_RATE), limited, wait(30), 1),
        case("a 429 that is an exhausted quota", OpenAi, (429, "", SPENT), limited, Mark::Quota, 1),
        case("402", OpenAi, (402, "", BALANCE), limited, Mark::Quota, 1),
        case("a 400 that is an empty account", Anthropic, (400, "", CREDIT), limited, Mark::Quota, 1),
        case("401", OpenAi, (401, "", BAD_KEY), (502, "provider_unavailable"), Mark::Key, 1),
        case("401 with a wait", OpenAi, (401, "retry-after: 30\r\n", BAD_KEY), (502, "provider_unavailable"), Mark::Key, 1),
        case("a 400 that is a bad key", Gemini, (400, "", GEMINI_BAD_KEY), (502, "provider_unavailable"), Mark::Key, 1),
        case("a 403 for one model", OpenAi, (403, "", GONE), (502, "provider_unavailable"), Mark::Counted, 1),
        case("529", Anthropic, (529, "", OVERLOADED), (503, "provider_overloaded"), Mark::Counted, 2),
        case("a prompt too long", OpenAi, (400, "", TOO_LONG), (400, "context_length_exceeded"), Mark::None, 1),
        case("a filter", OpenAi, (400, "", FILTERED), (400, "content_policy_violation"), Mark::None, 1),
        case("a bad request", OpenAi, (400, "", WRONG), (400, "invalid_request"), Mark::None, 0),
        streamed(case("overloaded, inside a stream", Anthropic, (200, "", OVERLOADED_EVENT), (503, "provider_overloaded"), Mark::Counted, 2)),
        streamed(case("a rate limit, inside a stream", OpenAi, (200, "", RATE_EVENT), limited, Mark::Counted, 1)),
        streamed(case("an exhausted quota, inside a stream", OpenAi, (200, "", SPENT_EVENT), limited, Mark::Quota, 1)),
    ];
    cases
}

/// For each case a provider with two models, and a route from each of them to a provider that is well.
async fn house(cases: &[Case]) -> (Vec<Upstream>, House) {
    let mut upstreams = vec![Upstream::always("well", Wire::OpenAi, Fault::None).await];
    let mut named = vec!["well".to_owned()];
    let mut more = "[embedding]\nmodel = \"off\"\n".to_owned();
    for (number, case) in cases.iter().enumerate() {
        let name = format!("c{number}");
        let (status, headers, body) = &case.says;
        let headers: &'static str = Box::leak(headers.clone().into_boxed_str());
        let fault = Fault::Says(*status, headers, body);
        upstreams.push(Upstream::always(&name, case.wire, fault).await);
        write!(
            more,
            "[[models]]\nid = \"{name}/other\"\ncontext_window = 8192\n[models.price]\ninput_per_mtok = 1.0\n\
             output_per_mtok = 2.0\n"
        )
        .unwrap();
        for model in ["m", "other"] {
            write!(
                more,
                "[[routes]]\nname = \"{name}-{model}\"\nmodels = [\"{name}/{model}\"]\nfallbacks = [\"well/m\"]\n\
                 hedge = {{ enabled = false }}\n"
            )
            .unwrap();
        }
        named.push(name);
    }
    let pairs: Vec<(String, &Upstream)> = named.into_iter().zip(&upstreams).collect();
    let house = House::with(&pairs, "", &more).await;
    (upstreams, house)
}

struct Talk<'a> {
    house: &'a House,
    upstream: &'a Upstream,
    case: &'a Case,
    provider: String,
}

impl Talk<'_> {
    async fn ask(&self, model: &str) -> Seen {
        let ask = self.house.ask(model, "ask-1", self.case.stream, PATIENCE);
        see(ask.send().await.unwrap()).await
    }

    /// The circuit of the provider's model.
    async fn circuit(&self, model: &str) -> Value {
        let telemetry = self.house.get("/v1/telemetry").await;
        let rows = telemetry["circuits"].as_array().unwrap();
        let id = format!("{}/{model}", self.provider);
        let row = rows.iter().find(|row| row["model"] == id.as_str());
        row.cloned().unwrap_or_default()
    }

    async fn check(&self) {
        let (case, calls) = (self.case, || self.upstream.requests());
        let context = case.name;
        let route = format!("{}-m", self.provider);
        let first = self.ask(&route).await;
        if case.calls == 0 {
            self.check_refusal(&first);
            assert_eq!(calls(), 1, "{context}: a bad request is sent once");
        } else {
            self.check_rescue(&first, true);
            assert_eq!(calls(), case.calls, "{context}");
        }
        self.check_mark().await;

        // The next request with the same chain.
        let before = calls();
        let second = self.ask(&route).await;
        let rests = matches!(case.mark, Mark::Waits(_) | Mark::Quota | Mark::Key);
        assert_eq!(calls() == before, rests, "{context}: asked again or not");
        if case.calls > 0 {
            self.check_rescue(&second, !rests);
        }
        // The provider's other model, behind the same key.
        let before = calls();
        self.ask(&format!("{}-other", self.provider)).await;
        let key_rests = matches!(case.mark, Mark::Quota | Mark::Key);
        assert_eq!(calls() == before, key_rests, "{context}: the key's other model");

        // Nobody else is left.
        let before = calls();
        let alone = self.ask(&format!("{}/m", self.provider)).await;
        self.check_refusal(&alone);
        let waits = matches!(case.mark, Mark::Waits(_));
        assert_eq!(
            calls() == before,
            waits,
            "{context}: never without its last candidate, unless it says so"
        );
    }

    fn check_rescue(&self, seen: &Seen, was_asked: bool) {
        let context = format!("{}: {seen:?}", self.case.name);
        assert_eq!((seen.status, seen.model.as_str()), (200, "well/m"), "{context}");
        assert_eq!(seen.text, full_answer("well", "ask-1"), "{context}");
        let attempts: usize = seen.headers["x-router-attempts"]
            .to_str()
            .unwrap()
            .parse()
            .unwrap();
        assert_eq!(attempts > 1, was_asked, "{context}");
    }

    fn check_refusal(&self, seen: &Seen) {
        let (case, context) = (self.case, format!("{}: {seen:?}", self.case.name));
        let error = seen.error.as_ref().unwrap_or_else(|| panic!("{context}"));
        assert_eq!(
            (seen.status, error["code"].as_str().unwrap()),
            case.told,
            "{context}"
        );
        assert_eq!(error["metadata"]["error_type"], error["code"], "{context}");
        let text = error.to_string();
        for secret in ["sk-live", "req_011", "127.0.0.1", "billing"] {
            assert!(!text.contains(secret), "{secret} leaks: {context}");
        }
        // Whole words: a wait in milliseconds may hold any digits.
        let mut words = text.split(|c: char| !c.is_ascii_alphanumeric());
        let code = words.find(|word| ["401", "402", "403", "429", "529"].contains(word));
        assert_eq!(code, None, "a provider's code leaks: {context}");
        match case.mark {
            Mark::Waits(seconds) => {
                let told: u64 = seen.retry_after.as_ref().unwrap().parse().unwrap();
                assert!(told <= seconds && told + 10 >= seconds, "{context}");
                assert_eq!(seen.headers["x-should-retry"], "true", "{context}");
            }
            Mark::Quota | Mark::None => {
                assert_eq!(error["metadata"]["retryable"], false, "{context}");
                assert_eq!(seen.headers["x-should-retry"], "false", "{context}");
            }
            Mark::Counted | Mark::Key => assert_eq!(error["metadata"]["retryable"], true, "{context}"),
        }
    }

    async fn check_mark(&self) {
        let row = self.circuit("m").await;
        let context = format!("{}: {row}", self.case.name);
        let states = (row["state"].as_str().unwrap(), row["key"].as_str().unwrap());
        let rest = row["retry_in_ms"].as_u64();
        match self.case.mark {
            Mark::None => {
                assert_eq!(states, ("closed", "closed"), "{context}");
                assert!(row["last_failure"].is_null() && rest.is_none(), "{context}");
            }
            Mark::Counted => {
                assert_eq!(states, ("closed", "closed"), "{context}");
                assert_eq!(row["last_failure"], self.case.told.1, "{context}");
            }
            Mark::Waits(seconds) => {
                assert_eq!(states, ("closed", "closed"), "{context}");
                let rest = rest.unwrap();
                assert!(
                    rest <= seconds * 1000 && rest + 10_000 >= seconds * 1000,
                    "{context}"
                );
            }
            Mark::Quota => {
                assert_eq!(states, ("open", "open"), "{context}");
                assert_eq!(row["reason"], "the account's quota is exhausted", "{context}");
            }
            Mark::Key => {
                assert_eq!(states, ("closed", "open"), "{context}");
                assert_eq!(row["reason"], "the provider refused our key", "{context}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_provider_says_is_obeyed_by_its_meaning() {
    let cases = cases();
    let (upstreams, house) = house(&cases).await;
    for (number, case) in cases.iter().enumerate() {
        let talk = Talk {
            house: &house,
            upstream: &upstreams[number + 1],
            case,
            provider: format!("c{number}"),
        };
        talk.check().await;
    }
    house.app.store.flush().await.unwrap();
    let logged = house.app.store.reader().attempts_since(0, 10_000).unwrap();
    for (number, case) in cases.iter().enumerate() {
        let provider = format!("c{number}");
        let rows = logged.iter().filter(|row| *row.attempt.provider == *provider);
        let rows: Vec<_> = rows.map(|row| &row.attempt).collect();
        assert_eq!(rows.len(), upstreams[number + 1].requests(), "{}", case.name);
        for row in rows {
            let context = format!("{}: {row:?}", case.name);
            assert_eq!(row.outcome, case.told.1, "{context}");
            assert_eq!(
                row.cost.map(|cost| cost.nanos()),
                Some(0),
                "a refusal costs nothing: {context}"
            );
            // Our log, not the client, is told the provider's code; never our key.
            let detail: Value = serde_json::from_str(row.detail.as_deref().unwrap()).unwrap();
            let code = detail["provider_code"].as_str().unwrap();
            let (status, _, _) = case.says;
            let expected = if status == 200 {
                "inside the answer".to_owned()
            } else {
                status.to_string()
            };
            assert!(
                code.starts_with(&expected) || code.starts_with("429"),
                "{context}"
            );
            assert!(!code.contains("sk-live"), "{context}");
        }
    }
}

/// However often a client errs, the model stays there for everybody else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_requests_open_no_circuit() {
    for says in [WRONG, TOO_LONG, FILTERED] {
        let picky = Upstream::scripted("picky", Wire::OpenAi, move |_, ask| {
            if ask == "ask-bad" {
                Fault::Says(400, "", says)
            } else {
                Fault::None
            }
        })
        .await;
        let house = House::open(&[("picky".to_owned(), &picky)], &[]).await;
        for number in 0..30 {
            let ask = house.ask("picky/m", "ask-bad", number % 2 == 0, PATIENCE);
            assert_eq!(see(ask.send().await.unwrap()).await.status, 400);
        }
        let good = house.ask("picky/m", "ask-good", false, PATIENCE);
        assert_eq!(see(good.send().await.unwrap()).await.status, 200);
        let health = house.app.dispatcher.health(clock::monotonic());
        assert_eq!(
            (health[0].state, health[0].last_failure),
            (pointsman::telemetry::circuit::CircuitState::Closed, None)
        );
    }
}
