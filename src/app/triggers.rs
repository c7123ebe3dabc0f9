//! What happens in the router that starts an experiment by itself, and on which terms.
//!
//! What the router was like is kept in the database, so that a change counts whether it came by reading the
//! configuration again, by a date in the price book or with a restart.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::app::desk::Desk;
use crate::app::policies;
use crate::arm::ArmId;
use crate::config::{Config, Objective, QualityRule, Route};
use crate::experiments::{FORMER, FeatureVersions, Terms, Trigger};
use crate::store::{DocRow, Reader, StoreError};
use crate::telemetry::{InputSize, Question};
use crate::units::UnixMs;

/// Size of the prompt for which a slow first token is looked up, in tokens.
const TYPICAL_INPUT: u32 = 500;
/// A first token later than this is slow where the route says nothing better.
const SLOW_MS: f64 = 5_000.0;
/// Where the router's last state is kept.
const KIND: &str = "experiments";
const NAME: &str = "seen";

/// What changes are told by.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Seen {
    routes: BTreeMap<String, SeenRoute>,
    features: FeatureVersions,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct SeenRoute {
    /// Dollars of a typical call at list price, by model; `None` when the price is unknown.
    models: BTreeMap<String, Option<f64>>,
    /// The quality margin, where that is what the route goes by.
    margin: Option<f64>,
}

impl Seen {
    /// Version of the embedding view that has been compared.
    pub(super) const fn embedding(&self) -> u32 {
        self.features.embedding
    }

    fn of(config: &Config, features: FeatureVersions, now: UnixMs) -> Self {
        let routes = config.routes.iter().map(|route| {
            let cost = |arm: &ArmId| (arm.to_string(), policies::list_cost(config, arm, now));
            let margin = match route.objective {
                Objective::CheapestCapable {
                    quality: QualityRule::Margin(margin),
                    ..
                } => Some(margin),
                _ => None,
            };
            let seen = SeenRoute {
                models: route.models.iter().map(cost).collect(),
                margin,
            };
            (route.name.clone(), seen)
        });
        Self {
            routes: routes.collect(),
            features,
        }
    }

    /// As it was kept; `None` before the first start.
    pub(super) fn read(reader: &Reader) -> Result<Option<Self>, StoreError> {
        let row = reader.doc(KIND, NAME)?;
        Ok(row.and_then(|row| serde_json::from_str(&row.json).ok()))
    }

    fn row(&self, now: UnixMs) -> DocRow {
        DocRow {
            kind: KIND.into(),
            name: NAME.into(),
            at: now,
            json: serde_json::to_string(self).unwrap_or_default(),
        }
    }
}

/// What dollars saved on a call are worth in quality points, where the route says that they are.
fn worth_of(route: &Route, dollars: f64) -> f64 {
    match route.objective {
        Objective::Weighted { lambda, .. } => lambda * dollars,
        _ => 0.0,
    }
}

impl SeenRoute {
    fn cost(&self, model: &ArmId) -> Option<f64> {
        self.models.get(model.as_str()).copied().flatten()
    }

    /// The pair of models whose order by price was turned over and that now lie furthest apart, of those that are worth
    /// a question: (now cheaper, now dearer).
    fn flipped(&self, now: &Self, worth: impl Fn(&ArmId) -> bool) -> Option<(ArmId, ArmId)> {
        let models = || now.models.keys().map(String::as_str);
        let asked: Vec<&str> = models().filter(|id| worth(&ArmId::new(id))).collect();
        let cost = |seen: &Self, id: &str| seen.models.get(id).copied().flatten();
        let mut found: Option<(f64, &str, &str)> = None;
        for &a in &asked {
            for &b in &asked {
                let costs = (cost(self, a), cost(self, b), cost(now, a), cost(now, b));
                let (Some(old_a), Some(old_b), Some(new_a), Some(new_b)) = costs else {
                    continue;
                };
                let gap = new_b - new_a;
                if old_a > old_b && gap > 0.0 && found.is_none_or(|(widest, ..)| gap > widest) {
                    found = Some((gap, a, b));
                }
            }
        }
        found.map(|(_, a, b)| (ArmId::new(a), ArmId::new(b)))
    }
}

/// What new features can be compared with, or by.
#[derive(Clone, Copy, Debug, Default)]
pub struct AtHand {
    /// What looked at prompts before is kept.
    pub former: bool,
    /// The embedding view has learned enough here to be judged.
    pub proven: bool,
}

