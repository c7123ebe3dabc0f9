//! OpenAI's chat completions, and everyone who speaks them.

mod answer;
mod dialect;
mod messages;
mod request;
mod stream;
mod usage;
mod whole;

use reqwest::Url;
use serde_json::Value;
use serde_json::value::RawValue;

use self::answer::{Finish, Look, Top};
use self::dialect::Dialect;
pub(super) use self::stream::ChunkReader;
use super::call::{Call, EventStream};
use super::fault::{self, Wire};
use super::http::{self, Expect, Link, Streamed};
use super::stream::Events;
use crate::completion::{Completion, FinishReason, Signals, Usage};
use crate::failure::AttemptError;
use crate::request::ResponseFormat;

/// The addresses of one OpenAI-shaped provider.
#[derive(Clone, Debug)]
pub(super) struct OpenAi {
    chat: Url,
    embeddings: Url,
    dialect: Dialect,
}

impl OpenAi {
    pub(super) fn new(base: &Url) -> Self {
        Self {
            chat: http::join(base, &["chat", "completions"]),
            embeddings: http::join(base, &["embeddings"]),
            dialect: Dialect::of(base),
        }
    }

    pub(super) async fn complete(&self, link: &Link, call: &Call) -> Result<Completion, AttemptError> {
        let body = request::body(call, self.dialect, false);
        let response = link.post(&self.chat, body, Expect::Json).await?;
        let body = link.whole(response).await?;
        let json_asked = call.request.response_format != ResponseFormat::Text;
        read_completion(&link.wire, &body, json_asked, &call.request.sampling.stop)
    }

    pub(super) async fn stream(&self, link: &Link, call: &Call) -> Result<EventStream, AttemptError> {
        let body = request::body(call, self.dialect, true);
        let stops = &call.request.sampling.stop;
        let response = match link.post_for_events(&self.chat, body).await? {
            Streamed::Events(response) => response,
            Streamed::Whole(body) => {
                let completion = read_completion(&link.wire, &body, false, stops)?;
                let events = whole::events(completion)
                    .ok_or_else(|| fault::nonsense(&link.wire, "a whole answer instead of a stream"))?;
                return Ok(Box::pin(futures_util::stream::iter(events.into_iter().map(Ok))));
            }
        };
        let reader = ChunkReader::new(link.wire.clone(), stops.clone());
        let bytes = Box::pin(response.bytes_stream());
        Ok(Box::pin(Events::new(
            link.wire.clone(),
            bytes,
            reader,
            link.max_response_bytes,
        )))
    }

    /// Passes an embeddings request on with `model` replaced; the vectors go back as they came.
    pub(super) async fn embed(&self, link: &Link, call: &Call) -> Result<Completion, AttemptError> {
        let body = request::with_model(&call.request.body, &call.arm.upstream)
            .ok_or_else(|| fault::unsupported(&link.wire, "an embeddings request that is no JSON object"))?;
        let response = link.post(&self.embeddings, body, Expect::Json).await?;
        let answer = link.whole(response).await?;
        let top: Top<'_> = serde_json::from_slice(&answer)
            .map_err(|_| fault::nonsense(&link.wire, "something that is no JSON object"))?;
        if top.error {
            return Err(fault::inside(&link.wire, &answer));
        }
        let is_data = |(name, _): &(String, Box<RawValue>)| name == "data";
        let Some(place) = top.extra.iter().position(is_data) else {
            return Err(fault::nonsense(&link.wire, "JSON that holds no vectors"));
        };
        let mut extra = top.extra;
        let (_, vectors) = extra.swap_remove(place);
        let (usage, usage_extra) = read_usage(top.usage);
        Ok(Completion {
            upstream_id: top.id.map(std::borrow::Cow::into_owned),
            choices: vectors,
            extra: Vec::new(),
            usage,
            usage_extra,
            finish: FinishReason::Stop,
            signals: Signals::default(),
        })
    }
}

fn read_completion(
    wire: &Wire,
    body: &[u8],
    json_asked: bool,
    stops: &[String],
) -> Result<Completion, AttemptError> {
    let top: Top<'_> = serde_json::from_slice(body)
        .map_err(|_| fault::nonsense(wire, "something that is no JSON object"))?;
    if top.error {
        return Err(fault::inside(wire, body));
    }
    let choices = top
        .choices
        .ok_or_else(|| fault::nonsense(wire, "JSON that holds no answer"))?;
    let look = Look::at(choices)
        .filter(|look| look.choices > 0)
        .ok_or_else(|| fault::nonsense(wire, "JSON that holds no answer"))?;
    // A whole answer without a reason is a whole answer: the server says so by its length.
    let (finish, own_word) = match look.finish.as_deref() {
        Some(word) => reason(wire, word)?,
        None => (FinishReason::Stop, true),
    };
    let (usage, usage_extra) = read_usage(top.usage);
    let json_valid = (json_asked && look.tool_calls == 0).then(|| {
        let text = look.text.as_deref().unwrap_or_default();
        serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok()
    });
    Ok(Completion {
        upstream_id: top.id.map(std::borrow::Cow::into_owned),
        choices: relabelled(choices, &look, own_word, stops),
        extra: top.extra,
        usage,
        usage_extra,
        finish,
        signals: Signals {
            written: look.written,
            tool_calls: look.tool_calls,
            invalid_tool_calls: look.invalid_tool_calls,
            refused: look.refused,
            json_valid,
        },
    })
}

fn reason(wire: &Wire, word: &str) -> Result<(FinishReason, bool), AttemptError> {
    match answer::finish(word) {
        Finish::Reason(reason, own_word) => Ok((reason, own_word)),
        Finish::OutOfResources => Err(fault::out_of_resources(wire)),
        Finish::Failed => Err(fault::truncated(wire)),
    }
}

/// `choices` as they came, unless they tell in a dialect why the answer ended.
fn relabelled(choices: &RawValue, look: &Look<'_>, own_word: bool, stops: &[String]) -> Box<RawValue> {
    let is_stop = |told: &str| stops.iter().any(|stop| stop == told);
    if own_word && !look.stop.as_deref().is_some_and(is_stop) {
        return answer::compact(choices);
    }
    answer::in_our_words(choices, stops).unwrap_or_else(|| answer::compact(choices))
}

fn read_usage(raw: Option<&RawValue>) -> (Option<Usage>, Option<Value>) {
    let Some(value) = raw.and_then(|raw| serde_json::from_str::<Value>(raw.get()).ok()) else {
        return (None, None);
    };
    match usage::read(&value) {
        Some(read) => (Some(read), usage::extra(value)),
        None => (None, None),
    }
}

#[cfg(test)]
mod tests;
