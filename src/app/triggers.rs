//! What happens in the router that starts an experiment by itself, and on which terms.

use crate::app::desk::Desk;
use crate::arm::ArmId;
use crate::config::{Config, Route};
use crate::experiments::{Terms, Trigger};
use crate::telemetry::{InputSize, Question};
use crate::units::UnixMs;

/// Size of the prompt for which a slow first token is looked up, in tokens.
const TYPICAL_INPUT: u32 = 500;
/// A first token later than this is slow where neither the route nor telemetry says better.
const SLOW_MS: f64 = 5_000.0;

impl Desk {
    /// Starts an experiment on an arm whose quality fell, against the reference of each route that has it.
    pub fn drifted(&self, arm: &ArmId, config: &Config, now: UnixMs) {
        for route in config.routes.iter().filter(|route| route.models.contains(arm)) {
            let Some(reference) = self.reference(route, arm) else {
                continue;
            };
            let trigger = Trigger::Drift {
                route: route.name.clone(),
                model: arm.clone(),
                reference: reference.clone(),
            };
            self.ask(route, &trigger, Some(&reference), now);
        }
    }

    /// Starts an experiment on each model that is new in a route, against the route's reference.
    pub fn routes_changed(&self, old: &Config, new: &Config, now: UnixMs) {
        for route in &new.routes {
            let Some(before) = old.routes.iter().find(|before| before.name == route.name) else {
                continue;
            };
            for model in route.models.iter().filter(|model| !before.models.contains(model)) {
                let Some(reference) = self.reference(route, model) else {
                    continue;
                };
                let trigger = Trigger::NewModel {
                    route: route.name.clone(),
                    model: model.clone(),
                    reference: reference.clone(),
                };
                self.ask(route, &trigger, Some(&reference), now);
            }
        }
    }

    /// Starts what `trigger` asks for on the route's terms, unless the route wants none.
    pub(super) fn ask(&self, route: &Route, trigger: &Trigger, control: Option<&ArmId>, now: UnixMs) {
        if !route.experiments.enabled {
            return;
        }
        let terms = Terms {
            margin: route.experiments.margin.unwrap_or_else(|| route.margin()),
            traffic: route.experiments.traffic,
            max_samples: route.experiments.max_samples,
            slow_ms: self.slow_ms(route, control),
        };
        let started = self.trigger(trigger, &terms, now);
        tracing::info!(?trigger, ?started, "an experiment was asked for");
    }

    /// What counts as a slow first token: later than one in a hundred of the control's, else than the route allows.
    fn slow_ms(&self, route: &Route, control: Option<&ArmId>) -> f64 {
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

    /// The route's always-best baseline, if it is known by now, still one of its models, and another than `arm`.
    fn reference(&self, route: &Route, arm: &ArmId) -> Option<ArmId> {
        let books = self.books();
        let best = books.references.get(route.name.as_str())?.best()?;
        (best != arm && route.models.contains(best)).then(|| best.clone())
    }
}
