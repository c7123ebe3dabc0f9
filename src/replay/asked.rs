//! What the options ask for beyond the plain replay.

use anyhow::{Context, Result, bail};

use super::ReplayArgs;
use super::contestants::{Contestant, Settings};
use super::dataset::Dataset;
use super::scenario::{Order, Scenario, SeedShape};
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

/// What a scenario changes must be there, or its figures would be those of another one.
pub(super) fn check_scenario(scenario: &Scenario, seeded: bool, dataset: &Dataset) -> Result<()> {
    if scenario.seed != SeedShape::default() && !seeded {
        bail!("the scenario says what the seed is made of: give one with --seed-dataset or --folds");
    }
    let categories = dataset.categories().len();
    if scenario.order == Order::ByCategory && categories < 2 {
        bail!("the scenario asks for one category after the other, but the dataset has {categories}");
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_scenario_that_would_change_nothing_is_refused() {
        let line = |id: u8, category: &str| {
            format!(
                r#"{{"id": {id}, "category": "{category}", "prompt": "x", "outcomes": {{"a": {{"score": 0, "cost_usd": 1}}}}}}"#
            )
        };
        let parse = |text: &str| Dataset::parse(Path::new("x.jsonl"), text).unwrap();
        let one = parse(&line(1, "code"));
        let two = parse(&format!("{}\n{}", line(1, "code"), line(2, "maths")));
        let inverted = Scenario {
            seed: SeedShape {
                inverted: true,
                ..SeedShape::default()
            },
            ..Scenario::default()
        };
        assert!(check_scenario(&inverted, true, &one).is_ok());
        let refused = check_scenario(&inverted, false, &one).unwrap_err().to_string();
        assert!(refused.contains("--seed-dataset"), "{refused}");
        let shift = Scenario {
            order: Order::ByCategory,
            ..Scenario::default()
        };
        assert!(check_scenario(&shift, false, &two).is_ok());
        let refused = check_scenario(&shift, false, &one).unwrap_err().to_string();
        assert!(refused.contains("has 1"), "{refused}");
        assert!(check_scenario(&Scenario::default(), false, &one).is_ok());
    }
}
