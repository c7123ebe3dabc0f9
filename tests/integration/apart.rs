//! What simulated providers answered and what real ones did are never in one log.

use std::path::Path;
use std::time::Duration;

use pointsman::app::reload;
use pointsman::config;
use pointsman::providers::http_client;
use pointsman::store::Reader;
use pointsman::units::UnixMs;
use serde_json::json;

use crate::program::{self, Program};
use crate::running::Running;

/// A provider that nobody can reach: its answers fail, and are in the log.
fn real(folder: &Path) -> String {
    format!(
        "[server]\nlisten = \"127.0.0.1:0\"\ndata_dir = {:?}\n\
         [[providers]]\nname = \"local\"\nkind = \"openai\"\nbase_url = \"http://127.0.0.1:9/v1\"\n\
         [[models]]\nid = \"local/one\"\ncontext_window = 8000\n\
         [[routes]]\nname = \"auto\"\nmodels = [\"local/one\"]\n[embedding]\nmodel = \"off\"\n",
        folder.join("data")
    )
}

async fn ask(program: &Program) -> u16 {
    let body = json!({"model": "auto", "messages": [{"role": "user", "content": "Hello"}]});
    let http = http_client(Duration::from_secs(2)).unwrap();
    let sent = http
        .post(program.url("/v1/chat/completions"))
        .header("content-type", "application/json")
        .body(body.to_string());
    sent.send().await.unwrap().status().as_u16()
}

fn decisions(data: &Path) -> usize {
    Reader::open(data)
        .unwrap()
        .log(UnixMs(0), UnixMs(i64::MAX))
        .count()
}

#[tokio::test]
async fn a_real_server_begins_anew_after_the_demonstration_and_not_the_reverse() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let demonstration = Program::serve(folder.path(), &program::simulated(folder.path()), &[]);
    assert_eq!(ask(&demonstration).await, 200);
    assert_eq!(demonstration.terminate(), Some(0));
    assert_eq!(decisions(&data), 1);

    let server = Program::serve(folder.path(), &real(folder.path()), &[]);
    assert_eq!(ask(&server).await, 502);
    assert_eq!(server.terminate(), Some(0));
    // One of its own, and none of the demonstration's, which are not lost either.
    assert_eq!(decisions(&data), 1);
    assert_eq!(decisions(&data.join("simulated")), 1);

    let refused = program::run(&[
        "serve",
        "--demo",
        "--listen",
        "127.0.0.1:0",
        "--data-dir",
        data.to_str().unwrap(),
    ]);
    assert_eq!(refused.status.code(), Some(2));
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(
        said.contains("real providers") && said.contains("--data-dir"),
        "{said}"
    );
    assert_eq!(decisions(&data), 1);
}

#[tokio::test]
async fn a_running_server_does_not_turn_simulated_providers_into_real_ones() {
    let folder = tempfile::tempdir().unwrap();
    let read = |toml: &str| {
        let file = folder.path().join("pointsman.toml");
        std::fs::write(&file, toml).unwrap();
        config::load(Some(&file), &|_| None).unwrap()
    };
    let simulated = program::simulated(folder.path());
    let running = Running::start(read(&simulated), 1).await;
    let refused = reload::apply(&running.app, read(&real(folder.path()))).unwrap_err();
    assert!(refused.contains("restart"), "{refused}");
    let wider = simulated.replace("[server]\n", "[server]\nmax_body_bytes = 4096\n");
    assert_ne!(wider, simulated);
    reload::apply(&running.app, read(&wider)).unwrap();
}
