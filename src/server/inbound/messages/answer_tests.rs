use super::*;
use crate::server::inbound::Events;

/// The events of a stream of chunks, each as its name and data.
fn events(chunks: &[Value]) -> Vec<(String, Value)> {
    let (mut speaker, mut out) = (Speaker::default(), Events::default());
    for chunk in chunks {
        speaker.chunk(chunk, &mut out);
    }
    let text = String::from_utf8(out.0.to_vec()).unwrap();
    let frames = text.split_terminator("\n\n").map(|frame| {
        let (name, data) = frame.split_once('\n').unwrap();
        let data: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        let name = name.strip_prefix("event: ").unwrap().to_owned();
        assert_eq!(data["type"], name.as_str());
        (name, data)
    });
    frames.collect()
}

fn delta(delta: Value) -> Value {
    json!({"id": "chatcmpl-7", "model": "p/m", "choices": [{"index": 0, "delta": delta, "finish_reason": null}]})
}

fn ending(finish: &str) -> [Value; 2] {
    [
        json!({"id": "chatcmpl-7", "model": "p/m", "choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}),
        json!({"id": "chatcmpl-7", "model": "p/m", "choices": [], "usage": {
            "prompt_tokens": 10, "completion_tokens": 4, "cost": 0.5,
            "prompt_tokens_details": {"cached_tokens": 6, "cache_write_tokens": 1}}}),
    ]
}

#[test]
fn a_stream_of_thoughts_text_and_calls_has_one_block_for_each() {
    let mut chunks = vec![
        delta(json!({"role": "assistant", "content": ""})),
        delta(json!({"reasoning_content": "let me "})),
        delta(json!({"reasoning_content": "see"})),
        delta(
            json!({"thinking_blocks": [{"type": "thinking", "thinking": "let me see", "signature": "sig"}]}),
        ),
        delta(json!({"thinking_blocks": [{"type": "redacted_thinking", "data": "x"}]})),
        delta(json!({"content": "Two "})),
        delta(json!({"content": "calls."})),
        delta(
            json!({"tool_calls": [{"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": ""}}]}),
        ),
        delta(json!({"tool_calls": [{"index": 0, "function": {"arguments": "{\"x\":1}"}}]})),
        delta(
            json!({"tool_calls": [{"index": 1, "id": "b", "type": "function", "function": {"name": "g", "arguments": "{}"}}]}),
        ),
    ];
    chunks.extend(ending("tool_calls"));
    let events = events(&chunks);
    let names: Vec<&str> = events.iter().map(|(name, _)| name.as_str()).collect();
    let block = |deltas: usize| {
        let mut block = vec!["content_block_start"];
        block.extend(vec!["content_block_delta"; deltas]);
        block.push("content_block_stop");
        block
    };
    let expected = [
        vec!["message_start"],
        block(3),
        block(0),
        block(2),
        block(1),
        block(1),
        vec!["message_delta", "message_stop"],
    ];
    assert_eq!(names, expected.concat());
    let starts: Vec<&Value> = events
        .iter()
        .filter(|(name, _)| name == "content_block_start")
        .map(|(_, data)| data)
        .collect();
    for (index, start) in starts.iter().enumerate() {
        assert_eq!(start["index"], index);
    }
    let kinds: Vec<&Value> = starts
        .iter()
        .map(|start| &start["content_block"]["type"])
        .collect();
    assert_eq!(
        kinds,
        ["thinking", "redacted_thinking", "text", "tool_use", "tool_use"]
    );
    assert_eq!(events[0].1["message"]["id"], "msg_7");
    assert_eq!(
        events[4].1["delta"],
        json!({"type": "signature_delta", "signature": "sig"})
    );
    let (_, end) = &events[events.len() - 2];
    assert_eq!(end["delta"]["stop_reason"], "tool_use");
    assert_eq!(
        end["usage"],
        json!({"input_tokens": 3, "cache_read_input_tokens": 6, "cache_creation_input_tokens": 1,
               "output_tokens": 4, "cost": 0.5})
    );
}

#[test]
fn an_error_in_the_middle_is_an_error_event_and_no_end() {
    let error = json!({"code": "provider_unavailable", "message": "gone", "param": null, "metadata": {}});
    let events = events(&[
        delta(json!({"content": "Hal"})),
        json!({"error": error, "choices": []}),
    ]);
    let (name, data) = events.last().unwrap();
    assert_eq!(
        (name.as_str(), &data["error"]["type"]),
        ("error", &json!("api_error"))
    );
    assert!(events.iter().all(|(name, _)| name != "message_stop"));
}

#[test]
fn a_whole_answer_keeps_thoughts_text_calls_and_usage() {
    let answer = json!({
        "id": "chatcmpl-7", "model": "p/m", "usage": {"prompt_tokens": 9, "completion_tokens": 2},
        "choices": [{"index": 0, "finish_reason": "length", "message": {
            "role": "assistant", "content": "So", "reasoning_content": "hm",
            "thinking_blocks": [{"type": "thinking", "thinking": "hm", "signature": "s"}],
            "tool_calls": [{"id": "a", "type": "function", "function": {"name": "f", "arguments": "{bad"}}]}}],
    });
    let whole = Speaker::default().whole(&answer);
    assert_eq!(
        whole["content"],
        json!([
            {"type": "thinking", "thinking": "hm", "signature": "s"},
            {"type": "text", "text": "So"},
            {"type": "tool_use", "id": "a", "name": "f", "input": {"arguments": "{bad"}},
        ])
    );
    assert_eq!(
        (&whole["stop_reason"], &whole["role"]),
        (&json!("max_tokens"), &json!("assistant"))
    );
    assert_eq!(whole["usage"]["input_tokens"], 9);
}

#[test]
fn a_stop_sequence_is_told_with_its_reason_only() {
    let whole = |finish: &str| {
        let message = json!({"role": "assistant", "content": "Hi"});
        Speaker::default().whole(&json!({"id": "chatcmpl-7", "model": "p/m", "choices": [
            {"index": 0, "finish_reason": finish, "stop_sequence": "END", "message": message}]}))
    };
    assert_eq!(whole("stop")["stop_reason"], "stop_sequence");
    assert_eq!(whole("stop")["stop_sequence"], "END");
    assert_eq!(whole("length")["stop_reason"], "max_tokens");
    assert_eq!(whole("length")["stop_sequence"], Value::Null);

    // It may come before the reason, as from a whole answer out of the cache.
    let mut first = delta(json!({"content": "Hi"}));
    first["choices"][0]["stop_sequence"] = json!("END");
    let [end, usage] = ending("stop");
    let events = events(&[first, end, usage]);
    assert_eq!(
        events[events.len() - 2].1["delta"],
        json!({"stop_reason": "stop_sequence", "stop_sequence": "END"})
    );
}

#[test]
fn stop_reasons_and_error_kinds_have_anthropics_words() {
    for (ours, theirs) in [
        ("stop", "end_turn"),
        ("length", "max_tokens"),
        ("tool_calls", "tool_use"),
        ("content_filter", "refusal"),
    ] {
        assert_eq!(stop_reason(ours), theirs);
    }
    for kind in crate::failure::FailureKind::ALL {
        let told = error(&json!({"code": kind.as_str(), "message": "m"}));
        assert_eq!(
            (&told["type"], &told["error"]["message"]),
            (&json!("error"), &json!("m"))
        );
    }
    assert_eq!(
        error(&json!({"code": "budget_exceeded"}))["error"]["type"],
        "billing_error"
    );
}
