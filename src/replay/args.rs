//! The options of a replay.

use std::path::PathBuf;

use clap::Args;

use crate::policy::View;

/// Options of `pointsman replay`.
#[derive(Args, Clone, Debug)]
pub struct ReplayArgs {
    /// Recorded outcomes to replay (JSON Lines, plain or gzip)
    #[arg(long, value_name = "FILE")]
    pub dataset: PathBuf,
    /// Policy to replay: contextual, offline, surface_only, shuffled, category_table, knn, linucb_forgetting,
    /// epsilon_greedy, random, oracle, zero_router or single:MODEL
    #[arg(long, value_name = "NAME", default_value = "contextual")]
    pub policy: String,
    /// Models to keep (default: all of the dataset)
    #[arg(long, value_name = "A,B,C", value_delimiter = ',')]
    pub models: Vec<String>,
    /// Only prompts of this split
    #[arg(long, value_name = "SPLIT")]
    pub split: Option<String>,
    /// Only prompts of this category
    #[arg(long, value_name = "CATEGORY")]
    pub category: Option<String>,
    /// Count calls and not tokens: every call costs what its model's cost in the mean
    #[arg(long)]
    pub mean_costs: bool,
    /// Labelled prompts to learn from first, all outcomes known (default: the shipped prior)
    #[arg(long, value_name = "FILE", group = "seeded")]
    pub seed_dataset: Option<PathBuf>,
    /// Only prompts of this split of the seed dataset
    #[arg(long, value_name = "SPLIT", requires = "seed_dataset")]
    pub seed_split: Option<String>,
    /// At most this many seed prompts, drawn at random
    #[arg(long, value_name = "N", requires = "seeded")]
    pub seed_limit: Option<usize>,
    /// Cross-validation: replay each of N parts with the others as its seed
    #[arg(long, value_name = "N", group = "seeded")]
    pub folds: Option<usize>,
    /// Best quality within this many dollars a request
    #[arg(long, value_name = "B", group = "goal", allow_negative_numbers = true)]
    pub budget_usd: Option<f64>,
    /// Least cost with a mean quality no more than this below the best model's [default: 0.02]
    #[arg(long, value_name = "Q", group = "goal", allow_negative_numbers = true)]
    pub margin: Option<f64>,
    /// Quality less this many points a dollar
    #[arg(long, value_name = "L", group = "goal", allow_negative_numbers = true)]
    pub lambda: Option<f64>,
    /// The whole cost and quality curve with its area (AIQ)
    #[arg(long)]
    pub sweep: bool,
    /// Number of random orders
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    pub seeds: u64,
    /// Share of decisions that are scored (default: the scenario's, or all)
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub feedback_rate: Option<f64>,
    /// Mean delay of a score, in requests (default: the scenario's, or none)
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub feedback_delay: Option<f64>,
    /// Changes on the way (TOML; see experiments/)
    #[arg(long, value_name = "FILE")]
    pub scenario: Option<PathBuf>,
    /// Settings of the policy (TOML with tables route, learning and seed; default: those that `serve` uses)
    #[arg(long, value_name = "FILE")]
    pub tuning: Option<PathBuf>,
    /// The view of a prompt that is decided by: text, or embedding (the mean of the text view and the transformer's)
    #[arg(long, value_name = "VIEW", default_value = "text", value_parser = super::asked::view)]
    pub view: View,
    /// Share of requests that go to the reference model (`serve`: 0.02), to hold the promised margin against what really comes of it
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub audit: Option<f64>,
    /// The audit's reference [default: whichever model may be the best by what is believed]
    #[arg(long, value_name = "MODEL", requires = "audit")]
    pub reference: Option<String>,
    /// Leave the baselines out
    #[arg(long)]
    pub no_baselines: bool,
    /// Only these of the baselines, by their keys in metrics.json (default: all)
    #[arg(
        long,
        value_name = "KEYS",
        value_delimiter = ',',
        conflicts_with = "no_baselines"
    )]
    pub baselines: Vec<String>,
    /// Folder of the feature artefacts and the shipped prior
    #[arg(
        long,
        value_name = "DIR",
        default_value = "models",
        env = "POINTSMAN_MODELS_DIR"
    )]
    pub models_dir: PathBuf,
    /// Where metrics.json, report.md and the curves are written
    #[arg(long, value_name = "DIR", default_value = "data/reports/replay")]
    pub out: PathBuf,
}
