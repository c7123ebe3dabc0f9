//! `[models.price]` and `[[models.prices]]`: prices as written in the configuration and in the catalogue.

use jiff::civil::{Date, Weekday};
use jiff::tz::TimeZone;

use toml::de::DeTable;

use super::problem::Problems;
use super::read::{Ledger, Section};
use crate::pricing::{
    Fees, MAX_ROUTING_FEE_PERCENT, Multiplier, PartialRates, Price, PriceSpec, TierSpec, Weekdays, Window,
};
use crate::units::{UnixMs, UsdPerMtok};

/// The dated prices of a model: of its `price` table, or of its list `prices`. Empty when it has neither. A model that
/// `embeds` writes no tokens, so its output needs no price.
pub(super) fn prices(model: &Section<'_>, embeds: bool) -> Vec<(UnixMs, Price)> {
    let mut dated: Vec<(UnixMs, Price)> = Vec::new();
    if let Some(section) = model.section("price") {
        dated.extend(price(&section, embeds));
        if model.has("prices") {
            model.problem(
                "prices",
                "stands beside `price`; write every dated price into `prices`",
            );
        }
    }
    for section in model.sections("prices") {
        let Some((from, price)) = price(&section, embeds) else {
            continue;
        };
        if dated.iter().any(|(other, _)| *other == from) {
            section.problem("effective_from", "is the date of another price of this model too");
        }
        dated.push((from, price));
    }
    dated
}

/// The dated prices in JSON, with the keys of the configuration: `{"price": {...}}` or `{"prices": [{...}, ...]}`.
///
/// # Errors
/// Everything that is wrong with them; nothing there is wrong too.
pub fn from_json(model: &serde_json::Value) -> Result<Vec<(UnixMs, Price)>, Problems> {
    // One reader for both: what the file refuses is refused here in the same words.
    let text = toml::to_string(model)
        .map_err(|error| Problems::one("", format!("is no price as the configuration has it: {error}")))?;
    let ledger = Ledger::new(&text);
    let (table, errors) = DeTable::parse_recoverable(&text);
    for error in errors {
        ledger.report("", None, error.message());
    }
    let root = Section::root(&ledger, &table);
    let dated = prices(&root, false);
    root.done();
    let mut problems = ledger.into_problems();
    if problems.is_empty() && dated.is_empty() {
        return Err(Problems::one(
            "price",
            "is missing; send `price`, or dated `prices`",
        ));
    }
    // Lines of a text that the sender never saw say nothing.
    problems.iter_mut().for_each(|problem| problem.line = None);
    if problems.is_empty() {
        Ok(dated)
    } else {
        Err(Problems(problems))
    }
}

fn price(section: &Section<'_>, embeds: bool) -> Option<(UnixMs, Price)> {
    let fee = |key| section.usd(key).unwrap_or_default();
    let from = section.moment("effective_from").unwrap_or(UnixMs(i64::MIN));
    let mut rates = rates(section);
    if embeds {
        rates.output = rates.output.or(UsdPerMtok::from_dollars(0.0));
    }
    let fees = Fees {
        request: fee("request_fee_usd"),
        image: fee("image_usd"),
        audio_second: fee("audio_second_usd"),
        video_second: fee("video_second_usd"),
        pdf_page: fee("pdf_page_usd"),
    };
    let routing_fee_percent = section
        .number("routing_fee_percent", 0.0..=MAX_ROUTING_FEE_PERCENT)
        .unwrap_or(0.0);
    let reasoning_prices_answer = section.bool("reasoning_prices_answer").unwrap_or(false);
    let tier_sections = section.sections("tiers");
    let tiers: Vec<TierSpec> = tier_sections.iter().filter_map(tier).collect();
    let window_sections = section.sections("windows");
    let windows: Vec<Window> = window_sections.iter().filter_map(window).collect();
    section.done();
    if tiers.len() < tier_sections.len() || windows.len() < window_sections.len() {
        return None;
    }
    let checked = Price::new(PriceSpec {
        rates,
        tiers,
        windows,
        fees,
        reasoning_prices_answer,
        routing_fee_percent,
    });
    match checked {
        Ok(price) => Some((from, price)),
        Err(problems) => {
            for problem in problems {
                // A rate that is there but wrong has been noted when it was read.
                let absent = problem.field.ends_with("_per_mtok");
                if !absent || !section.contains(&problem.field) {
                    section.problem(&problem.field, problem.what);
                }
            }
            None
        }
    }
}

