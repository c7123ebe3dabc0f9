//! The frame of an HTML report: one page without any outside asset, readable in light and dark, on paper and on a
//! phone.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::Provenance;
use super::format;
use crate::evaluation::health::Health;

/// Colours of the series as CSS custom properties `--c0` to `--c7`, for light and dark. Neighbours differ in
/// lightness too, so that they stay apart in grey and for colour-blind readers.
pub const SERIES: usize = 8;

/// What reports and dashboard look like in common.
pub const THEME: &str = include_str!("theme.css");
const STYLE: &str = include_str!("page.css");

/// How a key figure is coloured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// As it should be.
    Good,
    /// Needs attention.
    Bad,
    /// Neither, or not known.
    Plain,
}

impl Tone {
    fn class(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Bad => "bad",
            Self::Plain => "plain",
        }
    }
}

/// A key figure at the head of a report.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// What it is.
    pub label: String,
    /// The figure.
    pub value: String,
    /// How sure, out of how many, compared with what.
    pub note: String,
    /// Good, bad or neither.
    pub tone: Tone,
}

/// A whole page.
#[must_use]
pub fn page(title: &str, provenance: &Provenance, body: &Markup) -> String {
    let whole = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                link rel="icon" href="data:,";
                title { (title) " · pointsman" }
                style { (PreEscaped(THEME)) (PreEscaped(STYLE)) }
            }
            body {
                main {
                    (body)
                    footer {
                        p {
                            "pointsman " (provenance.version) " · made " (format::moment(provenance.generated))
                            " · configuration " code { (provenance.config_hash) }
                            @if let Some(seed) = provenance.seed { " · seed " code { (seed) } }
                            @if let Some(features) = provenance.features { " · prompts looked at by " (features) }
                        }
                        p { "The same figures for programs: " a href="report.json" { "report.json" } "; as text: " a href="report.md" { "report.md" } "." }
                    }
                }
            }
        }
    };
    whole.into_string()
}

/// The sentence that data is simulated. Shown wherever it is.
pub const SIMULATED: &str = "Simulated data: the answers, speeds and scores come from the built-in demo \
     providers, drawn at figures recorded for real models. No money was spent.";

/// A banner for simulated data.
#[must_use]
pub fn banner(provenance: &Provenance) -> Markup {
    html! { @if provenance.simulated { p.banner role="note" { (SIMULATED) } } }
}

/// Key figures side by side.
#[must_use]
pub fn figures(figures: &[Figure]) -> Markup {
    html! {
        div.figures {
            @for figure in figures {
                div.figure.(figure.tone.class()) {
                    div.label { (figure.label) }
                    div.value { (figure.value) }
                    div.note { (figure.note) }
                }
            }
        }
    }
}

