//! The mutable side of the contextual policy, owned by one writer.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::arm_model::{ArmModel, Dimensions, LearningSettings, is_seeded};
use super::contextual::{RouteView, Snapshot};
use super::drift::Change;
use super::guard::{Guard, Outcome, doubly_robust_difference};
use super::route::{Objective, RouteMemory, RouteSettings, Solution, solve};
use super::seed::Seed;
use super::solver::{Offer, Rounds};
use super::{Contexts, Decision, Learner, Observation, Policy, Round, UsageSample, View};
use crate::arm::ArmId;

/// Recent rounds that a route's price of a dollar is solved on.
const RESERVOIR: usize = 512;
/// Rounds between two solutions, once there are many.
const SOLVE_EVERY: u64 = 25;
/// Version of the saved state's format.
const STATE_FORMAT: u32 = 1;

/// An arm as the learner is told of it.
#[derive(Clone, Debug, PartialEq)]
pub struct ArmFacts {
    /// The arm.
    pub id: ArmId,
    /// Its family, for the prior of a new one.
    pub family: String,
    /// Typical dollars of a call, for the price tier; 0 when unknown.
    pub typical_cost_usd: f64,
}

/// A change that the drift alarm found.
#[derive(Clone, Debug, PartialEq)]
pub struct DriftEvent {
    /// The arm.
    pub arm: ArmId,
    /// The direction.
    pub change: Change,
    /// The level after the alarm, in quality points.
    pub level: f64,
}

/// One recent round: its features and what each arm was expected to cost.
#[derive(Clone, Debug)]
struct Recent {
    views: [Option<Box<[f32]>>; 2],
    category: Option<Arc<str>>,
    offers: Box<[(u32, f32)]>,
}

impl Recent {
    fn contexts(&self) -> Contexts<'_> {
        Contexts {
            text: self.views[0].as_deref(),
            embedding: self.views[1].as_deref(),
        }
    }
}

#[derive(Debug, Default)]
struct RouteState {
    settings: Arc<RouteSettings>,
    memory: RouteMemory,
    recent: Vec<Recent>,
    next: usize,
    rounds: u64,
    solution: Arc<Solution>,
    stale: bool,
}

/// What is written to disk.
#[derive(Serialize, Deserialize)]
struct Saved {
    format: u32,
    view_versions: BTreeMap<View, String>,
    clock: u64,
    last_reward_seq: u64,
    last_usage_seq: u64,
    arms: BTreeMap<ArmId, ArmModel>,
    routes: BTreeMap<String, RouteMemory>,
}

/// Why a saved state cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Not what [`ContextualLearner::save`] wrote.
    #[error("learned state is unreadable ({0}); move the file away to start from the seed prior")]
    Unreadable(#[from] serde_json::Error),
    /// Written by another release.
    #[error(
        "learned state has format {found}, this release reads {STATE_FORMAT}; move the file away to start from the seed prior"
    )]
    Format {
        /// The format found.
        found: u32,
    },
}

/// Learns quality, length and prices of arms, and each route's price of a dollar.
#[derive(Debug)]
pub struct ContextualLearner {
    learning: LearningSettings,
    dimensions: Dimensions,
    view_versions: BTreeMap<View, String>,
    seed: Option<Arc<Seed>>,
    names: Vec<ArmId>,
    indices: HashMap<ArmId, usize>,
    arms: Vec<Arc<ArmModel>>,
    routes: BTreeMap<String, RouteState>,
    clock: u64,
    last_reward_seq: u64,
    last_usage_seq: u64,
    events: Vec<DriftEvent>,
    alarms: u64,
}

impl ContextualLearner {
    /// Knows no arm and no route yet. `dimensions` are the lengths of the views' feature vectors, and
    /// `view_versions` name their projections: statistics never cross versions, so a seed of another version is
    /// not used.
    #[must_use]
    pub fn new(
        learning: LearningSettings,
        dimensions: Dimensions,
        view_versions: BTreeMap<View, String>,
        seed: Option<Arc<Seed>>,
    ) -> Self {
        let matches = |seed: &Arc<Seed>| {
            let known = |view: &View| seed.view_versions.get(view) == view_versions.get(view);
            seed.view_versions.keys().any(known) || seed.view_versions.is_empty()
        };
        Self {
            learning,
            dimensions,
            seed: seed.filter(matches),
            view_versions,
            names: Vec::new(),
            indices: HashMap::new(),
            arms: Vec::new(),
            routes: BTreeMap::new(),
            clock: 0,
            last_reward_seq: 0,
            last_usage_seq: 0,
            events: Vec::new(),
            alarms: 0,
        }
    }

