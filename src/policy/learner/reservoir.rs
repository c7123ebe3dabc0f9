//! A route's recent rounds, and the price of a dollar solved on them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::ContextualLearner;
use crate::arm::ArmId;
use crate::policy::arm_model::ArmModel;
use crate::policy::contextual::{Exploration, RouteView};
use crate::policy::pmf::{floor_per_dollar, normal_quantile};
use crate::policy::route::{RouteMemory, RouteSettings, Solution, Terms, solve};
use crate::policy::solver::{Offer, Rounds};
use crate::policy::{Contexts, View};

/// How far, as a deviation, an arm's mean quality on a route's prompts may lie from what a prior from other prompts makes
/// of it, and the variance of one score around it: on recorded outcomes one model scored .60 on one source and .81 on
/// another.
const LEVEL_SD: f64 = 0.15;
/// Rounds that the audit takes as given: before them no quantile says anything.
const LEAST_ROUNDS: f64 = 10.0;
const SCORE_VARIANCE: f64 = 0.2;
/// Recent rounds that a route's price of a dollar is solved on.
const RESERVOIR: usize = 512;
/// Rounds between two solutions, once there are many.
const SOLVE_EVERY: u64 = 25;
/// Rounds without an offer after which an arm no longer counts as there.
const ABSENT_AFTER: u64 = 32;
/// Requests in which the doubt that a drift alarm raises falls to 1/e, and how much more is explored at its height.
const DOUBT: f64 = 300.0;
const DOUBTFUL_EXPLORATION: f64 = 4.0;
/// The same for what exploration may give up. It lasts longer: an alarm means that what was believed of an arm was wrong,
/// and a bound on regret that rests on wrong beliefs would keep the arms that are better from ever being tried.
const REGRET_DOUBT: f64 = 3000.0;
const DOUBTFUL_REGRET: f64 = 40.0;

/// One recent round: its features and what each arm was expected to cost.
#[derive(Clone, Debug)]
pub(super) struct Recent {
    pub(super) views: [Option<Box<[f32]>>; 2],
    category: Option<Arc<str>>,
    pub(super) offers: Box<[(u32, f32)]>,
}

impl Recent {
    fn contexts(&self) -> Contexts<'_> {
        Contexts {
            text: self.views[0].as_deref(),
            embedding: self.views[1].as_deref(),
            // What is remembered has its costs already.
            words: &[],
        }
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct RouteState {
    pub(super) settings: Arc<RouteSettings>,
    pub(super) memory: RouteMemory,
    pub(super) recent: Vec<Recent>,
    pub(super) next: usize,
    pub(super) rounds: u64,
    /// The round in which each arm was last offered, and the round of the last known change.
    pub(super) offered: BTreeMap<u32, u64>,
    pub(super) changed: u64,
    pub(super) solution: Arc<Solution>,
    /// The arm that the audit slice goes to.
    pub(super) contender: Option<ArmId>,
    /// Variance of each arm's mean quality over the recent prompts.
    pub(super) levels: Arc<HashMap<ArmId, f64>>,
    pub(super) stale: bool,
}

impl ContextualLearner {
    /// Puts a context into a route's reservoir without a decision, so that the first request already has a price of
    /// a dollar. `offers` are arms with their expected dollars.
    pub fn rehearse(
        &mut self,
        route: &str,
        contexts: &Contexts<'_>,
        category: Option<&str>,
        offers: &[(ArmId, f64)],
    ) {
        let offers: Vec<(u32, f32)> = offers
            .iter()
            .map(|(arm, cost)| (self.index_of(arm) as u32, *cost as f32))
            .collect();
        self.remember(route, contexts, category, offers);
    }

    pub(super) fn remember(
        &mut self,
        route: &str,
        contexts: &Contexts<'_>,
        category: Option<&str>,
        offers: Vec<(u32, f32)>,
    ) {
        let Some(state) = self.routes.get_mut(route) else {
            return;
        };
        let recent = Recent {
            views: View::ALL.map(|view| contexts.of(view).map(Box::from)),
            category: category.map(Arc::from),
            offers: offers.clone().into_boxed_slice(),
        };
        if state.recent.len() < RESERVOIR {
            state.recent.push(recent);
        } else {
            state.recent[state.next] = recent;
            state.next = (state.next + 1) % RESERVOIR;
        }
        state.rounds += 1;
        for (arm, _) in offers {
            state.offered.insert(arm, state.rounds);
        }
        // Often at first and after a known change, for what it leaves must be seen.
        let since = state.rounds - state.changed;
        if since.is_power_of_two() && since < SOLVE_EVERY || state.rounds.is_multiple_of(SOLVE_EVERY) {
            state.stale = true;
        }
    }

    /// Solves every route whose price of a dollar is due. Off the request's path.
    pub fn solve_if_due(&mut self) {
        let due: Vec<String> = self
            .routes
            .iter()
            .filter(|(_, state)| state.stale)
            .map(|(name, _)| name.clone())
            .collect();
        due.iter().for_each(|name| self.solve(name));
    }

