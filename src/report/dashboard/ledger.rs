//! The overview's figures, kept in memory as the log grows.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::compared::{Baselines, Pair, Sums};
use super::{BudgetView, Overview, OverviewPoint, RecentDecision, SCHEMA};
use crate::arm::ArmId;
use crate::feedback::QUALITY;
use crate::store::{AttemptRow, DecisionRow, FROM_CACHE};
use crate::units::{UnixMs, Usd};

/// Decisions shown.
const RECENT: usize = 40;
/// Decisions remembered, so that what becomes of them can be joined.
const REMEMBERED: usize = 4_096;
/// Points of a series at most; when there are more, neighbours are joined.
const MAX_POINTS: usize = 90;
/// Seconds of a minute.
const MINUTE: i64 = 60;
/// Length of a point at first.
const FIRST_WIDTH_MS: i64 = 2_000;

/// A request whose end may still come.
#[derive(Clone, Debug)]
struct Open {
    /// What each candidate was expected to cost, by its place in the baselines; empty where nothing is compared.
    costs: Vec<(usize, Usd)>,
    spent: Usd,
    served: bool,
}

/// Keeps the overview's figures in memory, fed with every row as it is logged. Bounded: it forgets single decisions
/// and joins stretches of time, never the totals.
#[derive(Clone, Debug)]
pub struct Ledger {
    overview: Overview,
    baselines: Baselines,
    /// Beside each of the overview's points: what is compared in it.
    sums: Vec<Sums>,
    score_sum: f64,
    width_ms: i64,
    open: HashMap<Arc<str>, Open>,
    order: VecDeque<Arc<str>>,
    recent: VecDeque<RecentDecision>,
    /// Requests of the last minute, by the second that they came in.
    minute: VecDeque<(i64, u64)>,
}

impl Ledger {
    /// An empty ledger that counts from `now`.
    #[must_use]
    pub fn new(version: &str, simulated: bool, now: UnixMs) -> Self {
        Self {
            overview: Overview {
                schema: SCHEMA.to_owned(),
                version: version.to_owned(),
                simulated,
                since: now,
                ..Overview::default()
            },
            baselines: Baselines::default(),
            sums: Vec::new(),
            score_sum: 0.0,
            width_ms: FIRST_WIDTH_MS,
            open: HashMap::new(),
            order: VecDeque::new(),
            recent: VecDeque::new(),
            minute: VecDeque::new(),
        }
    }