    /// Makes an arm known; one that is known keeps what it learned. Every route is solved anew.
    pub fn ensure_arm(&mut self, facts: &ArmFacts) {
        if self.indices.contains_key(&facts.id) {
            return;
        }
        let model = ArmModel::new(
            facts.id.as_str(),
            &facts.family,
            facts.typical_cost_usd,
            self.seed.as_deref(),
            self.dimensions,
            &self.learning,
        );
        self.insert(facts.id.clone(), model);
        self.known_change();
    }

    fn insert(&mut self, id: ArmId, model: ArmModel) -> usize {
        let index = self.arms.len();
        self.indices.insert(id.clone(), index);
        self.names.push(id);
        self.arms.push(Arc::new(model));
        index
    }

    fn index_of(&mut self, arm: &ArmId) -> usize {
        if let Some(&index) = self.indices.get(arm) {
            return index;
        }
        let seed = self.seed.clone();
        let model = ArmModel::new(
            arm.as_str(),
            "",
            0.0,
            seed.as_deref(),
            self.dimensions,
            &self.learning,
        );
        self.insert(arm.clone(), model)
    }

    /// Sets a route up, or changes its settings: what it learned stays, and a change of objective or budget is
    /// solved at once.
    pub fn ensure_route(&mut self, name: &str, settings: RouteSettings) {
        let state = self.routes.entry(name.to_owned()).or_insert_with(|| RouteState {
            memory: RouteMemory {
                guard: Guard::new(settings.proven),
                ..RouteMemory::default()
            },
            ..RouteState::default()
        });
        if *state.settings != settings {
            if state.settings.budget_usd != settings.budget_usd {
                state.memory.pacer.restart();
            }
            state.settings = Arc::new(settings);
            self.solve(name);
        }
    }

    /// Whether the seed has this very model.
    #[must_use]
    pub fn is_seeded(&self, arm: &ArmId) -> bool {
        is_seeded(self.seed.as_deref(), arm.as_str())
    }

    /// The price of `arm` is `factor` times what it was: recent rounds are priced anew and every route is solved at
    /// once. Nothing that was learned changes.
    pub fn price_changed(&mut self, arm: &ArmId, factor: f64) {
        if !factor.is_finite() || factor < 0.0 {
            return;
        }
        let Some(&index) = self.indices.get(arm) else {
            return;
        };
        for state in self.routes.values_mut() {
            for (offered, cost) in state
                .recent
                .iter_mut()
                .flat_map(|recent| recent.offers.iter_mut())
            {
                if *offered as usize == index {
                    *cost *= factor as f32;
                }
            }
        }
        self.known_change();
    }

    /// The provider has put a new snapshot behind the arm's name.
    pub fn new_snapshot(&mut self, arm: &ArmId) {
        if let Some(&index) = self.indices.get(arm) {
            Arc::make_mut(&mut self.arms[index]).renew(&self.learning);
            self.known_change();
        }
    }

    /// The set of arms, a price or a budget changed: the old account is closed and every route solved at once.
    pub fn known_change(&mut self) {
        let names: Vec<String> = self.routes.keys().cloned().collect();
        for name in names {
            if let Some(state) = self.routes.get_mut(&name) {
                state.memory.pacer.restart();
            }
            self.solve(&name);
        }
    }

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

