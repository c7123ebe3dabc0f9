//! An arm: one model at one provider that can serve a request. The catalogue of arms is built from the
//! configuration; nothing here knows a price, a key or an address.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// `provider/model`, the name that clients, logs and statistics use. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ArmId(Arc<str>);

impl ArmId {
    /// The id as written in the configuration.
    #[must_use]
    pub fn new(id: &str) -> Self {
        Self(Arc::from(id))
    }

    /// The whole id.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part before the first slash.
    #[must_use]
    pub fn provider(&self) -> &str {
        self.0.split_once('/').map_or("", |(provider, _)| provider)
    }

    /// The part after the first slash.
    #[must_use]
    pub fn model(&self) -> &str {
        self.0.split_once('/').map_or(&self.0, |(_, model)| model)
    }
}

impl fmt::Display for ArmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A kind of content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Modality {
    /// Written language or code.
    Text,
    /// Still pictures.
    Image,
    /// Sound.
    Audio,
    /// Moving pictures.
    Video,
    /// PDF documents.
    Pdf,
}

impl Modality {
    /// Every kind, in the order of the bits of [`Modalities`].
    pub const ALL: [Self; 5] = [Self::Text, Self::Image, Self::Audio, Self::Video, Self::Pdf];
}

impl fmt::Display for Modality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Image => "image",
            Self::Audio => "audio",
            Self::Video => "video",
            Self::Pdf => "pdf",
        })
    }
}

/// A set of modalities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Modalities(u8);

impl Modalities {
    /// Text alone.
    pub const TEXT: Self = Self(1);

    /// The set with `modality` added.
    #[must_use]
    pub const fn with(self, modality: Modality) -> Self {
        Self(self.0 | 1 << modality as u8)
    }

    /// Whether `modality` is in the set.
    #[must_use]
    pub const fn contains(self, modality: Modality) -> bool {
        self.0 & 1 << modality as u8 != 0
    }

    /// Whether every member of `other` is in this set.
    #[must_use]
    pub const fn covers(self, other: Self) -> bool {
        other.0 & !self.0 == 0
    }

    /// The members, in the order of [`Modality::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Modality> {
        Modality::ALL
            .into_iter()
            .filter(move |modality| self.contains(*modality))
    }
}

impl FromIterator<Modality> for Modalities {
    fn from_iter<I: IntoIterator<Item = Modality>>(members: I) -> Self {
        members.into_iter().fold(Self::default(), Self::with)
    }
}

impl Serialize for Modalities {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl<'de> Deserialize<'de> for Modalities {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Vec::<Modality>::deserialize(deserializer)?.into_iter().collect())
    }
}

/// What an arm is and can do.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Arm {
    /// `provider/model`.
    pub id: ArmId,
    /// The name that the provider uses for the model.
    pub upstream: Arc<str>,
    /// The model's family (`claude`, `gpt`, `mistral`): a new arm starts from its relatives.
    pub family: Arc<str>,
    /// Tokens of prompt and answer together.
    pub context_window: u32,
    /// Most tokens of one answer.
    pub max_output_tokens: u32,
    /// Kinds of content it accepts.
    pub modalities: Modalities,
    /// Whether it can call tools.
    pub tools: bool,
    /// Whether it can be held to a JSON schema.
    pub structured_output: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_splits_at_its_first_slash() {
        let id = ArmId::new("openrouter/meta/llama-3");
        assert_eq!((id.provider(), id.model()), ("openrouter", "meta/llama-3"));
    }

    #[test]
    fn a_set_covers_its_subsets_only() {
        let both = Modalities::TEXT.with(Modality::Image);
        assert!(both.covers(Modalities::TEXT));
        assert!(!Modalities::TEXT.covers(both));
        assert_eq!(both.iter().collect::<Vec<_>>(), [Modality::Text, Modality::Image]);
    }
}