    /// A decision was logged.
    pub fn decided(&mut self, row: &DecisionRow) {
        // Each attempt of a request brings its decision along; only the first counts.
        if self.open.contains_key(&row.id) {
            return;
        }
        let costs = self.baselines.decided(row);
        self.overview.requests += 1;
        let second = row.at.0.div_euclid(1_000);
        match self.minute.back_mut() {
            Some((last, count)) if *last >= second => *count += 1,
            _ => self.minute.push_back((second, 1)),
        }
        while self.minute.front().is_some_and(|(at, _)| second - at > MINUTE) {
            self.minute.pop_front();
        }
        // An answer from the cache was not drawn.
        let drawn = row.strategy != FROM_CACHE;
        let arm = if drawn { self.arm_index(&row.arm) } else { 0 };
        if let Some(point) = self.point(row.at) {
            point.requests += 1;
            if drawn && point.drawn.len() <= arm {
                point.drawn.resize(arm + 1, 0);
            }
            if drawn {
                point.drawn[arm] += 1;
            }
        }
        self.open.insert(
            Arc::clone(&row.id),
            Open {
                costs,
                spent: Usd::ZERO,
                served: false,
            },
        );
        self.order.push_back(Arc::clone(&row.id));
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.open.remove(&oldest);
        }
        self.recent.push_front(RecentDecision {
            id: Arc::clone(&row.id),
            at: row.at,
            route: Arc::clone(&row.route),
            category: Arc::clone(&row.category),
            arm: row.arm.clone(),
            served: None,
            why: why(row),
            propensity: row.propensity,
            cost_usd: None,
            total_ms: None,
            score: None,
            experiment: row.experiment.clone(),
        });
        self.recent.truncate(RECENT);
    }

    /// An attempt is over.
    pub fn attempted(&mut self, row: &AttemptRow) {
        let cost = row.cost.unwrap_or_default();
        self.overview.spent_usd += cost;
        if let Some(saved) = row.saved() {
            self.overview.cache_hits += 1;
            self.overview.cache_saved_usd += saved;
        }
        self.compare(row);
        if let Some(recent) = self.recent.iter_mut().find(|recent| recent.id == row.decision) {
            recent.cost_usd = Some(recent.cost_usd.unwrap_or_default() + cost);
            if row.served {
                recent.served = Some(row.arm.clone());
                recent.total_ms = Some(row.total_ms);
            }
        }
    }

    /// Compares a request once it is served, with all that it cost: what comes later too, such as a lost hedge.
    fn compare(&mut self, row: &AttemptRow) {
        let Some(open) = self.open.get_mut(&row.decision) else {
            return;
        };
        let cost = row.cost.unwrap_or_default();
        open.spent += cost;
        let served = row.served && !open.served;
        if served {
            open.served = true;
            if row.cost.is_none() {
                // Of an unknown cost nothing can be said.
                open.costs.clear();
            }
        }
        if !open.served || open.costs.is_empty() {
            return;
        }
        let (costs, spent) = (open.costs.clone(), open.spent);
        if self.point(row.at).is_none() {
            return;
        }
        let Some(sums) = self.sums.last_mut() else { return };
        for (place, expected) in costs {
            let pair = if served {
                // What the baseline served itself is not estimated: it cost what it cost.
                let own = self.baselines.is(place, &row.arm);
                Pair {
                    spent,
                    baseline: if own { cost } else { expected },
                }
            } else {
                Pair {
                    spent: cost,
                    baseline: Usd::ZERO,
                }
            };
            sums.add(place, pair);
        }
    }

    /// A score came; `previous` is the one that it replaces.
    pub fn scored(&mut self, decision: &str, metric: &str, score: f64, previous: Option<f64>, now: UnixMs) {
        if metric != QUALITY {
            return;
        }
        self.score_sum += score - previous.unwrap_or(0.0);
        if previous.is_none() {
            self.overview.scored += 1;
            if let Some(point) = self.point(now) {
                point.scored += 1;
                point.score_sum += score;
            }
        }
        if let Some(recent) = self.recent.iter_mut().find(|recent| &*recent.id == decision) {
            recent.score = Some(score);
        }
    }

    /// The figures at `now`. `budgets` and `reports` are the caller's.
    #[must_use]
    pub fn overview(&self, now: UnixMs, budgets: Vec<BudgetView>, reports: Vec<String>) -> Overview {
        let mut overview = self.overview.clone();
        overview.at = now;
        overview.mean_score = (overview.scored > 0).then(|| self.score_sum / overview.scored as f64);
        let since = now.0.div_euclid(1_000) - MINUTE;
        let recent = self.minute.iter().filter(|(second, _)| *second >= since);
        overview.last_minute = recent.map(|(_, count)| count).sum();
        let best = self.baselines.best();
        overview.reference = best.map(|(_, arm)| arm.to_string());
        for (point, sums) in overview.points.iter_mut().zip(&self.sums) {
            point.drawn.resize(overview.arms.len(), 0);
            let pair = best.map(|(place, _)| sums.of(place)).unwrap_or_default();
            (point.spent_usd, point.baseline_usd) = (pair.spent, pair.baseline);
            overview.compared_usd += pair.spent;
            overview.baseline_usd += pair.baseline;
        }
        overview.recent = self.recent.iter().cloned().collect();
        (overview.budgets, overview.reports) = (budgets, reports);
        overview
    }

    fn arm_index(&mut self, arm: &ArmId) -> usize {
        let arms = &mut self.overview.arms;
        arms.iter()
            .position(|known| known == arm.as_str())
            .unwrap_or_else(|| {
                arms.push(arm.to_string());
                arms.len() - 1
            })
    }

    /// The stretch of time that `at` falls into; an older one than the last is counted in the last.
    fn point(&mut self, at: UnixMs) -> Option<&mut OverviewPoint> {
        let start = at.0.div_euclid(self.width_ms) * self.width_ms;
        if self.overview.points.last().is_none_or(|last| last.at.0 < start) {
            self.overview.points.push(OverviewPoint {
                at: UnixMs(start),
                ..OverviewPoint::default()
            });
            self.sums.push(Sums::default());
            if self.overview.points.len() > MAX_POINTS {
                self.join();
            }
        }
        self.overview.points.last_mut()
    }

    /// Doubles the stretches.
    fn join(&mut self) {
        self.width_ms *= 2;
        let width = self.width_ms;
        let mut joined: Vec<OverviewPoint> = Vec::with_capacity(MAX_POINTS);
        let mut joined_sums: Vec<Sums> = Vec::with_capacity(MAX_POINTS);
        for (point, sums) in self.overview.points.drain(..).zip(self.sums.drain(..)) {
            let start = point.at.0.div_euclid(width) * width;
            let (Some(last), Some(last_sums)) = (
                joined.last_mut().filter(|last| last.at.0 == start),
                joined_sums.last_mut(),
            ) else {
                joined.push(OverviewPoint {
                    at: UnixMs(start),
                    ..point
                });
                joined_sums.push(sums);
                continue;
            };
            last_sums.join(&sums);
            last.requests += point.requests;
            last.scored += point.scored;
            last.score_sum += point.score_sum;
            if last.drawn.len() < point.drawn.len() {
                last.drawn.resize(point.drawn.len(), 0);
            }
            last.drawn
                .iter_mut()
                .zip(&point.drawn)
                .for_each(|(sum, count)| *sum += count);
        }
        self.sums = joined_sums;
        self.overview.points = joined;
    }
}

