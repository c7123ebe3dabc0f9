use serde_json::{Value, json};

use super::*;
use crate::completion::{FinishReason, StreamEvent};
use crate::failure::{FailureKind, Retry};
use crate::providers::testing::{as_json, streamed, wire};

const WHOLE: &str = include_str!("../../../tests/fixtures/providers/gemini/whole.json");
const STREAM: &str = include_str!("../../../tests/fixtures/providers/gemini/stream.sse");

fn read(text: &str) -> Result<Vec<StreamEvent>, AttemptError> {
    streamed(AnswerReader::new(wire()), text)
}

fn whole(body: &str) -> Result<Completion, AttemptError> {
    answer::read(&wire(), body.as_bytes(), false)
}

#[test]
fn a_whole_answer() {
    let answer = whole(WHOLE).unwrap();
    let choices: Value = serde_json::from_str(answer.choices.get()).unwrap();
    insta::assert_json_snapshot!(choices);
    let usage = answer.usage.unwrap();
    // The provider's own tools put 20 tokens into the prompt; thoughts are output.
    assert_eq!(
        (usage.input, usage.cached_input, usage.audio_input),
        (2_172, 2_027, 52)
    );
    assert_eq!((usage.output, usage.reasoning), (422, 350));
    assert_eq!(answer.finish, FinishReason::ToolCalls);
    assert_eq!(answer.upstream_id.as_deref(), Some("resp-1"));
}

/// Input, cached, audio in, output, reasoning, audio out, as the guide on tokens and the reference of `usageMetadata`
/// count them.
#[test]
fn usage_comes_to_our_rule() {
    let cases = [
        (
            "text",
            json!({"promptTokenCount": 11, "candidatesTokenCount": 73, "totalTokenCount": 84}),
            [11, 0, 0, 73, 0, 0],
        ),
        (
            "thoughts beside the answer",
            json!({"promptTokenCount": 8, "candidatesTokenCount": 20, "thoughtsTokenCount": 64, "totalTokenCount": 92}),
            [8, 0, 0, 84, 64, 0],
        ),
        (
            "cached inside the prompt",
            json!({"promptTokenCount": 696219, "cachedContentTokenCount": 696190, "candidatesTokenCount": 214,
                "totalTokenCount": 696433}),
            [696219, 696190, 0, 214, 0, 0],
        ),
        (
            "sound, of which some was cached",
            json!({"promptTokenCount": 2000, "cachedContentTokenCount": 900, "candidatesTokenCount": 5,
                "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 400}, {"modality": "AUDIO", "tokenCount": 1600}],
                "cacheTokensDetails": [{"modality": "AUDIO", "tokenCount": 900}],
                "candidatesTokensDetails": [{"modality": "AUDIO", "tokenCount": 3}]}),
            [2000, 900, 700, 5, 0, 3],
        ),
        (
            "what its own tools read",
            json!({"promptTokenCount": 10, "toolUsePromptTokenCount": 5000, "candidatesTokenCount": 7}),
            [5010, 0, 0, 7, 0, 0],
        ),
    ];
    for (name, told, expected) in cases {
        let usage = super::answer::read_usage(&told).unwrap();
        let counts = [
            usage.input,
            usage.cached_input,
            usage.audio_input,
            usage.output,
            usage.reasoning,
            usage.audio_output,
        ];
        assert_eq!(counts, expected, "{name}");
    }
    assert_eq!(
        super::answer::read_usage(&json!({"candidatesTokenCount": 7})),
        None
    );
}