impl Desk {
    /// Looks at what the router is like now, and starts an experiment on each change that is worth one: a model that
    /// is new in a route, prices that turned the ranking over, another margin, new features or a new classifier.
    /// The embedding view of a new version counts once it is proven: when it has learned enough here to be judged.
    pub fn notice(&self, config: &Config, mut features: FeatureVersions, at_hand: AtHand, now: UnixMs) {
        let known = self.known_embedding();
        if !at_hand.proven && known != Some(features.embedding) {
            features.embedding = 0;
        }
        let seen = Seen::of(config, features, now);
        let Some(before) = self.remember(&seen) else {
            return;
        };
        if let Some(before) = before {
            self.ask_about(config, &before, &seen, at_hand.former, now);
        }
        // In this order, which is the writer's too: what was asked is never lost while its cause counts as seen.
        if let Some(row) = self.unsaved(now) {
            drop(self.store.save_state(row));
        }
        drop(self.store.put_doc(seen.row(now)));
    }

    /// Starts what the changes from `before` to `seen` are worth.
    fn ask_about(&self, config: &Config, before: &Seen, seen: &Seen, former: bool, now: UnixMs) {
        for route in &config.routes {
            let Some((old, new)) = before.routes.get(&route.name).zip(seen.routes.get(&route.name)) else {
                continue;
            };
            self.new_models(config, route, old, now);
            self.repriced(config, route, (old, new), now);
            let worth = |arm: &ArmId| {
                !self.leaves_out(&route.name, arm) && !self.is_known_worse(config, route, arm, now)
            };
            if let Some((cheaper, dearer)) = old.flipped(new, worth) {
                let trigger = Trigger::RankingFlip {
                    route: route.name.clone(),
                    cheaper: cheaper.clone(),
                    dearer: dearer.clone(),
                };
                self.ask(config, route, &trigger, Some((&dearer, &cheaper)), now);
            }
            if let Some((from, to)) = old.margin.zip(new.margin).filter(|(from, to)| from != to) {
                let trigger = Trigger::MarginChanged {
                    route: route.name.clone(),
                    from,
                    to,
                };
                self.ask(config, route, &trigger, None, now);
            }
            if let Some(trigger) = features_changed(&route.name, before.features, seen.features, former) {
                self.ask(config, route, &trigger, None, now);
            }
        }
    }

    fn new_models(&self, config: &Config, route: &Route, old: &SeenRoute, now: UnixMs) {
        let (known, fresh): (Vec<ArmId>, Vec<ArmId>) = route
            .models
            .iter()
            .cloned()
            .partition(|model| old.models.contains_key(model.as_str()));
        // Each against one that was there: two new ones would ask the same of each other twice.
        let before = Route {
            models: known,
            ..route.clone()
        };
        for model in &fresh {
            let Some(reference) = self.reference(config, &before, model, now) else {
                continue;
            };
            let trigger = Trigger::NewModel {
                route: route.name.clone(),
                model: model.clone(),
                reference: reference.clone(),
            };
            self.ask(config, route, &trigger, Some((&reference, model)), now);
        }
    }

    /// Takes up again the models that were left out for their price, which has fallen below that of their measure: what is
    /// still the dearer one has to be better, as before, and was not.
    fn repriced(&self, config: &Config, route: &Route, (old, new): (&SeenRoute, &SeenRoute), now: UnixMs) {
        if !route.experiments.enabled || route.objective == Objective::MaxQuality {
            return;
        }
        for model in &route.models {
            let (Some(before), Some(after)) = (old.cost(model), new.cost(model)) else {
                continue;
            };
            if after >= before || !self.leaves_out(&route.name, model) {
                continue;
            }
            let reference = self.reference(config, route, model, now);
            let Some((reference, dearer)) = reference.and_then(|arm| new.cost(&arm).map(|cost| (arm, cost)))
            else {
                continue;
            };
            let allowed = route.margin() + worth_of(route, dearer - after);
            if after < dearer && self.reopen(&route.name, model, allowed, now) {
                let trigger = Trigger::RankingFlip {
                    route: route.name.clone(),
                    cheaper: model.clone(),
                    dearer: reference.clone(),
                };
                self.ask(config, route, &trigger, Some((&reference, model)), now);
            }
        }
    }

    /// Whether the router already takes `arm` to be further below the best model than the route's margin, so that its price
    /// changes nothing: it serves the prompts that it is good enough for, and an experiment on it could only find what is
    /// known. Where a dollar is worth quality points, what it saves counts against that.
    fn is_known_worse(&self, config: &Config, route: &Route, arm: &ArmId, now: UnixMs) -> bool {
        let Some((best, lead)) = self.best(&route.name, arm) else {
            return false;
        };
        let cost = |arm| policies::list_cost(config, arm, now);
        let saved = cost(&best).zip(cost(arm)).map_or(0.0, |(best, own)| best - own);
        lead - worth_of(route, saved) > route.margin()
    }

    /// Starts an experiment on an arm whose quality fell, against the reference of each route that has it.
    pub fn drifted(&self, arm: &ArmId, config: &Config, now: UnixMs) {
        for route in config.routes.iter().filter(|route| route.models.contains(arm)) {
            let Some(reference) = self.reference(config, route, arm, now) else {
                continue;
            };
            let trigger = Trigger::Drift {
                route: route.name.clone(),
                model: arm.clone(),
                reference: reference.clone(),
            };
            self.ask(config, route, &trigger, Some((&reference, arm)), now);
        }
    }

