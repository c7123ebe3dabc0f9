//! What is known of arms before the first request: sufficient statistics from recorded outcomes.

mod fit;

use std::collections::BTreeMap;
use std::sync::Arc;

use memchr::memmem;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{Xxh3Default, xxh3_64};

use super::View;
use super::linear::LinearPrior;

pub(super) use fit::RIDGE;
pub use fit::{LabelledOutcome, SeedBuilder, SeedSettings};

/// Version of the seed's file format.
pub const SEED_FORMAT: u32 = 1;
/// What stands before the checksum, the last member of the file.
const CHECKSUM: &[u8] = b",\"checksum\":\"";
/// Prompts of no effect that a category's offset is shrunk by.
pub const CATEGORY_SHRINKAGE: f64 = 8.0;
/// Share of what other models tell between prompts that a new one is expected to have.
const BORROWED: f64 = 0.5;
/// Observations that the level and the shape of a prior borrowed from relatives count for. Of scores that vary by .2
/// around their mean, three say as little as a level that may be off by .26.
const RELATIVES_PRECISION: f64 = 3.0;
const RELATIVES_SHAPE: f64 = 400.0;
/// Quality points by which models that stand side by side differ where one costs e times as much as the other: .050 over
/// the 78 models of the six recorded sources, each source around its own mean; .042 to .054 where one is left out.
const PRICE_SLOPE: f64 = 0.05;
/// Logarithms of a ratio of costs beyond which no recorded source tells anything.
const FARTHEST: f64 = 3.5;

/// Priors of known models, as trained and shipped, or as learned from a user's own log.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Seed {
    /// [`SEED_FORMAT`].
    pub format: u32,
    /// Version of the projection of each view that the statistics belong to.
    pub view_versions: BTreeMap<View, String>,
    /// One entry a model.
    pub arms: Vec<ArmSeed>,
    /// The logs that some of the arms were fitted from, and how far each was read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub learned: Vec<LogMark>,
    /// Tells one seed from another: of the file's bytes without the checksum, set by whoever reads it.
    #[serde(skip)]
    pub digest: u64,
}

/// A place in a decision log up to which a seed has learned from it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogMark {
    /// The log's name.
    pub log: String,
    /// The last entry of the feedback log that was learned.
    pub feedback_seq: i64,
    /// The last entry of the attempt log that was learned.
    pub attempt_seq: i64,
    /// The last entry of the log of late embeddings that was learned.
    pub late_seq: i64,
    /// The models that were fitted from it.
    pub arms: Vec<String>,
}

/// What of a model without a seed tells which others it is like.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Traits<'a> {
    /// Its family; empty when unknown.
    pub family: &'a str,
    /// Dollars of a call; 0 when unknown.
    pub cost_usd: f64,
    /// Logarithm of that over the geometric mean of the models it stands beside; 0 when unknown.
    pub log_cost_ratio: f64,
}

/// Why a seed cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SeedError {
    /// Not what training writes.
    #[error("{0}")]
    Unreadable(String),
    /// Written by another release.
    #[error("it has format {0}, this release reads {SEED_FORMAT}")]
    Format(u32),
    /// Not the bytes that training wrote.
    #[error("it is damaged: its checksum is that of other content")]
    Checksum,
    /// Numbers that no training writes.
    #[error("the prior of {0} is damaged")]
    Damaged(String),
}

/// Prior of one model.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ArmSeed {
    /// The model's name: an arm's model part, or its whole id.
    pub model: String,
    /// Family, for new relatives.
    #[serde(default)]
    pub family: String,
    /// Labelled prompts behind it.
    pub prompts: u64,
    /// Mean reward.
    pub mean_quality: f64,
    /// Mean dollars of a call at the recorded prices; 0 when unknown.
    pub mean_cost_usd: f64,
    /// Reward noise relative to m (1 - m).
    pub dispersion: f64,
    /// Weights of the reward, per view.
    pub quality: BTreeMap<View, LinearPrior>,
    /// What each category adds to the weights' prediction, with the prompts behind it.
    #[serde(default)]
    pub categories: BTreeMap<String, CategorySeed>,
    /// Weights of the logarithm of the answer's length, with its residual variance.
    pub length: Option<LengthSeed>,
}

/// What a category adds to the prediction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CategorySeed {
    /// Quality points, already shrunk.
    pub offset: f64,
    /// Labelled prompts behind it.
    pub prompts: f64,
}

/// Prior of the length of an answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LengthSeed {
    /// The view whose features explain it.
    pub view: View,
    /// Weights of ln(tokens).
    pub weights: LinearPrior,
    /// Residual variance of ln(tokens).
    pub variance: f64,
}

impl ArmSeed {
    fn is_usable(&self) -> bool {
        let share = |number: f64| (0.0..=1.0).contains(&number);
        let offsets = self.categories.values();
        share(self.mean_quality)
            && (0.0..1e6).contains(&self.mean_cost_usd)
            && (0.0..1e3).contains(&self.dispersion)
            && self.quality.values().all(LinearPrior::is_usable)
            && offsets
                .clone()
                .all(|known| known.offset.abs() <= 2.0 && known.prompts >= 0.0)
            && self
                .length
                .as_ref()
                .is_none_or(|length| length.weights.is_usable() && (0.0..1e3).contains(&length.variance))
    }
}

