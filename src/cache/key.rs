//! What makes two requests the same.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::config::{CacheRule, Route};
use crate::request::ChatRequest;

/// The hash of all that an answer depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key(pub [u8; 32]);

/// Fields that name a conversation or a trace, or say in which shape the answer is to come, never which.
const VOLATILE: [&str; 5] = [
    "session_id",
    "prompt_cache_key",
    "metadata",
    "stream",
    "stream_options",
];
/// Fields that name a person. Answers cross from one to another only where the route says `shared`.
const PERSONAL: [&str; 2] = ["user", "safety_identifier"];
/// Keys of `routing` that say how an answer is to come, not which.
const DELIVERY: [&str; 4] = ["ttft_budget_ms", "deadline_ms", "hedge", "episode_id"];

/// Who asks, and what beside the body decides the answer.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'a> {
    /// The client's key, by its name.
    pub client: &'a str,
    /// The request's own `x-` headers; those that the route's rules look at count.
    pub headers: &'a [(String, String)],
    /// Whether the answer is to carry `router_metadata`.
    pub metadata: bool,
}

/// The key of a request of `route`. Bodies that differ in white space, in the order of keys or in a field that is
/// `null` are the same.
#[must_use]
pub fn key(request: &ChatRequest, asker: &Asker<'_>, route: &Route, rule: &CacheRule) -> Key {
    hashed(request, asker, route, rule.shared, true)
}

/// The key of all of a request but its last message. Clients and users are apart in it whatever the route says.
#[must_use]
pub fn frame(request: &ChatRequest, asker: &Asker<'_>, route: &Route) -> Key {
    hashed(request, asker, route, false, false)
}

fn hashed(request: &ChatRequest, asker: &Asker<'_>, route: &Route, shared: bool, whole: bool) -> Key {
    let mut hash = Sha256::new();
    text(&mut hash, if shared { "" } else { asker.client });
    hash.update([u8::from(shared), u8::from(asker.metadata), u8::from(whole)]);
    let mut fields: BTreeMap<Cow<'_, str>, &str> = BTreeMap::new();
    for (name, raw) in request.top_level() {
        // The last of two equal names counts, as it does for the parser.
        fields.insert(name, raw.get());
    }
    for (name, raw) in &fields {
        let personal = shared && PERSONAL.contains(&&**name);
        if VOLATILE.contains(&&**name) || personal || *raw == "null" {
            continue;
        }
        let mut decoded = serde_json::from_str::<Value>(raw);
        if let (Ok(Value::Object(routing)), "routing") = (&mut decoded, &**name) {
            routing.retain(|key, value| !DELIVERY.contains(&key.as_str()) && !value.is_null());
            if routing.is_empty() {
                continue;
            }
        }
        if let (Ok(Value::Array(messages)), "messages", false) = (&mut decoded, &**name, whole) {
            messages.pop();
        }
        text(&mut hash, name);
        match decoded {
            Ok(decoded) => value(&mut hash, &decoded),
            // A field that is passed on unread, and that cannot be read: as it is.
            Err(_) => text(&mut hash, raw),
        }
    }
    looked_at(&mut hash, request, asker, route);
    Key(hash.finalize().into())
}

/// The headers and tags that the route's rules look at.
fn looked_at(hash: &mut Sha256, request: &ChatRequest, asker: &Asker<'_>, route: &Route) {
    let mut mark = |kind: &str, name: &str, found: Option<&str>| {
        text(hash, kind);
        text(hash, name);
        hash.update([u8::from(found.is_some())]);
        text(hash, found.unwrap_or_default());
    };
    let find = |pairs: &[(String, String)], name: &str| {
        let found = pairs.iter().find(|(other, _)| other.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.clone())
    };
    for rule in &route.rules {
        for (name, _) in &rule.when.header {
            mark("header", name, find(asker.headers, name).as_deref());
        }
        for (name, _) in &rule.when.tag {
            mark("tag", name, find(&request.metadata, name).as_deref());
        }
    }
}

/// A text with its length, so that no two lists of texts are hashed alike.
fn text(hash: &mut Sha256, text: &str) {
    hash.update((text.len() as u64).to_le_bytes());
    hash.update(text);
}

