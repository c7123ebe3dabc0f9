use super::*;
use crate::config::{self, Source};
use crate::store::CandidateRow;
use crate::units::Usd;

const DAY: i64 = 86_400_000;

/// Three families, and a route with these terms.
fn config(route: &str) -> Config {
    let mut toml = String::from(
        "[server]\nlisten = \"127.0.0.1:0\"\n[[providers]]\nname = \"p\"\nkind = \"simulated\"\nbase_url = \"simulated:\"\n",
    );
    for (name, family) in [("large", "dear"), ("small", "cheap"), ("mini", "other")] {
        toml += &format!(
            "[[models]]\nid = \"p/{name}\"\nfamily = \"{family}\"\ncontext_window = 8192\nmax_output_tokens = 1024\n\
             [models.price]\ninput_per_mtok = 1.0\noutput_per_mtok = 2.0\n"
        );
    }
    toml +=
        &format!("[[routes]]\nname = \"auto\"\nmodels = [\"p/large\", \"p/small\", \"p/mini\"]\n{route}\n");
    config::parse(&toml, Source::Text, &|_| None).unwrap_or_else(|problems| panic!("{problems}"))
}

fn decision(category: &str, at: i64, quality: [f32; 3], nanos: [i64; 3]) -> DecisionRow {
    let arms = ["p/large", "p/small", "p/mini"].into_iter();
    let candidates = arms
        .zip(quality)
        .zip(nanos)
        .map(|((arm, quality), nanos)| CandidateRow {
            arm: ArmId::new(arm),
            propensity: 0.3,
            quality,
            deviation: 0.1,
            cost: Usd::from_nanos(nanos),
        });
    DecisionRow {
        id: format!("{category}-{at}").into(),
        at: UnixMs(at),
        episode: None,
        user: None,
        route: "auto".into(),
        strategy: "contextual".into(),
        category: category.into(),
        arm: ArmId::new("p/large"),
        propensity: 0.5,
        explored: false,
        expected_cost: Usd::from_nanos(100),
        expected_quality: 0.8,
        experiment: None,
        input_tokens: 10,
        stream: false,
        feature_version: 1,
        context: Vec::new(),
        candidates: candidates.collect(),
        detail: None,
    }
}

/// A day of so many decisions, all of the large model and all scored.
fn day(count: i64, quality: [f32; 3], nanos: [i64; 3]) -> Evidence {
    let mut evidence = Evidence::default();
    for i in 0..count {
        let row = decision("code", i * DAY / count, quality, nanos);
        evidence.decided(&row);
        evidence.scored(&row, f64::from(u8::from(i % 10 != 0)), None);
    }
    evidence
}

fn promises(evidence: &Evidence, config: &Config) -> Vec<Promise> {
    let route = &config.routes[0];
    let family = |wanted: &ArmId| {
        let mut arms = config.arms();
        arms.find(|arm| arm.id == *wanted)
            .map(|arm| arm.family.to_string())
    };
    evidence.promises(route, route.margin(), family, UnixMs(DAY))
}

const NEAR: [f32; 3] = [0.9, 0.89, 0.3];
const COSTS: [i64; 3] = [1_000, 400, 10];

#[test]
fn a_cheaper_family_believed_near_is_worth_asking() {
    let config = config("quality_margin = 0.05");
    let found = promises(&day(1_000, NEAR, COSTS), &config);
    let [promise] = found.as_slice() else {
        panic!("{found:?}")
    };
    // The cheapest family is out of reach.
    assert_eq!(
        (promise.used.as_str(), promise.cheaper.as_str()),
        ("dear", "cheap")
    );
    assert!((promise.saving - 0.6).abs() < 1e-9);
    // 1,000 scores a day, a fifth of them for thirty days: 6,000. Their variance is .09, so the half-width is
    // sqrt(.36 · 2 · 96.2 / (6000² · .01587) · (ln 9.81 + 3)) = .0253; what is believed is off by about .1:
    // (.04 - .0253) / .1004 = .147, of which the probability is .558.
    assert!((promise.chance - 0.558).abs() < 0.01, "{promise:?}");
    assert!((promise.usd_a_day - 1_000.0 * 600e-9 * promise.chance).abs() < 1e-9);
}

