//! PDF documents: pages, and whether there is text, without rendering and within a fixed amount of work.

use std::io::Read;

use flate2::read::ZlibDecoder;
use memchr::memmem;

use super::base64_view::Base64View;
use crate::content::PdfFacts;

/// At most this much of a document is looked at.
const READ: usize = 4 << 20;
/// At most this much is inflated of all its object streams together, and so many are opened: a bomb ends here.
const INFLATED: usize = 256 << 10;
const STREAMS: usize = 256;
/// Most nodes of the page tree whose count is looked for, and how far around their type it stands.
const NODES: usize = 512;
const REACH: usize = 4_096;
/// No document is believed to have more pages.
const MAX_PAGES: u32 = 100_000;

/// What is read at either end before anything else: the trailer stands at one of them.
const EDGE: usize = 32 << 10;
/// Earlier versions of a document that its table of objects is followed through.
const REVISIONS: usize = 8;
/// Most of one object that is read.
const OBJECT: usize = 4 << 10;

/// Counts the pages. A document that says them itself, by its table of objects or by being linearised, is read at its
/// ends alone. Otherwise its page objects are counted: those of a plain document stand in the open; since PDF 1.5 they
/// may lie in compressed object streams, which are opened as far as the bound allows.
pub(super) fn look(bytes: &Base64View<'_>) -> Result<PdfFacts, &'static str> {
    let mut head = bytes.read(0, EDGE);
    if memmem::find(&head[..head.len().min(1_024)], b"%PDF-").is_none() {
        return Err("is not a PDF; send a document that begins with %PDF-");
    }
    let tail = bytes.read(bytes.len().saturating_sub(EDGE as u64), EDGE);
    let has_font = |edge: &[u8]| memmem::find(edge, b"/Font").is_some();
    if (has_font(&head) || has_font(&tail))
        && let Some(pages) = linearized(&head[..head.len().min(1_024)]).or_else(|| told(bytes, &tail))
    {
        return Ok(PdfFacts {
            bytes: bytes.len(),
            pages: Some(pages).filter(|pages| *pages <= MAX_PAGES),
            text: Some(true),
        });
    }
    head.truncate(1_024);
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

/// The pages by the document's own account: trailer, catalogue, root of the page tree, each found by the table of
/// objects. `None` when the table is compressed, damaged or goes in circles.
fn told(bytes: &Base64View<'_>, tail: &[u8]) -> Option<u32> {
    let at = memmem::rfind(tail, b"startxref")?;
    let mut table = u64::from(number(&tail[at + 9..]));
    let mut tables = Vec::new();
    let mut root = None;
    for _ in 0..REVISIONS {
        let head = bytes.read(table, 32);
        if !head.starts_with(b"xref") {
            return None;
        }
        tables.push(table);
        let trailer = trailer(bytes, table)?;
        root = root.or_else(|| reference(&trailer, b"/Root"));
        let Some(previous) = memmem::find(&trailer, b"/Prev") else {
            break;
        };
        table = u64::from(number(&trailer[previous + 5..]));
        if tables.contains(&table) {
            return None;
        }
    }
    let catalogue = object(bytes, &tables, root?)?;
    let pages = object(bytes, &tables, reference(&catalogue, b"/Pages")?)?;
    let count = memmem::find(&pages, b"/Count")?;
    Some(number(&pages[count + 6..])).filter(|pages| *pages > 0)
}

/// A section of a table of objects: the first object's number, how many there are, and where their entries begin.
type Section = (u32, u32, u64);

/// The section of the table at `table` that is found at `at`, behind the word `xref` or another section.
fn section(bytes: &Base64View<'_>, at: u64) -> Option<Section> {
    let line = bytes.read(at, 40);
    let skipped = line.iter().take_while(|b| b.is_ascii_whitespace()).count();
    let text = &line[skipped..];
    let first_digits = text.iter().take_while(|b| b.is_ascii_digit()).count();
    let rest = text.get(first_digits..)?.strip_prefix(b" ")?;
    let count_digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
    let after = rest.get(count_digits..)?;
    let blank = after.iter().take_while(|b| b.is_ascii_whitespace()).count();
    (first_digits > 0 && count_digits > 0).then(|| {
        let entries = at + (skipped + first_digits + 1 + count_digits + blank) as u64;
        (number(text), number(rest), entries)
    })
}

/// Every section of a table, at most so many as are followed.
fn sections(bytes: &Base64View<'_>, table: u64) -> Vec<Section> {
    let mut sections = Vec::new();
    let mut at = table + 4;
    while let Some((first, count, entries)) = section(bytes, at) {
        sections.push((first, count, entries));
        at = entries.saturating_add(u64::from(count) * ENTRY);
        if sections.len() >= REVISIONS {
            break;
        }
    }
    sections
}

/// Bytes of an entry of the table, by the standard.
const ENTRY: u64 = 20;

/// The dictionary behind a table.
fn trailer(bytes: &Base64View<'_>, table: u64) -> Option<Vec<u8>> {
    let (_, count, entries) = sections(bytes, table).pop()?;
    let end = entries.saturating_add(u64::from(count) * ENTRY);
    let text = bytes.read(end, OBJECT);
    let at = memmem::find(&text, b"trailer")?;
    let end = memmem::find(&text, b"startxref").unwrap_or(text.len());
    text.get(at..end).map(<[u8]>::to_vec)
}

/// The object with this number, by the newest table that has it, up to its end.
fn object(bytes: &Base64View<'_>, tables: &[u64], wanted: u32) -> Option<Vec<u8>> {
    let offset = tables.iter().find_map(|&table| {
        let (first, _, entries) = sections(bytes, table)
            .into_iter()
            .find(|(first, count, _)| wanted >= *first && wanted - first < *count)?;
        let entry = bytes.read(entries + u64::from(wanted - first) * ENTRY, ENTRY as usize);
        (entry.get(17) == Some(&b'n')).then(|| decimal(&entry[..10]))
    })?;
    let text = bytes.read(offset, OBJECT);
    (number(&text) == wanted).then_some(())?;
    let end = memmem::find(&text, b"endobj").unwrap_or(text.len());
    Some(text[..end].to_vec())
}

/// Ten digits, as offsets are written.
fn decimal(digits: &[u8]) -> u64 {
    digits
        .iter()
        .take_while(|b| b.is_ascii_digit())
        .fold(0, |number, digit| number * 10 + u64::from(digit - b'0'))
}

/// The object's number that a key of a dictionary refers to: `/Root 12 0 R`.
fn reference(dictionary: &[u8], key: &[u8]) -> Option<u32> {
    let at = memmem::find(dictionary, key)? + key.len();
    let rest = dictionary.get(at..)?;
    rest.first().filter(|b| b.is_ascii_whitespace())?;
    Some(number(rest)).filter(|number| *number > 0)
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
        let mut nodes = 0;
        for at in memmem::find_iter(bytes, b"/Type") {
            let rest = bytes[at + 5..].trim_ascii_start();
            if !rest.starts_with(b"/Page") {
                continue;
            }
            match rest.get(5) {
                Some(b's') if nodes < NODES => {
                    nodes += 1;
                    marks.count = marks.count.max(count_near(bytes, at));
                }
                Some(b's') => {}
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
    for at in memmem::find_iter(body, b"/ObjStm").take(STREAMS) {
        // The dictionary is short.
        let near = &body[at..body.len().min(at + REACH)];
        let Some(start) = memmem::find(near, b"stream") else {
            continue;
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