/// A table of figures, and of words where a column holds them. `caption` says what it shows. On a phone each row stands
/// by itself, with the columns' names beside its cells.
#[must_use]
pub fn table(caption: &str, head: &[&str], rows: &[Vec<String>]) -> Markup {
    let class = |column: usize| {
        let words = column == 0
            || rows
                .iter()
                .filter_map(|row| row.get(column))
                .any(|cell| !is_figure(cell));
        words.then_some("text")
    };
    html! {
        div.scroll tabindex="0" role="region" aria-label=(caption) {
            table.stack {
                caption { span { (caption) } }
                thead { tr { @for (index, name) in head.iter().enumerate() { th class=[class(index)] scope="col" { (name) } } } }
                tbody {
                    @for row in rows {
                        tr {
                            @for (index, cell) in row.iter().enumerate() {
                                @if index == 0 { th scope="row" { (cell) } } @else { td class=[class(index)] data-head=[head.get(index)] { (with_interval(cell)) } }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Whether a cell holds a figure, or the dash of one that is not known.
fn is_figure(cell: &str) -> bool {
    let bare = cell.trim_start_matches(['+', '-', '$', '≥', ' ']);
    cell == "–" || bare.starts_with(|c: char| c.is_ascii_digit())
}

/// `estimate [low, high]` with the interval in a line of its own, so that estimates stand below each other.
fn with_interval(cell: &str) -> Markup {
    let parts = cell.strip_suffix(']').and_then(|cell| cell.split_once(" ["));
    html! {
        @match parts {
            Some((estimate, interval)) => { (estimate) span.interval { (interval.replace(", ", " to ")) } }
            None => (cell)
        }
    }
}

/// Health checks as a list: found, what, detail.
#[must_use]
pub fn check_list(lines: &[(&str, Health, String)]) -> Markup {
    html! {
        div.scroll tabindex="0" role="region" aria-label="Health checks" {
            table.checks {
                tbody {
                    @for (name, health, detail) in lines {
                        tr {
                            td class={ "check " (check_tone(*health).class()) } { (check_word(*health)) }
                            td { (name) }
                            td.note { (detail) }
                        }
                    }
                }
            }
        }
    }
}

fn check_tone(health: Health) -> Tone {
    match health {
        Health::Passed => Tone::Good,
        Health::Failed => Tone::Bad,
        Health::TooFew => Tone::Plain,
    }
}

/// What a check found, with a mark that does not need colour.
#[must_use]
pub fn check_word(health: Health) -> &'static str {
    match health {
        Health::Passed => "✓ passed",
        Health::Failed => "✗ failed",
        Health::TooFew => "… too few",
    }
}

/// A plot with its heading and legend.
#[must_use]
pub fn plot(title: &str, note: &str, svg: &str, legend: &[(String, usize)]) -> Markup {
    html! {
        figure {
            figcaption {
                strong { (title) }
                @if !note.is_empty() { span.note { (note) } }
            }
            (PreEscaped(svg))
            @if !legend.is_empty() {
                ul.legend {
                    @for (name, colour) in legend {
                        li { span.swatch style={ "background:var(--c" (colour) ")" } {} (name) }
                    }
                }
            }
        }
    }
}

/// Facts by name, as words rather than figures.
#[must_use]
pub fn facts(caption: &str, rows: &[Vec<String>]) -> Markup {
    html! {
        div.scroll tabindex="0" role="region" aria-label=(caption) {
            table.checks {
                caption { span { (caption) } }
                tbody {
                    @for row in rows {
                        tr { @for (index, cell) in row.iter().enumerate() {
                            @if index == 0 { th scope="row" { (cell) } } @else { td { (cell) } }
                        } }
                    }
                }
            }
        }
    }
}

/// The same table in Markdown, pipes escaped.
#[must_use]
pub fn markdown_table(head: &[&str], rows: &[Vec<String>]) -> String {
    let line = |cells: &mut dyn Iterator<Item = String>| {
        let joined = cells
            .map(|cell| cell.replace('|', "\\|").replace('\n', " "))
            .collect::<Vec<_>>();
        format!("| {} |\n", joined.join(" | "))
    };
    let mut out = line(&mut head.iter().map(|name| (*name).to_owned()));
    out += &line(&mut (0..head.len()).map(|i| if i == 0 { "---" } else { "---:" }.to_owned()));
    for row in rows {
        out += &line(&mut row.iter().cloned());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_break_the_page() {
        let rows = vec![vec!["<script>alert(1)</script>".to_owned(), "a|b".to_owned()]];
        let shown = table("x", &["model", "n"], &rows).into_string();
        assert!(!shown.contains("<script>"));
        assert!(markdown_table(&["model", "n"], &rows).contains("a\\|b"));
    }

    #[test]
    fn figures_stand_at_the_right_and_words_at_the_left() {
        let row = ["a", "0.9 [0.8, 1.0]", "p/model", "–", "-$0.5"].map(str::to_owned);
        let head = ["arm", "score", "model", "p99", "cost"];
        let shown = table("x", &head, &[row.to_vec()]).into_string();
        for part in [
            "<td data-head=\"score\">0.9<span class=\"interval\">0.8 to 1.0</span></td>",
            "<td class=\"text\" data-head=\"model\">p/model</td>",
            "<td data-head=\"p99\">–</td>",
            "<td data-head=\"cost\">-$0.5</td>",
        ] {
            assert!(shown.contains(part), "{part} in {shown}");
        }
    }

    #[test]
    fn a_page_asks_for_nothing_from_outside() {
        let whole = page("t", &Provenance::default(), &html! {});
        for outside in ["http:", "https:", "src=", "@import"] {
            assert!(!whole.contains(outside), "{outside}");
        }
    }
}