fn value(hash: &mut Sha256, json: &Value) {
    match json {
        Value::Null => hash.update(b"n"),
        Value::Bool(yes) => hash.update(if *yes { b"t" } else { b"f" }),
        Value::Number(number) => {
            hash.update(b"#");
            text(hash, &number.to_string());
        }
        Value::String(string) => {
            hash.update(b"s");
            text(hash, string);
        }
        Value::Array(items) => {
            hash.update(b"[");
            hash.update((items.len() as u64).to_le_bytes());
            items.iter().for_each(|item| value(hash, item));
        }
        Value::Object(fields) => {
            hash.update(b"{");
            hash.update((fields.len() as u64).to_le_bytes());
            let mut sorted: Vec<_> = fields.iter().collect();
            sorted.sort_unstable_by_key(|(name, _)| *name);
            for (name, field) in sorted {
                text(hash, name);
                value(hash, field);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Source};
    use crate::request::parse;

    fn route(cache: &str) -> Route {
        let toml = format!(
            "[[providers]]\nname = \"p\"\nkind = \"openai\"\nbase_url = \"http://127.0.0.1:1/v1\"\n\
             [[models]]\nid = \"p/m\"\ncontext_window = 1000\n\
             [[routes]]\nname = \"auto\"\nmodels = [\"p/m\"]\ncache = {cache}\n\
             rules = [{{ when = {{ tag = {{ team = \"a\" }}, header = {{ x-tier = \"gold\" }} }}, models = [\"p/m\"] }}]\n"
        );
        let config = config::parse(&toml, Source::Text, &|_| None).unwrap();
        config.routes[0].clone()
    }

    fn keyed(body: &str, client: &str, headers: &[(String, String)], cache: &str) -> Key {
        let route = route(cache);
        let asker = Asker {
            client,
            headers,
            metadata: false,
        };
        let request = parse(body.to_owned().into()).unwrap();
        key(&request, &asker, &route, route.cache.as_ref().unwrap())
    }

    fn of(body: &str) -> Key {
        keyed(body, "key-1", &[], "{}")
    }

    const BODY: &str = r#"{"model":"auto","messages":[{"role":"user","content":"hi"}],"temperature":0.5}"#;

    fn with(field: &str) -> Key {
        of(&BODY.replacen('{', &format!("{{{field},"), 1))
    }

    #[test]
    fn what_does_not_change_the_answer_does_not_change_the_key() {
        let same = r#"{ "temperature": 0.5, "top_p": null,
            "messages": [ {"content": "\u0068i", "role": "user"} ], "model": "auto" }"#;
        assert_eq!(of(BODY), of(same));
        for volatile in [
            r#""session_id":"s""#,
            r#""prompt_cache_key":"k""#,
            r#""metadata":{"trace":"1"}"#,
            r#""stream":true"#,
            r#""stream_options":{"include_usage":true}"#,
        ] {
            assert_eq!(of(BODY), with(volatile), "{volatile}");
        }
        assert_eq!(
            with(r#""routing":{"quality_floor":0.5,"deadline_ms":5000,"episode_id":"e"}"#),
            with(r#""routing":{"episode_id":"f","quality_floor":0.5}"#)
        );
    }

    #[test]
    fn what_may_change_the_answer_changes_the_key() {
        let different = [
            with(r#""user":"u""#),
            with(r#""seed":1"#),
            with(r#""n":2"#),
            with(r#""logprobs":true"#),
            with(r#""top_logprobs":3"#),
            with(r#""top_p":0.5"#),
            with(r#""top_k":5"#),
            with(r#""max_tokens":9"#),
            with(r#""max_completion_tokens":9"#),
            with(r#""stop":["x"]"#),
            with(r#""presence_penalty":1"#),
            with(r#""frequency_penalty":1"#),
            with(r#""logit_bias":{"5":1}"#),
            with(r#""reasoning_effort":"low""#),
            with(r#""response_format":{"type":"json_object"}"#),
            with(r#""tools":[{"type":"function","function":{"name":"f"}}]"#),
            with(r#""tools":[{"type":"function","function":{"name":"g"}}]"#),
            with(r#""tool_choice":"none""#),
            with(r#""parallel_tool_calls":false"#),
            with(r#""models":["p/m"]"#),
            of(&BODY.replace("auto", "other")),
            with(r#""some_new_field":1"#),
            with(r#""routing":{"quality_floor":0.5}"#),
            with(r#""routing":{"quality_floor":0.6}"#),
            with(r#""provider":{"only":["p"]}"#),
            with(r#""metadata":{"team":"a"}"#),
            of(&BODY.replace("hi", "hi ")),
            of(&BODY.replace("0.5", "0.25")),
            keyed(BODY, "key-2", &[], "{}"),
            keyed(BODY, "key-1", &[("x-tier".into(), "gold".into())], "{}"),
            of(BODY),
        ];
        for (index, key) in different.iter().enumerate() {
            assert_eq!(different.iter().position(|other| other == key), Some(index));
        }
    }

    #[test]
    fn shared_answers_cross_keys_and_users_and_are_apart_from_those_that_are_not() {
        let shared = |body: &str, client| keyed(body, client, &[], "{ shared = true }");
        let named = BODY.replacen('{', r#"{"user":"u","#, 1);
        assert_eq!(shared(BODY, "key-1"), shared(&named, "key-2"));
        assert_ne!(shared(BODY, ""), keyed(BODY, "", &[], "{}"));
    }
}
