//! The shipped catalogue: what is publicly known of models and their prices, with source and date.

use std::sync::Arc;

use toml::de::DeTable;

use super::models::{self, Facts};
use super::prices;
use super::problem::Problems;
use super::read::{Ledger, Section};
use crate::pricing::Price;
use crate::units::UnixMs;

/// The catalogue of this release.
const SHIPPED: &str = include_str!("../../models/catalogue.toml");

/// What is publicly known of a model.
#[derive(Clone, Debug)]
pub struct Entry {
    /// `provider/model`.
    pub id: String,
    /// Other ids under which it is found.
    pub aliases: Vec<String>,
    /// The name that the provider uses.
    pub upstream: String,
    /// Its family.
    pub family: Arc<str>,
    /// Whether a configuration built from the environment routes to it.
    pub default: bool,
    /// What it can do.
    pub(super) facts: Facts,
    /// Its dated prices.
    pub prices: Vec<(UnixMs, Price)>,
    /// Where the facts are from.
    pub source: String,
    /// The day on which they were read there.
    pub checked: String,
    /// What could not be confirmed at the provider itself.
    pub unverified: Option<String>,
}

/// All entries.
#[derive(Clone, Debug)]
pub struct Catalogue {
    entries: Vec<Entry>,
}

impl Catalogue {
    /// The catalogue of this release.
    ///
    /// # Errors
    /// When it breaks its own rules; a test holds that it does not.
    pub fn shipped() -> Result<Self, Problems> {
        Self::parse(SHIPPED)
    }

    /// Reads a catalogue.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(text: &str) -> Result<Self, Problems> {
        let ledger = Ledger::new(text);
        let (table, errors) = DeTable::parse_recoverable(text);
        for error in errors {
            ledger.report("", error.span(), format!("not valid TOML: {}", error.message()));
        }
        let root = Section::root(&ledger, &table);
        let mut entries: Vec<Entry> = Vec::new();
        for section in root.sections("models") {
            let Some(entry) = entry(&section) else { continue };
            for name in std::iter::once(&entry.id).chain(&entry.aliases) {
                if entries.iter().any(|other| other.goes_by(name)) {
                    section.problem("", format!("\"{name}\" names another entry too"));
                }
            }
            entries.push(entry);
        }
        root.done();
        let problems = ledger.into_problems();
        if problems.is_empty() {
            Ok(Self { entries })
        } else {
            Err(Problems(problems))
        }
    }

    /// The entry of `id`, by its own id or an alias.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.goes_by(id))
    }

    /// Every entry.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }
}

impl Entry {
    fn goes_by(&self, name: &str) -> bool {
        self.id == name || self.aliases.iter().any(|alias| alias == name)
    }
}

fn entry(section: &Section<'_>) -> Option<Entry> {
    let id = section.required_string("id", "provider/model");
    let aliases = section.strings("aliases").unwrap_or_default();
    let upstream = section.string("upstream");
    let family = section.string("family");
    let default = section.bool("default").unwrap_or(false);
    let facts = models::facts(section);
    let prices = prices::prices(section, false);
    let source = section.required_string("source", "where the facts are from");
    let checked = section.required_string("checked", "the day on which they were read");
    let unverified = section.string("unverified");
    section.done();
    let id = id?;
    Some(Entry {
        upstream: upstream.unwrap_or_else(|| models::default_upstream(&id).to_owned()),
        family: family.map_or_else(|| models::default_family(&id).into(), Arc::from),
        aliases: aliases.into_iter().map(|(alias, _)| alias).collect(),
        default,
        facts,
        prices,
        source: source?,
        checked: checked?,
        unverified,
        id,
    })
}
