//! The demonstration's prompts: templates with slots, so that thousands of different ones come out.

use std::collections::BTreeMap;

use rand::Rng;
use rand::seq::SliceRandom;
use serde::Deserialize;

use crate::providers::simulated::{Difficulty, PromptTraits};

/// Templates by category, with the words for their slots.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PromptBook {
    slots: BTreeMap<String, Vec<String>>,
    category: Vec<Category>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Category {
    name: String,
    recorded_as: String,
    easy: Vec<String>,
    middle: Vec<String>,
    hard: Vec<String>,
}

/// One prompt, ready to be asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Prompt {
    /// The category it was written for (`support_faq`).
    pub category: String,
    /// What the user says.
    pub text: String,
    /// What decides how well each model answers it. The router never sees this.
    pub traits: PromptTraits,
}

/// Why the prompts cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PromptBookError {
    /// Not the TOML that is expected.
    #[error("the demonstration's prompts do not parse: {0}")]
    Toml(#[from] toml::de::Error),
    /// A category or a slot has nothing to draw from.
    #[error("the demonstration's prompts have an empty list: {0}")]
    Empty(String),
}

impl PromptBook {
    /// The prompts shipped with the program.
    ///
    /// # Errors
    /// [`PromptBookError`] when they are damaged.
    pub fn shipped() -> Result<Self, PromptBookError> {
        Self::parse(include_str!("prompts.toml"))
    }

    fn parse(text: &str) -> Result<Self, PromptBookError> {
        let book: Self = toml::from_str(text)?;
        let empty = |name: &str| Err(PromptBookError::Empty(name.to_owned()));
        if book.category.is_empty() {
            return empty("category");
        }
        if let Some((name, _)) = book.slots.iter().find(|(_, words)| words.is_empty()) {
            return empty(name);
        }
        let bare = |category: &&Category| Difficulty::ALL.iter().any(|level| category.of(*level).is_empty());
        match book.category.iter().find(bare) {
            Some(category) => empty(&category.name),
            None => Ok(book),
        }
    }

    /// The categories' names, in the order of the file.
    pub fn categories(&self) -> impl Iterator<Item = &str> {
        self.category.iter().map(|category| category.name.as_str())
    }

    /// A prompt at random: every category and every difficulty equally often.
    pub fn draw(&self, rng: &mut impl Rng) -> Prompt {
        let category = &self.category[rng.gen_range(0..self.category.len())];
        let difficulty = Difficulty::ALL[rng.gen_range(0..Difficulty::ALL.len())];
        let templates = category.of(difficulty);
        let text = self.fill(&templates[rng.gen_range(0..templates.len())], rng);
        Prompt {
            category: category.name.clone(),
            traits: PromptTraits::new(&category.recorded_as, difficulty, &text),
            text,
        }
    }

    /// Replaces each `{slot}`; the same slot gets the same word throughout a prompt. `{{` and `}}` are braces.
    fn fill(&self, template: &str, rng: &mut impl Rng) -> String {
        let mut drawn: BTreeMap<&str, String> = BTreeMap::new();
        let mut text = String::with_capacity(template.len() + 32);
        let mut rest = template;
        while let Some(at) = rest.find(['{', '}']) {
            text.push_str(&rest[..at]);
            let from = &rest[at..];
            if from.starts_with("{{") || from.starts_with("}}") {
                text.push_str(&from[..1]);
                rest = &from[2..];
                continue;
            }
            let slot = from.strip_prefix('{').and_then(|inner| inner.split_once('}'));
            let Some((name, after)) = slot else {
                text.push_str(&from[..1]);
                rest = &from[1..];
                continue;
            };
            let word = drawn.entry(name).or_insert_with(|| self.word(name, rng));
            text.push_str(word);
            rest = after;
        }
        text.push_str(rest);
        text
    }

    fn word(&self, slot: &str, rng: &mut impl Rng) -> String {
        match slot {
            "n" => rng.gen_range(2..10).to_string(),
            "m" => rng.gen_range(11..100).to_string(),
            "k" => rng.gen_range(101..1000).to_string(),
            _ => {
                let words = self.slots.get(slot).and_then(|words| words.choose(rng));
                words.map_or_else(|| format!("{{{slot}}}"), Clone::clone)
            }
        }
    }
}

