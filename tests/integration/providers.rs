//! Providers against a scripted server on a socket: what is sent, and what every kind of answer becomes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use pointsman::arm::{Arm, ArmId, Modalities};
use pointsman::completion::{FinishReason, StreamEvent};
use pointsman::failure::{AttemptError, FailureKind, FaultSource, Retry};
use pointsman::providers::{Call, Provider, ProviderSettings, Secret, WireFormat, http_client};
use pointsman::request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// Nothing here should take longer.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the server does once it has read a request.
#[derive(Clone)]
enum Step {
    Write(Vec<u8>),
    /// Waits until the client hangs up, and tells it.
    AwaitHangUp,
    Close,
}

/// What the server saw.
#[derive(Debug)]
enum Seen {
    Connection,
    Request { head: String, body: String },
    HangUp,
}

struct Server {
    address: SocketAddr,
    seen: mpsc::UnboundedReceiver<Seen>,
}

impl Server {
    /// Answers every request with the same steps.
    async fn start(steps: Vec<Step>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (tell, seen) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let _ = tell.send(Seen::Connection);
                tokio::spawn(serve(socket, steps.clone(), tell.clone()));
            }
        });
        Self { address, seen }
    }

    async fn answering(text: &str) -> Self {
        Self::start(vec![Step::Write(text.as_bytes().to_vec())]).await
    }

    fn provider(&self, kind: WireFormat, path: &str) -> Provider {
        let mut settings = ProviderSettings::new("acme", kind, format!("http://{}{path}", self.address));
        settings.api_key = Some(Secret::new("sk-test-secret"));
        settings.headers = vec![("x-team".into(), "blue".into())];
        settings.max_response_bytes = 100_000;
        Provider::new(settings, http_client(PATIENCE).unwrap()).unwrap()
    }

    async fn next(&mut self) -> Seen {
        tokio::time::timeout(PATIENCE, self.seen.recv())
            .await
            .unwrap()
            .unwrap()
    }

    async fn request(&mut self) -> (String, String) {
        loop {
            if let Seen::Request { head, body } = self.next().await {
                return (head, body);
            }
        }
    }
}

async fn serve(mut socket: TcpStream, steps: Vec<Step>, tell: mpsc::UnboundedSender<Seen>) {
    while let Some((head, body)) = read_request(&mut socket).await {
        let _ = tell.send(Seen::Request { head, body });
        for step in &steps {
            match step {
                Step::Write(bytes) => {
                    if socket.write_all(bytes).await.is_err() {
                        return;
                    }
                }
                Step::AwaitHangUp => {
                    let mut rest = [0; 64];
                    while !matches!(socket.read(&mut rest).await, Ok(0) | Err(_)) {}
                    let _ = tell.send(Seen::HangUp);
                    return;
                }
                Step::Close => return,
            }
        }
    }
}

/// The head in lower case, and the body; `None` when the client has gone.
async fn read_request(socket: &mut TcpStream) -> Option<(String, String)> {
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok())
                .unwrap_or(0);
            if bytes.len() >= end + 4 + length {
                return Some((head, String::from_utf8_lossy(&bytes[end + 4..]).into_owned()));
            }
        }
        match socket.read(&mut piece).await {
            Ok(count) if count > 0 => bytes.extend_from_slice(&piece[..count]),
            _ => return None,
        }
    }
}

fn arm() -> Arc<Arm> {
    Arc::new(Arm {
        id: ArmId::new("acme/m"),
        upstream: "m-2".into(),
        family: "m".into(),
        context_window: 100_000,
        max_output_tokens: 4_096,
        modalities: Modalities::TEXT,
        tools: true,
        structured_output: true,
    })
}

fn call() -> Call {
    let body =
        Bytes::from_static(br#"{"model":"auto","messages":[{"role":"user","content":"hi"}],"new_field":1}"#);
    Call {
        request: Arc::new(request::parse(body).unwrap()),
        arm: arm(),
        fallback: false,
    }
}

fn json(body: &str) -> String {
    response("200 OK", "content-type: application/json\r\n", body)
}

fn response(status: &str, headers: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n{body}",
        body.len()
    )
}

const STREAM_HEAD: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";

