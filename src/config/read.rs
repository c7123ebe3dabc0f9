//! Reading TOML so that every problem is found in one pass, with its path and line.
//!
//! Deriving a deserialiser would stop at the first problem of a file; people then fix a file one error at a
//! time. Here each field is asked for by name, what is wrong is noted, and reading goes on.

use std::cell::RefCell;
use std::ops::{Range, RangeInclusive};

use jiff::civil::Date;
use jiff::tz::TimeZone;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::Problem;
use crate::units::{UnixMs, Usd};

/// A place in the file.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) path: String,
    span: Range<usize>,
}

/// Where problems gather while a file is read.
pub(super) struct Ledger<'t> {
    text: &'t str,
    problems: RefCell<Vec<Problem>>,
}

impl<'t> Ledger<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self {
            text,
            problems: RefCell::default(),
        }
    }

    pub(super) fn report(&self, path: &str, at: Option<Range<usize>>, message: impl Into<String>) {
        let line = at.map(|span| self.text[..span.start.min(self.text.len())].matches('\n').count() + 1);
        self.problems.borrow_mut().push(Problem {
            path: path.into(),
            line,
            message: message.into(),
        });
    }

    pub(super) fn report_at(&self, place: &Place, message: impl Into<String>) {
        self.report(&place.path, Some(place.span.clone()), message);
    }

    pub(super) fn is_clean(&self) -> bool {
        self.problems.borrow().is_empty()
    }

    /// The problems in the order of the file.
    pub(super) fn into_problems(self) -> Vec<Problem> {
        let mut problems = self.problems.into_inner();
        problems.sort_by_key(|problem| problem.line.unwrap_or(usize::MAX));
        problems
    }
}

/// A table of the file, read field by field.
pub(super) struct Section<'t> {
    ledger: &'t Ledger<'t>,
    path: String,
    table: &'t DeTable<'t>,
    span: Range<usize>,
    known: RefCell<Vec<&'static str>>,
}

impl<'t> Section<'t> {
    pub(super) fn root(ledger: &'t Ledger<'t>, table: &'t Spanned<DeTable<'t>>) -> Self {
        Self {
            ledger,
            path: String::new(),
            table: table.get_ref(),
            span: table.span(),
            known: RefCell::default(),
        }
    }

    /// The path of one of its fields.
    pub(super) fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    /// Where one of its fields is; the section if it is absent.
    pub(super) fn place_of(&self, key: &str) -> Place {
        Place {
            path: self.path_of(key),
            span: self.table.get(key).map_or(self.span.clone(), Spanned::span),
        }
    }

    pub(super) const fn ledger(&self) -> &'t Ledger<'t> {
        self.ledger
    }

    /// Notes a problem with one of its fields; with no field, with the section.
    pub(super) fn problem(&self, key: &str, message: impl Into<String>) {
        let base = key.split(['[', '.']).next().unwrap_or(key);
        let span = self.table.get(base).map_or(self.span.clone(), Spanned::span);
        let path = if key.is_empty() {
            self.path.clone()
        } else {
            self.path_of(key)
        };
        self.ledger.report(&path, Some(span), message);
    }

    /// Whether a field is there; counts as asked for.
    pub(super) fn has(&self, key: &'static str) -> bool {
        self.value(key).is_some()
    }

