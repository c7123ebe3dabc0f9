//! From the decision log to the rows of the routing report.

use std::collections::{BTreeMap, BTreeSet};

use super::routing::{LoggedCandidate, RoutingRow};
use crate::arm::ArmId;
use crate::store::{AttemptRow, CandidateRow, Joined, StoreError};
use crate::units::{UnixMs, Usd};

/// The metric that the reports judge by.
pub const METRIC: &str = "quality";
/// A decision that came to no call and is younger than this may still be under way.
const UNDER_WAY_MS: i64 = 120_000;

/// Finds the always-best baseline: the arm of which the router expects the highest mean quality, among those it had
/// to choose from.
#[derive(Clone, Debug, Default)]
pub struct Reference {
    arms: BTreeMap<ArmId, (f64, u64)>,
}

impl Reference {
    /// Takes in the candidates of one decision. Fewer than two are no choice and say nothing.
    pub fn observe(&mut self, candidates: &[CandidateRow]) {
        if candidates.len() < 2 {
            return;
        }
        for candidate in candidates {
            let (sum, count) = self.arms.entry(candidate.arm.clone()).or_default();
            *sum += f64::from(candidate.quality);
            *count += 1;
        }
    }

    /// Mean quality that the router expected of an arm, over the decisions in which it was a candidate.
    #[must_use]
    pub fn mean(&self, arm: &ArmId) -> Option<f64> {
        self.arms.get(arm).map(|(sum, count)| sum / *count as f64)
    }

    /// The arm with the highest mean, of those that were a candidate in at least half as many decisions as the
    /// most frequent one; `None` before the first choice.
    #[must_use]
    pub fn best(&self) -> Option<&ArmId> {
        let most = self.arms.values().map(|(_, count)| *count).max()?;
        self.arms
            .iter()
            .filter(|(_, (_, count))| 2 * count >= most)
            .max_by(|(_, a), (_, b)| (a.0 / a.1 as f64).total_cmp(&(b.0 / b.1 as f64)))
            .map(|(arm, _)| arm)
    }
}

/// What `best` was expected to cost on a decision with a choice; `None` if it was no candidate.
#[must_use]
pub fn baseline_cost(candidates: &[LoggedCandidate], best: &ArmId) -> Option<Usd> {
    let choice = candidates.len() > 1;
    candidates
        .iter()
        .find(|candidate| choice && candidate.arm == *best)
        .map(|candidate| candidate.expected_cost)
}

/// What `best` would have cost where it was `expected` to cost this much and `served` was `paid` for its answer: what the
/// baseline served itself is not estimated, it cost what it cost.
fn baseline(expected: Usd, served: Option<&ArmId>, paid: Option<Usd>, best: &ArmId) -> Usd {
    paid.filter(|_| served == Some(best)).unwrap_or(expected)
}

/// Whether a decision may still be under way at `now`: no attempt has ended, and it is young.
pub(super) fn is_under_way(joined: &Joined, now: UnixMs) -> bool {
    joined.attempts.is_empty() && joined.decision.at.0 > now.0 - UNDER_WAY_MS
}

/// Reads the log as of `now` into rows, with the baseline found in it. What may still be under way is left out: nothing
/// has failed there.
///
/// # Errors
/// If the log cannot be read.
pub fn rows(
    log: impl Iterator<Item = Result<Joined, StoreError>>,
    now: UnixMs,
) -> Result<(Vec<RoutingRow>, Option<ArmId>), StoreError> {
    let mut reference = Reference::default();
    let mut rows = Vec::new();
    let mut paid = Vec::new();
    let mut arms = BTreeSet::new();
    for joined in log {
        let joined = joined?;
        if is_under_way(&joined, now) {
            continue;
        }
        reference.observe(&joined.decision.candidates);
        let mut row = row(&joined);
        share(&mut arms, &mut row);
        rows.push(row);
        let served = joined.attempts.iter().find(|attempt| attempt.served);
        paid.push(served.and_then(|attempt| attempt.cost));
    }
    let best = reference.best().cloned();
    if let Some(best) = &best {
        for (row, paid) in rows.iter_mut().zip(paid) {
            row.baseline_cost = baseline_cost(&row.candidates, best)
                .map(|expected| baseline(expected, row.served.as_ref(), paid, best));
        }
    }
    Ok((rows, best))
}

/// Lets all rows share the few names that they hold: a row of a long log must not cost an allocation for each.
fn share(known: &mut BTreeSet<ArmId>, row: &mut RoutingRow) {
    let candidates = row.candidates.iter_mut().map(|candidate| &mut candidate.arm);
    let named = std::iter::once(&mut row.arm).chain(&mut row.served);
    for arm in candidates.chain(named) {
        match known.get(arm) {
            Some(same) => arm.clone_from(same),
            None => {
                known.insert(arm.clone());
            }
        }
    }
    row.candidates.shrink_to_fit();
}