fn chunked(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

fn streaming(text: &str) -> String {
    format!("{STREAM_HEAD}{}0\r\n\r\n", chunked(text))
}

async fn collect(provider: &Provider) -> Result<Vec<StreamEvent>, AttemptError> {
    let read = async {
        let mut stream = provider.stream(&call()).await?;
        let mut events = Vec::new();
        while let Some(event) = stream.next().await {
            events.push(event?);
        }
        Ok(events)
    };
    tokio::time::timeout(PATIENCE, read).await.unwrap()
}

const OPENAI_WHOLE: &str = r#"{"id":"c","choices":[{"index":0,"message":{"role":"assistant","content":"hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":1}}"#;
const OPENAI_STREAM: &str = include_str!("../fixtures/providers/openai/stream.sse");
const ANTHROPIC_WHOLE: &str = include_str!("../fixtures/providers/anthropic/whole.json");
const ANTHROPIC_STREAM: &str = include_str!("../fixtures/providers/anthropic/stream.sse");
const GEMINI_WHOLE: &str = include_str!("../fixtures/providers/gemini/whole.json");
const GEMINI_STREAM: &str = include_str!("../fixtures/providers/gemini/stream.sse");

#[tokio::test]
async fn each_format_is_sent_to_its_address_with_its_key() {
    let cases = [
        (
            WireFormat::OpenAi,
            "/v1",
            OPENAI_WHOLE,
            "post /v1/chat/completions ",
            "authorization: bearer sk-test-secret",
        ),
        (
            WireFormat::Anthropic,
            "",
            ANTHROPIC_WHOLE,
            "post /v1/messages ",
            "x-api-key: sk-test-secret",
        ),
        (
            WireFormat::Gemini,
            "",
            GEMINI_WHOLE,
            "post /v1beta/models/m-2:generatecontent ",
            "x-goog-api-key: sk-test-secret",
        ),
    ];
    for (kind, path, answer, line, key) in cases {
        let mut server = Server::answering(&json(answer)).await;
        let provider = server.provider(kind, path);
        let answer = provider.complete(&call()).await.unwrap();
        assert!(answer.signals.written.text > 0);
        assert!(answer.usage.is_some());
        let (head, body) = server.request().await;
        assert!(head.starts_with(line), "{head}");
        assert!(head.contains(key) && head.contains("x-team: blue"), "{head}");
        assert!(!head.contains("accept-encoding"), "{head}");
        assert_eq!(
            head.contains("anthropic-version: 2023-06-01"),
            kind == WireFormat::Anthropic
        );
        assert_eq!(body.contains("new_field"), kind == WireFormat::OpenAi, "{body}");
        assert!(!format!("{provider:?}").contains("sk-test-secret"));
    }
}

#[tokio::test]
async fn each_format_streams() {
    let cases = [
        (WireFormat::OpenAi, OPENAI_STREAM, "post /chat/completions "),
        (WireFormat::Anthropic, ANTHROPIC_STREAM, "post /v1/messages "),
        (
            WireFormat::Gemini,
            GEMINI_STREAM,
            "post /v1beta/models/m-2:streamgeneratecontent?alt=sse ",
        ),
    ];
    for (kind, text, line) in cases {
        let mut server = Server::answering(&streaming(text)).await;
        let events = collect(&server.provider(kind, "")).await.unwrap();
        let Some(StreamEvent::End { finish, usage, .. }) = events.last() else {
            panic!("{kind}: no end");
        };
        assert_eq!(*finish, FinishReason::ToolCalls);
        assert!(usage.unwrap().input > 0);
        let (head, body) = server.request().await;
        assert!(head.starts_with(line), "{head}");
        assert_eq!(
            body.contains(r#""include_usage":true"#),
            kind == WireFormat::OpenAi
        );
    }
}

/// Some servers pass over `stream`; an error in that place stays one.
#[tokio::test]
async fn a_whole_answer_serves_where_a_stream_was_asked_for() {
    let whole = r#"{"id":"c","choices":[{"index":0,"message":{"role":"assistant","content":"hello"},"finish_reason":"length"}],
        "usage":{"prompt_tokens":9,"completion_tokens":4}}"#;
    let server = Server::answering(&json(whole)).await;
    let events = collect(&server.provider(WireFormat::OpenAi, "")).await.unwrap();
    let [
        StreamEvent::Chunk(said),
        StreamEvent::Chunk(_),
        StreamEvent::End { finish, usage, .. },
    ] = events.as_slice()
    else {
        panic!("{events:?}")
    };
    assert!(
        said.choices
            .get()
            .contains(r#""delta":{"role":"assistant","content":"hello"}"#)
    );
    assert_eq!((*finish, usage.unwrap().output), (FinishReason::Length, 4));
    let refused = Server::answering(&json(r#"{"error":{"message":"Overloaded","code":503}}"#)).await;
    let error = collect(&refused.provider(WireFormat::OpenAi, ""))
        .await
        .unwrap_err();
    assert_eq!(error.kind, FailureKind::ProviderOverloaded);
}

#[tokio::test]
async fn a_connection_is_used_again_after_an_answer_and_after_a_stream() {
    let mut server = Server::answering(&streaming(OPENAI_STREAM)).await;
    let provider = server.provider(WireFormat::OpenAi, "");
    for _ in 0..3 {
        collect(&provider).await.unwrap();
        // The client's own tasks put the connection back.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }
    let mut connections = 0;
    let mut requests = 0;
    while requests < 3 {
        match server.next().await {
            Seen::Connection => connections += 1,
            Seen::Request { .. } => requests += 1,
            Seen::HangUp => panic!("hung up"),
        }
    }
    assert_eq!(connections, 1);
}

#[tokio::test]
async fn dropping_a_stream_or_a_call_hangs_up() {
    let first = STREAM_HEAD.to_owned() + &chunked(&OPENAI_STREAM[..OPENAI_STREAM.find("you").unwrap()]);
    let mut server = Server::start(vec![Step::Write(first.into_bytes()), Step::AwaitHangUp]).await;
    let provider = server.provider(WireFormat::OpenAi, "");
    let mut stream = provider.stream(&call()).await.unwrap();
    assert!(stream.next().await.unwrap().is_ok());
    drop(stream);
    server.request().await;
    assert!(matches!(server.next().await, Seen::HangUp));

    let mut server = Server::start(vec![Step::AwaitHangUp]).await;
    let provider = server.provider(WireFormat::OpenAi, "");
    let call = call();
    let mut answer = Box::pin(provider.complete(&call));
    tokio::select! {
        _ = &mut answer => panic!("answered"),
        _ = server.request() => {}
    }
    drop(answer);
    assert!(matches!(server.next().await, Seen::HangUp));
}

/// What a server may do wrong, asked for a whole answer and for a stream.
#[tokio::test]
async fn every_bad_answer_is_one_clear_error() {
    use FailureKind::{ProviderOverloaded, ProviderUnavailable, RateLimitExceeded};
    let overloaded = r#"{"error":{"message":"overloaded, try later","code":503}}"#;
    let half = &OPENAI_STREAM[..OPENAI_STREAM.find("you").unwrap()];
    let close = |text: String| vec![Step::Write(text.into_bytes()), Step::Close];
    let cases: Vec<(&str, Vec<Step>, FailureKind)> = vec![
        (
            "429",
            close(response(
                "429 Too Many Requests",
                "retry-after: 2\r\n",
                r#"{"error":{"message":"m"}}"#,
            )),
            RateLimitExceeded,
        ),
        (
            "503 page",
            close(response(
                "503 Service Unavailable",
                "content-type: text/html\r\n",
                "<html>",
            )),
            ProviderOverloaded,
        ),
        (
            "302",
            close(response("302 Found", "location: http://127.0.0.1:1/\r\n", "")),
            ProviderUnavailable,
        ),
        ("error in 200", close(json(overloaded)), ProviderOverloaded),
        (
            "login page",
            close(response("200 OK", "content-type: text/html\r\n", "<html>")),
            ProviderUnavailable,
        ),
        ("garbage", close(json("{\"id\": garbage")), ProviderUnavailable),
        ("no answer", close(json("{}")), ProviderUnavailable),
        (
            "oversized",
            close(json(&format!("{{\"a\":\"{}\"}}", "x".repeat(150_000)))),
            ProviderUnavailable,
        ),
        ("hang up", vec![Step::Close], ProviderUnavailable),
        (
            "half a head",
            close("HTTP/1.1 200 OK\r\ncontent-ty".into()),
            ProviderUnavailable,
        ),
        (
            "half a body",
            close(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 900\r\n\r\n{\"id\""
                    .into(),
            ),
            ProviderUnavailable,
        ),
        (
            "no HTTP",
            close("SSH-2.0-OpenSSH\r\n\r\n".into()),
            ProviderUnavailable,
        ),
        (
            "error first",
            close(streaming(&format!("data: {overloaded}\n\n"))),
            ProviderOverloaded,
        ),
        ("cut stream", close(streaming(half)), ProviderUnavailable),
        (
            "reset stream",
            close(STREAM_HEAD.to_owned() + &chunked(half)),
            ProviderUnavailable,
        ),
        (
            "garbage stream",
            close(streaming("data: {oops\n\n")),
            ProviderUnavailable,
        ),
    ];
    for (name, steps, kind) in cases {
        let server = Server::start(steps).await;
        let provider = server.provider(WireFormat::OpenAi, "");
        let streamed = collect(&provider).await.unwrap_err();
        assert_eq!(streamed.kind, kind, "{name}, streamed: {streamed:?}");
        assert_eq!(streamed.fault, FaultSource::Upstream, "{name}");
        assert_ne!(streamed.retry, Retry::No, "{name}");
        let whole = tokio::time::timeout(PATIENCE, provider.complete(&call()))
            .await
            .unwrap()
            .unwrap_err();
        if !name.contains("stream") && name != "error first" {
            assert_eq!(whole.kind, kind, "{name}, whole: {whole:?}");
        }
        for error in [&streamed, &whole] {
            assert!(error.message.starts_with("acme "), "{name}: {}", error.message);
            assert!(
                !error.message.contains("127.0.0.1") && !error.message.contains("503"),
                "{name}: {}",
                error.message
            );
        }
        if name == "429" {
            assert_eq!(whole.retry_after, Some(Duration::from_secs(2)));
        }
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_or_speaks_no_tls_is_unavailable() {
    let deaf = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let deaf_address = deaf.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = deaf.accept().await {
            let _ = socket.write_all(b"no tls here").await;
        }
    });
    let gone = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    for url in [format!("http://{gone}"), format!("https://{deaf_address}")] {
        let settings = ProviderSettings::new("acme", WireFormat::OpenAi, url);
        let provider = Provider::new(settings, http_client(PATIENCE).unwrap()).unwrap();
        let error = provider.complete(&call()).await.unwrap_err();
        assert_eq!(
            (error.kind, error.retry),
            (FailureKind::ProviderUnavailable, Retry::NextArm)
        );
        assert!(!error.may_be_billed);
        assert!(!error.message.contains("127.0.0.1"), "{}", error.message);
    }
}

#[tokio::test]
async fn embeddings_pass_through_with_the_model_replaced() {
    let answer = r#"{"object":"list","data":[{"embedding":[0.5],"index":0}],"model":"m-2","usage":{"prompt_tokens":2}}"#;
    let mut server = Server::answering(&json(answer)).await;
    let provider = server.provider(WireFormat::OpenAi, "/v1");
    let body = r#"{"model":"acme/m","input":["a","b"],"encoding_format":"base64","routing":{}}"#;
    let call = Call {
        request: Arc::new(pointsman::request::parse_embedding(body.into()).unwrap()),
        ..call()
    };
    let got = provider.complete(&call).await.unwrap();
    assert_eq!(got.choices.get(), r#"[{"embedding":[0.5],"index":0}]"#);
    assert_eq!(got.usage.unwrap().input, 2);
    let (head, sent) = server.request().await;
    assert!(head.starts_with("post /v1/embeddings "), "{head}");
    assert_eq!(
        sent,
        r#"{"model":"m-2","input":["a","b"],"encoding_format":"base64"}"#
    );
    let other = server.provider(WireFormat::Anthropic, "");
    let error = other.complete(&call).await.unwrap_err();
    assert_eq!(
        (error.kind, error.retry),
        (FailureKind::InvalidRequest, Retry::NextArm)
    );
}

#[tokio::test]
async fn settings_that_cannot_work_are_refused_at_once_without_telling_the_key() {
    let client = http_client(PATIENCE).unwrap();
    for url in [
        "",
        "example.org",
        "ftp://example.org",
        "https://example.org/v1?key=1",
    ] {
        let settings = ProviderSettings::new("acme", WireFormat::OpenAi, url);
        let error = Provider::new(settings, client.clone()).unwrap_err();
        assert!(error.to_string().contains("base_url"), "{error}");
    }
    let mut settings = ProviderSettings::new("acme", WireFormat::OpenAi, "https://example.org");
    settings.api_key = Some(Secret::new("sk-\nbroken"));
    let error = Provider::new(settings, client.clone()).unwrap_err();
    assert!(
        error.to_string().contains("API key") && !error.to_string().contains("broken"),
        "{error}"
    );
    let settings = ProviderSettings::new("acme", WireFormat::Simulated, "http://localhost");
    assert!(Provider::new(settings, client).is_err());
}
