//! What happens in the router that starts an experiment by itself, and on which terms.
//!
//! What the router was like is kept in the database, so that a change counts whether it came by reading the
//! configuration again, by a date in the price book or with a restart.

use std::collections::BTreeMap;

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
/// A first token later than this is slow where neither the route nor telemetry says better.
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

impl SeenRoute {
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
            let worth = |arm: &ArmId| !self.is_known_worse(config, route, arm, now);
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

    /// Whether the router already takes `arm` to be further below the best model than the route's margin, so that its price
    /// changes nothing: it serves the prompts that it is good enough for, and an experiment on it could only find what is
    /// known. Where a dollar is worth quality points, what it saves counts against that.
    fn is_known_worse(&self, config: &Config, route: &Route, arm: &ArmId, now: UnixMs) -> bool {
        let Some((best, lead)) = self.best(&route.name, arm) else {
            return false;
        };
        let cost = |arm| policies::list_cost(config, arm, now);
        let saved = match route.objective {
            Objective::Weighted { lambda, .. } => cost(&best)
                .zip(cost(arm))
                .map_or(0.0, |(best, own)| lambda * (best - own)),
            _ => 0.0,
        };
        lead - saved > route.margin()
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

    /// What counts as a slow first token: later than one in a hundred of the control's, else than the route allows.
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
        usual
            .map(|quantile| quantile.value_ms)
            .or_else(|| Some(route.ttft_budget?.as_secs_f64() * 1e3))
            .unwrap_or(SLOW_MS)
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
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::app::reports::About;
    use crate::config::{self, Source};
    use crate::experiments::ExperimentView;
    use crate::store::{CandidateRow, DecisionRow, Store, tests as store_rows};
    use crate::telemetry::Telemetry;

    fn route(costs: &[(&str, f64)]) -> SeenRoute {
        SeenRoute {
            models: costs
                .iter()
                .map(|(id, cost)| ((*id).to_owned(), Some(*cost)))
                .collect(),
            margin: Some(0.02),
        }
    }

    #[test]
    fn a_price_change_that_turns_the_ranking_over_names_the_widest_pair() {
        let old = route(&[("a/1", 3.0), ("b/2", 2.0), ("c/3", 5.0)]);
        let any = |_: &ArmId| true;
        assert_eq!(old.flipped(&old, any), None);
        let same_order = route(&[("a/1", 2.5), ("b/2", 2.0), ("c/3", 9.0)]);
        assert_eq!(
            old.flipped(&same_order, any),
            None,
            "dearer, but in the same order"
        );
        let now = route(&[("a/1", 3.0), ("b/2", 2.0), ("c/3", 0.5)]);
        assert_eq!(
            old.flipped(&now, any),
            Some((ArmId::new("c/3"), ArmId::new("a/1"))),
            "c passes both; a is further away"
        );
        let but = |left_out: &'static str| move |arm: &ArmId| arm.as_str() != left_out;
        assert_eq!(old.flipped(&now, but("c/3")), None, "nobody else changed places");
        assert_eq!(
            old.flipped(&now, but("a/1")),
            Some((ArmId::new("c/3"), ArmId::new("b/2")))
        );
        let unknown = SeenRoute {
            models: BTreeMap::from([("c/3".to_owned(), Some(0.5)), ("a/1".to_owned(), None)]),
            margin: None,
        };
        assert_eq!(old.flipped(&unknown, any), None, "an unknown price is not cheap");
    }

    #[test]
    fn new_features_are_compared_with_the_former_ones_or_what_did_not_change() {
        let before = FeatureVersions {
            text: 3,
            embedding: 0,
            classifier: 1,
        };
        assert_eq!(features_changed("auto", before, before, true), None);
        let found = |before, now, former| match features_changed("auto", before, now, former) {
            Some(Trigger::NewFeatures { current, fresh, .. }) => (current, fresh),
            other => panic!("{other:?}"),
        };
        let pair = |current: &str, fresh: &str| (current.to_owned(), fresh.to_owned());
        let with = FeatureVersions {
            embedding: 2,
            ..before
        };
        assert_eq!(found(before, with, false), pair("text", "embedding"));
        let other = FeatureVersions {
            embedding: 3,
            ..before
        };
        assert_eq!(found(with, other, true), pair("former", "embedding"));
        assert_eq!(found(with, other, false), pair("text", "embedding"));
        let classifier = FeatureVersions {
            classifier: 2,
            ..before
        };
        assert_eq!(found(before, classifier, true), pair("former", "text"));
        assert_eq!(found(before, classifier, false), pair("none", "text"));
        assert_eq!(
            features_changed("auto", with, before, false),
            None,
            "going without the embedding is nobody's question"
        );
    }

    /// A route of three models, with these prices and this objective.
    fn config(prices: [f64; 3], objective: &str) -> Config {
        config_of(&["p/best", "p/good", "p/poor"], prices, objective)
    }

    fn config_of(models: &[&str], prices: [f64; 3], objective: &str) -> Config {
        let mut toml = String::from(
            "[server]\nlisten = \"127.0.0.1:0\"\n[[providers]]\nname = \"p\"\nkind = \"simulated\"\nbase_url = \"simulated:\"\n",
        );
        for (name, price) in ["best", "good", "poor"].into_iter().zip(prices) {
            toml += &format!(
                "[[models]]\nid = \"p/{name}\"\ncontext_window = 8192\nmax_output_tokens = 1024\n\
                 [models.price]\ninput_per_mtok = {price}\noutput_per_mtok = {price}\n"
            );
        }
        toml += &format!("[[routes]]\nname = \"auto\"\nmodels = {models:?}\n{objective}\n");
        config::parse(&toml, Source::Text, &|_| None).unwrap_or_else(|problems| panic!("{problems}"))
    }

    /// The experiments that a flip of the second prices over the first asks for.
    async fn asked(before: [f64; 3], after: [f64; 3], objective: &str) -> Vec<String> {
        asked_between(&config(before, objective), &config(after, objective)).await
    }

    /// The experiments, and their controls, that the second configuration asks for after the first, of a router that expects .9, .89 and .7.
    async fn asked_between(before: &Config, after: &Config) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        let now = UnixMs(1_794_787_200_000);
        let store = Store::open(dir.path(), now).unwrap();
        let about = About {
            config_hash: String::new(),
            seed: 1,
            simulated: true,
            margin: 0.02,
            features: None,
        };
        let telemetry = Arc::new(Telemetry::new(64));
        let desk = Desk::restore(store.clone(), telemetry, before, about, now).unwrap();
        let candidates = [("p/best", 0.9), ("p/good", 0.89), ("p/poor", 0.7)];
        let candidates = candidates.map(|(arm, quality)| CandidateRow {
            arm: ArmId::new(arm),
            quality,
            ..store_rows::decision("d1").candidates[0].clone()
        });
        store.log_decision(DecisionRow {
            candidates: candidates.into(),
            experiment: None,
            ..store_rows::decision("d1")
        });
        store.log_attempt(store_rows::attempt("d1", 1));
        store.flush().await.unwrap();
        desk.look().unwrap();
        let features = FeatureVersions::default();
        desk.notice(before, features, AtHand::default(), now);
        desk.notice(after, features, AtHand::default(), now);
        let list = desk.list().experiments;
        let control = |view: &ExperimentView| view.arms[0].variant.clone();
        list.iter()
            .map(|view| format!("{}={}", view.definition.name, control(view)))
            .collect()
    }

