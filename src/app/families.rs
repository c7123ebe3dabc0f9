//! Comparisons of model families that may pay: in each category of prompts, whether a cheaper family would do.
//!
//! The router learns what it explores, and explores little. Where one family serves most prompts of a category and a
//! cheaper one is believed near it, but not known to be, an experiment of bounded size settles what exploration would
//! take long to: it starts by itself where the traffic is enough for a verdict and the expected saving is worth it.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::app::desk::Desk;
use crate::arm::ArmId;
use crate::config::{Config, Objective, Route};
use crate::evaluation::sequence::ConfidenceSequence;
use crate::evaluation::special::normal_cdf;
use crate::experiments::{ALPHA, PLANNED, Terms, Trigger};
use crate::store::{DecisionRow, FROM_CACHE};
use crate::units::UnixMs;

/// Decisions in a category, and scores of them, before anything is made of it.
const MIN_DECISIONS: f64 = 200.0;
const MIN_SCORES: f64 = 60.0;
/// Decisions after which those until then count half.
const MEMORY: f64 = 4_000.0;
/// Categories kept at most: clients may name their own.
const MAX_CATEGORIES: usize = 256;
/// Least part of the cost that is to be saved.
const MIN_SAVING: f64 = 0.1;
/// Least chance that the cheaper family is shipped.
const MIN_CHANCE: f64 = 0.2;
/// A difference further from the margin than so many of its deviations is known: nine in ten lie within.
const KNOWN: f64 = 1.645;
/// How far off, as a deviation, the quality expected of a family may be before it is scored in a category.
const PRIOR: f64 = 0.1;
/// Least variance of scores; a few alike say little of the next.
const MIN_VARIANCE: f64 = 0.01;
/// Days that one may take at the traffic seen.
const MAX_DAYS: f64 = 30.0;
/// Comparisons at once, on all routes.
const AT_ONCE: usize = 2;
const DAY_MS: f64 = 86_400_000.0;

/// What was decided and scored in each category of each route. Bounded; what is long ago fades.
#[derive(Debug, Default)]
pub(super) struct Evidence {
    /// By route and category.
    categories: BTreeMap<(Arc<str>, Arc<str>), Category>,
}

#[derive(Debug)]
struct Category {
    since: UnixMs,
    decisions: f64,
    scored: f64,
    sum: f64,
    squares: f64,
    arms: BTreeMap<ArmId, Seen>,
}

/// Sums over the decisions of which an arm was a candidate.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    decisions: f64,
    quality: f64,
    cost_usd: f64,
    /// Draws by the router itself.
    drawn: f64,
    scored: f64,
}

/// A family in a category, by the arm that stands for it.
#[derive(Clone, Copy, Debug, Default)]
struct Family {
    quality: f64,
    cost_usd: f64,
    /// Of all its arms.
    drawn: f64,
    scored: f64,
}

/// A comparison that may pay.
#[derive(Clone, Debug, PartialEq)]
struct Promise {
    category: Arc<str>,
    used: String,
    cheaper: String,
    /// Share of the cost of a request.
    saving: f64,
    /// That it is shipped.
    chance: f64,
    /// Dollars a day that it may be expected to save.
    usd_a_day: f64,
}

impl Evidence {
    /// A decision, counted once.
    pub(super) fn decided(&mut self, row: &DecisionRow) {
        if row.candidates.len() < 2 || row.category.is_empty() || *row.strategy == *FROM_CACHE {
            return;
        }
        let key = (Arc::clone(&row.route), Arc::clone(&row.category));
        if !self.categories.contains_key(&key) && self.categories.len() >= MAX_CATEGORIES {
            return;
        }
        let category = self
            .categories
            .entry(key)
            .or_insert_with(|| Category::new(row.at));
        if category.decisions >= MEMORY {
            category.fade(row.at);
        }
        category.decisions += 1.0;
        for candidate in &row.candidates {
            let seen = category.arms.entry(candidate.arm.clone()).or_default();
            seen.decisions += 1.0;
            seen.quality += f64::from(candidate.quality);
            seen.cost_usd += candidate.cost.dollars();
        }
        // What an experiment draws says nothing of what the router uses.
        if row.experiment.is_none()
            && let Some(drawn) = category.arms.get_mut(&row.arm)
        {
            drawn.drawn += 1.0;
        }
    }

