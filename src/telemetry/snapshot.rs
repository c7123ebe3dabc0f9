//! The shape of the telemetry part of `GET /v1/telemetry`.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use super::latencies::Curve;
use super::lognormal::LogNormal;
use super::quality::{QualityKey, Scores};
use super::series::{InputSize, SeriesKey, Tally};
use super::view::{Spans, gaps};
use crate::arm::ArmId;
use crate::failure::FailureKind;
use crate::units::UnixMs;

/// Everything that is known, sorted by provider, model, stream and size, so that two snapshots compare.
#[derive(Clone, Debug, Serialize)]
pub struct Snapshot {
    /// When it was taken.
    pub at_ms: UnixMs,
    /// Latency and errors.
    pub series: Vec<SeriesRow>,
    /// Attempts that are running now.
    pub in_flight: Vec<InFlightRow>,
    /// Scores.
    pub quality: Vec<QualityRow>,
    /// Series that fit into memory; calls beyond them are counted in the series `other/other`.
    pub series_limit: usize,
    /// Attempts counted in `other/other` because the limit was reached.
    pub overflowed: u64,
}

/// One series: calls of one model at one provider, streamed or not, of about one prompt size.
#[derive(Clone, Debug, Serialize)]
pub struct SeriesRow {
    /// The provider called.
    pub provider: Arc<str>,
    /// The model.
    pub model: ArmId,
    /// Streamed or whole.
    pub stream: bool,
    /// Size of the prompt.
    pub input_size: InputSize,
    /// The last 50 to 60 seconds.
    pub last_minute: Stats,
    /// The last 55 to 60 minutes.
    pub last_hour: Stats,
    /// Expected milliseconds to a whole answer (log-normal, last hour).
    pub expected_total_ms: Option<f64>,
}

/// Figures of one window.
#[derive(Clone, Debug, Serialize)]
pub struct Stats {
    /// Attempts that ended.
    pub attempts: u64,
    /// Of those: with an answer.
    pub succeeded: u64,
    /// Of those: with an error, by kind.
    pub failed: BTreeMap<&'static str, u32>,
    /// Of those: cut off by us.
    pub cancelled: CancelledRow,
    /// Tokens of the answers.
    pub output_tokens: u64,
    /// Time to the first meaningful event.
    pub ttft: Percentiles,
    /// Mean gap between two tokens of an answer.
    pub inter_token: Percentiles,
    /// Time to the whole answer.
    pub total: Percentiles,
}

/// Attempts that we cut off, by reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct CancelledRow {
    /// Another attempt won.
    pub lost_hedge: u32,
    /// The client left.
    pub client_gone: u32,
    /// The deadline came.
    pub deadline: u32,
}

/// Whether a percentile may be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// An estimate with samples enough.
    Ok,
    /// Too few samples: the value is null.
    Insufficient,
    /// So many were cut off that the true value is this or more.
    AtLeast,
}

/// p50 and p99 with what stands behind them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Percentiles {
    /// Observations that ended.
    pub samples: u64,
    /// Observations that were cut off; they take part as lower bounds.
    pub censored: u64,
    /// Mean of those that ended.
    pub mean_ms: Option<f64>,
    /// Median; null below 2 observations.
    pub p50_ms: Option<f64>,
    /// Whether `p50_ms` may be believed.
    pub p50_status: Status,
    /// 99th percentile; null below 100 observations.
    pub p99_ms: Option<f64>,
    /// Whether `p99_ms` may be believed.
    pub p99_status: Status,
    /// The longest observation.
    pub longest_ms: Option<f64>,
}

/// Attempts that are running now.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct InFlightRow {
    /// The provider called.
    pub provider: Arc<str>,
    /// The model.
    pub model: ArmId,
    /// How many.
    pub count: u64,
}

/// Scores of one model in one category.
#[derive(Clone, Debug, Serialize)]
pub struct QualityRow {
    /// The model that answered.
    pub model: ArmId,
    /// The prompt's category.
    pub category: Arc<str>,
    /// The last 50 to 60 seconds.
    pub last_minute: ScoreRow,
    /// The last 55 to 60 minutes.
    pub last_hour: ScoreRow,
}

/// Scores of one window.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ScoreRow {
    /// How many.
    pub count: i64,
    /// Their mean.
    pub mean: Option<f64>,
    /// Standard error of the mean; null below two scores.
    pub standard_error: Option<f64>,
}

impl From<&Curve> for Percentiles {
    fn from(curve: &Curve) -> Self {
        let percentile = |q| match curve.quantile(q) {
            None => (None, Status::Insufficient),
            Some(quantile) if quantile.at_least => (Some(quantile.value_ms), Status::AtLeast),
            Some(quantile) => (Some(quantile.value_ms), Status::Ok),
        };
        let ((p50_ms, p50_status), (p99_ms, p99_status)) = (percentile(0.5), percentile(0.99));
        Self {
            samples: curve.samples,
            censored: curve.censored,
            mean_ms: curve.mean_ms(),
            p50_ms,
            p50_status,
            p99_ms,
            p99_status,
            longest_ms: (curve.samples + curve.censored > 0).then_some(curve.longest_ms),
        }
    }
}

impl From<&Tally> for Stats {
    fn from(tally: &Tally) -> Self {
        let failed = FailureKind::ALL.iter().zip(tally.failed);
        Self {
            attempts: tally.attempts,
            succeeded: tally.succeeded,
            failed: failed
                .filter(|(_, count)| *count > 0)
                .map(|(kind, count)| (kind.as_str(), count))
                .collect(),
            cancelled: CancelledRow {
                lost_hedge: tally.lost_hedges,
                client_gone: tally.clients_gone,
                deadline: tally.deadlines,
            },
            output_tokens: tally.output_tokens,
            ttft: Percentiles::from(&tally.ttft.curve()),
            inter_token: Percentiles::from(&gaps(&tally.inter_token)),
            total: Percentiles::from(&tally.total.curve()),
        }
    }
}

impl From<Scores> for ScoreRow {
    fn from(scores: Scores) -> Self {
        Self {
            count: scores.count,
            mean: scores.mean(),
            standard_error: scores.standard_error(),
        }
    }
}

pub(super) fn series_row(key: SeriesKey, (recent, all): &Spans) -> SeriesRow {
    SeriesRow {
        provider: key.provider,
        model: key.arm,
        stream: key.stream,
        input_size: key.size,
        last_minute: Stats::from(recent),
        last_hour: Stats::from(all),
        expected_total_ms: LogNormal::fit(&all.total).map(|fit| fit.mean_ms()),
    }
}

pub(super) fn quality_row(key: QualityKey, recent: Scores, all: Scores) -> QualityRow {
    QualityRow {
        model: key.arm,
        category: key.category,
        last_minute: ScoreRow::from(recent),
        last_hour: ScoreRow::from(all),
    }
}
