use serde_json::{Value, json};

use super::*;
use crate::completion::{FinishReason, StreamEvent};
use crate::failure::{FailureKind, Retry};
use crate::providers::testing::{as_json, streamed, wire};

const WHOLE: &str = include_str!("../../../tests/fixtures/providers/anthropic/whole.json");
const STREAM: &str = include_str!("../../../tests/fixtures/providers/anthropic/stream.sse");

fn read(text: &str) -> Result<Vec<StreamEvent>, AttemptError> {
    streamed(MessageReader::new(wire()), text)
}

#[test]
fn a_whole_answer() {
    let answer = answer::read(&wire(), WHOLE.as_bytes(), false).unwrap();
    let choices: Value = serde_json::from_str(answer.choices.get()).unwrap();
    insta::assert_json_snapshot!(choices);
    let usage = answer.usage.unwrap();
    // 50 + 1800 read + 148 + 100 written: all of it was input.
    assert_eq!((usage.input, usage.cached_input), (2_098, 1_800));
    assert_eq!(
        (usage.cache_write_5m, usage.cache_write_1h, usage.output),
        (148, 100, 503)
    );
    assert_eq!(answer.usage_extra.unwrap()["service_tier"], "standard");
    assert_eq!(answer.finish, FinishReason::ToolCalls);
    assert_eq!(answer.signals.tool_calls, 1);
    assert_eq!(answer.upstream_id.as_deref(), Some("msg_01Parcel"));
}

/// Input, read, written for five minutes, for an hour, output, thinking, as the guides on prompt caching and thinking
/// count them.
#[test]
fn usage_comes_to_our_rule() {
    let cases = [
        (
            "no cache",
            json!({"input_tokens": 2095, "output_tokens": 503}),
            [2095, 0, 0, 0, 503, 0],
        ),
        (
            "written",
            json!({"input_tokens": 21, "cache_creation_input_tokens": 188086, "cache_read_input_tokens": 0,
                "output_tokens": 393}),
            [188107, 0, 188086, 0, 393, 0],
        ),
        (
            "read",
            json!({"input_tokens": 21, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 188086,
                "output_tokens": 393}),
            [188107, 188086, 0, 0, 393, 0],
        ),
        (
            "both lives",
            json!({"input_tokens": 2048, "cache_read_input_tokens": 1800, "cache_creation_input_tokens": 248,
                "output_tokens": 503,
                "cache_creation": {"ephemeral_5m_input_tokens": 148, "ephemeral_1h_input_tokens": 100}}),
            [4096, 1800, 148, 100, 503, 0],
        ),
        (
            "thinking inside the answer",
            json!({"input_tokens": 10, "output_tokens": 900, "output_tokens_details": {"thinking_tokens": 700}}),
            [10, 0, 0, 0, 900, 700],
        ),
    ];
    for (name, told, expected) in cases {
        let mut count = super::answer::UsageCount::default();
        count.update(&told);
        let usage = count.read().unwrap();
        let counts = [
            usage.input,
            usage.cached_input,
            usage.cache_write_5m,
            usage.cache_write_1h,
            usage.output,
            usage.reasoning,
        ];
        assert_eq!(counts, expected, "{name}");
    }
}

#[test]
fn cache_writes_not_told_apart_are_the_five_minute_kind() {
    let told = r#"{"input_tokens":100,"cache_creation_input_tokens":248,"cache_read_input_tokens":0,"output_tokens":1}"#;
    let mut count = answer::UsageCount::default();
    count.update(&serde_json::from_str(told).unwrap());
    let usage = count.read().unwrap();
    assert_eq!(
        (usage.input, usage.cache_write_5m, usage.cache_write_1h),
        (348, 248, 0)
    );
}

#[test]
fn stop_reasons_come_to_openais_words() {
    let cases = [
        ("end_turn", FinishReason::Stop),
        ("stop_sequence", FinishReason::Stop),
        ("pause_turn", FinishReason::Stop),
        ("max_tokens", FinishReason::Length),
        ("model_context_window_exceeded", FinishReason::Length),
        ("tool_use", FinishReason::ToolCalls),
        ("refusal", FinishReason::ContentFilter),
    ];
    for (word, expected) in cases {
        assert_eq!(answer::finish(word), expected, "{word}");
    }
}

#[test]
fn a_stream() {
    insta::assert_json_snapshot!(as_json(&read(STREAM).unwrap()));
}

#[test]
fn a_stream_cut_anywhere_before_its_reason_is_an_error() {
    let reason_at = STREAM.find("event: message_delta").unwrap();
    for (cut, _) in STREAM.match_indices("event: ").filter(|(at, _)| *at <= reason_at) {
        let error = read(&STREAM[..cut]).unwrap_err();
        assert_eq!(
            (error.kind, error.retry),
            (FailureKind::ProviderUnavailable, Retry::SameArm),
            "{cut}"
        );
    }
    let stop_at = STREAM.find("event: message_stop").unwrap();
    assert!(
        read(&STREAM[..stop_at]).is_ok(),
        "only the mark of the end is missing"
    );
}

#[test]
fn an_error_inside_the_stream_is_one() {
    let overloaded = "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}\n\n";
    let cut = STREAM.find("event: content_block_stop").unwrap();
    let error = read(&format!("{}{overloaded}", &STREAM[..cut])).unwrap_err();
    assert_eq!(error.kind, FailureKind::ProviderOverloaded);
    assert_eq!(
        read(overloaded).unwrap_err().kind,
        FailureKind::ProviderOverloaded
    );
    assert_eq!(
        read("data: {oops\n\n").unwrap_err().kind,
        FailureKind::ProviderUnavailable
    );
}

#[test]
fn an_error_inside_a_200_is_one() {
    let body = br#"{"type":"error","error":{"type":"rate_limit_error","message":"slow"}}"#;
    assert_eq!(
        answer::read(&wire(), body, false).unwrap_err().kind,
        FailureKind::RateLimitExceeded
    );
    assert!(answer::read(&wire(), b"{}", false).is_err());
}

#[test]
fn the_address_has_its_version_once() {
    for base in [
        "https://e.org",
        "https://e.org/",
        "https://e.org/v1",
        "https://e.org/v1/",
    ] {
        let adapter = Anthropic::new(&Url::parse(base).unwrap(), false);
        assert_eq!(adapter.messages.as_str(), "https://e.org/v1/messages");
    }
}
