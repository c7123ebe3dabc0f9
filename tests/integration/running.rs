//! A whole server in this process, at a port of its own.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use pointsman::app::{App, Options, Parts};
use pointsman::config::Config;
use pointsman::providers::http_client;
use pointsman::server;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// The server; it takes no more connections when this is dropped.
pub struct Running {
    pub app: App,
    pub address: SocketAddr,
    pub http: reqwest::Client,
    serving: JoinHandle<std::io::Result<()>>,
}

impl Running {
    /// Serves `config` with the shipped models, drawing by `seed`.
    pub async fn start(config: Config, seed: u64) -> Self {
        let models_dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
        Self::with(config, Options { models_dir, seed }).await
    }

    pub async fn with(config: Config, options: Options) -> Self {
        let app = Parts::start(config, &options).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(server::serve(listener, app.clone(), std::future::pending()));
        Self {
            app,
            address,
            http: http_client(Duration::from_secs(5)).unwrap(),
            serving,
        }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub async fn text(&self, path: &str) -> String {
        let answer = self.http.get(self.url(path)).send().await.unwrap();
        answer.text().await.unwrap()
    }

    pub async fn get(&self, path: &str) -> Value {
        serde_json::from_str(&self.text(path).await).unwrap()
    }

    /// A request with a JSON body.
    pub fn post(&self, path: &str, body: &Value) -> reqwest::RequestBuilder {
        let request = self.http.post(self.url(path));
        request
            .header("content-type", "application/json")
            .body(body.to_string())
    }

    /// Takes no more requests; those under way go on.
    pub fn leave(&self) {
        self.serving.abort();
    }

    /// Everything logged so far is on disk.
    pub async fn settle(&self) {
        self.app.dispatcher.idle().await;
        self.app.store.flush().await.unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.leave();
    }
}
