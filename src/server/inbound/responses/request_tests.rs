use super::*;
use crate::request::{self, Part, ResponseFormat, Role};

fn refused(body: &Value) -> ApiError {
    read(body.to_string().as_bytes())
        .err()
        .unwrap_or_else(|| panic!("{body}"))
}

#[test]
fn items_become_a_conversation() {
    let body = json!({
        "model": "auto", "instructions": "Be brief.", "max_output_tokens": 99, "stream": true, "store": false,
        "include": ["reasoning.encrypted_content"], "reasoning": {"effort": "low", "summary": "auto"},
        "text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}, "verbosity": "low"},
        "tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": true}],
        "tool_choice": {"type": "function", "name": "f"},
        "input": [
            {"role": "user", "content": [
                {"type": "input_text", "text": "What is this?"},
                {"type": "input_image", "image_url": "data:image/png;base64,AAAA", "detail": "low"}]},
            {"type": "reasoning", "id": "rs_1", "summary": []},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I look."}]},
            {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
            {"type": "function_call", "call_id": "c2", "name": "f", "arguments": "{\"x\":1}"},
            {"type": "function_call_output", "call_id": "c1", "output": "dark"},
            {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "light"}]},
        ],
    });
    let asked = read(body.to_string().as_bytes()).unwrap();
    let request = request::parse(asked.chat).unwrap();
    let roles: Vec<Role> = request.messages.iter().map(|message| message.role).collect();
    assert_eq!(
        roles,
        [
            Role::Developer,
            Role::User,
            Role::Assistant,
            Role::Tool,
            Role::Tool
        ]
    );
    assert!(
        matches!(&request.messages[1].parts[1], Part::Image { detail: Some(detail), .. } if detail == "low")
    );
    let calls: Vec<&str> = request.messages[2]
        .tool_calls
        .iter()
        .map(|call| call.id.as_str())
        .collect();
    assert_eq!(calls, ["c1", "c2"]);
    assert_eq!(request.messages[4].parts, [Part::Text("light".into())]);
    assert_eq!(
        (request.max_output_tokens, request.reasoning_effort.as_deref()),
        (Some(99), Some("low"))
    );
    assert!(matches!(&request.response_format, ResponseFormat::JsonSchema { name, .. } if name == "n"));
    assert_eq!(
        (request.tools[0].name.as_str(), request.tools[0].strict),
        ("f", Some(true))
    );
    assert_eq!(
        request.tool_choice,
        Some(json!({"type": "function", "function": {"name": "f"}}))
    );
    assert!(request.stream && request.include_usage);
    assert_eq!(
        (&asked.echo["instructions"], &asked.echo["temperature"]),
        (&json!("Be brief."), &json!(1.0))
    );
}

#[test]
fn a_text_is_enough() {
    let asked = read(br#"{"model":"auto","input":"Hi"}"#).unwrap();
    let chat: Value = serde_json::from_slice(&asked.chat).unwrap();
    assert_eq!(chat["messages"], json!([{"role": "user", "content": "Hi"}]));
}

#[test]
fn what_is_not_kept_is_refused_in_one_clear_sentence() {
    for (key, value) in [
        ("previous_response_id", json!("resp_1")),
        ("conversation", json!("conv_1")),
        ("store", json!(true)),
        ("background", json!(true)),
        ("prompt", json!({"id": "p"})),
    ] {
        let error = refused(&json!({"model": "auto", "input": "x", key: value}));
        assert_eq!(error.param.as_deref(), Some(key));
        assert!(
            error.message.contains("send the whole conversation"),
            "{}",
            error.message
        );
    }
    for (key, value, param) in [
        ("truncation", json!("auto"), "truncation"),
        ("include", json!(["file_search_call.results"]), "include"),
        ("tools", json!([{"type": "web_search"}]), "tools[0].type"),
        ("tool_choice", json!({"type": "mcp"}), "tool_choice"),
        ("max_tool_calls", json!(3), "max_tool_calls"),
        (
            "input",
            json!([{"type": "item_reference", "id": "i"}]),
            "input[0].type",
        ),
        (
            "input",
            json!([{"role": "user", "content": [{"type": "hologram"}]}]),
            "input[0].content[0].type",
        ),
        ("input", json!(7), "input"),
    ] {
        let mut body = json!({"model": "auto", "input": "x"});
        body[key] = value;
        assert_eq!(refused(&body).param.as_deref(), Some(param), "{body}");
    }
}
