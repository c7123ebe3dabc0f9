//! Experiments through the whole server: they start by themselves, run on requests and scores that come over HTTP,
//! and end with a report.

use std::path::Path;

use pointsman::app::{App, Options, Parts, demonstration};
use pointsman::config::{self, Config, Source};
use pointsman::demo::{self, LoadSettings};
use pointsman::providers::simulated::recorded;
use pointsman::server;
use serde_json::Value;
use tokio::net::TcpListener;

fn parse(toml: &str) -> Config {
    config::parse(toml, Source::Text, &|_| None).unwrap_or_else(|problems| panic!("{problems}\n{toml}"))
}

/// The demonstration at ten times its pace: the verdict must come within a tenth of two minutes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_demonstration_comes_to_a_verdict_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let recorded = recorded().unwrap();
    let fast = |toml: String| toml.replace("speed=20", "speed=2000") + "\n[embedding]\nmodel = \"off\"\n";
    let opening = parse(&fast(demo::opening_toml(&recorded, "127.0.0.1:0", &data)));
    let newcomer = parse(&fast(demo::config_toml(&recorded, "127.0.0.1:0", &data)));
    let models_dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    let app: App = Parts::start(opening, &Options { models_dir, seed: 1 }).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(server::serve(listener, app.clone(), std::future::pending()));

    let settings = LoadSettings {
        per_second: 400,
        before: 100,
        brisk: 3_200,
        most: 3_200,
        reports: data.join("reports").display().to_string(),
        ..LoadSettings::new(&format!("http://{address}"))
    };
    let mut shown = Vec::new();
    let newcomer = (demonstration::NEWCOMER_AFTER / 10, newcomer);
    let ledger = demonstration::run(&app, &settings, newcomer, &mut shown)
        .await
        .unwrap();
    let shown = String::from_utf8(shown).unwrap();
    println!("{shown}");
    assert_eq!(ledger.failed, 0);
    let name = "new-sim-google-gemini-2.5-flash";
    assert!(shown.contains(&format!("An experiment has started by itself: {name}")));
    assert!(
        shown.contains("Hypothesis, written down before the first sample: sim-google/gemini-2.5-flash is")
    );
    assert!(shown.contains(&format!("Verdict on {name}: ")));
    let dir = data.join("reports").join(name);
    assert!(shown.contains(&format!("{}", dir.join("report.html").display())));
    let read = |file: &str| std::fs::read_to_string(dir.join(file)).unwrap();
    let json: Value = serde_json::from_str(&read("report.json")).unwrap();
    // Its true mean is .013 below the best model's and the margin .05: it ships but for one case in twenty.
    assert_eq!(json["outcome"]["verdict"], "ship", "{}", json["outcome"]);
    assert!(read("report.html").contains("It is over") && read("report.md").contains("It is over"));

    // The hypothesis is in the log before the first decision that it concerns.
    app.store.flush().await.unwrap();
    let reader = app.store.reader();
    let events = reader
        .events(
            Some("experiment"),
            pointsman::units::UnixMs(0),
            pointsman::units::UnixMs(i64::MAX),
            100,
        )
        .unwrap();
    let defined = events
        .iter()
        .find(|event| event.detail.contains("\"defined\""))
        .unwrap();
    let first = reader
        .attempts_since(0, 10_000)
        .unwrap()
        .into_iter()
        .filter_map(|row| row.decision)
        .find(|decision| decision.experiment.is_some())
        .unwrap();
    assert!(defined.at <= first.at);
    serving.abort();
    app.dispatcher.idle().await;
    app.stop().await;
    app.store.close();
}
