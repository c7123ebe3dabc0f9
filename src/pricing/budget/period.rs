//! When a budget's period begins and ends.

use jiff::civil::Time;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan, Zoned};

use super::Period;
use crate::units::UnixMs;

/// Parts of a period whose arrivals are counted apart.
pub(super) const fn slots(period: Period) -> usize {
    match period {
        Period::Hour => 12,
        Period::Day => 24,
        Period::Month => 31,
    }
}

/// Beginning and end of the period around `now`, by the clock of `zone`.
pub(super) fn bounds(period: Period, zone: &TimeZone, now: UnixMs) -> (UnixMs, UnixMs) {
    const HOUR_MS: i64 = 3_600_000;
    let fallback = (now, UnixMs(now.0.saturating_add(HOUR_MS)));
    let Ok(instant) = Timestamp::from_millisecond(now.0) else {
        return fallback;
    };
    let local = instant.to_zoned(zone.clone());
    let ends = |begin: Zoned, end: Zoned| {
        let ms = |moment: &Zoned| UnixMs(moment.timestamp().as_millisecond());
        (ms(&begin), ms(&end))
    };
    let found = match period {
        // Hours are counted in elapsed time, so that daylight saving makes none shorter or longer.
        Period::Hour => local
            .with()
            .minute(0)
            .second(0)
            .subsec_nanosecond(0)
            .build()
            .ok()
            .map(|begin| {
                let since = UnixMs(begin.timestamp().as_millisecond());
                (since, UnixMs(since.0 + HOUR_MS))
            }),
        Period::Day => local.start_of_day().ok().and_then(|begin| {
            let end = begin.tomorrow().ok()?.start_of_day().ok()?;
            Some(ends(begin, end))
        }),
        Period::Month => local
            .with()
            .day(1)
            .time(Time::midnight())
            .build()
            .ok()
            .and_then(|begin| {
                let end = begin.checked_add(1.month()).ok()?;
                Some(ends(begin, end))
            }),
    };
    found
        .filter(|(since, renews)| *since <= now && now < *renews)
        .unwrap_or(fallback)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> UnixMs {
        UnixMs(text.parse::<Timestamp>().unwrap().as_millisecond())
    }

    #[test]
    fn periods_keep_their_bounds_across_daylight_saving() {
        let berlin = TimeZone::get("Europe/Berlin").unwrap();
        let hours = |(since, renews): (UnixMs, UnixMs)| renews.since(since).as_secs() / 3_600;
        assert_eq!(
            hours(bounds(Period::Day, &berlin, at("2026-10-25T10:00:00Z"))),
            25
        );
        assert_eq!(
            hours(bounds(Period::Day, &berlin, at("2026-03-29T10:00:00Z"))),
            23
        );
        assert_eq!(
            hours(bounds(Period::Month, &berlin, at("2026-11-10T10:00:00Z"))),
            30 * 24
        );
        for minute in 0..240 {
            let now = UnixMs(at("2026-10-24T23:30:00Z").0 + minute * 60_000);
            let (since, renews) = bounds(Period::Hour, &berlin, now);
            assert!(
                since <= now && now < renews && hours((since, renews)) == 1,
                "{now:?}"
            );
        }
    }
}
