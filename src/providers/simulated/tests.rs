use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};

use super::*;
use crate::arm::{Arm, ArmId, Modalities};
use crate::completion::FinishReason;
use crate::request::{self, ChatRequest};

/// A request with these fields beside the model.
fn request(fields: Value) -> ChatRequest {
    let mut body = json!({"model": "auto"});
    body.as_object_mut()
        .unwrap()
        .extend(fields.as_object().unwrap().clone());
    request::parse(Bytes::from(body.to_string())).unwrap()
}

fn question(text: &str) -> ChatRequest {
    request(json!({"messages": [{"role": "user", "content": text}]}))
}

fn call(model: &str, request: ChatRequest) -> Call {
    let arm = Arm {
        id: ArmId::new(&format!("simulated/{model}")),
        upstream: Arc::from(model),
        family: Arc::from("test"),
        context_window: 128_000,
        max_output_tokens: 8192,
        modalities: Modalities::TEXT,
        tools: true,
        structured_output: true,
    };
    Call {
        request: Arc::new(request),
        arm: Arc::new(arm),
        fallback: false,
    }
}

fn provider(address: &str) -> SimulatedProvider {
    SimulatedProvider::new(SimulatedSettings::from_address(address).unwrap()).unwrap()
}

fn message(completion: &Completion) -> Value {
    serde_json::from_str::<Value>(completion.choices.get()).unwrap()[0]["message"].clone()
}

