use super::*;
use crate::providers::openai::request::body;
use crate::providers::testing::call;

fn sent(json: &str, dialect: Dialect, fallback: bool) -> Value {
    serde_json::from_slice(&body(&call(json, "m-2", fallback), dialect, false)).unwrap()
}

const TOOL_LOOP: &str = r#"{"model":"auto","messages":[
    {"role":"developer","content":"d"},{"role":"user","content":"u"},
    {"role":"assistant","content":null,"reasoning_content":"hm","thinking_blocks":[{"signature":"s"}],
     "tool_calls":[{"id":"toolu_01A09q90qw90lq917835lq9toolu_01A09q90qw90lq917835lq9","type":"function",
                    "extra_content":{"google":{"thought_signature":"x"}},"function":{"name":"f","arguments":"{}"}}]},
    {"role":"tool","tool_call_id":"toolu_01A09q90qw90lq917835lq9toolu_01A09q90qw90lq917835lq9","content":"1"}]}"#;

#[test]
fn another_providers_conversation_loses_its_signatures_and_keeps_its_ids_paired() {
    let value = sent(TOOL_LOOP, Dialect::OpenAi, true);
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
    let value = sent(TOOL_LOOP, Dialect::Mistral, false);
    let id = value["messages"][2]["tool_calls"][0]["id"].as_str().unwrap();
    assert!(is_mistral_id(id), "{id}");
    assert_eq!(value["messages"][3]["tool_call_id"], id);
    assert_eq!(value["messages"][0]["role"], "system");
    assert_eq!(value["messages"][2].get("reasoning_content"), None);
}

#[test]
fn the_same_providers_conversation_is_untouched() {
    let out = body(&call(TOOL_LOOP, "m-2", false), Dialect::Other, false);
    let out = std::str::from_utf8(&out).unwrap();
    let messages = &TOOL_LOOP[TOOL_LOOP.find("\"messages\"").unwrap()..TOOL_LOOP.len() - 1];
    assert!(out.contains(messages), "{out}");
    let plain = r#"{"model":"auto","messages":[{"role":"user","content":"hi"}]}"#;
    assert!(rewritten(&call(plain, "m-2", true), Dialect::OpenAi).is_none());
}

#[test]
fn openai_gets_none_of_the_fields_that_it_never_wrote() {
    let value = sent(TOOL_LOOP, Dialect::OpenAi, false);
    assert_eq!(value["messages"][2].get("thinking_blocks"), None);
    assert!(
        value["messages"][2]["tool_calls"][0]["id"]
            .as_str()
            .unwrap()
            .starts_with("toolu_")
    );
}

#[test]
fn a_picture_in_a_tools_result_follows_it_in_a_turn_of_the_user() {
    let json = r#"{"model":"auto","messages":[{"role":"user","content":"u"},
        {"role":"assistant","content":null,"tool_calls":[
            {"id":"call_a","type":"function","function":{"name":"f","arguments":"{}"}},
            {"id":"call_b","type":"function","function":{"name":"f","arguments":"{}"}}]},
        {"role":"tool","tool_call_id":"call_a","content":[{"type":"image_url","image_url":{"url":"https://x/a.png"}}]},
        {"role":"tool","tool_call_id":"call_b","content":[{"type":"text","text":"b"},
            {"type":"image_url","image_url":{"url":"https://x/b.png"}}]},
        {"role":"user","content":"and?"}]}"#;
    let messages = sent(json, Dialect::OpenAi, false)["messages"].clone();
    let roles: Vec<_> = messages
        .as_array()
        .unwrap()
        .iter()
        .map(|message| &message["role"])
        .collect();
    assert_eq!(roles, ["user", "assistant", "tool", "tool", "user", "user"]);
    assert_eq!(messages[3]["content"], json!([{"type": "text", "text": "b"}]));
    let shown = messages[4]["content"].as_array().unwrap();
    assert_eq!(shown.len(), 2);
    assert_eq!(shown[1]["image_url"]["url"], "https://x/b.png");
    // Whoever is not known may take it as it is.
    assert!(rewritten(&call(json, "m-2", false), Dialect::Other).is_none());
}

#[test]
fn mistral_gets_the_keys_and_the_order_that_it_takes() {
    let json = r#"{"model":"auto","messages":[{"role":"user","name":"bob","content":"u"},
        {"role":"assistant","content":"","annotations":[],"audio":null,"tool_calls":[
            {"id":"abcdefghi","type":"function","function":{"name":"f","arguments":"{}"}}]},
        {"role":"tool","tool_call_id":"abcdefghi","name":"f","content":"1"},
        {"role":"user","content":"thanks"},
        {"role":"assistant","content":null,"refusal":"no"},
        {"role":"user","content":"go on"},
        {"role":"assistant","content":"Well,"}]}"#;
    let messages = sent(json, Dialect::Mistral, false)["messages"].clone();
    assert_eq!(messages[0], json!({"role": "user", "content": "u"}));
    assert_eq!(messages[1].get("annotations"), None);
    assert_eq!(messages[2]["name"], "f");
    assert_eq!(messages[3]["role"], "assistant");
    assert_eq!(messages[4]["content"], "thanks");
    assert_eq!(messages[5], json!({"role": "assistant", "content": "no"}));
    assert_eq!(
        messages[7],
        json!({"role": "assistant", "content": "Well,", "prefix": true})
    );
    assert_eq!(messages.as_array().unwrap().len(), 8);
}
