//! The figures of a routing report, as they stand in `report.json`.

use serde::{Deserialize, Serialize};

use crate::evaluation::health::Health;
use crate::evaluation::off_policy::MAX_UNSUPPORTED;
use crate::evaluation::sequence::Interval;
use crate::report::Provenance;
use crate::units::{UnixMs, Usd};

/// The report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RoutingReport {
    /// [`super::SCHEMA`].
    pub schema: String,
    /// Who made it, when, with which configuration.
    pub provenance: Provenance,
    /// The always-best baseline.
    pub reference: Option<String>,
    /// Quality that may be lost against it.
    pub margin: f64,
    /// First and last request.
    pub since: Option<UnixMs>,
    /// See `since`.
    pub until: Option<UnixMs>,
    /// What it came to.
    pub outcome: Outcome,
    /// Checks, those to look at first.
    pub health: Vec<HealthLine>,
    /// Everything in one line.
    pub totals: Totals,
    /// Saved per request in dollars, holding at every sample.
    pub saving_per_request: Option<Interval>,
    /// Saved so far in dollars: the interval per request times the requests that have both figures.
    pub saved: Option<Interval>,
    /// Share of the baseline's spend that was saved.
    pub saved_share: Option<Interval>,
    /// Mean score of what was served, holding at every sample.
    pub quality: Option<Interval>,
    /// Doubly robust estimate of the router's own quality minus that of always using the reference.
    pub quality_difference: Option<Interval>,
    /// Each model, dearest share first.
    pub arms: Vec<ArmFigures>,
    /// Each provider.
    pub providers: Vec<ProviderFigures>,
    /// What other policies would have cost and scored.
    pub off_policy: Vec<OffPolicyLine>,
    /// Figures over time.
    pub timeline: Timeline,
}

/// The answer to "what should I do".
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// `saving`, `not_yet_sure`, `not_saving`, `losing_quality`, `unhealthy` or `not_enough_data`.
    pub verdict: String,
    /// One or two sentences.
    pub sentence: String,
    /// About so many more scored requests until there is a verdict.
    pub more_needed: Option<u64>,
    /// The same in days at the rate of the last requests.
    pub days_needed: Option<f64>,
}

/// One check.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HealthLine {
    /// What was checked.
    pub name: String,
    /// What was found.
    pub health: Health,
    /// The figure and what it means.
    pub detail: String,
}

/// Raw totals: from these every mean can be made again.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Totals {
    /// Requests decided.
    pub requests: u64,
    /// Requests that some arm served.
    pub served: u64,
    /// Requests with a score.
    pub scored: u64,
    /// Sum of the scores.
    pub score_sum: f64,
    /// Sum of their squares.
    pub score_square_sum: f64,
    /// Money spent, as far as it is known.
    pub cost_usd: Usd,
    /// Attempts whose cost is unknown, served or not; they are in no sum of money.
    #[serde(default)]
    pub unpriced_attempts: u64,
    /// Of `cost_usd`: spent on requests that had such an attempt as well, so that their whole cost is not known.
    #[serde(default)]
    pub partly_known_usd: Usd,
    /// Money spent on the requests that have a baseline figure.
    pub compared_cost_usd: Usd,
    /// What the baseline was expected to cost on the same requests.
    pub baseline_cost_usd: Usd,
    /// Requests with both figures.
    pub compared: u64,
    /// Requests whose whole cost is not known.
    pub unpriced: u64,
    /// Requests that a fallback served.
    pub fallbacks: u64,
    /// Requests with a hedge.
    pub hedged: u64,
    /// Requests that were given an answer from the cache. They were not decided and are in no other figure.
    #[serde(default)]
    pub cache_hits: u64,
    /// What those would have cost again.
    #[serde(default)]
    pub cache_saved_usd: Usd,
}

/// One model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ArmFigures {
    /// `provider/model`.
    pub arm: String,
    /// Times drawn.
    pub drawn: u64,
    /// Share of all requests.
    pub share: f64,
    /// Scores on draws that it served itself.
    pub scored: u64,
    /// Sum of those scores.
    pub score_sum: f64,
    /// Their mean, holding at every sample.
    pub quality: Option<Interval>,
    /// Money spent on its draws with a known cost.
    pub cost_usd: Usd,
    /// Draws with a known cost.
    pub priced: u64,
    /// Attempts on its draws whose cost is unknown.
    #[serde(default)]
    pub unpriced_attempts: u64,
    /// Draws that it failed to serve.
    pub failed: u64,
    /// Sum over all logged draws of its probability.
    pub expected_draws: f64,
}

/// One provider's speed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProviderFigures {
    /// Its name.
    pub provider: String,
    /// Requests that it served.
    pub served: u64,
    /// With a time to the first token.
    pub ttft_samples: u64,
    /// Median time to the first token.
    pub ttft_p50_ms: Option<f64>,
    /// 99th percentile; `None` below 100 samples, where it would be the slowest request and no percentile.
    pub ttft_p99_ms: Option<f64>,
    /// With a total time.
    pub total_samples: u64,
    /// Median time to the last token.
    pub total_p50_ms: Option<f64>,
    /// 99th percentile, as above.
    pub total_p99_ms: Option<f64>,
}

/// What another policy would have come to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OffPolicyLine {
    /// Its name.
    pub policy: String,
    /// Decisions used.
    pub decisions: u64,
    /// Effective samples.
    pub ess: f64,
    /// Whether that is enough for a verdict.
    pub enough: bool,
    /// Quality, doubly robust.
    pub quality: Interval,
    /// Quality, self-normalised.
    pub quality_snips: f64,
    /// Dollars a request, doubly robust.
    pub cost_usd: Interval,
    /// What clipped weights can have moved the quality by.
    pub bias_bound: f64,
    /// Share of the policy that the log cannot support: there the quality is a prediction, and the self-normalised one
    /// lacks it.
    #[serde(default)]
    pub unsupported: f64,
}

impl OffPolicyLine {
    /// Whether the log is enough for a verdict, as a table says it.
    pub(in crate::report) fn standing(&self) -> String {
        if self.enough && self.unsupported > MAX_UNSUPPORTED {
            format!("yes, {:.0} % of it predicted", 100.0 * self.unsupported)
        } else {
            if self.enough { "yes" } else { "no" }.to_owned()
        }
    }
}

/// Figures over time, in buckets of equal length.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Timeline {
    /// Middle of each bucket that has a request.
    pub at: Vec<UnixMs>,
    /// Requests in it.
    pub requests: Vec<u64>,
    /// Spent up to its end, on compared requests.
    pub spent_usd: Vec<f64>,
    /// What the baseline would have spent up to its end.
    pub baseline_usd: Vec<f64>,
    /// Dollars a request in it, of those that have a baseline figure; `None` if none has.
    pub cost_per_request: Vec<Option<f64>>,
    /// The same of the baseline.
    pub baseline_per_request: Vec<Option<f64>>,
    /// Names of the rows of `shares`.
    pub arms: Vec<String>,
    /// Share of each arm in each bucket.
    pub shares: Vec<Vec<f64>>,
    /// Running mean of the scores with its interval, where there is one.
    pub quality: Vec<Option<Interval>>,
}
