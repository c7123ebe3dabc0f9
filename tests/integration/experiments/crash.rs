//! What people were told of an experiment is still so after kill -9, and stands in the log.

use std::path::Path;
use std::time::Duration;

use pointsman::providers::http_client;
use pointsman::store::Reader;
use pointsman::units::UnixMs;
use serde_json::{Value, json};

use crate::program::{self, Program};

const CHEAP: &str = "sim-meta/llama-3.1-8b";

/// The changes of one experiment, as the log has them.
fn logged(folder: &Path, name: &str) -> Vec<String> {
    let reader = Reader::open(&folder.join("data")).unwrap();
    let events = reader.events(Some("experiment"), UnixMs(0), UnixMs(i64::MAX), 1_000);
    let events = events.unwrap().into_iter().filter(|event| event.subject == name);
    events
        .map(|event| {
            let detail: Value = serde_json::from_str(&event.detail).unwrap();
            let what = detail["event"].as_str().unwrap();
            detail["intervention"].as_str().unwrap_or(what).to_owned()
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_change_outlives_a_kill_and_is_in_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let toml = program::simulated(folder.path()).replace("traffic = 0.5", "enabled = false, traffic = 0.5");
    let http = http_client(Duration::from_secs(5)).unwrap();
    let mut program = Program::serve(folder.path(), &toml, &[]);
    let definition = |name: &str| {
        json!({"name": name, "route": "auto", "split": "fixed", "sticky_by": "user",
            "arms": {"control": "router", "treatment": CHEAP}})
    };
    // What is asked, the answer, and what the log has to say of that experiment afterwards.
    let steps = [
        ("", definition("one"), 201, "running"),
        // The layer is full: it waits.
        ("", definition("two"), 201, "waiting"),
        ("/two", json!({"action": "stop", "reason": "no"}), 200, "gone"),
        (
            "/one",
            json!({"action": "ship", "arm": "treatment", "reason": "x"}),
            200,
            "shipped",
        ),
        ("/one", json!({"action": "undo", "reason": "y"}), 200, "undone"),
        ("", definition("three"), 201, "running"),
        ("/three", json!({"action": "stop", "reason": "z"}), 200, "stopped"),
    ];
    for (path, body, expected, phase) in steps {
        let name = body["name"].as_str().unwrap_or_else(|| &path[1..]).to_owned();
        let post = http
            .post(program.url(&format!("/v1/experiments{path}")))
            .header("content-type", "application/json")
            .body(body.to_string());
        let answer = post.send().await.unwrap();
        let status = answer.status().as_u16();
        assert_eq!(status, expected, "{path} {}", answer.text().await.unwrap());
        program.kill();
        program = Program::serve(folder.path(), &toml, &[]);
        let list = http.get(program.url("/v1/experiments")).send().await.unwrap();
        let list: Value = serde_json::from_str(&list.text().await.unwrap()).unwrap();
        let views = list["experiments"].as_array().unwrap().iter();
        let mut found = views.filter(|view| view["definition"]["name"] == *name);
        let waits = list["waiting"].as_array().unwrap().contains(&json!(name));
        match phase {
            "waiting" => assert!(waits && found.next().is_none(), "{list}"),
            "gone" => assert!(!waits && found.next().is_none(), "{list}"),
            _ => assert_eq!(found.next().unwrap()["phase"], phase, "{list}"),
        }
    }
    assert_eq!(
        logged(folder.path(), "one"),
        ["defined", "started", "ship treatment", "undo"]
    );
    assert_eq!(logged(folder.path(), "two"), ["defined", "waiting", "stop"]);
    assert_eq!(logged(folder.path(), "three"), ["defined", "started", "stop"]);
    program.kill();
}
