//! Hours of the week in which a price is multiplied, on the provider's own clock.

use jiff::Timestamp;
use jiff::civil::{Date, Weekday};
use jiff::tz::TimeZone;
use serde::{Serialize, Serializer};

use crate::units::UnixMs;

/// Parts in one: multipliers are exact to a millionth.
const ONE: u32 = 1_000_000;
/// Minutes of a day.
const DAY: u16 = 24 * 60;

/// A factor on prices, exact to a millionth, in [0, 1000].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Multiplier(u32);

impl Multiplier {
    /// Leaves a price as it is.
    pub const ONE: Self = Self(ONE);

    /// `None` unless in [0, 1000].
    #[must_use]
    pub fn new(factor: f64) -> Option<Self> {
        (0.0..=1000.0)
            .contains(&factor)
            .then(|| Self((factor * f64::from(ONE)).round() as u32))
    }

    /// In millionths.
    #[must_use]
    pub const fn millionths(self) -> u32 {
        self.0
    }

    /// As a float.
    #[must_use]
    pub fn factor(self) -> f64 {
        f64::from(self.0) / f64::from(ONE)
    }
}

impl Serialize for Multiplier {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.factor())
    }
}

/// A set of days of the week.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weekdays(u8);

impl Weekdays {
    /// Monday to Sunday.
    pub const ALL: Self = Self(0b111_1111);

    /// Whether `day` is in the set.
    #[must_use]
    pub fn contains(self, day: Weekday) -> bool {
        self.0 & bit(day) != 0
    }

    /// Whether no day is in the set.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

fn bit(day: Weekday) -> u8 {
    1 << day.to_monday_zero_offset()
}

impl FromIterator<Weekday> for Weekdays {
    fn from_iter<I: IntoIterator<Item = Weekday>>(days: I) -> Self {
        Self(days.into_iter().fold(0, |set, day| set | bit(day)))
    }
}

/// Why a window cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WindowError {
    /// A time of day after 24:00.
    #[error("a time of day lies between 00:00 and 24:00")]
    NoSuchTime,
    /// It begins when it ends.
    #[error("starts when it ends; write 00:00 to 24:00 for the whole day")]
    Empty,
    /// It holds on no day.
    #[error("names no day of the week")]
    NoDay,
}

/// Hours of the week with their factor. `[start, end)` by the wall clock of `zone`; one that ends before it
/// starts runs over midnight and belongs to the day on which it starts.
#[derive(Clone, Debug, PartialEq)]
pub struct Window {
    zone: TimeZone,
    days: Weekdays,
    start: u16,
    end: u16,
    except: Vec<Date>,
    multiplier: Multiplier,
}

impl Window {
    /// `start` and `end` in minutes since midnight, 0 to 1440; `except` lists days (holidays) on which it
    /// does not hold.
    ///
    /// # Errors
    /// When the times or days cannot be.
    pub fn new(
        zone: TimeZone,
        days: Weekdays,
        (start, end): (u16, u16),
        except: Vec<Date>,
        multiplier: Multiplier,
    ) -> Result<Self, WindowError> {
        if start >= DAY || end > DAY {
            return Err(WindowError::NoSuchTime);
        }
        if start == end {
            return Err(WindowError::Empty);
        }
        if days.is_empty() {
            return Err(WindowError::NoDay);
        }
        Ok(Self {
            zone,
            days,
            start,
            end,
            except,
            multiplier,
        })
    }

    /// The factor inside the window.
    #[must_use]
    pub const fn multiplier(&self) -> Multiplier {
        self.multiplier
    }

    /// The zone whose clock it goes by.
    #[must_use]
    pub const fn zone(&self) -> &TimeZone {
        &self.zone
    }

    /// Whether `at` lies in the window. By the wall clock: an hour that daylight saving skips is not in it,
    /// one that it repeats is in it twice.
    #[must_use]
    pub fn contains(&self, at: UnixMs) -> bool {
        let Ok(instant) = Timestamp::from_millisecond(at.0) else {
            return false;
        };
        let local = self.zone.to_datetime(instant);
        let minute = local.hour() as u16 * 60 + local.minute() as u16;
        let holds = |date: Date| self.days.contains(date.weekday()) && !self.except.contains(&date);
        if self.start < self.end {
            return (self.start..self.end).contains(&minute) && holds(local.date());
        }
        (minute >= self.start && holds(local.date()))
            || (minute < self.end && local.date().yesterday().is_ok_and(holds))
    }

    /// Whether some minute of the week lies in both; both go by the same clock.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.spans().any(|(a_start, a_end)| {
            other
                .spans()
                .any(|(b_start, b_end)| a_start < b_end && b_start < a_end)
        })
    }

    /// Its minutes as spans of the week that begins on Monday; a span over the end of Sunday is cut in two.
    fn spans(&self) -> impl Iterator<Item = (u32, u32)> {
        const WEEK: u32 = 7 * DAY as u32;
        let length = u32::from((self.end + DAY - self.start - 1) % DAY) + 1;
        let start = u32::from(self.start);
        let days = self.days;
        (0..7u32)
            .filter(move |day| days.0 & (1 << day) != 0)
            .flat_map(move |day| {
                let from = day * u32::from(DAY) + start;
                let to = from + length;
                [(from, to.min(WEEK)), (0, to.saturating_sub(WEEK))]
            })
            .filter(|(from, to)| from < to)
    }
}

