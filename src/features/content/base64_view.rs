//! Looking into base64 without decoding it whole: any four-character step stands for three bytes.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

/// Padding is often left out by clients.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// How many characters are looked at to tell base64 from something else.
const PROBE: usize = 64;

/// `data:<media type>;base64,<data>`.
#[derive(Clone, Copy, Debug)]
pub(super) struct DataUrl<'u> {
    pub(super) media_type: &'u str,
    data: &'u str,
}

impl<'u> DataUrl<'u> {
    /// `None` when it is not a data URL at all.
    pub(super) fn parse(url: &'u str) -> Option<Self> {
        let rest = url
            .get(..5)
            .filter(|scheme| scheme.eq_ignore_ascii_case("data:"))
            .map(|_| &url[5..])?;
        let (head, data) = rest.split_once(',').unwrap_or((rest, ""));
        let (media_type, encoding) = head.split_once(';').unwrap_or((head, ""));
        Some(Self {
            media_type,
            data: if encoding.ends_with("base64") { data } else { "" },
        })
    }

    /// Its bytes; `None` when they are not base64, or none are there.
    pub(super) fn bytes(&self) -> Option<Base64View<'u>> {
        Base64View::new(self.data)
    }
}

/// Bytes in base64, decoded piecewise. Line breaks are not looked past: what follows one reads as missing.
#[derive(Clone, Copy, Debug)]
pub(super) struct Base64View<'t> {
    text: &'t str,
}

impl<'t> Base64View<'t> {
    /// `None` when the text is empty or does not begin like base64.
    pub(super) fn new(text: &'t str) -> Option<Self> {
        let text = text.trim_ascii();
        let probe = &text.as_bytes()[..text.len().min(PROBE)];
        let plausible = |b: &u8| b.is_ascii_alphanumeric() || b"+/=\r\n".contains(b);
        (!text.is_empty() && probe.iter().all(plausible)).then_some(Self { text })
    }

    /// Bytes that it stands for.
    pub(super) fn len(&self) -> u64 {
        let padding = self.text.bytes().rev().take(2).filter(|b| *b == b'=').count();
        (self.text.len() as u64 * 3 / 4).saturating_sub(padding as u64)
    }

    /// At most `length` bytes from `offset` on; fewer, or none, where the text ends or is not base64.
    pub(super) fn read(&self, offset: u64, length: usize) -> Vec<u8> {
        let Ok(offset) = usize::try_from(offset) else {
            return Vec::new();
        };
        let skip = offset % 3;
        let from = (offset / 3).saturating_mul(4).min(self.text.len());
        let steps = (length + skip).div_ceil(3);
        let to = from.saturating_add(steps.saturating_mul(4)).min(self.text.len());
        let piece = &self.text.as_bytes()[from..to];
        // What is sound is decoded without looking at it twice.
        if let Ok(mut bytes) = LENIENT.decode(piece) {
            bytes.drain(..skip.min(bytes.len()));
            bytes.truncate(length);
            return bytes;
        }
        let clean = piece
            .iter()
            .position(|b| !(b.is_ascii_alphanumeric() || b"+/=".contains(b)))
            .unwrap_or(piece.len());
        let mut bytes = LENIENT.decode(&piece[..clean - clean % 4]).unwrap_or_default();
        if clean == piece.len() && clean % 4 != 0 {
            let tail = &piece[clean - clean % 4..];
            bytes.extend(LENIENT.decode(tail).unwrap_or_default());
        }
        bytes.drain(..skip.min(bytes.len()));
        bytes.truncate(length);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::prelude::BASE64_STANDARD;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_piece_reads_like_the_whole(
            bytes in proptest::collection::vec(any::<u8>(), 1..300),
            offset in 0usize..320,
            length in 0usize..64,
        ) {
            let text = BASE64_STANDARD.encode(&bytes);
            let view = Base64View::new(&text).unwrap();
            prop_assert_eq!(view.len(), bytes.len() as u64);
            let expected = bytes.get(offset..).unwrap_or_default();
            let expected = &expected[..expected.len().min(length)];
            prop_assert_eq!(view.read(offset as u64, length), expected);
        }

        #[test]
        fn no_text_panics(text in ".{0,200}", offset in any::<u64>(), length in 0usize..1000) {
            if let Some(view) = Base64View::new(&text) {
                prop_assert!(view.read(offset, length).len() <= length);
            }
            if let Some(url) = DataUrl::parse(&text) {
                let _ = url.bytes();
            }
        }
    }

    #[test]
    fn missing_padding_is_forgiven() {
        let view = Base64View::new("aGVsbG8").unwrap();
        assert_eq!(view.read(0, 10), b"hello");
    }

    #[test]
    fn data_urls_are_told_apart() {
        assert!(DataUrl::parse("https://example.org/a.png").is_none());
        let url = DataUrl::parse("data:image/png;base64,aGVsbG8=").unwrap();
        assert_eq!(url.media_type, "image/png");
        assert_eq!(url.bytes().unwrap().read(0, 5), b"hello");
        assert!(DataUrl::parse("data:text/plain,hello").unwrap().bytes().is_none());
    }
}
