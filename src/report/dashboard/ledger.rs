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
            cost_unknown: false,
            total_ms: None,
            score: None,
            experiment: row.experiment.clone(),
        });
        self.recent.truncate(RECENT);
    }

    /// An attempt is over.
    pub fn attempted(&mut self, row: &AttemptRow) {
        self.overview.spent_usd += row.cost.unwrap_or_default();
        self.overview.unpriced_attempts += u64::from(row.cost.is_none());
        if let Some(saved) = row.saved() {
            self.overview.cache_hits += 1;
            self.overview.cache_saved_usd += saved;
        }
        self.compare(row);
        if let Some(recent) = self.recent.iter_mut().find(|recent| recent.id == row.decision) {
            recent.cost_unknown |= row.cost.is_none();
            let known = row.cost.filter(|_| !recent.cost_unknown);
            recent.cost_usd = known.map(|cost| recent.cost_usd.unwrap_or_default() + cost);
            if row.served {
                recent.served = Some(row.arm.clone());
                recent.total_ms = Some(row.total_ms);
            }
        }
    }

    /// Compares a request once it is served, with all that it cost: what comes later too, such as a lost hedge. Of one
    /// whose cost turns out to be unknown nothing can be said, and what was said is taken back.
    fn compare(&mut self, row: &AttemptRow) {
        let Some(open) = self.open.get_mut(&row.decision) else {
            return;
        };
        let was_served = open.served;
        open.served |= row.served;
        let pairs: Vec<(usize, Pair)> = match row.cost {
            Some(cost) => {
                open.spent += cost;
                if open.served && !was_served {
                    // What the baseline served itself is not estimated: it cost what it cost.
                    for (place, baseline) in &mut open.costs {
                        if self.baselines.is(*place, &row.arm) {
                            *baseline = cost;
                        }
                    }
                }
                let spent = if was_served { cost } else { open.spent };
                let pair = |&(place, baseline): &(usize, Usd)| {
                    let baseline = if was_served { Usd::ZERO } else { baseline };
                    (place, Pair { spent, baseline })
                };
                open.costs.iter().filter(|_| open.served).map(pair).collect()
            }
            None => {
                let spent = open.spent;
                let back = |(place, baseline): (usize, Usd)| {
                    let pair = Pair {
                        spent: -spent,
                        baseline: -baseline,
                    };
                    (place, pair)
                };
                let said = std::mem::take(&mut open.costs).into_iter();
                said.filter(|_| was_served).map(back).collect()
            }
        };
        if pairs.is_empty() || self.point(row.at).is_none() {
            return;
        }
        let Some(sums) = self.sums.last_mut() else { return };
        pairs.into_iter().for_each(|(place, pair)| sums.add(place, pair));
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
#[path = "ledger_tests.rs"]
mod tests;
