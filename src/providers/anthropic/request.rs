//! From the canonical request to Anthropic's Messages.

use serde_json::{Map, Value, json};

use super::content::{assistant_blocks, blocks, cached, signed_thoughts, tool_id};
use super::model::{self, Thinking};
use crate::failure::AttemptError;
use crate::providers::call::Call;
use crate::providers::fault::{self, Wire};
use crate::providers::schema;
use crate::request::{ChatRequest, Message, ResponseFormat, Role};

/// The body for `call`.
pub(super) fn body(wire: &Wire, call: &Call, stream: bool) -> Result<Value, AttemptError> {
    let request = &*call.request;
    refuse_what_has_no_form(wire, request)?;
    let name = &*call.arm.upstream;
    let limit = call.arm.max_output_tokens.max(1);
    let asked = request.max_output_tokens.or_else(|| {
        let own = own(request, "max_tokens")?.as_u64()?;
        Some(u32::try_from(own).unwrap_or(u32::MAX))
    });
    let max_tokens = asked.map_or(limit, |asked| asked.min(limit));
    let thinking = thinking(call, max_tokens);

    let mut body = Map::new();
    body.insert("model".into(), name.into());
    body.insert("max_tokens".into(), max_tokens.into());
    let mut system = system_blocks(wire, request)?;
    let mut messages = messages(wire, call, thinking.is_some())?;
    if messages.is_empty() {
        // There must be a message: instructions alone are what the user says.
        if system.is_empty() {
            return Err(fault::unsupported(
                wire,
                "a conversation in which nothing is said",
            ));
        }
        messages.push(json!({"role": "user", "content": std::mem::take(&mut system)}));
    }
    let mut output = Map::new();
    format(call, &mut output, &mut system);
    if !system.is_empty() {
        body.insert("system".into(), system.into());
    }
    body.insert("messages".into(), messages.into());
    if let Some((thinking, effort)) = thinking {
        body.insert("thinking".into(), thinking);
        if let Some(effort) = effort {
            output.insert("effort".into(), effort.into());
        }
    } else if model::takes_sampling(name) {
        sampling(request, &mut body);
    }
    if !output.is_empty() {
        body.insert("output_config".into(), output.into());
    }
    tools(wire, request, &mut body)?;
    let stops: Vec<_> = request
        .sampling
        .stop
        .iter()
        .filter(|stop| !stop.trim().is_empty())
        .cloned()
        .collect();
    if !stops.is_empty() {
        body.insert("stop_sequences".into(), stops.into());
    }
    if let Some(user) = &request.user {
        body.insert("metadata".into(), json!({"user_id": user}));
    }
    if let Some(control) = request.extra("cache_control") {
        body.insert("cache_control".into(), parsed(control));
    }
    if stream {
        body.insert("stream".into(), true.into());
    }
    Ok(Value::Object(body))
}

/// A field that only Anthropic knows: of the request itself, or of its `anthropic` object, where other providers never
/// see it.
fn own(request: &ChatRequest, key: &str) -> Option<Value> {
    if let Some(raw) = request.extra(key) {
        return Some(parsed(raw));
    }
    let mut object = parsed(request.extra("anthropic")?);
    let field = object.get_mut(key)?.take();
    (!field.is_null()).then_some(field)
}

fn parsed(raw: &serde_json::value::RawValue) -> Value {
    serde_json::from_str(raw.get()).unwrap_or(Value::Null)
}

fn refuse_what_has_no_form(wire: &Wire, request: &ChatRequest) -> Result<(), AttemptError> {
    if request.sampling.n.is_some_and(|n| n > 1) {
        return Err(fault::unsupported(wire, "more than one choice (`n`)"));
    }
    let speaks = request
        .extra("modalities")
        .is_some_and(|modalities| modalities.get().contains("\"audio\""));
    if speaks {
        return Err(fault::unsupported(wire, "spoken answers (`modalities`)"));
    }
    Ok(())
}

/// Temperature or top_p: models since 4.1 refuse both together, and the temperature is what people set.
fn sampling(request: &ChatRequest, body: &mut Map<String, Value>) {
    if let Some(temperature) = request.sampling.temperature {
        body.insert("temperature".into(), temperature.clamp(0.0, 1.0).into());
    } else if let Some(top_p) = request.sampling.top_p {
        body.insert("top_p".into(), top_p.into());
    }
    if let Some(top_k) = own(request, "top_k") {
        body.insert("top_k".into(), top_k);
    }
}

