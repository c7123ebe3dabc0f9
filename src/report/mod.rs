//! Reports that people read: Markdown, HTML with plots, and JSON for programs, from plain rows that the store
//! hands over. A report says first what was asked, whether it is over, what it saved, how sure that is and what to
//! do; then whether the data can be trusted; then the tables; then the raw totals to recompute it all.
//!
//! - [`command`]: `pointsman report`; [`log`]: from the decision log to rows;
//! - [`experiment`]: one experiment;
//! - [`dashboard`]: the live page and the figures that it asks for;
//! - [`routing`]: the running router against the always-best baseline;
//! - [`page`], [`plot`], [`format`]: the common frame, the plots and how figures are written.

pub mod command;
pub mod dashboard;
pub mod experiment;
pub mod format;
pub mod log;
pub mod page;
pub mod plot;
pub mod routing;

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::experiments::FeatureVersions;
use crate::units::UnixMs;

/// What every report states about itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// When the report was made.
    pub generated: UnixMs,
    /// Version of the program.
    pub version: String,
    /// Hash of the configuration in force.
    pub config_hash: String,
    /// Seed of the random draws, where one was set.
    pub seed: Option<u64>,
    /// What looks at prompts.
    #[serde(default)]
    pub features: Option<FeatureVersions>,
    /// Whether the answers, prices, speeds and scores come from simulated providers.
    pub simulated: bool,
}

impl Provenance {
    /// In one line, for the foot of a report as text.
    #[must_use]
    pub fn line(&self) -> String {
        let features = self.features.map_or_else(String::new, |features| {
            format!(", prompts looked at by {features}")
        });
        let seed = self
            .seed
            .map_or_else(String::new, |seed| format!(", seed {seed}"));
        format!(
            "pointsman {}, made {}, configuration {}{seed}{features}. Plots are in report.html, figures in report.json.\n",
            self.version,
            format::moment(self.generated),
            self.config_hash
        )
    }
}

/// A report in its three forms.
#[derive(Clone, Debug, PartialEq)]
pub struct Rendered {
    /// `report.md`.
    pub markdown: String,
    /// `report.html`: one self-contained page.
    pub html: String,
    /// `report.json`, with a `schema` member.
    pub json: String,
}

/// Why a report was not made.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// A plot could not be drawn.
    #[error("cannot draw the plot {plot:?}: {reason}")]
    Plot {
        /// Which one.
        plot: String,
        /// What the plotting library said.
        reason: String,
    },
    /// The figures could not be written as JSON.
    #[error("cannot write the figures as JSON")]
    Json(#[from] serde_json::Error),
    /// A file could not be written.
    #[error("cannot write {}; is the disk full, or the directory read-only?", path.display())]
    Write {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The name would leave the reports' directory.
    #[error("{name:?} is no name of a report; use letters, digits, '-', '_' and '.'")]
    Name {
        /// What was asked for.
        name: String,
    },
}

/// Writes `report.md`, `report.html` and `report.json` into `<reports_dir>/<name>/` and returns that directory.
/// Each file replaces the old one at once, so that a reader never sees half of it.
///
/// # Errors
/// If the name is no plain file name or the files cannot be written.
pub fn write(reports_dir: &Path, name: &str, report: &Rendered) -> Result<PathBuf, ReportError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.starts_with('.') || !name.chars().all(plain) {
        return Err(ReportError::Name {
            name: name.to_owned(),
        });
    }
    let dir = reports_dir.join(name);
    let failed = |path: &Path, source| ReportError::Write {
        path: path.to_owned(),
        source,
    };
    fs::create_dir_all(&dir).map_err(|source| failed(&dir, source))?;
    for (extension, text) in [
        ("md", &report.markdown),
        ("html", &report.html),
        ("json", &report.json),
    ] {
        let path = dir.join(format!("report.{extension}"));
        let fresh = dir.join(format!(".report.{extension}.new"));
        fs::write(&fresh, text).map_err(|source| failed(&fresh, source))?;
        fs::rename(&fresh, &path).map_err(|source| failed(&path, source))?;
    }
    Ok(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_stays_in_its_directory() {
        let dir = tempfile::tempdir().unwrap();
        let text = |s: &str| Rendered {
            markdown: s.into(),
            html: s.into(),
            json: s.into(),
        };
        for name in ["../up", "", ".hidden", "a/b"] {
            assert!(
                matches!(write(dir.path(), name, &text("x")), Err(ReportError::Name { .. })),
                "{name}"
            );
        }
        write(dir.path(), "routing", &text("one")).unwrap();
        let at = write(dir.path(), "routing", &text("two")).unwrap();
        assert_eq!(fs::read_to_string(at.join("report.md")).unwrap(), "two");
        assert_eq!(fs::read_dir(at).unwrap().count(), 3);
    }
}
