//! A whole answer where a stream was asked for. Some servers speak OpenAI's format and pass over `stream`: their
//! answer is one all the same, and is given on in two pieces.

use serde_json::Value;
use serde_json::value::to_raw_value;

use crate::completion::{Chunk, Completion, StreamEvent, Written};

/// What each choice says, then why it ended. `None`: it has another shape than documented.
pub(super) fn events(completion: Completion) -> Option<Vec<StreamEvent>> {
    let (mut said, mut ends) = (Vec::new(), Vec::new());
    for choice in serde_json::from_str::<Vec<Value>>(completion.choices.get()).ok()? {
        let Value::Object(mut choice) = choice else {
            return None;
        };
        let mut delta = choice.shift_remove("message")?;
        let calls = delta.get_mut("tool_calls").and_then(Value::as_array_mut);
        for (place, call) in calls.into_iter().flatten().enumerate() {
            call.as_object_mut()?.entry("index").or_insert(place.into());
        }
        let mut end = choice.clone();
        end.insert("delta".into(), Value::Object(serde_json::Map::new()));
        end.insert(
            "finish_reason".into(),
            serde_json::to_value(completion.finish).ok()?,
        );
        end.shift_remove("logprobs");
        choice.insert("delta".into(), delta);
        choice.insert("finish_reason".into(), Value::Null);
        said.push(Value::Object(choice));
        ends.push(Value::Object(end));
    }
    let piece = |choices: &[Value], written: Written, meaningful: bool| {
        Some(StreamEvent::Chunk(Chunk {
            choices: to_raw_value(choices).ok()?,
            extra: completion.extra.clone(),
            meaningful,
            written,
            usage: None,
        }))
    };
    Some(vec![
        piece(&said, completion.signals.written, true)?,
        piece(&ends, Written::default(), false)?,
        StreamEvent::End {
            finish: completion.finish,
            usage: completion.usage,
            usage_extra: completion.usage_extra,
        },
    ])
}
