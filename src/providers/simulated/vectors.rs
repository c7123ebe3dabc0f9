//! Vectors for tests and the demonstration: a direction for each word, summed. Texts that share words lie near each
//! other; nothing more is claimed.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use serde_json::value::RawValue;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::completion::{Completion, FinishReason, Signals, Usage};
use crate::request::{ChatRequest, Part};

/// Length of a vector when the request does not say.
const DIMENSIONS: usize = 64;
/// Longest that may be asked for.
const MOST_DIMENSIONS: usize = 4_096;

/// The vectors of a request's texts.
pub(super) fn embed(request: &ChatRequest, seed: u64) -> Completion {
    let asked = |key: &str| request.extra(key).map(RawValue::get);
    let dimensions = asked("dimensions")
        .and_then(|text| text.parse().ok())
        .unwrap_or(DIMENSIONS)
        .clamp(1, MOST_DIMENSIONS);
    let in_base64 = asked("encoding_format") == Some("\"base64\"");
    let parts = request.messages.iter().flat_map(|message| &message.parts);
    let texts = parts.filter_map(|part| match part {
        Part::Text(text) => Some(text.as_str()),
        _ => None,
    });
    let mut tokens = 0;
    let data: Vec<_> = texts
        .enumerate()
        .map(|(index, text)| {
            tokens += text.len().div_ceil(4).max(1) as u64;
            let vector = direction(text, dimensions, seed);
            let embedding = if in_base64 {
                let bytes: Vec<u8> = vector.iter().flat_map(|value| value.to_le_bytes()).collect();
                json!(STANDARD.encode(bytes))
            } else {
                json!(vector)
            };
            json!({"object": "embedding", "index": index, "embedding": embedding})
        })
        .collect();
    Completion {
        upstream_id: None,
        // Plain numbers and strings always serialise.
        choices: serde_json::value::to_raw_value(&data).unwrap_or_else(|_| RawValue::NULL.to_owned()),
        extra: Vec::new(),
        usage: Some(Usage {
            input: tokens,
            ..Usage::default()
        }),
        usage_extra: None,
        finish: FinishReason::Stop,
        signals: Signals::default(),
    }
}

/// A unit vector.
fn direction(text: &str, dimensions: usize, seed: u64) -> Vec<f32> {
    let mut sum = vec![0.0_f32; dimensions];
    for word in text.split_whitespace() {
        for (index, value) in sum.iter_mut().enumerate() {
            let bits = xxh3_64_with_seed(word.as_bytes(), seed ^ ((index as u64 + 1) << 20));
            *value += if bits & 1 == 0 { 1.0 } else { -1.0 };
        }
    }
    let length = sum.iter().map(|value| value * value).sum::<f32>().sqrt();
    if length > 0.0 {
        sum.iter_mut().for_each(|value| *value /= length);
    }
    sum
}
