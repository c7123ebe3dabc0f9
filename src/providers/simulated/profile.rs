//! Simulated models: what they cost, how fast they are, and what they make of a prompt.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use xxhash_rust::xxh3::Xxh3;

use crate::request::{ChatRequest, Part, Role};

/// The key of `metadata` that tells a simulated provider what kind of prompt it has got:
/// `mmlu/hard`. The router gives it no meaning.
pub const PROMPT_TAG: &str = "simulated_prompt";
/// What a prompt without a tag is taken for.
const UNTAGGED: (&str, Difficulty) = ("mmlu", Difficulty::Middle);
/// Spread of speeds around a model's usual one: the standard deviation of their logarithm.
const SPEED_SPREAD: f64 = 0.3;

/// The figures the simulated models stand on.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recorded {
    /// Where the figures come from.
    pub source: String,
    /// The day they were derived.
    pub derived: String,
    /// How they were derived, and which of them are not recorded.
    pub method: String,
    /// The models.
    pub models: Vec<SimulatedModel>,
}

/// The recorded figures shipped with the program.
///
/// # Errors
/// When they do not parse: a damaged build.
pub fn recorded() -> Result<Recorded, serde_json::Error> {
    serde_json::from_str(include_str!("recorded.json"))
}

/// How hard a prompt is among its category: which third of the recorded prompts it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Difficulty {
    /// The third that all models together answered best.
    Easy,
    /// The middle third.
    Middle,
    /// The third they answered worst.
    Hard,
}

impl Difficulty {
    /// Every level, easiest first.
    pub const ALL: [Self; 3] = [Self::Easy, Self::Middle, Self::Hard];

    /// The word used in tags and reports.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Easy => "easy",
            Self::Middle => "middle",
            Self::Hard => "hard",
        }
    }
}

/// What decides how well a model answers a prompt.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PromptTraits {
    /// The recorded category that the prompt behaves like.
    pub category: String,
    /// How hard it is.
    pub difficulty: Difficulty,
    /// The user's words, hashed: two prompts that read alike are answered alike.
    pub text_hash: u64,
}

impl PromptTraits {
    /// The traits of a prompt that its author knows.
    #[must_use]
    pub fn new(category: &str, difficulty: Difficulty, text: &str) -> Self {
        Self {
            category: category.to_owned(),
            difficulty,
            text_hash: hash(0, &[text], 0),
        }
    }

    /// The traits of a request: from its [`PROMPT_TAG`], else those of a middling question of knowledge.
    #[must_use]
    pub fn of(request: &ChatRequest) -> Self {
        let tag = request.metadata.iter().find(|(key, _)| key == PROMPT_TAG);
        let (category, difficulty) = tag.and_then(|(_, value)| parse_tag(value)).unwrap_or(UNTAGGED);
        Self::new(category, difficulty, &last_words(request))
    }

    /// The value of [`PROMPT_TAG`] for a prompt with these traits.
    #[must_use]
    pub fn tag(&self) -> String {
        format!("{}/{}", self.category, self.difficulty.as_str())
    }
}

fn parse_tag(tag: &str) -> Option<(&str, Difficulty)> {
    let (category, level) = tag.split_once('/')?;
    let difficulty = Difficulty::ALL
        .into_iter()
        .find(|known| known.as_str() == level)?;
    Some((category, difficulty))
}

/// The text of the last turn of the user; empty when there is none.
#[must_use]
pub(super) fn last_words(request: &ChatRequest) -> String {
    let last = request
        .messages
        .iter()
        .rev()
        .find(|message| message.role == Role::User);
    let texts = last
        .into_iter()
        .flat_map(|message| &message.parts)
        .filter_map(|part| match part {
            Part::Text(text) => Some(text.as_str()),
            _ => None,
        });
    texts.collect::<Vec<_>>().join("\n")
}

