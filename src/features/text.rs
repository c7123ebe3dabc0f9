//! The text view: from a prompt to the vector that the policies are linear in, in microseconds.
//!
//! Order of the features: 1 (the bias), hashed n-grams through the SVD, principal components of the static word
//! table, soft clusters of it, surface. All but the bias and the clusters are standardised to a standard deviation
//! of one half over the training prompts and held within +-2; clusters sum to 3. Work is bounded by
//! [`VIEW_BYTES`](super::prompt::VIEW_BYTES), whatever the size of the prompt.

use super::artefact::{Artefact, ArtefactError};
use super::hashed::{HashProjection, WordHash};
use super::memo::{SomeWords, SplitMemo};
use super::numeric::{dampened, standardise};
use super::static_table::{Neighbourhood, StaticTable};
use super::words;
use crate::context::{WordSet, WordSetBuilder};
use crate::request::ChatRequest;

pub use super::hashed::{BUCKETS, NGrams};
pub use super::prompt::PromptText;
pub use super::surface::{SURFACE, SURFACE_NAMES, Surface};

/// Buckets of single words that the classifier looks at: a power of two, at most [`BUCKETS`].
///
/// Which kind a prompt is hangs on small words (how, may, write, into), that tf-idf and the static table weigh down.
/// In cross-validation on our own prompts they raise the share that is named rightly from 0.62 to 0.70.
const WORD_BUCKETS: usize = 1 << 10;
/// Length of the vector of word buckets, beside features with a standard deviation of one half.
const WORD_LENGTH: f32 = 5.0;

/// Kind of the artefact that holds a text view.
pub const TEXT_VIEW: &str = "text-view";

/// The user's words of `request`. See [`PromptText::of`].
#[must_use]
pub fn prompt_text(request: &ChatRequest) -> PromptText {
    PromptText::of(request)
}

/// What the classifier looks at: the pooled vector of the static table (unit length), the hashed n-grams through the
/// SVD, the standardised surface, and then the words by hash: 1 + ln of each bucket's count, scaled to one length.
/// Few of the last are not 0.
#[derive(Clone, Debug, PartialEq)]
pub struct Words {
    dense: Vec<f32>,
    /// Buckets that are not 0, in increasing order.
    sparse: Vec<(u16, f32)>,
    set: WordSet,
}

impl Words {
    /// Which words there are, in more buckets than the classifier looks at.
    #[must_use]
    pub const fn set(&self) -> &WordSet {
        &self.set
    }

    fn new(dense: Vec<f32>, counts: &[u16; WORD_BUCKETS], set: WordSet) -> Self {
        let filled = || (0..).zip(counts).filter(|(_, count)| **count > 0);
        let mut sparse: Vec<(u16, f32)> = Vec::with_capacity(filled().count());
        sparse.extend(filled().map(|(bucket, &count)| (bucket, dampened(count.into()))));
        let squares: f32 = sparse.iter().map(|(_, share)| share * share).sum();
        let scale = if squares > 0.0 {
            WORD_LENGTH / squares.sqrt()
        } else {
            0.0
        };
        sparse.iter_mut().for_each(|(_, share)| *share *= scale);
        Self { dense, sparse, set }
    }

    /// The values that are not 0, or may be so by chance, with their places.
    pub fn iter(&self) -> impl Iterator<Item = (usize, f32)> {
        let dense = self.dense.iter().copied().enumerate();
        let offset = self.dense.len();
        let sparse = self.sparse.iter();
        dense.chain(sparse.map(move |(bucket, value)| (offset + usize::from(*bucket), *value)))
    }

    /// Places of the word buckets that are not 0.
    pub(super) fn sparse_places(&self) -> impl Iterator<Item = usize> {
        let offset = self.dense.len();
        self.sparse
            .iter()
            .map(move |(bucket, _)| offset + usize::from(*bucket))
    }

    /// All values, as fitting needs them.
    #[must_use]
    pub fn to_vec(&self) -> Vec<f32> {
        let mut values = vec![0.0; self.len()];
        self.iter().for_each(|(place, value)| values[place] = value);
        values
    }

