//! Training on a server's own log while it serves, and embeddings that come too late for their decisions.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use pointsman::providers::http_client;
use pointsman::store::Reader;
use pointsman::units::UnixMs;
use serde_json::{Value, json};

use crate::program::{self, Program};

/// Prompts asked at once.
const AT_ONCE: usize = 8;

fn client() -> reqwest::Client {
    http_client(Duration::from_secs(2)).unwrap()
}

async fn get(http: &reqwest::Client, url: &str) -> Value {
    serde_json::from_str(&http.get(url).send().await.unwrap().text().await.unwrap()).unwrap()
}

async fn post(http: &reqwest::Client, url: &str, body: Value) -> (u16, Value) {
    let sent = http
        .post(url)
        .header("content-type", "application/json")
        .body(body.to_string());
    let answer = sent.send().await.unwrap();
    let status = answer.status().as_u16();
    (
        status,
        serde_json::from_str(&answer.text().await.unwrap()).unwrap(),
    )
}

/// No hedge: only the drawn model's own answers teach.
fn question(text: &str) -> Value {
    json!({
        "model": "auto", "messages": [{"role": "user", "content": text}], "routing": {"hedge": false},
    })
}

/// Asks `count` different things, and scores each answer by who gave it. How many were scored.
async fn ask_and_score(program: &Program, about: &str, count: usize, score: impl Fn(&str) -> f64) -> usize {
    let http = client();
    let one = |number: usize| {
        let (http, score) = (&http, &score);
        async move {
            let text = format!("{about}: what is {number} plus {number}, and why?");
            let (status, answer) = post(http, &program.url("/v1/chat/completions"), question(&text)).await;
            assert_eq!(status, 200, "{answer}");
            let score = score(answer["model"].as_str().unwrap());
            let (status, told) = post(
                http,
                &program.url("/v1/feedback"),
                json!({"id": answer["id"], "score": score}),
            )
            .await;
            assert_eq!(status, 200, "{told}");
        }
    };
    let done: Vec<()> = stream::iter((0..count).map(one))
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    done.len()
}

async fn eventually(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !done().await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let came = tokio::time::timeout(Duration::from_secs(40), waiting).await;
    assert!(came.is_ok(), "{what} did not happen within 40 s");
}

async fn learned(http: &reqwest::Client, program: &Program, key: &str) -> u64 {
    let telemetry = get(http, &program.url("/v1/telemetry")).await;
    telemetry["learner"][key]
        .as_u64()
        .unwrap_or_else(|| panic!("no learner.{key} in {telemetry}"))
}