    /// Asks again about the models that were left out for a drift and have rested.
    pub fn ask_again(&self, config: &Config, now: UnixMs) {
        for rested in self.rested(now) {
            let serves = |route: &&Route| route.name == rested.route && route.models.contains(&rested.model);
            let Some(route) = config.routes.iter().find(serves) else {
                continue;
            };
            if let Some(reference) = self.reference(config, route, &rested.model, now) {
                let trigger = rested.trigger(&reference);
                self.ask(config, route, &trigger, Some((&reference, &rested.model)), now);
            }
        }
    }

    /// Starts what `trigger` asks for on the route's terms, unless the route wants none. `pair`: the control and the
    /// treatment, where they are models.
    fn ask(
        &self,
        config: &Config,
        route: &Route,
        trigger: &Trigger,
        pair: Option<(&ArmId, &ArmId)>,
        now: UnixMs,
    ) {
        if !route.experiments.enabled {
            return;
        }
        // What is dearer must be better; "no worse" would be no reason to use it.
        let dearer = pair.is_some_and(|(control, treatment)| {
            let cost = |arm| policies::list_cost(config, arm, now);
            cost(treatment)
                .zip(cost(control))
                .is_some_and(|(new, old)| new > old)
        });
        let terms = Terms {
            margin: route.experiments.margin.unwrap_or_else(|| route.margin()),
            superior: dearer || route.objective == Objective::MaxQuality,
            traffic: route.experiments.traffic,
            max_samples: route.experiments.max_samples,
            slow_ms: self.slow_ms(route, pair.map(|(control, _)| control)),
        };
        let started = self.trigger(trigger, &terms, now);
        tracing::info!(?trigger, ?started, "an experiment was asked for");
    }

    /// What counts as a slow first token.
    pub(super) fn slow_ms(&self, route: &Route, control: Option<&ArmId>) -> f64 {
        let view = self.telemetry.view();
        let usual = control.and_then(|arm| {
            let question = Question {
                arm,
                provider: None,
                stream: true,
                size: InputSize::of(TYPICAL_INPUT),
            };
            view.wait(&question, 0.99)
        });
        slow(usual.map(|quantile| quantile.value_ms), route.ttft_budget)
    }

    /// What `arm` is measured by: the dearest other model of the route, which is what one would use without a router;
    /// the always-best baseline instead if more is expected of it by more than the route's margin. Neither is a model that
    /// is left out itself.
    fn reference(&self, config: &Config, route: &Route, arm: &ArmId, now: UnixMs) -> Option<ArmId> {
        let others = Route {
            models: route
                .models
                .iter()
                .filter(|model| *model != arm && !self.leaves_out(&route.name, model))
                .cloned()
                .collect(),
            ..route.clone()
        };
        let dearest = policies::reference(config, &others, now)?;
        let best = self.best(&route.name, &dearest);
        let better = best.filter(|(best, lead)| *lead > route.margin() && others.models.contains(best));
        Some(better.map_or(dearest, |(best, _)| best))
    }
}

/// Milliseconds from which on a first token is slow: later than the route allows, and later than one in a hundred of the
/// control's (`usual_ms`). What is slower than the quickest model of a route is not slow for that.
fn slow(usual_ms: Option<f64>, allowed: Option<Duration>) -> f64 {
    let allowed = allowed.map_or(SLOW_MS, |allowed| allowed.as_secs_f64() * 1e3);
    usual_ms.unwrap_or(0.0).max(allowed)
}

/// What the new versions are compared with: the former ones where they are at hand, else what did not change of what is
/// known of a prompt.
fn features_changed(
    route: &str,
    before: FeatureVersions,
    now: FeatureVersions,
    former: bool,
) -> Option<Trigger> {
    let by = |fallback: &'static str| if former { FORMER } else { fallback };
    let (current, fresh, version) = if (before.text, before.classifier) != (now.text, now.classifier) {
        // Statistics never cross versions: all that the router knows by the text view starts anew.
        let version = format!("text{:08x}-classifier{:08x}", now.text, now.classifier);
        let fresh = if now.embedding == 0 { "text" } else { "embedding" };
        (by("none"), fresh, version)
    } else if before.embedding != now.embedding && now.embedding != 0 {
        let current = if before.embedding == 0 { "text" } else { by("text") };
        (current, "embedding", format!("embedding{:08x}", now.embedding))
    } else {
        return None;
    };
    Some(Trigger::NewFeatures {
        route: route.to_owned(),
        current: current.to_owned(),
        fresh: fresh.to_owned(),
        version: format!("{route}-{version}"),
    })
}

#[cfg(test)]
#[path = "triggers_tests.rs"]
mod tests;
