use super::*;
use crate::completion::StreamEvent;
use crate::failure::{FailureKind, Retry};
use crate::providers::testing::{self, wire};

/// Everything a stream of these bytes yields.
fn streamed(text: &str) -> Result<Vec<StreamEvent>, AttemptError> {
    testing::streamed(ChunkReader::new(wire(), stops()), text)
}

fn stops() -> Vec<String> {
    vec!["STOP".to_owned(), "END".to_owned()]
}

fn chunk(delta: &str, finish: &str) -> String {
    format!(
        "data: {{\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[{{\"index\":0,\"delta\":{delta},\"finish_reason\":{finish}}}]}}\n\n"
    )
}

fn end(events: &[StreamEvent]) -> (FinishReason, Option<Usage>) {
    match events.last() {
        Some(StreamEvent::End { finish, usage, .. }) => (*finish, *usage),
        other => panic!("no end: {other:?}"),
    }
}

#[test]
fn a_whole_answer_keeps_its_choices_and_unknown_fields() {
    let body = br#"{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"m","system_fingerprint":"fp",
        "choices":[{"index":0,"message":{"role":"assistant","content":"{\"a\":1}","annotations":[]},"logprobs":null,"finish_reason":"stop"}],
        "usage":{"prompt_tokens":9,"completion_tokens":4,"total_tokens":13,"queue_time":0.5}}"#;
    let answer = read_completion(&wire(), body, true, &[]).unwrap();
    assert_eq!(answer.upstream_id.as_deref(), Some("chatcmpl-1"));
    assert!(answer.choices.get().contains("annotations"));
    assert_eq!(answer.extra[0].0, "system_fingerprint");
    assert_eq!(answer.extra[0].1.get(), "\"fp\"");
    assert_eq!(answer.usage.unwrap().input, 9);
    assert_eq!(answer.usage_extra.unwrap()["queue_time"], 0.5);
    assert_eq!(answer.signals.json_valid, Some(true));
    assert_eq!(answer.finish, FinishReason::Stop);
}

