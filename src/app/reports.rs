//! From the log to the routing report's files. Needs the database only, so that `pointsman report` works beside a
//! running server and after it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::app::policies;
use crate::arm::ArmId;
use crate::config::{Config, Objective, ProviderKind, QualityRule};
use crate::evaluation::sequence::SequenceError;
use crate::feedback::QUALITY;
use crate::report::routing::{self, LoggedCandidate, Question, RoutingRow};
use crate::report::{self, Provenance, ReportError};
use crate::store::{AttemptRow, DocRow, Joined, Reader, StoreError};
use crate::units::{UnixMs, Usd};

/// Requests of one report at most, the newest.
const MAX_ROWS: usize = 200_000;
/// Where the document of [`About`] is kept.
const KIND: &str = "report";
const NAME: &str = "about";
/// Margin of a route that has none of its own.
const MARGIN: f64 = 0.02;

/// What a report must know of the program beside its log. Kept in the database.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct About {
    /// Hash of the configuration in force.
    pub config_hash: String,
    /// Seed of the draws.
    pub seed: u64,
    /// Whether every provider is simulated.
    pub simulated: bool,
    /// The always-best baseline of each route.
    pub references: BTreeMap<String, ArmId>,
    /// Quality that routing may lose.
    pub margin: f64,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum RoutingReportError {
    /// The log cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The figures cannot be made.
    #[error("the routing report's intervals cannot be computed: {0}")]
    Sequence(#[from] SequenceError),
    /// The files cannot be made.
    #[error(transparent)]
    Report(#[from] ReportError),
}

impl About {
    /// Of a configuration.
    #[must_use]
    pub fn of(config: &Config, seed: u64, now: UnixMs) -> Self {
        let margin = config.routes.iter().find_map(|route| match route.objective {
            Objective::CheapestCapable {
                quality: QualityRule::Margin(margin),
                ..
            } => Some(margin),
            _ => None,
        });
        let reference = |route: &crate::config::Route| {
            Some((route.name.clone(), policies::reference(config, route, now)?))
        };
        Self {
            config_hash: config.hash.clone(),
            seed,
            simulated: config
                .providers
                .iter()
                .all(|provider| provider.kind == ProviderKind::Simulated),
            references: config.routes.iter().filter_map(reference).collect(),
            margin: margin.unwrap_or(MARGIN),
        }
    }

    /// As it is kept.
    #[must_use]
    pub fn row(&self, now: UnixMs) -> DocRow {
        DocRow {
            kind: KIND.into(),
            name: NAME.into(),
            at: now,
            json: serde_json::to_string(self).unwrap_or_default(),
        }
    }

    fn read(reader: &Reader) -> Result<Self, StoreError> {
        let row = reader.doc(KIND, NAME)?;
        Ok(row
            .and_then(|row| serde_json::from_str(&row.json).ok())
            .unwrap_or_default())
    }
}

/// Writes `reports/routing/report.{md,html,json}` under `data_dir` and returns that directory.
///
/// # Errors
/// When the log cannot be read or the files not be written.
pub fn write_routing(reader: &Reader, data_dir: &Path, now: UnixMs) -> Result<PathBuf, RoutingReportError> {
    let about = About::read(reader)?;
    let mut rows = std::collections::VecDeque::new();
    for joined in reader.log(UnixMs(0), UnixMs(i64::MAX)) {
        if rows.len() == MAX_ROWS {
            rows.pop_front();
        }
        rows.push_back(row(&joined?, &about));
    }
    let mut references: Vec<&ArmId> = about.references.values().collect();
    references.dedup();
    let question = Question {
        provenance: Provenance {
            generated: now,
            version: env!("CARGO_PKG_VERSION").into(),
            config_hash: about.config_hash.clone(),
            seed: Some(about.seed),
            simulated: about.simulated,
        },
        reference: (references.len() == 1).then(|| references[0].clone()),
        margin: about.margin,
    };
    let report = routing::summarise(rows.make_contiguous(), &question)?;
    Ok(report::write(
        &data_dir.join("reports"),
        "routing",
        &routing::render(&report)?,
    )?)
}

fn row(joined: &Joined, about: &About) -> RoutingRow {
    let decision = &joined.decision;
    let served = joined.attempts.iter().find(|attempt| attempt.served);
    let drawn = !matches!(&*decision.strategy, "named" | "rule");
    let cost: Option<Usd> = joined.attempts.iter().map(|attempt| attempt.cost).sum();
    let reference = about.references.get(&*decision.route);
    let baseline = decision
        .candidates
        .iter()
        .find(|candidate| Some(&candidate.arm) == reference)
        .map(|found| found.cost);
    let scores: Vec<f64> = joined
        .scores
        .iter()
        .filter(|score| *score.metric == *QUALITY)
        .map(|score| score.score)
        .collect();
    RoutingRow {
        at: decision.at,
        route: decision.route.to_string(),
        category: (!decision.category.is_empty()).then(|| decision.category.to_string()),
        arm: decision.arm.clone(),
        served: served.map(|attempt| attempt.arm.clone()),
        propensity: drawn.then_some(decision.propensity),
        candidates: decision
            .candidates
            .iter()
            .map(|candidate| LoggedCandidate {
                arm: candidate.arm.clone(),
                propensity: candidate.propensity.into(),
                expected_quality: candidate.quality.into(),
                expected_cost: candidate.cost,
            })
            .collect(),
        cost,
        // What was served by the reference itself is not estimated: it cost what it cost.
        baseline_cost: match (served, reference) {
            (Some(served), Some(reference)) if served.arm == *reference => cost,
            _ => baseline,
        },
        ttft_ms: served.and_then(|attempt| attempt.ttft_ms),
        total_ms: served.map(|attempt| attempt.total_ms),
        score: (!scores.is_empty()).then(|| scores.iter().sum::<f64>() / scores.len() as f64),
        fallback: served.is_some_and(|attempt| attempt.role == "fallback"),
        hedged: joined
            .attempts
            .iter()
            .any(|attempt: &AttemptRow| attempt.role == "hedge"),
    }
}
