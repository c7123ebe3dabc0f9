//! New features and new seeds under a learner that goes on, and embeddings that came late.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::ContextualLearner;
use super::reservoir::RouteState;
use crate::arm::ArmId;
use crate::policy::arm_model::ArmModel;
use crate::policy::guard::{Audit, Guard};
use crate::policy::route::RouteMemory;
use crate::policy::{Observation, View};

impl ContextualLearner {
    /// Which views, by index, have the projection that statistics under `versions` belong to.
    pub(super) fn kept_views(&self, versions: &BTreeMap<View, String>) -> [bool; 2] {
        View::ALL.map(|view| self.view_versions.get(&view) == versions.get(&view))
    }

    /// Takes a saved arm in. `placed`: its family and price were known when it began.
    pub(super) fn restore(&mut self, id: ArmId, saved: ArmModel, kept: [bool; 2], placed: bool) {
        let index = self.index_of(&id);
        let same = kept == [true; 2] && saved.dimensions() == self.dimensions;
        let own = Arc::make_mut(&mut self.arms[index]);
        if same && (placed || self.unplaced.contains(&id)) {
            *own = saved;
            if placed {
                self.unplaced.remove(&id);
            }
        } else {
            own.carry(&saved, kept, &self.common.transfer);
        }
        if self.replica.is_some() {
            // What was still to be told is not saved.
            own.keep_account();
        }
    }

    /// What the guard and the audit found was about scores of another projection.
    pub(super) fn forget_verdicts(&self, route: &str, memory: &mut RouteMemory) {
        let proven = self.routes.get(route).is_some_and(|state| state.settings.proven);
        memory.guard = Guard::new(proven);
        memory.audit = Audit::default();
    }

    /// Begins at `clock` instead of 0, with the logs read up to these places: for learning a log's end anew.
    pub fn begin_at(&mut self, clock: u64, feedback_seq: u64, attempt_seq: u64, late_seq: u64) {
        self.clock = clock;
        self.last_reward_seq = feedback_seq;
        self.last_usage_seq = attempt_seq;
        self.last_late_seq = late_seq;
    }

    /// Knows no route any more: what follows teaches the arms alone.
    pub fn forget_routes(&mut self) {
        self.routes.clear();
    }

    /// Decided rounds so far.
    #[must_use]
    pub const fn clock(&self) -> u64 {
        self.clock
    }

    /// What it starts from.
    #[must_use]
    pub const fn seed(&self) -> Option<&Arc<super::Seed>> {
        self.seed.as_ref()
    }

    /// Goes on under the features and the seed of `fresh`, which has learned nothing: each arm keeps what it has
    /// observed on views whose projection is the same.
    pub fn renew(&mut self, mut fresh: Self) {
        let kept = fresh.kept_views(&self.view_versions);
        let names = self.names.clone();
        for (index, name) in names.iter().enumerate() {
            let theirs = fresh.index_of(name);
            let mut model = ArmModel::clone(&fresh.arms[theirs]);
            model.carry(&self.arms[index], kept, &self.common.transfer);
            self.arms[index] = Arc::new(model);
        }
        self.settle(fresh, kept);
    }

    /// Goes on with the arms of `relearned`, under its features and seed; what routes have learned of themselves stays.
    pub fn replace_arms(&mut self, mut relearned: Self) {
        let kept = relearned.kept_views(&self.view_versions);
        let names = self.names.clone();
        for (index, name) in names.iter().enumerate() {
            let theirs = relearned.index_of(name);
            let mut model = ArmModel::clone(&relearned.arms[theirs]);
            model.keep_words(&self.arms[index]);
            self.arms[index] = Arc::new(model);
        }
        self.adopt(relearned.common.transfer);
        self.settle(relearned, kept);
    }

    fn settle(&mut self, from: Self, kept: [bool; 2]) {
        self.dimensions = from.dimensions;
        self.view_versions = from.view_versions;
        self.seed = from.seed;
        if !kept[View::Embedding.index()] {
            self.embedded = from.embedded;
        }
        if self.replica.is_some() {
            for arm in &mut self.arms {
                Arc::make_mut(arm).keep_account();
            }
        }
        let names: Vec<String> = self.routes.keys().cloned().collect();
        for name in names {
            if let Some(mut state) = self.routes.remove(&name) {
                if !kept[View::Text.index()] {
                    let mut memory = std::mem::take(&mut state.memory);
                    memory.guard = Guard::new(state.settings.proven);
                    memory.audit = Audit::default();
                    state.memory = memory;
                }
                forget_features(&mut state, kept);
                self.routes.insert(name.clone(), state);
            }
            // Without a round that can be scored the old price of a dollar is the best there is.
            if self
                .routes
                .get(&name)
                .is_some_and(|state| !state.recent.is_empty())
            {
                self.solve(&name);
            }
        }
    }

