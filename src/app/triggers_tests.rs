//! What changes of configuration, prices and features ask, and by what measure.

use std::sync::Arc;

use super::*;
use crate::app::reports::About;
use crate::config::{self, Source};
use crate::experiments::ExperimentView;
use crate::store::{CandidateRow, DecisionRow, Store, tests as store_rows};
use crate::telemetry::Telemetry;

fn route(costs: &[(&str, f64)]) -> SeenRoute {
    SeenRoute {
        models: costs
            .iter()
            .map(|(id, cost)| ((*id).to_owned(), Some(*cost)))
            .collect(),
        margin: Some(0.02),
    }
}

#[test]
fn a_price_change_that_turns_the_ranking_over_names_the_widest_pair() {
    let old = route(&[("a/1", 3.0), ("b/2", 2.0), ("c/3", 5.0)]);
    let any = |_: &ArmId| true;
    assert_eq!(old.flipped(&old, any), None);
    let same_order = route(&[("a/1", 2.5), ("b/2", 2.0), ("c/3", 9.0)]);
    assert_eq!(
        old.flipped(&same_order, any),
        None,
        "dearer, but in the same order"
    );
    let now = route(&[("a/1", 3.0), ("b/2", 2.0), ("c/3", 0.5)]);
    assert_eq!(
        old.flipped(&now, any),
        Some((ArmId::new("c/3"), ArmId::new("a/1"))),
        "c passes both; a is further away"
    );
    let but = |left_out: &'static str| move |arm: &ArmId| arm.as_str() != left_out;
    assert_eq!(old.flipped(&now, but("c/3")), None, "nobody else changed places");
    assert_eq!(
        old.flipped(&now, but("a/1")),
        Some((ArmId::new("c/3"), ArmId::new("b/2")))
    );
    let unknown = SeenRoute {
        models: BTreeMap::from([("c/3".to_owned(), Some(0.5)), ("a/1".to_owned(), None)]),
        margin: None,
    };
    assert_eq!(old.flipped(&unknown, any), None, "an unknown price is not cheap");
}

#[test]
fn new_features_are_compared_with_the_former_ones_or_what_did_not_change() {
    let before = FeatureVersions {
        text: 3,
        embedding: 0,
        classifier: 1,
    };
    assert_eq!(features_changed("auto", before, before, true), None);
    let found = |before, now, former| match features_changed("auto", before, now, former) {
        Some(Trigger::NewFeatures { current, fresh, .. }) => (current, fresh),
        other => panic!("{other:?}"),
    };
    let pair = |current: &str, fresh: &str| (current.to_owned(), fresh.to_owned());
    let with = FeatureVersions {
        embedding: 2,
        ..before
    };
    assert_eq!(found(before, with, false), pair("text", "embedding"));
    let other = FeatureVersions {
        embedding: 3,
        ..before
    };
    assert_eq!(found(with, other, true), pair("former", "embedding"));
    assert_eq!(found(with, other, false), pair("text", "embedding"));
    let classifier = FeatureVersions {
        classifier: 2,
        ..before
    };
    assert_eq!(found(before, classifier, true), pair("former", "text"));
    assert_eq!(found(before, classifier, false), pair("none", "text"));
    assert_eq!(
        features_changed("auto", with, before, false),
        None,
        "going without the embedding is nobody's question"
    );
}

/// A route of three models, with these prices and this objective.
fn config(prices: [f64; 3], objective: &str) -> Config {
    config_of(&["p/best", "p/good", "p/poor"], prices, objective)
}

fn config_of(models: &[&str], prices: [f64; 3], objective: &str) -> Config {
    let mut toml = String::from(
        "[server]\nlisten = \"127.0.0.1:0\"\n[[providers]]\nname = \"p\"\nkind = \"simulated\"\nbase_url = \"simulated:\"\n",
    );
    for (name, price) in ["best", "good", "poor"].into_iter().zip(prices) {
        toml += &format!(
            "[[models]]\nid = \"p/{name}\"\ncontext_window = 8192\nmax_output_tokens = 1024\n\
             [models.price]\ninput_per_mtok = {price}\noutput_per_mtok = {price}\n"
        );
    }
    toml += &format!("[[routes]]\nname = \"auto\"\nmodels = {models:?}\n{objective}\n");
    config::parse(&toml, Source::Text, &|_| None).unwrap_or_else(|problems| panic!("{problems}"))
}

