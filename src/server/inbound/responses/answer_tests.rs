use super::*;

fn speaker() -> Speaker {
    let echo = json!({"instructions": null, "temperature": 1.0});
    Speaker::new(echo.as_object().unwrap().clone())
}

fn events(chunks: &[Value]) -> Vec<(String, Value)> {
    let (mut speaker, mut out) = (speaker(), Events::default());
    for chunk in chunks {
        speaker.chunk(chunk, &mut out);
    }
    let text = String::from_utf8(out.0.to_vec()).unwrap();
    let frames = text.split_terminator("\n\n").map(|frame| {
        let (name, data) = frame.split_once('\n').unwrap();
        let data: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        (name.strip_prefix("event: ").unwrap().to_owned(), data)
    });
    frames.collect()
}

fn delta(delta: Value) -> Value {
    json!({"id": "chatcmpl-7", "created": 5, "model": "p/m", "choices": [{"index": 0, "delta": delta, "finish_reason": null}]})
}

fn ending(finish: &str) -> [Value; 2] {
    let finish = json!([{"index": 0, "delta": {}, "finish_reason": finish}]);
    [
        json!({"id": "chatcmpl-7", "model": "p/m", "choices": finish}),
        json!({"id": "chatcmpl-7", "model": "p/m", "choices": [], "usage": {
            "prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14, "cost": 0.5,
            "prompt_tokens_details": {"cached_tokens": 6}, "completion_tokens_details": {"reasoning_tokens": 1}}}),
    ]
}

#[test]
fn a_stream_tells_every_item_from_its_beginning_to_its_end() {
    let mut chunks = vec![
        delta(json!({"role": "assistant", "content": ""})),
        delta(json!({"reasoning_content": "hm"})),
        delta(json!({"content": "Two "})),
        delta(json!({"content": "words"})),
        delta(json!({"tool_calls": [{"index": 0, "id": "a", "function": {"name": "f", "arguments": ""}}]})),
        delta(json!({"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]})),
    ];
    chunks.extend(ending("tool_calls"));
    let events = events(&chunks);
    let names: Vec<&str> = events.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.reasoning_summary_part.added",
            "response.reasoning_summary_text.delta",
            "response.reasoning_summary_text.done",
            "response.reasoning_summary_part.done",
            "response.output_item.done",
            "response.output_item.added",
            "response.content_part.added",
            "response.output_text.delta",
            "response.output_text.delta",
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.output_item.added",
            "response.function_call_arguments.delta",
            "response.function_call_arguments.done",
            "response.output_item.done",
            "response.completed",
        ]
    );
    for (index, (name, data)) in events.iter().enumerate() {
        assert_eq!(
            (&data["sequence_number"], &data["type"]),
            (&json!(index), &json!(name))
        );
    }
    let whole = &events.last().unwrap().1["response"];
    assert_eq!(
        (&whole["id"], &whole["status"]),
        (&json!("resp_7"), &json!("completed"))
    );
    let kinds: Vec<&Value> = whole["output"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| &item["type"])
        .collect();
    assert_eq!(kinds, ["reasoning", "message", "function_call"]);
    assert_eq!(whole["output"][1]["content"][0]["text"], "Two words");
    assert_eq!(whole["output"][2]["arguments"], "{}");
    assert_eq!(
        whole["usage"],
        json!({"input_tokens": 10, "input_tokens_details": {"cached_tokens": 6}, "output_tokens": 4,
               "output_tokens_details": {"reasoning_tokens": 1}, "total_tokens": 14, "cost": 0.5})
    );
    // An item keeps its id from its first event to its last.
    let ids: Vec<&Value> = events
        .iter()
        .filter(|(_, data)| data["output_index"] == 1)
        .map(|(_, data)| data.get("item_id").unwrap_or(&data["item"]["id"]))
        .collect();
    assert!(ids.len() == 7 && ids.iter().all(|id| *id == ids[0]), "{ids:?}");
}

#[test]
fn an_error_ends_the_stream_as_failed_and_nothing_follows() {
    let error = json!({"code": "timeout", "message": "late", "param": null});
    let mut chunks = vec![
        delta(json!({"content": "Hal"})),
        json!({"id": "chatcmpl-7", "error": error}),
    ];
    chunks.extend(ending("stop"));
    let events = events(&chunks);
    let names: Vec<&str> = events
        .iter()
        .map(|(name, _)| name.as_str())
        .rev()
        .take(2)
        .collect();
    assert_eq!(names, ["response.failed", "error"]);
    assert_eq!(events.last().unwrap().1["response"]["error"]["code"], "timeout");
}

#[test]
fn a_whole_answer_that_was_cut_is_incomplete() {
    let answer = json!({
        "id": "chatcmpl-7", "created": 5, "model": "p/m", "usage": {"prompt_tokens": 9},
        "choices": [{"index": 0, "finish_reason": "length", "message": {"role": "assistant", "content": "So",
            "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": "{}"}}]}}],
    });
    let whole = speaker().whole(&answer);
    assert_eq!(
        (&whole["status"], &whole["incomplete_details"]["reason"]),
        (&json!("incomplete"), &json!("max_output_tokens"))
    );
    assert_eq!(whole["output"][0]["content"][0]["text"], "So");
    assert_eq!(whole["output"][1]["call_id"], "a");
    assert_eq!(
        (&whole["created_at"], &whole["store"]),
        (&json!(5), &json!(false))
    );
}
