//! From a client's bytes to a [`ChatRequest`].
//!
//! Strict about the type of every field that is known and about the keys of `routing`; tolerant of all other
//! unknown fields, which are kept. As with OpenAI, `null` means absent.

use std::ops::RangeInclusive;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;
use serde_json::value::RawValue;

use super::error::RequestError;
use super::extras::{metadata, provider, routing};
use super::message::messages;
use super::raw::{self, Path};
use super::{
    ChatRequest, Message, Part, ProviderPreferences, Purpose, ResponseFormat, Role, RoutingExtras, Sampling,
    Tool,
};
use crate::arm::ArmId;

/// Parses and checks a chat completion request.
///
/// # Errors
/// When the body is not JSON, a known field has the wrong type or an impossible value, `routing` holds an
/// unknown key, or `model` or `messages` is missing. The error names the field.
pub fn parse(body: Bytes) -> Result<ChatRequest, RequestError> {
    read(body, Purpose::Chat)
}

/// Parses and checks a request for embeddings: `model` and `input`, a text, a list of texts, or lists of tokens.
///
/// # Errors
/// As [`parse`].
pub fn parse_embedding(body: Bytes) -> Result<ChatRequest, RequestError> {
    read(body, Purpose::Embedding)
}

fn read(body: Bytes, purpose: Purpose) -> Result<ChatRequest, RequestError> {
    let text = std::str::from_utf8(&body).map_err(|error| RequestError::NotUtf8 {
        at: error.valid_up_to(),
    })?;
    let whole: &RawValue = serde_json::from_str(text).map_err(|error| RequestError::NotJson {
        reason: error.to_string(),
    })?;
    let mut draft = Draft {
        purpose,
        ..Draft::default()
    };
    for (key, raw) in raw::object(whole, &Path::ROOT)? {
        draft.field(&key, raw)?;
    }
    draft.finish(body)
}

/// A request of which not every field has been read.
#[derive(Default)]
struct Draft {
    purpose: Purpose,
    model: Option<String>,
    messages: Option<Vec<Message>>,
    tools: Vec<Tool>,
    other_tools: Vec<Value>,
    tool_choice: Option<Value>,
    parallel_tool_calls: Option<bool>,
    response_format: ResponseFormat,
    max_completion_tokens: Option<u32>,
    max_tokens: Option<u32>,
    sampling: Sampling,
    reasoning_effort: Option<String>,
    stream: bool,
    include_usage: bool,
    models: Vec<ArmId>,
    fallbacks: Vec<ArmId>,
    provider: ProviderPreferences,
    routing: RoutingExtras,
    session_id: Option<String>,
    user: Option<String>,
    prompt_cache_key: Option<String>,
    metadata: Vec<(String, String)>,
    extra: Vec<(String, Arc<RawValue>)>,
}

impl Draft {
    fn field(&mut self, key: &str, raw: &RawValue) -> Result<(), RequestError> {
        let path = &Path::ROOT.key(key);
        let null = raw::is_null(raw);
        match key {
            "input" if !null && self.purpose == Purpose::Embedding => {
                self.messages = Some(vec![texts(raw, path)?]);
            }
            "model" if !null => self.model = Some(raw::string(raw, path)?),
            "messages" if !null => self.messages = Some(messages(raw, path)?),
            "tools" if !null => self.read_tools(raw, path)?,
            "tool_choice" if !null => self.tool_choice = Some(raw::value(raw, path)?),
            "parallel_tool_calls" if !null => self.parallel_tool_calls = Some(raw::boolean(raw, path)?),
            "response_format" if !null => self.response_format = response_format(raw, path)?,
            "max_completion_tokens" if !null => self.max_completion_tokens = Some(tokens(raw, path)?),
            "max_tokens" if !null => self.max_tokens = Some(tokens(raw, path)?),
            "temperature" if !null => {
                self.sampling.temperature = Some(between(raw, path, 0.0..=2.0, "a number from 0 to 2")?)
            }
            "top_p" if !null => {
                self.sampling.top_p = Some(between(raw, path, 0.0..=1.0, "a number from 0 to 1")?)
            }
            "presence_penalty" if !null => self.sampling.presence_penalty = Some(penalty(raw, path)?),
            "frequency_penalty" if !null => self.sampling.frequency_penalty = Some(penalty(raw, path)?),
            "stop" if !null => self.sampling.stop = one_or_many(raw, path)?,
            "seed" if !null => {
                self.sampling.seed = Some(raw::numeric(raw, path, "a whole number of 64 bits")?)
            }
            "n" if !null => self.sampling.n = Some(copies(raw, path)?),
            "reasoning_effort" if !null => self.reasoning_effort = Some(raw::string(raw, path)?),
            "stream" if !null => self.stream = raw::boolean(raw, path)?,
            "stream_options" if !null => self.include_usage = include_usage(raw, path)?,
            "models" if !null => self.models = arms(raw, path)?,
            "fallbacks" if !null => self.fallbacks = arms(raw, path)?,
            "provider" if !null => self.provider = provider(raw, path)?,
            "routing" if !null => self.routing = routing(raw, path)?,
            "session_id" if !null => self.session_id = Some(raw::string(raw, path)?),
            "user" if !null => self.user = Some(raw::string(raw, path)?),
            "prompt_cache_key" if !null => self.prompt_cache_key = Some(raw::string(raw, path)?),
            "metadata" if !null => self.metadata = metadata(raw, path)?,
            _ if null => {}
            _ => {
                raw::check_depth(raw, path)?;
                self.extra.push((key.to_owned(), Arc::from(raw.to_owned())));
            }
        }
        Ok(())
    }

