//! Statistics of experiments and off-policy estimates. Pure: plain numbers in, plain numbers out.
//!
//! - [`sequence`]: confidence sequences, intervals that hold at every sample at once, and how many more samples
//!   they need;
//! - [`moments`]: the sums that a comparison of two arms keeps, weighted, clustered and adjusted (CUPED);
//! - [`off_policy`]: what another policy would have scored or cost, from logged decisions;
//! - [`health`]: sample-ratio mismatch, exposure and feedback-rate mismatch;
//! - [`allocation`]: how to split traffic between arms;
//! - [`assignment`]: which arm a unit gets, the same one each time;
//! - [`multiplicity`]: the false-discovery rate over slices;
//! - [`ab`]: one experiment's statistics and its verdict;
//! - [`spread`]: an arm's latencies;
//! - [`special`]: the normal and chi-square distributions.

pub mod ab;
pub mod allocation;
pub mod assignment;
pub mod health;
pub mod moments;
pub mod multiplicity;
pub mod off_policy;
pub mod sequence;
pub mod special;
pub mod spread;