/// Why this model, in a sentence.
fn why(row: &DecisionRow) -> String {
    // What is believed may lie a little beyond what a score can be.
    let shown = |quality: f64| format!("{:.2}", quality.clamp(0.0, 1.0));
    let quality = shown(row.expected_quality);
    let best = row
        .candidates
        .iter()
        .max_by(|a, b| a.quality.total_cmp(&b.quality));
    if row.strategy == FROM_CACHE {
        return "an equal request was answered before".to_owned();
    }
    if let Some(experiment) = &row.experiment {
        return format!("by the experiment {experiment}");
    }
    if row.candidates.len() < 2 {
        return format!("the only candidate ({})", row.strategy);
    }
    if row.explored {
        return format!("to learn more about it: expected quality {quality}");
    }
    match best {
        Some(best) if best.arm == row.arm => format!("expected to be best here: quality {quality}"),
        Some(best) => {
            let share = row.expected_cost.dollars() / best.cost.dollars().max(1e-12);
            let price = if share < 1.0 {
                format!("{:.0} % cheaper", 100.0 * (1.0 - share))
            } else {
                "the draw".to_owned()
            };
            format!(
                "{price}; expected quality {quality} against {} of {}",
                shown(f64::from(best.quality)),
                best.arm
            )
        }
        None => row.strategy.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::CandidateRow;

    fn decision(id: &str, at: i64, arm: &str) -> DecisionRow {
        let candidate = |arm: &str, quality, nanos| CandidateRow {
            arm: ArmId::new(arm),
            propensity: 0.5,
            quality,
            deviation: 0.1,
            cost: Usd::from_nanos(nanos),
        };
        DecisionRow {
            id: id.into(),
            at: UnixMs(at),
            episode: None,
            user: None,
            route: "auto".into(),
            strategy: "contextual".into(),
            category: "code".into(),
            arm: ArmId::new(arm),
            propensity: 0.5,
            explored: false,
            expected_cost: Usd::from_nanos(100),
            expected_quality: 0.8,
            experiment: None,
            input_tokens: 10,
            stream: false,
            feature_version: 1,
            context: Vec::new(),
            candidates: vec![candidate("a/small", 0.8, 100), candidate("b/large", 0.9, 1000)],
            detail: None,
        }
    }

    fn attempt(id: &str, at: i64, arm: &str, nanos: i64, served: bool) -> AttemptRow {
        AttemptRow {
            decision: id.into(),
            number: 1,
            at: UnixMs(at),
            arm: ArmId::new(arm),
            provider: "a".into(),
            role: "primary".into(),
            outcome: "succeeded".into(),
            served,
            stream: false,
            ttft_ms: Some(10.0),
            total_ms: 20.0,
            usage: None,
            cost: Some(Usd::from_nanos(nanos)),
            finish: None,
            upstream_id: None,
            text_bytes: 1,
            detail: None,
        }
    }

    #[test]
    fn a_request_is_compared_once_with_all_that_it_cost() {
        let mut ledger = Ledger::new("0", false, UnixMs(0));
        ledger.decided(&decision("1", 10, "a/small"));
        ledger.attempted(&attempt("1", 20, "a/small", 40, false));
        ledger.attempted(&attempt("1", 30, "b/large", 900, true));
        ledger.attempted(&attempt("1", 40, "a/small", 7, false));
        ledger.scored("1", "quality", 0.5, None, UnixMs(50));
        ledger.scored("1", "quality", 1.0, Some(0.5), UnixMs(60));
        ledger.scored("1", "speed", 0.0, None, UnixMs(60));
        let overview = ledger.overview(UnixMs(100), Vec::new(), Vec::new());
        assert_eq!(overview.spent_usd, Usd::from_nanos(947));
        assert_eq!(
            (overview.compared_usd, overview.baseline_usd),
            (Usd::from_nanos(947), Usd::from_nanos(900))
        );
        assert_eq!((overview.scored, overview.mean_score), (1, Some(1.0)));
        assert_eq!(overview.reference.as_deref(), Some("b/large"));
        let recent = &overview.recent[0];
        assert_eq!(
            recent.why,
            "90 % cheaper; expected quality 0.80 against 0.90 of b/large"
        );
        assert_eq!(
            (recent.served.clone(), recent.score),
            (Some(ArmId::new("b/large")), Some(1.0))
        );
    }

    #[test]
    fn all_requests_are_compared_with_the_one_best_however_late_it_shows() {
        let mut ledger = Ledger::new("0", false, UnixMs(0));
        for i in 0..4i64 {
            let id = i.to_string();
            let mut row = decision(&id, i * 60_000, "a/small");
            // At first the small one is thought to be the best.
            row.candidates[1].quality = if i == 0 { 0.7 } else { 1.0 };
            ledger.decided(&row);
            ledger.attempted(&attempt(&id, i * 60_000, "a/small", 40, true));
        }
        let overview = ledger.overview(UnixMs(1_000_000), Vec::new(), Vec::new());
        assert_eq!(overview.reference.as_deref(), Some("b/large"));
        assert_eq!(
            (overview.compared_usd, overview.baseline_usd),
            (Usd::from_nanos(160), Usd::from_nanos(4_000))
        );
    }

    #[test]
    fn an_answer_of_an_unknown_cost_is_not_compared() {
        let mut ledger = Ledger::new("0", false, UnixMs(0));
        ledger.decided(&decision("1", 10, "a/small"));
        let free = AttemptRow {
            cost: None,
            ..attempt("1", 20, "a/small", 0, true)
        };
        ledger.attempted(&free);
        let overview = ledger.overview(UnixMs(100), Vec::new(), Vec::new());
        assert_eq!(
            (overview.compared_usd, overview.baseline_usd),
            (Usd::ZERO, Usd::ZERO)
        );
    }

    #[test]
    fn no_quality_beyond_what_a_score_can_be_is_shown() {
        let mut row = decision("1", 10, "a/small");
        row.expected_quality = 1.01;
        row.candidates[1].quality = 1.05;
        assert_eq!(
            why(&row),
            "90 % cheaper; expected quality 1.00 against 1.00 of b/large"
        );
    }

    #[test]
    fn the_series_stays_bounded_and_loses_nothing() {
        let mut ledger = Ledger::new("0", false, UnixMs(0));
        for i in 0..10_000i64 {
            let id = i.to_string();
            let arm = if i % 4 == 0 { "b/large" } else { "a/small" };
            ledger.decided(&decision(&id, i * 1_000, arm));
            ledger.attempted(&attempt(&id, i * 1_000, "a/small", 100, true));
        }
        let overview = ledger.overview(UnixMs(10_000_000), Vec::new(), Vec::new());
        assert!(overview.points.len() <= MAX_POINTS && overview.points.len() > MAX_POINTS / 3);
        assert_eq!(
            overview.points.iter().map(|point| point.requests).sum::<u64>(),
            10_000
        );
        assert_eq!(
            overview.points.iter().map(|point| point.drawn[0]).sum::<u64>(),
            2_500
        );
        assert_eq!(
            overview
                .points
                .iter()
                .map(|point| point.baseline_usd)
                .sum::<Usd>(),
            overview.baseline_usd
        );
        assert_eq!((overview.last_minute, overview.recent.len()), (60, RECENT));
        assert!(ledger.open.len() <= REMEMBERED);
    }
}