impl Serialize for Window {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        let clock = |minutes: u16| format!("{:02}:{:02}", minutes / 60, minutes % 60);
        let mut out = serializer.serialize_struct("Window", 6)?;
        out.serialize_field("timezone", self.zone.iana_name().unwrap_or("UTC"))?;
        let days: Vec<&str> = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
            .into_iter()
            .enumerate()
            .filter(|(day, _)| self.days.0 & (1 << day) != 0)
            .map(|(_, name)| name)
            .collect();
        out.serialize_field("days", &days)?;
        out.serialize_field("start", &clock(self.start))?;
        out.serialize_field("end", &clock(self.end))?;
        let except: Vec<String> = self.except.iter().map(Date::to_string).collect();
        out.serialize_field("except", &except)?;
        out.serialize_field("multiplier", &self.multiplier)?;
        out.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORKDAYS: Weekdays = Weekdays(0b1_1111);

    fn zone(name: &str) -> TimeZone {
        TimeZone::get(name).unwrap()
    }

    fn at(text: &str) -> UnixMs {
        UnixMs(text.parse::<Timestamp>().unwrap().as_millisecond())
    }

    fn window(name: &str, days: Weekdays, start: u16, end: u16) -> Window {
        let twice = Multiplier::new(2.0).unwrap();
        Window::new(zone(name), days, (start * 60, end * 60), Vec::new(), twice).unwrap()
    }

    /// DeepSeek's mornings: 09:00 to 12:00 in Beijing, Monday to Friday.
    #[test]
    fn peak_hours_go_by_the_providers_clock_and_week() {
        let peak = window("Asia/Shanghai", WORKDAYS, 9, 12);
        // 2026-10-30 is a Friday; 01:00 UTC is 09:00 in Beijing.
        assert!(!peak.contains(at("2026-10-30T00:59:59.999Z")));
        assert!(peak.contains(at("2026-10-30T01:00:00Z")));
        assert!(peak.contains(at("2026-10-30T03:59:59.999Z")));
        assert!(!peak.contains(at("2026-10-30T04:00:00Z")));
        assert!(!peak.contains(at("2026-10-31T02:00:00Z")), "Saturday");
    }

    /// A window whose local day differs from the UTC day: Monday 00:00 to 02:00 in Beijing is Sunday in UTC.
    #[test]
    fn the_day_is_the_local_one() {
        let early = window("Asia/Shanghai", Weekdays::from_iter([Weekday::Monday]), 0, 2);
        assert!(early.contains(at("2026-10-25T16:30:00Z")));
        assert!(!early.contains(at("2026-10-26T16:30:00Z")));
    }

    #[test]
    fn a_window_over_midnight_belongs_to_the_day_it_starts_on() {
        let night = window("UTC", Weekdays::from_iter([Weekday::Friday]), 22, 6);
        assert!(night.contains(at("2026-10-30T22:00:00Z")));
        assert!(night.contains(at("2026-10-31T05:59:00Z")), "into Saturday");
        assert!(
            !night.contains(at("2026-10-30T05:00:00Z")),
            "Friday morning is Thursday's"
        );
        assert!(!night.contains(at("2026-10-31T22:00:00Z")));
    }

    /// Berlin goes back from 03:00 to 02:00 on 2026-10-25 and forward from 02:00 to 03:00 on 2026-03-29.
    #[test]
    fn daylight_saving_repeats_and_skips_hours() {
        let small_hours = window("Europe/Berlin", Weekdays::ALL, 2, 3);
        assert!(small_hours.contains(at("2026-10-25T00:30:00Z")), "first 02:30");
        assert!(small_hours.contains(at("2026-10-25T01:30:00Z")), "second 02:30");
        assert!(!small_hours.contains(at("2026-10-25T02:30:00Z")));
        let spring = (0..24 * 60)
            .filter(|minute| small_hours.contains(UnixMs(at("2026-03-28T23:00:00Z").0 + minute * 60_000)));
        assert_eq!(spring.count(), 0, "02:00 to 03:00 does not exist that day");
    }

    #[test]
    fn holidays_are_left_out() {
        let date = Date::constant(2026, 10, 1);
        let peak = Window::new(
            zone("Asia/Shanghai"),
            WORKDAYS,
            (540, 720),
            vec![date],
            Multiplier::ONE,
        )
        .unwrap();
        assert!(
            !peak.contains(at("2026-10-01T02:00:00Z")),
            "a Thursday, but National Day"
        );
        assert!(peak.contains(at("2026-10-08T02:00:00Z")));
    }

    #[test]
    fn overlaps_are_found_across_midnight_and_the_week() {
        let sunday = Weekdays::from_iter([Weekday::Sunday]);
        let monday = Weekdays::from_iter([Weekday::Monday]);
        assert!(window("UTC", sunday, 22, 6).overlaps(&window("UTC", monday, 5, 7)));
        assert!(!window("UTC", sunday, 22, 6).overlaps(&window("UTC", monday, 6, 7)));
        assert!(!window("UTC", WORKDAYS, 9, 12).overlaps(&window("UTC", WORKDAYS, 14, 18)));
        assert!(window("UTC", WORKDAYS, 9, 12).overlaps(&window("UTC", WORKDAYS, 11, 18)));
    }

    #[test]
    fn impossible_windows_are_refused() {
        let make =
            |days, times| Window::new(TimeZone::UTC, days, times, Vec::new(), Multiplier::ONE).unwrap_err();
        assert_eq!(make(WORKDAYS, (0, 1441)), WindowError::NoSuchTime);
        assert_eq!(make(WORKDAYS, (540, 540)), WindowError::Empty);
        assert_eq!(make(Weekdays(0), (0, 60)), WindowError::NoDay);
        assert_eq!(Multiplier::new(-1.0), None);
        assert_eq!(Multiplier::new(f64::NAN), None);
    }
}
