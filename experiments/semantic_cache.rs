//! How often would a semantic cache give a wrong answer, and how often a right one?
//!
//! `cargo run --release --example semantic_cache -- $DATA/uiuc_llmrouter.jsonl.gz ...` prints a table: for each
//! threshold the share of prompts that another prompt of the set, the same prompt with another number, or its negation
//! would be taken for, and the share of paraphrases that would be found; each without and with the telling words.

#![allow(clippy::print_stdout, reason = "a program that prints a table")]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::Path;

use anyhow::Context as _;
use pointsman::cache::{question, telling};
use pointsman::embedding::LocalEmbedder;
use pointsman::features::Embedder;
use pointsman::request;

/// Prompts of each source that are compared with each other.
const MOST: usize = 1_500;
const THRESHOLDS: [f32; 6] = [0.80, 0.85, 0.90, 0.93, 0.95, 0.97];

struct Prompt {
    text: String,
    vector: Vec<f32>,
    telling: u64,
}

fn main() -> anyhow::Result<()> {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/all-minilm-l6-v2-exit3-q8");
    let mut embedder = LocalEmbedder::open(&models)?;
    let mut sums = [[0u32; 8]; THRESHOLDS.len()];
    let mut counts = [0u32; 4];
    for file in std::env::args().skip(1) {
        let texts = read(&file)?;
        let mut prompts = Vec::with_capacity(texts.len());
        for text in texts {
            prompts.push(look(&mut embedder, text)?);
        }
        let rows = measure(&mut embedder, &prompts)?;
        println!("{file}: {} prompts", prompts.len());
        counts.iter_mut().zip(rows.1).for_each(|(sum, n)| *sum += n);
        for (sum, row) in sums.iter_mut().zip(rows.0) {
            sum.iter_mut().zip(row).for_each(|(sum, n)| *sum += n);
        }
    }
    println!(
        "\n| threshold | another prompt | with telling words | number changed | with | negated | with | paraphrase found | with |"
    );
    println!("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    for (threshold, row) in THRESHOLDS.iter().zip(sums) {
        print!("| {threshold:.2} |");
        for (index, hits) in row.iter().enumerate() {
            let of = counts[index / 2].max(1);
            print!(" {:.2} % |", 100.0 * f64::from(*hits) / f64::from(of));
        }
        println!();
    }
    println!(
        "\nprompts {}, numbers changed {}, negated {}, paraphrases {}",
        counts[0], counts[1], counts[2], counts[3]
    );
    Ok(())
}

/// The different prompts of a data set that a semantic cache would look at.
fn read(file: &str) -> anyhow::Result<Vec<String>> {
    let opened = std::fs::File::open(file).with_context(|| file.to_owned())?;
    let mut texts = BTreeSet::new();
    for line in BufReader::new(flate2::read::GzDecoder::new(opened)).lines() {
        let row: serde_json::Value = serde_json::from_str(&line?)?;
        let text = row["prompt"].as_str().unwrap_or_default().trim().to_owned();
        let body = serde_json::json!({"model": "a", "messages": [{"role": "user", "content": text}]});
        let parsed = request::parse(body.to_string().into())?;
        if question(&parsed).is_some() {
            texts.insert(text);
        }
    }
    // Sorted texts share beginnings; every n-th is taken so that all of the file is seen.
    let step = texts.len().div_ceil(MOST).max(1);
    Ok(texts.into_iter().step_by(step).collect())
}

fn look(embedder: &mut LocalEmbedder, text: String) -> anyhow::Result<Prompt> {
    Ok(Prompt {
        vector: embedder.embed(&text)?,
        telling: telling(&text),
        text,
    })
}

/// For each threshold: wrong hits among other prompts, after a number was changed, after a negation; right hits on
/// paraphrases; each without and with the telling words.
fn measure(
    embedder: &mut LocalEmbedder,
    prompts: &[Prompt],
) -> anyhow::Result<([[u32; 8]; THRESHOLDS.len()], [u32; 4])> {
    let mut hits = [[0u32; 8]; THRESHOLDS.len()];
    let mut counts = [prompts.len() as u32, 0, 0, 0];
    for (index, prompt) in prompts.iter().enumerate() {
        let others = prompts.iter().enumerate().filter(|(other, _)| *other != index);
        let (mut plain, mut guarded) = (-1.0f32, -1.0f32);
        for (_, other) in others {
            let near = cosine(&prompt.vector, &other.vector);
            plain = plain.max(near);
            if other.telling == prompt.telling {
                guarded = guarded.max(near);
            }
        }
        tally(&mut hits, 0, plain, guarded);
        let changed = [
            number_changed(&prompt.text),
            negated(&prompt.text),
            paraphrased(&prompt.text, index),
        ];
        for (kind, text) in changed.into_iter().enumerate() {
            let Some(text) = text else { continue };
            counts[kind + 1] += 1;
            let other = look(embedder, text)?;
            let near = cosine(&prompt.vector, &other.vector);
            let with = if other.telling == prompt.telling {
                near
            } else {
                -1.0
            };
            tally(&mut hits, 2 * (kind + 1), near, with);
        }
    }
    Ok((hits, counts))
}

fn tally(hits: &mut [[u32; 8]; THRESHOLDS.len()], column: usize, plain: f32, guarded: f32) {
    for (row, threshold) in hits.iter_mut().zip(THRESHOLDS) {
        row[column] += u32::from(plain >= threshold);
        row[column + 1] += u32::from(guarded >= threshold);
    }
}

/// The first number becomes another one.
fn number_changed(text: &str) -> Option<String> {
    let at = text.find(|c: char| c.is_ascii_digit())?;
    let digit = text[at..].chars().next()?;
    let other = if digit == '7' { '4' } else { '7' };
    Some(format!("{}{other}{}", &text[..at], &text[at + 1..]))
}

/// The first auxiliary verb is negated.
fn negated(text: &str) -> Option<String> {
    [" is ", " are ", " was ", " can ", " does ", " do ", " will "]
        .iter()
        .find(|verb| text.contains(**verb))
        .map(|verb| text.replacen(verb, &format!("{verb}not "), 1))
}

/// The same in other words: politeness, small words, contractions, case.
fn paraphrased(text: &str, index: usize) -> Option<String> {
    let swaps = [
        ("What is", "What's"),
        ("what is", "what's"),
        ("How do I", "How can I"),
        ("how do I", "how can I"),
        ("Write a", "Please write a"),
        ("Explain", "Please explain"),
        ("Find", "Determine"),
        ("Calculate", "Compute"),
        ("How many", "What number of"),
        ("Which of the following", "Which one of these"),
        ("because", "since"),
        ("approximately", "about"),
        ("large", "big"),
        ("begin", "start"),
        ("someone", "a person"),
        ("kids", "children"),
        ("also", "too"),
        ("however", "though"),
        ("often", "frequently"),
        ("purchase", "buy"),
    ];
    let mut said = text.to_owned();
    for (from, to) in swaps {
        said = said.replacen(from, to, 1);
    }
    let said = match index % 3 {
        0 => format!("Could you help me with this? {said}"),
        1 => format!("{said} Thank you!"),
        _ => said,
    };
    (said != text).then_some(said)
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
