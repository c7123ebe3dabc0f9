//! How long a provider asks to be left alone, in all the forms in use.

use std::time::Duration;

use http::HeaderMap;

use super::told::Told;
use crate::units::UnixMs;

/// Longer waits are as good as never; a header with nonsense must not rest an arm for years.
const LONGEST: f64 = 24.0 * 3600.0;

/// The wait that `headers` and the error body name, in this order: `retry-after-ms`, `retry-after` (seconds or an
/// HTTP date), Gemini's `RetryInfo`, "try again in 6.2s" in the sentence, and the reset of a spent limit
/// (`x-ratelimit-reset-*` as OpenAI's spans, `anthropic-ratelimit-*-reset` as RFC 3339 times).
pub(super) fn wait(headers: Option<&HeaderMap>, told: &Told, now: UnixMs) -> Option<Duration> {
    let header = |name: &str| headers.and_then(|headers| headers.get(name)?.to_str().ok());
    let seconds = header("retry-after-ms")
        .and_then(|text| text.trim().parse::<f64>().ok())
        .map(|millis| millis / 1000.0)
        .or_else(|| retry_after(header("retry-after")?, now))
        .or(told.retry_delay)
        .or_else(|| spoken(&told.message))
        .or_else(|| headers.and_then(|headers| reset(headers, now)))?;
    (seconds.is_finite() && seconds >= 0.0).then(|| Duration::from_secs_f64(seconds.min(LONGEST)))
}

/// Seconds, or a date.
fn retry_after(text: &str, now: UnixMs) -> Option<f64> {
    let text = text.trim();
    if let Ok(seconds) = text.parse::<f64>() {
        return Some(seconds);
    }
    let date = jiff::fmt::rfc2822::parse(text).ok()?;
    Some(until(date.timestamp().as_millisecond(), now))
}

fn until(unix_ms: i64, now: UnixMs) -> f64 {
    (unix_ms.saturating_sub(now.0)).max(0) as f64 / 1000.0
}

/// "Please try again in 1m2.5s", "in 380ms", "retry after 20 seconds".
fn spoken(message: &str) -> Option<f64> {
    let message = message.to_ascii_lowercase();
    let after = ["try again in ", "retry in ", "retry after "]
        .iter()
        .find_map(|lead| Some(&message[message.find(lead)? + lead.len()..]))?;
    let mut words = after.split_whitespace();
    let first = words.next()?.trim_end_matches(['.', ',', ';']);
    if let Ok(count) = first.parse::<f64>() {
        let unit = words.next().unwrap_or("seconds");
        return if unit.starts_with("second") {
            Some(count)
        } else if unit.starts_with("minute") {
            Some(count * 60.0)
        } else if unit.starts_with("milli") {
            Some(count / 1000.0)
        } else {
            None
        };
    }
    span(first)
}

/// `1h2m3.5s`, `250ms`.
fn span(text: &str) -> Option<f64> {
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let count: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest
            .find(|c: char| !c.is_ascii_alphabetic())
            .unwrap_or(rest.len());
        seconds += count
            * match &rest[..letters] {
                "ms" => 0.001,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                "d" => 86_400.0,
                _ => return None,
            };
        rest = &rest[letters..];
    }
    (!text.is_empty()).then_some(seconds)
}

/// The latest reset among the limits that are spent. A limit that still has something left is not what refused us.
fn reset(headers: &HeaderMap, now: UnixMs) -> Option<f64> {
    const LIMITS: [(&str, &str); 7] = [
        ("x-ratelimit-reset-requests", "x-ratelimit-remaining-requests"),
        ("x-ratelimit-reset-tokens", "x-ratelimit-remaining-tokens"),
        ("x-ratelimit-reset", "x-ratelimit-remaining"),
        (
            "anthropic-ratelimit-requests-reset",
            "anthropic-ratelimit-requests-remaining",
        ),
        (
            "anthropic-ratelimit-tokens-reset",
            "anthropic-ratelimit-tokens-remaining",
        ),
        (
            "anthropic-ratelimit-input-tokens-reset",
            "anthropic-ratelimit-input-tokens-remaining",
        ),
        (
            "anthropic-ratelimit-output-tokens-reset",
            "anthropic-ratelimit-output-tokens-remaining",
        ),
    ];
    let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
    LIMITS
        .iter()
        .filter(|(_, remaining)| {
            text(remaining).is_none_or(|left| left.parse::<f64>().is_ok_and(|left| left <= 0.0))
        })
        .filter_map(|(reset, _)| moment(text(reset)?, now))
        .max_by(f64::total_cmp)
}

/// A span, a time, or a number: seconds from now when small, else seconds or milliseconds since 1970.
fn moment(text: &str, now: UnixMs) -> Option<f64> {
    if let Ok(number) = text.parse::<f64>() {
        return Some(match number {
            number if number < 1e8 => number,
            number if number < 1e11 => until((number * 1000.0) as i64, now),
            number => until(number as i64, now),
        });
    }
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Some(until(time.as_millisecond(), now));
    }
    span(text)
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    /// 2015-10-21T07:28:00Z.
    const NOW: UnixMs = UnixMs(1_445_412_480_000);

    fn waited(pairs: &[(&'static str, &'static str)], message: &str) -> Option<f64> {
        let headers = pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect();
        let told = Told {
            message: message.to_owned(),
            ..Told::default()
        };
        wait(Some(&headers), &told, NOW).map(|wait| wait.as_secs_f64())
    }

    #[test]
    fn reads_all_forms() {
        type Case = (&'static [(&'static str, &'static str)], &'static str, Option<f64>);
        let cases: [Case; 15] = [
            (&[("retry-after", "7")], "", Some(7.0)),
            (&[("retry-after", "0.5")], "", Some(0.5)),
            (
                &[("retry-after", "Wed, 21 Oct 2015 07:28:30 GMT")],
                "",
                Some(30.0),
            ),
            (&[("retry-after", "Wed, 21 Oct 2015 07:00:00 GMT")], "", Some(0.0)),
            (&[("retry-after-ms", "250"), ("retry-after", "1")], "", Some(0.25)),
            (&[("retry-after", "soon")], "", None),
            (&[("retry-after", "-3")], "", None),
            (&[("retry-after", "1e300")], "", Some(86_400.0)),
            (&[], "Please try again in 1m2.5s. Visit us", Some(62.5)),
            (
                &[],
                "Rate limit reached. Please retry after 20 seconds.",
                Some(20.0),
            ),
            (
                &[
                    ("x-ratelimit-reset-tokens", "6m0s"),
                    ("x-ratelimit-remaining-tokens", "0"),
                ],
                "",
                Some(360.0),
            ),
            (
                &[
                    ("x-ratelimit-reset-tokens", "6m0s"),
                    ("x-ratelimit-remaining-tokens", "12"),
                    ("x-ratelimit-reset-requests", "12ms"),
                    ("x-ratelimit-remaining-requests", "0"),
                ],
                "",
                Some(0.012),
            ),
            (
                &[("anthropic-ratelimit-requests-reset", "2015-10-21T07:28:04Z")],
                "",
                Some(4.0),
            ),
            (&[("x-ratelimit-reset", "1445412485000")], "", Some(5.0)),
            (&[], "no", None),
        ];
        for (headers, message, expected) in cases {
            assert_eq!(waited(headers, message), expected, "{headers:?} {message:?}");
        }
    }
}