    #[tokio::test]
    async fn a_new_model_is_compared_with_one_that_was_there() {
        let of = |models: &[&str]| config_of(models, [1.0, 2.0, 3.0], "");
        let both = asked_between(&of(&["p/best"]), &of(&["p/best", "p/good", "p/poor"])).await;
        assert_eq!(both, ["new-p-good=p/best", "new-p-poor=p/best"]);
        let all_new = asked_between(&of(&["p/best"]), &of(&["p/good", "p/poor"])).await;
        assert_eq!(all_new, [""; 0], "nobody is left to be compared with");
    }

    #[tokio::test]
    async fn a_price_asks_nothing_of_a_model_that_is_known_to_be_worse() {
        let poor_flips = ([3.0, 2.0, 5.0], [3.0, 2.0, 0.5]);
        assert_eq!(asked(poor_flips.0, poor_flips.1, "").await, [""; 0]);
        assert_eq!(asked(poor_flips.1, poor_flips.0, "").await, [""; 0], "nor back");
        // What is within the margin is asked.
        let good_flips = ([3.0, 5.0, 9.0], [3.0, 1.0, 9.0]);
        assert_eq!(
            asked(good_flips.0, good_flips.1, "").await,
            ["price-p-good=p/best"]
        );
        // A wider margin lets the poor one in, and so do dollars where they are worth points.
        let wide = "quality_margin = 0.25";
        assert_eq!(
            asked(poor_flips.0, poor_flips.1, wide).await,
            ["price-p-poor=p/best"]
        );
        let weighted = |lambda: f64| format!("objective = \"weighted\"\nlambda = {lambda}");
        assert_eq!(
            asked(poor_flips.0, poor_flips.1, &weighted(1e6)).await,
            ["price-p-poor=p/best"]
        );
        assert_eq!(asked(poor_flips.0, poor_flips.1, &weighted(1e-3)).await, [""; 0]);
    }
}