impl Category {
    fn of(&self, difficulty: Difficulty) -> &[String] {
        match difficulty {
            Difficulty::Easy => &self.easy,
            Difficulty::Middle => &self.middle,
            Difficulty::Hard => &self.hard,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashSet};

    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::providers::simulated::recorded;

    #[test]
    fn every_category_is_rich_and_borrows_recorded_rates() {
        let book = PromptBook::shipped().unwrap();
        let models = recorded().unwrap().models;
        assert!(book.category.len() >= 10);
        for category in &book.category {
            let templates: HashSet<&String> = Difficulty::ALL
                .iter()
                .flat_map(|level| category.of(*level))
                .collect();
            assert!(templates.len() >= 20, "{}", category.name);
            for model in &models {
                assert!(
                    model.strata.contains_key(&category.recorded_as),
                    "{}",
                    category.recorded_as
                );
            }
        }
    }

    #[test]
    fn thousands_of_prompts_differ_and_no_slot_stays_open() {
        let book = PromptBook::shipped().unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let prompts: Vec<Prompt> = (0..5000).map(|_| book.draw(&mut rng)).collect();
        let names: Vec<&str> = book
            .slots
            .keys()
            .map(String::as_str)
            .chain(["n", "m", "k"])
            .collect();
        for prompt in &prompts {
            for name in &names {
                assert!(!prompt.text.contains(&format!("{{{name}}}")), "{}", prompt.text);
            }
        }
        let distinct: HashSet<&str> = prompts.iter().map(|prompt| prompt.text.as_str()).collect();
        assert!(distinct.len() > 3000, "{}", distinct.len());
    }

    #[test]
    fn a_slot_is_the_same_throughout_a_prompt() {
        let book = PromptBook::parse(
            "[slots]\na = [\"x\", \"y\", \"z\"]\n[[category]]\nname = \"c\"\nrecorded_as = \"mmlu\"\n\
             easy = [\"{a}{a}{{{a}}}\"]\nmiddle = [\"m\"]\nhard = [\"h\"]",
        )
        .unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        for _ in 0..20 {
            let text = book.fill("{a}{a}{{{a}}} }", &mut rng);
            let letter = &text[..1];
            assert_eq!(text, format!("{letter}{letter}{{{letter}}} }}"));
        }
    }

    /// Why routing can win here: whoever knows the category and the third, and asks the cheapest model that is
    /// on average within two points of the best there, saves most of the money at nearly the same quality.
    #[test]
    fn the_cheapest_capable_model_saves_most_of_the_money() {
        let book = PromptBook::shipped().unwrap();
        let models = recorded().unwrap().models;
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let mut sums: BTreeMap<String, Vec<(f64, f64, u32)>> = BTreeMap::new();
        for _ in 0..20_000 {
            let traits = book.draw(&mut rng).traits;
            let row = sums
                .entry(traits.tag())
                .or_insert_with(|| vec![(0.0, 0.0, 0); models.len()]);
            for (sum, model) in row.iter_mut().zip(&models) {
                let outcome = model.outcome(&traits, 1);
                sum.0 += outcome.score;
                sum.1 += model.cost_usd(60, u64::from(outcome.output_tokens));
                sum.2 += 1;
            }
        }
        let dearest = models
            .iter()
            .position(|model| model.name == "gemini-2.5-pro")
            .unwrap();
        let (mut routed, mut always) = ((0.0, 0.0), (0.0, 0.0));
        for row in sums.values() {
            let count = f64::from(row[0].2);
            let best = row.iter().map(|sum| sum.0).fold(0.0, f64::max);
            let capable = row.iter().filter(|sum| sum.0 >= best - 0.02 * count);
            let cheapest = capable.min_by(|one, other| one.1.total_cmp(&other.1)).unwrap();
            routed = (routed.0 + cheapest.0, routed.1 + cheapest.1);
            always = (always.0 + row[dearest].0, always.1 + row[dearest].1);
        }
        assert!(
            routed.0 > always.0 - 0.01 * 20_000.0,
            "quality {} against {}",
            routed.0,
            always.0
        );
        assert!(
            routed.1 < 0.4 * always.1,
            "cost {} against {}",
            routed.1,
            always.1
        );
    }
}