/// The `thinking` object and the effort, if the model is to think: Anthropic's own field as sent, or OpenAI's
/// `reasoning_effort` in the form that the model's version takes.
fn thinking(call: &Call, max_tokens: u32) -> Option<(Value, Option<&'static str>)> {
    let request = &*call.request;
    if let Some(own) = own(request, "thinking") {
        let adaptive = own["type"] == "adaptive";
        let effort = request.reasoning_effort.as_deref().filter(|_| adaptive);
        return (own["type"] == "enabled" || adaptive).then_some((own, effort.and_then(effort_word)));
    }
    let effort = request.reasoning_effort.as_deref()?;
    let forced = match &request.tool_choice {
        Some(Value::String(choice)) => choice == "required",
        Some(Value::Object(_)) => true,
        _ => false,
    };
    // A forced tool and a tool loop whose thoughts are lost both exclude thinking.
    if forced || thoughts_are_lost(call) {
        return None;
    }
    match model::thinking(&call.arm.upstream) {
        Thinking::None => None,
        Thinking::Adaptive => {
            let effort = effort_word(effort)?;
            Some((json!({"type": "adaptive"}), Some(effort)))
        }
        Thinking::Budget => {
            let budget: u32 = match effort {
                "none" | "minimal" => return None,
                "low" => 2_048,
                "medium" => 8_192,
                _ => 24_576,
            };
            // The budget is part of max_tokens; under 1024 it is refused.
            let budget = budget.min(max_tokens / 2);
            (budget >= 1_024).then(|| (json!({"type": "enabled", "budget_tokens": budget}), None))
        }
    }
}

/// OpenAI's effort in Anthropic's words; `None`: not at all.
fn effort_word(effort: &str) -> Option<&'static str> {
    match effort {
        "none" => None,
        "minimal" | "low" => Some("low"),
        "medium" => Some("medium"),
        "max" | "xhigh" => Some("max"),
        _ => Some("high"),
    }
}

/// Whether the conversation stands inside a tool loop whose thoughts cannot be shown: a thinking model refuses a last
/// assistant turn that does not begin with them.
fn thoughts_are_lost(call: &Call) -> bool {
    let messages = &call.request.messages;
    let in_loop = messages.last().is_some_and(|message| message.role == Role::Tool);
    let last = messages
        .iter()
        .rev()
        .find(|message| message.role == Role::Assistant);
    in_loop && last.is_some_and(|message| call.fallback || signed_thoughts(message).next().is_none())
}

/// All instructions, in order: Anthropic has one place for them.
fn system_blocks(wire: &Wire, request: &ChatRequest) -> Result<Vec<Value>, AttemptError> {
    let mut system = Vec::new();
    for message in request.messages.iter().filter(|message| is_instruction(message)) {
        system.extend(blocks(wire, message)?);
    }
    Ok(system)
}

fn is_instruction(message: &Message) -> bool {
    matches!(message.role, Role::System | Role::Developer)
}

