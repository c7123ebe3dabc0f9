//! `[[models]]`: what can be served, completed from the catalogue.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::catalogue::Catalogue;
use super::prices;
use super::read::{Ledger, Place, Section, nearest};
use crate::arm::{Arm, ArmId, Modalities, Modality};
use crate::pricing::PriceBook;

/// Where a model's price is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PriceSource {
    /// The configuration.
    Configured,
    /// The catalogue.
    Catalogue,
    /// Nowhere: refused under a budget, and never counted as free.
    Unknown,
}

/// A model that can be served.
#[derive(Clone, Debug)]
pub struct Model {
    /// What it is and can do.
    pub arm: Arc<Arm>,
    /// Where its price is from.
    pub price_source: PriceSource,
    /// Further providers that serve it, under the same name and at the same price.
    pub also_at: Vec<String>,
}

/// A model with the place that named it.
pub(super) struct Placed {
    pub(super) model: Model,
    pub(super) place: Place,
    /// It makes embeddings.
    pub(super) embeds: bool,
}

/// What a model can do, as far as it is written down.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Facts {
    pub(super) context_window: Option<u32>,
    pub(super) max_output_tokens: Option<u32>,
    pub(super) modalities: Option<Modalities>,
    pub(super) tools: Option<bool>,
    pub(super) structured_output: Option<bool>,
}

const MODALITIES: [(&str, Modality); 5] = [
    ("text", Modality::Text),
    ("image", Modality::Image),
    ("audio", Modality::Audio),
    ("video", Modality::Video),
    ("pdf", Modality::Pdf),
];

/// Tokens that an embedding model takes when nobody says.
const EMBEDDING_WINDOW: u32 = 8_192;
/// Most tokens of one answer when nobody says.
const DEFAULT_MAX_OUTPUT: u32 = 8_192;

pub(super) fn facts(section: &Section<'_>) -> Facts {
    let modalities = section.strings("modalities").map(|names| {
        names
            .iter()
            .filter_map(|(name, place)| {
                let found = MODALITIES.iter().find(|(word, _)| word == name);
                if found.is_none() {
                    let message = format!("is \"{name}\", but must be one of text, image, audio, video, pdf");
                    section.ledger().report_at(place, message);
                }
                found.map(|(_, modality)| *modality)
            })
            .collect()
    });
    Facts {
        context_window: section.tokens("context_window"),
        max_output_tokens: section.tokens("max_output_tokens"),
        modalities,
        tools: section.bool("tools"),
        structured_output: section.bool("structured_output"),
    }
}

/// The part after the first slash.
pub(super) fn default_upstream(id: &str) -> &str {
    id.split_once('/').map_or(id, |(_, model)| model)
}

/// The letters with which the model's last name begins: `claude`, `gpt`, `mistral`.
pub(super) fn default_family(id: &str) -> &str {
    let name = id.rsplit_once('/').map_or(id, |(_, name)| name);
    let end = name
        .find(|c: char| !c.is_ascii_alphabetic())
        .filter(|end| *end > 0)
        .unwrap_or(name.len());
    &name[..end]
}

/// Reads the models, and adds those that a route or experiment names and the catalogue knows.
pub(super) fn models<'n>(
    sections: &[Section<'_>],
    named: impl Iterator<Item = &'n (String, Place)>,
    catalogue: &Catalogue,
    ledger: &Ledger<'_>,
) -> (Vec<Placed>, PriceBook) {
    let mut models: Vec<Placed> = Vec::new();
    let mut book = PriceBook::default();
    let mut ids = BTreeSet::new();
    for section in sections {
        if let Some(id) = section.string("id")
            && !ids.insert(id.clone())
        {
            section.problem("id", format!("\"{id}\" is the id of another model too"));
        }
        models.extend(model(section, catalogue, &mut book));
        section.done();
    }
    for (name, place) in named {
        if !ids.insert(name.clone()) {
            continue;
        }
        if let Some(placed) = from_catalogue(name, place, catalogue, &mut book) {
            models.push(placed);
            continue;
        }
        let known = ids.iter().map(String::as_str).filter(|id| *id != name);
        let hint = nearest(
            name,
            known.chain(catalogue.entries().iter().map(|entry| entry.id.as_str())),
        )
        .map_or_else(
            || "add a [[models]] block with this id".to_owned(),
            |near| format!("did you mean \"{near}\"?"),
        );
        ledger.report_at(
            place,
            format!("\"{name}\" is not a model of this file, nor of the catalogue; {hint}"),
        );
    }
    (models, book)
}

