//! By which names a server without clients' keys may be asked for.

use http::{StatusCode, header};
use serde_json::{Value, json};

use crate::program::{self, Program};

/// A web page that has its own name point to this machine gets nothing from any path, whatever it says of itself; a proxy's
/// name does once the configuration has it.
#[tokio::test]
async fn without_keys_a_foreign_host_is_refused_on_every_path_until_it_is_allowed() {
    let folder = tempfile::tempdir().unwrap();
    let listed =
        program::simulated(folder.path()).replace("[server]\n", "[server]\nallowed_hosts = [\"llm.test\"]\n");
    let program = Program::serve(folder.path(), &listed, &[]);
    let http = reqwest::Client::new();
    let chat = json!({"model": "auto", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]});
    let ask = async |host: &str, path: &str| {
        let url = program.url(path);
        let request = if path.starts_with("/v1/overview") || path == "/metrics" {
            http.get(url)
        } else {
            http.post(url).body(chat.to_string())
        };
        let request = request
            .header(header::HOST, host)
            .header(header::ORIGIN, format!("http://{host}"));
        let answer = request.send().await.unwrap();
        (answer.status(), answer.text().await.unwrap())
    };
    for path in ["/v1/chat/completions", "/v1/messages", "/v1/overview", "/metrics"] {
        let (status, told) = ask("evil.test:8080", path).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{path}: {told}");
        let told: Value = serde_json::from_str(&told).unwrap();
        let message = told["error"]["message"].as_str().unwrap();
        assert!(
            message.contains("`server.allowed_hosts = [\"evil.test\"]`"),
            "{message}"
        );
        for host in ["llm.test", "localhost:9", "127.0.0.1:9"] {
            let (status, told) = ask(host, path).await;
            assert_eq!(status, StatusCode::OK, "{host} {path}: {told}");
        }
    }
}