    fn read_tools(&mut self, raw: &RawValue, path: &Path<'_>) -> Result<(), RequestError> {
        for (index, raw) in raw::array(raw, path)?.into_iter().enumerate() {
            let path = &path.index(index);
            let fields = raw::object(raw, path)?;
            let kind = match fields.iter().find(|(key, _)| key == "type") {
                Some((_, raw)) => raw::string(raw, &path.key("type"))?,
                None => "function".to_owned(),
            };
            if kind == "function" {
                self.tools.push(tool(&fields, path)?);
            } else {
                self.other_tools.push(raw::value(raw, path)?);
            }
        }
        Ok(())
    }

    fn finish(self, body: Bytes) -> Result<ChatRequest, RequestError> {
        let model = self.model.ok_or_else(|| Path::ROOT.key("model").missing())?;
        if model.is_empty() {
            return Err(Path::ROOT.key("model").value("the name of a model or route"));
        }
        let content = match self.purpose {
            Purpose::Chat => "messages",
            Purpose::Embedding => "input",
        };
        let messages = self.messages.ok_or_else(|| Path::ROOT.key(content).missing())?;
        if messages.is_empty() {
            return Err(Path::ROOT
                .key("messages")
                .value("an array of at least one message"));
        }
        Ok(ChatRequest {
            body,
            purpose: self.purpose,
            model,
            messages,
            tools: self.tools,
            other_tools: self.other_tools,
            tool_choice: self.tool_choice,
            parallel_tool_calls: self.parallel_tool_calls,
            response_format: self.response_format,
            max_output_tokens: self.max_completion_tokens.or(self.max_tokens),
            sampling: self.sampling,
            reasoning_effort: self.reasoning_effort,
            stream: self.stream,
            include_usage: self.include_usage,
            fallbacks: if self.models.is_empty() {
                self.fallbacks
            } else {
                self.models
            },
            provider: self.provider,
            routing: self.routing,
            session_id: self.session_id,
            user: self.user,
            prompt_cache_key: self.prompt_cache_key,
            metadata: self.metadata,
            extra: self.extra,
        })
    }
}

/// The texts to embed as one message. Tokens stand for themselves: a short word each, so that they are counted.
fn texts(raw: &RawValue, path: &Path<'_>) -> Result<Message, RequestError> {
    let words = |count: usize| Part::Text(" a".repeat(count));
    let empty = || path.value("a text, an array of texts, or arrays of tokens; not empty");
    let first = |raw: &RawValue| raw.get().as_bytes().first().copied();
    let parts = if first(raw) == Some(b'"') {
        vec![Part::Text(raw::string(raw, path)?)]
    } else {
        let items = raw::array(raw, path)?;
        match items.first().and_then(|item| first(item)) {
            None => return Err(empty()),
            Some(b'"') => raw::strings(raw, path)?.into_iter().map(Part::Text).collect(),
            Some(b'[') => {
                let mut parts = Vec::with_capacity(items.len());
                for (index, item) in items.into_iter().enumerate() {
                    parts.push(words(raw::array(item, &path.index(index))?.len()));
                }
                parts
            }
            Some(b'0'..=b'9') => vec![words(items.len())],
            Some(_) => return Err(empty()),
        }
    };
    Ok(Message {
        parts,
        ..Message::text(Role::User, String::new())
    })
}

