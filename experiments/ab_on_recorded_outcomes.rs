//! Do automatic experiments decide rightly on real outcomes, and with how many samples?
//!
//! For twenty pairs of models of each recorded source the mean difference over all their common prompts is the
//! truth. The experiment sees one prompt after the other, drawn with replacement, in one arm at a time, looks after
//! each score, and stops by its own rule. A source with fewer pairs is filled up with the same pairs on parts of their
//! prompts. See `ab_on_recorded_outcomes.md` for the result.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Parser;
use pointsman::app::enrol::covariate;
use pointsman::arm::ArmId;
use pointsman::evaluation::sequence::fixed_horizon_samples;
use pointsman::experiments::{
    Definition, Experiments, Exposure, Hypothesis, Origin, Phase, Split, Unit, Variant,
};
use pointsman::features::text::TextView;
use pointsman::policy::arm_model::LearningSettings;
use pointsman::policy::learner::{ArmFacts, ContextualLearner};
use pointsman::policy::route::RouteSettings;
use pointsman::policy::seed::{LabelledOutcome, SeedBuilder, SeedSettings};
use pointsman::policy::{Candidate, Contexts, Demands, Learner, Round};
use pointsman::replay::dataset::Dataset;
use pointsman::units::UnixMs;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Common prompts below which a pair is left out.
const MIN_PROMPTS: usize = 100;
/// Smallest difference that a fixed-horizon test would be planned for when the true one is not known.
const PLANNED_EFFECT: f64 = 0.03;
/// Parts of the prompts: what is expected of each is learned from the others.
const FOLDS: usize = 5;
/// Differences that count as real when power is stated.
const REAL: f64 = 0.03;

#[derive(Parser)]
struct Args {
    /// Recorded outcomes, one file a source
    #[arg(required = true)]
    datasets: Vec<PathBuf>,
    /// Pairs of models of each source, or pairs on a part of the prompts where there are fewer models
    #[arg(long, default_value_t = 20)]
    pairs: usize,
    /// Experiments on each pair
    #[arg(long, default_value_t = 20)]
    repeats: u64,
    /// Ends an experiment when the chance of a verdict falls below this; default: as the router's own
    #[arg(long)]
    futility: Option<f64>,
    /// Scores near which the interval is tightest; default: as the router's own
    #[arg(long)]
    planned: Option<u64>,
    /// The folder of the shipped projections
    #[arg(long, default_value = "models")]
    models_dir: PathBuf,
    /// Where the table is written
    #[arg(long, default_value = "experiments/ab_on_recorded_outcomes.table.md")]
    out: PathBuf,
}

/// One prompt that both models answered: the control's score and cost, the treatment's, and what each was expected to
/// score.
#[derive(Clone)]
struct Common {
    category: String,
    length: usize,
    scores: [f64; 2],
    costs: [f64; 2],
    expected: [f64; 2],
}

/// What the experiments of one hypothesis on one source came to.
#[derive(Default)]
struct Tally {
    runs: u64,
    wrong: u64,
    undecided: u64,
    /// Of those on pairs with a real difference: runs, decided rightly.
    real: u64,
    found: u64,
    samples: u64,
    fixed_planned: u64,
    fixed_oracle: u64,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let mut out = String::from(
        "| source | hypothesis | pairs | experiments | wrong | undecided | power where the difference is real | mean samples | fixed horizon, true difference known | of it | fixed horizon, planned for ±0.03 |\n\
         | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n",
    );
    let view = args.models_dir.join("text-view.bin");
    let bytes = std::fs::read(&view).with_context(|| format!("reading {}", view.display()))?;
    let view = TextView::read(&bytes).context("the text view is not usable")?;
    for path in &args.datasets {
        let source = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .replace(".jsonl.gz", "");
        let dataset = Dataset::read(path).with_context(|| format!("reading {}", path.display()))?;
        let known = foreseen(&dataset, &view);
        let pairs = pairs(&dataset, &known, args.pairs);
        for (name, hypothesis) in [
            ("superior", Hypothesis::Superior),
            ("non-inferior, .05", Hypothesis::NonInferior { margin: 0.05 }),
        ] {
            let mut tally = Tally::default();
            for (number, pair) in pairs.iter().enumerate() {
                measure(&mut tally, pair, hypothesis, number as u64, &args);
            }
            out += &line(&source, name, pairs.len(), &tally);
        }
    }
    write(&args.out, &out)
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))?;
    std::io::stdout()
        .write_all(text.as_bytes())
        .context("writing to the screen")
}

fn line(source: &str, hypothesis: &str, pairs: usize, tally: &Tally) -> String {
    let share = |part: u64, whole: u64| {
        if whole == 0 {
            "–".to_owned()
        } else {
            format!("{:.1} %", 100.0 * part as f64 / whole as f64)
        }
    };
    let mean = |sum: u64| sum / tally.runs.max(1);
    format!(
        "| {source} | {hypothesis} | {pairs} | {} | {} | {} | {} | {} | {} | {} | {} |\n",
        tally.runs,
        share(tally.wrong, tally.runs),
        share(tally.undecided, tally.runs),
        share(tally.found, tally.real),
        mean(tally.samples),
        mean(tally.fixed_oracle),
        share(tally.samples, tally.fixed_oracle),
        mean(tally.fixed_planned),
    )
}

