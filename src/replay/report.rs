//! What a replay writes: `metrics.json`, a Markdown report and its curves, and the table on the screen.

use std::fmt::Write as _;
use std::io::Write as _;

use anyhow::{Context, Result, anyhow};
use serde_json::{Map, Value};

use super::ReplayArgs;
use super::contestants::Contestant;
use super::dataset::Dataset;
use super::dynamics::{self, Course};
use super::metrics::{SeedFigures, summary};
use super::plots;
use super::scenario::Resolved;

/// What was replayed.
#[derive(Clone, Copy)]
pub(super) struct Told<'a> {
    /// The prompts to decide.
    pub(super) dataset: &'a Dataset,
    /// Dollars allowed per request.
    pub(super) budget_usd: Option<f64>,
    /// What changed on the way.
    pub(super) changes: &'a [Resolved],
}

/// Writes everything into the output folder, and the tables to standard output.
pub(super) fn write(
    args: &ReplayArgs,
    told: &Told<'_>,
    measured: &[(Contestant, Vec<SeedFigures>)],
) -> Result<()> {
    let Told {
        dataset,
        budget_usd,
        changes,
    } = *told;
    let names: Vec<String> = dataset.models.iter().map(ToString::to_string).collect();
    let requests = dataset.prompts.len();
    let mut rows: Vec<(String, Map<String, Value>)> = measured
        .iter()
        .map(|(contestant, seeds)| {
            let courses: Vec<Course> = seeds.iter().map(|seed| seed.course.clone()).collect();
            let mut row = summary(requests, seeds, &names);
            let course = dynamics::summary(&courses, changes, budget_usd);
            row.insert("course".to_owned(), Value::Object(course));
            (contestant.key(dataset), row)
        })
        .collect();
    let (policy, mut metrics) = rows.remove(0);
    let table = table(&policy, &metrics, &rows, budget_usd) + &course(&policy, &metrics, &names, &rows);
    let curves: Vec<(&str, Vec<(f64, f64)>)> = std::iter::once((policy.as_str(), &metrics))
        .chain(rows.iter().map(|(name, row)| (name.as_str(), row)))
        .map(|(name, row)| (name, points(row)))
        .collect();
    let has_curves = curves.iter().any(|(_, points)| points.len() > 1);

    std::fs::create_dir_all(&args.out).with_context(|| format!("cannot create {}", args.out.display()))?;
    let text = report(args, &policy, &table, has_curves);
    let drawn = |result: plots::Drawn| result.map_err(|error| anyhow!("cannot draw the curves: {error}"));
    if has_curves {
        drawn(plots::cost_and_quality(&args.out.join("curve.svg"), &curves))?;
    }
    drawn(plots::regret(
        &args.out.join("regret.svg"),
        &regrets(dataset, measured),
    ))?;
    let baselines: Map<String, Value> = rows
        .into_iter()
        .map(|(name, row)| (name, Value::Object(row)))
        .collect();
    metrics.insert("baselines".to_owned(), Value::Object(baselines));
    let file = |name: &str, bytes: &[u8]| {
        let path = args.out.join(name);
        std::fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))
    };
    file("metrics.json", &serde_json::to_vec_pretty(&metrics)?)?;
    file("report.md", text.as_bytes())?;
    let mut screen = std::io::stdout().lock();
    writeln!(screen, "{table}\nwritten to {}", args.out.display()).context("cannot write to standard output")
}