#[test]
fn what_cannot_pay_is_not_asked() {
    let near = config("quality_margin = 0.05");
    let none = |evidence: &Evidence, config: &Config, why: &str| {
        let found = promises(evidence, config);
        assert!(found.is_empty(), "{why}: {found:?}");
    };
    none(&day(150, NEAR, COSTS), &near, "too little traffic");
    none(&day(1_000, NEAR, [1_000, 950, 10]), &near, "too little saved");
    none(&day(1_000, [0.9, 0.6, 0.3], COSTS), &near, "out of reach");
    // A margin that 6,000 scores cannot show.
    let narrow = config("quality_margin = 0.001\nexperiments = { margin = 0.001 }");
    none(&day(1_000, [0.9, 0.8, 0.3], COSTS), &narrow, "hardly a verdict");
    let mut known = day(1_000, [0.9, 0.82, 0.3], COSTS);
    let small = DecisionRow {
        arm: ArmId::new("p/small"),
        ..decision("code", DAY, [0.9, 0.82, 0.3], COSTS)
    };
    (0..400).for_each(|_| known.scored(&small, 0.8, None));
    none(&known, &near, "known from what was scored");
    let mut unscored = Evidence::default();
    (0..1_000).for_each(|i| unscored.decided(&decision("code", i, NEAR, COSTS)));
    none(&unscored, &near, "nobody scores");
    let mut cached = Evidence::default();
    for i in 0..1_000 {
        let row = DecisionRow {
            strategy: FROM_CACHE.into(),
            ..decision("code", i, NEAR, COSTS)
        };
        cached.decided(&row);
        cached.scored(&row, 1.0, None);
    }
    none(&cached, &near, "answered from the cache");
}

#[test]
fn an_experiments_draws_are_not_the_routers() {
    let mut evidence = Evidence::default();
    for i in 0..1_000 {
        let mut row = decision("code", i * DAY / 1_000, NEAR, COSTS);
        if i % 3 > 0 {
            // Nobody scores it: with hundreds of scores the answer would be known.
            row.arm = ArmId::new("p/small");
            row.experiment = Some("ab=treatment".into());
            evidence.decided(&row);
        } else {
            evidence.decided(&row);
            evidence.scored(&row, f64::from(u8::from(i % 10 != 0)), None);
        }
    }
    let found = promises(&evidence, &config("quality_margin = 0.05"));
    assert_eq!(found.first().map(|promise| promise.used.as_str()), Some("dear"));
}

#[test]
fn evidence_stays_bounded_and_fades() {
    let mut evidence = Evidence::default();
    for i in 0..20_000 {
        let row = decision("code", i, NEAR, COSTS);
        evidence.decided(&row);
        evidence.scored(&row, 0.5, None);
        evidence.scored(&row, 1.0, Some(0.5));
        evidence.decided(&decision(&format!("own-{i}"), i, NEAR, COSTS));
    }
    assert_eq!(evidence.categories.len(), MAX_CATEGORIES);
    let code = &evidence.categories[&("auto".into(), "code".into())];
    assert!(code.decisions <= MEMORY && code.decisions >= 0.5 * MEMORY);
    assert!((code.sum / code.scored - 1.0).abs() < 1e-9 && (code.squares - code.sum).abs() < 1e-6);
    // The rate stays: one a millisecond.
    let rate = code.decisions / (20_000 - code.since.0) as f64;
    assert!((rate - 1.0).abs() < 0.01, "{rate}");
}

#[test]
fn a_route_says_whether_its_families_are_compared() {
    let wanted = |route: &str| wants(&config(route).routes[0]);
    assert!(wanted("quality_margin = 0.05"));
    assert!(!wanted("experiments = { families = false }"));
    assert!(!wanted("experiments = { enabled = false }"));
    assert!(!wanted("objective = \"max_quality\""));
}