    fn remember(
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
            offers: offers.into_boxed_slice(),
        };
        if state.recent.len() < RESERVOIR {
            state.recent.push(recent);
        } else {
            state.recent[state.next] = recent;
            state.next = (state.next + 1) % RESERVOIR;
        }
        state.rounds += 1;
        if state.rounds.is_power_of_two() && state.rounds < SOLVE_EVERY
            || state.rounds.is_multiple_of(SOLVE_EVERY)
        {
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

    fn solve(&mut self, name: &str) {
        let Some(state) = self.routes.get(name) else {
            return;
        };
        let settings = state.settings.clone();
        let mut rounds = Rounds::default();
        let mut explored = 0.0;
        for (position, recent) in state.recent.iter().enumerate() {
            rounds.push(recent.offers.iter().map(|&(arm, cost)| {
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
            let floor = super::pmf::floor_per_dollar(
                costs.clone(),
                settings.exploration,
                settings.exploration_spend,
                settings.budget_usd,
            );
            explored += floor
                .iter()
                .zip(costs)
                .map(|(share, cost)| share * cost)
                .sum::<f64>();
        }
        explored /= rounds.len().max(1) as f64;
        let solution = solve(&settings, &rounds, explored, state.memory.audit.scale());
        if let Some(state) = self.routes.get_mut(name) {
            state.solution = Arc::new(solution);
            state.stale = false;
        }
    }

    fn view(&self, state: &RouteState) -> RouteView {
        let pacing = match state.settings.budget_usd {
            Some(_) => state.memory.pacer.factor(),
            None => 1.0,
        };
        let named = |(arm, share): (usize, f64)| (self.names[arm].clone(), share);
        let mix = state.solution.static_mix(&state.settings, pacing);
        RouteView {
            settings: state.settings.clone(),
            solution: state.solution.clone(),
            pacing,
            static_mix: mix.into_iter().map(named).collect(),
            contextual: state.memory.guard.contextual() || !state.settings.guarded,
        }
    }

    /// Lets the guard and the audit see one first score of an on-policy decision.
    fn judge(&mut self, observation: &Observation<'_>) {
        let Some(logged) = observation.logged else {
            return;
        };
        let Some(drawn) = logged.arms.iter().position(|arm| arm == observation.arm) else {
            return;
        };
        if logged.scores.len() != logged.arms.len() {
            return;
        }
        let Some(state) = self.routes.get(observation.route) else {
            return;
        };
        let outcome = Outcome {
            drawn,
            propensity: observation.propensity,
            residual: observation.reward - logged.scores[drawn].mean,
        };
        let values: Vec<f64> = logged.scores.iter().map(|score| score.value).collect();
        let Some(ours) = super::pmf::argmax(&values) else {
            return;
        };
        let mix = self.view(state).static_mix;
        let theirs = mix
            .iter()
            .max_by(|a, b| a.1.total_cmp(&b.1))
            .and_then(|(arm, _)| logged.arms.iter().position(|candidate| candidate == arm));
        let reference = state.settings.reference.as_ref();
        let audited = reference.and_then(|arm| logged.arms.iter().position(|candidate| candidate == arm));
        let margin = match state.settings.objective {
            Objective::CheapestCapable { margin } => Some(margin),
            _ => None,
        };
        let Some(state) = self.routes.get_mut(observation.route) else {
            return;
        };
        if let Some(theirs) = theirs {
            let predicted = values[ours] - values[theirs];
            let difference = doubly_robust_difference(ours, theirs, predicted, &outcome);
            state.memory.guard.record(difference);
        }
        if let (Some(reference), Some(margin)) = (audited, margin) {
            let predicted = logged.scores[ours].mean - logged.scores[reference].mean;
            let difference = doubly_robust_difference(ours, reference, predicted, &outcome);
            state.memory.audit.record(difference, margin);
        }
    }

    /// What decides now, for readers: costs a few clones of `Arc`s.
    #[must_use]
    pub fn state(&self) -> Snapshot {
        let routes = self.routes.iter();
        Snapshot {
            arms: self
                .names
                .iter()
                .cloned()
                .zip(self.arms.iter().cloned())
                .collect(),
            routes: routes
                .map(|(name, state)| (name.clone(), Arc::new(self.view(state))))
                .collect(),
            learning: self.learning,
            clock: self.clock,
        }
    }

    /// Drift alarms since the last call.
    pub fn take_events(&mut self) -> Vec<DriftEvent> {
        std::mem::take(&mut self.events)
    }

    /// What a route has learned of its budget, guard and audit.
    #[must_use]
    pub fn route_memory(&self, route: &str) -> Option<&RouteMemory> {
        self.routes.get(route).map(|state| &state.memory)
    }

    /// Statistics of an arm.
    #[must_use]
    pub fn arm(&self, arm: &ArmId) -> Option<&ArmModel> {
        self.indices.get(arm).map(|&index| &*self.arms[index])
    }

    /// Highest position taken in of the feedback log and of the attempt log.
    #[must_use]
    pub const fn sequences(&self) -> (u64, u64) {
        (self.last_reward_seq, self.last_usage_seq)
    }

    /// Everything that must outlive a restart, as JSON.
    ///
    /// # Errors
    /// Never for statistics that were learned here: they are finite numbers and strings.
    pub fn save(&self) -> Result<Vec<u8>, serde_json::Error> {
        let routes = self
            .routes
            .iter()
            .map(|(name, state)| (name.clone(), state.memory.clone()));
        serde_json::to_vec(&Saved {
            format: STATE_FORMAT,
            view_versions: self.view_versions.clone(),
            clock: self.clock,
            last_reward_seq: self.last_reward_seq,
            last_usage_seq: self.last_usage_seq,
            arms: self
                .names
                .iter()
                .cloned()
                .zip(self.arms.iter().map(|arm| (**arm).clone()))
                .collect(),
            routes: routes.collect(),
        })
    }

    /// Takes a saved state up: arms and routes that it knows replace those here. Arms whose statistics belong to
    /// another projection start from the seed again.
    ///
    /// # Errors
    /// When the bytes are not a saved state of this release; nothing changes then.
    pub fn load(&mut self, bytes: &[u8]) -> Result<(), LoadError> {
        let saved: Saved = serde_json::from_slice(bytes)?;
        if saved.format != STATE_FORMAT {
            return Err(LoadError::Format { found: saved.format });
        }
        self.clock = saved.clock;
        (self.last_reward_seq, self.last_usage_seq) = (saved.last_reward_seq, saved.last_usage_seq);
        if saved.view_versions == self.view_versions {
            for (id, model) in saved.arms {
                if model.dimensions() != self.dimensions {
                    continue;
                }
                match self.indices.get(&id) {
                    Some(&index) => self.arms[index] = Arc::new(model),
                    None => {
                        self.insert(id, model);
                    }
                }
            }
        }
        for (name, memory) in saved.routes {
            let state = self.routes.entry(name).or_default();
            state.memory = memory;
            state.stale = true;
        }
        self.solve_if_due();
        Ok(())
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

impl Learner for ContextualLearner {
    fn record_round(&mut self, round: &Round<'_>, _decision: &Decision) {
        self.clock += 1;
        let offers: Vec<(u32, f32)> = round
            .candidates
            .iter()
            .map(|candidate| (self.index_of(candidate.arm) as u32, candidate.cost_usd as f32))
            .collect();
        self.remember(round.route, &round.contexts, round.category, offers);
        self.solve_if_due();
    }

    fn record_reward(&mut self, observation: &Observation<'_>) {
        let sound = (0.0..=1.0).contains(&observation.reward) && observation.weight > 0.0;
        if observation.seq <= self.last_reward_seq || !sound {
            return;
        }
        self.last_reward_seq = observation.seq;
        if observation.revises.is_none() {
            self.judge(observation);
        }
        let index = self.index_of(observation.arm);
        let model = Arc::make_mut(&mut self.arms[index]);
        let change = model.learn(observation, self.clock, &self.learning);
        model.refresh_if_due();
        if let Some(change) = change {
            let level = model.drift_level();
            self.alarms += 1;
            self.events.push(DriftEvent {
                arm: observation.arm.clone(),
                change,
                level,
            });
            let names: Vec<String> = self.routes.keys().cloned().collect();
            names.iter().for_each(|name| self.solve(name));
        }
    }

    fn record_usage(&mut self, sample: &UsageSample<'_>) {
        if sample.seq <= self.last_usage_seq {
            return;
        }
        self.last_usage_seq = sample.seq;
        let index = self.index_of(sample.arm);
        Arc::make_mut(&mut self.arms[index]).learn_usage(sample, &self.learning);
        if let Some(state) = self.routes.get_mut(sample.route)
            && let Some(budget) = state.settings.budget_usd
        {
            state
                .memory
                .pacer
                .record(sample.cost_usd, sample.ends_request, budget);
        }
    }

    fn price_changed(&mut self, arm: &ArmId, factor: f64) {
        Self::price_changed(self, arm, factor);
    }

    fn arms_changed(&mut self) {
        self.known_change();
    }

    fn alarms(&self) -> u64 {
        self.alarms
    }

    fn snapshot(&self) -> Arc<dyn Policy> {
        Arc::new(self.state())
    }
}
