//! Looking at what a request holds, before anyone is asked: kinds, sizes, pictures, documents, language.
//!
//! The look is cheap and bounded whatever is sent: long text is sampled, of an image only the header is decoded,
//! of a document a fixed amount, nothing is ever fetched, and nothing that is broken can do more than be noted.

mod base64_view;
mod clip;
mod image;
mod language;
mod link;
mod pdf;
mod tokens;

use base64_view::{Base64View, DataUrl};
use serde_json::Value;

use crate::arm::{Modalities, Modality};
pub use crate::content::{
    Broken, ClipFacts, ContentFacts, Detail, ImageFacts, PdfFacts, TextClass, TextFacts,
};
use crate::request::{ChatRequest, Message, Part, ResponseFormat, Role};
use tokens::Tally;

/// Tokens that a message costs beside its words.
const TOKENS_PER_MESSAGE: u64 = 4;

/// Looks at a request.
#[must_use]
pub fn look(request: &ChatRequest) -> ContentFacts {
    let mut facts = ContentFacts {
        modalities: Modalities::TEXT,
        tools: request.tools.len(),
        structured_output: request.response_format != ResponseFormat::Text,
        ..ContentFacts::default()
    };
    let mut tally = Tally::default();
    for (i, message) in request.messages.iter().enumerate() {
        if matches!(message.role, Role::User | Role::Assistant) {
            facts.turns += 1;
        }
        for call in &message.tool_calls {
            tally.add(&call.name);
            tally.add(&call.arguments);
        }
        for (j, part) in message.parts.iter().enumerate() {
            if let Err(reason) = look_at(part, &mut facts, &mut tally) {
                facts.broken.push(Broken {
                    path: format!("messages[{i}].content[{j}]"),
                    reason,
                });
            }
        }
    }
    for tool in &request.tools {
        tally.add(&tool.name);
        tally.add(tool.description.as_deref().unwrap_or_default());
        if let Some(schema) = &tool.parameters {
            tally.add_value(schema);
        }
    }
    if let ResponseFormat::JsonSchema { schema, .. } = &request.response_format {
        tally.add_value(schema);
    }
    facts.language = last_words(&request.messages).and_then(language::of);
    facts.code = tally.has_code();
    facts.text = tally.facts();
    facts.text.tokens += TOKENS_PER_MESSAGE * request.messages.len() as u64;
    facts
}

/// The last text that the user wrote.
fn last_words(messages: &[Message]) -> Option<&str> {
    let last = messages.iter().rev().find(|message| message.role == Role::User)?;
    last.parts.iter().rev().find_map(|part| match part {
        Part::Text(text) => Some(text.as_str()),
        _ => None,
    })
}

fn look_at(part: &Part, facts: &mut ContentFacts, tally: &mut Tally) -> Result<(), &'static str> {
    match part {
        Part::Text(text) | Part::Refusal(text) => {
            tally.add(text);
            Ok(())
        }
        Part::Image { url, detail } => {
            facts.modalities = facts.modalities.with(Modality::Image);
            facts.images.push(image::look(url, detail.as_deref())?);
            Ok(())
        }
        Part::Audio { data, .. } => {
            facts.modalities = facts.modalities.with(Modality::Audio);
            let bytes =
                Base64View::new(data).ok_or("is not base64; send the sound as base64 without a prefix")?;
            facts.audio.push(clip::look(&bytes));
            Ok(())
        }
        Part::Video { url } => {
            facts.modalities = facts.modalities.with(Modality::Video);
            facts.video.push(match DataUrl::parse(url) {
                None => link::check(url).map(|()| ClipFacts {
                    bytes: 0,
                    duration_ms: None,
                })?,
                Some(data) => clip::look(&data.bytes().ok_or(NOT_BASE64)?),
            });
            Ok(())
        }
        Part::File { data, file_id, .. } => file(data.as_deref(), file_id.is_some(), facts),
        Part::Other(value) => own_form(value, facts, tally),
    }
}

/// A picture or a document in Anthropic's form; anything else is read as text.
fn own_form(value: &Value, facts: &mut ContentFacts, tally: &mut Tally) -> Result<(), &'static str> {
    let is_image = match value["type"].as_str() {
        Some("image") => true,
        Some("document") => false,
        _ => {
            tally.add_value(value);
            return Ok(());
        }
    };
    let source = &value["source"];
    let text = |key: &str| source[key].as_str().unwrap_or_default();
    let bytes = match source["type"].as_str() {
        Some("base64") => Some(Base64View::new(text("data")).ok_or(NOT_BASE64)?),
        Some("url") => link::check(text("url")).map(|()| None)?,
        Some("text" | "content") => {
            tally.add_value(source);
            return Ok(());
        }
        _ => None,
    };
    if is_image {
        facts.modalities = facts.modalities.with(Modality::Image);
        facts.images.push(ImageFacts {
            size: bytes.as_ref().map(image::size).transpose()?,
            detail: Detail::Auto,
            link: bytes.is_none(),
        });
    } else {
        facts.modalities = facts.modalities.with(Modality::Pdf);
        let unknown = PdfFacts {
            bytes: 0,
            pages: None,
            text: None,
        };
        facts.pdfs.push(bytes.as_ref().map_or(Ok(unknown), pdf::look)?);
    }
    Ok(())
}

const NOT_BASE64: &str = "is a data URL whose data is not base64; send data:<type>;base64,<data>";

/// A file is a PDF unless its data URL says that it is something else.
fn file(data: Option<&str>, uploaded: bool, facts: &mut ContentFacts) -> Result<(), &'static str> {
    let Some(data) = data else {
        facts.modalities = facts.modalities.with(Modality::Pdf);
        facts.pdfs.push(PdfFacts {
            bytes: 0,
            pages: None,
            text: None,
        });
        return if uploaded {
            Ok(())
        } else {
            Err("is a file without data or id; send file_data or file_id")
        };
    };
    let url = DataUrl::parse(data);
    let kind = url.as_ref().map_or("application/pdf", |url| url.media_type);
    let bytes = match url {
        Some(url) => url.bytes(),
        None => Base64View::new(data),
    }
    .ok_or(NOT_BASE64)?;
    if kind.starts_with("image/") {
        facts.modalities = facts.modalities.with(Modality::Image);
        facts.images.push(image::look(data, None)?);
    } else if kind.starts_with("audio/") {
        facts.modalities = facts.modalities.with(Modality::Audio);
        facts.audio.push(clip::look(&bytes));
    } else if kind.starts_with("video/") {
        facts.modalities = facts.modalities.with(Modality::Video);
        facts.video.push(clip::look(&bytes));
    } else {
        facts.modalities = facts.modalities.with(Modality::Pdf);
        facts.pdfs.push(pdf::look(&bytes)?);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
