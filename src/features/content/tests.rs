use std::io::Write as _;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use proptest::prelude::*;

use super::*;
use crate::features::test_request;
use crate::request::parse;

fn message(role: Role, parts: Vec<Part>) -> Message {
    let mut message = Message::text(role, "");
    message.parts = parts;
    message
}

fn look_at_part(part: Part) -> ContentFacts {
    look(&test_request(vec![message(Role::User, vec![part])]))
}

fn data_url(kind: &str, bytes: &[u8]) -> String {
    format!("data:{kind};base64,{}", BASE64_STANDARD.encode(bytes))
}

fn image(url: String) -> Part {
    Part::Image { url, detail: None }
}

fn pdf_file(bytes: &[u8]) -> Part {
    Part::File {
        data: Some(data_url("application/pdf", bytes)),
        file_id: None,
        filename: None,
    }
}

/// The first bytes of a PNG of this size.
fn png(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR".to_vec();
    bytes.extend(width.to_be_bytes());
    bytes.extend(height.to_be_bytes());
    bytes.extend([8, 6, 0, 0, 0, 0, 0, 0, 0]);
    bytes
}

/// A JPEG of this size whose frame header lies behind `metadata` bytes.
fn jpeg(width: u16, height: u16, metadata: usize) -> Vec<u8> {
    let mut bytes = vec![0xff, 0xd8];
    let mut left = metadata;
    while left > 0 {
        let part = left.min(60_000);
        bytes.extend([0xff, 0xe1]);
        bytes.extend(((part + 2) as u16).to_be_bytes());
        bytes.extend(vec![0; part]);
        left -= part;
    }
    bytes.extend([0xff, 0xc0, 0, 17, 8]);
    bytes.extend(height.to_be_bytes());
    bytes.extend(width.to_be_bytes());
    bytes.extend([3, 1, 0x22, 0, 2, 0x11, 1, 3, 0x11, 1, 0xff, 0xd9]);
    bytes
}

#[test]
fn image_sizes_come_from_the_header() {
    let facts = look_at_part(image(data_url("image/png", &png(1_920, 1_080))));
    assert!(facts.modalities.contains(Modality::Image));
    assert_eq!(facts.images[0].size, Some((1_920, 1_080)));
    let facts = look_at_part(image(data_url("image/jpeg", &jpeg(640, 480, 200_000))));
    assert_eq!(facts.images[0].size, Some((640, 480)));
}

#[test]
fn links_are_noted_and_never_followed() {
    let facts = look_at_part(Part::Image {
        url: "https://example.org/a.png".into(),
        detail: Some("low".into()),
    });
    let expected = ImageFacts {
        size: None,
        detail: Detail::Low,
        link: true,
    };
    assert_eq!(facts.images, [expected]);
    assert!(facts.broken.is_empty());
}

/// Blocks that the adapter for Anthropic passes on as they are.
#[test]
fn pictures_and_documents_in_anthropics_form_are_looked_at() {
    let own = |kind: &str, source: serde_json::Value| {
        look_at_part(Part::Other(serde_json::json!({"type": kind, "source": source})))
    };
    let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\x02\0\0\0\x01\0\x08\x06\0\0\0".to_vec();
    png.resize(200, 0);
    let data = BASE64_STANDARD.encode(&png);
    let facts = own(
        "image",
        serde_json::json!({"type": "base64", "media_type": "image/png", "data": data}),
    );
    assert!(facts.modalities.contains(Modality::Image));
    assert_eq!(facts.images[0].size, Some((512, 256)));
    let link = |url: &str| serde_json::json!({"type": "url", "url": url});
    let facts = own("document", link("https://example.org/a.pdf"));
    assert!(facts.modalities.contains(Modality::Pdf) && facts.broken.is_empty());
    for kind in ["image", "document"] {
        assert_eq!(own(kind, link("http://127.0.0.1/a")).broken.len(), 1, "{kind}");
    }
    let facts = own(
        "document",
        serde_json::json!({"type": "text", "media_type": "text/plain", "data": "Some words."}),
    );
    assert_eq!((facts.modalities, facts.broken.len()), (Modalities::TEXT, 0));
    assert!(facts.text.bytes > 10);
}

/// A document with a table of objects, whose page tree says `pages`; `padding` bytes of content lie in the middle.
fn tabled_pdf(pages: u32, padding: usize) -> Vec<u8> {
    let mut pdf = b"%PDF-1.4\n".to_vec();
    let mut offsets = Vec::new();
    let objects = [
        "<< /Type /Catalog /Pages 2 0 R >>".to_owned(),
        format!("<< /Type /Pages /Kids [3 0 R] /Count {pages} >>"),
        "<< /Type /Pages /Parent 2 0 R /Count 7 /Resources << /Font << >> >> >>".to_owned(),
        format!(
            "<< /Length {padding} >>\nstream\n{}\nendstream",
            "x".repeat(padding)
        ),
    ];
    for (index, object) in objects.iter().enumerate() {
        offsets.push(pdf.len());
        pdf.extend(format!("{} 0 obj\n{object}\nendobj\n", index + 1).into_bytes());
    }
    let table = pdf.len();
    pdf.extend(format!("xref\n0 {}\n0000000000 65535 f \n", objects.len() + 1).into_bytes());
    for offset in offsets {
        pdf.extend(format!("{offset:010} 00000 n \n").into_bytes());
    }
    pdf.extend(format!("trailer\n<< /Size 5 /Root 1 0 R >>\nstartxref\n{table}\n%%EOF\n").into_bytes());
    pdf
}

