//! The support bot of the examples, end to end: the shipped file, with its providers' addresses pointed at scripts.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::houses::{House, Used};
use super::place::{Place, Providers, Reply, ask};

/// What the scripts bill for every answer.
const USED: Used = Used {
    fresh: 1_000,
    hit: 0,
    written_5m: 0,
    written_1h: 0,
    said: 200,
    thought: 0,
};

fn example() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/support-bot.toml");
    let text = fs::read_to_string(path).unwrap();
    // The test's own address and folder; everything else is as it is shipped.
    let own = |line: &&str| !line.starts_with("listen") && !line.starts_with("data_dir");
    text.lines().filter(own).map(|line| format!("{line}\n")).collect()
}

/// A screenshot, as a PNG's header tells it.
fn screenshot() -> Value {
    let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\x05\x00\0\0\x03\x20\x08\x06\0\0\0".to_vec();
    png.resize(4_000, 0);
    json!({"type": "image_url", "image_url": {"url": format!("data:image/png;base64,{}", BASE64_STANDARD.encode(png))}})
}

async fn bot(broken: Arc<AtomicU8>) -> (Providers, Place) {
    let providers = Providers::open(move |got| {
        let house = match got.provider.as_str() {
            "anthropic" => House::Anthropic,
            "google" => House::Gemini,
            _ => House::OpenAi,
        };
        match (got.provider.as_str(), broken.load(Ordering::Relaxed)) {
            ("anthropic", 1 | 2) | ("openai", 2) => Reply::Status(529),
            ("anthropic", 3) => Reply::Hang,
            _ => Reply::Whole(house.whole("Here is what to do.", Some(&USED))),
        }
    })
    .await;
    let mut toml = example();
    for (name, kind) in [
        ("mistral", "openai"),
        ("anthropic", "anthropic"),
        ("google", "gemini"),
        ("openai", "openai"),
        ("qwen", "openai"),
    ] {
        toml += &providers.toml(name, kind);
    }
    let place = Place::open(&toml).await;
    (providers, place)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_question_goes_where_the_mission_says() {
    let (providers, place) = bot(Arc::new(AtomicU8::new(0))).await;
    let faq = place
        .post(
            "/v1/chat/completions",
            &ask("support", "How do I reset my password?"),
        )
        .await;
    assert_eq!(faq.header("x-router-model"), "mistral/mistral-small", "{faq:?}");
    assert_eq!(faq.header("x-router-category"), "support_faq");
    assert_eq!(faq.header("x-router-strategy"), "rule");
    // 1,000 tokens at $0.15 and 200 at $0.60 per million: Mistral Small 4.
    assert_eq!(faq.header("x-router-cost-usd"), "0.00027");

    let question = "What does your policy say about refunds for goods that came damaged?";
    let policy = place
        .post("/v1/chat/completions", &ask("support", question))
        .await;
    assert_eq!(
        policy.header("x-router-model"),
        "anthropic/claude-haiku",
        "{policy:?}"
    );
    assert_eq!(policy.header("x-router-category"), "policy");

    let complaint = json!([
        {"type": "text", "text": "This is the third time that I complain! Look at what your shop shows me. I want a manager."},
        screenshot(),
    ]);
    let escalated = place
        .post("/v1/chat/completions", &ask("support", complaint))
        .await;
    assert_eq!(
        escalated.header("x-router-model"),
        "google/gemini-pro",
        "{escalated:?}"
    );
    let asked: Vec<String> = providers.got().into_iter().map(|got| got.provider).collect();
    assert_eq!(asked, ["mistral", "anthropic", "google"], "one call each");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_haiku_falls_back_to_mini_and_then_to_qwen() {
    let broken = Arc::new(AtomicU8::new(1));
    let (_providers, place) = bot(Arc::clone(&broken)).await;
    let question = ask(
        "support",
        "What does your policy say about warranty claims on used goods?",
    );
    let mini = place.post("/v1/chat/completions", &question).await;
    assert_eq!(mini.header("x-router-model"), "openai/gpt-4o-mini", "{mini:?}");
    assert_eq!(mini.header("x-router-fallback-from"), "anthropic/claude-haiku");
    // 1,000 at $0.15 and 200 at $0.60; an answer of 529 is not billed.
    assert_eq!(mini.header("x-router-cost-usd"), "0.00027");
    broken.store(2, Ordering::Relaxed);
    let qwen = place.post("/v1/chat/completions", &question).await;
    assert_eq!(qwen.header("x-router-model"), "qwen/qwen-2.5-72b", "{qwen:?}");
    assert_eq!(qwen.header("x-router-fallback-from"), "anthropic/claude-haiku");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_haiku_falls_back_within_the_deadline() {
    let (_providers, place) = bot(Arc::new(AtomicU8::new(3))).await;
    let question = ask(
        "support",
        "What does your policy say about warranty claims on used goods?",
    );
    let deadline = [("x-router-timeout-ms", "2500")];
    let mini = place
        .post_with("/v1/chat/completions", &question, &deadline)
        .await;
    assert_eq!(mini.header("x-router-model"), "openai/gpt-4o-mini", "{mini:?}");
    place.settle().await;
    let logged = place.app.store.reader().attempts_since(0, 10).unwrap();
    let told: Vec<(&str, &str)> = logged
        .iter()
        .map(|row| (row.attempt.arm.as_str(), &*row.attempt.outcome))
        .collect();
    assert_eq!(
        told,
        [
            ("anthropic/claude-haiku", "timeout"),
            ("openai/gpt-4o-mini", "succeeded")
        ]
    );
}

/// What the look before the call is for: content decides who can and who should.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn content_decides_who_can_and_who_should() {
    let toml = r#"
[[providers]]
name = "p"
kind = "openai"
base_url = "http://127.0.0.1:9/v1"
[[models]]
id = "p/text"
context_window = 200000
modalities = ["text"]
[models.price]
input_per_mtok = 0.1
output_per_mtok = 0.3
[[models]]
id = "p/pixels"
context_window = 200000
modalities = ["text", "image", "pdf"]
[models.price]
input_per_mtok = 0.4
output_per_mtok = 1.0
image_usd = 0.002
pdf_page_usd = 0.01
[[models]]
id = "p/documents"
context_window = 1000000
modalities = ["text", "pdf"]
[models.price]
input_per_mtok = 0.3
output_per_mtok = 1.0
[[routes]]
name = "auto"
models = ["p/text", "p/pixels", "p/documents"]
quality_margin = 1.0
"#;
    let place = Place::open(toml).await;
    let decide = async |content: Value| {
        let mut body = ask("auto", content);
        body["routing"] = json!({"explore": false});
        let told = place.post("/v1/route", &body).await;
        assert_eq!(told.status, 200, "{told:?}");
        told.body
    };
    let plain = decide(json!("Why is the sky blue?")).await;
    assert_eq!(plain["selected"], "p/text", "{plain}");
    let interval = &plain["candidates"][0]["interval"];
    let (low, high) = (
        interval["cost_usd"][0].as_f64().unwrap(),
        interval["cost_usd"][1].as_f64().unwrap(),
    );
    let expected = plain["candidates"][0]["expected_cost_usd"].as_f64().unwrap();
    assert!(low < expected && expected < high, "{plain}");
    assert!(
        plain["look"]["saved_usd"].as_f64().unwrap() > 0.0 && plain["look"]["left_out"] == 0,
        "{plain}"
    );
    assert!(plain["look"]["took_us"].is_u64() && plain["content"]["text"]["class"] == "prose");

    let picture = decide(json!([{"type": "text", "text": "What is wrong here?"}, screenshot()])).await;
    assert_eq!(picture["selected"], "p/pixels", "{picture}");
    assert_eq!(picture["look"]["left_out"], 2);
    assert_eq!(picture["content"]["images"][0]["size"], json!([1280, 800]));

    // A contract of sixty pages: the one who also charges by the page is left alone.
    let mut pdf =
        b"%PDF-1.4\n1 0 obj\n<< /Type /Pages /Count 60 >>\nendobj\n2 0 obj\n<< /Font 1 >>\nendobj\n".to_vec();
    pdf.resize(200_000, b' ');
    let contract = decide(json!([
        {"type": "text", "text": "Which clauses bind us after the end of the term?"},
        {"type": "file", "file": {"filename": "contract.pdf",
            "file_data": format!("data:application/pdf;base64,{}", BASE64_STANDARD.encode(pdf))}},
    ]))
    .await;
    assert_eq!(contract["content"]["pdfs"][0]["pages"], 60);
    assert_eq!(contract["selected"], "p/documents", "{contract}");
    assert!(
        contract["look"]["saved_usd"].as_f64().unwrap() > 0.6,
        "sixty pages at a cent: {contract}"
    );
    // The dashboard tells what looking has saved on requests, also on such as nobody answered.
    for content in [
        json!("Why is the sky blue?"),
        json!([{"type": "text", "text": "What is wrong here?"}, screenshot()]),
    ] {
        let mut body = ask("auto", content);
        body["routing"] = json!({"explore": false});
        let told = place.post("/v1/chat/completions", &body).await;
        assert_eq!(told.status, 502, "{told:?}");
    }
    let overview = place.get("/v1/overview").await;
    assert!(overview["look_saved_usd"].as_f64().unwrap() > 0.0, "{overview}");
    assert_eq!(overview["left_out"], 2);
    // And a long one as plain text, where the page fee does not show, still goes to the cheapest that it fits.
    let long = decide(json!(
        "The tenant shall keep the premises in good repair. ".repeat(2_000)
    ))
    .await;
    assert_eq!(long["selected"], "p/text", "{}", long["candidates"]);
}