    /// Number of values, zeros among them.
    #[must_use]
    pub fn len(&self) -> usize {
        self.dense.len() + WORD_BUCKETS
    }

    /// Never: there is a place for every bucket.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        false
    }
}

/// Room to look at prompts in, one after another: what is kept in it from one to the next saves time.
#[derive(Clone, Debug, Default)]
pub struct Workspace {
    ngrams: NGrams,
    some_words: SomeWords,
    ids: Vec<u16>,
    memo: SplitMemo,
}

impl Workspace {
    /// One for many prompts: it also remembers how words are split. Takes about 100 KB.
    #[must_use]
    pub fn lasting() -> Self {
        Self {
            memo: SplitMemo::new(),
            ..Self::default()
        }
    }
}

/// The words of a prompt, as [`Words::set`] has them.
#[must_use]
pub fn word_set(prompt: &PromptText) -> WordSet {
    let mut set = WordSetBuilder::default();
    words::each(prompt.words(), |word| set.insert(WordHash::of(word).bucket()));
    set.build()
}

/// The frozen projection from words and surface to features. Shared by all threads, never changed.
#[derive(Clone, Debug)]
pub struct TextView {
    hashed: HashProjection,
    table: StaticTable,
    neighbourhood: Neighbourhood,
    surface: Standard,
    version: u32,
}

/// Mean and inverse standard deviation of each surface feature.
#[derive(Clone, Debug)]
pub(super) struct Standard {
    mean: Vec<f32>,
    scale: Vec<f32>,
}

impl Standard {
    pub(super) fn read(artefact: &Artefact) -> Result<Self, ArtefactError> {
        Ok(Self {
            mean: artefact.floats("surface.mean", 1, SURFACE)?,
            scale: artefact.floats("surface.scale", 1, SURFACE)?,
        })
    }

    pub(super) fn extract(&self, surface: &Surface, out: &mut Vec<f32>) {
        let values = surface.values().iter().zip(&self.mean).zip(&self.scale);
        out.extend(values.map(|((value, mean), scale)| standardise(*value, *mean, *scale)));
    }
}

impl TextView {
    /// Reads a view from the bytes of its artefact.
    ///
    /// # Errors
    /// When the bytes are not a text view, or are corrupt.
    pub fn read(bytes: &[u8]) -> Result<Self, ArtefactError> {
        Self::from_artefact(&Artefact::read(TEXT_VIEW, bytes)?)
    }

    /// The view that `artefact` describes.
    ///
    /// # Errors
    /// When a tensor is missing or of the wrong shape.
    pub fn from_artefact(artefact: &Artefact) -> Result<Self, ArtefactError> {
        let table = StaticTable::read(artefact)?;
        Ok(Self {
            hashed: HashProjection::read(artefact)?,
            neighbourhood: Neighbourhood::read(artefact, "word", table.dimensions())?,
            table,
            surface: Standard::read(artefact)?,
            version: artefact.version(),
        })
    }

    /// Length of every feature vector.
    #[must_use]
    pub fn dimensions(&self) -> usize {
        1 + self.hashed.width() + self.neighbourhood.width() + SURFACE
    }

    /// Where the surface features begin; everything before is meaning.
    #[must_use]
    pub fn surface_offset(&self) -> usize {
        self.dimensions() - SURFACE
    }