/// What the document says of itself counts, wherever its page tree lies.
#[test]
fn a_table_of_objects_leads_to_the_page_tree() {
    for padding in [0, 100_000, 6_000_000] {
        let facts = look_at_part(pdf_file(&tabled_pdf(321, padding)));
        assert_eq!(
            (facts.pdfs[0].pages, facts.pdfs[0].text),
            (Some(321), Some(true)),
            "{padding}"
        );
    }
    // An addition at the end: another root, whose table names only what is new.
    let mut pdf = tabled_pdf(5, 50_000);
    let previous = memchr::memmem::rfind(&pdf, b"xref\n0 5").unwrap();
    let new = pdf.len();
    pdf.extend(b"2 0 obj\n<< /Type /Pages /Kids [3 0 R] /Count 9 >>\nendobj\n");
    let table = pdf.len();
    pdf.extend(format!("xref\n2 1\n{new:010} 00000 n \ntrailer\n<< /Root 1 0 R /Prev {previous} >>\nstartxref\n{table}\n%%EOF").into_bytes());
    assert_eq!(look_at_part(pdf_file(&pdf)).pdfs[0].pages, Some(9));
}

/// Many small parts cost what a long text costs, and count the same.
#[test]
fn a_thousand_parts_are_glanced_at() {
    let text = "How do I return the shoes that I bought last week? They are too small for me. ".repeat(13);
    let part = || Part::Text(text.clone());
    let many = look(&test_request(vec![message(
        Role::User,
        (0..1_000).map(|_| part()).collect(),
    )]));
    let whole = look(&test_request(vec![message(
        Role::User,
        vec![Part::Text(text.repeat(1_000))],
    )]));
    let ratio = many.text.tokens as f64 / whole.text.tokens as f64;
    assert!((ratio - 1.0).abs() < 0.05, "{ratio}");
    assert_eq!(many.text.bytes, whole.text.bytes);
}

#[test]
fn what_no_provider_could_take_is_named_with_its_place() {
    let broken = |part| {
        let facts = look_at_part(part);
        assert_eq!(facts.broken.len(), 1, "{facts:?}");
        assert_eq!(facts.broken[0].path, "messages[0].content[0]");
        facts.broken[0].reason
    };
    assert!(broken(image("data:image/png;base64,!!!!".into())).contains("not base64"));
    assert!(broken(image("data:image/png;base64,".into())).contains("not base64"));
    assert!(broken(image(data_url("image/png", b"not an image"))).contains("not an image"));
    assert!(broken(image(data_url("image/png", &png(0, 10)))).contains("without pixels"));
    assert!(broken(image("file:///etc/passwd".into())).contains("neither a data URL nor a link"));
    assert!(broken(pdf_file(b"hello")).contains("not a PDF"));
    let audio = Part::Audio {
        data: "ümlaut".into(),
        format: "wav".into(),
    };
    assert!(broken(audio).contains("not base64"));
}

fn plain_pdf(pages: usize, scanned: bool) -> Vec<u8> {
    let mut pdf =
        format!("%PDF-1.4\n1 0 obj\n<< /Type /Pages /Kids [] /Count {pages} >>\nendobj\n").into_bytes();
    for _ in 0..pages {
        let resources = if scanned {
            "/XObject << /Im0 3 0 R >> /Subtype /Image"
        } else {
            "/Font << /F1 4 0 R >>"
        };
        write!(
            pdf,
            "2 0 obj\n<< /Type /Page /Parent 1 0 R /Resources << {resources} >> >>\nendobj\n"
        )
        .unwrap();
    }
    pdf
}

/// A document whose objects lie in one compressed stream.
fn packed_pdf(objects: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(objects).unwrap();
    let mut pdf =
        b"%PDF-1.5\n1 0 obj\n<< /Type /ObjStm /N 1 /First 4 /Filter /FlateDecode >>\nstream\n".to_vec();
    pdf.extend(encoder.finish().unwrap());
    pdf.extend(b"\nendstream\nendobj\n");
    pdf
}

#[test]
fn pages_are_counted_in_the_open_and_in_compressed_streams() {
    let facts = look_at_part(pdf_file(&plain_pdf(12, false)));
    assert_eq!((facts.pdfs[0].pages, facts.pdfs[0].text), (Some(12), Some(true)));
    let facts = look_at_part(pdf_file(&plain_pdf(3, true)));
    assert_eq!((facts.pdfs[0].pages, facts.pdfs[0].text), (Some(3), Some(false)));
    let packed = packed_pdf(b"<</Type/Pages/Count 40/Kids[]>> <</Font<<>>>>");
    let facts = look_at_part(pdf_file(&packed));
    assert_eq!((facts.pdfs[0].pages, facts.pdfs[0].text), (Some(40), Some(true)));
    let linearized = b"%PDF-1.4\n1 0 obj\n<</Linearized 1/L 9000/O 3/E 10/N 7/T 11>>\nendobj\n";
    assert_eq!(look_at_part(pdf_file(linearized)).pdfs[0].pages, Some(7));
}

