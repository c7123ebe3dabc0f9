//! A provider that answers by itself, for the demonstration and for tests. Its models have the quality,
//! answer length and price that were recorded for real ones (`recorded.json`, source inside), so routing
//! between them is worth as much as it was there. No network, no key; every answer says that it is simulated.
//!
//! What a model would answer to a prompt, and how good that answer is, is a pure function of (seed, model,
//! prompt): [`SimulatedModel::outcome`]. The router never sees the score; a rater that knows the prompt's
//! [`PromptTraits`] can compute it again.

mod answer;
mod instance;
mod profile;
mod vectors;
mod wire;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt};

pub use profile::{Difficulty, Outcome, PROMPT_TAG, PromptTraits, Recorded, SimulatedModel, recorded};

use super::{Call, EventStream, Upstream};
use crate::completion::{Completion, StreamEvent};
use crate::failure::{AttemptError, FailureKind, FaultSource, Retry};
use crate::request::Purpose;

/// Waits shorter than this are saved up: timers are no finer, and a chunk that is due with the last one
/// should be ready with it.
const SHORTEST_WAIT: Duration = Duration::from_millis(4);
/// A stalled answer never comes; whoever waits has a deadline shorter than this.
const STALL: Duration = Duration::from_secs(24 * 3600);

/// How the simulation runs.
#[derive(Clone, Debug, PartialEq)]
pub struct SimulatedSettings {
    /// Seed of every draw.
    pub seed: u64,
    /// How many times faster than the recorded models it answers; above 0.
    pub speed: f64,
    /// Share of calls that fail as an overloaded provider does, in [0,1].
    pub error_rate: f64,
    /// Share of calls that never answer, in [0,1].
    pub stall_rate: f64,
}

impl Default for SimulatedSettings {
    fn default() -> Self {
        Self {
            seed: 1,
            speed: 1.0,
            error_rate: 0.0,
            stall_rate: 0.0,
        }
    }
}

/// Why a simulation cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SimulatedError {
    /// The address is not one of a simulation.
    #[error("`{0}` is not the address of a simulation: write `simulated:` or `simulated:?speed=20&seed=7`")]
    Address(String),
    /// A setting is unknown or out of range.
    #[error(
        "`{0}` is not a setting of a simulation: seed (whole number), speed (above 0), error_rate and stall_rate (0 to 1)"
    )]
    Setting(String),
    /// The figures shipped with the program do not parse.
    #[error("the recorded figures of the simulated models are damaged: {0}")]
    Recorded(#[from] serde_json::Error),
}

impl SimulatedSettings {
    /// Reads `simulated:?speed=20&seed=7&error_rate=0.01&stall_rate=0.001`, the `base_url` of a provider of
    /// kind `simulated`. Every part is optional; an empty address means the defaults.
    ///
    /// # Errors
    /// [`SimulatedError`] names the part that is wrong.
    pub fn from_address(address: &str) -> Result<Self, SimulatedError> {
        let rest = match address {
            "" => "",
            _ => address
                .strip_prefix("simulated:")
                .ok_or_else(|| SimulatedError::Address(address.to_owned()))?,
        };
        let query = rest.trim_start_matches('/').trim_start_matches('?');
        let mut settings = Self::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            settings
                .set(pair)
                .ok_or_else(|| SimulatedError::Setting(pair.to_owned()))?;
        }
        Ok(settings)
    }

    fn set(&mut self, pair: &str) -> Option<()> {
        let (key, value) = pair.split_once('=')?;
        if key == "seed" {
            self.seed = value.parse().ok()?;
            return Some(());
        }
        let number: f64 = value.parse().ok()?;
        let rate = (0.0..=1.0).contains(&number);
        match key {
            "speed" if number.is_finite() && number > 0.0 => self.speed = number,
            "error_rate" if rate => self.error_rate = number,
            "stall_rate" if rate => self.stall_rate = number,
            _ => return None,
        }
        Some(())
    }
}

/// A provider whose models are simulated.
#[derive(Debug)]
pub struct SimulatedProvider {
    models: HashMap<String, SimulatedModel>,
    settings: SimulatedSettings,
    /// Calls so far: the same request may fail once and succeed when tried again.
    calls: AtomicU64,
}

/// What befalls a call.
enum Fate {
    Answered,
    Overloaded,
    Stalled,
}

impl SimulatedProvider {
    /// A provider of the recorded models.
    ///
    /// # Errors
    /// [`SimulatedError::Recorded`] when the shipped figures do not parse.
    pub fn new(settings: SimulatedSettings) -> Result<Self, SimulatedError> {
        Ok(Self::with_models(settings, recorded()?.models))
    }

    /// A provider of the given models.
    #[must_use]
    pub fn with_models(settings: SimulatedSettings, models: Vec<SimulatedModel>) -> Self {
        let models = models
            .into_iter()
            .map(|model| (model.name.clone(), model))
            .collect();
        Self {
            models,
            settings,
            calls: AtomicU64::new(0),
        }
    }

