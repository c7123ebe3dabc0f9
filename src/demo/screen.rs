//! What the demonstration shows on the terminal: a head that says what this is, and one compact line every few
//! seconds.

use std::fmt::Write;

use super::ledger::{Ledger, Rival, Tally};
use super::setup::{MARGIN, TRIAL_MARGIN};
use super::trials::News;

/// Width of a model's column.
const COLUMN: usize = 9;
/// Columns of running text.
const WIDTH: usize = 100;

/// The head: what is simulated, what to look at, what the columns mean.
pub(super) fn head(rival: &Rival, source: &str, base_url: &str, reports: &str) -> String {
    let mut text = format!(
        "\n  pointsman demonstration. The providers are SIMULATED: no key, no network, no money spent.\n\
         \x20 Prompts are ours; quality, length and price of the answers are figures recorded for real models\n\
         \x20 (source: {source}).\n\
         \x20 The router does not know them. It learns from the scores that a simulated rater posts.\n\n\
         \x20 dashboard  {base_url}/\n\
         \x20 report     {reports}/routing/report.html\n\
         \x20 ask it     curl {base_url}/v1/chat/completions -H 'content-type: application/json' \\\n\
         \x20            -d '{{\"model\":\"auto\",\"messages\":[{{\"role\":\"user\",\"content\":\"Hello\"}}]}}'\n\n\
         \x20 The first seconds ask {0} for everything, as one would without a router; then `auto`.\n\
         \x20 A little later a new model enters the route, and an experiment on it starts by itself.\n\
         \x20 Each line: the requests since the line before, beside the same prompts answered by {0} alone.\n\
         \x20 Quality is the mean score, 0 to 1: `auto` may lose {MARGIN} of it, a running experiment {TRIAL_MARGIN}.\n\n\
         \x20   time  asked  $/1000    alone  saved  quality  alone ",
        rival.name()
    );
    for model in rival.models() {
        let _ = write!(text, " {:>COLUMN$}", short(model));
    }
    text.push('\n');
    text
}

/// One line.
pub(super) fn line(seconds: u64, recent: &Tally, rival: &Rival) -> String {
    if recent.requests == 0 {
        return format!("  {seconds:>4} s      0\n");
    }
    let mut text = format!(
        "  {seconds:>4} s  {:>5}  {:>6.3}  {:>7.3}  {:>3.0} %  {:>7.3}  {:>5.3} ",
        recent.requests,
        recent.mean_cost_usd() * 1000.0,
        recent.mean_best_cost_usd() * 1000.0,
        recent.saved() * 100.0,
        recent.mean_quality(),
        recent.mean_best_quality(),
    );
    for model in rival.models() {
        let _ = write!(
            text,
            " {:>width$.0} %",
            recent.share(model) * 100.0,
            width = COLUMN - 2
        );
    }
    text.push('\n');
    text
}

/// The sum, when the load has slowed down or ended.
pub(super) fn sum(ledger: &Ledger, rival: &Rival, reports: &str) -> String {
    let total = &ledger.total;
    let mut text = format!(
        "\n  So far {} routed requests for ${:.4}; {} alone would have cost ${:.4}: {:.0} % saved,\n\
         \x20 at a quality of {:.3} against {:.3}. {} scores posted, {} requests failed.\n\
         \x20 The report is in {reports}/routing/report.html.\n\n",
        total.requests,
        total.cost_usd,
        rival.name(),
        total.best_cost_usd,
        total.saved() * 100.0,
        total.mean_quality(),
        total.mean_best_quality(),
        ledger.rated,
        ledger.failed,
    );
    if total.requests == 0 {
        text = format!(
            "\n  No routed request was answered; {} failed.\n\n",
            ledger.failed
        );
    }
    text
}

/// Said when the brisk part of the load is over.
pub(super) const SLOWER: &str =
    "  From here on one request a second, so that you can look around and ask yourself. Ctrl-C ends it.\n\n";

/// What became of an experiment.
pub(super) fn news(news: &News, base_url: &str, reports: &str) -> String {
    match news {
        News::Earlier { .. } => String::new(),
        News::Started { name, statement } => format!(
            "\n  An experiment has started by itself: {name}\n{}  live on {base_url}/\n\n",
            wrapped(&format!(
                "Hypothesis, written down before the first sample: {statement}."
            )),
        ),
        News::Ended {
            name,
            verdict,
            sentence,
        } => format!(
            "\n  Verdict on {name}: {}\n{}  report  {reports}/{name}/report.html\n\n",
            verdict.replace('_', " ").to_uppercase(),
            wrapped(sentence),
        ),
    }
}

/// Indented lines of at most [`WIDTH`] columns.
fn wrapped(text: &str) -> String {
    let mut lines = String::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.is_empty() && line.chars().count() + word.chars().count() >= WIDTH {
            let _ = writeln!(lines, "  {line}");
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    let _ = writeln!(lines, "  {line}");
    lines
}

/// The start of a model's name, as wide as its column.
fn short(model: &str) -> String {
    let name = model.strip_suffix("-2512").unwrap_or(model);
    let name = name
        .replace("gemini-2.5-", "gem-")
        .replace("llama-3.1-", "llama-");
    name.chars().take(COLUMN).collect()
}
