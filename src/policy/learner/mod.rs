//! The mutable side of the contextual policy, owned by one writer.

mod judge;
mod renewal;
mod replicas;
mod reservoir;
mod saved;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::arm_model::{ArmModel, Common, Dimensions, LearningSettings, is_seeded};
use super::contextual::Snapshot;
use super::drift::Change;
use super::guard::Guard;
use super::lognormal::COMMON_WORDS;
use super::pacer::Pacer;
use super::route::{RouteMemory, RouteSettings};
use super::seed::{Seed, Traits};
use super::signals::Calibration;
use super::word_weights::WordWeights;
use super::{Decision, Learner, Observation, Policy, Round, UsageSample, View};
use crate::arm::ArmId;
use reservoir::RouteState;

pub use replicas::{Delta, Heard, MergeError, Stamp};
pub use saved::LoadError;

/// Share of what is known of an arm that an alarm leaves standing.
const KEPT_AT_ALARM: f64 = 0.5;

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

impl ArmFacts {
    fn log_cost(&self) -> Option<f64> {
        (self.typical_cost_usd > 0.0).then(|| self.typical_cost_usd.ln())
    }
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

/// Learns quality, length and prices of arms, and each route's price of a dollar.
#[derive(Clone, Debug)]
pub struct ContextualLearner {
    common: Common,
    /// What words mean to the length of every arm's answers.
    words: Arc<WordWeights>,
    dimensions: Dimensions,
    view_versions: BTreeMap<View, String>,
    seed: Option<Arc<Seed>>,
    names: Vec<ArmId>,
    indices: HashMap<ArmId, usize>,
    arms: Vec<Arc<ArmModel>>,
    /// Arms that something was heard of before their family and price were: they started from neither.
    unplaced: BTreeSet<ArmId>,
    routes: BTreeMap<String, RouteState>,
    clock: u64,
    last_reward_seq: u64,
    last_usage_seq: u64,
    last_late_seq: u64,
    /// Rewards that the embedding view has learned from.
    embedded: u64,
    events: Vec<DriftEvent>,
    alarms: u64,
    /// Value of the clock at the last drift alarm.
    doubted_at: Option<u64>,
    signals: Calibration,
    /// This learner as one of several, and what it has heard from the others.
    replica: Option<replicas::Replica>,
    heard: Heard,
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
            common: learning.into(),
            words: Arc::new(WordWeights::new(COMMON_WORDS)),
            dimensions,
            seed: seed.filter(matches),
            view_versions,
            names: Vec::new(),
            indices: HashMap::new(),
            arms: Vec::new(),
            unplaced: BTreeSet::new(),
            routes: BTreeMap::new(),
            clock: 0,
            last_reward_seq: 0,
            last_usage_seq: 0,
            last_late_seq: 0,
            embedded: 0,
            events: Vec::new(),
            alarms: 0,
            doubted_at: None,
            signals: Calibration::default(),
            replica: None,
            heard: Heard::default(),
        }
    }

    /// Makes the arms known that stand side by side; those that are known keep what they learned, and one that was only
    /// heard of starts from its family and price with it. Every route is solved anew.
    pub fn ensure_arms(&mut self, arms: &[ArmFacts]) {
        let log_costs: Vec<f64> = arms.iter().filter_map(ArmFacts::log_cost).collect();
        let usual = log_costs.iter().sum::<f64>() / log_costs.len().max(1) as f64;
        let mut changed = false;
        for facts in arms {
            let known = self.indices.get(&facts.id).copied();
            if known.is_some() && !self.unplaced.remove(&facts.id) {
                continue;
            }
            let traits = Traits {
                family: &facts.family,
                cost_usd: facts.typical_cost_usd,
                log_cost_ratio: facts.log_cost().map_or(0.0, |log_cost| log_cost - usual),
            };
            let mut model = ArmModel::new(
                facts.id.as_str(),
                &traits,
                self.seed.as_deref(),
                self.dimensions,
                &self.common.settings,
            );
            if let Some(index) = known {
                model.succeed(&self.arms[index], &self.common.transfer);
                self.arms[index] = Arc::new(model);
            } else {
                self.insert(facts.id.clone(), model);
            }
            changed = true;
        }
        if changed {
            self.known_change();
        }
    }

    fn insert(&mut self, id: ArmId, mut model: ArmModel) -> usize {
        if self.replica.is_some() {
            model.keep_account();
        }
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
            &Traits::default(),
            seed.as_deref(),
            self.dimensions,
            &self.common.settings,
        );
        self.unplaced.insert(arm.clone());
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
                state.memory.pacer = Pacer::default();
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
            Arc::make_mut(&mut self.arms[index]).renew(&self.common.settings);
            self.known_change();
        }
    }

    /// The set of arms, a price or a budget changed: the old account is closed and every route solved at once.
    pub fn known_change(&mut self) {
        let names: Vec<String> = self.routes.keys().cloned().collect();
        for name in names {
            if let Some(state) = self.routes.get_mut(&name) {
                state.memory.pacer.restart();
                state.changed = state.rounds;
            }
            self.solve(&name);
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
            common: self.common,
            words: Arc::clone(&self.words),
            clock: self.clock,
        }
    }

    /// Takes a decided round into account and solves nothing: for rounds that come many at once, after which
    /// [`solve_if_due`](Self::solve_if_due) is called. A price of a dollar that nobody decides by is worth nothing.
    pub fn note_round(&mut self, round: &Round<'_>) {
        self.clock += 1;
        let offers: Vec<(u32, f32)> = round
            .candidates
            .iter()
            .map(|candidate| (self.index_of(candidate.arm) as u32, candidate.cost_usd as f32))
            .collect();
        self.remember(round.route, &round.contexts, round.category, offers);
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
}

impl Learner for ContextualLearner {
    fn record_round(&mut self, round: &Round<'_>, _decision: &Decision) {
        self.note_round(round);
        self.solve_if_due();
    }

    fn record_reward(&mut self, observation: &Observation<'_>) {
        let sound = (0.0..=1.0).contains(&observation.reward) && observation.weight > 0.0;
        if observation.seq <= self.last_reward_seq || !sound {
            return;
        }
        self.last_reward_seq = observation.seq;
        self.embedded += u64::from(observation.contexts.embedding.is_some());
        if observation.revises.is_none() {
            self.judge(observation);
        }
        let index = self.index_of(observation.arm);
        let model = Arc::make_mut(&mut self.arms[index]);
        let change = model.learn(observation, self.clock, &mut self.common);
        model.refresh_if_due();
        if let Some(change) = change {
            let level = model.drift_level();
            model.doubt(KEPT_AT_ALARM);
            self.doubted_at = Some(self.clock);
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
        Arc::make_mut(&mut self.arms[index]).learn_usage(
            sample,
            &self.common.settings,
            Arc::make_mut(&mut self.words),
        );
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

    fn contextual(&mut self) -> Option<&mut ContextualLearner> {
        Some(self)
    }

    fn alarms(&self) -> u64 {
        self.alarms
    }

    fn snapshot(&self) -> Arc<dyn Policy> {
        Arc::new(self.state())
    }
}
