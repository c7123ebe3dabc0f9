//! OpenAI's answers, taken apart at the top level only: `choices` goes to the client as it came.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::completion::{FinishReason, Written};

/// The top level of an answer or a chunk.
#[derive(Default)]
pub(super) struct Top<'a> {
    pub(super) id: Option<Cow<'a, str>>,
    pub(super) choices: Option<&'a RawValue>,
    pub(super) usage: Option<&'a RawValue>,
    /// Whether it is an error.
    pub(super) error: bool,
    /// Everything else that is not ours to write.
    pub(super) extra: Vec<(String, Box<RawValue>)>,
}

impl<'de: 'a, 'a> Deserialize<'de> for Top<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TopVisitor;
        impl<'de> Visitor<'de> for TopVisitor {
            type Value = Top<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut top = Top::default();
                while let Some(Text(key)) = map.next_key()? {
                    match &*key {
                        "id" => top.id = map.next_value::<Option<Text<'_>>>()?.map(|Text(id)| id),
                        "choices" => top.choices = present(map.next_value()?),
                        "usage" => top.usage = present(map.next_value()?),
                        "error" => top.error |= present(map.next_value()?).is_some(),
                        "object" => {
                            let raw: &RawValue = map.next_value()?;
                            top.error |= raw.get() == "\"error\"";
                        }
                        // The server writes its own.
                        "created" | "model" => {
                            map.next_value::<IgnoredAny>()?;
                        }
                        _ => top.extra.push((key.into_owned(), compact(map.next_value()?))),
                    }
                }
                Ok(top)
            }
        }
        deserializer.deserialize_map(TopVisitor)
    }
}

/// A string, borrowed unless it holds escapes.
#[derive(Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

fn present(raw: &RawValue) -> Option<&RawValue> {
    (raw.get() != "null").then_some(raw)
}

/// JSON on one line: it becomes a line of an event stream, which a line break would tear apart.
pub(super) fn compact(raw: &RawValue) -> Box<RawValue> {
    if memchr::memchr2(b'\n', b'\r', raw.get().as_bytes()).is_some()
        && let Ok(value) = serde_json::from_str::<Value>(raw.get())
        && let Ok(line) = serde_json::value::to_raw_value(&value)
    {
        return line;
    }
    raw.to_owned()
}

/// What the choices of an answer or a chunk hold, seen without decoding more than needed.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Look<'a> {
    /// How many choices there are.
    pub(super) choices: u32,
    /// The first choice's `finish_reason`.
    pub(super) finish: Option<Cow<'a, str>>,
    /// The stop sequence at which the first choice ended, where the server tells it: vLLM's `stop_reason`, SGLang's
    /// `matched_stop`. Both tell other things there too.
    pub(super) stop: Option<Cow<'a, str>>,
    /// What the model has written.
    pub(super) written: Written,
    /// Whether there is anything for the user.
    pub(super) meaningful: bool,
    /// Tool calls, or pieces of them.
    pub(super) tool_calls: u32,
    /// Of those: arguments that are no JSON. Means nothing for pieces.
    pub(super) invalid_tool_calls: u32,
    /// The model refused.
    pub(super) refused: bool,
    /// The first choice's text.
    pub(super) text: Option<Cow<'a, str>>,
}

impl<'a> Look<'a> {
    /// Looks at `choices`; `None` when they have another shape than documented.
    pub(super) fn at(choices: &'a RawValue) -> Option<Self> {
        let Choices(look) = serde_json::from_str(choices.get()).ok()?;
        Some(look)
    }
}

/// Folds the choices into one look, so that nothing is allocated on the way.
struct Choices<'a>(Look<'a>);