/// The rows side by side, best quality first among the baselines.
fn table(
    policy: &str,
    metrics: &Map<String, Value>,
    rows: &[(String, Map<String, Value>)],
    budget: Option<f64>,
) -> String {
    let mut sorted: Vec<&(String, Map<String, Value>)> = rows.iter().collect();
    let quality = |row: &Map<String, Value>| row.get("mean_quality").and_then(Value::as_f64).unwrap_or(0.0);
    sorted.sort_by(|a, b| quality(&b.1).total_cmp(&quality(&a.1)));
    // Between two models alone.
    let has_gap = metrics.get("apgr").is_some_and(Value::is_number);
    let (gap, rule) = if has_gap { (" APGR |", " --- |") } else { ("", "") };
    let mut text = format!(
        "| policy | quality | $/request | budget use | regret | cost saved | AIQ |{gap} explored | p50 us |\n\
         | --- | --- | --- | --- | --- | --- | --- |{rule} --- | --- |\n",
    );
    let all =
        std::iter::once((policy, metrics)).chain(sorted.into_iter().map(|(name, row)| (name.as_str(), row)));
    for (name, row) in all {
        let number = |key: &str, digits: usize| {
            row.get(key)
                .and_then(Value::as_f64)
                .map_or("-".to_owned(), |value| format!("{value:.digits$}"))
        };
        let interval = match row
            .get("mean_quality_ci95")
            .and_then(Value::as_array)
            .map(Vec::as_slice)
        {
            Some([low, high]) => {
                format!(
                    " [{:.4}, {:.4}]",
                    low.as_f64().unwrap_or(0.0),
                    high.as_f64().unwrap_or(0.0)
                )
            }
            _ => String::new(),
        };
        let cost = row.get("mean_cost_usd").and_then(Value::as_f64).unwrap_or(0.0);
        let used = if budget.is_some() {
            number("budget_use", 3)
        } else {
            "-".to_owned()
        };
        let micros = row
            .get("decide_us")
            .and_then(|times| times.get("p50"))
            .and_then(Value::as_f64)
            .map_or("-".to_owned(), |value| format!("{value:.1}"));
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "| {name} | {}{interval} | {cost:.3e} | {used} | {} | {} | {} |{} {} | {micros} |",
            number("mean_quality", 4),
            number("regret", 1),
            number("cost_saved_at_best_quality", 3),
            number("aiq", 4),
            if has_gap {
                format!(" {} |", number("apgr", 4))
            } else {
                String::new()
            },
            number("explored_share", 4),
        );
    }
    text
}

/// Phases, windows and shifts of traffic: the policy's, and the phases of those that learn beside it.
fn course(
    policy: &str,
    metrics: &Map<String, Value>,
    names: &[String],
    rows: &[(String, Map<String, Value>)],
) -> String {
    let all = std::iter::once((policy, metrics)).chain(rows.iter().map(|(name, row)| (name.as_str(), row)));
    let mut text = String::new();
    let number = |value: &Value, digits: usize| {
        value
            .as_f64()
            .map_or("-".to_owned(), |value| format!("{value:.digits$}"))
    };
    for (name, row) in all {
        let course = &row["course"];
        let phases = course["phases"].as_array().map_or(&[][..], Vec::as_slice);
        if text.is_empty() && phases.is_empty() {
            return text;
        }
        if text.is_empty() {
            text.push_str("\n| policy |");
            for phase in phases {
                let _ = write!(text, " {} to {} |", phase["from"], phase["until"]);
            }
            text.push_str(
                " worst phase | worst 200: mean, max | alarms in 10,000 | spent exploring |\n| --- |",
            );
            text.push_str(&" --- |".repeat(phases.len() + 4));
            text.push('\n');
        }
        let _ = write!(text, "| {name} |");
        for phase in phases {
            let used = match number(&phase["budget_use"], 3) {
                used if used == "-" => String::new(),
                used => format!(" ({used})"),
            };
            let _ = write!(text, " {}{used} |", number(&phase["mean_quality"], 4));
        }
        let windows = &course["worst_200_budget_use"];
        let _ = writeln!(
            text,
            " {} | {}, {} | {} | {} |",
            number(&course["worst_phase_budget_use"], 3),
            number(&windows["mean"], 3),
            number(&windows["max"], 3),
            number(&course["alarms_per_10000"], 2),
            number(&course["explored_spend_share"], 4),
        );
    }
    if let Some(audit) = metrics["course"].get("audit") {
        let _ = writeln!(
            text,
            "\nAudit: quality {} against the reference, half width {}; the promised margin is worked with at {} of itself",
            number(&audit["difference"], 4),
            number(&audit["half_width"], 4),
            number(&audit["margin_scale"], 2),
        );
    }
    let changes = metrics["course"]["changes"]
        .as_array()
        .map_or(&[][..], Vec::as_slice);
    for change in changes {
        let model = change["model"]
            .as_u64()
            .and_then(|model| names.get(model as usize));
        let _ = writeln!(
            text,
            "\n{} from {} to {}: share {} before, {} during, {} after; moved after {} requests, back after {}, adopted after {}",
            model.map_or("-", String::as_str),
            change["from"],
            change["until"],
            number(&change["share_before"], 3),
            number(&change["share_during"], 3),
            number(&change["share_after"], 3),
            number(&change["moved_after"], 0),
            number(&change["back_after"], 0),
            number(&change["adopted_after"], 0),
        );
    }
    text
}

