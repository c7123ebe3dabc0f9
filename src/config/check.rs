//! `pointsman check`: says what a configuration means, or everything that is wrong with it.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;

use super::models::PriceSource;
use super::routes::{Objective, QualityRule, Route};
use super::{Config, Env, load};
use crate::arm::Arm;
use crate::pricing::budget::Period;
use crate::units::UnixMs;

/// Check a configuration: list every problem with its place in the file, or print the models and routes.
#[derive(Args, Clone, Debug)]
pub struct CheckArgs {
    /// The configuration file; without one, what the environment stands for
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Do not ask for the keys that the file names, as in a build without secrets
    #[arg(long)]
    pub without_keys: bool,
}

/// Prints what the configuration means at `now`, or its problems. Returns the exit status: 0, or 2 when
/// something is wrong.
///
/// # Errors
/// When `out` cannot be written.
pub fn run(args: &CheckArgs, env: Env<'_>, now: UnixMs, out: &mut dyn Write) -> io::Result<u8> {
    let with_keys = |name: &str| env(name).or_else(|| stands_in(name).then(|| "not needed".to_owned()));
    let env: Env<'_> = if args.without_keys { &with_keys } else { env };
    match load(args.config.as_deref(), env) {
        Ok(config) => {
            describe(&config, now, out)?;
            Ok(0)
        }
        Err(problems) => {
            let count = problems.0.len();
            writeln!(out, "{count} problem{}:", if count == 1 { "" } else { "s" })?;
            for problem in &problems.0 {
                writeln!(out, "  {problem}")?;
            }
            Ok(2)
        }
    }
}

/// Whether a variable may be made up under `--without-keys`: any but those that change what is built.
fn stands_in(name: &str) -> bool {
    name != "PORT" && !name.ends_with("_BASE_URL")
}

fn describe(config: &Config, now: UnixMs, out: &mut dyn Write) -> io::Result<()> {
    writeln!(
        out,
        "listens on {}, data in {}",
        config.server.listen,
        config.server.data_dir.display()
    )?;
    writeln!(out, "\nproviders")?;
    for provider in &config.providers {
        let key = if !provider.api_keys.is_empty() {
            "with a key"
        } else {
            "without a key"
        };
        writeln!(
            out,
            "  {:<14} {:<10} {} {key}",
            provider.name,
            provider.kind.as_str(),
            provider.base_url
        )?;
    }
    let models = || config.models.iter().chain(&config.embedding_models);
    let widest = |text: fn(&Arm) -> String, least: usize| {
        let lengths = models().map(|model| text(&model.arm).chars().count());
        lengths.fold(least, usize::max)
    };
    let (ids, kinds) = (widest(|arm| arm.id.to_string(), 6), widest(accepts, 7));
    writeln!(
        out,
        "\n{:<ids$}   {:>8} {:>8}  {:<kinds$}  USD per million in / cached / out",
        "models", "window", "output", "accepts"
    )?;
    for model in models() {
        let arm = &model.arm;
        let embeds = config.model(&arm.id).is_none();
        let price = match config.prices.at(&arm.id, now) {
            None => "unknown price".to_owned(),
            Some(tariff) => {
                let (input, cached, output) = tariff.dollars_per_token(0);
                let origin = match model.price_source {
                    PriceSource::Catalogue => " (catalogue)",
                    PriceSource::Configured | PriceSource::Unknown => "",
                };
                format!(
                    "{} / {} / {}{origin}",
                    per_mtok(input),
                    per_mtok(cached),
                    per_mtok(output)
                )
            }
        };
        writeln!(
            out,
            "  {:<ids$} {:>8} {:>8}  {:<kinds$}  {price}{}",
            arm.id.as_str(),
            arm.context_window,
            arm.max_output_tokens,
            accepts(arm),
            if embeds { ", makes embeddings" } else { "" }
        )?;
    }
    writeln!(out, "\nroutes")?;
    for route in &config.routes {
        describe_route(route, out)?;
    }
    for budget in &config.budgets {
        writeln!(
            out,
            "\nbudget \"{}\": ${} each {}",
            budget.name,
            budget.limit,
            period(budget.period)
        )?;
    }
    for experiment in &config.experiments {
        let arms: Vec<String> = experiment
            .arms
            .iter()
            .map(|(name, id)| format!("{name} = {id}"))
            .collect();
        writeln!(
            out,
            "\nexperiment \"{}\" on {}: {}",
            experiment.name,
            experiment.route,
            arms.join(", ")
        )?;
    }
    for warning in &config.warnings {
        writeln!(out, "\nnote: {warning}")?;
    }
    Ok(())
}

const fn period(period: Period) -> &'static str {
    match period {
        Period::Hour => "hour",
        Period::Day => "day",
        Period::Month => "month",
    }
}

fn per_mtok(dollars_per_token: f64) -> String {
    let text = format!("{:.4}", dollars_per_token * 1e6);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn accepts(arm: &Arm) -> String {
    let mut words: Vec<String> = arm
        .modalities
        .iter()
        .map(|modality| modality.to_string())
        .collect();
    if arm.tools {
        words.push("tools".into());
    }
    if arm.structured_output {
        words.push("json".into());
    }
    words.join(" ")
}

fn describe_route(route: &Route, out: &mut dyn Write) -> io::Result<()> {
    let aim = match route.objective {
        Objective::CheapestCapable {
            quality: QualityRule::Margin(margin),
            ..
        } => format!("the cheapest within {margin} of the best quality"),
        Objective::CheapestCapable {
            quality: QualityRule::Floor(floor),
            confidence,
        } => format!("the cheapest with a quality of {floor} at a probability of {confidence}"),
        Objective::MaxQuality => "the best".to_owned(),
        Objective::Weighted { lambda, .. } => format!("quality less {lambda} x dollars"),
    };
    let models: Vec<&str> = route.models.iter().map(|id| id.as_str()).collect();
    writeln!(out, "  {}: {aim} of {}", route.name, models.join(", "))?;
    for rule in &route.rules {
        let models: Vec<&str> = rule.models.iter().map(|id| id.as_str()).collect();
        writeln!(
            out,
            "    rule: {} -> {}",
            conditions(&rule.when),
            models.join(", ")
        )?;
    }
    if let Some(fallbacks) = &route.fallbacks {
        let models: Vec<&str> = fallbacks.iter().map(|id| id.as_str()).collect();
        writeln!(out, "    falls back to {}", models.join(", then "))?;
    }
    if let Some(limit) = route.max_cost {
        writeln!(out, "    at most ${limit} a request")?;
    }
    Ok(())
}

fn conditions(when: &crate::candidates::When) -> String {
    let mut words = Vec::new();
    let mut add = |name: &str, value: Option<String>| {
        words.extend(value.map(|value| format!("{name} = {value}")));
    };
    add("modality", when.modality.map(|modality| modality.to_string()));
    add("category", when.category.clone());
    add("language", when.language.clone());
    add("min_input_tokens", when.min_input_tokens.map(|n| n.to_string()));
    add("max_input_tokens", when.max_input_tokens.map(|n| n.to_string()));
    add("tools", when.tools.map(|b| b.to_string()));
    add("structured_output", when.structured_output.map(|b| b.to_string()));
    add("code", when.code.map(|b| b.to_string()));
    for (name, value) in &when.header {
        add("header", Some(format!("{name}: {value}")));
    }
    for (name, value) in &when.tag {
        add("tag", Some(format!("{name}: {value}")));
    }
    if words.is_empty() {
        "always".to_owned()
    } else {
        words.join(" and ")
    }
}