impl<'de: 'a, 'a> Deserialize<'de> for Choices<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ChoicesVisitor;
        impl<'de> Visitor<'de> for ChoicesVisitor {
            type Value = Choices<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of choices")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut look = Look::default();
                while let Some(choice) = seq.next_element::<Choice<'de>>()? {
                    look.choices += 1;
                    if look.finish.is_none() {
                        look.finish = choice.finish_reason.map(|Text(reason)| reason);
                        look.stop = text_of(choice.stop_reason).or(text_of(choice.matched_stop));
                    }
                    if let Some(said) = choice.message.or(choice.delta) {
                        look.add(said);
                    }
                }
                Ok(Choices(look))
            }
        }
        deserializer.deserialize_seq(ChoicesVisitor)
    }
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(default, borrow)]
    message: Option<Said<'a>>,
    #[serde(default, borrow)]
    delta: Option<Said<'a>>,
    #[serde(default, borrow)]
    finish_reason: Option<Text<'a>>,
    #[serde(default, borrow)]
    stop_reason: Option<Content<'a>>,
    #[serde(default, borrow)]
    matched_stop: Option<Content<'a>>,
}

/// A message or a delta.
#[derive(Deserialize)]
struct Said<'a> {
    #[serde(default, borrow)]
    content: Option<Content<'a>>,
    #[serde(default, borrow)]
    refusal: Option<Content<'a>>,
    #[serde(default, borrow)]
    reasoning_content: Option<Content<'a>>,
    #[serde(default, borrow)]
    reasoning: Option<Content<'a>>,
    #[serde(default, borrow)]
    tool_calls: Option<Vec<Called<'a>>>,
    #[serde(default, borrow)]
    function_call: Option<Function<'a>>,
    #[serde(default, borrow)]
    audio: Option<&'a RawValue>,
    #[serde(default, borrow)]
    images: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Called<'a> {
    #[serde(default, borrow)]
    function: Option<Function<'a>>,
}

#[derive(Deserialize)]
struct Function<'a> {
    #[serde(default, borrow)]
    name: Option<Content<'a>>,
    #[serde(default, borrow)]
    arguments: Option<Content<'a>>,
}

/// Text; what a list of parts says (Mistral's reasoning models), its thoughts apart; or something else that is there.
enum Content<'a> {
    Text(Cow<'a, str>),
    Parts { text: String, thoughts: usize },
    Other,
}

impl<'a> Content<'a> {
    fn is_empty(&self) -> bool {
        match self {
            Self::Text(text) => text.is_empty(),
            Self::Parts { text, thoughts } => text.is_empty() && *thoughts == 0,
            Self::Other => false,
        }
    }

    /// Bytes of text and thoughts together.
    fn len(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Parts { text, thoughts } => text.len() + thoughts,
            Self::Other => 0,
        }
    }

    fn into_text(self) -> Option<Cow<'a, str>> {
        match self {
            Self::Text(text) => Some(text),
            Self::Parts { text, .. } => Some(Cow::Owned(text)),
            Self::Other => None,
        }
    }
}

fn text_of(content: Option<Content<'_>>) -> Option<Cow<'_, str>> {
    content.and_then(Content::into_text)
}

impl<'de: 'a, 'a> Deserialize<'de> for Content<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ContentVisitor;
        impl<'de> Visitor<'de> for ContentVisitor {
            type Value = Content<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("content")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Content::Text(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Content::Text(Cow::Owned(text.to_owned())))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                #[derive(Deserialize)]
                struct Part<'a> {
                    #[serde(default, borrow)]
                    text: Option<Text<'a>>,
                    #[serde(default, borrow)]
                    thinking: Option<Content<'a>>,
                }
                let (mut text, mut thoughts) = (String::new(), 0);
                while let Some(part) = seq.next_element::<Part<'de>>()? {
                    text.push_str(part.text.as_ref().map_or("", |Text(text)| text));
                    thoughts += part.thinking.as_ref().map_or(0, Content::len);
                }
                Ok(Content::Parts { text, thoughts })
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Content::Other)
            }
            fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
                Ok(Content::Other)
            }
            fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
                Ok(Content::Other)
            }
            fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
                Ok(Content::Other)
            }
            fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
                Ok(Content::Other)
            }
        }
        deserializer.deserialize_any(ContentVisitor)
    }
}