/// The experiments that a flip of the second prices over the first asks for.
async fn asked(before: [f64; 3], after: [f64; 3], objective: &str) -> Vec<String> {
    asked_between(&config(before, objective), &config(after, objective)).await
}

/// The experiments, and their controls, that the second configuration asks for after the first, of a router that expects .9, .89 and .7.
async fn asked_between(before: &Config, after: &Config) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let now = UnixMs(1_794_787_200_000);
    let store = Store::open(dir.path(), now).unwrap();
    let about = About {
        config_hash: String::new(),
        seed: 1,
        simulated: true,
        margin: 0.02,
        features: None,
    };
    let telemetry = Arc::new(Telemetry::new(64));
    let desk = Desk::restore(store.clone(), telemetry, before, about, now).unwrap();
    let candidates = [("p/best", 0.9), ("p/good", 0.89), ("p/poor", 0.7)];
    let candidates = candidates.map(|(arm, quality)| CandidateRow {
        arm: ArmId::new(arm),
        quality,
        ..store_rows::decision("d1").candidates[0].clone()
    });
    store.log_decision(DecisionRow {
        candidates: candidates.into(),
        experiment: None,
        ..store_rows::decision("d1")
    });
    store.log_attempt(store_rows::attempt("d1", 1));
    store.flush().await.unwrap();
    desk.look().unwrap();
    let features = FeatureVersions::default();
    desk.notice(before, features, AtHand::default(), now);
    desk.notice(after, features, AtHand::default(), now);
    let list = desk.list().experiments;
    let control = |view: &ExperimentView| view.arms[0].variant.clone();
    list.iter()
        .map(|view| format!("{}={}", view.definition.name, control(view)))
        .collect()
}

#[tokio::test]
async fn a_new_model_is_compared_with_one_that_was_there() {
    let of = |models: &[&str]| config_of(models, [1.0, 2.0, 3.0], "");
    let both = asked_between(&of(&["p/best"]), &of(&["p/best", "p/good", "p/poor"])).await;
    assert_eq!(both, ["new-p-good=p/best", "new-p-poor=p/best"]);
    let all_new = asked_between(&of(&["p/best"]), &of(&["p/good", "p/poor"])).await;
    assert_eq!(all_new, [""; 0], "nobody is left to be compared with");
}

#[tokio::test]
async fn a_price_asks_nothing_of_a_model_that_is_known_to_be_worse() {
    let poor_flips = ([3.0, 2.0, 5.0], [3.0, 2.0, 0.5]);
    assert_eq!(asked(poor_flips.0, poor_flips.1, "").await, [""; 0]);
    assert_eq!(asked(poor_flips.1, poor_flips.0, "").await, [""; 0], "nor back");
    // What is within the margin is asked.
    let good_flips = ([3.0, 5.0, 9.0], [3.0, 1.0, 9.0]);
    assert_eq!(
        asked(good_flips.0, good_flips.1, "").await,
        ["price-p-good=p/best"]
    );
    // A wider margin lets the poor one in, and so do dollars where they are worth points.
    let wide = "quality_margin = 0.25";
    assert_eq!(
        asked(poor_flips.0, poor_flips.1, wide).await,
        ["price-p-poor=p/best"]
    );
    let weighted = |lambda: f64| format!("objective = \"weighted\"\nlambda = {lambda}");
    assert_eq!(
        asked(poor_flips.0, poor_flips.1, &weighted(1e6)).await,
        ["price-p-poor=p/best"]
    );
    assert_eq!(asked(poor_flips.0, poor_flips.1, &weighted(1e-3)).await, [""; 0]);
}

#[test]
fn slow_is_what_the_route_does_not_allow_and_its_control_is_not() {
    let allowed = |ms| Some(Duration::from_millis(ms));
    // Twice as slow as the control's slowest, and still within what the route allows.
    assert_eq!(slow(Some(300.0), allowed(800)), 800.0);
    assert_eq!(slow(Some(1_200.0), allowed(800)), 1_200.0);
    assert_eq!(slow(None, allowed(800)), 800.0);
    assert_eq!(slow(Some(300.0), None), SLOW_MS);
    assert_eq!(slow(None, None), SLOW_MS);
}
