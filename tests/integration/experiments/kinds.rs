//! Every kind of experiment from its start to its end through the whole server: it is routed, comes to a verdict by
//! scores alone, its winner is taken up, and that is taken back.

use std::collections::BTreeMap;

use pointsman::app::reload;
use pointsman::units::UnixMs;
use serde_json::{Value, json};

use super::{House, LLAMA, MISTRAL, PRO};

/// The probabilities with which a request that wants nothing explored is drawn, and the models left out.
pub async fn chances(
    house: &House,
    prompt: &str,
    category: Option<&str>,
) -> (BTreeMap<String, f64>, Vec<String>) {
    let mut body = json!({
        "model": "auto", "routing": {"explore": false},
        "messages": [{"role": "user", "content": prompt}],
    });
    if let Some(category) = category {
        body["routing"]["category"] = json!(category);
    }
    let (status, route) = house.post("/v1/route", &body).await;
    assert_eq!(status, 200, "{route}");
    assert_eq!(route["experiment"], Value::Null);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let candidates = route["candidates"].as_array().unwrap().iter();
    let left_out = route["excluded"].as_array().unwrap().iter();
    (
        candidates
            .map(|one| (text(&one["model"]), one["propensity"].as_f64().unwrap()))
            .collect(),
        left_out.map(|one| text(&one["model"])).collect(),
    )
}

/// Rates the treatment's answers `good`, all others `bad`, until the experiment is over.
pub async fn to_its_end(house: &House, name: &str, [good, bad]: [f64; 2], phase: &str) -> Value {
    let treated = format!("{name}=treatment");
    let score = |experiment: &str, _: &str| if experiment == treated { good } else { bad };
    rated_to_its_end(house, name, score, phase).await
}

/// Rates answers by the experiment's arm and the model until the experiment is over.
async fn rated_to_its_end(
    house: &House,
    name: &str,
    score: impl Fn(&str, &str) -> f64,
    phase: &str,
) -> Value {
    for round in 0..20 {
        for i in 0..40 {
            let score = |experiment: &str, model: &str| Some(score(experiment, model));
            house.ask_and_rate(round * 40 + i, score).await;
        }
        let view = house.get(&format!("/v1/experiments/{name}")).await;
        if view["phase"] != "running" {
            break;
        }
    }
    let view = house
        .experiment_when(name, |view| view["phase"] != "running")
        .await;
    assert_eq!(view["phase"], phase, "{}", view["reading"]);
    view
}

pub async fn undo(house: &House, name: &str) {
    let path = format!("/v1/experiments/{name}");
    let (status, view) = house
        .post(&path, &json!({"action": "undo", "reason": "we want it back"}))
        .await;
    assert_eq!((status, view["phase"].as_str()), (200, Some("undone")), "{view}");
    let events = house.events(name).await;
    assert_eq!(events.first().map(String::as_str), Some("defined"));
    let end: Vec<&str> = events.iter().rev().take(2).map(String::as_str).collect();
    assert_eq!(end, ["overridden", "decided"], "{events:?}");
}

const QUIET: fn(String) -> String = |toml| toml.replace("traffic = 0.5", "enabled = false, traffic = 0.5");
pub const EASY: &str = "What is two and two?";
pub const HARD: &str =
    "Prove that there are infinitely many primes p for which p + 2 has at most two prime factors.";

