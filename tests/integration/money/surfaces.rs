//! What a call costs is the same number wherever it is told: in the answer's usage, in the header, in the log, in
//! `/metrics` and in the budget, by whichever of the interfaces it was asked, streamed or not, and nothing when the answer
//! was there already.

use serde_json::{Value, json};

use super::houses::{House, Used};
use super::place::{Place, Providers, Reply, Told, ask};

/// The interfaces that answer with words.
const PATHS: [&str; 3] = ["/v1/chat/completions", "/v1/messages", "/v1/responses"];
/// DeepSeek's prices outside of its peak hours stand for every OpenAI-shaped provider that tells hits and misses.
const ASKED: [House; 4] = [
    House::OpenAi,
    House::Anthropic,
    House::Gemini,
    House::DeepSeekQuiet,
];

/// What the call number `call` at a house used.
fn used(house: House, call: u64) -> Used {
    house.draw(1_000 + call)
}

/// Providers that bill by their own rules: the last word of the prompt is the number of the call.
async fn providers() -> Providers {
    Providers::open(|got| {
        if got.body.get("input").is_some_and(Value::is_string) {
            return Reply::Whole(json!({"object": "list", "model": "m",
                "data": [{"object": "embedding", "index": 0, "embedding": [0.5, 0.25]}],
                "usage": {"prompt_tokens": 8_191, "total_tokens": 8_191}}));
        }
        let house = House::named(&got.provider).unwrap();
        let text = got.body.to_string();
        let call = text.split("call ").nth(1).unwrap();
        let digits: String = call.chars().take_while(char::is_ascii_digit).collect();
        let used = used(house, digits.parse().unwrap());
        if got.streams {
            let events =
                house.opening(Some(&used)) + &house.piece("Done.", Some(&used)) + &house.closing(Some(&used));
            Reply::Stream(events)
        } else {
            Reply::Whole(house.whole("Done.", Some(&used)))
        }
    })
    .await
}

fn toml(providers: &Providers) -> String {
    let mut toml = String::from(
        "[[budgets]]\nname = \"everybody\"\nscope = \"all\"\nusd = 1000.0\nperiod = \"month\"\n\
         [[routes]]\nname = \"kept\"\nmodels = [\"openai/m\"]\ncache = { ttl_seconds = 60 }\n",
    );
    for house in ASKED {
        toml += &providers.toml(house.name(), house.kind());
        // Nobody asks within a window here: it is left out.
        toml += &format!(
            "[[models]]\nid = \"{}\"\ncontext_window = 1000000\nmax_output_tokens = 4096\nmodalities = [\"text\"]\n[models.price]\n{}",
            house.model(),
            house.price_toml("", "").replace("windows = []\n", ""),
        );
    }
    toml + "[[models]]\nid = \"openai/embedder\"\nkind = \"embedding\"\n[models.price]\ninput_per_mtok = 0.13\n"
}

fn body(path: &str, model: &str, call: u64, stream: bool) -> Value {
    let prompt = format!("Please settle call {call} .");
    match path {
        "/v1/messages" => json!({"model": model, "max_tokens": 100, "stream": stream,
            "messages": [{"role": "user", "content": prompt}]}),
        "/v1/responses" => {
            json!({"model": model, "input": [{"role": "user", "content": prompt}], "stream": stream})
        }
        _ => json!({"model": model, "stream": stream, "messages": [{"role": "user", "content": prompt}]}),
    }
}

/// Every `cost` in the answer, in nano-dollars, in the order in which they come.
fn told(answer: &Told, stream: bool) -> Vec<i64> {
    fn find(value: &Value, costs: &mut Vec<i64>) {
        match value {
            Value::Object(fields) => {
                if let Some(cost) = fields.get("cost").and_then(Value::as_f64) {
                    costs.push((cost * 1e9).round() as i64);
                }
                fields.values().for_each(|field| find(field, costs));
            }
            Value::Array(items) => items.iter().for_each(|item| find(item, costs)),
            _ => {}
        }
    }
    let mut costs = Vec::new();
    if stream {
        let text = answer.body.as_str().unwrap();
        let frames = text.lines().filter_map(|line| line.strip_prefix("data: "));
        for frame in frames.filter_map(|frame| serde_json::from_str::<Value>(frame).ok()) {
            find(&frame, &mut costs);
        }
    } else {
        find(&answer.body, &mut costs);
    }
    costs
}

