use super::*;
use crate::request::{Part, Role};
use crate::units::Usd;

fn parsed(json: &str) -> Result<ChatRequest, RequestError> {
    parse(Bytes::copy_from_slice(json.as_bytes()))
}

/// A request of one user message with `fields` beside it.
fn with(fields: &str) -> Result<ChatRequest, RequestError> {
    parsed(&format!(
        r#"{{"model":"auto","messages":[{{"role":"user","content":"hi"}}],{fields}}}"#
    ))
}

fn refusal(json: &str) -> String {
    parsed(json).unwrap_err().to_string()
}

#[test]
fn reads_a_conversation_with_tools_and_every_kind_of_content() {
    let request = parsed(
        r#"{"model":"auto","messages":[
            {"role":"developer","content":"be brief"},
            {"role":"user","content":[
                {"type":"text","text":"look","cache_control":{"type":"ephemeral"}},
                {"type":"image_url","image_url":{"url":"data:image/png;base64,AA==","detail":"low"}},
                {"type":"input_audio","input_audio":{"data":"UklG","format":"wav"}},
                {"type":"file","file":{"file_data":"data:application/pdf;base64,JVBE","filename":"a.pdf"}},
                {"type":"video_url","video_url":{"url":"https://example.org/v.mp4"}},
                {"type":"hologram","depth":3}]},
            {"role":"assistant","content":null,"reasoning_content":"hm","tool_calls":[
                {"id":"call_1","type":"function","function":{"name":"f","arguments":"{\"a\":1}"},"extra_content":{"x":1}}]},
            {"role":"tool","tool_call_id":"call_1","content":"42"}],
          "tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object"},"strict":true}},
                   {"type":"web_search"}],
          "max_tokens":5,"max_completion_tokens":7,"stop":"END","stream":true,"stream_options":{"include_usage":true}}"#,
    )
    .unwrap();
    assert_eq!(request.messages[0].role, Role::Developer);
    let user = &request.messages[1];
    assert_eq!(user.cache_points.len(), 1);
    assert_eq!(user.cache_points[0].part, 0);
    assert_eq!(user.parts.len(), 6);
    assert_eq!(
        user.parts[1],
        Part::Image {
            url: "data:image/png;base64,AA==".into(),
            detail: Some("low".into())
        }
    );
    assert!(matches!(&user.parts[5], Part::Other(value) if value["depth"] == 3));
    let call = &request.messages[2].tool_calls[0];
    assert_eq!((call.name.as_str(), call.arguments.as_str()), ("f", r#"{"a":1}"#));
    assert_eq!(call.extra[0].0, "extra_content");
    assert_eq!(request.messages[2].extra("reasoning_content").unwrap(), "hm");
    assert_eq!(request.messages[3].tool_call_id.as_deref(), Some("call_1"));
    assert_eq!(request.tools[0].strict, Some(true));
    assert_eq!(request.other_tools.len(), 1);
    assert_eq!(request.max_output_tokens, Some(7), "the newer name wins");
    assert_eq!(request.sampling.stop, ["END"]);
    assert!(request.stream && request.include_usage);
}

#[test]
fn keeps_unknown_fields_in_order_and_the_body_untouched() {
    let request = with(r#""top_k": 40 ,"zeta":{"b":1.50,"a":[]},"user":null"#).unwrap();
    let extra: Vec<_> = request
        .extra
        .iter()
        .map(|(key, raw)| (key.as_str(), raw.get()))
        .collect();
    assert_eq!(extra, [("top_k", "40"), ("zeta", r#"{"b":1.50,"a":[]}"#)]);
    assert!(request.body.starts_with(br#"{"model":"auto""#));
    assert_eq!(request.user, None);
}

#[test]
fn reads_our_extras() {
    let request = with(
        r#""models":["a/b","c/d"],"session_id":"s","metadata":{"team":"x","n":3},
           "provider":{"only":["a"],"allow_fallbacks":false,"max_price":{"prompt":"0.5","completion":2},"sort":"price"},
           "routing":{"quality_floor":0.8,"max_cost_usd":0.01,"ttft_budget_ms":1500,"hedge":true,"explore":null,
                      "deadline_ms":30000,"episode_id":"e","category":"code","quality_margin":0}"#,
    )
    .unwrap();
    assert_eq!(request.fallbacks, [ArmId::new("a/b"), ArmId::new("c/d")]);
    assert_eq!(request.provider.only, ["a"]);
    assert_eq!(request.provider.max_price.as_ref().unwrap().prompt, Some(0.5));
    assert_eq!(request.routing.max_cost_usd, Some(Usd::from_nanos(10_000_000)));
    assert_eq!(request.routing.deadline().unwrap().as_secs(), 30);
    assert_eq!(request.routing.explore, None);
    assert_eq!(
        request.metadata,
        [("team".into(), "x".into()), ("n".into(), "3".into())]
    );
}

#[test]
fn an_error_names_the_field_and_what_it_must_be() {
    let cases = [
        (r#"{"messages":[]}"#, "`model` is missing"),
        (r#"{"model":"a"}"#, "`messages` is missing"),
        (
            r#"{"model":"a","messages":[]}"#,
            "`messages` must be an array of at least one message",
        ),
        (
            r#"{"model":7,"messages":[]}"#,
            "`model` must be a string, but is a number",
        ),
        (r#"[1]"#, "the body must be a JSON object, but is an array"),
        (
            r#"{"model":"a","messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":5}}]}]}"#,
            "`messages[0].content[0].image_url.url` must be a string, but is a number",
        ),
        (
            r#"{"model":"a","messages":[{"role":"wizard","content":"x"}]}"#,
            "`messages[0].role` must be one of system, developer, user, assistant, tool",
        ),
        (
            r#"{"model":"a","messages":[{"role":"user","content":5}]}"#,
            "`messages[0].content` must be a string or an array of parts, but is a number",
        ),
        (
            r#"{"model":"a","messages":[{"role":"tool","content":"x"}]}"#,
            "`messages[0].tool_call_id` is missing",
        ),
        (
            r#"{"model":"a","messages":[{"role":"user","content":"\ud800"}]}"#,
            "`messages[0].content` must be a string of valid Unicode",
        ),
    ];
    for (json, message) in cases {
        assert_eq!(refusal(json), message, "{json}");
    }
    let fields = [
        (r#""stream":"yes""#, "`stream` must be a boolean, but is a string"),
        (
            r#""temperature":"NaN""#,
            "`temperature` must be a number from 0 to 2, but is a string",
        ),
        (
            r#""tools":[{"type":"function"}]"#,
            "`tools[0].function` is missing",
        ),
        (
            r#""routing":{"quality_floor":1.5}"#,
            "`routing.quality_floor` must be a number from 0 to 1",
        ),
        (
            r#""routing":{"category":""}"#,
            "`routing.category` must be a name of 1 to 64 bytes",
        ),
        (
            r#""routing":{"category":"two\nlines"}"#,
            "`routing.category` must be a name of 1 to 64 bytes",
        ),
        (
            r#""routing":{"deadline_ms":-1}"#,
            "`routing.deadline_ms` must be a whole number of milliseconds, 1 or more",
        ),
        (
            r#""response_format":{"type":"xml"}"#,
            "`response_format.type` must be one of text, json_object, json_schema",
        ),
        (
            r#""models":["a",2]"#,
            "`models[1]` must be a string, but is a number",
        ),
    ];
    for (field, message) in fields {
        assert_eq!(with(field).unwrap_err().to_string(), message, "{field}");
    }
}

#[test]
fn a_number_out_of_its_range_is_refused_with_the_field_and_the_range() {
    let ranges = [
        (
            "max_tokens",
            "a whole number from 1 to 1000000000",
            &["0", "-1", "1.5", "1000000000000", "1e400"][..],
        ),
        (
            "max_completion_tokens",
            "a whole number from 1 to 1000000000",
            &["0", "-7", "1e12", "4294967295"],
        ),
        (
            "n",
            "a whole number from 1 to 128",
            &["0", "-1", "129", "2.5", "1e9"],
        ),
        ("temperature", "a number from 0 to 2", &["-0.1", "2.1", "1e999"]),
        ("top_p", "a number from 0 to 1", &["-1", "1.01", "-1e999"]),
        ("presence_penalty", "a number from -2 to 2", &["-2.5", "3"]),
        ("frequency_penalty", "a number from -2 to 2", &["-2.5", "1e400"]),
        ("seed", "a whole number of 64 bits", &["0.5", "1e30"]),
    ];
    for (field, range, values) in ranges {
        for value in values {
            let error = with(&format!(r#""{field}":{value}"#)).unwrap_err();
            assert_eq!(error.to_string(), format!("`{field}` must be {range}"), "{value}");
            assert_eq!(error.path(), Some(field));
        }
        let error = with(&format!(r#""{field}":"5""#)).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("`{field}` must be {range}, but is a string")
        );
    }
    for ends in [
        r#""max_tokens":1,"n":1,"temperature":0,"top_p":0,"presence_penalty":-2,"frequency_penalty":-2"#,
        r#""max_tokens":1000000000,"n":128,"temperature":2,"top_p":1.0,"presence_penalty":2,"frequency_penalty":2"#,
    ] {
        assert!(with(ends).is_ok(), "{ends}");
    }
}

#[test]
fn an_unknown_key_inside_routing_is_refused_with_the_known_ones() {
    let error = with(r#""routing":{"quality_flor":0.8}"#).unwrap_err();
    assert_eq!(error.path(), Some("routing.quality_flor"));
    assert!(
        error.to_string().contains("quality_floor, quality_margin"),
        "{error}"
    );
}

#[test]
fn refuses_what_is_not_json() {
    assert!(refusal("").contains("not valid JSON"));
    assert!(refusal(r#"{"model":"a""#).contains("line 1"));
    assert!(refusal(r#"{"model":"a","messages":[]} trailing"#).contains("not valid JSON"));
    let error = parse(Bytes::from_static(b"{\"model\":\"\xff\"}")).unwrap_err();
    assert_eq!(error, RequestError::NotUtf8 { at: 10 });
}

#[test]
fn refuses_bottomless_nesting_wherever_it_is() {
    let deep = "[".repeat(5_000) + &"]".repeat(5_000);
    for field in [format!(r#""unknown":{deep}"#), format!(r#""tool_choice":{deep}"#)] {
        let error = with(&field).unwrap_err();
        assert!(matches!(error, RequestError::TooDeep { .. }), "{error}");
    }
}

#[test]
fn a_bracket_inside_a_string_is_not_nesting() {
    let text = "[".repeat(5_000);
    assert!(with(&format!(r#""unknown":"\"{text}""#)).is_ok());
}

#[test]
fn the_last_of_two_equal_keys_counts() {
    let request = with(r#""user":"a","user":"b""#).unwrap();
    assert_eq!(request.user.as_deref(), Some("b"));
}

proptest::proptest! {
    #[test]
    fn never_panics_on_bytes(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
        let _ = parse(Bytes::from(bytes));
    }

    #[test]
    fn any_text_survives(text in ".*") {
        let body = serde_json::json!({"model": "m", "messages": [{"role": "user", "content": text.clone()}]});
        let request = parse(Bytes::from(body.to_string())).unwrap();
        proptest::prop_assert_eq!(&request.messages[0].parts, &[Part::Text(text)]);
    }
}