/// Pairs of models in random order, the cheaper one as the treatment. Where there are fewer than wanted, the same
/// pairs on the prompts of one category, then on those of like length.
fn pairs(dataset: &Dataset, known: &[Vec<f64>], wanted: usize) -> Vec<Vec<Common>> {
    let k = dataset.models.len();
    let mut all: Vec<(usize, usize)> = (0..k).flat_map(|a| (a + 1..k).map(move |b| (a, b))).collect();
    all.shuffle(&mut ChaCha8Rng::seed_from_u64(20));
    let enough = |prompts: &Vec<Common>| prompts.len() >= MIN_PROMPTS;
    let whole: Vec<Vec<Common>> = all
        .into_iter()
        .map(|(a, b)| common(dataset, known, a, b))
        .filter(enough)
        .collect();
    let by_category = || whole.iter().flat_map(|pair| parts_by_category(pair));
    let mut parts: Vec<Vec<Common>> = by_category().filter(enough).collect();
    parts.shuffle(&mut ChaCha8Rng::seed_from_u64(21));
    let mut narrow: Vec<Vec<Common>> = by_category()
        .flat_map(|pair| parts_by_length(&pair))
        .filter(enough)
        .collect();
    narrow.shuffle(&mut ChaCha8Rng::seed_from_u64(22));
    let mut chosen: Vec<Vec<Common>> = whole.iter().cloned().chain(parts).chain(narrow).collect();
    chosen.truncate(wanted);
    chosen
}

fn parts_by_category(pair: &[Common]) -> Vec<Vec<Common>> {
    let mut parts = BTreeMap::<&str, Vec<Common>>::new();
    for prompt in pair {
        parts.entry(&prompt.category).or_default().push(prompt.clone());
    }
    parts.into_values().collect()
}

/// Ten parts of equal size, by the length of the prompt.
fn parts_by_length(pair: &[Common]) -> Vec<Vec<Common>> {
    let mut sorted = pair.to_vec();
    sorted.sort_by_key(|prompt| prompt.length);
    sorted
        .chunks(sorted.len().div_ceil(10))
        .map(<[Common]>::to_vec)
        .collect()
}

fn common(dataset: &Dataset, known: &[Vec<f64>], a: usize, b: usize) -> Vec<Common> {
    let both = || {
        dataset.prompts.iter().zip(known).filter_map(|(prompt, known)| {
            Some((
                prompt,
                known,
                prompt.outcomes[a].as_ref()?,
                prompt.outcomes[b].as_ref()?,
            ))
        })
    };
    let cost = |first: bool| {
        both()
            .map(|(_, _, x, y)| if first { x.cost_usd } else { y.cost_usd })
            .sum::<f64>()
    };
    let swap = cost(true) < cost(false);
    let order = |x: f64, y: f64| if swap { [y, x] } else { [x, y] };
    both()
        .map(|(prompt, known, x, y)| Common {
            category: prompt.category.as_deref().unwrap_or_default().to_owned(),
            length: prompt.text.len(),
            scores: order(x.score, y.score),
            costs: order(x.cost_usd, y.cost_usd),
            expected: order(known[a], known[b]),
        })
        .collect()
}

/// What the router's own policy expects of every model on every prompt: that of one seeded with the prompts of the other
/// folds, as `train` does it.
fn foreseen(dataset: &Dataset, view: &TextView) -> Vec<Vec<f64>> {
    let prompts = dataset.prompts.iter();
    let rows: Vec<Vec<f32>> = prompts.map(|prompt| view.features(&prompt.text)).collect();
    let candidates: Vec<Candidate<'_>> = dataset
        .models
        .iter()
        .map(|arm| Candidate {
            arm,
            cost_usd: 0.0,
            latency_ms: 0.0,
        })
        .collect();
    let mut known = vec![Vec::new(); rows.len()];
    for fold in 0..FOLDS {
        let policy = seeded(dataset, &rows, view, |index| index % FOLDS != fold).snapshot();
        for index in (fold..rows.len()).step_by(FOLDS) {
            let proposal = policy.propose(&Round {
                route: "auto",
                contexts: words(&rows[index]),
                category: dataset.prompts[index].category.as_deref(),
                candidates: &candidates,
                demands: Demands::default(),
            });
            known[index] = proposal.scores.iter().map(|score| score.mean).collect();
        }
    }
    known
}

