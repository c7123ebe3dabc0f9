//! The providers at work: they answer as the call's word says and keep books of what they bill.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use futures_util::{StreamExt, stream};
use http::{StatusCode, Uri};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::houses::{House, Used};

/// What is done with a call: told by the word after its number, `call-17-late`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Answered, and what it used is told.
    Told,
    /// Answered, but nobody tells what it used.
    Mute,
    /// Fails once and is then answered.
    Fails,
    /// Two pieces of a stream, then nothing more.
    Cut,
    /// Never answered by the first house that is asked.
    Late,
}

impl Fate {
    pub fn word(self) -> &'static str {
        match self {
            Self::Told => "told",
            Self::Mute => "mute",
            Self::Fails => "fails",
            Self::Cut => "cut",
            Self::Late => "late",
        }
    }
}

/// The pieces of every answer. Nobody sees how many tokens they are; they count a token for every four bytes begun.
pub const PIECES: [&str; 4] = ["It is ", "settled, ", "and it is ", "on the books."];

/// A line of the books.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bill {
    pub call: u64,
    pub house: House,
    pub nanos: i64,
    /// Whether the customer was told what it used.
    pub told: bool,
}

#[derive(Default)]
struct Vault {
    bills: Vec<Bill>,
    /// Calls that came before, with how often.
    seen: HashMap<u64, u32>,
}

/// All five providers on one port.
pub struct Bank {
    pub address: SocketAddr,
    vault: Arc<Counter>,
    serving: JoinHandle<()>,
}

struct Counter {
    vault: Mutex<Vault>,
    /// Tokens of every prompt, as houses and customers agree to count what neither tells the other.
    prompt_tokens: u64,
}

impl Bank {
    pub async fn open(prompt_tokens: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let vault = Arc::new(Counter {
            vault: Mutex::default(),
            prompt_tokens,
        });
        let router = Router::new().fallback(deal).with_state(Arc::clone(&vault));
        let serving = tokio::spawn(async move {
            axum::serve(listener, router).await.unwrap();
        });
        Self {
            address,
            vault,
            serving,
        }
    }

    pub fn base_url(&self, house: House) -> String {
        let path = if house.kind() == "openai" { "/v1" } else { "" };
        format!("http://{}/{}{path}", self.address, house.name())
    }

    pub fn bills(&self) -> Vec<Bill> {
        self.vault.vault.lock().unwrap().bills.clone()
    }
}

impl Drop for Bank {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Number and fate in a prompt.
fn read(body: &str) -> (u64, Fate) {
    let at = body.find("call-").unwrap() + 5;
    let mut words = body[at..].split(|c: char| !c.is_ascii_alphanumeric());
    let call = words.next().unwrap().parse().unwrap();
    let word = words.next().unwrap();
    let fate = [Fate::Told, Fate::Mute, Fate::Fails, Fate::Cut, Fate::Late]
        .into_iter()
        .find(|fate| fate.word() == word)
        .unwrap();
    (call, fate)
}

fn bytes_as_tokens(text: &str) -> u64 {
    text.len().div_ceil(4) as u64
}

async fn deal(State(counter): State<Arc<Counter>>, uri: Uri, body: Bytes) -> Response {
    let body = String::from_utf8(body.to_vec()).unwrap();
    let house = House::named(uri.path().split('/').nth(1).unwrap()).unwrap();
    let streams = uri.path().contains("stream") || body.contains(r#""stream":true"#);
    let (call, fate) = read(&body);
    let before = {
        let mut vault = counter.vault.lock().unwrap();
        let seen = vault.seen.entry(call).or_default();
        *seen += 1;
        *seen - 1
    };
    let bill = |used: &Used, told: bool| {
        let nanos = house.bill(used);
        let bill = Bill {
            call,
            house,
            nanos,
            told,
        };
        counter.vault.lock().unwrap().bills.push(bill);
    };
    let unseen = |said: &str| Used {
        fresh: counter.prompt_tokens,
        hit: 0,
        written_5m: 0,
        written_1h: 0,
        said: bytes_as_tokens(said),
        thought: 0,
    };
    let drawn = house.draw(call);
    let whole = PIECES.concat();
    match fate {
        Fate::Fails if before == 0 => {
            let body = json!({"error": {"message": "try again", "type": "server_error", "code": null}});
            (StatusCode::INTERNAL_SERVER_ERROR, Json(body)).into_response()
        }
        Fate::Late if before == 0 => {
            bill(&unseen(""), false);
            std::future::pending::<()>().await;
            StatusCode::OK.into_response()
        }
        Fate::Cut => {
            // Those who tell the prompt at the beginning bill what they told, and what was said until the end.
            let said = PIECES[..2].concat();
            let early = matches!(house, House::Anthropic | House::Gemini);
            let used = if early {
                Used {
                    said: bytes_as_tokens(&said),
                    thought: 0,
                    ..drawn
                }
            } else {
                unseen(&said)
            };
            bill(&used, early);
            let mut text = house.opening(early.then_some(&drawn));
            for piece in &PIECES[..2] {
                text += &house.piece(piece, early.then_some(&drawn));
            }
            let frames = stream::iter([Ok::<_, std::convert::Infallible>(text)]).chain(stream::pending());
            sse(Body::from_stream(frames))
        }
        _ => {
            let told = (fate != Fate::Mute).then_some(&drawn);
            bill(told.unwrap_or(&unseen(&whole)), told.is_some());
            if !streams {
                return Json(house.whole(&whole, told)).into_response();
            }
            let mut text = house.opening(told);
            for piece in PIECES {
                text += &house.piece(piece, told);
            }
            sse(Body::from(text + &house.closing(told)))
        }
    }
}

fn sse(body: Body) -> Response {
    let mut response = Response::new(body);
    let kind = http::HeaderValue::from_static("text/event-stream");
    response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
    response
}
