//! What scores say of the policy itself: the guard's and the audit's share of the log, and free signals.

use std::sync::Arc;

use super::ContextualLearner;
use crate::arm::ArmId;
use crate::policy::guard::{Outcome, doubly_robust_difference};
use crate::policy::pmf::argmax;
use crate::policy::route::Objective;
use crate::policy::signals::{SIGNAL_WEIGHT, Signal};
use crate::policy::{Contexts, Observation};

impl ContextualLearner {
    /// Lets the guard and the audit see one first score of an on-policy decision.
    pub(super) fn judge(&mut self, observation: &Observation<'_>) {
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
        let Some(ours) = argmax(&values) else {
            return;
        };
        let mix = self.view(state).static_mix;
        let theirs = mix
            .iter()
            .max_by(|a, b| a.1.total_cmp(&b.1))
            .and_then(|(arm, _)| logged.arms.iter().position(|candidate| candidate == arm));
        let reference = state.memory.audited.as_ref();
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

    /// An answer of `arm` came with a free signal: the arm's weights move a little toward what such answers have turned
    /// out to be worth. Drift and guard are left to real scores.
    pub fn record_signal(
        &mut self,
        arm: &ArmId,
        contexts: &Contexts<'_>,
        category: Option<&str>,
        signal: Signal,
    ) {
        self.signals.saw(signal);
        let shift = self.signals.shift(signal);
        if shift == 0.0 {
            return;
        }
        let index = self.index_of(arm);
        let model = Arc::make_mut(&mut self.arms[index]);
        model.learn_signal(contexts, category, shift, SIGNAL_WEIGHT, self.clock, &self.common);
    }

    /// An answer with `signal` was scored `excess` above what had been expected of it.
    pub fn signal_scored(&mut self, signal: Signal, excess: f64) {
        self.signals.scored(signal, excess);
    }
}