    /// Whether a field is there.
    pub(super) fn contains(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    fn value(&self, key: &'static str) -> Option<&'t DeValue<'t>> {
        self.known.borrow_mut().push(key);
        self.table.get(key).map(Spanned::get_ref)
    }

    fn expected<T>(&self, key: &str, what: &str, value: &DeValue<'_>) -> Option<T> {
        self.problem(key, format!("must be {what}, not {}", kind_of(value)));
        None
    }

    pub(super) fn string(&self, key: &'static str) -> Option<String> {
        let value = self.value(key)?;
        match value.as_str() {
            Some("") => {
                self.problem(key, "must not be empty");
                None
            }
            Some(text) => Some(text.to_owned()),
            None => self.expected(key, "a string", value),
        }
    }

    pub(super) fn required_string(&self, key: &'static str, hint: &str) -> Option<String> {
        if !self.has(key) {
            self.problem("", format!("`{key}` is missing; {hint}"));
        }
        self.string(key)
    }

    pub(super) fn bool(&self, key: &'static str) -> Option<bool> {
        let value = self.value(key)?;
        value
            .as_bool()
            .or_else(|| self.expected(key, "true or false", value))
    }

    pub(super) fn integer(&self, key: &'static str, range: RangeInclusive<u64>) -> Option<u64> {
        let value = self.value(key)?;
        let number = value
            .as_integer()
            .and_then(|digits| i128::from_str_radix(digits.as_str(), digits.radix()).ok());
        let Some(number) = number else {
            return self.expected(key, "a whole number", value);
        };
        u64::try_from(number)
            .ok()
            .filter(|number| range.contains(number))
            .or_else(|| {
                let limit = match *range.end() {
                    u64::MAX => format!("{} or more", range.start()),
                    end => format!("between {} and {end}", range.start()),
                };
                self.problem(key, format!("must be {limit}, not {number}"));
                None
            })
    }

    pub(super) fn tokens(&self, key: &'static str) -> Option<u32> {
        self.integer(key, 1..=u64::from(u32::MAX))
            .and_then(|tokens| u32::try_from(tokens).ok())
    }

    /// A finite number in `range`.
    pub(super) fn number(&self, key: &'static str, range: RangeInclusive<f64>) -> Option<f64> {
        let value = self.value(key)?;
        let number = match value {
            DeValue::Integer(digits) => i64::from_str_radix(digits.as_str(), digits.radix())
                .ok()
                .map(|n| n as f64),
            DeValue::Float(digits) => digits.as_str().parse::<f64>().ok(),
            _ => None,
        };
        let Some(number) = number else {
            return self.expected(key, "a number", value);
        };
        if number.is_finite() && range.contains(&number) {
            return Some(number);
        }
        let limit = if *range.end() == f64::INFINITY {
            format!("{} or more", range.start())
        } else {
            format!("between {} and {}", range.start(), range.end())
        };
        self.problem(key, format!("must be {limit}, not {number}"));
        None
    }

    /// An amount of dollars, 0 or more.
    pub(super) fn usd(&self, key: &'static str) -> Option<Usd> {
        let dollars = self.number(key, 0.0..=f64::INFINITY)?;
        Usd::from_dollars(dollars).or_else(|| {
            self.problem(key, format!("is out of range: {dollars}"));
            None
        })
    }

    /// An amount of dollars above 0: a limit of nothing would refuse everything.
    pub(super) fn positive_usd(&self, key: &'static str) -> Option<Usd> {
        let usd = self.usd(key)?;
        if usd == Usd::ZERO {
            self.problem(key, "must be more than 0; leave it out for no limit");
            return None;
        }
        Some(usd)
    }

    /// A word out of a list.
    pub(super) fn word<T: Clone>(&self, key: &'static str, words: &[(&str, T)]) -> Option<T> {
        let text = self.string(key)?;
        let found = words
            .iter()
            .find(|(word, _)| *word == text)
            .map(|(_, value)| value.clone());
        if found.is_none() {
            let all: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            let hint = nearest(&text, all.iter().copied())
                .map_or(String::new(), |near| format!("; did you mean \"{near}\"?"));
            self.problem(
                key,
                format!("is \"{text}\", but must be one of {}{hint}", all.join(", ")),
            );
        }
        found
    }

    /// A list of strings with their places; `None` when absent.
    pub(super) fn strings(&self, key: &'static str) -> Option<Vec<(String, Place)>> {
        let value = self.value(key)?;
        let Some(items) = value.as_array() else {
            return self.expected(key, "a list of strings", value);
        };
        let mut strings = Vec::with_capacity(items.len());
        for (i, item) in items.iter().enumerate() {
            match item.get_ref().as_str() {
                Some("") => self.problem(&format!("{key}[{i}]"), "must not be empty"),
                Some(text) => strings.push((
                    text.to_owned(),
                    Place {
                        path: self.path_of(&format!("{key}[{i}]")),
                        span: item.span(),
                    },
                )),
                None => self
                    .expected(&format!("{key}[{i}]"), "a string", item.get_ref())
                    .unwrap_or(()),
            }
        }
        Some(strings)
    }

    /// A table of strings.
    pub(super) fn string_table(&self, key: &'static str) -> Vec<(String, String)> {
        let Some(value) = self.value(key) else {
            return Vec::new();
        };
        let Some(table) = value.as_table() else {
            return self
                .expected(key, "a table of strings", value)
                .unwrap_or_default();
        };
        let mut pairs = Vec::with_capacity(table.len());
        for (name, item) in table.iter() {
            let name = name.get_ref().as_ref();
            match item.get_ref().as_str() {
                Some(text) => pairs.push((name.to_owned(), text.to_owned())),
                None => self
                    .expected(&format!("{key}.{name}"), "a string", item.get_ref())
                    .unwrap_or(()),
            }
        }
        pairs
    }

    /// A day (`2026-08-23`, its midnight in UTC) or a moment (`2026-08-23T00:00:00+08:00`).
    pub(super) fn moment(&self, key: &'static str) -> Option<UnixMs> {
        let text = match self.value(key)? {
            DeValue::String(text) => text.to_string(),
            DeValue::Datetime(moment) => moment.to_string(),
            other => return self.expected(key, "a date", other),
        };
        let day = || {
            text.parse::<Date>()
                .ok()?
                .to_zoned(TimeZone::UTC)
                .ok()
                .map(|z| z.timestamp())
        };
        let moment = if text.contains(['T', ' ']) {
            text.parse::<jiff::Timestamp>().ok()
        } else {
            day()
        };
        if moment.is_none() {
            self.problem(
                key,
                format!("is \"{text}\", but must be a day (2026-08-23) or a moment with its offset (2026-08-23T00:00:00+08:00)"),
            );
        }
        moment.map(|moment| UnixMs(moment.as_millisecond()))
    }

    pub(super) fn section(&self, key: &'static str) -> Option<Section<'t>> {
        self.known.borrow_mut().push(key);
        let value = self.table.get(key)?;
        match value.get_ref().as_table() {
            Some(table) => Some(self.inner(self.path_of(key), table, value.span())),
            None => self.expected(key, "a table", value.get_ref()),
        }
    }

    /// A list of tables; empty when absent.
    pub(super) fn sections(&self, key: &'static str) -> Vec<Section<'t>> {
        self.known.borrow_mut().push(key);
        let Some(value) = self.table.get(key) else {
            return Vec::new();
        };
        let Some(items) = value.get_ref().as_array() else {
            let what = format!("a list of tables; write [[{}]]", self.path_of(key));
            return self.expected(key, &what, value.get_ref()).unwrap_or_default();
        };
        let mut sections = Vec::with_capacity(items.len());
        for (i, item) in items.iter().enumerate() {
            let place = format!("{key}[{i}]");
            match item.get_ref().as_table() {
                Some(table) => sections.push(self.inner(self.path_of(&place), table, item.span())),
                None => self.expected(&place, "a table", item.get_ref()).unwrap_or(()),
            }
        }
        sections
    }

    fn inner(&self, path: String, table: &'t DeTable<'t>, span: Range<usize>) -> Section<'t> {
        Section {
            ledger: self.ledger,
            path,
            table,
            span,
            known: RefCell::default(),
        }
    }

    /// Call when all fields were asked for: notes each one that nobody asked for.
    pub(super) fn done(&self) {
        let known = self.known.borrow();
        for (key, _) in self.table.iter() {
            let name = key.get_ref().as_ref();
            if known.contains(&name) {
                continue;
            }
            let hint = nearest(name, known.iter().copied()).map_or_else(
                || {
                    let mut all: Vec<&str> = known.clone();
                    all.sort_unstable();
                    all.dedup();
                    format!("known here: {}", all.join(", "))
                },
                |near| format!("did you mean `{near}`?"),
            );
            self.ledger.report(
                &self.path_of(name),
                Some(key.span()),
                format!("is not a known key; {hint}"),
            );
        }
    }
}

fn kind_of(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// The candidate within two edits of `word`, or three for long words.
pub(super) fn nearest<'c>(word: &str, candidates: impl Iterator<Item = &'c str>) -> Option<&'c str> {
    let allowed = if word.len() > 8 { 3 } else { 2 };
    candidates
        .map(|candidate| (edits(word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= allowed && *distance < candidate.len())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein distance in bytes.
fn edits(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
