//! The router compares two model families in a category of prompts by itself, and goes by what it found.

use serde_json::Value;

use super::House;
use super::kinds::{EASY, chances, undo};

const DEAR: &str = "sim-google/gemini-2.5-pro";
const CHEAP: &str = "sim-mistral/mistral-large-2512";

/// The dear family's model and the cheap one's, with these terms of the route's experiments.
fn two(terms: &'static str) -> impl Fn(String) -> String {
    move |toml: String| {
        let (before, route) = toml.split_once("[[routes]]").unwrap();
        let models = route
            .lines()
            .map(|line| {
                if line.starts_with("models = ") {
                    format!("models = [\"{DEAR}\", \"{CHEAP}\"]")
                } else {
                    line.replace("traffic = 0.5", terms)
                }
            })
            .collect::<Vec<_>>();
        format!("{before}[[routes]]{}\n", models.join("\n"))
    }
}

/// The cheap one is worse by more than the router gives away, and by less than an experiment may find.
fn score(_: &str, model: &str) -> Option<f64> {
    Some(if model == DEAR { 1.0 } else { 0.97 })
}

async fn compared(house: &House) -> Option<Value> {
    let list = house.get("/v1/experiments").await;
    let mut all = list["experiments"].as_array().unwrap().iter();
    all.find(|one| one["definition"]["origin"] == "families").cloned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cheaper_family_is_tried_in_a_category_and_takes_the_others_place_there() {
    let house = House::open("", two("traffic = 1.0")).await;
    let mut asked = 0;
    let started = loop {
        for _ in 0..40 {
            house.ask_and_rate(asked, score).await;
            asked += 1;
        }
        if let Some(started) = compared(&house).await {
            break started;
        }
        assert!(asked < 4_000, "{}", house.get("/v1/experiments").await);
    };
    assert!(asked >= 200, "{asked} are too little traffic");
    let definition = &started["definition"];
    let category = definition["category"].as_str().unwrap();
    let name = format!("families-auto-{category}-mistral-for-gemini");
    assert_eq!(definition["name"], name.as_str());
    assert_eq!(
        definition["statement"],
        format!(
            "for prompts of “{category}”, the mistral family is cheaper than the gemini family, and its mean quality is \
             no more than 0.05 below"
        )
    );
    assert!(
        definition["reason"]
            .as_str()
            .unwrap()
            .contains("would save about")
    );
    let design = &definition["design"];
    assert_eq!(
        (&design["max_samples"], &design["guardrails"]["cost_ratio"]),
        (&10_000.into(), &1.0.into())
    );

    for i in 0..3_000 {
        house.ask_and_rate(asked + i, score).await;
        if i % 40 == 0 && compared(&house).await.unwrap()["phase"] != "running" {
            break;
        }
    }
    let ended = house
        .experiment_when(&name, |view| view["phase"] != "running")
        .await;
    assert_eq!(ended["phase"], "shipped", "{}", ended["reading"]);
    assert_eq!(ended["ruling"]["ruling"], "replace");
    // Gone by there, and nowhere else.
    let (drawn, left_out) = chances(&house, EASY, Some(category)).await;
    assert!(
        !drawn.contains_key(DEAR) && left_out.contains(&DEAR.to_owned()),
        "{drawn:?}"
    );
    let other = if category == "creative" {
        "code"
    } else {
        "creative"
    };
    assert!(chances(&house, EASY, Some(other)).await.0.contains_key(DEAR));
    let report = house.get(&format!("/reports/{name}/report.json")).await;
    assert_eq!(report["experiment"]["definition"]["reason"], definition["reason"]);
    undo(&house, &name).await;
    assert!(chances(&house, EASY, Some(category)).await.0.contains_key(DEAR));
    house.close().await;
}
