use super::*;
use crate::providers::testing::{call, wire};

const REQUEST: &str = include_str!("../../../tests/fixtures/providers/request.json");

fn sent(request: &str, model: &str, fallback: bool) -> Value {
    body(&wire(), &call(request, model, fallback), true).unwrap()
}

fn with(fields: &str, model: &str) -> Value {
    let json = format!(r#"{{"model":"auto","messages":[{{"role":"user","content":"hi"}}],{fields}}}"#);
    sent(&json, model, false)
}

fn refused(fields: &str) -> AttemptError {
    let json = format!(r#"{{"model":"auto",{fields}}}"#);
    body(&wire(), &call(&json, "claude-x", false), false).unwrap_err()
}

#[test]
fn the_whole_request() {
    insta::assert_json_snapshot!(sent(REQUEST, "claude-sonnet-4-5", false));
}

#[test]
fn thoughts_go_back_to_their_own_provider_only() {
    let thinking = REQUEST.replace(r#""seed": 5"#, r#""thinking": {"type": "adaptive"}"#);
    let own = sent(&thinking, "claude-opus-4-6", false);
    assert_eq!(own["messages"][1]["content"][0]["signature"], "EqQB");
    assert_eq!(own["thinking"]["type"], "adaptive");
    assert_eq!(own.get("temperature"), None, "thinking excludes sampling");
    let foreign = sent(&thinking, "claude-opus-4-6", true);
    assert_eq!(foreign["messages"][1]["content"][0]["type"], "text");
    // What another provider's model thought comes back from clients of `/v1/messages` without a signature.
    let unsigned = sent(&thinking.replace("EqQB", ""), "claude-opus-4-6", false);
    assert_eq!(unsigned["messages"][1]["content"][0]["type"], "text");
}

#[test]
fn effort_takes_the_form_of_the_models_version() {
    let effort = r#""reasoning_effort":"medium","temperature":0.5"#;
    let old = with(effort, "claude-haiku-4-5");
    assert_eq!(
        old["thinking"],
        json!({"type": "enabled", "budget_tokens": 2048}),
        "half of max_tokens"
    );
    let new = with(effort, "claude-opus-5");
    assert_eq!(new["thinking"], json!({"type": "adaptive"}));
    assert_eq!(new["output_config"]["effort"], "medium");
    let unable = with(effort, "claude-3-5-haiku");
    assert_eq!(unable.get("thinking"), None);
    assert_eq!(unable["temperature"], 0.5);
    assert_eq!(
        with(r#""reasoning_effort":"none""#, "claude-opus-5").get("thinking"),
        None
    );
    let small = with(
        r#""reasoning_effort":"high","max_tokens":1500"#,
        "claude-haiku-4-5",
    );
    assert_eq!(small.get("thinking"), None, "no room for the least budget");
    let forced = r#""reasoning_effort":"high","tool_choice":"required","tools":[{"type":"function","function":{"name":"f"}}]"#;
    assert_eq!(with(forced, "claude-haiku-4-5").get("thinking"), None);
}

#[test]
fn sampling_is_left_out_where_it_is_refused() {
    assert_eq!(
        with(r#""temperature":0.5"#, "claude-opus-4-7").get("temperature"),
        None
    );
    assert_eq!(with(r#""top_p":0.5"#, "claude-opus-4-6")["top_p"], 0.5);
}

#[test]
fn a_schema_is_enforced_or_asked_for() {
    let format = r#""response_format":{"type":"json_schema","json_schema":{"name":"n","schema":{"type":"object","properties":{"a":{"type":"integer","minimum":1}}}}}"#;
    let enforced = with(format, "claude-sonnet-4-5");
    assert_eq!(
        enforced["output_config"]["format"],
        json!({"type": "json_schema", "schema": {"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": false}})
    );
    assert_eq!(enforced.get("system"), None);
    let asked = with(format, "claude-3-haiku-20240307");
    assert!(
        asked["system"][0]["text"]
            .as_str()
            .unwrap()
            .contains(r#""minimum":1"#)
    );
    let object = with(r#""response_format":{"type":"json_object"}"#, "claude-sonnet-4-5");
    assert!(
        object["system"][0]["text"]
            .as_str()
            .unwrap()
            .contains("one JSON object")
    );
}

#[test]
fn instructions_alone_become_what_the_user_says() {
    let only = r#"{"model":"auto","messages":[{"role":"system","content":"Say hello."}]}"#;
    let body = sent(only, "claude-x", false);
    assert_eq!(
        body["messages"],
        json!([{"role": "user", "content": [{"type": "text", "text": "Say hello."}]}])
    );
    assert_eq!(body.get("system"), None);
}

#[test]
fn a_conversation_with_calls_declares_what_was_called() {
    let json = r#"{"model":"auto","messages":[{"role":"user","content":"x"},
        {"role":"assistant","tool_calls":[{"id":"a","type":"function","function":{"name":"f","arguments":"{bad"}}]},
        {"role":"tool","tool_call_id":"a","content":""},{"role":"assistant","content":"so \n"}]}"#;
    let body = sent(json, "claude-x", false);
    assert_eq!(body["tools"][0]["name"], "f");
    assert_eq!(body["tool_choice"]["type"], "none");
    assert_eq!(
        body["messages"][1]["content"][0]["input"],
        json!({"arguments": "{bad"})
    );
    assert_eq!(
        body["messages"][2]["content"][0],
        json!({"type": "tool_result", "tool_use_id": "a"})
    );
    assert_eq!(
        body["messages"][3]["content"][0]["text"], "so",
        "no white space at the end"
    );
}

#[test]
fn what_has_no_form_is_left_to_another_arm() {
    let user = |part: &str| format!(r#""messages":[{{"role":"user","content":[{part}]}}]"#);
    let cases = [
        user(r#"{"type":"input_audio","input_audio":{"data":"AA","format":"wav"}}"#),
        user(r#"{"type":"video_url","video_url":{"url":"https://e.org/v.mp4"}}"#),
        user(r#"{"type":"image_url","image_url":{"url":"data:image/tiff;base64,AA"}}"#),
        user(r#"{"type":"file","file":{"file_id":"file-abc"}}"#),
        user(r#"{"type":"hologram"}"#),
        user(r#"{"type":"text","text":"x"}"#) + r#","n":2"#,
        user(r#"{"type":"text","text":"x"}"#) + r#","tools":[{"type":"web_search"}]"#,
        user(r#"{"type":"text","text":"x"}"#) + r#","modalities":["text","audio"]"#,
    ];
    for case in cases {
        let error = refused(&case);
        assert_eq!(error.kind, crate::failure::FailureKind::InvalidRequest, "{case}");
        assert_eq!(error.retry, crate::failure::Retry::NextArm, "{case}");
    }
}