impl Seed {
    /// Reads a seed from the bytes of its file.
    ///
    /// # Errors
    /// When they are not a seed, hold what cannot be, or have a checksum that is not theirs.
    pub fn parse(bytes: &[u8]) -> Result<Self, SeedError> {
        let digest = digest(bytes)?;
        let mut seed: Self =
            serde_json::from_slice(bytes).map_err(|error| SeedError::Unreadable(error.to_string()))?;
        seed.check()?;
        seed.digest = digest;
        Ok(seed)
    }

    /// The bytes of its file: the object's last member is the checksum of what it is without it.
    ///
    /// # Errors
    /// Never for what was fitted: finite numbers and strings.
    pub fn to_bytes(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut bytes = serde_json::to_vec(self)?;
        let sum = format!("{:016x}\"}}", xxh3_64(&bytes));
        bytes.pop();
        bytes.extend_from_slice(CHECKSUM);
        bytes.extend_from_slice(sum.as_bytes());
        Ok(bytes)
    }

    /// Whether every number in it can be: a file that was altered is refused as a whole.
    ///
    /// # Errors
    /// Another format, or an arm whose prior cannot be solved.
    pub fn check(&self) -> Result<(), SeedError> {
        if self.format != SEED_FORMAT {
            return Err(SeedError::Format(self.format));
        }
        match self.arms.iter().find(|arm| !arm.is_usable()) {
            Some(arm) => Err(SeedError::Damaged(arm.model.clone())),
            None => Ok(()),
        }
    }

    /// The seed of a model: by its whole id, by the part after the provider, or by the longest name that one is a
    /// dated form of the other (`gpt-4o-mini` and `gpt-4o-mini-2024-07-18`).
    #[must_use]
    pub fn of(&self, id: &str) -> Option<&ArmSeed> {
        let model = id.split_once('/').map_or(id, |(_, model)| model);
        let named = |name: &str| self.arms.iter().find(|arm| arm.model == name);
        named(id).or_else(|| named(model)).or_else(|| {
            self.arms
                .iter()
                .filter(|arm| {
                    let name = arm.model.rsplit('/').next().unwrap_or(&arm.model);
                    let own = model.rsplit('/').next().unwrap_or(model);
                    name == own || dated(own, name) || dated(name, own)
                })
                .max_by_key(|arm| arm.model.len())
        })
    }

    /// What a model without a seed is worth to learn of each that has one: its relatives (same family) most, and those
    /// near in price.
    fn kinship(arm: &ArmSeed, traits: &Traits<'_>) -> f64 {
        let kin = if !traits.family.is_empty() && arm.family == traits.family {
            3.0
        } else {
            1.0
        };
        let tiers = if arm.mean_cost_usd > 0.0 && traits.cost_usd > 0.0 {
            (arm.mean_cost_usd / traits.cost_usd).ln().abs()
        } else {
            3.0
        };
        kin * (-tiers).exp()
    }

    /// A prior for a model without a seed: half of the mean weights of the others, each by its kinship, for of what other
    /// sources tell between prompts a third to a half holds on a new one; at the level that its price lets expect.
    ///
    /// The levels of its kin say nothing: they were reached on prompts of their own, easy or hard. Between the models of
    /// one source they correlate with what is true by -.5 to .4, the logarithm of the cost by .1 to .85 (two models aside).
    #[must_use]
    pub fn relatives(&self, traits: &Traits<'_>, view: View, dimensions: usize) -> Option<LinearPrior> {
        let mut sum = vec![0.0; dimensions];
        // Of the kin, whose weights bring it with them, and of all.
        let (mut theirs, mut total) = (0.0, 0.0);
        let (mut level, mut count) = (0.0, 0.0);
        for arm in &self.arms {
            let prior = arm.quality.get(&view);
            let Some(prior) = prior.filter(|prior| prior.dimensions() == dimensions) else {
                continue;
            };
            let weight = Self::kinship(arm, traits);
            let mean = prior.mean()?;
            sum.iter_mut().zip(mean).for_each(|(sum, w)| *sum += weight * w);
            theirs += weight * arm.mean_quality;
            total += weight;
            level += arm.mean_quality;
            count += 1.0;
        }
        if total <= 0.0 {
            return None;
        }
        sum.iter_mut().for_each(|weight| *weight *= BORROWED / total);
        let dearer = traits.log_cost_ratio.clamp(-FARTHEST, FARTHEST);
        *sum.first_mut()? += level / count + PRICE_SLOPE * dearer - BORROWED * theirs / total;
        Some(LinearPrior::with_intercept(
            &sum,
            RELATIVES_PRECISION,
            RELATIVES_SHAPE,
        ))
    }
}