/// Expected quality of each candidate for one prompt with its standard deviation, by model.
async fn expected(http: &reqwest::Client, program: &Program) -> Vec<(String, f64, f64)> {
    let asked = question("Translate this into French: good morning.");
    let (status, told) = post(http, &program.url("/v1/route"), asked).await;
    assert_eq!(status, 200, "{told}");
    let mut found: Vec<(String, f64, f64)> = told["candidates"]
        .as_array()
        .unwrap_or_else(|| panic!("no candidates in {told}"))
        .iter()
        .map(|candidate| {
            let number = |key: &str| {
                candidate[key]
                    .as_f64()
                    .unwrap_or_else(|| panic!("no {key} in {candidate}"))
            };
            let model = candidate["model"].as_str().unwrap().to_owned();
            (model, number("expected_quality"), number("quality_sd"))
        })
        .collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

/// A folder with the artefacts that may be replaced; no embedding model.
fn models(folder: &Path) -> PathBuf {
    let (from, to) = (
        Path::new(env!("CARGO_MANIFEST_DIR")).join("models"),
        folder.join("models"),
    );
    std::fs::create_dir(&to).unwrap();
    for name in ["text-view.bin", "classifier.bin", "seed-prior.json"] {
        std::fs::copy(from.join(name), to.join(name)).unwrap();
    }
    to
}

fn serve(folder: &Path, data: &str, models: &Path) -> Program {
    let toml = program::simulated(folder).replace(
        &folder.join("data").display().to_string(),
        &folder.join(data).display().to_string(),
    ) + "\n[embedding]\nmodel = \"off\"\n";
    Program::serve_with(folder, &toml, &["--models-dir", models.to_str().unwrap()])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_takes_up_what_was_trained_on_its_own_log_and_refuses_what_is_broken() {
    let folder = tempfile::tempdir().unwrap();
    let models = models(folder.path());
    let program = serve(folder.path(), "data", &models);
    let http = client();
    let before = expected(&http, &program).await;
    assert!(before.len() > 1, "{before:?}");
    // One model is good for everything here, whatever was recorded of it elsewhere.
    let favourite = before[0].0.clone();
    let score = |model: &str| if model == favourite { 1.0 } else { 0.25 };
    let scored = ask_and_score(&program, "first", 160, score).await as u64;
    eventually("learning", async || {
        learned(&http, &program, "scores").await == scored
    })
    .await;
    let seed = get(&http, &program.url("/v1/telemetry")).await["models"]["seed"].clone();
    // A number of 64 bits would be rounded by most who read it.
    assert_eq!(seed.as_str().map(str::len), Some(16), "{seed}");

    // Requests go on all the while; none may fail.
    let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let load = {
        let (stop, asked, http) = (Arc::clone(&stop), Arc::clone(&asked), http.clone());
        let url = program.url("/v1/chat/completions");
        tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let number = asked.fetch_add(1, Ordering::Relaxed);
                let (status, answer) = post(&http, &url, question(&format!("load {number}"))).await;
                assert_eq!(status, 200, "{answer}");
            }
        })
    };
    let data = folder.path().join("data");
    let trained = program::run(&[
        "train",
        "--dataset",
        data.to_str().unwrap(),
        "--models-dir",
        models.to_str().unwrap(),
        "--out",
        models.to_str().unwrap(),
        "--folds",
        "3",
    ]);
    assert!(
        trained.status.success(),
        "{}",
        String::from_utf8_lossy(&trained.stderr)
    );
    let card = std::fs::read_to_string(models.join("SEED_CARD.md")).unwrap();
    assert!(card.contains("## Decision log `data`"), "{card}");
    assert!(card.contains(&format!("| {favourite} | ")), "{card}");
    eventually("the reload", async || {
        let telemetry = get(&http, &program.url("/v1/telemetry")).await;
        telemetry["models"]["seed"] != seed
    })
    .await;

    // What was learned is in the seed now and must not count twice: a server that has the seed alone expects the same.
    let other_folder = tempfile::tempdir().unwrap();
    let other = serve(other_folder.path(), "other", &models);
    let (own, theirs) = (expected(&http, &program).await, expected(&http, &other).await);
    for (own, theirs) in own.iter().zip(&theirs) {
        assert!((own.1 - theirs.1).abs() < 0.02, "{own:?} {theirs:?}");
        // Twice the evidence would be some 30 % surer. What was not asked for a while is a little less sure.
        assert!(own.2 > 0.95 * theirs.2, "{own:?} {theirs:?}");
    }
    let of = |found: &[(String, f64, f64)]| found.iter().find(|(model, ..)| *model == favourite).unwrap().1;
    assert!(of(&own) > 0.8, "{own:?}, before {before:?}");

    // It learns on.
    let more = ask_and_score(&program, "second", 20, score).await as u64;
    eventually("more learning", async || {
        learned(&http, &program, "scores").await == scored + more
    })
    .await;

    // A broken artefact is refused with the reason, on its own and on SIGHUP, and everything goes on.
    let taken = get(&http, &program.url("/v1/telemetry")).await["models"].clone();
    let view = models.join("text-view.bin");
    let whole = std::fs::read(&view).unwrap();
    std::fs::write(&view, &whole[..whole.len() / 2]).unwrap();
    let reader = Reader::open(&data).unwrap();
    let refusals = || {
        let events = reader
            .events(Some("models"), UnixMs(0), UnixMs(i64::MAX), 100)
            .unwrap();
        let refused = events.into_iter().filter(|event| event.subject == "refused");
        refused.map(|event| event.detail).collect::<Vec<_>>()
    };
    eventually("the refusal", async || !refusals().is_empty()).await;
    let reason = refusals().remove(0);
    assert!(
        reason.contains("text-view.bin cannot be used") && reason.contains("pointsman train"),
        "{reason}"
    );
    program.hang_up();
    eventually("the second refusal", async || refusals().len() == 2).await;
    assert_eq!(get(&http, &program.url("/v1/telemetry")).await["models"], taken);
    std::fs::write(&view, &whole).unwrap();
    let prior = models.join("seed-prior.json");
    let text = std::fs::read_to_string(&prior).unwrap();
    std::fs::write(&prior, text.replacen("\"dispersion\":", "\"dispersion\":-", 1)).unwrap();
    eventually("the third refusal", async || refusals().len() == 3).await;
    let reason = refusals().remove(2);
    assert!(
        reason.contains("seed-prior.json") && reason.contains("is damaged"),
        "{reason}"
    );

    stop.store(true, Ordering::Relaxed);
    load.await.unwrap();
    assert!(asked.load(Ordering::Relaxed) > 20);
    assert_eq!(program.terminate(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_embedding_that_comes_too_late_is_still_learned_from_once() {
    let folder = tempfile::tempdir().unwrap();
    let toml = program::simulated(folder.path()) + "\n[embedding]\nbackground_percent = 100\nqueue = 1000\n";
    let program = Program::serve(folder.path(), &toml, &[]);
    let http = client();
    let data = folder.path().join("data");
    ask_and_score(&program, "first", 40, |_| 0.75).await;
    eventually("learning", async || {
        learned(&http, &program, "embedded_scores").await == own_answers(&data)
    })
    .await;
    // One or another may have been ready when its request looked, although none waits.
    let late = learned(&http, &program, "late_scores").await;
    assert!(late > 0 && late <= own_answers(&data), "{late}");
    program.kill();

    // What was not saved is learned again from the log, and nothing twice.
    let program = Program::serve(folder.path(), &toml, &[]);
    ask_and_score(&program, "second", 20, |_| 0.75).await;
    eventually("learning on", async || {
        let learned_from = learned(&http, &program, "embedded_scores").await;
        learned_from > 40 && learned_from == own_answers(&data)
    })
    .await;
    assert_eq!(program.terminate(), Some(0));
    let program = Program::serve(folder.path(), &toml, &[]);
    assert_eq!(
        learned(&http, &program, "embedded_scores").await,
        own_answers(&data)
    );
}

/// Scored answers that the drawn model gave itself: only those teach.
fn own_answers(data: &Path) -> u64 {
    let reader = Reader::open(data).unwrap();
    let own = reader.log(UnixMs(0), UnixMs(i64::MAX)).filter(|joined| {
        let joined = joined.as_ref().unwrap();
        let served = joined.attempts.iter().find(|attempt| attempt.served);
        let own = served.is_some_and(|attempt| {
            attempt.arm == joined.decision.arm && matches!(attempt.role.as_ref(), "primary" | "retry")
        });
        own && !joined.scores.is_empty()
    });
    own.count() as u64
}

#[tokio::test]
async fn what_cannot_be_trained_on_is_told_in_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let run = |dataset: &str| {
        let done = program::run(&["train", "--dataset", dataset, "--out", out.to_str().unwrap()]);
        (done.status.code(), String::from_utf8(done.stderr).unwrap())
    };
    let (status, said) = run(folder.path().to_str().unwrap());
    assert_eq!(status, Some(2));
    assert!(said.contains("run `pointsman serve`"), "{said}");
    let data = folder.path().join("data");
    let models = models(folder.path());
    let program = serve(folder.path(), "data", &models);
    assert_eq!(program.terminate(), Some(0));
    let (status, said) = run(data.to_str().unwrap());
    assert_eq!(status, Some(2));
    assert!(said.contains("/v1/feedback"), "{said}");
    assert!(!out.join("seed-prior.json").exists());
}

#[test]
fn models_without_an_embedding_view_name_the_setting_that_goes_without() {
    let folder = tempfile::tempdir().unwrap();
    let (models, file) = (models(folder.path()), folder.path().join("pointsman.toml"));
    std::fs::write(&file, program::simulated(folder.path())).unwrap();
    let [models, file] = [&models, &file].map(|path| path.to_str().unwrap());
    let refused = program::run(&["serve", "--config", file, "--models-dir", models]);
    assert_eq!(refused.status.code(), Some(2));
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(
        said.contains("embedding-view.bin") && said.contains("[embedding] model = \"off\""),
        "{said}"
    );
}

#[test]
fn recorded_outcomes_alone_have_held_out_figures_too_where_features_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let mut lines = String::new();
    for i in 0..60 {
        let (prompt, good) = if i % 2 == 0 {
            (format!("Prove that {i} is even."), 1.0)
        } else {
            (format!("Write a limerick about the number {i}."), 0.0)
        };
        let outcome = |score: f64| json!({"score": score, "output_tokens": 50, "cost_usd": 0.001});
        let line = json!({
            "id": i.to_string(), "prompt": prompt,
            "outcomes": {"small": outcome(good), "large": outcome(1.0 - good)},
        });
        lines += &format!("{line}\n");
    }
    let dataset = folder.path().join("mine.jsonl");
    std::fs::write(&dataset, lines).unwrap();
    let models = models(folder.path());
    let card = |folds: &str| {
        let out = folder.path().join(format!("out-{folds}"));
        let done = program::run(&[
            "train",
            "--keep-features",
            "--dataset",
            dataset.to_str().unwrap(),
            "--models-dir",
            models.to_str().unwrap(),
            "--out",
            out.to_str().unwrap(),
            "--folds",
            folds,
            "--embedding",
            "off",
        ]);
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        std::fs::read_to_string(out.join("SEED_CARD.md")).unwrap()
    };
    assert!(!card("0").contains("## Features"));
    let told = card("5");
    let row = told
        .lines()
        .find(|line| line.starts_with("| mine | text view | 60 |"));
    let cells: Vec<&str> = row
        .unwrap_or_else(|| panic!("{told}"))
        .split('|')
        .map(str::trim)
        .collect();
    // The first words tell which model is right.
    assert!(cells[4].parse::<f64>().unwrap() > 0.5, "{told}");
    assert!(
        !told.contains("fitted without this source"),
        "the projection stays"
    );
}

#[test]
fn training_that_fails_half_way_leaves_the_folder_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let (dataset, out) = (folder.path().join("outcomes.jsonl"), folder.path().join("out"));
    let line = |number: usize| {
        let outcomes = json!({"a": {"score": 1, "cost_usd": 0.1}, "b": {"score": 0, "cost_usd": 0.01}});
        let prompt = format!("What is {number} plus {number}?");
        json!({"id": number, "prompt": prompt, "outcomes": outcomes}).to_string()
    };
    std::fs::write(&dataset, (0..50).map(line).collect::<Vec<_>>().join("\n")).unwrap();
    // The text view is fitted by the time that the embedding model turns out not to be there.
    let (dataset, to) = (dataset.to_str().unwrap(), out.to_str().unwrap());
    let done = program::run(&[
        "train",
        "--dataset",
        dataset,
        "--out",
        to,
        "--embedding",
        "no-such-model",
    ]);
    assert_eq!(done.status.code(), Some(2));
    let said = String::from_utf8(done.stderr).unwrap();
    assert!(said.contains("no-such-model"), "{said}");
    assert_eq!(std::fs::read_dir(&out).unwrap().count(), 0);
}
