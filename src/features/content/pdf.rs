//! PDF documents: pages, and whether there is text, without rendering and within a fixed amount of work.

use std::io::Read;

use flate2::read::ZlibDecoder;
use memchr::memmem;

use super::base64_view::Base64View;
use crate::content::PdfFacts;

/// At most this much of a document is looked at.
const READ: usize = 4 << 20;
/// At most this much is inflated of all its object streams together: a bomb ends here.
const INFLATED: usize = 256 << 10;
/// No document is believed to have more pages.
const MAX_PAGES: u32 = 100_000;

/// Counts the pages. Those of a plain document stand in the open; since PDF 1.5 they may lie in compressed object
/// streams, which are opened as far as the bound allows.
pub(super) fn look(bytes: &Base64View<'_>) -> Result<PdfFacts, &'static str> {
    let head = bytes.read(0, 1_024);
    if memmem::find(&head, b"%PDF-").is_none() {
        return Err("is not a PDF; send a document that begins with %PDF-");
    }
    let body = bytes.read(0, READ);
    let encrypted = memmem::find(&body, b"/Encrypt").is_some();
    let mut seen = Marks::of(&body);
    if seen.pages() == 0 && !encrypted {
        seen.merge(&Marks::of(&object_streams(&body)));
    }
    let whole = bytes.len() <= READ as u64;
    let pages = linearized(&head)
        .or_else(|| (seen.pages() > 0 && (whole || seen.count > 0)).then(|| seen.pages()))
        .filter(|pages| (1..=MAX_PAGES).contains(pages));
    let text = match (seen.fonts, seen.images) {
        (true, _) => Some(true),
        (false, true) if whole && !encrypted => Some(false),
        _ => None,
    };
    Ok(PdfFacts {
        bytes: bytes.len(),
        pages,
        text,
    })
}

/// What is found in a stretch of objects.
#[derive(Default)]
struct Marks {
    /// Page objects.
    leaves: u32,
    /// The largest `/Count` of a page tree.
    count: u32,
    fonts: bool,
    images: bool,
}

impl Marks {
    fn of(bytes: &[u8]) -> Self {
        let mut marks = Self {
            fonts: memmem::find(bytes, b"/Font").is_some(),
            images: memmem::find(bytes, b"/Image").is_some(),
            ..Self::default()
        };
        for at in memmem::find_iter(bytes, b"/Type") {
            let rest = bytes[at + 5..].trim_ascii_start();
            if !rest.starts_with(b"/Page") {
                continue;
            }
            match rest.get(5) {
                Some(b's') => marks.count = marks.count.max(count_near(bytes, at)),
                Some(letter) if letter.is_ascii_alphanumeric() => {}
                _ => marks.leaves = marks.leaves.saturating_add(1),
            }
        }
        marks
    }

    fn pages(&self) -> u32 {
        self.count.max(self.leaves)
    }

    fn merge(&mut self, other: &Self) {
        self.leaves = self.leaves.saturating_add(other.leaves);
        self.count = self.count.max(other.count);
        self.fonts |= other.fonts;
        self.images |= other.images;
    }
}

/// The `/Count` of the dictionary around `at`.
fn count_near(bytes: &[u8], at: usize) -> u32 {
    const REACH: usize = 4_096;
    let start = memmem::rfind(&bytes[at.saturating_sub(REACH)..at], b"<<")
        .map_or(at, |open| at.saturating_sub(REACH) + open);
    let dictionary = &bytes[start..bytes.len().min(at + REACH)];
    let end = memmem::find(&dictionary[at - start..], b">>").map_or(dictionary.len(), |end| at - start + end);
    memmem::find(&dictionary[..end], b"/Count").map_or(0, |count| number(&dictionary[count + 6..]))
}

/// A linearised document says its pages (`/N`) in its first object.
fn linearized(head: &[u8]) -> Option<u32> {
    let at = memmem::find(head, b"/Linearized")?;
    let dictionary = &head[at..];
    let dictionary = &dictionary[..memmem::find(dictionary, b">>")?];
    let n = memmem::find_iter(dictionary, b"/N").find(|n| {
        dictionary
            .get(n + 2)
            .is_some_and(|b| b.is_ascii_whitespace() || b.is_ascii_digit())
    })?;
    Some(number(&dictionary[n + 2..])).filter(|pages| *pages > 0)
}

/// The whole number at the beginning; 0 when there is none.
fn number(text: &[u8]) -> u32 {
    text.trim_ascii_start()
        .iter()
        .take_while(|b| b.is_ascii_digit())
        .take(9)
        .fold(0, |number, digit| number * 10 + u32::from(digit - b'0'))
}

/// The contents of the compressed object streams, up to the bound.
fn object_streams(body: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    for at in memmem::find_iter(body, b"/ObjStm") {
        let Some(start) = memmem::find(&body[at..], b"stream") else {
            break;
        };
        let data = &body[at + start + 6..];
        let data = data.strip_prefix(b"\r").unwrap_or(data);
        let data = data.strip_prefix(b"\n").unwrap_or(data);
        let room = INFLATED - plain.len();
        // What a damaged stream still yields is kept.
        let _ = ZlibDecoder::new(data).take(room as u64).read_to_end(&mut plain);
        plain.push(b'\n');
        if plain.len() >= INFLATED {
            break;
        }
    }
    plain
}
