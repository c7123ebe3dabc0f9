//! Figures over time.

use std::collections::HashMap;

use super::RoutingRow;
use super::parts::{ArmFigures, Timeline};
use crate::evaluation::moments::{Moments, UnitTotals, mean_interval};
use crate::evaluation::sequence::ConfidenceSequence;
use crate::report::page::SERIES;
use crate::units::UnixMs;

/// Buckets of a report at most.
const BUCKETS: i64 = 40;

/// The rows in buckets of equal length. `arms` in the order of their colours: those past the last colour are
/// shown as one.
pub(super) fn timeline(rows: &[&RoutingRow], arms: &[ArmFigures], sequence: &ConfidenceSequence) -> Timeline {
    let (Some(first), Some(last)) = (rows.first(), rows.last()) else {
        return Timeline::default();
    };
    let shown = if arms.len() > SERIES {
        SERIES - 1
    } else {
        arms.len()
    };
    let mut names: Vec<String> = arms.iter().take(shown).map(|arm| arm.arm.clone()).collect();
    if arms.len() > shown {
        names.push(format!("{} others", arms.len() - shown));
    }
    let index: HashMap<&str, usize> = arms
        .iter()
        .enumerate()
        .map(|(i, arm)| (arm.arm.as_str(), i.min(names.len() - 1)))
        .collect();
    let length = ((last.at.0 - first.at.0) / buckets(rows.len()) + 1).max(1);
    let mut out = Timeline {
        shares: vec![Vec::new(); names.len()],
        ..Timeline::default()
    };
    let (mut spent, mut baseline, mut quality) = (0.0, 0.0, Moments::default());
    for bucket in rows.chunk_by(|a, b| (a.at.0 - first.at.0) / length == (b.at.0 - first.at.0) / length) {
        let number = (bucket[0].at.0 - first.at.0) / length;
        let mut drawn = vec![0u64; names.len()];
        let (mut cost, mut reference, mut compared) = (0.0, 0.0, 0.0);
        for row in bucket {
            if let Some(arm) = index.get(row.arm.as_str()) {
                drawn[*arm] += 1;
            }
            if let (Some(paid), Some(other)) = (row.cost, row.baseline_cost) {
                cost += paid.dollars();
                reference += other.dollars();
                compared += 1.0;
            }
            if let Some(score) = row.score {
                quality += Moments::of(UnitTotals::one(score, 0.0), 1.0);
            }
        }
        (spent, baseline) = (spent + cost, baseline + reference);
        out.at.push(UnixMs(first.at.0 + number * length + length / 2));
        out.requests.push(bucket.len() as u64);
        out.spent_usd.push(spent);
        out.baseline_usd.push(baseline);
        let per = |sum: f64| (compared > 0.0).then(|| sum / compared);
        out.cost_per_request.push(per(cost));
        out.baseline_per_request.push(per(reference));
        for (series, count) in out.shares.iter_mut().zip(&drawn) {
            series.push(*count as f64 / bucket.len() as f64);
        }
        out.quality
            .push(mean_interval(&quality, sequence, Some((0.0, 1.0))));
    }
    out.arms = names;
    out
}

/// So many buckets that each holds about twenty requests: fewer would show chance instead of change.
fn buckets(rows: usize) -> i64 {
    (rows as i64 / 20).clamp(1, BUCKETS)
}
