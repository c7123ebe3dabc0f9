//! The router compares two model families in a category of prompts by itself, and goes by what it found.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::kinds::{EASY, chances, undo};
use super::{House, parse};
use crate::upstream::{Fault, Upstream, Wire};

const DEAR: &str = "p/dear-1";
const CHEAP: &str = "p/cheap-1";
const CATEGORY: &str = "code";

/// Two models of two families that nothing is known of beforehand.
fn configuration(folder: &tempfile::TempDir, base: &str) -> String {
    let data = folder.path().join("data");
    let mut toml = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\ndata_dir = {data:?}\n[embedding]\nmodel = \"off\"\n\
         [[providers]]\nname = \"p\"\nkind = \"openai\"\nbase_url = \"{base}\"\n"
    );
    for (id, price) in [(DEAR, 10.0), (CHEAP, 1.0)] {
        toml += &format!(
            "[[models]]\nid = \"{id}\"\ncontext_window = 8192\nmax_output_tokens = 1024\nmodalities = [\"text\"]\n\
             [models.price]\ninput_per_mtok = {price:.1}\noutput_per_mtok = {price:.1}\n"
        );
    }
    toml + &format!(
        "[[routes]]\nname = \"auto\"\nmodels = [\"{DEAR}\", \"{CHEAP}\"]\nquality_margin = 0.01\n\
         experiments = {{ traffic = 1.0, margin = 0.05 }}\n"
    )
}

/// Asks `model`, and scores the dear one's answer 1 and the cheap one's `of_cheap`; whether it was scored.
async fn ask(house: &House, model: &str, number: u32, of_cheap: Option<f64>) -> bool {
    let body = json!({
        "model": model, "routing": {"category": CATEGORY},
        "messages": [{"role": "user", "content": format!("please ask-{number}")}],
    });
    let response = house
        .server
        .post("/v1/chat/completions", &body)
        .send()
        .await
        .unwrap();
    assert_eq!(response.status().as_u16(), 200);
    let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
    let is_cheap = header("x-router-model") == CHEAP;
    let score = if is_cheap { of_cheap } else { Some(1.0) };
    let Some(score) = score else {
        return false;
    };
    let feedback = json!({"id": header("x-router-decision-id"), "metric": "quality", "score": score});
    assert_eq!(house.post("/v1/feedback", &feedback).await.0, 200);
    true
}

async fn compared(house: &House) -> Option<Value> {
    let list = house.get("/v1/experiments").await;
    let mut all = list["experiments"].as_array().unwrap().iter();
    all.find(|one| one["definition"]["origin"] == "families").cloned()
}

/// Waits until the router has learned from so many scores: before, it does not know whom to use.
async fn learned(house: &House, scores: u64) {
    for _ in 0..1_000 {
        if house.app.learner.status().scores >= scores {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{:?}", house.app.learner.status());
}

/// The router looks at what it has decided every ten seconds.
async fn started(house: &House) -> Value {
    for _ in 0..400 {
        if let Some(started) = compared(house).await {
            return started;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("nothing has started: {}", house.get("/v1/experiments").await);
}

/// The report of `name` once it tells of `phase`: it is written anew a moment after that is reached.
async fn report_of(house: &House, name: &str, phase: &str) -> Value {
    for _ in 0..200 {
        let report = house.get(&format!("/reports/{name}/report.json")).await;
        if report["experiment"]["phase"] == phase {
            return report;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("no report of {name} says {phase}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cheaper_family_is_tried_in_a_category_and_takes_the_others_place_there() {
    let upstream = Upstream::always("p", Wire::OpenAi, Fault::None).await;
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let toml = configuration(&folder, &upstream.base_url());
    let house = House::of(Arc::clone(&folder), parse(&toml)).await;
    // Asked for by name, the cheap one is further below than the router gives away: the route uses the other. What is asked
    // of the route and answered by the cheap one nobody scores, so how good it is there is not known.
    let (told, asked) = (60, 600);
    for number in 0..told {
        ask(&house, DEAR, number, None).await;
        ask(&house, CHEAP, number, Some(0.96)).await;
    }
    let mut scores = u64::from(2 * told);
    learned(&house, scores).await;
    for number in 0..asked {
        scores += u64::from(ask(&house, "auto", number, None).await);
        if number % 20 == 0 {
            learned(&house, scores).await;
        }
    }
    let started = started(&house).await;
    let definition = &started["definition"];
    let name = format!("families-auto-{CATEGORY}-cheap-for-dear");
    assert_eq!(
        (&definition["name"], &definition["category"]),
        (&json!(name), &json!(CATEGORY))
    );
    assert_eq!(
        definition["statement"],
        "for prompts of “code”, the cheap family is cheaper than the dear family, and its mean quality is no more than \
         0.05 below"
    );
    let reason = definition["reason"].as_str().unwrap();
    assert!(reason.contains("would save about 90 %"), "{reason}");
    let design = &definition["design"];
    assert_eq!(
        (&design["max_samples"], &design["guardrails"]["cost_ratio"]),
        (&json!(10_000), &json!(1.0))
    );

    // It does as well as the other.
    for number in 0..2_000 {
        ask(&house, "auto", asked + number, Some(1.0)).await;
        if number % 20 == 0 && compared(&house).await.unwrap()["phase"] != "running" {
            break;
        }
    }
    let ended = house
        .experiment_when(&name, |view| view["phase"] != "running")
        .await;
    assert_eq!(ended["phase"], "shipped", "{}", ended["reading"]);
    assert_eq!(ended["ruling"]["ruling"], "replace");
    // Gone by there, and nowhere else.
    let (drawn, left_out) = chances(&house, EASY, Some(CATEGORY)).await;
    assert!(
        !drawn.contains_key(DEAR) && left_out.contains(&DEAR.to_owned()),
        "{drawn:?}"
    );
    assert!(chances(&house, EASY, Some("creative")).await.0.contains_key(DEAR));
    let report = report_of(&house, &name, "shipped").await;
    assert_eq!(report["experiment"]["definition"]["reason"], definition["reason"]);
    let sentence = report["outcome"]["sentence"].as_str().unwrap();
    assert!(sentence.contains("for prompts of “code”"), "{sentence}");
    undo(&house, &name).await;
    assert!(chances(&house, EASY, Some(CATEGORY)).await.0.contains_key(DEAR));
    house.close().await;
}
