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

fn field(json: &str, dialect: Dialect, model: &str, key: &str) -> Option<Value> {
    let body = body(&call(json, model, false), dialect, false);
    serde_json::from_slice::<Value>(&body).unwrap().get(key).cloned()
}

#[test]
fn a_model_that_thinks_is_not_told_how_to_sample() {
    let json = format!(r#"{{"model":"auto",{HI},"temperature":0.2,"top_p":0.9,"stop":["x"]}}"#);
    for key in ["temperature", "top_p"] {
        assert_eq!(field(&json, Dialect::OpenAi, "gpt-6-sol", key), None, "{key}");
        assert!(field(&json, Dialect::OpenAi, "gpt-4.1", key).is_some(), "{key}");
        assert!(field(&json, Dialect::Other, "gpt-6-sol", key).is_some(), "{key}");
    }
    // Where the answer ends is no hint: a model that cannot do it must say so.
    assert!(field(&json, Dialect::OpenAi, "gpt-6-sol", "stop").is_some());
    let awake = json.replace("\"stop\"", "\"reasoning_effort\":\"none\",\"stop\"");
    assert_eq!(
        field(&awake, Dialect::OpenAi, "gpt-6-sol", "temperature"),
        Some(0.2.into())
    );
}

#[test]
fn tags_go_to_openai_only_with_an_answer_that_is_stored() {
    let tagged = format!(r#"{{"model":"auto",{HI},"metadata":{{"team":"a"}}}}"#);
    let stored = tagged.replace("\"metadata\"", "\"store\":true,\"metadata\"");
    assert_eq!(field(&tagged, Dialect::OpenAi, "m", "metadata"), None);
    assert!(field(&stored, Dialect::OpenAi, "m", "metadata").is_some());
    assert!(field(&tagged, Dialect::Other, "m", "metadata").is_some());
    assert_eq!(field(&stored, Dialect::Mistral, "m", "metadata"), None);
}

#[test]
fn mistral_is_not_asked_for_text_alone_but_told_of_what_it_cannot_do() {
    let text = format!(r#"{{"model":"auto",{HI},"modalities":[ "text" ],"verbosity":"low"}}"#);
    assert_eq!(field(&text, Dialect::Mistral, "m", "modalities"), None);
    assert_eq!(field(&text, Dialect::Mistral, "m", "verbosity"), None);
    let spoken = text.replace("[ \"text\" ]", "[\"text\",\"audio\"]");
    assert!(field(&spoken, Dialect::Mistral, "m", "modalities").is_some());
}
