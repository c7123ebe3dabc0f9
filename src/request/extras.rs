//! What clients may add to OpenAI's schema: OpenRouter's `provider`, our `routing`, and tags.

use serde_json::value::RawValue;

use super::error::RequestError;
use super::raw::{self, Path};
use super::{MaxPrice, ProviderPreferences, RoutingExtras};
use crate::units::Usd;

/// The keys of `routing`.
const ROUTING_KEYS: &str = "quality_floor, quality_margin, max_cost_usd, ttft_budget_ms, deadline_ms, hedge, \
                            explore, episode_id, category";

pub(super) fn provider(raw: &RawValue, path: &Path<'_>) -> Result<ProviderPreferences, RequestError> {
    let mut preferences = ProviderPreferences::default();
    for (key, raw) in raw::object(raw, path)? {
        if raw::is_null(raw) {
            continue;
        }
        let path = &path.key(&key);
        match &*key {
            "order" => preferences.order = raw::strings(raw, path)?,
            "only" => preferences.only = raw::strings(raw, path)?,
            "ignore" => preferences.ignore = raw::strings(raw, path)?,
            "allow_fallbacks" => preferences.allow_fallbacks = Some(raw::boolean(raw, path)?),
            "max_price" => preferences.max_price = Some(max_price(raw, path)?),
            _ => {}
        }
    }
    Ok(preferences)
}

fn max_price(raw: &RawValue, path: &Path<'_>) -> Result<MaxPrice, RequestError> {
    let mut ceilings = MaxPrice::default();
    for (key, raw) in raw::object(raw, path)? {
        let path = &path.key(&key);
        let slot = match &*key {
            "prompt" => &mut ceilings.prompt,
            "completion" => &mut ceilings.completion,
            "request" => &mut ceilings.request,
            _ => continue,
        };
        if !raw::is_null(raw) {
            *slot = Some(at_least_zero(price(raw, path)?, path)?);
        }
    }
    Ok(ceilings)
}

/// A number, or the same as a string: OpenRouter's users send both.
fn price(raw: &RawValue, path: &Path<'_>) -> Result<f64, RequestError> {
    if raw.get().starts_with('"') {
        let text = raw::string(raw, path)?;
        return text.trim().parse().map_err(|_| path.value("a number of dollars"));
    }
    raw::number(raw, path)
}

fn at_least_zero(number: f64, path: &Path<'_>) -> Result<f64, RequestError> {
    if number.is_finite() && number >= 0.0 {
        Ok(number)
    } else {
        Err(path.value("a number of dollars, 0 or more"))
    }
}

pub(super) fn routing(raw: &RawValue, path: &Path<'_>) -> Result<RoutingExtras, RequestError> {
    let mut extras = RoutingExtras::default();
    for (key, raw) in raw::object(raw, path)? {
        let path = &path.key(&key);
        let null = raw::is_null(raw);
        match &*key {
            "quality_floor" if !null => extras.quality_floor = Some(fraction(raw, path)?),
            "quality_margin" if !null => extras.quality_margin = Some(fraction(raw, path)?),
            "max_cost_usd" if !null => {
                let dollars = at_least_zero(raw::number(raw, path)?, path)?;
                let usd =
                    Usd::from_dollars(dollars).ok_or_else(|| path.value("an amount of dollars in range"))?;
                extras.max_cost_usd = Some(usd);
            }
            "ttft_budget_ms" if !null => extras.ttft_budget_ms = Some(millis(raw, path)?),
            "deadline_ms" if !null => extras.deadline_ms = Some(millis(raw, path)?),
            "hedge" if !null => extras.hedge = Some(raw::boolean(raw, path)?),
            "explore" if !null => extras.explore = Some(raw::boolean(raw, path)?),
            "episode_id" if !null => extras.episode_id = Some(raw::string(raw, path)?),
            "category" if !null => extras.category = Some(category(raw, path)?),
            "quality_floor" | "quality_margin" | "max_cost_usd" | "ttft_budget_ms" | "deadline_ms"
            | "hedge" | "explore" | "episode_id" | "category" => {}
            _ => {
                return Err(RequestError::UnknownKey {
                    path: path.to_string(),
                    known: ROUTING_KEYS,
                });
            }
        }
    }
    Ok(extras)
}

/// The longest name of a category, in bytes: it is told in a header.
const LONGEST_CATEGORY: usize = 64;

fn category(raw: &RawValue, path: &Path<'_>) -> Result<String, RequestError> {
    let name = raw::string(raw, path)?;
    if (1..=LONGEST_CATEGORY).contains(&name.len()) && !name.contains(char::is_control) {
        Ok(name)
    } else {
        Err(path.value("a name of 1 to 64 bytes"))
    }
}

fn fraction(raw: &RawValue, path: &Path<'_>) -> Result<f64, RequestError> {
    let number = raw::number(raw, path)?;
    if (0.0..=1.0).contains(&number) {
        Ok(number)
    } else {
        Err(path.value("a number from 0 to 1"))
    }
}

fn millis(raw: &RawValue, path: &Path<'_>) -> Result<u64, RequestError> {
    match raw::numeric(raw, path, "a whole number of milliseconds, 1 or more")? {
        0 => Err(path.value("a whole number of milliseconds, 1 or more")),
        count => Ok(count),
    }
}

pub(super) fn metadata(raw: &RawValue, path: &Path<'_>) -> Result<Vec<(String, String)>, RequestError> {
    let mut tags = Vec::new();
    for (key, raw) in raw::object(raw, path)? {
        let path = &path.key(&key);
        // Tags are strings; what else clients put there is kept as its JSON text.
        let text = match raw.get().as_bytes().first() {
            Some(b'"') => raw::string(raw, path)?,
            _ => raw.get().to_owned(),
        };
        tags.push((key.into_owned(), text));
    }
    Ok(tags)
}