fn rates(section: &Section<'_>) -> PartialRates {
    let rate = |key| -> Option<UsdPerMtok> {
        let dollars = section.number(key, 0.0..=f64::INFINITY)?;
        UsdPerMtok::from_dollars(dollars).or_else(|| {
            section.problem(key, format!("is out of range: {dollars}"));
            None
        })
    };
    let (short, plain) = (rate("cache_write_5m_per_mtok"), rate("cache_write_per_mtok"));
    if short.is_some() && plain.is_some() {
        section.problem(
            "cache_write_per_mtok",
            "means the same as cache_write_5m_per_mtok; write only one of them",
        );
    }
    PartialRates {
        input: rate("input_per_mtok"),
        cached_input: rate("cached_input_per_mtok"),
        cache_write_5m: short.or(plain),
        cache_write_1h: rate("cache_write_1h_per_mtok"),
        audio_input: rate("audio_input_per_mtok"),
        output: rate("output_per_mtok"),
        reasoning: rate("reasoning_per_mtok"),
        audio_output: rate("audio_output_per_mtok"),
    }
}

fn tier(section: &Section<'_>) -> Option<TierSpec> {
    let above_tokens = section.integer("above_tokens", 1..=u64::MAX);
    if above_tokens.is_none() && !section.contains("above_tokens") {
        section.problem(
            "",
            "`above_tokens` is missing; the tier holds for longer prompts than that",
        );
    }
    let rates = rates(section);
    section.done();
    Some(TierSpec {
        above_tokens: above_tokens?,
        rates,
    })
}

const DAYS: [(&str, Weekday); 7] = [
    ("mon", Weekday::Monday),
    ("tue", Weekday::Tuesday),
    ("wed", Weekday::Wednesday),
    ("thu", Weekday::Thursday),
    ("fri", Weekday::Friday),
    ("sat", Weekday::Saturday),
    ("sun", Weekday::Sunday),
];

fn window(section: &Section<'_>) -> Option<Window> {
    let zone = zone(section, "timezone");
    let mut days_ok = true;
    let days = section.strings("days").map_or(Weekdays::ALL, |names| {
        let known = names.iter().filter_map(|(name, place)| {
            let day = DAYS.iter().find(|(word, _)| word == name).map(|(_, day)| *day);
            if day.is_none() {
                days_ok = false;
                let message = format!("\"{name}\" is no day; one of mon, tue, wed, thu, fri, sat, sun");
                section.ledger().report_at(place, message);
            }
            day
        });
        known.collect()
    });
    let (start, end) = (clock(section, "start"), clock(section, "end"));
    let mut except = Vec::new();
    for (text, place) in section.strings("except").unwrap_or_default() {
        match text.parse::<Date>() {
            Ok(date) => except.push(date),
            Err(_) => section
                .ledger()
                .report_at(&place, format!("\"{text}\" is no day; write it as 2026-10-01")),
        }
    }
    let multiplier = section.number("multiplier", 0.0..=1000.0);
    if multiplier.is_none() && !section.contains("multiplier") {
        section.problem(
            "",
            "`multiplier` is missing; 2.0 doubles the price inside the window",
        );
    }
    section.done();
    let (zone, start, end) = (zone?, start?, end?);
    if !days_ok {
        return None;
    }
    match Window::new(zone, days, (start, end), except, Multiplier::new(multiplier?)?) {
        Ok(window) => Some(window),
        Err(error) => {
            section.problem("", error.to_string());
            None
        }
    }
}

/// A time zone by its IANA name; UTC when absent.
pub(super) fn zone(section: &Section<'_>, key: &'static str) -> Option<TimeZone> {
    let Some(name) = section.string(key) else {
        return (!section.contains(key)).then_some(TimeZone::UTC);
    };
    TimeZone::get(&name).ok().or_else(|| {
        section.problem(
            key,
            format!("\"{name}\" is no time zone; write it as Asia/Shanghai or UTC"),
        );
        None
    })
}

/// `09:30` as minutes since midnight.
fn clock(section: &Section<'_>, key: &'static str) -> Option<u16> {
    let Some(text) = section.string(key) else {
        if !section.contains(key) {
            section.problem("", format!("`{key}` is missing; a time of day such as \"09:00\""));
        }
        return None;
    };
    let minutes = text.split_once(':').and_then(|(hours, minutes)| {
        let two = |digits: &str| {
            (digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_digit()))
                .then(|| digits.parse::<u16>().ok())
                .flatten()
        };
        let (hours, minutes) = (two(hours)?, two(minutes)?);
        (minutes < 60 && hours * 60 + minutes <= 1440).then_some(hours * 60 + minutes)
    });
    if minutes.is_none() {
        section.problem(
            key,
            format!("\"{text}\" is no time of day; write it as \"09:00\", up to \"24:00\""),
        );
    }
    minutes
}
