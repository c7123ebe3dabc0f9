//! One experiment's statistics and its verdict. The design is fixed before the first sample; the interval that is
//! shown *is* the stopping rule; health comes before any result.

//!
//! [`Design`] is what was fixed, [`AbSums`] what was seen, [`read`] what it says.

mod reading;
mod sums;

pub use reading::{Checks, Comparison, GuardrailResult, Reading, Standing, Verdict, read};
pub use sums::{AbSums, ArmSums, Exposure, Sample, SliceSums};

use serde::{Deserialize, Serialize};

/// The range of scores and of shares.
pub const UNIT_RANGE: Option<(f64, f64)> = Some((0.0, 1.0));

/// What an experiment sets out to show of each treatment.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Hypothesis {
    /// Its mean is above the control's.
    Superior,
    /// Its mean is no more than `margin` below the control's.
    NonInferior {
        /// In (0, 1).
        margin: f64,
    },
    /// Something is gained: its mean is above the control's, or no more than `margin` below at a cost that is lower by at
    /// least the share `saving` of the control's.
    Gain {
        /// In (0, 1).
        margin: f64,
        /// In (0, 1).
        saving: f64,
    },
}

impl Hypothesis {
    /// The difference (treatment minus control) below which the hypothesis is refuted, and above which it holds (of a
    /// [`Self::Gain`]: if money is saved).
    #[must_use]
    pub fn threshold(&self) -> f64 {
        match self {
            Self::Superior => 0.0,
            Self::NonInferior { margin } | Self::Gain { margin, .. } => -margin,
        }
    }
}

/// What a treatment must not make worse, as differences to the control. A guardrail whose interval lies above its
/// limit stops the experiment for harm; one whose estimate does keeps a treatment from being shipped.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Guardrails {
    /// More failed requests, as a share.
    pub errors: f64,
    /// More slow first tokens, as a share; slow is above [`Design::slow_ms`].
    pub slow: f64,
    /// More refusals, as a share.
    pub refusals: f64,
    /// Cost of the treatment over that of the control. `None`: not guarded.
    pub cost_ratio: Option<f64>,
}

impl Default for Guardrails {
    fn default() -> Self {
        Self {
            errors: 0.02,
            slow: 0.02,
            refusals: 0.02,
            cost_ratio: None,
        }
    }
}

/// The design, fixed before the first sample.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Design {
    /// Number of arms, two or more; the first is the control.
    pub arms: usize,
    /// What is to be shown.
    pub hypothesis: Hypothesis,
    /// Error rate in (0, 1) of the whole experiment, shared evenly by the treatments (Bonferroni).
    pub alpha: f64,
    /// Scored units near which the interval is tightest.
    pub planned: u64,
    /// Scored units at which it ends without a verdict.
    pub max_samples: u64,
    /// Half-width of the interval below which nothing worth knowing is left to learn.
    pub min_effect: f64,
    /// It also ends without a verdict when the chance that it comes to one by `max_samples` falls below this, in
    /// [0, 1). 0: never.
    #[serde(default)]
    pub futility: f64,
    /// What must not get worse.
    pub guardrails: Guardrails,
    /// A first token later than this is slow. `None`: not guarded.
    pub slow_ms: Option<f64>,
    /// Least share of each arm under adaptive allocation.
    pub floor: f64,
}

#[cfg(test)]
mod tests;
