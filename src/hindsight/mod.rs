//! `pointsman evaluate`: what another policy would have scored and cost on the decisions of the log.
//!
//! The log is gone through once, in order. At each decision the policy under evaluation says with which
//! probability it would have chosen each candidate, and a model predicts each candidate's score; only then both see
//! the score and learn from it. So nothing is judged by what it was fitted on, a policy that learns is judged as it
//! learns, and every row is a martingale difference: the intervals hold whatever the log's own policy learned.
//!
//! - [`named`]: policies by their names; [`walk`]: from the log to rows; [`verdict`]: from rows to figures.

pub mod named;
pub mod verdict;
pub mod walk;

use std::path::PathBuf;

use crate::units::UnixMs;

/// Options of `pointsman evaluate`.
#[derive(clap::Args, Clone, Debug)]
pub struct EvaluateArgs {
    /// The policy: contextual, static_mix, category_table, epsilon_greedy, random, cheapest, dearest, or single:MODEL
    #[arg(long, value_name = "NAME")]
    pub policy: String,
    /// Only decisions from then on: a time (2026-05-01, 2026-05-01T12:00:00Z) or an age (12h, 7d)
    #[arg(long, value_name = "T", value_parser = since)]
    pub since: Option<Since>,
    /// Only decisions of this route
    #[arg(long, value_name = "ROUTE")]
    pub route: Option<String>,
    /// Where the database is
    #[arg(long, value_name = "DIR", default_value = "data")]
    pub data_dir: PathBuf,
    /// The folder of the shipped projections and the seed prior
    #[arg(
        long,
        value_name = "DIR",
        default_value = "models",
        env = "POINTSMAN_MODELS_DIR"
    )]
    pub models_dir: PathBuf,
    /// Take the routes' objectives from this configuration
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The policy's objective: least cost with a mean quality no more than this below the best model's
    #[arg(long, value_name = "Q", group = "goal", value_parser = share)]
    pub margin: Option<f64>,
    /// The policy's objective: quality less this many points a dollar
    #[arg(long, value_name = "L", group = "goal", value_parser = not_negative)]
    pub lambda: Option<f64>,
    /// Importance weights are cut here
    #[arg(long, value_name = "W", default_value_t = crate::evaluation::off_policy::DEFAULT_CLIP)]
    pub clip: f64,
    /// Error rate of the intervals
    #[arg(long, value_name = "A", default_value_t = 0.05, value_parser = share)]
    pub alpha: f64,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// From when on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// A time.
    At(UnixMs),
    /// So many milliseconds ago.
    Age(i64),
}

impl Since {
    /// The time, where now is `now`.
    #[must_use]
    pub const fn resolve(self, now: UnixMs) -> UnixMs {
        match self {
            Self::At(at) => at,
            Self::Age(age) => UnixMs(now.0.saturating_sub(age)),
        }
    }
}

/// Reads a time or an age.
fn since(text: &str) -> Result<Since, String> {
    let unit = |letter: &str| match letter {
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        "d" => Some(86_400_000),
        "w" => Some(604_800_000),
        _ => None,
    };
    if let Some((at, _)) = text.char_indices().next_back()
        && let (Ok(count), Some(unit)) = (text[..at].parse::<u32>(), unit(&text[at..]))
    {
        return Ok(Since::Age(i64::from(count) * unit));
    }
    let time = text.parse::<jiff::Timestamp>().ok().or_else(|| {
        let day: jiff::civil::Date = text.parse().ok()?;
        Some(day.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp())
    });
    time.map(|time| Since::At(UnixMs(time.as_millisecond())))
        .ok_or_else(|| {
            "a time like 2026-05-01 or 2026-05-01T12:00:00Z, or an age like 90m, 12h, 7d, 2w".to_owned()
        })
}

fn share(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    ((0.0..1.0).contains(&number))
        .then_some(number)
        .ok_or_else(|| "must be from 0 to below 1".to_owned())
}

fn not_negative(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    (number.is_finite() && number >= 0.0)
        .then_some(number)
        .ok_or_else(|| "must be 0 or more".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_or_an_age() {
        assert_eq!(since("1970-01-02"), Ok(Since::At(UnixMs(86_400_000))));
        assert_eq!(since("1970-01-01T00:00:01Z"), Ok(Since::At(UnixMs(1000))));
        assert_eq!(
            since("2h").map(|since| since.resolve(UnixMs(7_200_005))),
            Ok(UnixMs(5))
        );
        for wrong in ["", "yesterday", "5", "-1d", "d"] {
            assert!(since(wrong).is_err(), "{wrong}");
        }
    }
}
