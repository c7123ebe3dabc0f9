//! Cache marks for clients that set none. Anthropic caches nothing unasked, bills a quarter more for what it writes
//! and a tenth for what it reads again: a mark pays where the same beginning comes again.

use serde_json::{Value, json};

use crate::request::{ChatRequest, Role};

/// Instructions and tools of fewer bytes are not cached: below 1024 tokens Anthropic ignores the mark.
const LEAST_BYTES: usize = 4_096;

/// Marks the end of long instructions and, in a conversation that goes on, its last message. A client that sets marks
/// of its own knows better.
pub(super) fn mark(body: &mut Value, request: &ChatRequest) {
    if has_marks(request) {
        return;
    }
    let fixed = length(&body["tools"]) + length(&body["system"]);
    if fixed >= LEAST_BYTES {
        let last = ["system", "tools"]
            .into_iter()
            .find(|name| !body[*name].is_null());
        if let Some(block) = last.and_then(|name| body[name].as_array_mut()?.last_mut()) {
            block["cache_control"] = ephemeral();
        }
    }
    let goes_on = request.session_id.is_some()
        || request
            .messages
            .iter()
            .any(|message| message.role == Role::Assistant);
    if goes_on && fixed + length(&body["messages"]) >= LEAST_BYTES {
        let last = body["messages"]
            .as_array_mut()
            .and_then(|messages| messages.last_mut())
            .and_then(|message| message["content"].as_array_mut()?.last_mut());
        // Thoughts take no mark.
        if let Some(block) =
            last.filter(|block| block["type"] != "thinking" && block["type"] != "redacted_thinking")
        {
            block["cache_control"] = ephemeral();
        }
    }
}

fn ephemeral() -> Value {
    json!({"type": "ephemeral"})
}

fn has_marks(request: &ChatRequest) -> bool {
    request.extra("cache_control").is_some()
        || request.tools.iter().any(|tool| tool.cache_control.is_some())
        || request
            .messages
            .iter()
            .any(|message| !message.cache_points.is_empty() || message.extra("cache_control").is_some())
}

/// Bytes of the texts in it.
fn length(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(length).sum(),
        Value::Object(fields) => fields.values().map(length).sum(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::parse;

    fn marked(system: usize, question: Value, more: Value) -> Value {
        let mut request = json!({"model": "a", "messages": [{"role": "user", "content": "q"}]});
        request
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        let request = parse(request.to_string().into()).unwrap();
        let mut body = json!({
            "system": [{"type": "text", "text": "s".repeat(system)}],
            "messages": [{"role": "user", "content": [question]}],
        });
        mark(&mut body, &request);
        body
    }

    fn marks(body: &Value) -> (bool, bool) {
        let is_marked = |block: &Value| block["cache_control"]["type"] == "ephemeral";
        (
            is_marked(&body["system"][0]),
            is_marked(&body["messages"][0]["content"][0]),
        )
    }

    #[test]
    fn marks_stand_where_the_same_beginning_comes_again() {
        let question = || json!({"type": "text", "text": "q"});
        assert_eq!(marks(&marked(100, question(), json!({}))), (false, false));
        assert_eq!(marks(&marked(5_000, question(), json!({}))), (true, false));
        assert_eq!(
            marks(&marked(5_000, question(), json!({"session_id": "s"}))),
            (true, true)
        );
        let history = json!({"messages": [
            {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]});
        assert_eq!(marks(&marked(5_000, question(), history.clone())), (true, true));
        assert_eq!(marks(&marked(100, question(), history)), (false, false));
        let thought = json!({"type": "thinking", "thinking": "t"});
        assert_eq!(
            marks(&marked(5_000, thought, json!({"session_id": "s"}))),
            (true, false)
        );
    }

    #[test]
    fn a_clients_own_marks_are_left_alone() {
        let own = json!({"messages": [{"role": "user", "content": [
            {"type": "text", "text": "q", "cache_control": {"type": "ephemeral", "ttl": "1h"}}]}]});
        let question = json!({"type": "text", "text": "q"});
        assert_eq!(marks(&marked(5_000, question.clone(), own)), (false, false));
        let whole = json!({"cache_control": {"type": "ephemeral"}});
        assert_eq!(marks(&marked(5_000, question, whole)), (false, false));
    }
}
