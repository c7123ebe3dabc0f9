use super::*;
use crate::providers::testing::call;

fn sent(json: &str, dialect: Dialect, stream: bool, fallback: bool) -> String {
    String::from_utf8(body(&call(json, "m-2", fallback), dialect, stream).to_vec()).unwrap()
}

const HI: &str = r#""messages":[{"role":"user","content":"hi"}]"#;

#[test]
fn replaces_the_model_leaves_our_extras_out_and_the_rest_untouched() {
    let json = format!(
        r#"{{"temperature": 1.0,"model":"auto",{HI},"models":["a/b"],"fallbacks":[],"provider":{{}},"routing":{{}},"session_id":"s","weird\u0041":{{"x":[1, 2]}},"user":"u","stream":false}}"#
    );
    assert_eq!(
        sent(&json, Dialect::Other, false, false),
        format!(r#"{{"model":"m-2","temperature":1.0,{HI},"weirdA":{{"x":[1, 2]}},"user":"u"}}"#)
    );
}

#[test]
fn a_stream_always_asks_for_usage() {
    let json =
        format!(r#"{{"model":"auto",{HI},"stream":true,"stream_options":{{"include_obfuscation":false}}}}"#);
    assert_eq!(
        sent(&json, Dialect::Other, true, false),
        format!(
            r#"{{"model":"m-2",{HI},"stream":true,"stream_options":{{"include_obfuscation":false,"include_usage":true}}}}"#
        )
    );
}

#[test]
fn each_dialect_gets_the_names_it_knows() {
    let older = format!(r#"{{"model":"auto",{HI},"max_tokens":9,"seed":3,"user":"u"}}"#);
    let newer = format!(r#"{{"model":"auto",{HI},"max_completion_tokens":9}}"#);
    assert!(sent(&older, Dialect::OpenAi, false, false).contains(r#""max_completion_tokens":9"#));
    assert!(sent(&older, Dialect::Other, false, false).contains(r#""max_tokens":9"#));
    assert!(sent(&newer, Dialect::Other, false, false).contains(r#""max_completion_tokens":9"#));
    assert!(sent(&newer, Dialect::Older, false, false).contains(r#""max_tokens":9"#));
    let mistral = sent(&older, Dialect::Mistral, true, false);
    assert!(mistral.contains(r#""random_seed":3"#), "{mistral}");
    assert!(
        !mistral.contains("stream_options") && !mistral.contains("user\":\"u"),
        "{mistral}"
    );
    let both = format!(r#"{{"model":"auto",{HI},"max_tokens":1,"max_completion_tokens":9}}"#);
    assert_eq!(
        sent(&both, Dialect::OpenAi, false, false)
            .matches("max_completion_tokens")
            .count(),
        1
    );
    assert!(sent(&both, Dialect::Mistral, false, false).contains(r#""max_tokens":9"#));
}

#[test]
fn dialects_are_known_by_their_address() {
    let cases = [
        ("https://api.openai.com/v1", Dialect::OpenAi),
        ("https://x.openai.azure.com/openai/v1", Dialect::OpenAi),
        ("https://api.mistral.ai/v1", Dialect::Mistral),
        ("https://api.deepseek.com", Dialect::Older),
        (
            "https://dashscope-intl.aliyuncs.com/compatible-mode/v1",
            Dialect::Older,
        ),
        ("http://127.0.0.1:8000/v1", Dialect::Other),
        ("https://openrouter.ai/api/v1", Dialect::Other),
    ];
    for (url, dialect) in cases {
        assert_eq!(Dialect::of(&Url::parse(url).unwrap()), dialect, "{url}");
    }
}

const TOOL_LOOP: &str = r#"{"model":"auto","messages":[
    {"role":"developer","content":"d"},{"role":"user","content":"u"},
    {"role":"assistant","content":null,"reasoning_content":"hm","thinking_blocks":[{"signature":"s"}],
     "tool_calls":[{"id":"toolu_01A09q90qw90lq917835lq9toolu_01A09q90qw90lq917835lq9","type":"function",
                    "extra_content":{"google":{"thought_signature":"x"}},"function":{"name":"f","arguments":"{}"}}]},
    {"role":"tool","tool_call_id":"toolu_01A09q90qw90lq917835lq9toolu_01A09q90qw90lq917835lq9","content":"1"}]}"#;

#[test]
fn another_providers_conversation_loses_its_signatures_and_keeps_its_ids_paired() {
    let value: Value = serde_json::from_str(&sent(TOOL_LOOP, Dialect::OpenAi, false, true)).unwrap();
    let assistant = &value["messages"][2];
    assert_eq!(assistant.get("reasoning_content"), None);
    assert_eq!(assistant.get("thinking_blocks"), None);
    assert_eq!(assistant["tool_calls"][0].get("extra_content"), None);
    let id = assistant["tool_calls"][0]["id"].as_str().unwrap();
    assert!(id.starts_with("call_") && id.len() <= 40, "{id}");
    assert_eq!(value["messages"][3]["tool_call_id"], id);
    assert_eq!(value["messages"][0]["role"], "developer");
}

#[test]
fn mistral_gets_ids_of_nine_letters_and_no_developer() {
    let value: Value = serde_json::from_str(&sent(TOOL_LOOP, Dialect::Mistral, false, false)).unwrap();
    let id = value["messages"][2]["tool_calls"][0]["id"].as_str().unwrap();
    assert!(is_mistral_id(id), "{id}");
    assert_eq!(value["messages"][3]["tool_call_id"], id);
    assert_eq!(value["messages"][0]["role"], "system");
    assert_eq!(value["messages"][2].get("reasoning_content"), None);
}

#[test]
fn the_same_providers_conversation_is_untouched() {
    let out = sent(TOOL_LOOP, Dialect::Other, false, false);
    let messages = &TOOL_LOOP[TOOL_LOOP.find("\"messages\"").unwrap()..TOOL_LOOP.len() - 1];
    assert!(out.contains(messages), "{out}");
    let plain = format!(r#"{{"model":"auto",{HI}}}"#);
    assert!(sent(&plain, Dialect::OpenAi, false, true).contains(HI));
}

#[test]
fn openai_gets_none_of_the_fields_that_it_never_wrote() {
    let value: Value = serde_json::from_str(&sent(TOOL_LOOP, Dialect::OpenAi, false, false)).unwrap();
    assert_eq!(value["messages"][2].get("thinking_blocks"), None);
    assert!(
        value["messages"][2]["tool_calls"][0]["id"]
            .as_str()
            .unwrap()
            .starts_with("toolu_")
    );
}
