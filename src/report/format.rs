//! How figures are written, the same in every report.

use jiff::Timestamp;

use crate::evaluation::sequence::Interval;
use crate::units::UnixMs;

/// Dollars with three significant digits at least: `$12,345`, `$1,234.50`, `$0.0123`, `-$0.000082`.
#[must_use]
pub fn usd(dollars: f64) -> String {
    if !dollars.is_finite() {
        return "–".to_owned();
    }
    // What rounds to no nano-dollar is nothing: sums of rounded figures miss it by a hair.
    let dollars = if dollars.abs() < 0.5e-9 { 0.0 } else { dollars };
    let sign = if dollars < 0.0 { "-" } else { "" };
    let size = dollars.abs();
    let decimals = if size >= 10_000.0 {
        0
    } else if size == 0.0 || size >= 10.0 {
        2
    } else {
        // Three significant digits.
        (2 - size.log10().floor() as i32).clamp(2, 9) as usize
    };
    let text = format!("{size:.decimals$}");
    match text.split_once('.') {
        Some((whole, part)) => format!("{sign}${}.{part}", thousands(whole)),
        None => format!("{sign}${}", thousands(&text)),
    }
}

/// A whole number with separated thousands: `12,345`.
#[must_use]
pub fn count(number: u64) -> String {
    thousands(&number.to_string())
}

fn thousands(digits: &str) -> String {
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A share in per cent with one decimal: `42.0 %`.
#[must_use]
pub fn percent(share: f64) -> String {
    if share.is_finite() {
        format!("{:.1} %", 100.0 * share)
    } else {
        "–".to_owned()
    }
}

/// How many times the cost was paid of which a `share` was saved, where that is more than twice: beyond it, a share below
/// nothing reads oddly. The dashboard has the same rule.
fn multiple(share: f64) -> Option<String> {
    let ratio = 1.0 - share;
    let times = if ratio < 10.0 {
        format!("{ratio:.1} times")
    } else {
        format!("{} times", count(ratio.round() as u64))
    };
    (ratio.is_finite() && ratio > 2.0).then_some(times)
}

/// A saved share: `42.0 %`, or `13 times the cost` where more than twice was paid.
#[must_use]
pub fn saved(share: f64) -> String {
    multiple(share).map_or_else(|| percent(share), |times| format!("{times} the cost"))
}

/// A saved share of `what`: `42.0 % of $5.00`, or `13 times $5.00`.
#[must_use]
pub fn saved_of(share: f64, what: &str) -> String {
    multiple(share).map_or_else(
        || format!("{} of {what}", percent(share)),
        |times| format!("{times} {what}"),
    )
}

/// How much more is paid, by the saved share below nothing: `42.0 % more`, or `13 times as much`.
#[must_use]
pub fn dearer(share: f64) -> String {
    multiple(share).map_or_else(
        || format!("{} more", percent(-share)),
        |times| format!("{times} as much"),
    )
}

/// A level that somebody chose, with the decimals that it has: `95 %`, `99.5 %`.
#[must_use]
pub fn level(share: f64) -> String {
    let hundredths = (1e4 * share).round() / 100.0;
    format!("{hundredths} %")
}

/// A score with three decimals, or a dash.
#[must_use]
pub fn score(value: f64) -> String {
    if value.is_finite() {
        format!("{value:.3}")
    } else {
        "–".to_owned()
    }
}

/// Milliseconds as `850 ms` or `2.31 s`.
#[must_use]
pub fn millis(ms: f64) -> String {
    match ms {
        _ if !ms.is_finite() => "–".to_owned(),
        _ if ms < 10.0 => format!("{ms:.1} ms"),
        _ if ms < 1000.0 => format!("{ms:.0} ms"),
        _ => format!("{:.2} s", ms / 1000.0),
    }
}

/// An interval as `estimate [low, high]`, each written by `each`.
#[must_use]
pub fn interval(interval: &Interval, each: impl Fn(f64) -> String) -> String {
    format!(
        "{} [{}, {}]",
        each(interval.estimate),
        each(interval.low),
        each(interval.high)
    )
}

/// A moment as `2026-11-22 15:04:05 UTC`.
#[must_use]
pub fn moment(at: UnixMs) -> String {
    stamp(at, "%Y-%m-%d %H:%M:%S UTC")
}

/// A moment on an axis that spans `span_ms`: seconds, minutes or dates.
#[must_use]
pub fn tick(at: UnixMs, span_ms: i64) -> String {
    const DAY: i64 = 86_400_000;
    let pattern = match span_ms {
        _ if span_ms <= 600_000 => "%H:%M:%S",
        _ if span_ms <= DAY => "%H:%M",
        _ if span_ms < 3 * DAY => "%m-%d %H:%M",
        _ => "%m-%d",
    };
    stamp(at, pattern)
}

fn stamp(at: UnixMs, pattern: &str) -> String {
    Timestamp::from_millisecond(at.0).map_or_else(|_| "–".to_owned(), |t| t.strftime(pattern).to_string())
}

/// A span as `45 s`, `12 min`, `3.5 h` or `2.1 days`.
#[must_use]
pub fn span(ms: f64) -> String {
    let seconds = ms / 1000.0;
    match seconds {
        _ if !seconds.is_finite() => "–".to_owned(),
        ..90.0 => format!("{seconds:.0} s"),
        ..5400.0 => format!("{:.0} min", seconds / 60.0),
        ..129_600.0 => format!("{:.1} h", seconds / 3600.0),
        _ => format!("{:.1} days", seconds / 86_400.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_keeps_three_digits() {
        assert_eq!(usd(1234.5), "$1,234.50");
        assert_eq!(usd(0.0123), "$0.0123");
        assert_eq!(usd(-0.000_082), "-$0.0000820");
        assert_eq!(usd(0.0), "$0.00");
        assert_eq!(usd(-1e-18), "$0.00", "a difference of equal sums");
        assert_eq!(usd(1.5), "$1.50");
        assert_eq!(usd(f64::NAN), "–");
    }

    #[test]
    fn what_costs_more_than_twice_is_said_in_times() {
        assert_eq!((saved(0.42), saved(-1.0)), ("42.0 %".into(), "-100.0 %".into()));
        assert_eq!(saved(-12.34), "13 times the cost");
        assert_eq!(saved_of(-1.5, "$5.00"), "2.5 times $5.00");
        assert_eq!(saved_of(-0.5, "$5.00"), "-50.0 % of $5.00");
        assert_eq!(
            (dearer(-0.42), dearer(-9_999.0)),
            ("42.0 % more".into(), "10,000 times as much".into())
        );
        assert_eq!(
            (saved(f64::NAN), saved(f64::NEG_INFINITY)),
            ("–".into(), "–".into())
        );
    }

    #[test]
    fn counts_and_times_are_readable() {
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(count(12), "12");
        assert_eq!(millis(2310.0), "2.31 s");
        assert_eq!(moment(UnixMs(0)), "1970-01-01 00:00:00 UTC");
        assert_eq!(span(45_000.0), "45 s");
        assert_eq!(span(7_200_000.0), "2.0 h");
    }
}
