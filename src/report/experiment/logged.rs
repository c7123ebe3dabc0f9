//! What the decision log says of an experiment beside its own sums: whether what was assigned was called, and what
//! other policies would have cost and scored on the same requests.

use serde::{Deserialize, Serialize};

use crate::evaluation::health::{Check, equal_rates};
use crate::evaluation::sequence::ConfidenceSequence;
use crate::experiments::ExperimentView;
use crate::report::log;
use crate::report::routing::{OffPolicyLine, RoutingRow, off_policy};
use crate::store::{Joined, StoreError};
use crate::units::UnixMs;

/// Decisions read at most.
const MAX_DECISIONS: usize = 20_000;
/// A decision that came to no call and is younger than this may still be under way.
const UNDER_WAY_MS: i64 = 120_000;

/// What the decision log says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Logged {
    /// Decisions of the route that were read, in the experiment or not.
    pub decisions: u64,
    /// Requests assigned to each arm, but for those that may still be under way.
    pub assigned: Vec<u64>,
    /// Of those: that came to a call.
    pub called: Vec<u64>,
    /// Whether all arms' assignments come to calls equally often.
    pub exposure: Check,
    /// Other policies on the same requests.
    pub off_policy: Vec<OffPolicyLine>,
}

/// Reads the decisions of the experiment's time, as the log stands at `now`.
///
/// # Errors
/// If the log cannot be read.
pub fn read(
    view: &ExperimentView,
    now: UnixMs,
    log: impl Iterator<Item = Result<Joined, StoreError>>,
) -> Result<Logged, StoreError> {
    let definition = &view.definition;
    let names: Vec<String> = view
        .arms
        .iter()
        .map(|arm| format!("{}={}", definition.name, arm.name))
        .collect();
    let (mut assigned, mut called) = (vec![0; names.len()], vec![0; names.len()]);
    let mut rows: Vec<RoutingRow> = Vec::new();
    let mut arms: Vec<String> = Vec::new();
    for joined in log.take(MAX_DECISIONS) {
        let joined = joined?;
        let decision = &joined.decision;
        if *decision.route != *definition.route {
            continue;
        }
        let arm = decision.experiment.as_deref();
        let under_way = joined.attempts.is_empty() && decision.at.0 > now.0 - UNDER_WAY_MS;
        if let Some(index) = names.iter().position(|name| Some(name.as_str()) == arm)
            && !under_way
        {
            assigned[index] += 1;
            called[index] += u64::from(!joined.attempts.is_empty());
        }
        for candidate in &decision.candidates {
            if !arms.iter().any(|known| known == candidate.arm.as_str()) {
                arms.push(candidate.arm.to_string());
            }
        }
        rows.push(log::row(&joined));
    }
    arms.sort();
    let rates: Vec<(u64, u64)> = called.iter().copied().zip(assigned.iter().copied()).collect();
    let off_policy = ConfidenceSequence::new(definition.design.alpha, definition.design.planned)
        .map(|sequence| {
            let rows: Vec<&RoutingRow> = rows.iter().collect();
            let arms: Vec<&str> = arms.iter().map(String::as_str).collect();
            off_policy::lines(&rows, &arms, &sequence)
        })
        .unwrap_or_default();
    Ok(Logged {
        decisions: rows.len() as u64,
        exposure: equal_rates(&rates),
        assigned,
        called,
        off_policy,
    })
}
