//! An upstream on a port of its own that does what a script says, down to the bytes, and keeps books of what it
//! served and billed. It speaks just enough HTTP/1.1 to be talked to, so that it can also break every rule of it.

mod connection;
mod wire;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::net::TcpListener;
use tokio::task::JoinHandle;

pub use wire::Wire;

/// Tokens of every prompt, as this upstream counts them.
pub const INPUT_TOKENS: u64 = 11;

/// What is done to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// It is answered well.
    None,
    /// An error status; the seconds of `retry-after`, if any.
    Status(u16, Option<u32>),
    /// Status, header lines and body, word for word; a stream is answered with the body as its events.
    Says(u16, &'static str, &'static str),
    /// The account is out of money, told in the provider's own way.
    QuotaExhausted,
    /// The request is told to be wrong.
    BadRequest,
    /// The prompt is told to be too long for this model.
    TooLong,
    HangBeforeHeaders,
    HangAfterHeaders,
    /// A pause before the first token, in milliseconds.
    SlowFirstToken(u64),
    /// A pause before every piece, in milliseconds.
    Trickle(u64),
    /// Half an answer, then the connection is reset.
    ResetMidStream,
    /// An error with status 200: as the body, or as the stream's first event.
    ErrorInside200,
    GarbageJson,
    /// Half an answer, then a clean end of the connection.
    Truncated,
    /// A login page.
    WrongContentType,
    /// More than any answer has.
    Oversized,
    /// The end is told twice.
    DuplicateDone,
    /// No TLS is spoken on a port that should speak it.
    TlsFailure,
    /// A certificate that nobody vouches for.
    BadCertificate,
    /// One byte every tenth of a second: never silent, and never done.
    Drip,
    /// An answer in an encoding that was not asked for.
    Compressed,
    /// The connection is reset in the middle of the headers.
    ResetInHeaders,
    /// Elsewhere, says the server; a key must not go there.
    Redirect,
    /// Bytes that are no text.
    BadUtf8,
    /// Informational answers before the real one.
    Informational,
    /// Headers after the body.
    Trailers,
    /// Every byte in a chunk of its own, so that no character stays whole.
    ByteByByte,
    /// The connection is closed after the answer, which does not say so.
    ClosesAtOnce,
}

/// A request that this upstream has dealt with.
#[derive(Clone, Debug)]
pub struct Dealt {
    pub fault: Fault,
    pub stream: bool,
    /// The `ask-...` word of the prompt.
    pub ask: String,
    pub input_tokens: u64,
    pub output_tokens: u64,
    /// The caller hung up before the answer was complete.
    pub hung_up: bool,
}

type Script = dyn Fn(usize, &str) -> Fault + Send + Sync;

pub struct Upstream {
    port: u16,
    secure: bool,
    house: Arc<House>,
    listener: JoinHandle<()>,
}

struct House {
    name: String,
    wire: Wire,
    script: Box<Script>,
    requests: AtomicUsize,
    open: AtomicUsize,
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
    /// The latest request's body.
    heard: Mutex<String>,
    books: Mutex<Vec<Dealt>>,
}

impl Upstream {
    /// Does the same to every request.
    pub async fn always(name: &str, wire: Wire, fault: Fault) -> Self {
        let secure = matches!(fault, Fault::TlsFailure | Fault::BadCertificate);
        let mut upstream = Self::open(name, wire, fault == Fault::BadCertificate, move |_, _| fault).await;
        upstream.secure = secure;
        upstream
    }

    /// Asks `script` what to do, with the number of the request, from 0, and the `ask-...` word of its prompt.
    pub async fn scripted(
        name: &str,
        wire: Wire,
        script: impl Fn(usize, &str) -> Fault + Send + Sync + 'static,
    ) -> Self {
        Self::open(name, wire, false, script).await
    }

    async fn open(
        name: &str,
        wire: Wire,
        bad_certificate: bool,
        script: impl Fn(usize, &str) -> Fault + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let certificate = bad_certificate.then(certificate);
        let house = Arc::new(House {
            name: name.to_owned(),
            wire,
            script: Box::new(script),
            requests: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            at_once: AtomicUsize::new(0),
            most_at_once: AtomicUsize::new(0),
            heard: Mutex::default(),
            books: Mutex::default(),
        });
        let serving = house.clone();
        let listener = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (house, certificate) = (serving.clone(), certificate.clone());
                tokio::spawn(async move {
                    if let Some(certificate) = certificate {
                        // The caller must hang up when it sees the certificate.
                        let greeted = certificate.accept(socket).await;
                        assert!(greeted.is_err(), "the certificate was accepted");
                        return;
                    }
                    house.open.fetch_add(1, Ordering::Relaxed);
                    // A caller that hangs up in the middle is what this house is here to see.
                    let _ = connection::serve(socket, &house).await;
                    house.open.fetch_sub(1, Ordering::Relaxed);
                });
            }
        });
        Self {
            port,
            secure: false,
            house,
            listener,
        }
    }

    pub fn base_url(&self) -> String {
        let scheme = if self.secure { "https" } else { "http" };
        let path = match self.house.wire {
            Wire::OpenAi => "/v1",
            Wire::Anthropic | Wire::Gemini => "",
        };
        format!("{scheme}://127.0.0.1:{}{path}", self.port)
    }

    pub fn wire(&self) -> Wire {
        self.house.wire
    }

    /// Requests so far.
    pub fn requests(&self) -> usize {
        self.house.requests.load(Ordering::Relaxed)
    }

    /// Connections that are open.
    pub fn connections(&self) -> usize {
        self.house.open.load(Ordering::Relaxed)
    }

    /// The body of the latest request.
    pub fn heard(&self) -> serde_json::Value {
        serde_json::from_str(&self.house.heard.lock().unwrap()).unwrap()
    }

    /// Most requests that were being answered at the same time.
    pub fn most_at_once(&self) -> usize {
        self.house.most_at_once.load(Ordering::Relaxed)
    }

    /// What was dealt with so far.
    pub fn books(&self) -> Vec<Dealt> {
        self.house.books.lock().unwrap().clone()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

/// A certificate for this address that its owner signed himself.
fn certificate() -> tokio_rustls::TlsAcceptor {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let ring = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(ring)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())
        .unwrap();
    tokio_rustls::TlsAcceptor::from(Arc::new(config))
}

/// What this upstream answers to a prompt, in the pieces that it streams.
pub fn pieces(name: &str, ask: &str) -> Vec<String> {
    vec![
        format!("{name} "),
        "answers ".to_owned(),
        ask.to_owned(),
        " in full ✓".to_owned(),
    ]
}

/// The whole of it.
pub fn full_answer(name: &str, ask: &str) -> String {
    pieces(name, ask).concat()
}

/// Tokens of a text, as this upstream counts them: four bytes each, begun ones too.
pub fn tokens(text: &str) -> u64 {
    text.len().div_ceil(4) as u64
}
