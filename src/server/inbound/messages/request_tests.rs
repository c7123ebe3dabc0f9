use super::*;
use crate::request::{self, ChatRequest, Part, Role};

fn translated(body: Value) -> Value {
    serde_json::from_slice(&chat(body.to_string().as_bytes()).unwrap()).unwrap()
}

fn parsed(body: Value) -> ChatRequest {
    request::parse(chat(body.to_string().as_bytes()).unwrap()).unwrap()
}

fn refused(body: Value) -> ApiError {
    chat(body.to_string().as_bytes()).unwrap_err()
}

#[test]
fn a_tool_loop_with_thoughts_pictures_and_breakpoints_is_one_canonical_request() {
    let request = parsed(json!({
        "model": "auto", "max_tokens": 64, "stream": true, "stop_sequences": ["END"], "temperature": 0.5,
        "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
        "metadata": {"user_id": "u-7"}, "thinking": {"type": "enabled", "budget_tokens": 2048}, "top_k": 5,
        "tools": [{"name": "look", "description": "looks", "input_schema": {"type": "object"},
                   "cache_control": {"type": "ephemeral"}}],
        "tool_choice": {"type": "any", "disable_parallel_tool_use": true},
        "messages": [
            {"role": "user", "content": [
                {"type": "text", "text": "What is this?"},
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}]},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "hm", "signature": "sig"},
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"at": 1}}]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "toolu_1", "is_error": true,
                 "content": [{"type": "text", "text": "too dark"}]},
                {"type": "text", "text": "Try again."}]},
        ],
    }));
    let roles: Vec<Role> = request.messages.iter().map(|message| message.role).collect();
    assert_eq!(
        roles,
        [Role::System, Role::User, Role::Assistant, Role::Tool, Role::User]
    );
    assert_eq!(request.messages[0].cache_points.len(), 1);
    assert!(
        matches!(&request.messages[1].parts[1], Part::Image { url, .. } if url == "data:image/png;base64,AAAA")
    );
    let said = &request.messages[2];
    assert_eq!(said.parts, [Part::Text("I look.".into())]);
    assert_eq!(
        (
            said.tool_calls[0].id.as_str(),
            said.tool_calls[0].arguments.as_str()
        ),
        ("toolu_1", r#"{"at":1}"#)
    );
    assert_eq!(said.extra("thinking_blocks").unwrap()[0]["signature"], "sig");
    let result = &request.messages[3];
    assert_eq!(result.tool_call_id.as_deref(), Some("toolu_1"));
    assert_eq!(result.extra("is_error"), Some(&json!(true)));
    assert_eq!(
        (request.max_output_tokens, request.user.as_deref()),
        (Some(64), Some("u-7"))
    );
    assert_eq!(request.sampling.stop, ["END"]);
    assert_eq!(
        (
            request.tools[0].name.as_str(),
            request.tools[0].cache_control.is_some()
        ),
        ("look", true)
    );
    assert_eq!(
        (request.tool_choice, request.parallel_tool_calls),
        (Some(json!("required")), Some(false))
    );
    assert!(request.stream && request.include_usage);
    let own = request.extra.iter().find(|(key, _)| key == "anthropic").unwrap();
    let own: Value = serde_json::from_str(own.1.get()).unwrap();
    assert_eq!(
        own,
        json!({"thinking": {"type": "enabled", "budget_tokens": 2048}, "top_k": 5})
    );
}

#[test]
fn plain_texts_stay_plain_and_the_routers_fields_pass() {
    let chat = translated(json!({
        "model": "auto", "max_tokens": 5, "routing": {"hedge": false}, "models": ["a/b"],
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
        "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": {"type": "object"}}},
    }));
    assert_eq!(chat["messages"], json!([{"role": "user", "content": "Hi"}]));
    assert_eq!(
        (&chat["routing"]["hedge"], &chat["models"][0]),
        (&json!(false), &json!("a/b"))
    );
    assert_eq!(chat["reasoning_effort"], "low");
    assert_eq!(chat["response_format"]["json_schema"]["schema"]["type"], "object");
    assert_eq!(chat.get("anthropic"), None);
}

#[test]
fn a_limit_that_only_says_as_much_as_you_like_excludes_nobody() {
    let with = |most: u64| {
        translated(
            json!({"model": "auto", "max_tokens": most, "messages": [{"role": "user", "content": "x"}]}),
        )
    };
    assert_eq!(with(8192)["max_tokens"], 8192);
    let large = with(32_000);
    assert_eq!(
        (large.get("max_tokens"), &large["anthropic"]["max_tokens"]),
        (None, &json!(32_000))
    );
    assert_eq!(with(1_000_000_000).get("max_tokens"), None);
}

#[test]
fn a_limit_that_is_none_is_refused_as_in_chat() {
    for most in [
        json!(1_000_000_001),
        json!(1_000_000_000_000_u64),
        json!(1e30),
        json!(0),
        json!(-1),
    ] {
        let body =
            json!({"model": "auto", "max_tokens": most, "messages": [{"role": "user", "content": "x"}]});
        let refused = request::parse(chat(body.to_string().as_bytes()).unwrap()).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "`max_tokens` must be a whole number from 1 to 1000000000",
            "{most}"
        );
    }
}

#[test]
fn what_cannot_be_said_is_refused_and_named() {
    let with = |key: &str, value: Value| {
        let mut body =
            json!({"model": "auto", "max_tokens": 5, "messages": [{"role": "user", "content": "x"}]});
        body[key] = value;
        body
    };
    let content = |block: Value| with("messages", json!([{"role": "user", "content": [block]}]));
    let cases = [
        (json!({"model": "auto"}), "messages"),
        (with("mcp_servers", json!([{}])), "mcp_servers"),
        (with("container", json!("c")), "container"),
        (with("frequency", json!(1)), "frequency"),
        (
            with(
                "tools",
                json!([{"type": "web_search_20250305", "name": "web_search"}]),
            ),
            "tools[0].type",
        ),
        (
            with("tools", json!([{"description": "no name"}])),
            "tools[0].name",
        ),
        (with("tool_choice", json!({"type": "some"})), "tool_choice.type"),
        (
            with("messages", json!([{"role": "robot", "content": "x"}])),
            "messages[0].role",
        ),
        (with("messages", json!([{"role": "user"}])), "messages[0].content"),
        (
            content(json!({"type": "server_tool_use"})),
            "messages[0].content[0].type",
        ),
        (content(json!({"text": "x"})), "messages[0].content[0].type"),
        (
            content(json!({"type": "image", "source": {"type": "file"}})),
            "messages[0].content[0].source.type",
        ),
        (
            content(json!({"type": "tool_result"})),
            "messages[0].content[0].tool_use_id",
        ),
    ];
    for (body, param) in cases {
        let error = refused(body.clone());
        assert_eq!(error.param.as_deref(), Some(param), "{body}: {}", error.message);
    }
    assert!(chat(b"[]").is_err() && chat(b"{").is_err());
}
