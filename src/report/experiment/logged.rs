//! What the decision log says of an experiment beside its own sums: whether what was assigned was called, and what
//! other policies would have cost and scored on the same requests.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::evaluation::health::{Check, Rates, equal_unit_rates};
use crate::evaluation::sequence::ConfidenceSequence;
use crate::experiments::{Enrolment, ExperimentView};
use crate::report::log;
use crate::report::routing::{OffPolicyLine, RoutingRow, off_policy};
use crate::store::{Joined, StoreError};
use crate::units::UnixMs;

/// Decisions read at most.
const MAX_DECISIONS: usize = 20_000;

/// What the decision log says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Logged {
    /// Decisions of the route that were read, in the experiment or not.
    pub decisions: u64,
    /// Requests assigned to each arm, but for those that may still be under way.
    pub assigned: Vec<u64>,
    /// Of those: that came to a call.
    pub called: Vec<u64>,
    /// Whether all arms' assignments come to calls equally often. A unit that came again counts once, by the part of its
    /// requests that did: they all fare alike, and a busy one would make fair arms look unequal.
    pub exposure: Check,
    /// Other policies on the same requests.
    pub off_policy: Vec<OffPolicyLine>,
}

/// What became of an arm's requests.
#[derive(Clone, Debug, Default)]
struct Calls {
    /// Of units that may come again: requests called, and all.
    units: HashMap<u64, (u64, u64)>,
    assigned: u64,
    called: u64,
}

impl Calls {
    fn count(&mut self, unit: Option<u64>, called: bool) {
        let called = u64::from(called);
        self.assigned += 1;
        self.called += called;
        if let Some(unit) = unit {
            let (hits, trials) = self.units.entry(unit).or_default();
            *hits += called;
            *trials += 1;
        }
    }

    fn rates(&self) -> Rates {
        let of_units = self.units.values();
        let (hits, trials) = of_units
            .clone()
            .fold((0, 0), |(hits, trials), unit| (hits + unit.0, trials + unit.1));
        let mut rates = Rates::singles(self.called - hits, self.assigned - trials);
        of_units.for_each(|(hits, trials)| rates += Rates::of(*hits, *trials));
        rates
    }
}

/// The unit that a decision was assigned by, if it may come again.
fn unit(detail: Option<&str>) -> Option<u64> {
    #[derive(Deserialize)]
    struct Detail {
        enrolment: Option<Enrolment>,
    }
    let detail: Detail = serde_json::from_str(detail?).ok()?;
    detail.enrolment?.unit
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
    let mut calls = vec![Calls::default(); names.len()];
    let mut rows: Vec<RoutingRow> = Vec::new();
    let mut arms: Vec<String> = Vec::new();
    for joined in log.take(MAX_DECISIONS) {
        let joined = joined?;
        let decision = &joined.decision;
        if *decision.route != *definition.route {
            continue;
        }
        let arm = decision.experiment.as_deref();
        if let Some(index) = names.iter().position(|name| Some(name.as_str()) == arm)
            && !log::is_under_way(&joined, now)
        {
            calls[index].count(unit(decision.detail.as_deref()), !joined.attempts.is_empty());
        }
        for candidate in &decision.candidates {
            if !arms.iter().any(|known| known == candidate.arm.as_str()) {
                arms.push(candidate.arm.to_string());
            }
        }
        rows.push(log::row(&joined));
    }
    arms.sort();
    let rates: Vec<Rates> = calls.iter().map(Calls::rates).collect();
    let off_policy = ConfidenceSequence::new(definition.design.alpha, definition.design.planned)
        .map(|sequence| {
            let rows: Vec<&RoutingRow> = rows.iter().collect();
            let arms: Vec<&str> = arms.iter().map(String::as_str).collect();
            off_policy::lines(&rows, &arms, &sequence)
        })
        .unwrap_or_default();
    Ok(Logged {
        decisions: rows.len() as u64,
        exposure: equal_unit_rates(&rates),
        assigned: calls.iter().map(|arm| arm.assigned).collect(),
        called: calls.iter().map(|arm| arm.called).collect(),
        off_policy,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::health::Health;

    /// A hundred users an arm; of one arm's, a single user sends most requests and all of hers are refused by a budget.
    #[test]
    fn a_busy_user_does_not_make_the_arms_unequal() {
        let arm = |busy: u64| {
            let mut calls = Calls::default();
            for user in 0..100 {
                for request in 0..10 {
                    calls.count(Some(user), (user + request) % 5 != 0);
                }
            }
            (0..busy).for_each(|_| calls.count(Some(0), false));
            calls
        };
        let (quiet, busy) = (arm(0), arm(2_000));
        assert_eq!((busy.called, busy.assigned), (800, 3_000));
        let check = equal_unit_rates(&[quiet.rates(), busy.rates()]);
        assert_eq!(check.health, Health::Passed, "{check:?}");
        // One by one the same requests would be an alarm, and so are units that differ.
        let single = |calls: &Calls| Rates::singles(calls.called, calls.assigned);
        let check = equal_unit_rates(&[single(&quiet), single(&busy)]);
        assert_eq!(check.health, Health::Failed, "{check:?}");
        let mut unequal = Calls::default();
        (0..100).for_each(|user| unequal.count(Some(user), user % 5 == 0));
        let check = equal_unit_rates(&[quiet.rates(), unequal.rates()]);
        assert_eq!(check.health, Health::Failed, "{check:?}");
    }

    #[test]
    fn requests_that_are_units_of_their_own_count_one_by_one() {
        let mut calls = Calls::default();
        calls.count(None, true);
        calls.count(None, false);
        calls.count(Some(1), true);
        calls.count(Some(1), false);
        let mut expected = Rates::singles(1, 2);
        expected += Rates::of(1, 2);
        assert_eq!(calls.rates(), expected);
        assert_eq!(unit(None), None);
        assert_eq!(unit(Some("{}")), None);
    }
}
