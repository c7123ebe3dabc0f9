//! A route's recent rounds, and the price of a dollar solved on them.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::ContextualLearner;
use crate::arm::ArmId;
use crate::policy::contextual::{Exploration, RouteView};
use crate::policy::pmf::floor_per_dollar;
use crate::policy::route::{RouteMemory, RouteSettings, Solution, Terms, solve};
use crate::policy::solver::{Offer, Rounds};
use crate::policy::{Contexts, View};

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
                    &self.learning,
                    false,
                );
                let noise = settings.drift_noise * estimate.drift_variance.sqrt();
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
        if let Some(state) = self.routes.get_mut(name) {
            state.solution = Arc::new(solution);
            state.stale = false;
        }
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
            room_usd: budget.map(|budget| pacer.room(budget)),
            static_mix: mix.into_iter().map(named).collect(),
            exploration: self.exploration(&state.settings),
            contextual: state.memory.guard.contextual() || !state.settings.guarded,
        }
    }
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
