//! The real program told to stop while it works: streams end, nothing is lost.

use std::path::Path;
use std::time::Duration;

use futures_util::future::join_all;
use pointsman::providers::http_client;
use pointsman::store::{Joined, Reader};
use pointsman::units::UnixMs;
use serde_json::json;

use crate::program::Program;
use crate::upstream::{Fault, Upstream, Wire, full_answer};

/// One provider at `upstream`, one model; `limit_ms` for answers under way when told to stop.
fn config(folder: &Path, upstream: &Upstream, limit_ms: u64) -> String {
    format!(
        "[server]\nlisten = \"127.0.0.1:0\"\ndata_dir = {:?}\nshutdown_limit_ms = {limit_ms}\n\
         [[providers]]\nname = \"slow\"\nkind = \"openai\"\nbase_url = \"{}\"\n\
         [[models]]\nid = \"slow/m\"\ncontext_window = 8192\n[models.price]\ninput_per_mtok = 1.0\noutput_per_mtok = 2.0\n\
         [[routes]]\nname = \"auto\"\nmodels = [\"slow/m\"]\nhedge = {{ enabled = false }}\n",
        folder.join("data"),
        upstream.base_url()
    )
}

/// Sends requests, half of them streamed, and waits until all are at the upstream; what each client got comes later.
async fn under_way(
    program: &Program,
    upstream: &Upstream,
    count: usize,
) -> Vec<tokio::task::JoinHandle<reqwest::Result<String>>> {
    let http = http_client(Duration::from_secs(1)).unwrap();
    let asked = (0..count).map(|number| {
        let body = json!({
            "model": "auto", "stream": number % 2 == 0,
            "messages": [{"role": "user", "content": format!("please ask-{number}")}],
        });
        let request = http
            .post(program.url("/v1/chat/completions"))
            .body(body.to_string());
        tokio::spawn(async move { request.send().await?.text().await })
    });
    let asked = asked.collect();
    for _ in 0..1000 {
        if upstream.requests() == count {
            return asked;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{} of {count} requests reached the upstream", upstream.requests());
}

fn log_of(folder: &Path) -> Vec<Joined> {
    let reader = Reader::open(&folder.join("data")).unwrap();
    let log = reader.log(UnixMs(0), UnixMs(i64::MAX));
    log.collect::<Result<_, _>>().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn told_to_stop_it_lets_streams_end_and_loses_no_decision() {
    const COUNT: usize = 40;
    let folder = tempfile::tempdir().unwrap();
    let upstream = Upstream::always("slow", Wire::OpenAi, Fault::Trickle(400)).await;
    let program = Program::serve(folder.path(), &config(folder.path(), &upstream, 30_000), &[]);
    let asked = under_way(&program, &upstream, COUNT).await;
    program.tell_to_stop();
    let address = program.base_url.trim_start_matches("http://").to_owned();
    for (number, answer) in join_all(asked).await.into_iter().enumerate() {
        let answer = answer.unwrap().unwrap();
        let ask = format!("ask-{number}");
        if number % 2 == 0 {
            assert!(
                answer.ends_with("data: [DONE]\n\n") && answer.contains(&ask),
                "{answer}"
            );
            assert!(!answer.contains("\"error\""), "{answer}");
        } else {
            assert!(answer.contains(&full_answer("slow", &ask)), "{answer}");
        }
    }
    let status = tokio::task::spawn_blocking(|| program.wait()).await.unwrap();
    assert_eq!(status, Some(0));
    assert!(
        tokio::net::TcpStream::connect(&address).await.is_err(),
        "it still accepts"
    );
    let log = log_of(folder.path());
    assert_eq!(log.len(), COUNT);
    for joined in &log {
        let [attempt] = joined.attempts.as_slice() else {
            panic!("{joined:#?}")
        };
        assert!(attempt.served && attempt.outcome == "succeeded", "{attempt:?}");
        assert!(attempt.cost.is_some_and(|cost| cost.nanos() > 0), "{attempt:?}");
    }
    let billed: u64 = upstream.books().iter().map(|dealt| dealt.output_tokens).sum();
    let logged: u64 = log
        .iter()
        .filter_map(|joined| joined.attempts[0].usage)
        .map(|usage| usage.output)
        .sum();
    assert_eq!(logged, billed);
}

/// What one client of a load got: the decisions of whole answers, and how many of its requests were not taken.
#[derive(Default)]
struct Served {
    decisions: Vec<String>,
    refused: usize,
}

/// Asks again and again until it is refused; every answer must be whole.
async fn ask_until_refused(base: String, client: usize) -> Served {
    let http = http_client(Duration::from_secs(1)).unwrap();
    let mut served = Served::default();
    for number in 0..100_000 {
        let ask = format!("ask-{client}-{number}");
        let body = json!({
            "model": "auto", "stream": (client + number).is_multiple_of(2),
            "messages": [{"role": "user", "content": format!("please {ask}")}],
        });
        let sent = http
            .post(format!("{base}/v1/chat/completions"))
            .body(body.to_string())
            .send()
            .await;
        let Ok(response) = sent else {
            served.refused += 1;
            return served;
        };
        assert_eq!(response.status(), 200);
        let id = response.headers()["x-router-decision-id"]
            .to_str()
            .unwrap()
            .to_owned();
        let text = response.text().await.expect("an answer that began is cut off");
        assert!(text.contains(&ask) && !text.contains("\"error\""), "{text}");
        served.decisions.push(id);
    }
    panic!("it goes on taking requests");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn told_to_stop_under_load_it_ends_what_it_took_and_logs_all_of_it() {
    const CLIENTS: usize = 16;
    let folder = tempfile::tempdir().unwrap();
    let upstream = Upstream::always("slow", Wire::OpenAi, Fault::Trickle(15)).await;
    let program = Program::serve(folder.path(), &config(folder.path(), &upstream, 30_000), &[]);
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| tokio::spawn(ask_until_refused(program.base_url.clone(), client)))
        .collect();
    for _ in 0..3000 {
        if upstream.requests() >= 20 * CLIENTS {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    program.tell_to_stop();
    let mut decisions = Vec::new();
    for client in join_all(clients).await {
        let served = client.unwrap();
        assert_eq!(served.refused, 1);
        decisions.extend(served.decisions);
    }
    let status = tokio::task::spawn_blocking(|| program.wait()).await.unwrap();
    assert_eq!(status, Some(0));
    assert!(decisions.len() >= 19 * CLIENTS, "{}", decisions.len());
    let log = log_of(folder.path());
    let mut logged: Vec<&str> = log.iter().map(|joined| &*joined.decision.id).collect();
    for joined in &log {
        let [attempt] = joined.attempts.as_slice() else {
            panic!("a decision without its end: {joined:#?}")
        };
        assert!(attempt.served && attempt.outcome == "succeeded", "{attempt:?}");
    }
    logged.sort_unstable();
    decisions.sort_unstable();
    assert_eq!(logged, decisions, "what clients were given is what the log has");
    let books = upstream.books();
    assert_eq!(books.len(), log.len());
    let billed: u64 = books.iter().map(|dealt| dealt.output_tokens).sum();
    let usages = log.iter().filter_map(|joined| joined.attempts[0].usage);
    assert_eq!(usages.map(|usage| usage.output).sum::<u64>(), billed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_the_limit_it_cuts_off_what_still_runs_and_books_it() {
    const COUNT: usize = 6;
    let folder = tempfile::tempdir().unwrap();
    // No piece comes within this test.
    let upstream = Upstream::always("slow", Wire::OpenAi, Fault::Trickle(20_000)).await;
    let program = Program::serve(folder.path(), &config(folder.path(), &upstream, 500), &[]);
    let asked = under_way(&program, &upstream, COUNT).await;
    program.tell_to_stop();
    let stopped = tokio::task::spawn_blocking(|| program.wait());
    let status = tokio::time::timeout(Duration::from_secs(15), stopped).await;
    assert_eq!(status.expect("it does not stop").unwrap(), Some(0));
    for answer in join_all(asked).await {
        let cut_off = answer.unwrap().is_err_and(|error| !error.is_connect());
        assert!(cut_off, "an answer that never came to its end");
    }
    let log = log_of(folder.path());
    assert_eq!(log.len(), COUNT);
    for joined in &log {
        let [attempt] = joined.attempts.as_slice() else {
            panic!("{joined:#?}")
        };
        assert_eq!(attempt.outcome, "client_gone");
        assert!(attempt.cost.is_some_and(|cost| cost.nanos() > 0), "{attempt:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_whose_run_was_killed_runs_anew_and_one_that_was_answered_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let upstream = Upstream::always("slow", Wire::OpenAi, Fault::Trickle(200)).await;
    let toml = config(folder.path(), &upstream, 30_000);
    let http = http_client(Duration::from_secs(1)).unwrap();
    let ask = |program: &Program, word: &str| {
        let body = json!({"model": "auto", "stream": true, "messages": [{"role": "user", "content": format!("please {word}")}]});
        let request = http
            .post(program.url("/v1/chat/completions"))
            .header("idempotency-key", word)
            .body(body.to_string());
        async move { request.send().await?.text().await }
    };
    let program = Program::serve(folder.path(), &toml, &[]);
    let answered = ask(&program, "ask-1").await.unwrap();
    kept(folder.path(), "ask-1").await;
    let killed = tokio::spawn(ask(&program, "ask-2"));
    for _ in 0..1000 {
        if upstream.requests() == 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    program.kill();
    let cut_off = killed.await.unwrap();
    assert!(
        !cut_off.is_ok_and(|text| text.contains("[DONE]")),
        "half an answer is no answer"
    );
    let program = Program::serve(folder.path(), &toml, &[]);
    assert_eq!(ask(&program, "ask-1").await.unwrap(), answered);
    assert_eq!(upstream.requests(), 2, "what was answered is not asked again");
    let anew = ask(&program, "ask-2").await.unwrap();
    assert!(
        anew.ends_with("data: [DONE]\n\n") && anew.contains("ask-2"),
        "{anew}"
    );
    assert_eq!(upstream.requests(), 3);
}

/// Waits until the answer under a key is on disk: the client has its end a moment earlier.
async fn kept(folder: &Path, key: &str) {
    use sha2::{Digest, Sha256};
    let scope = "anyone chat";
    let mut hash = Sha256::new();
    hash.update((scope.len() as u64).to_le_bytes());
    hash.update(scope);
    hash.update(key);
    let name: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    let reader = Reader::open(&folder.join("data")).unwrap();
    for _ in 0..1000 {
        if reader
            .idempotent(&name, pointsman::clock::wall())
            .unwrap()
            .is_some()
        {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the answer is not kept");
}