/// The digest of a seed's file without its checksum, which must be the same. Files of earlier releases have none.
fn digest(bytes: &[u8]) -> Result<u64, SeedError> {
    let Some(at) = memmem::rfind(bytes, CHECKSUM) else {
        return Ok(xxh3_64(bytes));
    };
    let (content, told) = (&bytes[..at], &bytes[at + CHECKSUM.len()..]);
    let mut hash = Xxh3Default::new();
    hash.update(content);
    hash.update(b"}");
    let digest = hash.digest();
    if told.trim_ascii_end() == format!("{digest:016x}\"}}").as_bytes() {
        Ok(digest)
    } else {
        Err(SeedError::Checksum)
    }
}

/// Whether `long` is `short` with a date or a release appended.
fn dated(long: &str, short: &str) -> bool {
    long.strip_prefix(short).is_some_and(|rest| {
        rest.starts_with('-') && rest[1..].chars().all(|c| c.is_ascii_digit() || c == '-')
            || rest == "-latest"
    })
}

/// A flat prior: quality about one half for every prompt, worth `precision` observations.
#[must_use]
pub fn flat_prior(dimensions: usize, precision: f64) -> Arc<LinearPrior> {
    let mut base = vec![0.0; dimensions];
    if let Some(intercept) = base.first_mut() {
        *intercept = 0.5;
    }
    Arc::new(LinearPrior::around(&base, precision))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Contexts;

    /// An answer to the only prompt there is.
    fn outcome(model: &str, reward: f64, cost_usd: Option<f64>) -> LabelledOutcome<'_> {
        LabelledOutcome {
            model,
            category: None,
            contexts: Contexts {
                text: Some(&[1.0]),
                embedding: None,
                words: &[],
            },
            reward,
            length: None,
            cost_usd,
        }
    }

    #[test]
    fn names_match_with_and_without_provider_and_date() {
        let mut builder = SeedBuilder::default();
        for model in ["gpt-4o-mini-2024-07-18", "gpt-4o"] {
            builder.add(&outcome(model, 0.5, None));
        }
        let seed = builder.build(&SeedSettings::default(), BTreeMap::new());
        let found = |id: &str| seed.of(id).map(|arm| arm.model.as_str());
        assert_eq!(found("openai/gpt-4o-mini"), Some("gpt-4o-mini-2024-07-18"));
        assert_eq!(found("openai/gpt-4o-2024-08-06"), Some("gpt-4o"));
        assert_eq!(found("openai/gpt-4"), None);
    }

    /// Models that reach .2, at a cent, and .6, at a dollar.
    fn two_models() -> Seed {
        let mut builder = SeedBuilder::default();
        for (model, reward, cost_usd) in [("cheap", 0.2, 0.01), ("dear", 0.6, 1.0)] {
            for _ in 0..1000 {
                builder.add(&outcome(model, reward, Some(cost_usd)));
            }
        }
        builder.build(&SeedSettings::default(), BTreeMap::new())
    }

    #[test]
    fn a_byte_that_was_flipped_is_noticed_and_a_file_without_a_checksum_is_read() {
        let bytes = two_models().to_bytes().unwrap();
        let digest = Seed::parse(&bytes).unwrap().digest;
        let at = memmem::find(&bytes, b"\"cheap\"").unwrap() + 1;
        let mut flipped = bytes.clone();
        flipped[at] ^= 1;
        assert_eq!(Seed::parse(&flipped).err(), Some(SeedError::Checksum));
        let mut flipped = bytes.clone();
        let in_sum = bytes.len() - 4;
        flipped[in_sum] ^= 1;
        assert_eq!(Seed::parse(&flipped).err(), Some(SeedError::Checksum));
        // As earlier releases wrote it: what was learned on top of it still belongs to it.
        let bare = serde_json::to_vec(&two_models()).unwrap();
        assert!(bare.len() < bytes.len());
        assert_eq!(Seed::parse(&bare).unwrap().digest, digest);
    }

    #[test]
    fn the_shipped_seed_has_a_checksum() {
        let shipped = include_bytes!("../../models/seed-prior.json");
        assert!(memmem::rfind(shipped, CHECKSUM).is_some());
        assert!(Seed::parse(shipped).is_ok());
    }

    fn level(traits: &Traits<'_>) -> f64 {
        let prior = two_models().relatives(traits, View::Text, 1).unwrap();
        prior.mean().unwrap()[0]
    }

    #[test]
    fn a_new_model_starts_from_the_level_that_its_price_lets_expect() {
        // In the middle, whichever its kin are like.
        for cost_usd in [0.0, 0.01, 1.0] {
            let traits = Traits {
                cost_usd,
                ..Traits::default()
            };
            assert!((level(&traits) - 0.4).abs() < 0.01, "{}", level(&traits));
        }
        // e times as dear as what it stands beside: .05 more; a thousand times cheaper: no further than e to the 3.5.
        for (log_cost_ratio, expected) in [(1.0, 0.45), (-1.0, 0.35), (-6.9, 0.4 - 3.5 * 0.05)] {
            let traits = Traits {
                log_cost_ratio,
                ..Traits::default()
            };
            assert!((level(&traits) - expected).abs() < 0.01, "{}", level(&traits));
        }
    }
}