    pub(super) fn solve(&mut self, name: &str) {
        let Some(state) = self.routes.get(name) else {
            return;
        };
        let settings = state.settings.clone();
        let levels = self.levels(&state.recent);
        let mut rounds = Rounds::default();
        let mut explored = 0.0;
        let settings_exploration = self.exploration(&settings);
        // An arm that is no longer offered must not seem to be there for the rounds to come.
        let window = (state.rounds - state.changed).clamp(1, ABSENT_AFTER);
        let offered = |arm: &u32| {
            state.rounds == state.changed
                || state
                    .offered
                    .get(arm)
                    .is_some_and(|&round| round + window > state.rounds)
        };
        for (position, recent) in state.recent.iter().enumerate() {
            let present = recent.offers.iter().filter(|(arm, _)| offered(arm));
            rounds.push(present.map(|&(arm, cost)| {
                let estimate = self.arms[arm as usize].estimate(
                    &recent.contexts(),
                    recent.category.as_deref(),
                    self.clock,
                    &self.common,
                    false,
                );
                let noise = settings.level_sd(estimate.drift_variance, levels[arm as usize]);
                Offer {
                    arm: arm as usize,
                    quality: estimate.mean,
                    value: estimate.mean + noise * standard_normal(position, arm),
                    cost_usd: f64::from(cost),
                }
            }));
            let costs = recent.offers.iter().map(|&(_, cost)| f64::from(cost));
            let Exploration { share, spend, .. } = settings_exploration;
            let floor = floor_per_dollar(costs.clone(), share, spend, settings.budget_usd);
            explored += floor
                .iter()
                .zip(costs)
                .map(|(share, cost)| share * cost)
                .sum::<f64>();
        }
        explored /= rounds.len().max(1) as f64;
        let terms = Terms {
            explored_usd: explored,
            margin_scale: state.memory.audit.scale(),
            allowed_usd: settings
                .budget_usd
                .map(|budget| state.memory.pacer.allowance(budget)),
        };
        let solution = solve(&settings, &rounds, &terms);
        let audited = self.audited(&settings, &solution, state.memory.audited.as_ref());
        let contender = self.contender(state, &solution);
        if let Some(state) = self.routes.get_mut(name) {
            if state.memory.audited != audited {
                state.memory.audited = audited;
                state.memory.audit.restart();
            }
            state.contender = contender;
            state.levels = Arc::new(self.names.iter().cloned().zip(levels).collect());
            state.solution = Arc::new(solution);
            state.stale = false;
        }
    }

    /// Variance that the weights leave in each arm's mean quality over recent prompts; 0 for an arm whose own prior tells
    /// it, and where prompts have no features.
    fn levels(&self, recent: &[Recent]) -> Vec<f64> {
        let typical = typical(recent);
        let contexts = Contexts {
            text: typical.as_deref(),
            embedding: None,
            words: &[],
        };
        let variance = |arm: &Arc<ArmModel>| {
            let known = arm.estimate(&contexts, None, self.clock, &self.common, true);
            if arm.is_unknown() {
                known.weights_variance
            } else {
                0.0
            }
        };
        match typical {
            Some(_) => self.arms.iter().map(variance).collect(),
            None => vec![0.0; self.arms.len()],
        }
    }

    /// The arm that a route's audit compares with.
    fn audited(
        &self,
        settings: &RouteSettings,
        solution: &Solution,
        present: Option<&ArmId>,
    ) -> Option<ArmId> {
        if settings.audit_share <= 0.0 {
            return None;
        }
        let believed = || {
            let present = present.and_then(|arm| self.indices.get(arm).copied());
            Some(self.names[solution.best_arm(present)?].clone())
        };
        settings.reference.clone().or_else(believed)
    }

    /// The arm that the audit slice goes to: the one that may be the best, by the upper end of what is believed of its
    /// mean quality over the recent prompts, which rises with the rounds: its quantile 1 - 1/t (Kaufmann, Cappe and
    /// Garivier, *On Bayesian upper confidence bounds for bandit problems*, AISTATS 2012). An arm that is known is the contender only if it is the best; one that is not known is, until it is.
    /// Else a dear arm that had bad luck at first would never be asked again where nothing but money seems to count.
    fn contender(&self, state: &RouteState, solution: &Solution) -> Option<ArmId> {
        let settings = &state.settings;
        if settings.audit_share <= 0.0 || settings.reference.is_some() {
            return settings.reference.clone();
        }
        let typical = typical(&state.recent);
        let contexts = Contexts {
            text: typical.as_deref(),
            embedding: None,
            words: &[],
        };
        let z = normal_quantile(1.0 - 1.0 / (state.rounds as f64).max(LEAST_ROUNDS));
        let upper = |arm: usize| {
            let model = &self.arms[arm];
            let known = model.estimate(&contexts, None, self.clock, &self.common, true);
            let elsewhere = 1.0 / (1.0 / (LEVEL_SD * LEVEL_SD) + model.rewards() as f64 / SCORE_VARIANCE);
            z * (known.weights_variance + known.drift_variance)
                .max(elsewhere)
                .sqrt()
        };
        let offered = solution.offered();
        let bounds = offered.map(|(arm, quality)| (arm, quality + upper(arm)));
        let (arm, _) = bounds.max_by(|a, b| a.1.total_cmp(&b.1))?;
        Some(self.names[arm].clone())
    }