    /// The feature version: statistics learned under another one must not be used.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Both views of a prompt in one pass over its words: the features, as [`TextView::extract`] gives them, and what
    /// the classifier looks at. What `workspace` was used for before makes no difference but to the time it takes.
    #[must_use]
    pub fn look(
        &self,
        prompt: &PromptText,
        surface: &Surface,
        workspace: &mut Workspace,
    ) -> (Vec<f32>, Words) {
        let Workspace {
            ngrams,
            some_words,
            ids,
            memo,
        } = workspace;
        ngrams.clear();
        some_words.clear();
        ids.clear();
        let mut counts = [0_u16; WORD_BUCKETS];
        let mut set = WordSetBuilder::default();
        words::each(prompt.words(), |word| {
            let hash = ngrams.push(word);
            counts[usize::from(hash.bucket()) % WORD_BUCKETS] += 1;
            set.insert(hash.bucket());
            some_words.push(word, hash.whole());
        });
        memo.split_all(&self.table, some_words, ids);
        let mut pooled = self.table.pool(ids);
        let mut features = Vec::with_capacity(self.dimensions());
        features.push(1.0);
        self.hashed.extract(ngrams, &mut features);
        let hashed = 1..features.len();
        let mut dense = Vec::with_capacity(self.word_dimensions() - WORD_BUCKETS);
        // A unit vector of this many values is small beside the standardised rest.
        let scale = (self.table.dimensions() as f32).sqrt() * 0.5;
        dense.extend(pooled.iter().map(|value| value * scale));
        dense.extend_from_slice(&features[hashed]);
        self.neighbourhood.extract(&mut pooled, &mut features);
        let surface_at = features.len();
        self.surface.extract(surface, &mut features);
        dense.extend_from_slice(&features[surface_at..]);
        (features, Words::new(dense, &counts, set.build()))
    }

    /// Replaces `out` by the features: [`TextView::dimensions`] finite values, the first of them 1.
    pub fn extract(&self, prompt: &PromptText, surface: &Surface, out: &mut Vec<f32>) {
        *out = self.look(prompt, surface, &mut Workspace::default()).0;
    }

    /// What the classifier looks at; [`TextView::word_dimensions`] finite values.
    #[must_use]
    pub fn words(&self, prompt: &PromptText, surface: &Surface) -> Words {
        self.look(prompt, surface, &mut Workspace::default()).1
    }

    /// Length of what [`TextView::words`] gives.
    #[must_use]
    pub fn word_dimensions(&self) -> usize {
        self.table.dimensions() + self.hashed.width() + SURFACE + WORD_BUCKETS
    }

    /// The features of a bare prompt, as recorded outcomes hold them.
    #[must_use]
    pub fn features(&self, text: &str) -> Vec<f32> {
        let prompt = PromptText::plain(text);
        let mut out = Vec::new();
        self.extract(&prompt, &Surface::plain(&prompt), &mut out);
        out
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::LazyLock;

    use proptest::prelude::*;
    use tokenizers::Tokenizer;

    use super::*;
    use crate::request::{Message, Role};

    static SHIPPED: LazyLock<(Vec<u8>, TextView)> = LazyLock::new(|| {
        let bytes = std::fs::read(models().join("text-view.bin")).unwrap();
        let view = TextView::read(&bytes).unwrap();
        (bytes, view)
    });

    fn models() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("models")
    }

    fn cosine(a: &[f32], b: &[f32]) -> f32 {
        let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f32>();
        dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
    }

    #[test]
    fn the_shipped_view_tells_topics_apart() {
        let view = &SHIPPED.1;
        let meaning = |text| view.features(text)[1..view.surface_offset()].to_vec();
        let code = meaning("Write a Python function that reverses a linked list");
        let more_code = meaning("Implement quicksort in Rust and return the sorted array");
        let law = meaning("Is a landlord liable for damage caused by a tenant under common law?");
        assert!(cosine(&code, &more_code) > cosine(&code, &law) + 0.1);
        assert_eq!(view.dimensions(), 57);
    }

    #[test]
    fn a_corrupt_view_is_refused() {
        let mut bytes = SHIPPED.0.clone();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        assert_eq!(TextView::read(&bytes).unwrap_err(), ArtefactError::Checksum);
        assert_eq!(TextView::read(b"<html>").unwrap_err(), ArtefactError::Magic);
        let empty = Artefact::new(TEXT_VIEW, Vec::new()).unwrap();
        assert!(matches!(
            TextView::from_artefact(&empty),
            Err(ArtefactError::Tensor { .. })
        ));
    }

