//! What the text view of a 1 KB prompt costs, of prose and of random letters (the worst case: no word is known, so
//! every one is many pieces), and naming its category; and what the transformer's view costs by the length of the prompt.
#![expect(clippy::expect_used, reason = "a bench may fail")]

use std::hint::black_box;
use std::path::Path;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use pointsman::embedding::LocalEmbedder;
use pointsman::features::classifier::Classifier;
use pointsman::features::content;
use pointsman::features::text::{PromptText, Surface, TextView, Workspace};
use pointsman::features::{Embedder, EmbeddingView};
use pointsman::request;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;

const PROMPT_BYTES: usize = 1024;
/// As many different prompts, so that no processor learns one by heart.
const PROMPTS: usize = 64;

/// More than any cache of the machine holds.
const ELSEWHERE_BYTES: usize = 64 << 20;

fn prose() -> Vec<String> {
    let text = include_str!("../models/training/categories.jsonl");
    let prompts: Vec<String> = text
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter_map(|row| Some(row.get("prompt")?.as_str()?.to_owned()))
        .collect();
    (0..PROMPTS)
        .map(|first| {
            let joined = prompts.iter().cycle().skip(first * 3).take(60);
            let mut text = joined.cloned().collect::<Vec<_>>().join(" ");
            text.truncate(text.floor_char_boundary(PROMPT_BYTES));
            text
        })
        .collect()
}

fn random_letters() -> Vec<String> {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    (0..PROMPTS)
        .map(|_| {
            let mut text = String::new();
            while text.len() < PROMPT_BYTES {
                for _ in 0..rng.gen_range(2..9) {
                    text.push(char::from(rng.gen_range(b'a'..=b'z')));
                }
                text.push(' ');
            }
            text
        })
        .collect()
}

/// The transformer's view: off the request's path, but on a processor that requests need too.
fn embedding(c: &mut Criterion) {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    let bytes = std::fs::read(models.join("embedding-view.bin")).expect("the shipped models");
    let view = EmbeddingView::read(&bytes).expect("a sound view");
    let mut embedder = LocalEmbedder::open(&models.join(view.model())).expect("the shipped model");
    let mut group = c.benchmark_group("transformer view");
    group.sample_size(20);
    for length in [64, 128, 256, 512, 1024, 8192] {
        let texts: Vec<String> = prose()
            .into_iter()
            .map(|text| {
                let mut text = text.repeat(length / PROMPT_BYTES + 2);
                text.truncate(text.floor_char_boundary(length));
                text
            })
            .collect();
        let mut turn = texts.iter().cycle();
        group.bench_function(format!("{length} bytes"), |b| {
            b.iter(|| {
                let prompt = PromptText::plain(turn.next().expect("a cycle"));
                let embedding = embedder.embed(prompt.words()).expect("an embedding");
                black_box(view.project(&embedding, &Surface::plain(&prompt)))
            });
        });
    }
    group.finish();
}

fn benches(c: &mut Criterion) {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    let read = |name: &str| std::fs::read(models.join(name)).expect("the shipped models");
    let view = TextView::read(&read("text-view.bin")).expect("a sound view");
    let classifier = Classifier::read(&read("classifier.bin")).expect("a sound classifier");
    for (name, texts) in [("prose", prose()), ("random letters", random_letters())] {
        let requests: Vec<_> = texts
            .iter()
            .map(|text| {
                let body = json!({"model": "auto", "messages": [{"role": "user", "content": text}]});
                request::parse(body.to_string().into()).expect("a sound request")
            })
            .collect();
        let mut group = c.benchmark_group(format!("1 KB of {name}"));
        let mut workspace = Workspace::lasting();
        let mut turn = requests.iter().cycle();
        group.bench_function("text view", |b| {
            b.iter(|| {
                let request = turn.next().expect("a cycle");
                let prompt = PromptText::of(request);
                let surface = Surface::of(request, &prompt);
                black_box(view.look(&prompt, &surface, &mut workspace))
            });
        });
        group.bench_function("text view and category", |b| {
            b.iter(|| {
                let request = turn.next().expect("a cycle");
                let prompt = PromptText::of(request);
                let surface = Surface::of(request, &prompt);
                let (features, words) = view.look(&prompt, &surface, &mut workspace);
                black_box((features, classifier.classify(&words)))
            });
        });
        // At a few requests a second no near cache holds anything of what is looked up.
        let mut elsewhere = vec![1_u64; ELSEWHERE_BYTES / size_of::<u64>()];
        group.bench_function("text view and category, nothing in a cache", |b| {
            b.iter_batched(
                || elsewhere.iter_mut().for_each(|word| *word += 1),
                |()| {
                    let request = turn.next().expect("a cycle");
                    let prompt = PromptText::of(request);
                    let surface = Surface::of(request, &prompt);
                    let (features, words) = view.look(&prompt, &surface, &mut workspace);
                    black_box((features, classifier.classify(&words)))
                },
                BatchSize::PerIteration,
            );
        });
        group.bench_function("content", |b| {
            b.iter(|| black_box(content::look(turn.next().expect("a cycle"))));
        });
        group.bench_function("parsing the request", |b| {
            let bodies: Vec<_> = requests.iter().map(|request| request.body.clone()).collect();
            let mut turn = bodies.iter().cycle();
            b.iter(|| black_box(request::parse(turn.next().expect("a cycle").clone())));
        });
        group.finish();
    }
}

criterion_group!(all, benches, embedding);
criterion_main!(all);