fn report(args: &ReplayArgs, policy: &str, table: &str, has_curves: bool) -> String {
    let goal = match (args.budget_usd, args.lambda, args.margin) {
        (Some(budget), _, _) => format!("best quality within ${budget} a request"),
        (_, Some(lambda), _) => format!("quality less {lambda} points a dollar"),
        (_, _, margin) => format!(
            "cheapest within {} of the best model's mean quality",
            margin.unwrap_or(0.02)
        ),
    };
    let file = args
        .dataset
        .file_name()
        .map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let split = args
        .split
        .as_deref()
        .map_or(String::new(), |split| format!(" (split {split})"));
    let seed = match (&args.seed_dataset, args.folds) {
        (_, Some(folds)) => format!("the other parts of {folds}-fold cross-validation"),
        (Some(path), _) => {
            let name = path
                .file_name()
                .map_or_else(String::new, |name| name.to_string_lossy().into_owned());
            let split = args
                .seed_split
                .as_deref()
                .map_or(String::new(), |split| format!(" (split {split})"));
            format!("{name}{split}, without the texts that are replayed")
        }
        (None, None) => "the shipped prior, if it knows the models".to_owned(),
    };
    let mut text = format!(
        "# Replay of `{policy}` on {file}{split}\n\n- Goal: {goal}\n- Seed: {seed}\n- Random orders: {}\n",
        args.seeds
    );
    if let Some(scenario) = &args.scenario {
        let _ = writeln!(text, "- Scenario: {}", scenario.display());
    }
    let _ = write!(
        text,
        "\nEach policy decides every prompt once and sees the chosen model's outcome only. Intervals are 95 % bootstrap over the orders.\n\n{table}"
    );
    text.push_str("\n![regret so far](regret.svg)\n");
    if has_curves {
        text.push_str("\n![cost and quality](curve.svg)\n");
    }
    text
}

/// Regret so far of the policy and of what stands beside it, without the single models but the best.
fn regrets(dataset: &Dataset, measured: &[(Contestant, Vec<SeedFigures>)]) -> Vec<(String, Vec<f64>)> {
    let last = |curve: &[f64]| curve.last().copied().unwrap_or(0.0);
    let mut curves: Vec<(String, Vec<f64>)> = Vec::new();
    let mut best_single: Option<(String, Vec<f64>)> = None;
    for (index, (contestant, seeds)) in measured.iter().enumerate() {
        let courses: Vec<&Course> = seeds.iter().map(|seed| &seed.course).collect();
        let curve = (contestant.key(dataset), dynamics::regret(&courses));
        if index == 0 || !matches!(contestant, Contestant::Single(_)) {
            curves.push(curve);
        } else if best_single
            .as_ref()
            .is_none_or(|best| last(&curve.1) < last(&best.1))
        {
            best_single = Some(curve);
        }
    }
    curves.extend(best_single);
    curves
}

fn points(row: &Map<String, Value>) -> Vec<(f64, f64)> {
    let list = row
        .get("points")
        .and_then(Value::as_array)
        .map_or(&[][..], Vec::as_slice);
    list.iter()
        .filter_map(|point| {
            Some((
                point.get("mean_cost_usd")?.as_f64()?,
                point.get("mean_quality")?.as_f64()?,
            ))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::replay::metrics::Step;

    #[test]
    fn of_the_single_models_the_best_one_is_drawn() {
        let line = r#"{"id": "1", "prompt": "x", "outcomes": {"a": {"score": 0, "cost_usd": 1}, "b": {"score": 0.5, "cost_usd": 1}, "c": {"score": 0.1, "cost_usd": 1}}}"#;
        let dataset = Dataset::parse(Path::new("x.jsonl"), line).unwrap();
        let run = |reward: f64| {
            let step = Step {
                model: 0,
                reward,
                cost_usd: 1.0,
                best: 0.5,
                explored: false,
            };
            let course = Course {
                steps: vec![step],
                ..Course::default()
            };
            vec![SeedFigures {
                course,
                ..SeedFigures::default()
            }]
        };
        let measured = [
            (Contestant::Single(0), run(0.0)),
            (Contestant::Random, run(0.2)),
            (Contestant::Single(2), run(0.1)),
            (Contestant::Single(1), run(0.5)),
        ];
        let curves = regrets(&dataset, &measured);
        let names: Vec<&str> = curves.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["single:a", "random", "single:b"]);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("regret.svg");
        plots::regret(&path, &curves).unwrap();
        let drawn = std::fs::read_to_string(path).unwrap();
        assert!(drawn.contains("single:b") && drawn.contains("regret so far"));
    }
}
