//! What the options ask for beyond the plain replay.

use anyhow::{Context, Result, bail};

use super::ReplayArgs;
use super::contestants::{Contestant, Settings};
use super::dataset::Dataset;
use super::scenario::Scenario;
use crate::policy::View;

/// The view of that name.
pub(super) fn view(name: &str) -> Result<View, String> {
    match name {
        "text" => Ok(View::Text),
        "embedding" => Ok(View::Embedding),
        _ => Err("there are `text` and `embedding`".to_owned()),
    }
}

/// What the options put beside the baselines: the same policy without what they ask for.
pub(super) fn beside(args: &ReplayArgs, scenario: &Scenario) -> Vec<Contestant> {
    let mut beside = Vec::new();
    if args.view == View::Embedding {
        beside.push(Contestant::TextView);
    }
    if scenario.replicas.count > 1 {
        beside.extend([Contestant::OneReplica, Contestant::Apart]);
    }
    beside
}

/// Shares and delays that cannot be are refused.
pub(super) fn check_shares(args: &ReplayArgs) -> Result<()> {
    for (name, share) in [("--feedback-rate", args.feedback_rate), ("--audit", args.audit)] {
        if share.is_some_and(|share| !(0.0..=1.0).contains(&share)) {
            bail!("{name} must be a share, from 0 to 1");
        }
    }
    if args
        .feedback_delay
        .is_some_and(|delay| !delay.is_finite() || delay < 0.0)
    {
        bail!("--feedback-delay must be a number of requests, 0 or more");
    }
    Ok(())
}

/// Sends a share of requests to the reference model, or to one that may be the best.
pub(super) fn audit(args: &ReplayArgs, dataset: &Dataset, settings: &mut Settings) -> Result<()> {
    let Some(share) = args.audit else { return Ok(()) };
    if let Some(name) = &args.reference {
        let mut models = dataset.models.iter();
        let found = models.find(|model| model.as_str() == name || model.model() == name);
        let reference =
            found.with_context(|| format!("--reference {name:?} is not a model of the dataset"))?;
        settings.route.reference = Some(reference.clone());
    }
    settings.route.audit_share = share;
    Ok(())
}