/// One simulated model.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SimulatedModel {
    /// The name that a configuration uses as `upstream`.
    pub name: String,
    /// Its family.
    pub family: String,
    /// The real model whose record it plays.
    pub recorded_as: String,
    /// USD per million input tokens.
    pub input_usd_per_mtok: f64,
    /// USD per million output tokens.
    pub output_usd_per_mtok: f64,
    /// Usual time to the first token when it does not reason first.
    pub ttft_ms: f64,
    /// Usual speed of writing, reasoning included.
    pub tokens_per_second: f64,
    /// Share of the output that is reasoning, in [0,1).
    pub reasoning_share: f64,
    /// Per recorded category, easiest third first.
    pub strata: BTreeMap<String, [Stratum; 3]>,
}

/// What was recorded for one model on one third of a category: means of ten equal parts, in order, so that
/// a uniform draw of a part has exactly the recorded mean.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stratum {
    /// Scores in [0,1].
    pub scores: [f64; 10],
    /// Tokens of output, reasoning included.
    pub output_tokens: [u32; 10],
}

/// What a model makes of a prompt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    /// How good the answer is, in [0,1]. The router never sees it.
    pub score: f64,
    /// Tokens of output, reasoning included; at least 1.
    pub output_tokens: u32,
    /// Of those, reasoning that the client does not see.
    pub reasoning_tokens: u32,
    /// Time to the first visible token.
    pub ttft: Duration,
    /// Time to the end of the answer.
    pub total: Duration,
}

impl SimulatedModel {
    /// What this model makes of a prompt: the same for the same seed, model and prompt.
    /// A category that was not recorded is answered like the first one that was.
    #[must_use]
    pub fn outcome(&self, traits: &PromptTraits, seed: u64) -> Outcome {
        let thirds = self
            .strata
            .get(&traits.category)
            .or_else(|| self.strata.values().next());
        let stratum = thirds.map(|thirds| &thirds[traits.difficulty as usize]);
        let draw = |what: &str| uniform(seed, &[what, &self.name], traits.text_hash);
        let part = |what: &str| (draw(what) * 10.0) as usize % 10;
        let score = stratum.map_or(0.5, |stratum| stratum.scores[part("score")]);
        let output_tokens = stratum
            .map_or(100, |stratum| stratum.output_tokens[part("length")])
            .max(1);
        let reasoning_tokens = (f64::from(output_tokens) * self.reasoning_share) as u32;
        // Three uniforms make a variate of mean 0 and variance 1 that is bell-shaped enough for a speed.
        let bell = (draw("speed 1") + draw("speed 2") + draw("speed 3") - 1.5) * 2.0;
        let slowness = (SPEED_SPREAD * bell).exp();
        let per_token = slowness / self.tokens_per_second.max(1.0);
        let ttft = slowness * self.ttft_ms / 1000.0 + per_token * f64::from(reasoning_tokens);
        let total = ttft + per_token * f64::from(output_tokens - reasoning_tokens);
        Outcome {
            score,
            output_tokens,
            reasoning_tokens,
            ttft: Duration::from_secs_f64(ttft.max(0.0)),
            total: Duration::from_secs_f64(total.max(0.0)),
        }
    }

    /// The price of a call in dollars.
    #[must_use]
    pub fn cost_usd(&self, input_tokens: u64, output_tokens: u64) -> f64 {
        (self.input_usd_per_mtok * input_tokens as f64 + self.output_usd_per_mtok * output_tokens as f64)
            / 1e6
    }
}

/// A hash of words and a number.
pub(super) fn hash(seed: u64, words: &[&str], number: u64) -> u64 {
    let mut state = Xxh3::with_seed(seed);
    for word in words {
        state.update(word.as_bytes());
        state.update(&[0]);
    }
    state.update(&number.to_le_bytes());
    state.digest()
}

/// A number in [0,1) that depends on nothing but its arguments.
pub(super) fn uniform(seed: u64, words: &[&str], number: u64) -> f64 {
    (hash(seed, words, number) >> 11) as f64 / (1_u64 << 53) as f64
}