/// One decision; its baseline is set when the whole log is known.
pub(super) fn row(joined: &Joined) -> RoutingRow {
    let decision = &joined.decision;
    let served = joined.attempts.iter().find(|attempt| attempt.served);
    let scores: Vec<f64> = joined
        .scores
        .iter()
        .filter(|score| &*score.metric == METRIC)
        .map(|score| score.score)
        .collect();
    let unpriced = joined
        .attempts
        .iter()
        .filter(|attempt| attempt.cost.is_none())
        .count();
    let known_cost = joined.attempts.iter().filter_map(|attempt| attempt.cost).sum();
    RoutingRow {
        at: decision.at,
        route: decision.route.to_string(),
        category: Some(decision.category.to_string()),
        arm: decision.arm.clone(),
        served: served.map(|attempt| attempt.arm.clone()),
        propensity: (decision.candidates.len() > 1 && decision.propensity > 0.0)
            .then_some(decision.propensity),
        candidates: decision
            .candidates
            .iter()
            .map(|candidate| LoggedCandidate {
                arm: candidate.arm.clone(),
                propensity: f64::from(candidate.propensity),
                expected_quality: f64::from(candidate.quality),
                expected_cost: candidate.cost,
            })
            .collect(),
        cost: (unpriced == 0 && !joined.attempts.is_empty()).then_some(known_cost),
        known_cost,
        unpriced_attempts: unpriced as u64,
        baseline_cost: None,
        ttft_ms: served.and_then(|attempt| attempt.ttft_ms),
        total_ms: served.map(|attempt| attempt.total_ms),
        score: (!scores.is_empty()).then(|| scores.iter().sum::<f64>() / scores.len() as f64),
        fallback: served.is_some_and(|attempt| attempt.role == "fallback"),
        saved_by_cache: joined.attempts.iter().find_map(AttemptRow::saved),
        hedged: joined.attempts.iter().any(|attempt| attempt.role == "hedge"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Store, tests as store_rows};

    fn candidate(arm: &str, quality: f32, nanos: i64) -> CandidateRow {
        CandidateRow {
            arm: ArmId::new(arm),
            propensity: 0.5,
            quality,
            deviation: 0.1,
            cost: Usd::from_nanos(nanos),
        }
    }

    #[test]
    fn the_reference_is_the_best_arm_that_was_there_often_enough() {
        let mut reference = Reference::default();
        assert_eq!(reference.best(), None);
        reference.observe(&[candidate("a/1", 1.0, 5)]);
        assert_eq!(reference.best(), None, "one candidate is no choice");
        for _ in 0..4 {
            reference.observe(&[candidate("a/1", 0.8, 5), candidate("b/2", 0.9, 9)]);
        }
        reference.observe(&[candidate("a/1", 0.8, 5), candidate("c/rare", 0.99, 1)]);
        assert_eq!(reference.best(), Some(&ArmId::new("b/2")));
        let both = [("a/1", 5), ("b/2", 9)].map(|(arm, nanos)| LoggedCandidate {
            arm: ArmId::new(arm),
            propensity: 0.5,
            expected_quality: 0.8,
            expected_cost: Usd::from_nanos(nanos),
        });
        assert_eq!(baseline_cost(&both, &ArmId::new("b/2")), Some(Usd::from_nanos(9)));
        assert_eq!(baseline_cost(&both[1..], &ArmId::new("b/2")), None);
    }

    #[tokio::test]
    async fn what_is_under_way_has_not_failed() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), UnixMs(1)).unwrap();
        let decided = store_rows::decision("answered").at;
        for id in ["answered", "waiting"] {
            assert!(store.log_decision(store_rows::decision(id)));
        }
        assert!(store.log_attempt(store_rows::attempt("answered", 1)));
        store.flush().await.unwrap();
        let rows = |after_ms: i64| {
            let log = store.reader().log(UnixMs(0), UnixMs(i64::MAX));
            rows(log, UnixMs(decided.0 + after_ms)).unwrap().0
        };
        let served = |rows: &[RoutingRow]| rows.iter().filter(|row| row.served.is_some()).count();
        let soon = rows(1_000);
        assert_eq!((soon.len(), served(&soon)), (1, 1));
        // Two minutes later nothing will come of it any more.
        let later = rows(UNDER_WAY_MS);
        assert_eq!((later.len(), served(&later)), (2, 1));
    }

    #[tokio::test]
    async fn a_lost_hedge_of_an_unknown_price_leaves_the_cost_of_the_request_unknown() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), UnixMs(1)).unwrap();
        assert!(store.log_decision(store_rows::decision("hedged")));
        let served = store_rows::attempt("hedged", 1);
        let paid = served.cost.unwrap();
        let lost = AttemptRow {
            served: false,
            cost: None,
            ..store_rows::attempt("hedged", 2)
        };
        assert!(served.served && store.log_attempt(served) && store.log_attempt(lost));
        store.flush().await.unwrap();
        let log = store.reader().log(UnixMs(0), UnixMs(i64::MAX));
        let row = &rows(log, UnixMs(i64::MAX)).unwrap().0[0];
        assert_eq!((row.cost, row.known_cost, row.unpriced_attempts), (None, paid, 1));
    }

    #[test]
    fn what_the_baseline_served_itself_is_not_estimated() {
        let (best, other) = (ArmId::new("b/2"), ArmId::new("a/1"));
        let (nine, seven) = (Usd::from_nanos(9), Usd::from_nanos(7));
        let cost = |served, paid| baseline(nine, served, paid, &best);
        assert_eq!(cost(Some(&best), Some(seven)), seven);
        assert_eq!(cost(Some(&best), None), nine, "its price is unknown");
        assert_eq!(cost(Some(&other), Some(seven)), nine);
        assert_eq!(cost(None, None), nine);
    }
}
