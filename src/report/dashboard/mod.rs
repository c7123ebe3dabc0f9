//! The dashboard at `/`: one page without any outside asset, and the figures that it asks for.
//!
//! The page itself holds no data and may be served to anybody. It polls `/v1/overview` ([`Overview`]),
//! `/v1/experiments` ([`ExperimentList`]) and `/v1/telemetry` with the client's key, which it asks for when it is
//! answered 401, and links to `/reports/<name>/report.html`.

mod compared;
mod ledger;

pub use ledger::Ledger;

use std::sync::{Arc, LazyLock};

use serde::{Deserialize, Serialize};

use super::page;
use crate::arm::ArmId;
use crate::experiments::ExperimentView;
use crate::units::{UnixMs, Usd};

/// The page without and with the need of a key.
static PAGES: LazyLock<[String; 2]> = LazyLock::new(|| {
    let open = include_str!("dashboard.html").replace("/*theme*/", page::THEME);
    let locked = open.replace("data-keys=\"no\"", "data-keys=\"yes\"");
    [open, locked]
});

/// The page; `locked` where a client must show a key.
#[must_use]
pub fn page(locked: bool) -> &'static str {
    &PAGES[usize::from(locked)]
}

/// Name and version of [`Overview`].
pub const SCHEMA: &str = "pointsman.overview/1";

/// Answer of `GET /v1/experiments`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ExperimentList {
    /// Running ones first.
    pub experiments: Vec<ExperimentView>,
    /// Names of those that wait for room in their layer.
    pub waiting: Vec<String>,
}

/// Answer of `GET /v1/overview`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Overview {
    /// [`SCHEMA`].
    pub schema: String,
    /// Version of the program.
    pub version: String,
    /// Whether providers are simulated.
    pub simulated: bool,
    /// When these figures were taken.
    pub at: UnixMs,
    /// Since when they are counted.
    pub since: UnixMs,
    /// Requests decided.
    pub requests: u64,
    /// Requests of the last minute.
    pub last_minute: u64,
    /// Dollars spent on all requests, as far as it is known.
    pub spent_usd: Usd,
    /// Attempts whose cost is unknown, served or not; they are in no sum of money.
    #[serde(default)]
    pub unpriced_attempts: u64,
    /// Dollars spent on finished requests that have a baseline.
    pub compared_usd: Usd,
    /// What the baseline would have cost on those.
    pub baseline_usd: Usd,
    /// The always-best baseline: the model of which the highest mean quality was expected, as in the routing report.
    pub reference: Option<String>,
    /// Scores.
    pub scored: u64,
    /// Mean score.
    pub mean_score: Option<f64>,
    /// Budgets with what is spent of them.
    pub budgets: Vec<BudgetView>,
    /// Of the requests: those that were given an answer from the cache.
    #[serde(default)]
    pub cache_hits: u64,
    /// What those would have cost again.
    #[serde(default)]
    pub cache_saved_usd: Usd,
    /// What looking at requests before they are sent has saved since the start: the drawn models' expected costs less
    /// than those of the dearest that could have served.
    #[serde(default)]
    pub look_saved_usd: Usd,
    /// Models that were left out because they could not have taken a request.
    #[serde(default)]
    pub left_out: u64,
    /// Names of the rows of `points[].drawn`.
    pub arms: Vec<String>,
    /// Figures over time.
    pub points: Vec<OverviewPoint>,
    /// Newest first.
    pub recent: Vec<RecentDecision>,
    /// Names of the reports that there are.
    pub reports: Vec<String>,
}

/// A route's budget.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BudgetView {
    /// Whose it is: a route, a tenant, or `global`.
    pub name: String,
    /// `day`, `month`, ...
    pub period: String,
    /// Dollars of the period.
    pub limit_usd: f64,
    /// Dollars spent in it.
    pub spent_usd: f64,
    /// Share of the period that is over, in [0, 1].
    pub elapsed: f64,
}

/// A stretch of time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OverviewPoint {
    /// Its beginning.
    pub at: UnixMs,
    /// Requests.
    pub requests: u64,
    /// Dollars spent in it on requests with a baseline.
    pub spent_usd: Usd,
    /// Dollars of the baseline in it.
    pub baseline_usd: Usd,
    /// Scores that came in it.
    pub scored: u64,
    /// Their sum.
    pub score_sum: f64,
    /// Draws of each arm.
    pub drawn: Vec<u64>,
}

/// A decision, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecentDecision {
    /// Its id.
    pub id: Arc<str>,
    /// When.
    pub at: UnixMs,
    /// The route asked for.
    pub route: Arc<str>,
    /// The prompt's category.
    pub category: Arc<str>,
    /// The arm drawn.
    pub arm: ArmId,
    /// The arm that served.
    pub served: Option<ArmId>,
    /// Why, in a sentence.
    pub why: String,
    /// Probability of the draw.
    pub propensity: f64,
    /// Cost until now; `None` before the first attempt is over, and where a price is unknown.
    pub cost_usd: Option<Usd>,
    /// An attempt's cost is unknown, and so the request's.
    #[serde(default)]
    pub cost_unknown: bool,
    /// Milliseconds to the end.
    pub total_ms: Option<f64>,
    /// Score, once there is one.
    pub score: Option<f64>,
    /// `name=arm` of its experiment.
    pub experiment: Option<Arc<str>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_asks_for_nothing_from_outside() {
        for page in [page(false), page(true)] {
            for outside in ["http://", "https://", "src=", "@import", "innerHTML", "/*theme*/"] {
                let allowed = outside == "http://"
                    && page.matches(outside).count() == page.matches("http://www.w3.org/2000/svg").count();
                assert!(allowed || !page.contains(outside), "{outside}");
            }
        }
        assert!(page(true).contains("data-keys=\"yes\"") && !page(false).contains("data-keys=\"yes\""));
    }
}