/// 200 MB of zeros in 200 kB: looked at no further than the bound, and pages are not made up.
#[test]
fn a_pdf_bomb_is_harmless() {
    let bomb = packed_pdf(&vec![b' '; 200 << 20]);
    let facts = look_at_part(pdf_file(&bomb));
    assert_eq!(facts.pdfs[0].pages, None);
    let liar = b"%PDF-1.4\n<< /Type /Pages /Count 4000000000 >>";
    assert_eq!(look_at_part(pdf_file(liar)).pdfs[0].pages, None);
}

fn wav(seconds: u32) -> Vec<u8> {
    let rate = 16_000u32;
    let mut bytes = b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0".to_vec();
    bytes.extend(rate.to_le_bytes());
    bytes.extend((rate * 2).to_le_bytes());
    bytes.extend([2, 0, 16, 0]);
    bytes.extend(b"data");
    bytes.extend((rate * 2 * seconds).to_le_bytes());
    bytes.extend(vec![0; (rate * 2 * seconds) as usize]);
    bytes
}

fn duration(bytes: &[u8]) -> Option<u64> {
    let facts = look_at_part(Part::Audio {
        data: BASE64_STANDARD.encode(bytes),
        format: "any".into(),
    });
    facts.audio[0].duration_ms
}

#[test]
fn durations_come_from_the_header() {
    assert_eq!(duration(&wav(3)), Some(3_000));
    // FLAC: 44.1 kHz in 20 bits, then 88 200 samples in 36.
    let mut flac = b"fLaC\0\0\0\x22".to_vec();
    flac.extend([0; 10]);
    flac.extend(((44_100u64 << 44) | 88_200).to_be_bytes());
    assert_eq!(duration(&flac), Some(2_000));
    // MP3: MPEG-1 layer III at 128 kbit/s; 16 000 bytes are one second.
    let mut mp3 = vec![0xff, 0xfb, 0x90, 0x00];
    mp3.resize(16_000, 0);
    assert_eq!(duration(&mp3), Some(1_000));
    // MP4: a file type box, media first, then the header with 90 000 units at 30 000 a second.
    let mut mp4 = b"\0\0\0\x10ftypisom\0\0\0\0\0\0\x10\0mdat".to_vec();
    mp4.extend(vec![0; 0x1000 - 8]);
    mp4.extend(b"\0\0\0\x74moov\0\0\0\x6cmvhd\0\0\0\0\0\0\0\0\0\0\0\0");
    mp4.extend(30_000u32.to_be_bytes());
    mp4.extend(90_000u32.to_be_bytes());
    mp4.extend([0; 80]);
    assert_eq!(duration(&mp4), Some(3_000));
    assert_eq!(duration(b"no sound at all"), None);
}

#[test]
fn tools_schemas_turns_and_code_are_seen() {
    let parsed = |body: serde_json::Value| look(&parse(body.to_string().into()).unwrap());
    let question = serde_json::json!([
        {"role": "system", "content": "Answer briefly."},
        {"role": "user", "content": "Why does this fail?\n```rust\nlet x: u8 = 256;\n```"},
        {"role": "assistant", "content": "It does not fit."},
    ]);
    let plain = parsed(serde_json::json!({"model": "auto", "messages": question}));
    assert!(plain.code);
    assert_eq!(plain.turns, 2);
    assert_eq!(plain.language, None, "too few common words");
    let parameters = serde_json::json!({"type": "object", "properties": {"edition": {"type": "integer"}}});
    let function =
        serde_json::json!({"name": "compile", "description": "Compiles a crate", "parameters": parameters});
    let rich = parsed(serde_json::json!({
        "model": "auto",
        "messages": question,
        "tools": [{"type": "function", "function": function}],
        "response_format": {"type": "json_object"},
    }));
    assert_eq!(rich.tools, 1);
    assert!(rich.structured_output);
    assert!(rich.text.tokens > plain.text.tokens + 20);
}

proptest! {
    #[test]
    fn no_bytes_panic_the_look(bytes in proptest::collection::vec(any::<u8>(), 0..600), magic in 0usize..8) {
        let magics: [&[u8]; 8] = [
            b"%PDF-1.5 /ObjStm stream\n", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF", b"fLaC", b"OggS\x01vorbis",
            b"\x1a\x45\xdf\xa3", b"\0\0\0\x08ftyp",
        ];
        let body = [magics[magic], &bytes].concat();
        look_at_part(pdf_file(&body));
        look_at_part(image(data_url("image/png", &body)));
        duration(&body);
    }
}