    /// How much a route explores: more while an alarm says that the world is not what it was taken for.
    fn exploration(&self, settings: &RouteSettings) -> Exploration {
        let doubt = |lasting: f64| {
            let age = |at| self.clock.saturating_sub(at) as f64;
            self.doubted_at.map_or(0.0, |at| (-age(at) / lasting).exp())
        };
        let more = 1.0 + DOUBTFUL_EXPLORATION * doubt(DOUBT);
        Exploration {
            share: settings.exploration * more,
            spend: settings.exploration_spend * more,
            // What is believed of an arm is what an alarm calls into doubt, so it hardly bounds what is tried.
            regret: settings.exploration_regret * (1.0 + DOUBTFUL_REGRET * doubt(REGRET_DOUBT)),
        }
    }

    pub(super) fn view(&self, state: &RouteState) -> RouteView {
        let pacer = &state.memory.pacer;
        let budget = state.settings.budget_usd;
        let allowed = budget.map(|budget| pacer.allowance(budget));
        let named = |(arm, share): (usize, f64)| (self.names[arm].clone(), share);
        let mix = state.solution.static_mix(&state.settings, allowed);
        RouteView {
            settings: state.settings.clone(),
            solution: state.solution.clone(),
            room_usd: budget.map(|budget| pacer.room(budget, state.settings.routers)),
            static_mix: mix.into_iter().map(named).collect(),
            exploration: self.exploration(&state.settings),
            contextual: state.memory.guard.contextual() || !state.settings.guarded,
            audited: state.contender.clone(),
            levels: state.levels.clone(),
        }
    }
}

/// The mean of the recent prompts' text features: the variance of a linear prediction there is that of its mean over
/// them. `None` where no prompt has any.
fn typical(recent: &[Recent]) -> Option<Vec<f32>> {
    let mut rows = recent.iter().filter_map(|recent| recent.views[0].as_deref());
    let mut sum = rows.next()?.to_vec();
    let mut count = 1.0_f32;
    let width = sum.len();
    for row in rows.filter(|row| row.len() == width) {
        sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
        count += 1.0;
    }
    sum.iter_mut().for_each(|sum| *sum /= count);
    Some(sum)
}

/// A standard normal number that belongs to a round and an arm: the same at every solution, so that bisection sees
/// one function. Box and Muller (1958) on a multiplicative hash.
fn standard_normal(round: usize, arm: u32) -> f64 {
    let mut bits = (round as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15)
        ^ u64::from(arm).wrapping_mul(0xD1B5_4A32_D192_ED03);
    bits = (bits ^ (bits >> 32)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
    bits ^= bits >> 32;
    let unit = |bits: u64| ((bits & 0xFFFF_FFFF) as f64 + 0.5) / 4_294_967_296.0;
    (-2.0 * unit(bits).ln()).sqrt() * (std::f64::consts::TAU * unit(bits >> 32)).cos()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::arm_model::LearningSettings;
    use crate::policy::{ArmFacts, Candidate, Demands, Learner, Observation, Round};

    /// One arm answers .68 always; the other was asked once, failed, and may be the best all the same: its quantile rises
    /// with the rounds, until it is asked again.
    #[test]
    fn whoever_failed_once_may_still_be_the_best_in_the_long_run() {
        let mut learner = ContextualLearner::new(
            LearningSettings::default(),
            [Some(1), None],
            BTreeMap::new(),
            None,
        );
        let arms = ["a/known", "b/unlucky"].map(ArmId::new);
        learner.ensure_arms(&arms.clone().map(|id| ArmFacts {
            id,
            family: String::new(),
            typical_cost_usd: 0.001,
        }));
        let audit_share = 0.02;
        learner.ensure_route(
            "auto",
            RouteSettings {
                audit_share,
                ..RouteSettings::default()
            },
        );
        let contexts = Contexts {
            text: Some(&[1.0]),
            embedding: None,
            words: &[],
        };
        let candidates = [&arms[0], &arms[1]].map(|arm| Candidate {
            arm,
            cost_usd: 0.001,
            latency_ms: 0.0,
        });
        let round = Round {
            route: "auto",
            contexts,
            category: None,
            candidates: &candidates,
            demands: Demands::default(),
        };
        let mut audited = |from: u64, until: u64| {
            for seq in from..until {
                learner.note_round(&round);
                let unlucky = seq == 1;
                learner.record_reward(&Observation {
                    seq,
                    route: "auto",
                    arm: &arms[usize::from(unlucky)],
                    contexts,
                    category: None,
                    reward: if unlucky { 0.0 } else { 0.68 },
                    weight: 1.0,
                    propensity: 1.0,
                    logged: None,
                    late: false,
                    revises: None,
                });
            }
            learner.solve_if_due();
            learner.state().routes["auto"].audited.clone()
        };
        assert_eq!(audited(1, 30).as_ref(), Some(&arms[0]));
        assert_eq!(audited(30, 2_000).as_ref(), Some(&arms[1]));
    }
}
