//! Prequential replay over recorded outcomes: the router decides, sees the outcome of the chosen model only, learns,
//! and goes on.

mod args;
mod asked;
pub mod contestants;
pub mod dataset;
pub mod dynamics;
pub mod lines;
mod meter;
pub mod metrics;
mod nearest;
mod plots;
mod report;
pub mod scenario;
mod sweep;
pub mod views;
mod world;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::policy::View;
use crate::policy::route::Objective;
use crate::policy::seed::Seed;
pub use args::ReplayArgs;
use contestants::{Contestant, Settings, Trial, single_points};
use dataset::{Dataset, DatasetError};
use dynamics::Course;
use metrics::{Run, SeedFigures, Swept, figures};
use scenario::Scenario;
use views::{Looks, Rows};
use world::World;

/// Everything that one replay needs, in memory.
struct Plan {
    trials: Vec<Trial>,
    whole: Dataset,
    settings: Settings,
    sweep: bool,
    seeds: u64,
    /// What stands beside the baselines because of the options.
    beside: Vec<Contestant>,
}

/// Runs a replay and writes its figures.
///
/// # Errors
/// When an input cannot be read or used, or the output cannot be written.
pub fn run(args: &ReplayArgs) -> Result<()> {
    let plan = plan(args)?;
    let policy = parse_policy(&args.policy, &plan.whole)?;
    let mut contestants = vec![policy];
    if !args.baselines.is_empty() {
        for key in &args.baselines {
            contestants.push(parse_policy(key, &plan.whole)?);
        }
    } else if !args.no_baselines {
        let beside = plan.beside.iter().copied();
        let all = beside.chain(baselines(&plan.whole));
        contestants.extend(all.filter(|&baseline| baseline != policy));
    }
    let progress = progress(contestants.len() as u64 * plan.seeds * plan.passes());
    let measured: Vec<(Contestant, Vec<SeedFigures>)> = contestants
        .iter()
        .map(|&contestant| {
            progress.set_message(contestant.key(&plan.whole));
            (contestant, measure(contestant, &plan, &progress))
        })
        .collect();
    progress.finish_and_clear();
    let changes = match &plan.trials[..] {
        [only] => only.world.changes.clone(),
        _ => Vec::new(),
    };
    let told = report::Told {
        dataset: &plan.whole,
        budget_usd: plan.settings.route.budget_usd,
        changes: &changes,
    };
    report::write(args, &told, &measured)
}

fn baselines(dataset: &Dataset) -> Vec<Contestant> {
    let mut all = vec![
        Contestant::ZeroRouter,
        Contestant::Random,
        Contestant::Oracle,
        Contestant::CategoryTable,
        Contestant::Knn,
        Contestant::SurfaceOnly,
        Contestant::Shuffled,
        Contestant::Offline,
        Contestant::LinUcb,
        Contestant::EpsilonGreedy,
    ];
    all.extend((0..dataset.models.len()).map(Contestant::Single));
    all
}

fn parse_policy(name: &str, dataset: &Dataset) -> Result<Contestant> {
    let mut known = vec![Contestant::Contextual];
    known.extend(baselines(dataset));
    let found = known.iter().find(|contestant| contestant.key(dataset) == name);
    let keys = || {
        known
            .iter()
            .map(|contestant| contestant.key(dataset))
            .collect::<Vec<_>>()
            .join(", ")
    };
    found
        .copied()
        .with_context(|| format!("no policy {name:?}; there are {}", keys()))
}

