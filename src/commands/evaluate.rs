//! `pointsman evaluate`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

use anyhow::{Context, bail};
use indicatif::ProgressBar;
use pointsman::app::features::FeatureSet;
use pointsman::app::policies;
use pointsman::clock;
use pointsman::config::{self, Config, Embedding, EmbeddingModel};
use pointsman::hindsight::named::Named;
use pointsman::hindsight::{EvaluateArgs, Since, verdict, walk};
use pointsman::policy::arm_model::LearningSettings;
use pointsman::policy::category_table::Categories;
use pointsman::policy::learner::ContextualLearner;
use pointsman::policy::route::{Objective, RouteSettings};
use pointsman::store::Reader;
use pointsman::units::UnixMs;

/// Estimates the policy from the log, beside a running server or after it, and prints the figures.
pub fn run(args: &EvaluateArgs) -> anyhow::Result<()> {
    let policy = Named::parse(&args.policy)?;
    let config = args
        .config
        .as_deref()
        .map(|path| config::load(Some(path), &config::process_env))
        .transpose()
        .map_err(|problems| anyhow::anyhow!("the configuration cannot be used:\n{problems}"))?;
    let without_embedding = Embedding {
        model: EmbeddingModel::Off,
        threads: 1,
        budget_ms: 0,
        background_percent: 100,
        queue: 1,
    };
    let features = FeatureSet::load(&args.models_dir, &without_embedding)?;
    let reader = Reader::open(&args.data_dir)?;
    let from = args
        .since
        .map_or(UnixMs(0), |since: Since| since.resolve(clock::wall()));
    let to = clock::wall();
    let log = || reader.log(from, UnixMs(to.0.saturating_add(1)));

    let named = names(log(), args.route.as_deref())?;
    if let Named::Single(arm) = &policy
        && !named.arms.contains(arm.as_str())
    {
        let known: Vec<&str> = named.arms.iter().map(String::as_str).collect();
        bail!(
            "{arm} is no candidate in the log; known are: {}",
            known.join(", ")
        );
    }
    let fresh = |dimensions: Option<usize>| match dimensions {
        None => ContextualLearner::new(
            LearningSettings::default(),
            features.dimensions(),
            features.view_versions(),
            Some(features.seed()),
        ),
        Some(_) => ContextualLearner::new(
            LearningSettings::default(),
            [dimensions, None],
            BTreeMap::new(),
            None,
        ),
    };
    let routes: Vec<String> = named.routes.into_iter().collect();
    let settings = |route: &str| settings(args, config.as_ref(), route);
    let mut target = policy.learner(
        Categories::new(named.categories.iter().map(String::as_str)),
        &routes,
        settings,
        fresh,
    );
    let mut model = fresh(None);
    let progress = ProgressBar::new(named.decisions);
    let counted = log().inspect(|_| progress.inc(1));
    let walked = walk::walk(
        counted,
        args.route.as_deref(),
        policy.always(),
        args.clip,
        &features.versions(),
        &mut *target,
        &mut model,
    )?;
    progress.finish_and_clear();
    let found = verdict::judge(&args.policy, &walked, args.clip, args.alpha)?;
    let text = if args.json {
        serde_json::to_string_pretty(&found).context("the figures cannot be written as JSON")? + "\n"
    } else {
        found.text()
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(())
}

/// What the log names.
#[derive(Default)]
struct Names {
    decisions: u64,
    routes: BTreeSet<String>,
    categories: BTreeSet<String>,
    arms: BTreeSet<String>,
}

fn names(log: pointsman::store::JoinedLog, route: Option<&str>) -> anyhow::Result<Names> {
    let mut names = Names::default();
    for joined in log {
        let decision = joined?.decision;
        names.decisions += 1;
        names.routes.insert(decision.route.to_string());
        names.categories.insert(decision.category.to_string());
        for candidate in &decision.candidates {
            if !names.arms.contains(candidate.arm.as_str()) {
                names.arms.insert(candidate.arm.to_string());
            }
        }
    }
    if let Some(route) = route
        && !names.routes.contains(route)
    {
        let known: Vec<&str> = names.routes.iter().map(String::as_str).collect();
        bail!(
            "no decision of a route {route:?} in the log; known are: {}",
            known.join(", ")
        );
    }
    Ok(names)
}

/// A route's settings: the configuration's where it has the route, with the objective that was asked for.
fn settings(args: &EvaluateArgs, config: Option<&Config>, route: &str) -> RouteSettings {
    let configured = config.and_then(|config| config.routes.iter().find(|known| *known.name == *route));
    let mut settings = configured.map_or_else(RouteSettings::default, policies::settings);
    match (args.margin, args.lambda) {
        (Some(margin), _) => settings.objective = Objective::CheapestCapable { margin },
        (_, Some(lambda)) => settings.objective = Objective::Weighted { lambda },
        _ => {}
    }
    settings
}
