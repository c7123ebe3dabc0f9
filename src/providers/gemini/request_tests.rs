use super::*;
use crate::providers::testing::{call, wire};

const REQUEST: &str = include_str!("../../../tests/fixtures/providers/request.json");

fn sent(request: &str, model: &str, fallback: bool) -> Value {
    body(&wire(), &call(request, model, fallback)).unwrap()
}

fn with(fields: &str, model: &str) -> Value {
    let json = format!(r#"{{"model":"auto","messages":[{{"role":"user","content":"hi"}}],{fields}}}"#);
    sent(&json, model, false)
}

#[test]
fn the_whole_request() {
    insta::assert_json_snapshot!(sent(REQUEST, "gemini-3.5-flash", false));
}

#[test]
fn another_models_calls_carry_the_documented_stand_in_once_a_turn() {
    let turn = |body: Value| body["contents"][1]["parts"].clone();
    let own = turn(sent(REQUEST, "gemini-3.5-flash", false));
    assert_eq!(own[1]["thoughtSignature"], "c2lnbmF0dXJl");
    assert_eq!(own[2].get("thoughtSignature"), None);
    let foreign = turn(sent(REQUEST, "gemini-3.5-flash", true));
    assert_eq!(foreign[1]["thoughtSignature"], "skip_thought_signature_validator");
    assert_eq!(foreign[2].get("thoughtSignature"), None);
    let older = turn(sent(REQUEST, "gemini-2.5-flash", true));
    assert_eq!(older[1].get("thoughtSignature"), None);
}

#[test]
fn effort_takes_the_form_of_the_models_version() {
    let effort = r#""reasoning_effort":"low""#;
    let config = |model: &str| with(effort, model)["generationConfig"]["thinkingConfig"].clone();
    assert_eq!(
        config("gemini-2.5-flash"),
        json!({"thinkingBudget": 1024, "includeThoughts": true})
    );
    assert_eq!(
        config("gemini-3-pro-preview"),
        json!({"thinkingLevel": "low", "includeThoughts": true})
    );
    assert_eq!(config("gemini-2.0-flash"), Value::Null);
    let none = with(r#""reasoning_effort":"none""#, "gemini-2.5-flash");
    assert_eq!(
        none["generationConfig"]["thinkingConfig"],
        json!({"thinkingBudget": 0})
    );
}

#[test]
fn formats_choices_and_media() {
    let schema = with(
        r#""response_format":{"type":"json_schema","json_schema":{"name":"n","schema":{"type":"object","additionalProperties":false,"properties":{"a":{"type":"string"}}}}}"#,
        "gemini-x",
    );
    assert_eq!(
        schema["generationConfig"],
        json!({"responseMimeType": "application/json", "responseSchema": {"type": "object", "properties": {"a": {"type": "string"}}}})
    );
    let tools = r#""tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object","properties":{}}}}]"#;
    let required = with(&format!(r#"{tools},"tool_choice":"required""#), "gemini-x");
    assert_eq!(required["toolConfig"]["functionCallingConfig"]["mode"], "ANY");
    assert_eq!(
        required["tools"][0]["functionDeclarations"],
        json!([{"name": "f"}])
    );
    let media = r#"{"model":"auto","messages":[{"role":"user","content":[
        {"type":"input_audio","input_audio":{"data":"UklG","format":"mp3"}},
        {"type":"video_url","video_url":{"url":"https://e.org/clip.webm?x=1"}},
        {"type":"image_url","image_url":{"url":"https://e.org/a.jpg"}}]}]}"#;
    insta::assert_json_snapshot!(sent(media, "gemini-x", false)["contents"][0]["parts"], @r#"
    [
      {
        "inlineData": {
          "mimeType": "audio/mpeg",
          "data": "UklG"
        }
      },
      {
        "fileData": {
          "mimeType": "video/webm",
          "fileUri": "https://e.org/clip.webm?x=1"
        }
      },
      {
        "fileData": {
          "mimeType": "image/jpeg",
          "fileUri": "https://e.org/a.jpg"
        }
      }
    ]
    "#);
}

#[test]
fn what_has_no_form_is_left_to_another_arm() {
    let hi = r#""messages":[{"role":"user","content":"hi"}]"#;
    let cases = [
        format!(r#"{{"model":"auto",{hi},"n":2}}"#),
        format!(r#"{{"model":"auto",{hi},"tools":[{{"type":"web_search"}}]}}"#),
        r#"{"model":"auto","messages":[{"role":"user","content":[{"type":"file","file":{"file_id":"file-a"}}]}]}"#.to_owned(),
    ];
    for case in cases {
        let error = body(&wire(), &call(&case, "gemini-x", false)).unwrap_err();
        assert_eq!(error.retry, crate::failure::Retry::NextArm, "{case}");
    }
}

const TOOLS: &str = r#""tools":[{"type":"function","function":{"name":"f"}}]"#;

#[test]
fn json_beside_tools_is_asked_for_in_words_where_the_model_refuses_both() {
    let format =
        r#""response_format":{"type":"json_schema","json_schema":{"name":"n","schema":{"type":"object"}}}"#;
    let both = format!("{TOOLS},{format}");
    let older = with(&both, "gemini-2.5-flash");
    assert_eq!(older.get("generationConfig"), None);
    let words = older["systemInstruction"]["parts"][0]["text"].as_str().unwrap();
    assert!(words.contains(r#"{"type":"object"}"#), "{words}");
    let newer = with(&both, "gemini-3.5-flash");
    assert_eq!(newer["generationConfig"]["responseMimeType"], "application/json");
    assert_eq!(newer.get("systemInstruction"), None);
    let alone = with(format, "gemini-2.5-flash");
    assert_eq!(alone["generationConfig"]["responseMimeType"], "application/json");
}

#[test]
fn calls_and_their_results_keep_their_name_where_the_model_gives_names() {
    let loop_of_two = r#"{"model":"auto","messages":[{"role":"user","content":"u"},
        {"role":"assistant","content":null,"tool_calls":[
            {"id":"call_a","type":"function","function":{"name":"f","arguments":"{}"}},
            {"id":"call_b","type":"function","function":{"name":"f","arguments":"{}"}}]},
        {"role":"tool","tool_call_id":"call_b","content":"b"},{"role":"tool","tool_call_id":"call_a","content":"a"}]}"#;
    let contents = sent(loop_of_two, "gemini-3.5-flash", false)["contents"].clone();
    assert_eq!(contents[1]["parts"][1]["functionCall"]["id"], "call_b");
    assert_eq!(
        contents[2]["parts"][0]["functionResponse"],
        json!({"name": "f", "response": {"result": "b"}, "id": "call_b"})
    );
    let older = sent(loop_of_two, "gemini-2.5-flash", false)["contents"].clone();
    assert_eq!(older[1]["parts"][0]["functionCall"].get("id"), None);
}