impl<'a> Look<'a> {
    fn add(&mut self, said: Said<'a>) {
        let is_some =
            |content: &Option<Content<'_>>| content.as_ref().is_some_and(|content| !content.is_empty());
        let has = |raw: Option<&RawValue>| raw.is_some_and(|raw| !matches!(raw.get(), "null" | "[]" | "{}"));
        let length = |content: &Option<Content<'_>>| content.as_ref().map_or(0, Content::len);
        let calls = said.tool_calls.as_deref().unwrap_or_default();
        let refused = is_some(&said.refusal);
        self.refused |= refused;
        self.meaningful |= refused
            || is_some(&said.content)
            || is_some(&said.reasoning_content)
            || is_some(&said.reasoning)
            || !calls.is_empty()
            || said.function_call.is_some()
            || has(said.audio)
            || has(said.images);
        for function in calls
            .iter()
            .map(|call| call.function.as_ref())
            .chain([said.function_call.as_ref()])
        {
            let Some(function) = function else { continue };
            self.tool_calls += 1;
            self.written.other += length(&function.name) + length(&function.arguments);
            if let Some(Content::Text(arguments)) = &function.arguments
                && serde_json::from_str::<IgnoredAny>(arguments).is_err()
            {
                self.invalid_tool_calls += 1;
            }
        }
        self.written.other += length(&said.refusal);
        // Those who send both say the same twice.
        self.written.thoughts += length(&said.reasoning_content).max(length(&said.reasoning));
        if let Some(Content::Parts { thoughts, .. }) = &said.content {
            self.written.thoughts += thoughts;
        }
        if let Some(text) = text_of(said.content) {
            self.written.text += text.len();
            if self.text.is_none() {
                self.text = Some(text);
            }
        }
    }
}

/// What a `finish_reason` means.
pub(super) enum Finish {
    /// As OpenAI would say it; whether the word is OpenAI's own.
    Reason(FinishReason, bool),
    /// The answer was broken off for want of resources.
    OutOfResources,
    /// The answer was broken off by a failure.
    Failed,
}

/// Reads a `finish_reason`.
pub(super) fn finish(word: &str) -> Finish {
    match word {
        "stop" => Finish::Reason(FinishReason::Stop, true),
        "length" => Finish::Reason(FinishReason::Length, true),
        "tool_calls" | "function_call" => Finish::Reason(FinishReason::ToolCalls, true),
        "content_filter" => Finish::Reason(FinishReason::ContentFilter, true),
        "max_tokens" | "model_length" | "MAX_TOKENS" => Finish::Reason(FinishReason::Length, false),
        "tool_use" | "tool_call" => Finish::Reason(FinishReason::ToolCalls, false),
        "sensitive" | "safety" | "SAFETY" | "refusal" => Finish::Reason(FinishReason::ContentFilter, false),
        "insufficient_system_resource" => Finish::OutOfResources,
        "error" | "network_error" | "abort" | "cancelled" => Finish::Failed,
        _ => Finish::Reason(FinishReason::Stop, false),
    }
}

