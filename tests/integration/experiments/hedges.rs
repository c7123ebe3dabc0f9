//! A hedge is another model's answer: it says nothing of the arm that was late.

use std::sync::Arc;

use futures_util::{StreamExt, stream};
use serde_json::json;

use super::{House, parse, scripted};
use crate::upstream::{Fault, Upstream, Wire};

/// Streams one answer and scores it well; its experiment's arm, the model that answered, and whether a hedge did.
async fn ask(house: &House, number: u32) -> (String, String, String) {
    let body = json!({
        "model": "auto", "stream": true, "routing": {"hedge": true, "ttft_budget_ms": 50},
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
    let seen = (
        header("x-router-experiment"),
        header("x-router-model"),
        header("x-router-hedged"),
    );
    let id = header("x-router-decision-id");
    response.text().await.unwrap();
    let feedback = json!({"id": id, "metric": "quality", "score": 1.0});
    assert_eq!(house.post("/v1/feedback", &feedback).await.0, 200);
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hedge_never_counts_for_the_arm_that_was_late() {
    let well = Upstream::always("well", Wire::OpenAi, Fault::None).await;
    let late = Upstream::always("late", Wire::OpenAi, Fault::SlowFirstToken(30_000)).await;
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let models = [("well", well.base_url()), ("late", late.base_url())];
    let more = "[[routes]]\nname = \"auto\"\nmodels = [\"well/m\", \"late/m\"]\nexperiments = { enabled = false }\n\
                hedge = { enabled = true, max_rate = 1.0 }\n\
                [[experiments]]\nname = \"pair\"\nroute = \"auto\"\nsplit = \"fixed\"\n\
                arms = { control = \"well/m\", treatment = \"late/m\" }\n";
    let house = House::of(Arc::clone(&folder), parse(&scripted(&folder, &models, more))).await;
    let seen = stream::iter(0..40)
        .map(|number| ask(&house, number))
        .buffer_unordered(4)
        .collect::<Vec<_>>()
        .await;
    let of = |arm: &str| {
        let arm = format!("pair={arm}");
        seen.iter().filter(move |(own, ..)| *own == arm)
    };
    assert!(of("treatment").count() > 0);
    assert!(
        of("treatment").all(|(_, model, hedged)| model == "well/m" && hedged == "true"),
        "{seen:?}"
    );
    let (own, others) = (of("control").count(), of("treatment").count());
    let view = house
        .experiment_when("pair", |view| {
            view["arms"][0]["scored"] == own && view["arms"][1]["exposures"] == others
        })
        .await;
    let arm = |index: usize| &view["arms"][index];
    // Nothing of the late arm: neither the hedge's score, nor its answer, nor an error of its own. And the model that
    // stood in gets no score for requests that it was not drawn for.
    for what in ["scored", "clean"] {
        assert_eq!(arm(1)[what], 0, "{what}: {view}");
        assert_eq!(arm(0)[what], own, "{what}: {view}");
    }
    assert_eq!(arm(1)["quality_sums"]["samples"], 0.0);
    assert_eq!(arm(0)["quality_sums"]["samples"], own as f64);
    house.leave();
}