/// Sum of the lines of a metric.
async fn metric(place: &Place, name: &str) -> i64 {
    let text = place.text("/metrics").await;
    let lines = text
        .lines()
        .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{')));
    lines
        .map(|line| line.rsplit(' ').next().unwrap().parse::<i64>().unwrap())
        .sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cost_is_one_number_wherever_it_is_told() {
    let providers = providers().await;
    let place = Place::open(&toml(&providers)).await;
    let (mut call, mut billed) = (0, 0);
    for house in ASKED {
        for path in PATHS {
            for stream in [false, true] {
                call += 1;
                let answer = place.post(path, &body(path, &house.model(), call, stream)).await;
                assert_eq!(answer.status, 200, "{path} {house:?}: {answer:?}");
                let bill = house.bill(&used(house, call));
                billed += bill;
                let costs = told(&answer, stream);
                assert_eq!(costs.last(), Some(&bill), "{path} {house:?} {stream}: {answer:?}");
                if !stream {
                    let header: f64 = answer.header("x-router-cost-usd").parse().unwrap();
                    assert_eq!((header * 1e9).round() as i64, bill, "{path} {house:?}");
                }
            }
        }
    }
    // 8,191 tokens at $0.13 a million, rounded to the nano-dollar once.
    let words = place
        .post(
            "/v1/embeddings",
            &json!({"model": "openai/embedder", "input": "words"}),
        )
        .await;
    assert_eq!(told(&words, false), [1_064_830]);
    assert_eq!(words.header("x-router-cost-usd"), "0.00106483");
    billed += 1_064_830;

    place.settle().await;
    let rows = place.app.store.reader().attempts_since(0, 100).unwrap();
    let logged: i64 = rows.iter().map(|row| row.attempt.cost.unwrap().nanos()).sum();
    assert_eq!(rows.len() as u64, call + 1);
    assert_eq!(logged, billed);
    assert_eq!(metric(&place, "pointsman_cost_nanodollars_total").await, billed);
    assert_eq!(metric(&place, "pointsman_budget_spent_nanodollars").await, billed);
    let budgets = place.get("/v1/budgets").await;
    assert_eq!(
        (budgets["budgets"][0]["spent_usd"].as_f64().unwrap() * 1e9).round() as i64,
        billed
    );
    assert_eq!(budgets["budgets"][0]["reserved_usd"], 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_there_costs_nothing_anywhere_and_its_saving_is_counted() {
    let providers = providers().await;
    let place = Place::open(&toml(&providers)).await;
    let bill = House::OpenAi.bill(&used(House::OpenAi, 7));
    let prompt = "Please settle call 7 .";
    let first = place.post("/v1/chat/completions", &ask("kept", prompt)).await;
    assert_eq!(told(&first, false), [bill]);
    for stream in [false, true] {
        let mut again = ask("kept", prompt);
        again["stream"] = json!(stream);
        let again = place.post("/v1/chat/completions", &again).await;
        assert_eq!(again.header("x-router-cache"), "hit", "{again:?}");
        assert_eq!(told(&again, stream), [0]);
        assert_eq!(again.header("x-router-cost-usd"), if stream { "" } else { "0" });
    }
    place.settle().await;
    assert_eq!(metric(&place, "pointsman_cost_nanodollars_total").await, bill);
    assert_eq!(metric(&place, "pointsman_budget_spent_nanodollars").await, bill);
    assert_eq!(
        metric(&place, "pointsman_cache_saved_nanodollars_total").await,
        2 * bill
    );
    let text = place.text("/metrics").await;
    for line in [
        r#"pointsman_cache_requests_total{route="kept",result="exact"} 2"#,
        r#"pointsman_cache_requests_total{route="kept",result="miss"} 1"#,
        r#"pointsman_cache_requests_total{route="kept",result="semantic"} 0"#,
        r#"pointsman_cache_answers_total{route="kept",fate="kept"} 1"#,
        r#"pointsman_cache_entries{route="kept"} 1"#,
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    // The dashboard's figures follow the log.
    super::place::eventually("the saving on the dashboard", async || {
        let overview = place.get("/v1/overview").await;
        overview["cache_hits"] == 2
            && (overview["cache_saved_usd"].as_f64().unwrap_or(0.0) * 1e9).round() as i64 == 2 * bill
    })
    .await;
}

/// A middleman's share is on top of tokens and fees alike, and rounded once with them: 1,001 tokens at $1.25, 333 at
/// $0.125 and 90 at $10 a million are 2,192,875 nano-dollars, 2,292,875 with $0.0001 for the request; 5.5 % more of that
/// is 2,418,983.125.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_middlemans_share_is_in_every_figure() {
    let providers = Providers::open(|_| {
        let used = Used {
            fresh: 1_001,
            hit: 333,
            written_5m: 0,
            written_1h: 0,
            said: 77,
            thought: 13,
        };
        Reply::Whole(House::OpenAi.whole("Done.", Some(&used)))
    })
    .await;
    let toml = providers.toml("between", "openai")
        + "[[budgets]]\nname = \"everybody\"\nscope = \"all\"\nusd = 1000.0\nperiod = \"month\"\n\
           [[models]]\nid = \"between/m\"\ncontext_window = 1000000\nmax_output_tokens = 4096\n[models.price]\n\
           input_per_mtok = 1.25\ncached_input_per_mtok = 0.125\noutput_per_mtok = 10.0\n\
           request_fee_usd = 0.0001\nrouting_fee_percent = 5.5\n";
    let place = Place::open(&toml).await;
    let answer = place
        .post("/v1/chat/completions", &ask("between/m", "call 1"))
        .await;
    assert_eq!(told(&answer, false), [2_418_983], "{answer:?}");
    assert_eq!(answer.header("x-router-cost-usd"), "0.002418983");
    place.settle().await;
    let rows = place.app.store.reader().attempts_since(0, 9).unwrap();
    assert_eq!(rows[0].attempt.cost.unwrap().nanos(), 2_418_983);
    for name in [
        "pointsman_cost_nanodollars_total",
        "pointsman_budget_spent_nanodollars",
    ] {
        assert_eq!(metric(&place, name).await, 2_418_983, "{name}");
    }
}

/// Anthropic's cache: 1,000 tokens read at a tenth of $3 save $2.70 a million, 500 and 200 written cost a quarter and
/// the whole of the price more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_providers_prompt_cache_saves_and_costs_is_counted() {
    let providers = Providers::open(|_| {
        let used = Used {
            fresh: 10,
            hit: 1_000,
            written_5m: 500,
            written_1h: 200,
            said: 5,
            thought: 0,
        };
        Reply::Whole(House::Anthropic.whole("Done.", Some(&used)))
    })
    .await;
    let place = Place::open(&toml(&providers)).await;
    let answer = place
        .post("/v1/chat/completions", &ask("anthropic/m", "call 1"))
        .await;
    assert_eq!(answer.status, 200, "{answer:?}");
    place.settle().await;
    assert_eq!(
        metric(&place, "pointsman_prompt_cache_saved_nanodollars_total").await,
        2_700_000
    );
    let paid = 500 * 750 + 200 * 3_000;
    assert_eq!(
        metric(&place, "pointsman_prompt_cache_paid_nanodollars_total").await,
        paid
    );
    let text = place.text("/metrics").await;
    assert!(text.contains(r#"class="cached_input"} 1000"#), "{text}");
}
