//! What looking at a request costs: a short question, a megabyte of text, a megabyte of PDF, an image.
#![expect(clippy::expect_used, reason = "a bench may fail")]

use std::hint::black_box;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use criterion::{Criterion, criterion_group, criterion_main};
use pointsman::features::content::look;
use pointsman::request::{self, ChatRequest};
use serde_json::{Value, json};

fn ask(content: Value) -> ChatRequest {
    let body = json!({"model": "auto", "messages": [{"role": "user", "content": content}]});
    request::parse(body.to_string().into()).expect("a sound request")
}

fn pdf(bytes: usize) -> Vec<u8> {
    let mut pdf = b"%PDF-1.4\n1 0 obj\n<< /Type /Pages /Count 40 >>\nendobj\n".to_vec();
    let page = b"2 0 obj\n<< /Type /Page /Resources << /Font << >> >> >>\nendobj\nstream of text and numbers 0 1 2 3\n";
    while pdf.len() < bytes {
        pdf.extend(page);
    }
    pdf
}

fn benches(c: &mut Criterion) {
    const MEGABYTE: usize = 1 << 20;
    let question = "How do I return the shoes that I bought last week? They are too small for me. ";
    let data = |kind: &str, bytes: &[u8]| format!("data:{kind};base64,{}", BASE64_STANDARD.encode(bytes));
    let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\x07\x80\0\0\x04\x38\x08\x06\0\0\0".to_vec();
    png.resize(MEGABYTE * 3 / 4, 0);
    let requests = [
        ("short question", ask(json!(question))),
        (
            "1 MB of text",
            ask(json!(question.repeat(MEGABYTE / question.len()))),
        ),
        (
            "1 MB of text in 1000 parts",
            ask(json!(vec![
                json!({"type": "text", "text": question.repeat(13)});
                1_000
            ])),
        ),
        (
            "1 MB of PDF",
            ask(json!([{"type": "file", "file": {
                "filename": "a.pdf",
                "file_data": data("application/pdf", &pdf(MEGABYTE * 3 / 4)),
            }}])),
        ),
        (
            "1 MB of image",
            ask(json!([{"type": "image_url", "image_url": {"url": data("image/png", &png)}}])),
        ),
    ];
    let mut group = c.benchmark_group("look");
    for (name, request) in &requests {
        group.bench_function(*name, |b| b.iter(|| look(black_box(request))));
    }
    group.finish();
}

criterion_group!(all, benches);
criterion_main!(all);
