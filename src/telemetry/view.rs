//! The published view: what deciding and hedging ask on the request's path, computed beforehand.

use std::collections::HashMap;
use std::sync::Arc;

use super::latencies::{Curve, Latencies, Quantile};
use super::lognormal::LogNormal;
use super::series::{InputSize, SeriesKey, Tally};
use super::sketch::Sketch;
use super::windows::Merge;
use crate::arm::ArmId;
use crate::units::UnixMs;

/// The last minute is believed alone from this many observations on; below, the last hour speaks.
const ENOUGH: u64 = 100;

/// Latencies of every arm as of one moment. Immutable and shared.
#[derive(Debug, Default)]
pub struct View {
    /// When it was computed.
    pub at: UnixMs,
    arms: HashMap<ArmId, Vec<(Scope, Latency)>>,
}

/// Which calls of an arm a [`Latency`] is about; `None` is any.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Scope {
    provider: Option<Arc<str>>,
    stream: bool,
    size: Option<InputSize>,
}

/// Whose latency is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// The arm.
    pub arm: &'a ArmId,
    /// The provider, when one arm has several and it matters.
    pub provider: Option<&'a str>,
    /// Streamed or whole answers.
    pub stream: bool,
    /// Size of the prompt.
    pub size: InputSize,
}

/// Distributions of one scope.
#[derive(Clone, Debug, Default)]
pub struct Latency {
    /// Time to the first meaningful event.
    pub ttft: Curve,
    /// Mean gap between two tokens.
    pub inter_token: Curve,
    /// Time to the whole answer.
    pub total: Curve,
    /// Log-normal fit of the time to the whole answer.
    pub expected_total: Option<LogNormal>,
}

impl Latency {
    /// What a caller waits for: the first event of a stream, else the whole answer.
    #[must_use]
    pub fn wait(&self, stream: bool) -> &Curve {
        if stream { &self.ttft } else { &self.total }
    }

    /// Expected milliseconds to a whole answer of `output_tokens` tokens: median TTFT and a median gap a token.
    #[must_use]
    pub fn expect_ms(&self, output_tokens: f64) -> Option<f64> {
        let ttft = self.ttft.quantile(0.5)?.value_ms;
        let gap = self.inter_token.quantile(0.5)?.value_ms;
        Some(ttft + gap * (output_tokens - 1.0).max(0.0))
    }
}

impl View {
    /// The `q`-quantile of the wait (first event of a stream, else the whole answer), from the narrowest scope
    /// that has the samples for it: this provider and size, any provider, any size.
    #[must_use]
    pub fn wait(&self, question: &Question<'_>, q: f64) -> Option<Quantile> {
        self.find(question, |latency| latency.wait(question.stream).quantile(q))
    }

    /// The latency of the narrowest scope in which at least `samples` attempts were seen.
    #[must_use]
    pub fn latency(&self, question: &Question<'_>, samples: u64) -> Option<&Latency> {
        self.find(question, |latency| {
            let wait = latency.wait(question.stream);
            (wait.samples + wait.censored >= samples.max(1)).then_some(latency)
        })
    }

    fn find<'a, T>(
        &'a self,
        question: &Question<'_>,
        answer: impl Fn(&'a Latency) -> Option<T>,
    ) -> Option<T> {
        let scopes = self.arms.get(question.arm)?;
        let (provider, size) = (question.provider, Some(question.size));
        let wider = [(provider, size), (None, size), (provider, None), (None, None)];
        wider.into_iter().find_map(|(provider, size)| {
            let matches = |scope: &Scope| {
                scope.stream == question.stream && scope.size == size && scope.provider.as_deref() == provider
            };
            let (_, latency) = scopes.iter().find(|(scope, _)| matches(scope))?;
            answer(latency)
        })
    }
}

/// The last minute and the last hour of one series.
pub(super) type Spans = (Tally, Tally);

/// Computes the view of all series.
pub(super) fn compute(now: UnixMs, series: &[(SeriesKey, Spans)]) -> View {
    let mut view = View {
        at: now,
        arms: HashMap::new(),
    };
    let mut sums: HashMap<ArmId, Vec<(Scope, Spans)>> = HashMap::new();
    for (key, spans) in series {
        let scopes = sums.entry(key.arm.clone()).or_default();
        for (provider, size) in [
            (Some(key.provider.clone()), Some(key.size)),
            (None, Some(key.size)),
            (Some(key.provider.clone()), None),
            (None, None),
        ] {
            let scope = Scope {
                provider,
                stream: key.stream,
                size,
            };
            let at = scopes
                .iter()
                .position(|(known, _)| *known == scope)
                .unwrap_or_else(|| {
                    scopes.push((scope, Spans::default()));
                    scopes.len() - 1
                });
            scopes[at].1.0.merge(&spans.0);
            scopes[at].1.1.merge(&spans.1);
        }
    }
    for (arm, scopes) in sums {
        let latencies = scopes
            .into_iter()
            .map(|(scope, (recent, all))| (scope, latency(&recent, &all)))
            .collect();
        view.arms.insert(arm, latencies);
    }
    view
}

fn latency(recent: &Tally, all: &Tally) -> Latency {
    let total = fresher(&recent.total, &all.total);
    Latency {
        ttft: fresher(&recent.ttft, &all.ttft).curve(),
        inter_token: gaps(if recent.inter_token.count() >= ENOUGH {
            &recent.inter_token
        } else {
            &all.inter_token
        }),
        total: total.curve(),
        expected_total: LogNormal::fit(total),
    }
}

fn fresher<'a>(recent: &'a Latencies, all: &'a Latencies) -> &'a Latencies {
    if recent.observed.count() + recent.censored.count() >= ENOUGH {
        recent
    } else {
        all
    }
}

/// Gaps are never cut off: only whole answers have them.
pub(super) fn gaps(sketch: &Sketch) -> Curve {
    Latencies {
        observed: sketch.clone(),
        censored: Sketch::default(),
    }
    .curve()
}