fn plan(args: &ReplayArgs) -> Result<Plan> {
    let mut looks = Looks::open(&args.models_dir, View::Text)?;
    let mut transformer = match args.view {
        View::Text => None,
        View::Embedding => Some(Looks::open(&args.models_dir, View::Embedding)?),
    };
    let scenario = args
        .scenario
        .as_deref()
        .map(Scenario::read)
        .transpose()?
        .unwrap_or_default();

    asked::check_shares(args)?;
    let mut whole = read(&args.dataset, args.split.as_deref(), &args.models)?;
    if let Some(category) = &args.category {
        whole = whole.category(category, &args.dataset)?;
    }
    if args.mean_costs {
        whole.level_costs();
    }
    if let [only] = &whole.models[..] {
        return Err(DatasetError::OneModel {
            path: args.dataset.clone(),
            model: only.to_string(),
        }
        .into());
    }
    let seeded = args.folds.is_some() || args.seed_dataset.is_some();
    asked::check_scenario(&scenario, seeded, &whole)?;
    let pairs = match (args.folds, &args.seed_dataset) {
        (Some(folds), _) => fold(&whole, folds)?,
        (None, Some(path)) => {
            let seed = read(path, args.seed_split.as_deref(), &[])?
                .aligned(&whole.models)
                .without_texts_of(&whole);
            vec![(seed, whole.clone())]
        }
        (None, None) => vec![(empty_like(&whole), whole.clone())],
    };
    let mut feedback = scenario.feedback;
    feedback.rate = args.feedback_rate.unwrap_or(feedback.rate);
    feedback.delay = args.feedback_delay.unwrap_or(feedback.delay);
    let prior = shipped_prior(&args.models_dir, &looks, transformer.as_ref())?;
    let mut settings = settings(args)?;
    asked::audit(args, &whole, &mut settings)?;
    let trials = pairs
        .into_iter()
        .map(|(seed, stream)| {
            let seed = shape(seed, &scenario, args.seed_limit)?;
            let mut embedded = |prompts: &Dataset| -> Result<Option<Rows>> {
                let transformer = transformer.as_mut();
                transformer.map(|looks| looks.rows(prompts)).transpose()
            };
            Ok(Trial {
                seed_embedded: embedded(&seed)?,
                seed_features: looks.rows(&seed)?,
                seed_words: views::words(&seed),
                world: World {
                    features: looks.rows(&stream)?,
                    words: views::words(&stream),
                    embedded: embedded(&stream)?,
                    replicas: scenario.replicas,
                    changes: scenario.resolve(&stream, stream.prompts.len())?,
                    feedback,
                    order: scenario.order,
                    categories: true,
                    dataset: Arc::new(stream),
                },
                seed: Arc::new(seed),
                prior: prior.clone(),
                unseeded: scenario.unseeded(&whole),
                surface_offset: looks.surface_offset(),
                meter: Arc::default(),
            })
        })
        .collect::<Result<Vec<Trial>>>()?;
    Ok(Plan {
        trials,
        settings,
        sweep: args.sweep,
        beside: asked::beside(args, &scenario),
        whole,
        seeds: args.seeds,
    })
}

fn settings(args: &ReplayArgs) -> Result<Settings> {
    for (name, value) in [
        ("--budget-usd", args.budget_usd),
        ("--lambda", args.lambda),
        ("--margin", args.margin),
    ] {
        if value.is_some_and(|value| !value.is_finite() || value < 0.0) {
            bail!("{name} must be a number, 0 or more");
        }
    }
    if args.margin.is_some_and(|margin| margin > 1.0) {
        bail!("--margin must be from 0 to 1, as quality is");
    }
    let objective = match (args.budget_usd, args.lambda, args.margin) {
        (Some(_), _, _) => Objective::MaxQuality,
        (_, Some(lambda), _) => Objective::Weighted { lambda },
        (_, _, margin) => Objective::CheapestCapable {
            margin: margin.unwrap_or(0.02),
        },
    };
    let mut settings = match &args.tuning {
        Some(path) => {
            let text =
                std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            toml::from_str(&text).with_context(|| format!("{} is not a set of settings", path.display()))?
        }
        None => Settings::default(),
    };
    settings.route.objective = objective;
    settings.route.budget_usd = args.budget_usd;
    Ok(settings)
}

fn read(path: &Path, split: Option<&str>, models: &[String]) -> Result<Dataset> {
    let mut dataset = Dataset::read(path)?;
    if let Some(split) = split {
        dataset = dataset.split(split, path)?;
    }
    if !models.is_empty() {
        dataset = dataset.only(models, path)?;
    }
    Ok(dataset)
}

fn empty_like(dataset: &Dataset) -> Dataset {
    Dataset {
        models: dataset.models.clone(),
        prompts: Vec::new(),
    }
}

/// Parts of the prompts by a fixed shuffle, prompts of one text always in one part; each with the rest as its seed.
fn fold(whole: &Dataset, folds: usize) -> Result<Vec<(Dataset, Dataset)>> {
    if folds < 2 || folds > whole.prompts.len() {
        bail!("--folds must be from 2 to the number of prompts");
    }
    let mut texts: Vec<&str> = whole.prompts.iter().map(|prompt| prompt.text.trim()).collect();
    texts.sort_unstable();
    texts.dedup();
    texts.shuffle(&mut ChaCha8Rng::seed_from_u64(0));
    let part: BTreeMap<&str, usize> = texts
        .iter()
        .enumerate()
        .map(|(rank, text)| (*text, rank % folds))
        .collect();
    let pick = |keep: &dyn Fn(usize) -> bool| Dataset {
        models: whole.models.clone(),
        prompts: whole
            .prompts
            .iter()
            .filter(|prompt| keep(part[prompt.text.trim()]))
            .cloned()
            .collect(),
    };
    Ok((0..folds)
        .map(|fold| (pick(&|own| own != fold), pick(&|own| own == fold)))
        .collect())
}

/// The seed prompts that a scenario leaves, in random order, at most `limit` of them.
fn shape(mut seed: Dataset, scenario: &Scenario, limit: Option<usize>) -> Result<Dataset> {
    let only = &scenario.seed.categories;
    if !only.is_empty() {
        seed.prompts.retain(|prompt| {
            prompt
                .category
                .as_ref()
                .is_some_and(|category| only.contains(category))
        });
        if seed.prompts.is_empty() {
            bail!(
                "no prompt of the seed is of the scenario's categories: {}",
                only.join(", ")
            );
        }
    }
    if scenario.seed.inverted {
        for outcome in seed
            .prompts
            .iter_mut()
            .flat_map(|prompt| prompt.outcomes.iter_mut().flatten())
        {
            outcome.score = 1.0 - outcome.score;
        }
    }
    seed.prompts.shuffle(&mut ChaCha8Rng::seed_from_u64(1));
    seed.prompts.truncate(limit.unwrap_or(usize::MAX));
    Ok(seed)
}