/// The policy after it was shown the outcomes of these prompts.
fn seeded(
    dataset: &Dataset,
    rows: &[Vec<f32>],
    view: &TextView,
    is_shown: impl Fn(usize) -> bool,
) -> ContextualLearner {
    let mut builder = SeedBuilder::default();
    let shown = dataset.prompts.iter().zip(rows).enumerate();
    for (_, (prompt, row)) in shown.filter(|(index, _)| is_shown(*index)) {
        for (model, outcome) in dataset.models.iter().zip(&prompt.outcomes) {
            let Some(outcome) = outcome else { continue };
            builder.add(&LabelledOutcome {
                model: model.as_str(),
                category: prompt.category.as_deref(),
                contexts: words(row),
                reward: outcome.score,
                length: None,
                cost_usd: Some(outcome.cost_usd),
            });
        }
    }
    let seed = builder.build(&SeedSettings::default(), BTreeMap::new());
    let mut learner = ContextualLearner::new(
        LearningSettings::default(),
        [Some(view.dimensions()), None],
        BTreeMap::new(),
        Some(Arc::new(seed)),
    );
    let arms = dataset.models.iter().map(|model| ArmFacts {
        id: model.clone(),
        family: String::new(),
        typical_cost_usd: 0.0,
    });
    learner.ensure_arms(&arms.collect::<Vec<_>>());
    learner.ensure_route("auto", RouteSettings::default());
    learner
}

const fn words(row: &[f32]) -> Contexts<'_> {
    Contexts {
        text: Some(row),
        embedding: None,
        words: &[],
    }
}

fn mean_and_variance(values: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    let n = values.clone().count() as f64;
    let mean = values.clone().sum::<f64>() / n;
    (mean, values.map(|value| (value - mean).powi(2)).sum::<f64>() / n)
}

fn measure(tally: &mut Tally, pair: &[Common], hypothesis: Hypothesis, number: u64, args: &Args) {
    let repeats = args.repeats;
    let (control, control_variance) = mean_and_variance(pair.iter().map(|prompt| prompt.scores[0]));
    let (treatment, treatment_variance) = mean_and_variance(pair.iter().map(|prompt| prompt.scores[1]));
    let beyond = treatment - control - hypothesis.threshold();
    let (mut right, mut samples) = (0, 0);
    for repeat in 0..repeats {
        let (phase, used) = run(pair, hypothesis, number * 1_000 + repeat, args);
        samples += used;
        match phase {
            Phase::Shipped { .. } if beyond > 0.0 => right += 1,
            Phase::StoppedForHarm if beyond < 0.0 => right += 1,
            Phase::Shipped { .. } | Phase::StoppedForHarm => tally.wrong += 1,
            _ => tally.undecided += 1,
        }
    }
    tally.runs += repeats;
    tally.samples += samples;
    if beyond.abs() >= REAL {
        tally.real += repeats;
        tally.found += right;
    }
    // A fixed test with the power that the experiment reached on this pair; two arms of equal size.
    let power = (right as f64 / repeats as f64).clamp(0.05, 0.99);
    let variance = 2.0 * (control_variance + treatment_variance);
    let limit = 1_000_000;
    tally.fixed_planned += repeats * fixed_horizon_samples(PLANNED_EFFECT, variance, 0.05, power).min(limit);
    tally.fixed_oracle += repeats * fixed_horizon_samples(beyond, variance, 0.05, power).min(limit);
}

/// One experiment to its end: how it ended, and after how many scores.
fn run(pair: &[Common], hypothesis: Hypothesis, seed: u64, args: &Args) -> (Phase, u64) {
    let model = |name: &str| Variant::Model(ArmId::new(name));
    let variants = vec![
        ("control".to_owned(), model("p/control")),
        ("treatment".to_owned(), model("p/treatment")),
    ];
    let mut definition = Definition::new(
        "ab",
        "auto",
        variants,
        hypothesis,
        Origin::NewModel,
        UnixMs(seed as i64),
    );
    // As the router starts its own.
    definition.split = Split::Adaptive;
    let design = &mut definition.design;
    design.futility = args.futility.unwrap_or(design.futility);
    design.planned = args.planned.unwrap_or(design.planned);
    // Recorded costs are plain sums; what is judged here is the verdict on quality.
    definition.design.guardrails.cost_ratio = None;
    let mut experiments = Experiments::default();
    if experiments.start(definition, UnixMs(0)).is_err() {
        return (Phase::Stopped, 0);
    }
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let (mut table, mut generation) = (experiments.table(), experiments.generation());
    for sample in 1.. {
        let request = format!("{seed}-{sample}");
        let prompt = &pair[rng.gen_range(0..pair.len())];
        let unit = Unit {
            request: &request,
            ..Unit::default()
        };
        let Some(mut enrolment) = table.assign(&unit, "auto", None) else {
            break;
        };
        enrolment.covariate = covariate(&enrolment.shares, &prompt.expected);
        let now = UnixMs(sample);
        experiments.enrolled(&enrolment);
        let exposure = Exposure {
            clean: true,
            cost_usd: Some(prompt.costs[enrolment.arm]),
            ..Exposure::default()
        };
        experiments.exposed(&enrolment, &exposure, now);
        experiments.scored(&enrolment, "quality", prompt.scores[enrolment.arm], None, now);
        if experiments.generation() != generation {
            (table, generation) = (experiments.table(), experiments.generation());
        }
    }
    experiments
        .view("ab")
        .map_or((Phase::Stopped, 0), |view| (view.phase, view.reading.units))
}
