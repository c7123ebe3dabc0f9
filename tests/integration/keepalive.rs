//! Long silences: comments keep a stream's connection open, between frames only, and what was promised by them is kept.

use std::time::Duration;

use serde_json::{Value, json};

use crate::served::House;
use crate::upstream::{Fault, Upstream, Wire, full_answer};

const COMMENT: &str = ": keepalive";

/// `auto` over these providers, in this order; comments after a tenth of a second of silence.
async fn house(upstreams: &[(String, &Upstream)], more: &str) -> House {
    let names: Vec<String> = upstreams.iter().map(|(name, _)| format!("{name}/m")).collect();
    let (first, rest) = names.split_first().unwrap();
    let fallbacks = if rest.is_empty() {
        String::new()
    } else {
        format!("fallbacks = {rest:?}\n")
    };
    let blocks = format!(
        "[embedding]\nmodel = \"off\"\n[[routes]]\nname = \"auto\"\nmodels = [\"{first}\"]\n{fallbacks}\
         hedge = {{ enabled = false }}\n{more}\n"
    );
    House::serving("keepalive_ms = 100", upstreams, "", &blocks).await
}

/// The frames of a stream, each checked to be whole.
async fn frames(house: &House, timeout_ms: u64) -> (u16, Vec<String>) {
    let timeout = Duration::from_millis(timeout_ms);
    let response = house.ask("auto", "ask-1", true, timeout).send().await.unwrap();
    let status = response.status().as_u16();
    let text = response.text().await.unwrap();
    assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
    let frames: Vec<String> = text
        .trim_end_matches("\n\n")
        .split("\n\n")
        .map(str::to_owned)
        .collect();
    for frame in &frames {
        let data = frame.strip_prefix("data: ");
        let whole = frame == COMMENT
            || data.is_some_and(|data| data == "[DONE]" || serde_json::from_str::<Value>(data).is_ok());
        assert!(whole, "a frame is split: {frame:?} in {text}");
    }
    (status, frames)
}

fn comments(frames: &[String]) -> usize {
    frames.iter().filter(|frame| *frame == COMMENT).count()
}

/// Text, model of the last chunk, and the error.
fn said(frames: &[String]) -> (String, String, Option<Value>) {
    let (mut text, mut model, mut error) = (String::new(), String::new(), None);
    for chunk in frames.iter().filter_map(|frame| frame.strip_prefix("data: ")) {
        let Ok(chunk) = serde_json::from_str::<Value>(chunk) else {
            continue;
        };
        text += chunk["choices"][0]["delta"]["content"]
            .as_str()
            .unwrap_or_default();
        model = chunk["model"].as_str().unwrap_or_default().to_owned();
        error = chunk.get("error").cloned().or(error);
    }
    (text, model, error)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence_is_filled_before_and_between_frames_and_speech_is_not() {
    for (fault, least) in [
        (Fault::SlowFirstToken(800), 5),
        (Fault::Trickle(350), 8),
        // Every byte of every event alone: what comes in pieces is given on whole.
        (Fault::ByteByByte, 0),
    ] {
        let upstream = Upstream::always("slow", Wire::Anthropic, fault).await;
        let house = house(&[("slow".to_owned(), &upstream)], "").await;
        let (status, frames) = frames(&house, 20_000).await;
        let (text, model, error) = said(&frames);
        assert_eq!((status, error), (200, None));
        assert_eq!((text, model.as_str()), (full_answer("slow", "ask-1"), "slow/m"));
        assert!(comments(&frames) >= least, "{fault:?} {frames:?}");
        if fault == Fault::Trickle(350) {
            let first = frames.iter().position(|frame| frame != COMMENT).unwrap();
            let between = comments(&frames[first..]);
            assert!(between >= 4, "between the frames too: {frames:?}");
        }
    }
    let quick = Upstream::always("quick", Wire::OpenAi, Fault::None).await;
    let house = House::with(&[("quick".to_owned(), &quick)], "", "").await;
    let ask = house.ask("quick/m", "ask-1", true, Duration::from_secs(10));
    let text = ask.send().await.unwrap().text().await.unwrap();
    assert!(!text.contains(COMMENT), "{text}");
}

/// A comment is a 200, and still the next in the chain can answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_the_first_comment_a_fallback_still_serves() {
    let stuck = Upstream::always("stuck", Wire::OpenAi, Fault::HangAfterHeaders).await;
    let well = Upstream::always("well", Wire::Gemini, Fault::None).await;
    let house = house(&[("stuck".to_owned(), &stuck), ("well".to_owned(), &well)], "").await;
    let (status, frames) = frames(&house, 1_500).await;
    let (text, model, error) = said(&frames);
    assert_eq!((status, error), (200, None), "{frames:?}");
    assert_eq!((text, model.as_str()), (full_answer("well", "ask-1"), "well/m"));
    assert!(comments(&frames) >= 3, "{frames:?}");
}

/// When nobody can, the error is an event and then the end, never a `stop`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_the_first_comment_a_failure_is_an_event() {
    let stuck = Upstream::always("stuck", Wire::OpenAi, Fault::HangBeforeHeaders).await;
    let sick = Upstream::always("sick", Wire::Anthropic, Fault::Status(529, None)).await;
    let house = house(&[("stuck".to_owned(), &stuck), ("sick".to_owned(), &sick)], "").await;
    let (status, frames) = frames(&house, 1_500).await;
    let (text, _, error) = said(&frames);
    assert_eq!((status, text.as_str()), (200, ""), "{frames:?}");
    let error = error.expect("an error event");
    assert_eq!(error["code"], "provider_overloaded", "{error}");
    assert_eq!(error["metadata"]["provider"], "sick", "{error}");
    let last = &frames[frames.len() - 2];
    let last: Value = serde_json::from_str(last.strip_prefix("data: ").unwrap()).unwrap();
    assert_eq!(last["choices"][0]["finish_reason"], "error", "{last}");
    assert!(comments(&frames) >= 3, "{frames:?}");
    house.app.store.flush().await.unwrap();
    let logged = house.app.store.reader().attempts_since(0, 10).unwrap();
    let told: Vec<_> = logged
        .iter()
        .map(|row| (&*row.attempt.outcome, row.attempt.served))
        .collect();
    assert_eq!(told[0], ("timeout", false));
    assert!(
        told[1..]
            .iter()
            .all(|told| *told == ("provider_overloaded", false)),
        "{told:?}"
    );
}

/// The other schemas at the door have signs of life of their own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_anthropics_schema_silence_is_filled_with_pings() {
    let slow = Upstream::always("slow", Wire::OpenAi, Fault::SlowFirstToken(600)).await;
    let house = house(&[("slow".to_owned(), &slow)], "").await;
    let body = json!({"model": "auto", "max_tokens": 100, "stream": true,
                      "messages": [{"role": "user", "content": "please ask-1"}]});
    let answer = house.post("/v1/messages", &body).send().await.unwrap();
    let text = answer.text().await.unwrap();
    let events: Vec<&str> = text.trim_end_matches("\n\n").split("\n\n").collect();
    for event in &events {
        let (name, data) = event.split_once("\ndata: ").unwrap_or_else(|| panic!("{text}"));
        let data: Value = serde_json::from_str(data).unwrap();
        assert_eq!(name, format!("event: {}", data["type"].as_str().unwrap()));
    }
    assert!(
        events
            .iter()
            .filter(|event| event.starts_with("event: ping"))
            .count()
            >= 3,
        "{text}"
    );
    assert!(
        events[events.len() - 1].starts_with("event: message_stop"),
        "{text}"
    );
}