    /// The whole answer, after the time that the model takes for it.
    ///
    /// # Errors
    /// [`AttemptError`] for an unknown model, or as the fault rates say.
    pub async fn complete(&self, call: &Call) -> Result<Completion, AttemptError> {
        if call.request.purpose == Purpose::Embedding {
            return Ok(vectors::embed(&call.request, self.settings.seed));
        }
        let (model, outcome) = self.begin(call).await?;
        let answer = answer::compose(&call.request, model, &outcome);
        let share = answer.share_written();
        let writing = outcome.total.saturating_sub(outcome.ttft).mul_f64(share);
        tokio::time::sleep(self.scaled(outcome.ttft + writing)).await;
        wire::completion(&answer)
    }

    /// The answer piece by piece, at the model's speed.
    ///
    /// # Errors
    /// [`AttemptError`] for an unknown model, or as the fault rates say.
    pub async fn stream(&self, call: &Call) -> Result<EventStream, AttemptError> {
        let (model, outcome) = self.begin(call).await?;
        let answer = answer::compose(&call.request, model, &outcome);
        let events = wire::events(&answer)?;
        let writing = outcome
            .total
            .saturating_sub(outcome.ttft)
            .mul_f64(answer.share_written());
        let gap = self.scaled(writing.div_f64(events.len().max(1) as f64));
        // Headers come when the request is accepted, the first token when it has been read.
        let accepted = self.scaled(outcome.ttft.mul_f64(0.25));
        tokio::time::sleep(accepted).await;
        let first = self.scaled(outcome.ttft).saturating_sub(accepted);
        let timed = with_waits(events, first, gap);
        Ok(Box::pin(stream::iter(timed).then(|(wait, event)| async move {
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
            }
            Ok(event)
        })))
    }

    async fn begin(&self, call: &Call) -> Result<(&SimulatedModel, Outcome), AttemptError> {
        let name: &str = &call.arm.upstream;
        let model = self.models.get(name).ok_or_else(|| self.unknown(name))?;
        match self.fate() {
            Fate::Answered => {}
            Fate::Overloaded => return Err(overloaded()),
            Fate::Stalled => tokio::time::sleep(STALL).await,
        }
        let traits = PromptTraits::of(&call.request);
        Ok((model, model.outcome(&traits, self.settings.seed)))
    }

    fn fate(&self) -> Fate {
        let number = self.calls.fetch_add(1, Ordering::Relaxed);
        let draw = profile::uniform(self.settings.seed, &["fate"], number);
        let (errors, stalls) = (self.settings.error_rate, self.settings.stall_rate);
        match draw {
            draw if draw < errors => Fate::Overloaded,
            draw if draw < errors + stalls => Fate::Stalled,
            _ => Fate::Answered,
        }
    }

    fn scaled(&self, recorded: Duration) -> Duration {
        recorded.div_f64(self.settings.speed)
    }

    fn unknown(&self, name: &str) -> AttemptError {
        let mut known: Vec<&str> = self.models.keys().map(String::as_str).collect();
        known.sort_unstable();
        AttemptError {
            kind: FailureKind::NotFound,
            fault: FaultSource::Upstream,
            retry: Retry::NextArm,
            retry_after: None,
            quota_exhausted: false,
            may_be_billed: false,
            message: format!(
                "no simulated model is called `{name}`; there are {}",
                known.join(", ")
            ),
            provider_code: None,
        }
    }
}

impl Upstream for SimulatedProvider {
    fn complete<'a>(&'a self, call: &'a Call) -> BoxFuture<'a, Result<Completion, AttemptError>> {
        Box::pin(Self::complete(self, call))
    }

    fn stream<'a>(&'a self, call: &'a Call) -> BoxFuture<'a, Result<EventStream, AttemptError>> {
        Box::pin(Self::stream(self, call))
    }
}

fn overloaded() -> AttemptError {
    AttemptError {
        kind: FailureKind::ProviderOverloaded,
        fault: FaultSource::Upstream,
        retry: Retry::SameArm,
        retry_after: None,
        quota_exhausted: false,
        may_be_billed: false,
        message: "the simulated provider is overloaded (its error_rate is above 0)".to_owned(),
        provider_code: Some("simulated".to_owned()),
    }
}

/// Gives each event the time to wait before it: `first`, then `gap` each, short waits saved up.
fn with_waits(events: Vec<StreamEvent>, first: Duration, gap: Duration) -> Vec<(Duration, StreamEvent)> {
    let mut owed = first;
    let mut timed = Vec::with_capacity(events.len());
    for event in events {
        let wait = if owed >= SHORTEST_WAIT {
            std::mem::take(&mut owed)
        } else {
            Duration::ZERO
        };
        timed.push((wait, event));
        owed += gap;
    }
    timed
}

#[cfg(test)]
mod tests;
