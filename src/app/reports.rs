//! What the running program tells its reports, kept in the database so that `pointsman report` works beside a running
//! server and after it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::app::StartError;
use crate::config::{Config, Objective, ProviderKind, QualityRule};
use crate::experiments::FeatureVersions;
use crate::report::Provenance;
use crate::report::command::{self, CommandError, DEFAULT_MARGIN};
use crate::store::{DocRow, Reader, StoreError, set_aside};
use crate::units::UnixMs;

/// How far back the report goes that is written by itself. `pointsman report` reads the whole log.
const SPAN: Duration = Duration::from_secs(7 * 24 * 3600);
/// ... and so many decisions at most, the newest ones: some 8 MB while it is written, at any traffic.
const MOST_DECISIONS: u32 = 20_000;
/// Where the document of [`About`] is kept.
const KIND: &str = "report";
const NAME: &str = "about";

/// What a report must know of the program beside its log. Kept in the database.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct About {
    /// Hash of the configuration in force.
    pub config_hash: String,
    /// Seed of the draws.
    pub seed: u64,
    /// Whether every provider is simulated.
    pub simulated: bool,
    /// Quality that routing may lose.
    pub margin: f64,
    /// What looks at prompts.
    #[serde(default)]
    pub features: Option<FeatureVersions>,
}

impl About {
    /// Of a configuration and what looks at prompts.
    #[must_use]
    pub fn of(config: &Config, seed: u64, features: FeatureVersions) -> Self {
        let margin = config.routes.iter().find_map(|route| match route.objective {
            Objective::CheapestCapable {
                quality: QualityRule::Margin(margin),
                ..
            } => Some(margin),
            _ => None,
        });
        Self {
            config_hash: config.hash.clone(),
            seed,
            simulated: is_simulated(config),
            margin: margin.unwrap_or(DEFAULT_MARGIN),
            features: Some(features),
        }
    }

    /// What a report states of it.
    #[must_use]
    pub fn provenance(&self, now: UnixMs) -> Provenance {
        Provenance {
            generated: now,
            version: env!("CARGO_PKG_VERSION").into(),
            config_hash: self.config_hash.clone(),
            seed: Some(self.seed),
            features: self.features,
            simulated: self.simulated,
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

/// Whether every provider is simulated.
pub(super) fn is_simulated(config: &Config) -> bool {
    let mut kinds = config.providers.iter().map(|provider| provider.kind);
    kinds.all(|kind| kind == ProviderKind::Simulated)
}

/// Whether the log in `folder` is of simulated providers; `None` when there is none, or nothing in it.
fn kept_simulated(folder: &Path) -> Option<bool> {
    let reader = Reader::open(folder).ok()?;
    let row = reader.doc(KIND, NAME).ok()??;
    let about: About = serde_json::from_str(&row.json).ok()?;
    reader.log(UnixMs(0), UnixMs(i64::MAX)).next()?.ok()?;
    Some(about.simulated)
}

/// What simulated providers answered must not be learned from, billed or reported beside what real ones did. A log of
/// the former, such as the demonstration's, is moved out of the way; beside the latter they are refused.
///
/// # Errors
/// When the database cannot be moved, or holds what real providers answered.
pub fn keep_apart(config: &Config) -> Result<(), StartError> {
    let folder = &config.server.data_dir;
    // Whatever is wrong with the database is told when it is opened.
    let Some(simulated) = kept_simulated(folder) else {
        return Ok(());
    };
    match (simulated, is_simulated(config)) {
        (true, false) => {
            let aside = set_aside(folder, "simulated")?;
            tracing::info!(
                path = %aside.display(),
                "the log of simulated providers was moved out of the way: this one begins anew"
            );
            Ok(())
        }
        (false, true) => Err(StartError::Real {
            folder: folder.clone(),
        }),
        _ => Ok(()),
    }
}

/// What reports state of the program whose log `reader` reads.
///
/// # Errors
/// When the database cannot be read.
pub fn provenance(reader: &Reader, now: UnixMs) -> Result<(Provenance, f64), StoreError> {
    let about = About::read(reader)?;
    Ok((about.provenance(now), about.margin))
}

/// Writes the routing report of the last [`SPAN`], or of the newest [`MOST_DECISIONS`], under `data_dir`.
///
/// # Errors
/// When the log cannot be read or the files not be written.
pub fn write_routing(reader: &Reader, data_dir: &Path, now: UnixMs) -> Result<PathBuf, CommandError> {
    let (provenance, margin) = provenance(reader, now)?;
    let recent = UnixMs(now.0.saturating_sub(SPAN.as_millis() as i64));
    let from = recent.max(reader.newest_since(MOST_DECISIONS)?);
    command::write_routing(reader, &data_dir.join("reports"), from, margin, &provenance)
}
