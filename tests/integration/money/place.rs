//! A server under any configuration, and providers that answer as a closure says.

use std::net::SocketAddr;
use std::ops::Deref;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{StatusCode, Uri};
use pointsman::config::{self, Config, Source};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::running::Running;

/// What a provider does with a request.
pub enum Reply {
    Whole(Value),
    /// Server-sent events.
    Stream(String),
    Status(u16),
    Hang,
}

/// A request as a provider got it.
#[derive(Clone, Debug)]
pub struct Got {
    /// The first part of its path: the provider's name.
    pub provider: String,
    /// The model, from the body or the path.
    pub model: String,
    pub body: Value,
    /// Whether it asks for a stream.
    pub streams: bool,
}

type Script = dyn Fn(&Got) -> Reply + Send + Sync;

struct Desk {
    script: Box<Script>,
    got: Mutex<Vec<Got>>,
}

/// Any number of providers on one port, told apart by the first part of the path.
pub struct Providers {
    pub address: SocketAddr,
    desk: Arc<Desk>,
    serving: JoinHandle<()>,
}

impl Providers {
    pub async fn open(script: impl Fn(&Got) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let desk = Arc::new(Desk {
            script: Box::new(script),
            got: Mutex::default(),
        });
        let router = Router::new().fallback(answer).with_state(Arc::clone(&desk));
        let serving = tokio::spawn(async move {
            axum::serve(listener, router).await.unwrap();
        });
        Self {
            address,
            desk,
            serving,
        }
    }

    /// `[[providers]]` for one of them.
    pub fn toml(&self, name: &str, kind: &str) -> String {
        let path = if kind == "openai" { "/v1" } else { "" };
        format!(
            "[[providers]]\nname = \"{name}\"\nkind = \"{kind}\"\nbase_url = \"http://{}/{name}{path}\"\n",
            self.address
        )
    }

    /// Requests so far.
    pub fn got(&self) -> Vec<Got> {
        self.desk.got.lock().unwrap().clone()
    }
}

impl Drop for Providers {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn answer(State(desk): State<Arc<Desk>>, uri: Uri, body: Bytes) -> Response {
    let body: Value = serde_json::from_slice(&body).unwrap();
    let path: Vec<&str> = uri.path().split('/').collect();
    let in_path = path
        .last()
        .and_then(|last| last.split(':').next())
        .unwrap_or_default();
    let got = Got {
        provider: path[1].to_owned(),
        model: body["model"].as_str().unwrap_or(in_path).to_owned(),
        streams: body["stream"] == true || uri.path().contains(":stream"),
        body,
    };
    desk.got.lock().unwrap().push(got.clone());
    match (desk.script)(&got) {
        Reply::Whole(value) => axum::Json(value).into_response(),
        Reply::Stream(events) => ([("content-type", "text/event-stream")], events).into_response(),
        Reply::Status(status) => {
            let body = json!({"error": {"message": "no", "type": "overloaded_error", "code": null}});
            (StatusCode::from_u16(status).unwrap(), axum::Json(body)).into_response()
        }
        Reply::Hang => {
            std::future::pending::<()>().await;
            StatusCode::OK.into_response()
        }
    }
}

/// The server.
pub struct Place {
    server: Running,
    pub folder: Arc<tempfile::TempDir>,
}

impl Place {
    /// Serves `toml`, to which a `[server]` with a folder of its own is added.
    pub async fn open(toml: &str) -> Self {
        Self::open_in(Arc::new(tempfile::tempdir().unwrap()), toml).await
    }

    /// The same with the data of an earlier one.
    pub async fn open_in(folder: Arc<tempfile::TempDir>, toml: &str) -> Self {
        let config = parse(&folder.path().join("data"), toml);
        Self {
            server: Running::start(config, 3).await,
            folder,
        }
    }

    /// Ends it as SIGTERM would.
    pub async fn close(self) -> Arc<tempfile::TempDir> {
        self.app.stop().await;
        self.app.store.close();
        Arc::clone(&self.folder)
    }

    /// Posts JSON: the status, the headers and the answer.
    pub async fn post(&self, path: &str, body: &Value) -> Told {
        self.post_with(path, body, &[]).await
    }

    pub async fn post_with(&self, path: &str, body: &Value, headers: &[(&str, &str)]) -> Told {
        let mut request = self.server.post(path, body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        let headers = answer.headers().clone();
        let text = answer.text().await.unwrap();
        let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
        Told {
            status,
            headers,
            body,
        }
    }
}

impl Deref for Place {
    type Target = Running;

    fn deref(&self) -> &Running {
        &self.server
    }
}

/// An answer of the server.
#[derive(Debug)]
pub struct Told {
    pub status: u16,
    pub headers: http::HeaderMap,
    pub body: Value,
}

impl Told {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub fn message(&self) -> &str {
        self.body["error"]["message"].as_str().unwrap_or_default()
    }
}

/// A configuration with its data in `data`.
pub fn parse(data: &Path, toml: &str) -> Config {
    let server = format!("[server]\nlisten = \"127.0.0.1:0\"\ndata_dir = {data:?}\n");
    let toml = if toml.contains("[server]\n") {
        toml.replacen("[server]\n", &server, 1)
    } else {
        server + toml
    };
    config::parse(&toml, Source::Text, &|name| {
        (name == "ADMIN_KEY").then(|| "open sesame".to_owned())
    })
    .unwrap_or_else(|problems| panic!("{problems}\n{toml}"))
}

/// Polls until `done` says so; a bounded wait for what happens behind the requests.
pub async fn eventually(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !done().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let came = tokio::time::timeout(Duration::from_secs(20), waiting).await;
    assert!(came.is_ok(), "{what} did not happen within 20 s");
}

/// A chat request.
pub fn ask(model: &str, content: impl Into<Value>) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": content.into()}]})
}
