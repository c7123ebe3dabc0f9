//! What a request holds, as found by looking at it: kinds, sizes, pictures, documents, language.
//!
//! The facts are found in `features`, judged in `candidates` and priced in `pricing`.

use serde::Serialize;

use crate::arm::Modalities;

/// What a request holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ContentFacts {
    /// Kinds of content; text is always among them.
    pub modalities: Modalities,
    /// Its text, of all messages, tool definitions and schemas together.
    pub text: TextFacts,
    /// Images, in order.
    pub images: Vec<ImageFacts>,
    /// PDF documents, in order.
    pub pdfs: Vec<PdfFacts>,
    /// Sound, in order.
    pub audio: Vec<ClipFacts>,
    /// Moving pictures, in order.
    pub video: Vec<ClipFacts>,
    /// Tools offered.
    pub tools: usize,
    /// Whether the answer must be JSON.
    pub structured_output: bool,
    /// Whether a message holds code.
    pub code: bool,
    /// The language of the last words of the user, by its two-letter code.
    pub language: Option<&'static str>,
    /// Messages of the user and of the model.
    pub turns: usize,
    /// Parts that no provider could take.
    pub broken: Vec<Broken>,
}

/// The text of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct TextFacts {
    /// Bytes of UTF-8.
    pub bytes: u64,
    /// Tokens by estimate, as the o200k vocabulary would count them.
    pub tokens: u64,
    /// The class that most of its tokens belong to. Corrections of the estimate are learned for each class.
    pub class: TextClass,
}

/// Classes of text that differ in bytes per token.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum TextClass {
    /// Language in an alphabet.
    #[default]
    Prose,
    /// Programs.
    Code,
    /// Chinese, Japanese, Korean.
    Cjk,
    /// JSON and the like.
    Json,
}

impl TextClass {
    /// Every class.
    pub const ALL: [Self; 4] = [Self::Prose, Self::Code, Self::Cjk, Self::Json];
}

/// An image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ImageFacts {
    /// Width and height in pixels; `None` for a link, which is never fetched, or an unknown format.
    pub size: Option<(u32, u32)>,
    /// How closely the client asks it to be looked at.
    pub detail: Detail,
    /// Whether it is a link.
    pub link: bool,
}

/// How closely an image is to be looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Detail {
    /// As the provider likes.
    #[default]
    Auto,
    /// Coarsely.
    Low,
    /// Closely.
    High,
}

/// A PDF document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct PdfFacts {
    /// Bytes; 0 for a document that lies at the provider or behind a link.
    pub bytes: u64,
    /// Pages; `None` when they could not be counted cheaply.
    pub pages: Option<u32>,
    /// Whether it has text (true) or is scanned pictures (false); `None`: unknown.
    pub text: Option<bool>,
}

/// A piece of sound or video.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ClipFacts {
    /// Bytes; 0 for a link.
    pub bytes: u64,
    /// Length in milliseconds; `None` when the format does not tell cheaply.
    pub duration_ms: Option<u64>,
}

/// A part that no provider could take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Broken {
    /// Where: `messages[2].content[0]`.
    pub path: String,
    /// What is wrong with it and what to do, without a full stop.
    pub reason: &'static str,
}