    /// A score of the drawn arm's own answer; `previous` is the one that it replaces.
    pub(super) fn scored(&mut self, row: &DecisionRow, score: f64, previous: Option<f64>) {
        let key = (Arc::clone(&row.route), Arc::clone(&row.category));
        let Some(category) = self.categories.get_mut(&key) else {
            return;
        };
        category.sum += score - previous.unwrap_or(0.0);
        category.squares += score * score - previous.map_or(0.0, |old| old * old);
        if previous.is_none() {
            category.scored += 1.0;
            if let Some(seen) = category.arms.get_mut(&row.arm) {
                seen.scored += 1.0;
            }
        }
    }

    /// The comparisons that may pay on `route`, at most one a category.
    fn promises(
        &self,
        route: &Route,
        margin: f64,
        family: impl Fn(&ArmId) -> Option<String>,
        now: UnixMs,
    ) -> Vec<Promise> {
        let own = self.categories.iter().filter(|((of, _), _)| **of == *route.name);
        own.filter_map(|((_, name), category)| {
            let families = category.families(route, margin, &family);
            let most_drawn = families.iter().max_by(|a, b| a.1.drawn.total_cmp(&b.1.drawn));
            // Where an experiment draws nearly all, nothing is told of what the router uses.
            let (used, most) = most_drawn.filter(|(_, family)| 2.0 * family.drawn >= MIN_DECISIONS)?;
            let offers = families.iter().filter(|(other, _)| *other != used);
            offers
                .filter_map(|(cheaper, candidate)| {
                    let (saving, chance) = category.weigh(route, margin, most, candidate, now)?;
                    let a_day = category.decisions / category.days(now);
                    Some(Promise {
                        category: Arc::clone(name),
                        used: used.clone(),
                        cheaper: cheaper.clone(),
                        saving,
                        chance,
                        usd_a_day: a_day * saving * most.cost_usd * chance,
                    })
                })
                .max_by(|a, b| a.usd_a_day.total_cmp(&b.usd_a_day))
        })
        .collect()
    }
}

impl Category {
    fn new(since: UnixMs) -> Self {
        Self {
            since,
            decisions: 0.0,
            scored: 0.0,
            sum: 0.0,
            squares: 0.0,
            arms: BTreeMap::new(),
        }
    }

    /// Halves everything, the time too.
    fn fade(&mut self, now: UnixMs) {
        self.since = UnixMs(now.0 - (now.0 - self.since.0) / 2);
        let sums = [
            &mut self.decisions,
            &mut self.scored,
            &mut self.sum,
            &mut self.squares,
        ];
        sums.into_iter().for_each(|sum| *sum *= 0.5);
        for seen in self.arms.values_mut() {
            let sums = [
                &mut seen.decisions,
                &mut seen.quality,
                &mut seen.cost_usd,
                &mut seen.drawn,
                &mut seen.scored,
            ];
            sums.into_iter().for_each(|sum| *sum *= 0.5);
        }
    }

    fn days(&self, now: UnixMs) -> f64 {
        // No rate is told from less than a minute.
        ((now.0 - self.since.0) as f64 / DAY_MS).max(1.0 / 1_440.0)
    }

    /// The route's families by name. The cheapest arm that is within `margin` of its family's best stands for it: it is
    /// what the router would use of it.
    fn families(
        &self,
        route: &Route,
        margin: f64,
        family: &impl Fn(&ArmId) -> Option<String>,
    ) -> BTreeMap<String, Family> {
        let mut arms: BTreeMap<String, Vec<&Seen>> = BTreeMap::new();
        for (arm, seen) in &self.arms {
            // One that was seldom a candidate was so for other prompts.
            let often = 2.0 * seen.decisions >= self.decisions;
            if let Some(name) = family(arm).filter(|_| often && route.models.contains(arm)) {
                arms.entry(name).or_default().push(seen);
            }
        }
        let mean = |seen: &Seen| (seen.quality / seen.decisions, seen.cost_usd / seen.decisions);
        arms.into_iter()
            .filter_map(|(name, arms)| {
                let best = arms.iter().map(|seen| mean(seen).0).reduce(f64::max)?;
                let able = arms
                    .iter()
                    .map(|seen| mean(seen))
                    .filter(|(quality, _)| *quality >= best - margin);
                let (quality, cost_usd) = able.min_by(|a, b| a.1.total_cmp(&b.1))?;
                let of = Family {
                    quality,
                    cost_usd,
                    drawn: arms.iter().map(|seen| seen.drawn).sum(),
                    scored: arms.iter().map(|seen| seen.scored).sum(),
                };
                Some((name, of))
            })
            .collect()
    }

