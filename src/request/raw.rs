//! JSON taken apart one level at a time. Each level is a scan over bytes that are not decoded, so a megabyte
//! of base64 is only copied once, and every error can name its field.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use super::error::RequestError;

/// Levels of nesting that a field we do not read may have. (Fields that we do read are held to 128 by the
/// JSON parser.)
pub(super) const MAX_DEPTH: usize = 128;

/// Where in the body we are; a list linked through the callers' stack frames, so that it costs nothing
/// until an error needs its text.
#[derive(Clone, Copy)]
pub(super) struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Root,
    Key(&'a str),
    Index(usize),
}

impl<'a> Path<'a> {
    pub(super) const ROOT: Path<'static> = Path {
        parent: None,
        step: Step::Root,
    };

    pub(super) fn key(&'a self, key: &'a str) -> Path<'a> {
        Path {
            parent: Some(self),
            step: Step::Key(key),
        }
    }

    pub(super) fn index(&'a self, index: usize) -> Path<'a> {
        Path {
            parent: Some(self),
            step: Step::Index(index),
        }
    }

    pub(super) fn missing(&self) -> RequestError {
        RequestError::Missing {
            path: self.to_string(),
        }
    }

    pub(super) fn value(&self, expected: &'static str) -> RequestError {
        RequestError::Value {
            path: self.to_string(),
            expected,
        }
    }

    pub(super) fn wrong_type(&self, expected: &'static str, raw: &RawValue) -> RequestError {
        if matches!(self.step, Step::Root) {
            return RequestError::NotAnObject { found: kind(raw) };
        }
        RequestError::Type {
            path: self.to_string(),
            expected,
            found: kind(raw),
        }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
            if matches!(self.step, Step::Key(_)) && !matches!(parent.step, Step::Root) {
                f.write_str(".")?;
            }
        }
        match self.step {
            Step::Root => Ok(()),
            Step::Key(key) => f.write_str(key),
            Step::Index(index) => write!(f, "[{index}]"),
        }
    }
}

fn kind(raw: &RawValue) -> &'static str {
    match raw.get().as_bytes().first() {
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b'"') => "a string",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        _ => "a number",
    }
}

/// Fields of an object in the order sent.
pub(crate) type Fields<'a> = Vec<(Cow<'a, str>, &'a RawValue)>;

/// An object whose values are not decoded. As an ordered list: a body repeats no key in practice, and a map
/// would cost more than it saves.
struct RawObject<'a>(Fields<'a>);

impl<'de: 'a, 'a> serde::Deserialize<'de> for RawObject<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectVisitor;
        impl<'de> Visitor<'de> for ObjectVisitor {
            type Value = RawObject<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::with_capacity(8);
                while let Some(Key(key)) = map.next_key()? {
                    fields.push((key, map.next_value()?));
                }
                Ok(RawObject(fields))
            }
        }
        deserializer.deserialize_map(ObjectVisitor)
    }
}

/// A key, borrowed unless it holds escapes.
#[derive(serde::Deserialize)]
#[serde(transparent)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

/// The fields of a JSON object, undecoded, in the order sent; `None` if `json` is none.
pub(crate) fn top_level(json: &[u8]) -> Option<Fields<'_>> {
    let RawObject(fields) = serde_json::from_slice(json).ok()?;
    Some(fields)
}

pub(super) fn is_null(raw: &RawValue) -> bool {
    raw.get() == "null"
}

pub(super) fn object<'a>(raw: &'a RawValue, path: &Path<'_>) -> Result<Fields<'a>, RequestError> {
    match serde_json::from_str::<RawObject<'a>>(raw.get()) {
        Ok(RawObject(fields)) => Ok(fields),
        Err(_) => Err(path.wrong_type("an object", raw)),
    }
}

pub(super) fn array<'a>(raw: &'a RawValue, path: &Path<'_>) -> Result<Vec<&'a RawValue>, RequestError> {
    serde_json::from_str(raw.get()).map_err(|_| path.wrong_type("an array", raw))
}

pub(super) fn string(raw: &RawValue, path: &Path<'_>) -> Result<String, RequestError> {
    match serde_json::from_str::<String>(raw.get()) {
        Ok(text) => Ok(text),
        // Raw values are checked for structure only: a lone surrogate escape is found here.
        Err(_) if kind(raw) == "a string" => Err(path.value("a string of valid Unicode")),
        Err(_) => Err(path.wrong_type("a string", raw)),
    }
}

pub(super) fn boolean(raw: &RawValue, path: &Path<'_>) -> Result<bool, RequestError> {
    match raw.get() {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(path.wrong_type("a boolean", raw)),
    }
}

pub(super) fn number(raw: &RawValue, path: &Path<'_>) -> Result<f64, RequestError> {
    numeric(raw, path, "a number")
}

/// A number of the kind `T`, which `expected` says in words.
pub(super) fn numeric<T: serde::de::DeserializeOwned>(
    raw: &RawValue,
    path: &Path<'_>,
    expected: &'static str,
) -> Result<T, RequestError> {
    match serde_json::from_str(raw.get()) {
        Ok(number) => Ok(number),
        Err(_) if kind(raw) == "a number" => Err(path.value(expected)),
        Err(_) => Err(path.wrong_type(expected, raw)),
    }
}

pub(super) fn strings(raw: &RawValue, path: &Path<'_>) -> Result<Vec<String>, RequestError> {
    array(raw, path)?
        .into_iter()
        .enumerate()
        .map(|(index, raw)| string(raw, &path.index(index)))
        .collect()
}

/// A decoded value. The JSON parser's own recursion limit bounds its depth.
pub(super) fn value(raw: &RawValue, path: &Path<'_>) -> Result<Value, RequestError> {
    serde_json::from_str(raw.get()).map_err(|_| {
        if depth(raw.get()) >= MAX_DEPTH {
            RequestError::TooDeep {
                path: path.to_string(),
                limit: MAX_DEPTH,
            }
        } else {
            path.value("valid JSON with strings of valid Unicode and numbers in range")
        }
    })
}

/// Refuses a value that is passed on undecoded if it is nested too deeply for whoever decodes it.
pub(super) fn check_depth(raw: &RawValue, path: &Path<'_>) -> Result<(), RequestError> {
    if depth(raw.get()) > MAX_DEPTH {
        return Err(RequestError::TooDeep {
            path: path.to_string(),
            limit: MAX_DEPTH,
        });
    }
    Ok(())
}

pub(super) fn find<'a>(fields: &Fields<'a>, key: &str) -> Option<&'a RawValue> {
    let (_, raw) = fields.iter().rev().find(|(name, _)| name == key)?;
    (!is_null(raw)).then_some(*raw)
}

pub(super) fn required<'a>(
    fields: &Fields<'a>,
    key: &str,
    path: &Path<'_>,
) -> Result<&'a RawValue, RequestError> {
    find(fields, key).ok_or_else(|| path.key(key).missing())
}

pub(super) fn required_string(
    fields: &Fields<'_>,
    key: &str,
    path: &Path<'_>,
) -> Result<String, RequestError> {
    string(required(fields, key, path)?, &path.key(key))
}

pub(super) fn optional_string(
    fields: &Fields<'_>,
    key: &str,
    path: &Path<'_>,
) -> Result<Option<String>, RequestError> {
    find(fields, key)
        .map(|raw| string(raw, &path.key(key)))
        .transpose()
}

/// How deeply a valid JSON text is nested.
fn depth(json: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let (mut in_string, mut escaped) = (false, false);
    for byte in json.bytes() {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'{' | b'[' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}