/// The largest limit on an answer's tokens that is taken for one.
pub const MOST_TOKENS: u32 = 1_000_000_000;

fn tokens(raw: &RawValue, path: &Path<'_>) -> Result<u32, RequestError> {
    const RANGE: &str = "a whole number from 1 to 1000000000";
    match raw::numeric(raw, path, RANGE)? {
        count @ 1..=MOST_TOKENS => Ok(count),
        _ => Err(path.value(RANGE)),
    }
}

/// Answers to one request: OpenAI's most.
fn copies(raw: &RawValue, path: &Path<'_>) -> Result<u32, RequestError> {
    const RANGE: &str = "a whole number from 1 to 128";
    match raw::numeric(raw, path, RANGE)? {
        count @ 1..=128 => Ok(count),
        _ => Err(path.value(RANGE)),
    }
}

fn penalty(raw: &RawValue, path: &Path<'_>) -> Result<f64, RequestError> {
    between(raw, path, -2.0..=2.0, "a number from -2 to 2")
}

/// A number within OpenAI's `range`, which `expected` says in words.
fn between(
    raw: &RawValue,
    path: &Path<'_>,
    range: RangeInclusive<f64>,
    expected: &'static str,
) -> Result<f64, RequestError> {
    let number: f64 = raw::numeric(raw, path, expected)?;
    if range.contains(&number) {
        Ok(number)
    } else {
        Err(path.value(expected))
    }
}

fn one_or_many(raw: &RawValue, path: &Path<'_>) -> Result<Vec<String>, RequestError> {
    if raw.get().starts_with('[') {
        raw::strings(raw, path)
    } else {
        Ok(vec![raw::string(raw, path)?])
    }
}

fn arms(raw: &RawValue, path: &Path<'_>) -> Result<Vec<ArmId>, RequestError> {
    Ok(raw::strings(raw, path)?.iter().map(|id| ArmId::new(id)).collect())
}

fn include_usage(raw: &RawValue, path: &Path<'_>) -> Result<bool, RequestError> {
    for (key, raw) in raw::object(raw, path)? {
        if key == "include_usage" && !raw::is_null(raw) {
            return raw::boolean(raw, &path.key(&key));
        }
    }
    Ok(false)
}

fn tool(fields: &raw::Fields<'_>, path: &Path<'_>) -> Result<Tool, RequestError> {
    let function_path = &path.key("function");
    let function = raw::object(raw::required(fields, "function", path)?, function_path)?;
    let decoded = |fields: &raw::Fields<'_>, key: &str, path: &Path<'_>| {
        raw::find(fields, key)
            .map(|raw| raw::value(raw, &path.key(key)))
            .transpose()
    };
    Ok(Tool {
        name: raw::required_string(&function, "name", function_path)?,
        description: raw::optional_string(&function, "description", function_path)?,
        parameters: decoded(&function, "parameters", function_path)?,
        strict: raw::find(&function, "strict")
            .map(|raw| raw::boolean(raw, &function_path.key("strict")))
            .transpose()?,
        cache_control: match decoded(fields, "cache_control", path)? {
            Some(control) => Some(control),
            None => decoded(&function, "cache_control", function_path)?,
        },
    })
}

fn response_format(raw: &RawValue, path: &Path<'_>) -> Result<ResponseFormat, RequestError> {
    let fields = raw::object(raw, path)?;
    match raw::required_string(&fields, "type", path)?.as_str() {
        "text" => Ok(ResponseFormat::Text),
        "json_object" => Ok(ResponseFormat::JsonObject),
        "json_schema" => {
            let schema_path = &path.key("json_schema");
            let json_schema = raw::object(raw::required(&fields, "json_schema", path)?, schema_path)?;
            Ok(ResponseFormat::JsonSchema {
                name: raw::required_string(&json_schema, "name", schema_path)?,
                schema: raw::find(&json_schema, "schema")
                    .map(|raw| raw::value(raw, &schema_path.key("schema")))
                    .transpose()?
                    .unwrap_or_else(|| Value::Object(serde_json::Map::new())),
                strict: raw::find(&json_schema, "strict")
                    .map(|raw| raw::boolean(raw, &schema_path.key("strict")))
                    .transpose()?,
            })
        }
        _ => Err(path.key("type").value("one of text, json_object, json_schema")),
    }
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
