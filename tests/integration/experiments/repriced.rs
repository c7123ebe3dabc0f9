//! A model that was left out for its price, and the price that brings it back.

use pointsman::app::reload;

use super::kinds::{EASY, chances, to_its_end};
use super::{House, PRO};

/// The same configuration with the dearest model's prices times `factor`.
fn priced(toml: &str, factor: f64) -> String {
    let at = toml.find(&format!("id = \"{PRO}\"")).unwrap();
    let (before, after) = toml.split_at(at);
    let mut left = 2;
    let lines: Vec<String> = after
        .lines()
        .map(|line| match line.split_once(" = ") {
            Some((key @ ("input_per_mtok" | "output_per_mtok"), price)) if left > 0 => {
                left -= 1;
                format!("{key} = {:?}", factor * price.parse::<f64>().unwrap())
            }
            _ => line.to_owned(),
        })
        .collect();
    format!("{before}{}\n", lines.join("\n"))
}

/// The dearest model is new and no better: it is left out. A price that leaves it the dearest changes nothing; one that
/// makes it the cheapest has it drawn again at once, and asks whether it can take the dearer one's place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_that_was_left_out_for_its_price_comes_back_when_that_is_cut() {
    let open = |toml: String| {
        toml.replace("traffic = 0.5", "families = false, traffic = 1.0")
            .replace("quality_margin = 0.01", "quality_margin = 0.5")
    };
    let house = House::open("", |toml| open(toml.replace(&format!(", \"{PRO}\""), ""))).await;
    let reload = |factor: f64| {
        let config = House::config(&house.folder, "", |toml| priced(&open(toml), factor));
        reload::apply(&house.app, config).unwrap();
    };
    let is_drawn = async || chances(&house, EASY, None).await.0.contains_key(PRO);
    reload(1.0);
    let plain = PRO.replace('/', "-");
    let view = to_its_end(&house, &format!("new-{plain}"), [0.7, 0.9], "stopped_for_harm").await;
    assert_eq!(view["definition"]["design"]["hypothesis"]["kind"], "superior");
    assert!(!is_drawn().await);
    reload(0.99);
    assert!(!is_drawn().await, "it is the dearest still");
    reload(1e-5);
    assert!(is_drawn().await);
    let price = format!("price-{plain}");
    let view = to_its_end(&house, &price, [0.9, 0.9], "shipped").await;
    assert_eq!(view["definition"]["origin"], "price_change");
    assert!(is_drawn().await);
    let left_out = house.get(&format!("/v1/experiments/new-{plain}")).await;
    assert_eq!(left_out["phase"], "undone");
    house.close().await;
}
