//! From rows to figures.

use std::collections::BTreeMap;

use super::health::health;
use super::outcome::outcome;
use super::parts::{ArmFigures, Outcome, ProviderFigures, RoutingReport, Totals};
use super::{Question, RoutingRow, SCHEMA, off_policy, timeline};
use crate::evaluation::moments::{Moments, UnitTotals, mean_interval};
use crate::evaluation::sequence::{ConfidenceSequence, Interval, SequenceError};
use crate::units::Usd;

/// Error rate of every interval of the report.
pub const ALPHA: f64 = 0.05;
/// Samples near which the intervals are tightest.
const PLANNED: u64 = 1_000;
/// Samples below which a 99th percentile is only the slowest request.
const MIN_P99: usize = 100;
/// Makes the figures of `rows` (any order).
///
/// # Errors
/// Never for the constants of this module; the type is that of [`ConfidenceSequence::new`].
pub fn summarise(rows: &[RoutingRow], question: &Question) -> Result<RoutingReport, SequenceError> {
    let sequence = ConfidenceSequence::new(ALPHA, PLANNED)?;
    let (hits, mut rows): (Vec<&RoutingRow>, Vec<&RoutingRow>) =
        rows.iter().partition(|row| row.saved_by_cache.is_some());
    rows.sort_by_key(|row| row.at);
    let totals = Totals {
        cache_hits: hits.len() as u64,
        cache_saved_usd: hits.iter().filter_map(|row| row.saved_by_cache).sum(),
        ..totals(&rows)
    };
    let arms = arms(&rows, &sequence);
    let (per_request, saved, saved_share) = savings(&rows, &totals, &sequence);
    let quality = mean_interval(&scores(&rows), &sequence, Some((0.0, 1.0)));
    let difference = question
        .reference
        .as_ref()
        .and_then(|arm| off_policy::difference(&rows, arm, &sequence));
    let health = health(&rows, &totals, &arms);
    let mut report = RoutingReport {
        schema: SCHEMA.to_owned(),
        provenance: question.provenance.clone(),
        reference: question.reference.as_ref().map(ToString::to_string),
        margin: question.margin,
        since: rows.first().map(|row| row.at),
        until: rows.last().map(|row| row.at),
        outcome: Outcome {
            verdict: String::new(),
            sentence: String::new(),
            more_needed: None,
            days_needed: None,
        },
        health,
        saving_per_request: per_request,
        saved,
        saved_share,
        quality,
        quality_difference: difference.map(|(interval, _)| interval),
        providers: providers(&rows),
        off_policy: off_policy::lines(
            &rows,
            &arms.iter().map(|arm| arm.arm.as_str()).collect::<Vec<_>>(),
            &sequence,
        ),
        timeline: timeline::timeline(&rows, &arms, &sequence),
        arms,
        totals,
    };
    report.outcome = outcome(&report, &rows, &sequence);
    Ok(report)
}

/// Sums of every score.
pub(super) fn scores(rows: &[&RoutingRow]) -> Moments {
    let mut sums = Moments::default();
    for score in rows.iter().filter_map(|row| row.score) {
        sums += Moments::of(UnitTotals::one(score, 0.0), 1.0);
    }
    sums
}

fn totals(rows: &[&RoutingRow]) -> Totals {
    let mut totals = Totals {
        requests: rows.len() as u64,
        ..Totals::default()
    };
    for row in rows {
        totals.served += u64::from(row.served.is_some());
        totals.fallbacks += u64::from(row.fallback);
        totals.hedged += u64::from(row.hedged);
        totals.unpriced += u64::from(row.cost.is_none());
        totals.cost_usd += row.known_cost;
        totals.unpriced_attempts += row.unpriced_attempts;
        if row.cost.is_none() {
            totals.partly_known_usd += row.known_cost;
        }
        if let (Some(cost), Some(baseline)) = (row.cost, row.baseline_cost) {
            totals.compared += 1;
            totals.compared_cost_usd += cost;
            totals.baseline_cost_usd += baseline;
        }
        if let Some(score) = row.score {
            totals.scored += 1;
            totals.score_sum += score;
            totals.score_square_sum += score * score;
        }
    }
    totals
}