    #[test]
    fn a_request_and_its_bare_prompt_share_their_meaning() {
        let view = &SHIPPED.1;
        let text = "How do I cancel my order?";
        let request = super::super::test_request(vec![
            Message::text(Role::System, "You help customers of a shop."),
            Message::text(Role::User, text),
        ]);
        let prompt = prompt_text(&request);
        let mut features = Vec::new();
        view.extract(&prompt, &Surface::of(&request, &prompt), &mut features);
        let bare = view.features(text);
        assert_eq!(features[..view.surface_offset()], bare[..view.surface_offset()]);
        assert_ne!(features, bare, "the context shows in the surface");
    }

    #[test]
    fn our_word_pieces_are_those_of_the_reference_tokenizer() {
        let reference = Tokenizer::from_file(models().join("static-minilm-256-i8/tokenizer.json")).unwrap();
        let unknown = reference.token_to_id("[UNK]").unwrap();
        let texts = [
            "Write a Rust function that reverses a string; it's O(n)!",
            "Café déjà-vu, naïve façade: 3.14159 & 1,000,000 unaffable",
            "東京の人口是多少？ 한국어 문장 Straße Привет мир, ёлка",
            "def f(x):\n    return x**2  # comment <b>html</b> $5.00 @user_name",
            "antidisestablishmentarianism xylographically \u{1f642} tab\tend",
        ];
        for text in texts {
            let expected: Vec<u16> = reference
                .encode(text, false)
                .unwrap()
                .get_ids()
                .iter()
                .filter(|id| **id != unknown)
                .map(|id| *id as u16)
                .collect();
            let mut ids = Vec::new();
            words::each(text, |word| SHIPPED.1.table.split(word, &mut ids));
            assert_eq!(ids, expected, "{text}");
        }
    }

    #[test]
    fn the_classifier_sees_each_word_and_not_its_case() {
        let view = &SHIPPED.1;
        let buckets = |text| {
            let prompt = PromptText::plain(text);
            let words = view.words(&prompt, &Surface::plain(&prompt)).to_vec();
            assert_eq!(words.len(), view.word_dimensions());
            words[words.len() - WORD_BUCKETS..].to_vec()
        };
        let hi = buckets("hi");
        assert_eq!(hi.iter().filter(|value| **value != 0.0).count(), 1);
        assert!((hi.iter().sum::<f32>() - WORD_LENGTH).abs() < 1e-5);
        assert_eq!(buckets("Hi HI"), hi, "one word twice is still the only one");
        assert_ne!(buckets("bye"), hi);
        assert_eq!(buckets(""), vec![0.0; WORD_BUCKETS]);
    }

    #[test]
    fn a_huge_prompt_costs_no_more_than_its_ends() {
        let (head, tail) = ("solve x = 2 ".repeat(200), " and explain why".repeat(200));
        let huge = format!("{head}{}{tail}", "\u{4e00}".repeat(400_000));
        assert_eq!(SHIPPED.1.features(&huge).len(), SHIPPED.1.dimensions());
        assert!(PromptText::plain(&huge).words().len() < 4200);
    }

    proptest! {
        #[test]
        fn features_are_finite_bounded_and_deterministic(text in any::<String>(), times in 1_usize..50) {
            let view = &SHIPPED.1;
            let text = text.repeat(times);
            let features = view.features(&text);
            prop_assert_eq!(features.len(), view.dimensions());
            prop_assert_eq!(features[0], 1.0);
            prop_assert!(features.iter().all(|value| value.is_finite() && value.abs() <= 3.0));
            prop_assert_eq!(&view.features(&text), &features);
            let prompt = PromptText::plain(&text);
            let mut used = Workspace::lasting();
            for _ in 0..2 {
                let (again, words) = view.look(&prompt, &Surface::plain(&prompt), &mut used);
                prop_assert_eq!(&again, &features);
                prop_assert_eq!(words.set(), &word_set(&prompt));
                prop_assert_eq!(words, view.words(&prompt, &Surface::plain(&prompt)));
            }
        }
    }
}
