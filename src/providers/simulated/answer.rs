//! What a simulated model writes: text about the prompt's own words, JSON that fits the schema asked for, or
//! a call of a tool. It always says that it is simulated.

use serde_json::{Value, json};

use super::instance;
use super::profile::{Outcome, SimulatedModel, hash, last_words};
use crate::completion::{FinishReason, Usage};
use crate::request::{ChatRequest, Part, ResponseFormat, Role};

/// Words in one token of English, roughly.
const WORDS_PER_TOKEN: f64 = 0.75;
/// Bytes in one token of English, roughly.
const BYTES_PER_TOKEN: usize = 4;
/// Tokens that a message costs beyond its text.
const TOKENS_PER_MESSAGE: usize = 4;
/// Most answers to one request, as OpenAI has it.
const MOST_COPIES: u32 = 128;

/// An answer before it has a shape on the wire.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Answer {
    pub(super) id: String,
    pub(super) content: Content,
    pub(super) finish: FinishReason,
    /// The stop sequence of the request at which it ended.
    pub(super) stop: Option<String>,
    pub(super) usage: Usage,
    /// Whether text was to be JSON.
    pub(super) json: bool,
    /// How many times the client wants it (`n`).
    pub(super) copies: u32,
    /// Visible tokens that the model would have written without a limit.
    pub(super) intended: u64,
}

/// What the answer says.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Content {
    Text(String),
    Call { name: String, arguments: String },
}

impl Answer {
    /// The part of the intended text that was written before the limit, in [0,1].
    pub(super) fn share_written(&self) -> f64 {
        let written = self.usage.output.saturating_sub(self.usage.reasoning);
        (written as f64 / self.intended.max(1) as f64).min(1.0)
    }
}

/// Writes the answer that `outcome` describes.
pub(super) fn compose(request: &ChatRequest, model: &SimulatedModel, outcome: &Outcome) -> Answer {
    let words = last_words(request);
    let key = hash(0, &[&model.name, &words], 0);
    let intended = outcome.output_tokens - outcome.reasoning_tokens;
    let limit = request.max_output_tokens.unwrap_or(u32::MAX).max(1);
    let visible = intended.min(limit.saturating_sub(outcome.reasoning_tokens).max(1));
    let json = request.response_format != ResponseFormat::Text;
    let (content, stop, mut finish) = match called_tool(request) {
        Some((name, parameters)) => {
            let arguments = instance::of(parameters.unwrap_or(&Value::Null)).to_string();
            (
                Content::Call {
                    name: name.to_owned(),
                    arguments,
                },
                None,
                FinishReason::ToolCalls,
            )
        }
        None => {
            let (text, stop) = text(request, model, key, visible);
            (Content::Text(text), stop, FinishReason::Stop)
        }
    };
    if visible < intended && finish == FinishReason::Stop && stop.is_none() && !json {
        finish = FinishReason::Length;
    }
    let copies = request.sampling.n.unwrap_or(1).clamp(1, MOST_COPIES);
    let each = u64::from(outcome.reasoning_tokens) + u64::from(visible);
    let usage = Usage {
        input: input_tokens(request),
        output: each * u64::from(copies),
        reasoning: u64::from(outcome.reasoning_tokens) * u64::from(copies),
        ..Usage::default()
    };
    Answer {
        id: format!("sim-{key:016x}"),
        content,
        finish,
        stop,
        usage,
        json,
        copies,
        intended: u64::from(intended),
    }
}

/// The tool to call: the one that is demanded, else the first one unless a tool has just answered.
fn called_tool(request: &ChatRequest) -> Option<(&str, Option<&Value>)> {
    let choice = request.tool_choice.as_ref();
    if choice.and_then(Value::as_str) == Some("none") {
        return None;
    }
    let demanded = choice
        .and_then(|choice| choice.pointer("/function/name"))
        .and_then(Value::as_str);
    let required = demanded.is_some() || choice.and_then(Value::as_str) == Some("required");
    let answered = request
        .messages
        .last()
        .is_some_and(|message| message.role == Role::Tool);
    if answered && !required {
        return None;
    }
    let tool = match demanded {
        Some(name) => request.tools.iter().find(|tool| tool.name == name),
        None => request.tools.first(),
    }?;
    Some((&tool.name, tool.parameters.as_ref()))
}