#[test]
fn reads_its_address() {
    let settings = SimulatedSettings::from_address("simulated:?speed=20&seed=7&error_rate=0.25").unwrap();
    let expected = SimulatedSettings {
        seed: 7,
        speed: 20.0,
        error_rate: 0.25,
        stall_rate: 0.0,
    };
    assert_eq!(settings, expected);
    assert_eq!(
        SimulatedSettings::from_address("").unwrap(),
        SimulatedSettings::default()
    );
    for wrong in [
        "tcp:?speed=1",
        "simulated:?speed=0",
        "simulated:?error_rate=2",
        "simulated:?sped=2",
    ] {
        assert!(SimulatedSettings::from_address(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn the_shipped_figures_are_complete_and_in_range() {
    let recorded = recorded().unwrap();
    assert_eq!(recorded.models.len(), 4);
    for model in &recorded.models {
        assert_eq!(model.strata.len(), 9, "{}", model.name);
        for stratum in model.strata.values().flatten() {
            assert!(stratum.scores.is_sorted() && stratum.output_tokens.is_sorted());
            assert!(stratum.scores.iter().all(|score| (0.0..=1.0).contains(score)));
        }
    }
}

#[test]
fn many_prompts_score_what_was_recorded() {
    let recorded = recorded().unwrap();
    let model = recorded
        .models
        .iter()
        .find(|model| model.name == "llama-3.1-8b")
        .unwrap();
    let mean: f64 = (0..4000)
        .map(|number| {
            let traits = PromptTraits::new("gsm8k", Difficulty::Hard, &format!("prompt {number}"));
            model.outcome(&traits, 1).score
        })
        .sum::<f64>()
        / 4000.0;
    // The third's mean is 0.840 and its standard deviation about 0.2: five standard errors are 0.016.
    assert!((mean - 0.840).abs() < 0.016, "{mean}");
}

#[test]
fn the_same_prompt_is_answered_alike_and_a_tag_decides_its_kind() {
    let models = recorded().unwrap().models;
    let mut tagged = question("How many apples are left?");
    tagged
        .metadata
        .push((PROMPT_TAG.to_owned(), "gsm8k/hard".to_owned()));
    let traits = PromptTraits::of(&tagged);
    assert_eq!(
        traits,
        PromptTraits::new("gsm8k", Difficulty::Hard, "How many apples are left?")
    );
    assert_eq!(traits.tag(), "gsm8k/hard");
    assert_eq!(models[0].outcome(&traits, 3), models[0].outcome(&traits, 3));
    let seeds: std::collections::BTreeSet<u32> = (0..20)
        .map(|seed| models[0].outcome(&traits, seed).output_tokens)
        .collect();
    assert!(seeds.len() > 1, "another seed, another draw");
}

#[tokio::test(start_paused = true)]
async fn whole_and_streamed_answers_agree() {
    let provider = provider("simulated:?speed=10");
    let asked = call(
        "mistral-large-2512",
        question("Why is the sky blue on a clear afternoon?"),
    );
    let whole = provider.complete(&asked).await.unwrap();
    let text = message(&whole)["content"].as_str().unwrap().to_owned();
    assert!(
        text.starts_with("[simulated answer of mistral-large-2512]"),
        "{text}"
    );

    let mut stream = provider.stream(&asked).await.unwrap();
    let (mut streamed, mut end) = (String::new(), None);
    while let Some(event) = stream.next().await {
        match event.unwrap() {
            StreamEvent::Chunk(chunk) => {
                let choices: Value = serde_json::from_str(chunk.choices.get()).unwrap();
                streamed.push_str(choices[0]["delta"]["content"].as_str().unwrap_or_default());
            }
            StreamEvent::End { finish, usage, .. } => end = Some((finish, usage)),
        }
    }
    assert_eq!(streamed, text);
    assert_eq!(end, Some((FinishReason::Stop, whole.usage)));
}

#[tokio::test(start_paused = true)]
#[expect(clippy::disallowed_methods, reason = "reads the paused clock")]
async fn speed_scales_time() {
    let asked = call("gemini-2.5-pro", question("Name three rivers."));
    let mut taken = Vec::new();
    for address in ["simulated:?speed=1", "simulated:?speed=10"] {
        let started = tokio::time::Instant::now();
        provider(address).complete(&asked).await.unwrap();
        taken.push(started.elapsed().as_secs_f64());
    }
    // Timers round up to a millisecond.
    assert!((taken[0] / taken[1] - 10.0).abs() < 0.1, "{taken:?}");
}

#[tokio::test(start_paused = true)]
async fn calls_the_tool_then_answers_with_its_result() {
    let provider = provider("simulated:");
    let schema = json!({"type": "object", "properties": {"city": {"type": "string"}}});
    let tools = json!([{"type": "function", "function": {"name": "get_weather", "parameters": schema}}]);
    let asks = json!({"role": "user", "content": "What is the weather in Oslo?"});
    let asked = request(json!({"tools": tools, "messages": [asks]}));
    let first = provider.complete(&call("llama-3.1-8b", asked)).await.unwrap();
    assert_eq!(first.finish, FinishReason::ToolCalls);
    let called = message(&first);
    assert_eq!(
        called["tool_calls"][0]["function"]["arguments"],
        r#"{"city":"simulated"}"#
    );

    let result =
        json!({"role": "tool", "tool_call_id": called["tool_calls"][0]["id"], "content": "4 degrees"});
    let told = request(json!({"tools": tools, "messages": [asks, called, result]}));
    let second = provider.complete(&call("llama-3.1-8b", told)).await.unwrap();
    assert_eq!(second.finish, FinishReason::Stop);
}

#[tokio::test(start_paused = true)]
async fn ends_at_a_stop_sequence_and_tells_which() {
    let provider = provider("simulated:");
    let plain = provider
        .complete(&call("llama-3.1-8b", question("Tell me all about tea.")))
        .await
        .unwrap();
    assert!(!plain.choices.get().contains("stop_sequence"));
    let text = message(&plain)["content"].as_str().unwrap().to_owned();
    let stop = format!(" {}", text.split(' ').nth(5).unwrap());
    let asked = || {
        let messages = json!([{"role": "user", "content": "Tell me all about tea."}]);
        let fields = json!({"messages": messages, "stop": ["not to be found", stop]});
        call("llama-3.1-8b", request(fields))
    };
    let completion = provider.complete(&asked()).await.unwrap();
    let choices: Value = serde_json::from_str(completion.choices.get()).unwrap();
    let end = (&choices[0]["finish_reason"], &choices[0]["stop_sequence"]);
    assert_eq!(end, (&json!("stop"), &json!(stop)));
    let said = message(&completion)["content"].as_str().unwrap().to_owned();
    assert!(text.starts_with(&format!("{said}{stop}")), "{said}");
    let events: Vec<_> = provider.stream(&asked()).await.unwrap().collect().await;
    let told = events.iter().filter_map(|event| match event.as_ref().unwrap() {
        StreamEvent::Chunk(chunk) => Some(serde_json::from_str::<Value>(chunk.choices.get()).unwrap()),
        StreamEvent::End { .. } => None,
    });
    let told: Vec<Value> = told.map(|choices| choices[0]["stop_sequence"].clone()).collect();
    let (last, before) = told.split_last().unwrap();
    assert_eq!(*last, json!(stop));
    assert!(before.iter().all(Value::is_null), "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn obeys_a_limit_and_a_schema() {
    let provider = provider("simulated:");
    let messages = json!([{"role": "user", "content": "Tell me all about the history of tea."}]);
    let short = request(json!({"messages": messages, "max_tokens": 5}));
    let cut = provider.complete(&call("llama-3.1-8b", short)).await.unwrap();
    assert_eq!((cut.finish, cut.usage.unwrap().output), (FinishReason::Length, 5));

    let schema = json!({"type": "object", "properties": {"n": {"type": "integer"}}});
    let format = json!({"type": "json_schema", "json_schema": {"name": "number", "schema": schema}});
    let formed = request(json!({"messages": messages, "response_format": format}));
    let filled = provider.complete(&call("llama-3.1-8b", formed)).await.unwrap();
    assert_eq!(message(&filled)["content"], r#"{"n":1}"#);
    assert_eq!(filled.signals.json_valid, Some(true));
}

#[tokio::test(start_paused = true)]
async fn fails_as_often_as_told() {
    let provider = provider("simulated:?error_rate=0.3");
    let mut failed = 0;
    for _ in 0..1000 {
        let answer = provider.complete(&call("llama-3.1-8b", question("Hello"))).await;
        failed += u32::from(answer.is_err_and(|error| error.kind == FailureKind::ProviderOverloaded));
    }
    // Binomial(1000, 0.3) has a standard deviation of 14.5.
    assert!((228..=372).contains(&failed), "{failed}");
}

#[tokio::test(start_paused = true)]
async fn an_unknown_model_is_named() {
    let error = provider("simulated:")
        .complete(&call("gpt-9", question("Hello")))
        .await
        .unwrap_err();
    assert!(
        error.message.contains("gpt-9") && error.message.contains("llama-3.1-8b"),
        "{error}"
    );
}