#[test]
fn ids_of_calls_are_steady_and_differ() {
    let ids = |body: &str| {
        let answer = whole(body).unwrap();
        let choices: Value = serde_json::from_str(answer.choices.get()).unwrap();
        let calls = choices[0]["message"]["tool_calls"].as_array().unwrap().clone();
        calls
            .iter()
            .map(|call| call["id"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let first = ids(WHOLE);
    assert_eq!(first, ids(WHOLE));
    assert_ne!(first[0], first[1]);
    assert_ne!(first, ids(&WHOLE.replace("resp-1", "resp-9")));
    let given = ids(&WHOLE.replace(r#""name":"track""#, r#""id":"fc_1","name":"track""#));
    assert_eq!(given[0], "fc_1");
}

#[test]
fn a_stream() {
    insta::assert_json_snapshot!(as_json(&read(STREAM).unwrap()));
}

#[test]
fn a_stream_cut_before_its_reason_is_an_error() {
    for (cut, _) in STREAM.match_indices("data: ") {
        let error = read(&STREAM[..cut]).unwrap_err();
        assert_eq!(
            (error.kind, error.retry),
            (FailureKind::ProviderUnavailable, Retry::SameArm),
            "{cut}"
        );
    }
}

#[test]
fn a_blocked_prompt_is_a_refusal_and_a_blocked_answer_is_cut() {
    let blocked =
        r#"{"promptFeedback":{"blockReason":"PROHIBITED_CONTENT"},"usageMetadata":{"promptTokenCount":5}}"#;
    let error = whole(blocked).unwrap_err();
    assert_eq!(
        (error.kind, error.retry),
        (FailureKind::ContentPolicyViolation, Retry::NextArm)
    );
    assert_eq!(error.provider_code.as_deref(), Some("PROHIBITED_CONTENT"));
    assert!(!error.message.contains("PROHIBITED"), "{}", error.message);
    assert_eq!(
        read(&format!("data: {blocked}\n\n")).unwrap_err().kind,
        FailureKind::ContentPolicyViolation
    );
    let cut = r#"{"candidates":[{"finishReason":"SAFETY","safetyRatings":[]}]}"#;
    let answer = whole(cut).unwrap();
    assert_eq!(answer.finish, FinishReason::ContentFilter);
    assert!(answer.signals.refused);
}

#[test]
fn reasons_come_to_openais_words() {
    let cases = [
        ("STOP", false, FinishReason::Stop),
        ("STOP", true, FinishReason::ToolCalls),
        ("MAX_TOKENS", true, FinishReason::Length),
        ("RECITATION", false, FinishReason::ContentFilter),
        ("OTHER", false, FinishReason::Stop),
    ];
    for (word, calls, expected) in cases {
        assert_eq!(answer::finish(&wire(), word, calls).unwrap(), expected, "{word}");
    }
    let error = answer::finish(&wire(), "MALFORMED_FUNCTION_CALL", false).unwrap_err();
    assert_eq!(error.retry, Retry::SameArm);
}

#[test]
fn an_error_inside_an_answer_is_one() {
    let error = r#"{"error":{"code":503,"message":"The model is overloaded.","status":"UNAVAILABLE"}}"#;
    assert_eq!(whole(error).unwrap_err().kind, FailureKind::ProviderOverloaded);
    assert_eq!(
        whole(&format!("[{error}]")).unwrap_err().kind,
        FailureKind::ProviderOverloaded
    );
    assert_eq!(
        read(&format!("data: {error}\n\n")).unwrap_err().kind,
        FailureKind::ProviderOverloaded
    );
    assert!(whole("{}").is_err());
    assert!(whole("[]").is_err());
}

#[test]
fn addresses() {
    let url = |base: &str, model: &str| {
        Gemini::new(&Url::parse(base).unwrap())
            .address(model, "generateContent")
            .to_string()
    };
    let expected = "https://e.org/v1beta/models/gemini-3:generateContent";
    assert_eq!(url("https://e.org", "gemini-3"), expected);
    assert_eq!(url("https://e.org/v1beta/", "models/gemini-3"), expected);
    assert_eq!(
        url("https://e.org/v1", "tunedModels/a b"),
        "https://e.org/v1/tunedModels/a%20b:generateContent"
    );
}