impl Plan {
    /// Passes over the stream that one order of one policy takes at most.
    fn passes(&self) -> u64 {
        1 + if self.sweep { sweep::POINTS as u64 } else { 0 }
    }
}

/// The prior in the folder, if there is one for these views.
fn shipped_prior(folder: &Path, text: &Looks, transformer: Option<&Looks>) -> Result<Option<Arc<Seed>>> {
    let path = folder.join("seed-prior.json");
    if !path.exists() {
        return Ok(None);
    }
    let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let seed = Seed::parse(&bytes)
        .with_context(|| format!("{} is not a seed prior; train it again", path.display()))?;
    let fits = |looks: &&Looks| {
        let version = looks.version().to_string();
        seed.view_versions.get(&looks.view()) == Some(&version)
    };
    let views: Vec<View> = [Some(text), transformer]
        .into_iter()
        .flatten()
        .filter(fits)
        .map(Looks::view)
        .collect();
    Ok(views.contains(&View::Text).then(|| {
        let mut seed = Seed {
            view_versions: BTreeMap::new(),
            ..seed
        };
        for arm in &mut seed.arms {
            arm.quality.retain(|view, _| views.contains(view));
        }
        Arc::new(seed)
    }))
}

/// All seeds of a contestant, on the processors there are. Where there is a sweep, the first seed finds the prices of
/// a dollar that tell its curve, and the others are measured at the same.
fn measure(contestant: Contestant, plan: &Plan, progress: &ProgressBar) -> Vec<SeedFigures> {
    let (prices, first) = one_seed(contestant, plan, 0, None, progress);
    let next = AtomicUsize::new(1);
    let workers = std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(plan.seeds as usize);
    let work = || {
        let mut done = Vec::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed) as u64;
            if seed >= plan.seeds {
                return done;
            }
            let (_, figures) = one_seed(contestant, plan, seed, Some(&prices), progress);
            done.push((seed, figures));
        }
    };
    let mut all: Vec<(u64, SeedFigures)> = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        handles
            .into_iter()
            .filter_map(|handle| handle.join().ok())
            .flatten()
            .collect()
    });
    all.push((0, first));
    all.sort_by_key(|(seed, _)| *seed);
    all.into_iter().map(|(_, figures)| figures).collect()
}

/// The figures of one seed, and the prices of a dollar that its sweep was measured at: `prices`, or those that it found.
fn one_seed(
    contestant: Contestant,
    plan: &Plan,
    seed: u64,
    prices: Option<&[f64]>,
    progress: &ProgressBar,
) -> (Vec<f64>, SeedFigures) {
    let done = std::cell::Cell::new(0);
    let over_trials = |settings: &Settings| {
        let mut whole = Run::default();
        for trial in &plan.trials {
            let run = contestants::run(contestant, trial, settings, seed, crate::clock::monotonic);
            whole.steps.extend(run.steps);
            whole.decide_ns.extend(run.decide_ns);
            whole.alarms += run.alarms;
            whole.audit = run.audit.or(whole.audit);
        }
        progress.inc(1);
        done.set(done.get() + 1);
        whole
    };
    let singles = single_points(&plan.whole);
    let main = over_trials(&plan.settings);
    let curve: Vec<(f64, Swept)> = match contestant {
        _ if !plan.sweep => Vec::new(),
        Contestant::ZeroRouter => sweep::of_mixes(&singles),
        _ if !contestant.has_objective() => vec![(0.0, main.swept(&singles))],
        _ => {
            let at = |lambda: f64| {
                let mut settings = plan.settings.clone();
                settings.route.objective = Objective::Weighted { lambda };
                settings.route.budget_usd = None;
                over_trials(&settings).swept(&singles)
            };
            match prices {
                Some(prices) => prices.iter().map(|&price| (price, at(price))).collect(),
                None => sweep::trace(&singles, at),
            }
        }
    };
    // Policies without an objective take one pass.
    progress.inc(plan.passes().saturating_sub(done.get()));
    let (prices, points): (Vec<f64>, Vec<Swept>) = curve.into_iter().unzip();
    let figures = SeedFigures {
        course: Course {
            steps: main.steps.clone(),
            alarms: main.alarms,
            audit: main.audit,
        },
        ..figures(
            &main,
            &points,
            &singles,
            plan.settings.route.budget_usd,
            plan.whole.models.len(),
        )
    };
    (prices, figures)
}

fn progress(length: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {percent:>3} % {elapsed}, {eta} to go: {msg}");
    let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr());
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