/// A server with one experiment of these arms, driven to the treatment's victory.
async fn shipped(control: &str, treatment: &str) -> House {
    let more = format!(
        "[[experiments]]\nname = \"ab\"\nroute = \"auto\"\n\
         arms = {{ control = \"{control}\", treatment = \"{treatment}\" }}\n"
    );
    let house = House::open(&more, QUIET).await;
    to_its_end(&house, "ab", [1.0, 0.2], "shipped").await;
    house
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_family_takes_the_others_place_until_it_is_undone() {
    let house = shipped("family:llama", "family:gemini").await;
    let (drawn, left_out) = chances(&house, EASY, None).await;
    assert!(!drawn.contains_key(LLAMA) && drawn.contains_key(PRO), "{drawn:?}");
    assert!(left_out.contains(&LLAMA.to_owned()), "{left_out:?}");
    undo(&house, "ab").await;
    assert!(chances(&house, EASY, None).await.0.contains_key(LLAMA));
    house.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_is_gone_by_until_it_is_undone() {
    let even = |drawn: &BTreeMap<String, f64>| {
        let share = 1.0 / drawn.len() as f64;
        drawn.len() > 1 && drawn.values().all(|chance| (chance - share).abs() < 0.01)
    };
    let house = shipped("router", "policy:random").await;
    let (drawn, _) = chances(&house, EASY, None).await;
    assert!(even(&drawn), "{drawn:?}");
    undo(&house, "ab").await;
    let (drawn, _) = chances(&house, EASY, None).await;
    assert!(!even(&drawn), "{drawn:?}");
    house.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_of_categories_is_gone_by_until_it_is_undone() {
    let house = shipped(MISTRAL, &format!("categories:creative={PRO},maths={LLAMA}")).await;
    let chance = async |category: &str, model: &str| {
        let (drawn, _) = chances(&house, EASY, Some(category)).await;
        drawn.get(model).copied().unwrap_or(0.0)
    };
    assert!(chance("creative", PRO).await > 0.99);
    assert!(chance("maths", LLAMA).await > 0.99);
    undo(&house, "ab").await;
    assert!(chance("creative", PRO).await < 0.99 || chance("maths", LLAMA).await < 0.99);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_look_at_prompts_is_gone_by_until_it_is_undone() {
    let house = shipped("features:text", "features:none").await;
    // What the router expects of the models is alike for every prompt where it looks at none. Of one that was scored
    // alike on all prompts it may be nearly so in any case; of all of them it is not.
    let expected = async |prompt: &str, category: &str| -> Vec<f64> {
        let body = json!({
            "model": "auto", "routing": {"explore": false, "category": category},
            "messages": [{"role": "user", "content": prompt}],
        });
        let (_, route) = house.post("/v1/route", &body).await;
        let candidates = route["candidates"].as_array().unwrap().iter();
        candidates
            .map(|one| one["expected_quality"].as_f64().unwrap())
            .collect()
    };
    let apart = async || {
        let (easy, hard) = (expected(EASY, "maths").await, expected(HARD, "reasoning").await);
        assert!(easy.len() > 1 && easy.len() == hard.len(), "{easy:?} {hard:?}");
        let pairs = easy.iter().zip(&hard);
        pairs.map(|(easy, hard)| (easy - hard).abs()).fold(0.0, f64::max)
    };
    assert!(apart().await < 1e-9);
    undo(&house, "ab").await;
    assert!(apart().await > 1e-3);
    house.close().await;
}

/// The configuration asks for a wider margin: the experiment starts by itself, saves, and what it found is in use until
/// somebody takes it back; then the old margin is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_margin_asks_its_question_and_is_shipped_and_undone() {
    let open = |toml: String| toml.replace("traffic = 0.5", "families = false, traffic = 1.0");
    let house = House::open("", open).await;
    let (before, _) = chances(&house, HARD, None).await;
    let wider = |toml: String| open(toml).replace("quality_margin = 0.01", "quality_margin = 0.9");
    reload::apply(&house.app, House::config(&house.folder, "", wider)).unwrap();
    let name = "margin-auto-0.9";
    // The cheapest is worse by more than the narrow margin and less than the wide one, or it might be learned that it is
    // good enough for both.
    let score = |_: &str, model: &str| if model == LLAMA { 0.8 } else { 0.9 };
    let view = rated_to_its_end(&house, name, score, "shipped").await;
    assert_eq!(view["ruling"]["ruling"], "adopt", "{view}");
    assert_eq!(view["definition"]["origin"], "margin");
    let (wide, _) = chances(&house, HARD, None).await;
    assert!(wide[LLAMA] > 0.9, "the cheapest is good enough: {wide:?}");
    undo(&house, name).await;
    let (after, _) = chances(&house, HARD, None).await;
    assert!(after[LLAMA] < 0.9, "{after:?}, before {before:?}");
    house.close().await;
}

/// Prices turn the ranking over; the experiment starts by itself and is shipped. Taken back, the model is left out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_price_that_turns_the_ranking_over_is_shipped_and_undone() {
    let open = |toml: String| toml.replace("traffic = 0.5", "families = false, traffic = 1.0");
    let house = House::open("", open).await;
    let cheap = |toml: String| {
        let toml = open(toml);
        let at = toml.find(&format!("id = \"{PRO}\"")).unwrap();
        let (before, after) = toml.split_at(at);
        let mut left = 2;
        let lines: Vec<String> = after
            .lines()
            .map(|line| match line.split_once(" = ") {
                Some((key @ ("input_per_mtok" | "output_per_mtok"), _)) if left > 0 => {
                    left -= 1;
                    format!("{key} = 0.0001")
                }
                _ => line.to_owned(),
            })
            .collect();
        format!("{before}{}\n", lines.join("\n"))
    };
    reload::apply(&house.app, House::config(&house.folder, "", cheap)).unwrap();
    let name = "price-sim-google-gemini-2.5-pro";
    let view = to_its_end(&house, name, [0.9, 0.9], "shipped").await;
    assert_eq!(view["definition"]["origin"], "price_change");
    assert!(chances(&house, EASY, None).await.0.contains_key(PRO));
    undo(&house, name).await;
    let (drawn, left_out) = chances(&house, EASY, None).await;
    assert!(
        !drawn.contains_key(PRO) && left_out.contains(&PRO.to_owned()),
        "{drawn:?}"
    );
    house.close().await;
}

/// A server whose most used model has fallen: the alarm has started an experiment by itself, which has found the harm and
/// left the model out. The model, and the experiment's name.
async fn fallen() -> (House, String, String) {
    let open = |toml: String| toml.replace("traffic = 0.5", "families = false, traffic = 1.0");
    let house = House::open("", open).await;
    // The model that is used most is the one that falls.
    let mut used: BTreeMap<String, u64> = BTreeMap::new();
    for i in 0..300 {
        *used.entry(house.ask(i, Some(0.95)).await.1).or_default() += 1;
    }
    let most = used.iter().max_by_key(|(_, count)| **count).unwrap().0.clone();
    let name = format!("drift-{}", most.replace('/', "-"));
    let fallen = |_: &str, model: &str| Some(if model == most { 0.0 } else { 0.95 });
    for i in 300..2_000 {
        house.ask_and_rate(i, fallen).await;
        if i % 25 == 0 && house.get(&format!("/v1/experiments/{name}")).await["phase"] == "stopped_for_harm" {
            break;
        }
    }
    let view = house
        .experiment_when(&name, |view| view["phase"] == "stopped_for_harm")
        .await;
    assert_eq!(view["definition"]["origin"], "drift");
    assert!(!chances(&house, EASY, None).await.0.contains_key(&most));
    (house, most, name)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drift_asks_its_question_and_the_harm_is_left_out_until_undone() {
    let (house, most, name) = fallen().await;
    let path = format!("/v1/experiments/{name}");
    let body = json!({"action": "undo", "reason": "we want it back"});
    let (status, view) = house.post(&path, &body).await;
    assert_eq!((status, view["phase"].as_str()), (200, Some("undone")), "{view}");
    assert!(chances(&house, EASY, None).await.0.contains_key(&most));
    house.close().await;
}

/// The same model is well again: after its rest it is asked about by itself, with a restart in between, and is let in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drift_that_is_repaired_comes_back_by_itself() {
    let (house, most, name) = fallen().await;
    let rest = house.get(&format!("/v1/experiments/{name}")).await["rest"].clone();
    assert_eq!(rest["rest_ms"], 3_600_000, "{rest}");
    let open = |toml: String| toml.replace("traffic = 0.5", "families = false, traffic = 1.0");
    let house = House::again(house.close().await, "", open).await;
    let until = UnixMs(rest["until"].as_i64().unwrap());
    let retrial = format!("retrial-{}", most.replace('/', "-"));
    let asks = async |now: UnixMs| {
        house.app.desk.ask_again(&house.app.live.load().config, now);
        house.get(&format!("/v1/experiments/{retrial}")).await["definition"]["origin"] == "retrial"
    };
    assert!(!asks(UnixMs(until.0 - 1)).await, "it rests");
    assert!(asks(until).await);
    assert!(
        !chances(&house, EASY, None).await.0.contains_key(&most),
        "others stay without it"
    );
    let drift = format!("/v1/experiments/{name}");
    for i in 0..8_000 {
        let (experiment, model) = house.ask(2_000 + i, Some(0.95)).await;
        // Outside of the retrial it answers only when it has been let in.
        let outside = model == most && experiment != format!("{retrial}=treatment");
        let readmitted = (outside || i % 50 == 0) && house.get(&drift).await["phase"] == "readmitted";
        assert!(readmitted || !outside, "{i}: {experiment}");
        if readmitted {
            break;
        }
    }
    let view = house
        .experiment_when(&name, |view| view["phase"] == "readmitted")
        .await;
    assert_eq!(view["ruling"], Value::Null);
    assert!(chances(&house, EASY, None).await.0.contains_key(&most));
    let events = house.events(&name).await;
    let end: Vec<&str> = events.iter().rev().take(3).map(String::as_str).collect();
    assert_eq!(end, ["readmitted", "resting", "decided"], "{events:?}");
    house.close().await;
}