/// `choices` with every `finish_reason` in OpenAI's words, and the one of `stops` at which each ended as its
/// `stop_sequence`, where the server tells.
pub(super) fn in_our_words(choices: &RawValue, stops: &[String]) -> Option<Box<RawValue>> {
    let mut value: Value = serde_json::from_str(choices.get()).ok()?;
    for choice in value.as_array_mut()? {
        let told = ["stop_reason", "matched_stop"].iter().find_map(|key| {
            let told = choice[key].as_str()?;
            stops.iter().find(|stop| *stop == told)
        });
        if let Some(stop) = told {
            choice["stop_sequence"] = stop.as_str().into();
        }
        if let Some(word) = choice["finish_reason"].as_str()
            && let Finish::Reason(reason, false) = finish(word)
        {
            choice["finish_reason"] = serde_json::to_value(reason).ok()?;
        }
    }
    serde_json::value::to_raw_value(&value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(json: &str) -> Look<'static> {
        let raw: &'static RawValue =
            serde_json::from_str(Box::leak(json.to_owned().into_boxed_str())).unwrap();
        Look::at(raw).unwrap()
    }

    #[test]
    fn only_what_a_user_gets_is_meaningful() {
        let nothing = [
            r#"[{"index":0,"delta":{"role":"assistant","content":"","refusal":null},"finish_reason":null}]"#,
            r#"[{"index":0,"delta":{},"finish_reason":"stop"}]"#,
            r#"[{"index":0,"delta":{"content":null,"tool_calls":[],"audio":null}}]"#,
            r#"[{"index":0,"delta":{"content":[{"type":"thinking","thinking":[]}]}}]"#,
            "[]",
        ];
        for json in nothing {
            assert!(!look(json).meaningful, "{json}");
        }
        let something = [
            r#"[{"delta":{"content":"x"}}]"#,
            r#"[{"delta":{"refusal":"no"}}]"#,
            r#"[{"delta":{"reasoning_content":"hm"}}]"#,
            r#"[{"delta":{"reasoning":"hm"}}]"#,
            r#"[{"delta":{"tool_calls":[{"index":0,"id":"c","function":{"name":"f","arguments":""}}]}}]"#,
            r#"[{"delta":{"audio":{"id":"a"}}}]"#,
            r#"[{"delta":{"content":[{"type":"text","text":"x"}]}}]"#,
            r#"[{"delta":{"content":[{"type":"thinking","thinking":[{"type":"text","text":"x"}]}]}}]"#,
        ];
        for json in something {
            assert!(look(json).meaningful, "{json}");
        }
    }

    #[test]
    fn counts_text_and_calls() {
        let look = look(
            r#"[{"message":{"content":"h\u00e9\n","tool_calls":[{"function":{"name":"f","arguments":"{}"}},
                {"function":{"name":"g","arguments":"{oops"}}]},"finish_reason":"tool_calls"}]"#,
        );
        assert_eq!(
            (look.written.text, look.tool_calls, look.invalid_tool_calls),
            (4, 2, 1)
        );
        // Two names of one byte, arguments of two and five.
        assert_eq!((look.written.other, look.written.thoughts), (9, 0));
        assert_eq!(look.text.as_deref(), Some("hé\n"));
        assert_eq!(look.finish.as_deref(), Some("tool_calls"));
    }

    #[test]
    fn thoughts_and_refusals_are_counted_in_every_dialect() {
        let written = |json: &str| {
            let Written {
                text,
                other,
                thoughts,
            } = look(json).written;
            (text, other, thoughts)
        };
        let cases = [
            (r#"[{"delta":{"reasoning_content":"hmm"}}]"#, (0, 0, 3)),
            (
                r#"[{"delta":{"reasoning":"hmm","reasoning_content":"hmm"}}]"#,
                (0, 0, 3),
            ),
            (r#"[{"delta":{"refusal":"no"}}]"#, (0, 2, 0)),
            (
                r#"[{"delta":{"content":[{"type":"thinking","thinking":[{"type":"text","text":"hmm"}]}]}}]"#,
                (0, 0, 3),
            ),
            (
                r#"[{"message":{"content":[{"type":"thinking","thinking":"hm"},{"type":"text","text":"four"}]}}]"#,
                (4, 0, 2),
            ),
            (
                r#"[{"delta":{"content":"a"}},{"delta":{"content":"b"}}]"#,
                (2, 0, 0),
            ),
        ];
        for (json, expected) in cases {
            assert_eq!(written(json), expected, "{json}");
        }
    }

    #[test]
    fn a_line_break_between_tokens_is_taken_out() {
        let raw: &RawValue = serde_json::from_str("[\n1,\r\n \"a\\nb\"]").unwrap();
        assert_eq!(compact(raw).get(), r#"[1,"a\nb"]"#);
    }
}