/// Saved per request, so far, and as a share of what the baseline would have cost.
fn savings(
    rows: &[&RoutingRow],
    totals: &Totals,
    sequence: &ConfidenceSequence,
) -> (Option<Interval>, Option<Interval>, Option<Interval>) {
    let mut sums = Moments::default();
    for row in rows {
        if let (Some(cost), Some(baseline)) = (row.cost, row.baseline_cost) {
            sums += Moments::of(UnitTotals::one((baseline - cost).dollars(), 0.0), 1.0);
        }
    }
    let per_request = mean_interval(&sums, sequence, None);
    let saved = per_request.map(|interval| interval.times(totals.compared as f64));
    let baseline = totals.baseline_cost_usd.dollars();
    let share = saved
        .filter(|_| baseline > 0.0)
        .map(|interval| interval.times(1.0 / baseline));
    (per_request, saved, share)
}

fn arms(rows: &[&RoutingRow], sequence: &ConfidenceSequence) -> Vec<ArmFigures> {
    let mut by_arm: BTreeMap<&str, (ArmFigures, Moments)> = BTreeMap::new();
    let fresh = |arm: &str| {
        let figures = ArmFigures {
            arm: arm.to_owned(),
            drawn: 0,
            share: 0.0,
            scored: 0,
            score_sum: 0.0,
            quality: None,
            cost_usd: Usd::ZERO,
            priced: 0,
            unpriced_attempts: 0,
            failed: 0,
            expected_draws: 0.0,
        };
        (figures, Moments::default())
    };
    for row in rows {
        for candidate in &row.candidates {
            let name = candidate.arm.as_str();
            by_arm.entry(name).or_insert_with(|| fresh(name)).0.expected_draws += candidate.propensity;
        }
        let name = row.arm.as_str();
        let (figures, sums) = by_arm.entry(name).or_insert_with(|| fresh(name));
        figures.drawn += 1;
        figures.failed += u64::from(row.fallback || row.served.is_none());
        figures.cost_usd += row.cost.unwrap_or_default();
        figures.priced += u64::from(row.cost.is_some());
        figures.unpriced_attempts += row.unpriced_attempts;
        if let Some(score) = row
            .score
            .filter(|_| row.served.as_ref() == Some(&row.arm) && !row.fallback)
        {
            figures.scored += 1;
            figures.score_sum += score;
            *sums += Moments::of(UnitTotals::one(score, 0.0), 1.0);
        }
    }
    let mut arms: Vec<ArmFigures> = by_arm
        .into_values()
        .map(|(figures, sums)| ArmFigures {
            share: figures.drawn as f64 / rows.len().max(1) as f64,
            quality: mean_interval(&sums, sequence, Some((0.0, 1.0))),
            ..figures
        })
        .collect();
    arms.sort_by_key(|arm| std::cmp::Reverse(arm.drawn));
    arms
}

fn providers(rows: &[&RoutingRow]) -> Vec<ProviderFigures> {
    let mut by_provider: BTreeMap<&str, (u64, Vec<f64>, Vec<f64>)> = BTreeMap::new();
    for row in rows {
        let Some(served) = &row.served else { continue };
        let (count, ttft, total) = by_provider.entry(served.provider()).or_default();
        *count += 1;
        ttft.extend(row.ttft_ms);
        total.extend(row.total_ms);
    }
    by_provider
        .into_iter()
        .map(|(provider, (served, mut ttft, mut total))| {
            ttft.sort_by(f64::total_cmp);
            total.sort_by(f64::total_cmp);
            let p99 = |sorted: &[f64]| {
                if sorted.len() < MIN_P99 {
                    None
                } else {
                    quantile(sorted, 0.99)
                }
            };
            ProviderFigures {
                provider: provider.to_owned(),
                served,
                ttft_samples: ttft.len() as u64,
                ttft_p50_ms: quantile(&ttft, 0.5),
                ttft_p99_ms: p99(&ttft),
                total_samples: total.len() as u64,
                total_p50_ms: quantile(&total, 0.5),
                total_p99_ms: p99(&total),
            }
        })
        .collect()
}

/// Nearest rank: the smallest value that a share `q` of the samples does not exceed.
fn quantile(sorted: &[f64], q: f64) -> Option<f64> {
    let rank = (q * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied()
}
