//! Ten minutes of bad weather for the real program: neither memory nor tasks may grow. Ignored because of its length:
//! `cargo test --release --test integration -- --ignored --nocapture soak`, shorter with `SOAK_SECONDS`.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use pointsman::clock;
use pointsman::providers::http_client;
use serde_json::{Value, json};

use crate::dispatch::chaos::weather;
use crate::program::Program;
use crate::upstream::{Upstream, Wire};

const NAMES: [&str; 3] = ["first", "second", "third"];
const CLIENTS: u64 = 16;
/// Between two requests of a client.
const PACE: Duration = Duration::from_millis(200);
const SAMPLE_EVERY: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug)]
struct Sample {
    seconds: f64,
    rss_kib: f64,
    tasks: u64,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "ten minutes"]
async fn soak() {
    let length: u64 = std::env::var("SOAK_SECONDS").map_or(600, |text| text.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let mut toml = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\ndata_dir = {:?}\n",
        folder.path().join("data")
    );
    let mut upstreams = Vec::new();
    for name in NAMES {
        let upstream = Upstream::scripted(name, Wire::OpenAi, move |_, ask| weather(name, ask)).await;
        write!(
            toml,
            "[[providers]]\nname = \"{name}\"\nkind = \"openai\"\nbase_url = \"{}\"\n\
             max_response_bytes = 1048576\n[[models]]\nid = \"{name}/m\"\n\
             context_window = 8192\n[models.price]\ninput_per_mtok = 1.0\noutput_per_mtok = 2.0\n",
            upstream.base_url()
        )
        .unwrap();
        upstreams.push(upstream);
    }
    toml.push_str("[[routes]]\nname = \"auto\"\nmodels = [\"first/m\", \"second/m\", \"third/m\"]\nttft_budget_ms = 300\n");
    let program = Arc::new(Program::serve(folder.path(), &toml, &[]));
    let http = http_client(Duration::from_secs(1)).unwrap();
    let start = clock::monotonic();
    let idle = sample(&program, &http, 0.0).await;

    let answered = Arc::new(AtomicU64::new(0));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let (program, http, answered) = (program.clone(), http.clone(), answered.clone());
            tokio::spawn(async move {
                let mut turns = tokio::time::interval(PACE);
                for turn in 0..length * 1000 / PACE.as_millis() as u64 {
                    turns.tick().await;
                    let good = ask(&program, &http, client * 1_000_000 + turn).await;
                    answered.fetch_add(u64::from(good), Ordering::Relaxed);
                }
            })
        })
        .collect();
    let mut samples = Vec::new();
    while (clock::monotonic() - start).as_secs() < length {
        tokio::time::sleep(SAMPLE_EVERY).await;
        let seconds = (clock::monotonic() - start).as_secs_f64();
        samples.push(sample(&program, &http, seconds).await);
    }
    join_all(clients)
        .await
        .into_iter()
        .for_each(|client| client.unwrap());
    let settled = settle(&program, &http, idle.tasks).await;
    report(&samples, idle, settled, answered.load(Ordering::Relaxed));
}

/// One request, and a score for its answer. True if it was answered.
async fn ask(program: &Program, http: &reqwest::Client, number: u64) -> bool {
    let body = json!({
        "model": "auto", "stream": number.is_multiple_of(2), "user": format!("user-{}", number % 100),
        "messages": [{"role": "user", "content": format!("please ask-{number}")}],
    });
    let sent = http
        .post(program.url("/v1/chat/completions"))
        .header("x-router-timeout-ms", "6000")
        .body(body.to_string())
        .send()
        .await
        .unwrap();
    let id = sent.headers().get("x-router-decision-id").cloned();
    let good = sent.status().is_success() && sent.text().await.is_ok_and(|text| !text.contains("\"error\""));
    if let (true, Some(id)) = (good, id) {
        let score = json!({"id": id.to_str().unwrap(), "score": (number % 10) as f64 / 10.0});
        let told = http
            .post(program.url("/v1/feedback"))
            .body(score.to_string())
            .send()
            .await;
        assert!(told.unwrap().status().is_success());
    }
    good
}

async fn telemetry(program: &Program, http: &reqwest::Client) -> Value {
    let answer = http.get(program.url("/v1/telemetry")).send().await.unwrap();
    serde_json::from_str(&answer.text().await.unwrap()).unwrap()
}

async fn sample(program: &Program, http: &reqwest::Client, seconds: f64) -> Sample {
    let status = std::fs::read_to_string(format!("/proc/{}/status", program.id())).unwrap();
    let rss = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    let telemetry = telemetry(program, http).await;
    Sample {
        seconds,
        rss_kib: rss.trim().trim_end_matches(" kB").parse().unwrap(),
        tasks: telemetry["process"]["tasks"].as_u64().unwrap(),
    }
}

/// Waits until nothing is under way and the tasks of the load have ended; connections kept open are a task each.
async fn settle(program: &Program, http: &reqwest::Client, idle: u64) -> Sample {
    for _ in 0..300 {
        let telemetry = telemetry(program, http).await;
        let quiet = telemetry["requests_in_flight"] == 0 && telemetry["process"]["requests_under_way"] == 0;
        let sample = sample(program, http, 0.0).await;
        if quiet && sample.tasks <= idle + 8 {
            return sample;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    panic!("something goes on: {}", telemetry(program, http).await["process"]);
}

fn report(samples: &[Sample], idle: Sample, settled: Sample, answered: u64) {
    let half = samples[samples.len() - 1].seconds / 2.0;
    let later: Vec<&Sample> = samples.iter().filter(|sample| sample.seconds >= half).collect();
    let per_minute = |value: fn(&Sample) -> f64| {
        let points: Vec<(f64, f64)> = later
            .iter()
            .map(|sample| (sample.seconds / 60.0, value(sample)))
            .collect();
        slope(&points)
    };
    let (rss, tasks) = (
        per_minute(|sample| sample.rss_kib),
        per_minute(|sample| sample.tasks as f64),
    );
    let last = samples[samples.len() - 1];
    println!(
        "SOAK_SECONDS={:.0} cargo test --release --test integration -- --ignored --nocapture soak\n{answered} answers; \
         RSS {:.0} KiB idle, {:.0} at half time, {:.0} at the end, {:.0} settled: {rss:.1} KiB a minute over the second \
         half; tasks {} idle, {} at the end of the load, {} settled: {tasks:.2} a minute",
        last.seconds,
        idle.rss_kib,
        later[0].rss_kib,
        last.rss_kib,
        settled.rss_kib,
        idle.tasks,
        last.tasks,
        settled.tasks
    );
    // What is kept of each hour fills up during the first (latency sketches, the dashboard's points, SQLite's page
    // cache); a leak of a kilobyte a request would be 4800 KiB a minute.
    assert!(rss < 1024.0, "memory grows by {rss} KiB a minute");
    assert!(tasks < 3.0, "{tasks} more tasks a minute");
}

/// Least squares.
fn slope(points: &[(f64, f64)]) -> f64 {
    let count = points.len() as f64;
    let mean = points
        .iter()
        .fold((0.0, 0.0), |sum, point| (sum.0 + point.0, sum.1 + point.1));
    let mean = (mean.0 / count, mean.1 / count);
    let covariance: f64 = points
        .iter()
        .map(|point| (point.0 - mean.0) * (point.1 - mean.1))
        .sum();
    let variance: f64 = points.iter().map(|point| (point.0 - mean.0).powi(2)).sum();
    covariance / variance
}