fn model(section: &Section<'_>, catalogue: &Catalogue, book: &mut PriceBook) -> Option<Placed> {
    let id = section.required_string("id", "provider/model, such as \"mistral/mistral-small\"");
    let upstream = section.string("upstream");
    let family = section.string("family");
    let like = section.string("like");
    let embeds = section.word("kind", &[("chat", false), ("embedding", true)]) == Some(true);
    let also_at = section.strings("also_at").unwrap_or_default();
    let own = facts(section);
    let own_prices = prices::prices(section, embeds);
    let has_price = section.contains("price") || section.contains("prices");
    let id = id?;
    if id
        .split_once('/')
        .is_none_or(|(provider, model)| provider.is_empty() || model.is_empty())
    {
        section.problem("id", format!("is \"{id}\", but must be provider/model"));
        return None;
    }
    let entry = catalogue.get(like.as_deref().unwrap_or(&id));
    if let (Some(like), None) = (&like, entry) {
        section.problem("like", format!("\"{like}\" is not in the catalogue"));
    }
    let known = entry.map_or_else(Facts::default, |entry| entry.facts);
    let usual = embeds.then_some(EMBEDDING_WINDOW);
    let Some(context_window) = own.context_window.or(known.context_window).or(usual) else {
        if !section.contains("context_window") {
            section.problem(
                "",
                format!("`context_window` is missing, and the catalogue does not know \"{id}\""),
            );
        }
        return None;
    };
    let max_output_tokens = own
        .max_output_tokens
        .or(known.max_output_tokens.filter(|most| *most <= context_window))
        .filter(|_| !embeds)
        .unwrap_or(if embeds {
            1
        } else {
            DEFAULT_MAX_OUTPUT.min(context_window / 2).max(1)
        });
    if max_output_tokens > context_window {
        section.problem(
            "max_output_tokens",
            format!("is {max_output_tokens}, more than the context window of {context_window}"),
        );
    }
    let arm = Arm {
        id: ArmId::new(&id),
        upstream: upstream
            .or_else(|| entry.map(|entry| entry.upstream.clone()))
            .map_or_else(|| default_upstream(&id).into(), Arc::from),
        family: family
            .map(Arc::from)
            .or_else(|| entry.map(|entry| entry.family.clone()))
            .unwrap_or_else(|| default_family(&id).into()),
        context_window,
        max_output_tokens,
        modalities: own.modalities.or(known.modalities).unwrap_or(Modalities::TEXT),
        tools: own.tools.or(known.tools).unwrap_or(false),
        structured_output: own.structured_output.or(known.structured_output).unwrap_or(false),
    };
    let catalogued = entry.map_or(&[][..], |entry| entry.prices.as_slice());
    let (dated, price_source) = match (has_price, catalogued.is_empty()) {
        (true, _) => (own_prices, PriceSource::Configured),
        (false, false) => (catalogued.to_vec(), PriceSource::Catalogue),
        (false, true) => (Vec::new(), PriceSource::Unknown),
    };
    for (from, price) in dated {
        book.insert(arm.id.clone(), from, price);
    }
    Some(Placed {
        model: Model {
            arm: Arc::new(arm),
            price_source,
            also_at: also_at.into_iter().map(|(name, _)| name).collect(),
        },
        place: section.place_of("id"),
        embeds,
    })
}

fn from_catalogue(name: &str, place: &Place, catalogue: &Catalogue, book: &mut PriceBook) -> Option<Placed> {
    let entry = catalogue.get(name)?;
    let facts = entry.facts;
    let context_window = facts.context_window?;
    let arm = Arm {
        id: ArmId::new(name),
        upstream: entry.upstream.as_str().into(),
        family: entry.family.clone(),
        context_window,
        max_output_tokens: facts
            .max_output_tokens
            .unwrap_or(DEFAULT_MAX_OUTPUT)
            .min(context_window),
        modalities: facts.modalities.unwrap_or(Modalities::TEXT),
        tools: facts.tools.unwrap_or(false),
        structured_output: facts.structured_output.unwrap_or(false),
    };
    for (from, price) in &entry.prices {
        book.insert(arm.id.clone(), *from, price.clone());
    }
    let price_source = if entry.prices.is_empty() {
        PriceSource::Unknown
    } else {
        PriceSource::Catalogue
    };
    Some(Placed {
        model: Model {
            arm: Arc::new(arm),
            price_source,
            also_at: Vec::new(),
        },
        place: place.clone(),
        embeds: false,
    })
}

/// A model without a price works, but not under a budget: worth a word.
pub(super) fn warn_unpriced(models: &[Placed], warnings: &Ledger<'_>) {
    for Placed { model, place, .. } in models {
        if model.price_source == PriceSource::Unknown {
            warnings.report_at(
                place,
                "has no known price: it is refused under a budget and its cost is not counted; add [models.price]",
            );
        }
    }
}