#[test]
fn an_error_or_nonsense_inside_a_200_is_an_error() {
    let kind = |body: &[u8]| read_completion(&wire(), body, false, &[]).unwrap_err().kind;
    assert_eq!(
        kind(br#"{"error":{"message":"Rate limit reached","code":429},"choices":[]}"#),
        FailureKind::RateLimitExceeded
    );
    for body in [
        &b"{\"id\":"[..],
        b"",
        b"[]",
        b"{}",
        br#"{"choices":[]}"#,
        br#"{"choices":null}"#,
        br#"{"choices":[7]}"#,
    ] {
        assert_eq!(kind(body), FailureKind::ProviderUnavailable, "{body:?}");
    }
    let starved =
        br#"{"choices":[{"message":{"content":"par"},"finish_reason":"insufficient_system_resource"}]}"#;
    assert_eq!(kind(starved), FailureKind::ProviderOverloaded);
}

#[test]
fn usage_comes_in_the_last_chunk_without_choices_beside_the_end_or_not_at_all() {
    let head = chunk(r#"{"role":"assistant","content":""}"#, "null") + &chunk(r#"{"content":"hi"}"#, "null");
    let last = chunk("{}", "\"stop\"");
    let usage = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":1}}\n\n";
    let apart = streamed(&format!("{head}{last}{usage}data: [DONE]\n\n")).unwrap();
    assert_eq!(end(&apart).1.unwrap().input, 3);
    assert_eq!(apart.len(), 4, "the usage chunk is not passed on");
    let beside = last.replace(
        "\"choices\"",
        "\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":1},\"choices\"",
    );
    assert_eq!(
        end(&streamed(&format!("{head}{beside}data: [DONE]\n\n")).unwrap())
            .1
            .unwrap()
            .input,
        5
    );
    assert_eq!(
        end(&streamed(&format!("{head}{last}data: [DONE]\n\n")).unwrap()).1,
        None
    );
}

#[test]
fn the_mark_of_the_end_may_be_missing_or_doubled_but_not_the_reason() {
    let head = chunk(r#"{"content":"hi"}"#, "null");
    let last = chunk("{}", "\"length\"");
    for tail in [
        "",
        "data: [DONE]",
        "data: [DONE]\n\ndata: [DONE]\n\n",
        "data: [DONE]\n\ndata: {oops\n\n",
    ] {
        let events = streamed(&format!("{head}{last}{tail}")).unwrap();
        assert_eq!(end(&events).0, FinishReason::Length);
        assert_eq!(events.len(), 3);
    }
    for cut in [head.clone(), format!("{head}data: [DONE]\n\n"), String::new()] {
        let error = streamed(&cut).unwrap_err();
        assert_eq!(
            (error.kind, error.retry),
            (FailureKind::ProviderUnavailable, Retry::SameArm),
            "{cut}"
        );
    }
    assert!(streamed(&format!("{head}data: {{\"choices\":[{{\"delta\"")).is_err());
}

#[test]
fn errors_inside_the_stream_are_errors_wherever_they_stand() {
    let head = chunk(r#"{"content":"hi"}"#, "null");
    let plain = "data: {\"error\":{\"message\":\"The server is overloaded\",\"code\":503}}\n\n";
    assert_eq!(streamed(plain).unwrap_err().kind, FailureKind::ProviderOverloaded);
    let named = "event: error\ndata: {\"message\":\"Rate limit exceeded\"}\n\n";
    assert_eq!(
        streamed(&format!("{head}{named}")).unwrap_err().kind,
        FailureKind::RateLimitExceeded
    );
    let with_choices = "data: {\"id\":\"x\",\"error\":{\"code\":502,\"message\":\"died\"},\"choices\":[{\"index\":0,\"delta\":{\"content\":\"\"},\"finish_reason\":\"error\"}]}\n\n";
    assert_eq!(
        streamed(with_choices).unwrap_err().kind,
        FailureKind::ProviderUnavailable
    );
    let reason_only = chunk("{}", "\"error\"");
    assert!(streamed(&format!("{head}{reason_only}data: [DONE]\n\n")).is_err());
}

#[test]
fn comments_pings_and_filter_notes_do_not_disturb() {
    let text = format!(
        ": OPENROUTER PROCESSING\n\ndata: {{\"choices\":[],\"prompt_filter_results\":[1]}}\n\n{}{}data: [DONE]\n\n",
        chunk(r#"{"reasoning_content":"hm"}"#, "null"),
        chunk(r#"{"content":"x"}"#, "\"model_length\"")
    );
    let events = streamed(&text).unwrap();
    let StreamEvent::Chunk(note) = &events[0] else {
        panic!("{events:?}")
    };
    assert!(!note.meaningful);
    assert_eq!(note.extra[0].0, "prompt_filter_results");
    let StreamEvent::Chunk(thought) = &events[1] else {
        panic!("{events:?}")
    };
    assert!(thought.meaningful);
    assert_eq!((thought.written.text, thought.written.thoughts), (0, 2));
    let StreamEvent::Chunk(last) = &events[2] else {
        panic!("{events:?}")
    };
    assert!(
        last.choices.get().contains(r#""finish_reason":"length""#),
        "{}",
        last.choices.get()
    );
    assert_eq!(end(&events).0, FinishReason::Length);
}

#[test]
fn the_stop_sequence_is_read_where_a_dialect_tells_it() {
    let ended = |told: &str| {
        format!(
            "data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"x\"}},\"finish_reason\":\"stop\"{told}}}]}}\n\n"
        )
    };
    // vLLM and SGLang tell a token's number there when it was the model's own end, and others what they like.
    let cases = [
        (r#","stop_reason":"END""#, Some("END")),
        (r#","matched_stop":"STOP""#, Some("STOP")),
        (r#","stop_reason":null,"matched_stop":"END""#, Some("END")),
        (r#","stop_reason":151645"#, None),
        (r#","stop_reason":"end_turn""#, None),
        (r#","stop_reason":null"#, None),
        ("", None),
    ];
    for (told, expected) in cases {
        let events = streamed(&ended(told)).unwrap();
        let StreamEvent::Chunk(chunk) = &events[0] else {
            panic!("{events:?}")
        };
        let whole = ended(told)
            .replace("data: ", "")
            .replace("\"delta\"", "\"message\"");
        let whole = read_completion(&wire(), whole.trim().as_bytes(), false, &stops()).unwrap();
        for choices in [&chunk.choices, &whole.choices] {
            let choices: Value = serde_json::from_str(choices.get()).unwrap();
            assert_eq!(
                choices[0]["stop_sequence"].as_str(),
                expected,
                "{told}: {choices}"
            );
            assert_eq!(choices[0]["finish_reason"], "stop");
        }
    }
}

#[test]
fn a_whole_answer_where_a_stream_was_asked_for_is_given_on() {
    let body = br#"{"id":"c","model":"m","system_fingerprint":"fp","choices":[{"index":0,"finish_reason":"tool_calls","message":{
        "role":"assistant","content":"well","tool_calls":[{"id":"t","type":"function","function":{"name":"f","arguments":"{}"}}]}}],
        "usage":{"prompt_tokens":9,"completion_tokens":4}}"#;
    let answer = read_completion(&wire(), body, false, &[]).unwrap();
    let events = whole::events(answer).unwrap();
    let [
        StreamEvent::Chunk(said),
        StreamEvent::Chunk(ended),
        StreamEvent::End { finish, usage, .. },
    ] = &events[..]
    else {
        panic!("{events:?}")
    };
    let choices = |chunk: &crate::completion::Chunk| {
        serde_json::from_str::<Value>(chunk.choices.get()).unwrap()[0].clone()
    };
    let first = choices(said);
    assert!(said.meaningful && !ended.meaningful && first["finish_reason"].is_null());
    assert_eq!(
        (
            &first["delta"]["content"],
            &first["delta"]["tool_calls"][0]["index"]
        ),
        (&"well".into(), &0.into())
    );
    assert_eq!(said.written.text, 4);
    assert_eq!(choices(ended)["finish_reason"], "tool_calls");
    assert_eq!((*finish, usage.unwrap().input), (FinishReason::ToolCalls, 9));
}

#[test]
fn an_event_over_several_lines_becomes_one_line() {
    let text = "data: {\"choices\":[\ndata: {\"index\":0,\"delta\":{\"content\":\"x\"},\"finish_reason\":\"stop\"}]}\n\n";
    let events = streamed(text).unwrap();
    let StreamEvent::Chunk(chunk) = &events[0] else {
        panic!("{events:?}")
    };
    assert!(!chunk.choices.get().contains('\n'));
}
