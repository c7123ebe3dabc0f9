//! From the canonical request to Gemini's generateContent.

use serde_json::{Map, Value, json};

use super::content::{assistant_parts, parts, result_parts};
use super::model::{self, Thinking};
use crate::failure::AttemptError;
use crate::providers::call::Call;
use crate::providers::fault::{self, Wire};
use crate::providers::schema;
use crate::request::{ChatRequest, ResponseFormat, Role};

/// The body for `call`.
pub(super) fn body(wire: &Wire, call: &Call) -> Result<Value, AttemptError> {
    let request = &*call.request;
    if request.sampling.n.is_some_and(|n| n > 1) {
        return Err(fault::unsupported(wire, "more than one choice (`n`)"));
    }
    let mut body = Map::new();
    let mut system = Vec::new();
    for message in &request.messages {
        if matches!(message.role, Role::System | Role::Developer) {
            system.extend(parts(wire, message)?);
        }
    }
    if let Some(words) = form_in_words(call) {
        system.push(json!({"text": words}));
    }
    let mut contents = contents(wire, call)?;
    if contents.is_empty() {
        // There must be a turn: instructions alone are what the user says.
        if system.is_empty() {
            return Err(fault::unsupported(
                wire,
                "a conversation in which nothing is said",
            ));
        }
        contents.push(json!({"role": "user", "parts": std::mem::take(&mut system)}));
    }
    if !system.is_empty() {
        body.insert("systemInstruction".into(), json!({"parts": system}));
    }
    body.insert("contents".into(), contents.into());
    tools(wire, request, &mut body)?;
    let config = generation_config(call);
    if !config.is_empty() {
        body.insert("generationConfig".into(), config.into());
    }
    for name in ["safety_settings", "safetySettings"] {
        if let Some(settings) = request.extra(name) {
            body.insert("safetySettings".into(), parsed(settings));
        }
    }
    Ok(Value::Object(body))
}

fn parsed(raw: &serde_json::value::RawValue) -> Value {
    serde_json::from_str(raw.get()).unwrap_or(Value::Null)
}

/// The turns, with neighbours of one role joined: the results of parallel calls belong into one turn.
fn contents(wire: &Wire, call: &Call) -> Result<Vec<Value>, AttemptError> {
    let request = &*call.request;
    let mut turns: Vec<(&'static str, Vec<Value>)> = Vec::new();
    for message in &request.messages {
        let (role, parts) = match message.role {
            Role::System | Role::Developer => continue,
            Role::User => ("user", parts(wire, message)?),
            Role::Tool => ("user", result_parts(wire, call, message)?),
            Role::Assistant => ("model", assistant_parts(wire, call, message)?),
        };
        if parts.is_empty() {
            continue;
        }
        match turns.last_mut() {
            Some((last, joined)) if *last == role => joined.extend(parts),
            _ => turns.push((role, parts)),
        }
    }
    Ok(turns
        .into_iter()
        .map(|(role, parts)| json!({"role": role, "parts": parts}))
        .collect())
}

fn tools(wire: &Wire, request: &ChatRequest, body: &mut Map<String, Value>) -> Result<(), AttemptError> {
    if !request.other_tools.is_empty() {
        return Err(fault::unsupported(wire, "tools that are not functions"));
    }
    if request.tools.is_empty() {
        return Ok(());
    }
    let declared = request.tools.iter().map(|tool| {
        let mut function = json!({"name": tool.name});
        if let Some(description) = &tool.description {
            function["description"] = description.as_str().into();
        }
        // An object without properties is refused; no parameters at all is the same.
        let has_parameters = |schema: &&Value| {
            schema["properties"]
                .as_object()
                .is_some_and(|all| !all.is_empty())
        };
        if let Some(schema) = tool
            .parameters
            .as_ref()
            .map(schema::for_gemini)
            .as_ref()
            .filter(has_parameters)
        {
            function["parameters"] = schema.clone();
        }
        function
    });
    let declared: Vec<Value> = declared.collect();
    body.insert("tools".into(), json!([{"functionDeclarations": declared}]));
    if let Some(config) = choice(request) {
        body.insert("toolConfig".into(), json!({"functionCallingConfig": config}));
    }
    Ok(())
}

fn choice(request: &ChatRequest) -> Option<Value> {
    Some(match request.tool_choice.as_ref()? {
        Value::String(word) => match word.as_str() {
            "none" => json!({"mode": "NONE"}),
            "required" => json!({"mode": "ANY"}),
            _ => json!({"mode": "AUTO"}),
        },
        choice => match choice["function"]["name"].as_str() {
            Some(name) => json!({"mode": "ANY", "allowedFunctionNames": [name]}),
            None => json!({"mode": "AUTO"}),
        },
    })
}

fn generation_config(call: &Call) -> Map<String, Value> {
    let request = &*call.request;
    let sampling = &request.sampling;
    let mut config = Map::new();
    let mut set = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            config.insert(key.into(), value);
        }
    };
    set("temperature", sampling.temperature.map(Value::from));
    set("topP", sampling.top_p.map(Value::from));
    set("topK", request.extra("top_k").map(parsed));
    // A 32-bit number here, a 64-bit one with OpenAI.
    set("seed", sampling.seed.map(|seed| Value::from(seed as i32)));
    set("presencePenalty", sampling.presence_penalty.map(Value::from));
    set("frequencyPenalty", sampling.frequency_penalty.map(Value::from));
    let limit = |asked: u32| asked.min(call.arm.max_output_tokens.max(1));
    set(
        "maxOutputTokens",
        request.max_output_tokens.map(limit).map(Value::from),
    );
    // Five at most.
    let stops: Vec<_> = sampling
        .stop
        .iter()
        .filter(|stop| !stop.is_empty())
        .take(5)
        .cloned()
        .collect();
    set("stopSequences", (!stops.is_empty()).then(|| stops.into()));
    if form_in_words(call).is_none() && request.response_format != ResponseFormat::Text {
        set("responseMimeType", Some("application/json".into()));
        if let ResponseFormat::JsonSchema { schema, .. } = &request.response_format {
            set("responseSchema", Some(schema::for_gemini(schema)));
        }
    }
    set("thinkingConfig", thinking(call));
    config
}

/// The form of the answer as a sentence, where the model cannot be held to it: while it may call functions.
fn form_in_words(call: &Call) -> Option<String> {
    let request = &*call.request;
    if request.tools.is_empty() || model::takes_json_with_tools(&call.arm.upstream) {
        return None;
    }
    match &request.response_format {
        ResponseFormat::Text => None,
        ResponseFormat::JsonObject => Some("Answer with one JSON object and nothing else.".to_owned()),
        ResponseFormat::JsonSchema { schema, .. } => Some(format!(
            "Answer with one JSON value and nothing else. It must fit this JSON schema:\n{schema}"
        )),
    }
}

fn thinking(call: &Call) -> Option<Value> {
    let effort = call.request.reasoning_effort.as_deref()?;
    let name = &*call.arm.upstream;
    let mut config = match model::thinking(name) {
        Thinking::None => return None,
        Thinking::Budget => json!({"thinkingBudget": model::budget(name, effort)}),
        Thinking::Level => json!({"thinkingLevel": model::level(name, effort)}),
    };
    if effort != "none" {
        config["includeThoughts"] = true.into();
    }
    Some(config)
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