/// The turns, with neighbours of one role joined: tool results belong into one user turn.
fn messages(wire: &Wire, call: &Call, thinks: bool) -> Result<Vec<Value>, AttemptError> {
    let mut turns: Vec<(&'static str, Vec<Value>)> = Vec::new();
    for message in call
        .request
        .messages
        .iter()
        .filter(|message| !is_instruction(message))
    {
        let (role, content) = match message.role {
            Role::Assistant => (
                "assistant",
                assistant_blocks(wire, message, thinks && !call.fallback)?,
            ),
            Role::Tool => ("user", vec![tool_result(wire, &call.request, message)?]),
            Role::User | Role::System | Role::Developer => ("user", blocks(wire, message)?),
        };
        if content.is_empty() {
            continue;
        }
        match turns.last_mut() {
            Some((last, joined)) if *last == role => joined.extend(content),
            _ => turns.push((role, content)),
        }
    }
    if let Some(("assistant", content)) = turns.last_mut() {
        trim_end(content);
    }
    Ok(turns
        .into_iter()
        .map(|(role, content)| json!({"role": role, "content": content}))
        .collect())
}

/// The last turn of an assistant is where the model goes on; it may not end in white space.
fn trim_end(content: &mut [Value]) {
    if let Some(Value::String(text)) = content.last_mut().and_then(|block| block.get_mut("text")) {
        text.truncate(text.trim_end().len());
    }
}

fn tool_result(wire: &Wire, request: &ChatRequest, message: &Message) -> Result<Value, AttemptError> {
    let named = || {
        let calls = request
            .messages
            .iter()
            .rev()
            .flat_map(|message| &message.tool_calls);
        calls
            .filter(|call| Some(&call.name) == message.name.as_ref())
            .map(|call| call.id.clone())
            .next()
    };
    let id = message.tool_call_id.clone().or_else(named).unwrap_or_default();
    let mut content = blocks(wire, message)?;
    // A breakpoint belongs to the result, not inside of it.
    let is_error = message
        .extra("is_error")
        .is_some_and(|is_error| *is_error == true);
    let control = content
        .last_mut()
        .and_then(Value::as_object_mut)
        .and_then(|block| block.shift_remove("cache_control"));
    let mut result = json!({"type": "tool_result", "tool_use_id": tool_id(&id)});
    if is_error {
        result["is_error"] = true.into();
    }
    if !content.is_empty() {
        result["content"] = content.into();
    }
    Ok(cached(result, control.as_ref()))
}

fn tools(wire: &Wire, request: &ChatRequest, body: &mut Map<String, Value>) -> Result<(), AttemptError> {
    let mut tools: Vec<Value> = Vec::new();
    for tool in &request.tools {
        let schema = match &tool.parameters {
            Some(Value::Object(schema)) if !schema.is_empty() => Value::Object(schema.clone()),
            _ => json!({"type": "object", "properties": {}}),
        };
        let mut declared = json!({"name": tool.name, "input_schema": schema});
        if let Some(description) = &tool.description {
            declared["description"] = description.as_str().into();
        }
        tools.push(cached(declared, tool.cache_control.as_ref()));
    }
    for other in &request.other_tools {
        // Anthropic's own tools carry the date of their version: web_search_20250305.
        let kind = other["type"].as_str().unwrap_or_default();
        let dated = kind
            .rsplit('_')
            .next()
            .is_some_and(|date| date.len() == 8 && date.parse::<u32>().is_ok());
        if !dated {
            return Err(fault::unsupported(wire, "tools that are not functions"));
        }
        tools.push(other.clone());
    }
    let mut choice = choice(request);
    if tools.is_empty() {
        // A conversation with calls in it must declare what was called, even if nothing may be called any more.
        let calls = request.messages.iter().flat_map(|message| &message.tool_calls);
        let mut names: Vec<&str> = calls.map(|call| call.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        tools.extend(
            names
                .iter()
                .map(|name| json!({"name": name, "input_schema": {"type": "object"}})),
        );
        choice = Some(json!({"type": "none"}));
    }
    if !tools.is_empty() {
        body.insert("tools".into(), tools.into());
        if let Some(choice) = choice {
            body.insert("tool_choice".into(), choice);
        }
    }
    Ok(())
}

fn choice(request: &ChatRequest) -> Option<Value> {
    let single = request.parallel_tool_calls == Some(false);
    let mut choice = match &request.tool_choice {
        None if single => json!({"type": "auto"}),
        None => return None,
        Some(Value::String(word)) => match word.as_str() {
            "none" => return Some(json!({"type": "none"})),
            "required" => json!({"type": "any"}),
            _ => json!({"type": "auto"}),
        },
        Some(choice) => match choice["function"]["name"].as_str() {
            Some(name) => json!({"type": "tool", "name": name}),
            None if choice["allowed_tools"]["mode"] == "required" => json!({"type": "any"}),
            None => json!({"type": "auto"}),
        },
    };
    if single {
        choice["disable_parallel_tool_use"] = true.into();
    }
    Some(choice)
}

/// Holds the answer to a schema where the model can be held, and asks for it in words where not.
fn format(call: &Call, output: &mut Map<String, Value>, system: &mut Vec<Value>) {
    let words = match &call.request.response_format {
        ResponseFormat::Text => return,
        ResponseFormat::JsonObject => "Answer with one JSON object and nothing else.".to_owned(),
        ResponseFormat::JsonSchema { schema, .. } => {
            if call.arm.structured_output && model::takes_schema(&call.arm.upstream) {
                let format = json!({"type": "json_schema", "schema": schema::for_anthropic(schema)});
                output.insert("format".into(), format);
                return;
            }
            format!("Answer with one JSON value and nothing else. It must fit this JSON schema:\n{schema}")
        }
    };
    system.push(json!({"type": "text", "text": words}));
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