/// What is said, and the stop sequence at which it ended.
fn text(request: &ChatRequest, model: &SimulatedModel, key: u64, tokens: u32) -> (String, Option<String>) {
    let text = match &request.response_format {
        ResponseFormat::Text => {
            return until_stop(prose(request, model, key, tokens), &request.sampling.stop);
        }
        ResponseFormat::JsonObject => json!({ "simulated": true, "model": model.name }).to_string(),
        ResponseFormat::JsonSchema { schema, .. } => instance::of(schema).to_string(),
    };
    (text, None)
}

fn until_stop(text: String, stops: &[String]) -> (String, Option<String>) {
    let found = stops
        .iter()
        .filter(|stop| !stop.is_empty())
        .filter_map(|stop| Some((text.find(stop)?, stop)))
        .min_by_key(|(end, _)| *end);
    match found {
        Some((end, stop)) => (text[..end].to_owned(), Some(stop.clone())),
        None => (text, None),
    }
}

/// Sentences that may follow one another in any order; `{}` is a word of the prompt.
const SENTENCES: [&str; 16] = [
    "The heart of the matter is {}, so it comes first.",
    "Taken step by step, {} leaves little room for doubt.",
    "A second look at {} confirms the first reading.",
    "Where {} is not stated, the usual meaning is assumed.",
    "Note that {} changes the picture only slightly.",
    "What follows from {} can be checked by hand.",
    "In short, {} is consistent with everything that was given.",
    "The exception is {}, which needs a word of its own.",
    "Put differently, {} and the rest go together.",
    "Nothing else in the question contradicts {}.",
    "It helps to write {} down before going on.",
    "From there {} is only a small step away.",
    "Some would weigh {} more heavily; the outcome stays the same.",
    "With {} settled, the remaining part is routine.",
    "A short example makes {} clear.",
    "That is why {} decides the answer.",
];

fn prose(request: &ChatRequest, model: &SimulatedModel, key: u64, tokens: u32) -> String {
    let words = last_words(request);
    let mut topics: Vec<&str> = words
        .split(|letter: char| !letter.is_alphanumeric())
        .filter(|word| word.chars().count() > 4)
        .take(40)
        .collect();
    topics.push("the question");
    let wanted = ((f64::from(tokens) * WORDS_PER_TOKEN) as usize).max(1);
    let mut written: Vec<String> = format!("[simulated answer of {}]", model.name)
        .split(' ')
        .map(str::to_owned)
        .collect();
    let mut round = 0;
    while written.len() < wanted {
        let draw = hash(key, &[], round);
        let sentence = SENTENCES[(draw % SENTENCES.len() as u64) as usize];
        let topic = topics[(draw >> 32) as usize % topics.len()];
        written.extend(sentence.replace("{}", topic).split(' ').map(str::to_owned));
        round += 1;
    }
    written.truncate(wanted);
    written.join(" ")
}

fn input_tokens(request: &ChatRequest) -> u64 {
    let message = |parts: &[Part]| {
        let text: usize = parts
            .iter()
            .map(|part| {
                if let Part::Text(text) = part {
                    text.len()
                } else {
                    0
                }
            })
            .sum();
        text.div_ceil(BYTES_PER_TOKEN) + TOKENS_PER_MESSAGE
    };
    let messages: usize = request.messages.iter().map(|each| message(&each.parts)).sum();
    let tools: usize = request
        .tools
        .iter()
        .map(|tool| {
            let schema = tool
                .parameters
                .as_ref()
                .map_or(0, |schema| schema.to_string().len());
            (tool.name.len() + tool.description.as_ref().map_or(0, String::len) + schema)
                .div_ceil(BYTES_PER_TOKEN)
        })
        .sum();
    (messages + tools) as u64
}