    /// What `cheaper` in place of `used` would save, as a share, and the chance that an experiment ships it; `None` where
    /// that is not worth asking: too little traffic, too little saved, or the answer is known.
    ///
    /// What is expected of both is the policy's word. It is off by a normal error: by [`PRIOR`] before a family is scored
    /// in this category, by less with each score, as the mean of scores is. The experiment ships if what it finds lies
    /// above the margin by the half-width of its interval at its end.
    fn weigh(
        &self,
        route: &Route,
        margin: f64,
        used: &Family,
        cheaper: &Family,
        now: UnixMs,
    ) -> Option<(f64, f64)> {
        if self.decisions < MIN_DECISIONS || self.scored < MIN_SCORES || used.cost_usd <= 0.0 {
            return None;
        }
        let saving = 1.0 - cheaper.cost_usd / used.cost_usd;
        if saving < MIN_SAVING {
            return None;
        }
        let mean = self.sum / self.scored;
        let variance = (self.squares / self.scored - mean * mean).max(MIN_VARIANCE);
        let error = |family: &Family| 1.0 / (1.0 / PRIOR.powi(2) + family.scored / variance);
        let deviation = (error(used) + error(cheaper)).sqrt();
        let lead = cheaper.quality - used.quality + margin;
        if lead.abs() > KNOWN * deviation {
            return None;
        }
        let terms = &route.experiments;
        let in_time = self.scored / self.days(now) * terms.traffic * MAX_DAYS;
        let size = in_time.min(terms.max_samples as f64);
        let sequence = ConfidenceSequence::new(ALPHA, PLANNED).ok()?;
        // Half of the scores in each arm: the difference varies as four times one score does.
        let half_width = sequence.half_width(size, 4.0 * variance);
        let chance = normal_cdf((lead - half_width) / deviation);
        (chance >= MIN_CHANCE).then_some((saving, chance))
    }
}

/// Whether `route` has its model families compared. Who aims at quality alone saves nothing.
fn wants(route: &Route) -> bool {
    let terms = &route.experiments;
    terms.enabled && terms.families && route.objective != Objective::MaxQuality
}

impl Desk {
    /// Starts the comparisons of model families that may pay most, few at once.
    pub(super) fn compare_families(&self, config: &Config, now: UnixMs) {
        let family = |wanted: &ArmId| {
            let mut arms = config.arms();
            arms.find(|arm| arm.id == *wanted)
                .map(|arm| arm.family.to_string())
        };
        let mut found: Vec<(&Route, Promise)> = Vec::new();
        for route in config.routes.iter().filter(|route| wants(route)) {
            let margin = route.experiments.margin.unwrap_or_else(|| route.margin());
            let promises = self.evidence(|evidence| evidence.promises(route, margin, family, now));
            found.extend(promises.into_iter().map(|promise| (route, promise)));
        }
        found.sort_by(|(_, a), (_, b)| b.usd_a_day.total_cmp(&a.usd_a_day));
        for (route, promise) in found {
            let open = self.compared_families();
            if open.len() >= AT_ONCE {
                return;
            }
            let here = (route.name.clone(), promise.category.to_string());
            if !open.contains(&here) {
                self.compare(route, &promise, now);
            }
        }
    }

    fn compare(&self, route: &Route, promise: &Promise, now: UnixMs) {
        let trigger = Trigger::Families {
            route: route.name.clone(),
            category: promise.category.to_string(),
            used: promise.used.clone(),
            cheaper: promise.cheaper.clone(),
            reason: format!(
                "it would save about {:.0} % of the cost of these prompts, and is shipped with a chance of {:.0} %",
                100.0 * promise.saving,
                100.0 * promise.chance
            ),
        };
        let terms = Terms {
            margin: route.experiments.margin.unwrap_or_else(|| route.margin()),
            superior: false,
            traffic: route.experiments.traffic,
            max_samples: route.experiments.max_samples,
            slow_ms: self.slow_ms(route, None),
        };
        if let Some(name) = self.trigger(&trigger, &terms, now) {
            tracing::info!(experiment = name, ?promise, "a cheaper family may do");
        }
    }
}

#[cfg(test)]
#[path = "families_tests.rs"]
mod tests;