    /// Learns on an embedding that came after the reward was learned: the weights of its view alone. `seq` is its place
    /// in the log of late embeddings; one place may hold several scores.
    pub fn record_late(&mut self, observation: &Observation<'_>) {
        let sound = (0.0..=1.0).contains(&observation.reward) && observation.weight > 0.0;
        if observation.seq <= self.last_late_seq || !sound {
            return;
        }
        self.embedded += u64::from(observation.revises.is_none());
        let index = self.index_of(observation.arm);
        let model = Arc::make_mut(&mut self.arms[index]);
        model.learn_late(observation, self.clock, &self.common);
        model.refresh_if_due();
    }

    /// The log of late embeddings has been read up to `seq`.
    pub fn late_read(&mut self, seq: u64) {
        self.last_late_seq = self.last_late_seq.max(seq);
    }

    /// The last place of the log of late embeddings that was read.
    #[must_use]
    pub const fn last_late(&self) -> u64 {
        self.last_late_seq
    }

    /// Rewards that the embedding view has learned from.
    #[must_use]
    pub const fn embedded(&self) -> u64 {
        self.embedded
    }
}

/// Recent rounds lose what was seen through another projection.
fn forget_features(state: &mut RouteState, kept: [bool; 2]) {
    if !kept[View::Text.index()] {
        state.recent.clear();
        state.next = 0;
        state.changed = state.rounds;
    }
    if !kept[View::Embedding.index()] {
        for recent in &mut state.recent {
            recent.views[View::Embedding.index()] = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::arm_model::LearningSettings;
    use crate::policy::learner::ArmFacts;
    use crate::policy::route::RouteSettings;
    use crate::policy::seed::{LabelledOutcome, Seed, SeedBuilder, SeedSettings};
    use crate::policy::{Contexts, Learner as _};

    fn arm() -> ArmId {
        ArmId::new("a/1")
    }

    fn contexts<'a>(text: &'a [f32], embedding: &'a [f32]) -> Contexts<'a> {
        Contexts {
            text: Some(text),
            embedding: Some(embedding),
            words: &[],
        }
    }

    /// A seed under which the arm is worth `quality` on both views, with twenty prompts behind it.
    fn seed(quality: f64, digest: u64) -> Arc<Seed> {
        seed_of("1", quality, digest)
    }

    fn seed_of(model: &str, quality: f64, digest: u64) -> Arc<Seed> {
        let mut builder = SeedBuilder::default();
        for turn in 0..20 {
            let features = [1.0, if turn % 2 == 0 { 1.0 } else { -1.0 }];
            builder.add(&LabelledOutcome {
                model,
                category: None,
                contexts: contexts(&features, &features),
                reward: quality,
                length: None,
                cost_usd: None,
            });
        }
        Arc::new(Seed {
            digest,
            ..builder.build(&SeedSettings::default(), BTreeMap::new())
        })
    }

    fn learner(versions: [&str; 2], seed: Arc<Seed>) -> ContextualLearner {
        let versions = View::ALL.into_iter().zip(versions.map(str::to_owned)).collect();
        let learning = LearningSettings::default();
        let mut learner = ContextualLearner::new(learning, [Some(2), Some(2)], versions, Some(seed));
        learner.ensure_arms(&[ArmFacts {
            id: arm(),
            family: String::new(),
            typical_cost_usd: 0.0,
        }]);
        learner.ensure_route("auto", RouteSettings::default());
        learner
    }

    fn observe(learner: &mut ContextualLearner, count: usize, reward: f64) {
        observe_of(learner, &arm(), count, reward);
    }

    fn observe_of(learner: &mut ContextualLearner, arm: &ArmId, count: usize, reward: f64) {
        let (text, embedding) = ([1.0, 1.0], [1.0, -1.0]);
        for _ in 0..count {
            let seq = learner.sequences().0 + 1;
            learner.record_reward(&Observation {
                seq,
                route: "auto",
                arm,
                contexts: contexts(&text, &embedding),
                category: None,
                reward,
                weight: 1.0,
                propensity: 1.0,
                logged: None,
                late: true,
                revises: None,
            });
        }
    }

    fn expected(learner: &ContextualLearner, view: View) -> f64 {
        let (text, embedding) = ([1.0, 1.0], [1.0, -1.0]);
        let mut contexts = contexts(&text, &embedding);
        match view {
            View::Text => contexts.embedding = None,
            View::Embedding => contexts.text = None,
        }
        learner.arms[0]
            .estimate(&contexts, None, 0, &learner.common, false)
            .mean
    }

    #[test]
    fn what_was_observed_stays_under_another_seed() {
        let mut running = learner(["1", "1"], seed(0.4, 1));
        observe(&mut running, 200, 0.9);
        let before = expected(&running, View::Text);
        assert!(before > 0.85, "{before}");
        let fresh = learner(["1", "1"], seed(0.8, 2));
        assert!((expected(&fresh, View::Text) - 0.8).abs() < 0.02);
        running.renew(fresh);
        // 21 prompts at .8 and 200 at .9 in place of 21 at .4.
        let after = expected(&running, View::Text);
        assert!(after > before && after < 0.9, "{before} {after}");
        assert_eq!(running.arms[0].rewards(), 200);
        let bytes = running.save().unwrap();
        let mut again = learner(["1", "1"], seed(0.8, 2));
        assert!(!again.load(&bytes).unwrap(), "the seed is the same");
        assert!((expected(&again, View::Text) - after).abs() < 1e-4);
        let mut other = learner(["1", "1"], seed(0.1, 3));
        assert!(other.load(&bytes).unwrap(), "the seed is another one");
    }

    /// Two new arms, of which one scores .6 and the other .1: what is common to them lies between, and the weights of the
    /// first have learned what is left. It is worth .6 by whatever seed, and whatever it calls known.
    #[test]
    fn an_arm_that_a_seed_makes_known_is_worth_what_it_was_seen_to_be() {
        let stranger = || seed_of("other", 0.5, 1);
        let mut running = learner(["1", "1"], stranger());
        observe_of(&mut running, &ArmId::new("b/2"), 300, 0.1);
        observe(&mut running, 300, 0.6);
        let common = running.common.transfer.mean();
        assert!(common.abs() > 0.05 && running.arms[0].is_unknown(), "{common}");
        let bytes = running.save().unwrap();
        let worth = |learner: &ContextualLearner, views: &[View], known: bool| {
            assert_eq!(learner.arms[0].is_unknown(), !known);
            for &view in views {
                let expected = expected(learner, view);
                assert!((expected - 0.6).abs() < 0.01, "{view:?}: {expected}, {common}");
            }
        };
        worth(&running, &View::ALL, false);
        running.renew(learner(["1", "1"], seed(0.6, 2)));
        worth(&running, &View::ALL, true);
        running.renew(learner(["1", "1"], stranger()));
        worth(&running, &View::ALL, false);
        // Of a saved state a view whose projection changed starts from the seed, and the other one goes on.
        let mut restarted = learner(["2", "1"], seed(0.6, 2));
        restarted.load(&bytes).unwrap();
        worth(&restarted, &[View::Embedding], true);
    }

    /// Scores that swing for hours raise an alarm every few requests. Each halves what is believed, and along what is
    /// never observed nothing makes up for that.
    #[test]
    fn alarms_without_end_leave_every_estimate_within_reach() {
        let mut learner = learner(["1", "1"], seed(0.6, 1));
        let mut seen = 0;
        for seq in 1..=40_000_u64 {
            // Mostly one kind of prompt, and now and then a little of another.
            let features = [1.0, if seq % 97 == 0 { 0.01 } else { 0.0 }];
            let revises = (seq % 11 == 0).then_some(crate::policy::Revision {
                reward: 0.2,
                weight: 0.5,
            });
            learner.record_reward(&Observation {
                seq,
                route: "auto",
                arm: &arm(),
                contexts: contexts(&features, &features),
                category: None,
                reward: (seq / 16 % 10) as f64 / 9.0,
                weight: 1.0,
                propensity: 1.0,
                logged: None,
                late: false,
                revises,
            });
            learner.clock += 1;
            seen += learner.take_events().len();
            let now = expected(&learner, View::Text);
            assert!((-1.0..=2.0).contains(&now), "{now} after {seq} scores");
        }
        assert!(seen > 100, "{seen} alarms");
    }

    #[test]
    fn statistics_never_cross_versions_and_each_view_has_its_own() {
        let mut running = learner(["1", "1"], seed(0.4, 1));
        observe(&mut running, 200, 0.9);
        let bytes = running.save().unwrap();
        let kept = expected(&running, View::Embedding);
        running.renew(learner(["2", "1"], seed(0.4, 1)));
        let mut restarted = learner(["2", "1"], seed(0.4, 1));
        restarted.load(&bytes).unwrap();
        for learner in [&running, &restarted] {
            let text = expected(learner, View::Text);
            assert!(
                (text - 0.4).abs() < 0.02,
                "the new text view starts from the seed: {text}"
            );
            let embedding = expected(learner, View::Embedding);
            assert!((embedding - kept).abs() < 1e-3, "{embedding} {kept}");
            assert_eq!(learner.embedded(), 200);
        }
        running.renew(learner(["2", "2"], seed(0.4, 1)));
        assert!((expected(&running, View::Embedding) - 0.4).abs() < 0.02);
        assert_eq!(running.embedded(), 0);
    }

    #[test]
    fn a_late_embedding_moves_its_own_view_alone_and_once() {
        let mut learner = learner(["1", "1"], seed(0.4, 1));
        let embedding = [1.0, -1.0];
        let late = |seq, reward, revises| Observation {
            seq,
            route: "auto",
            arm: Box::leak(Box::new(arm())),
            contexts: Contexts {
                text: None,
                embedding: Some(&embedding),
                words: &[],
            },
            category: None,
            reward,
            weight: 1.0,
            propensity: 1.0,
            logged: None,
            late: false,
            revises,
        };
        let (text, before) = (
            expected(&learner, View::Text),
            expected(&learner, View::Embedding),
        );
        learner.record_late(&late(1, 1.0, None));
        learner.late_read(1);
        let after = expected(&learner, View::Embedding);
        assert!(after > before);
        assert_eq!(expected(&learner, View::Text), text);
        assert_eq!(
            learner.arms[0].rewards(),
            0,
            "the reward itself was learned before"
        );
        learner.record_late(&late(1, 1.0, None));
        assert_eq!(
            expected(&learner, View::Embedding),
            after,
            "a place is learned from once"
        );
        let revision = crate::policy::Revision {
            reward: 1.0,
            weight: 1.0,
        };
        learner.record_late(&late(2, 0.4, Some(revision)));
        assert!(expected(&learner, View::Embedding) < after);
    }

    /// Answers to prompts with the word 1 are eight times as long as those with the word 2. New projections or a seed from
    /// the learner's own log know nothing of words, so what was learned of them stays.
    #[test]
    fn what_words_mean_outlives_new_features_and_new_arms() {
        let length = |learner: &mut ContextualLearner, words: &[u16], tokens: Option<u64>| {
            let asked = Contexts {
                words,
                ..contexts(&[1.0, 1.0], &[1.0, -1.0])
            };
            if let Some(tokens) = tokens {
                let seq = learner.sequences().1 + 1;
                learner.record_usage(&crate::policy::UsageSample {
                    seq,
                    route: "auto",
                    arm: &arm(),
                    contexts: asked,
                    category: None,
                    output_tokens: Some(tokens),
                    input_tokens: None,
                    cached_tokens: None,
                    prefix_tokens: 0,
                    cost_usd: 0.0,
                    expected_cost_usd: 0.0,
                    ends_request: true,
                });
            }
            learner.snapshot().output_tokens(&arm(), &asked, None).unwrap()
        };
        let apart =
            |learner: &mut ContextualLearner| length(learner, &[1], None) / length(learner, &[2], None);
        let mut running = learner(["1", "1"], seed(0.5, 1));
        for turn in 0..400 {
            let (word, tokens) = if turn % 2 == 0 { (1, 800) } else { (2, 100) };
            length(&mut running, &[word], Some(tokens));
        }
        let known = apart(&mut running);
        assert!(known > 5.0, "{known}");
        // What other features and arms have learned, where no words were told.
        let fresh = || {
            let mut fresh = learner(["2", "1"], seed(0.5, 2));
            (0..20).for_each(|_| {
                length(&mut fresh, &[], Some(300));
            });
            fresh
        };
        let mut renewed = running.clone();
        renewed.renew(fresh());
        running.replace_arms(fresh());
        for learner in [&mut renewed, &mut running] {
            let now = apart(learner);
            assert!((now / known - 1.0).abs() < 1e-6, "{now} and not {known}");
        }
    }
}
