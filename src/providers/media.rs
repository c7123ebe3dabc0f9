//! Images, documents and sound as clients send them: `data:` URLs, bare base64 or links.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Where content is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source<'a> {
    /// In the request, as base64.
    Inline {
        /// MIME type, without parameters.
        mime: &'a str,
        /// Base64.
        base64: &'a str,
    },
    /// Somewhere else.
    Link(&'a str),
}

impl<'a> Source<'a> {
    /// Reads a `data:` URL, a link, or bare base64 of type `otherwise`. `None` for a `data:` URL that is no base64.
    pub(super) fn read(text: &'a str, otherwise: &'a str) -> Option<Self> {
        let text = text.trim();
        if let Some(rest) = text.strip_prefix("data:") {
            let (head, base64) = rest.split_once(',')?;
            let head = head.strip_suffix(";base64")?;
            let mime = head.split(';').next().unwrap_or_default();
            return Some(Self::Inline {
                mime: if mime.is_empty() { otherwise } else { mime },
                base64,
            });
        }
        if text.contains("://") {
            return Some(Self::Link(text));
        }
        Some(Self::Inline {
            mime: otherwise,
            base64: text,
        })
    }
}

/// The MIME type of audio by OpenAI's word for its format.
pub(super) fn audio_mime(format: &str) -> String {
    match format {
        "mp3" => "audio/mpeg".to_owned(),
        "m4a" => "audio/mp4".to_owned(),
        other => format!("audio/{other}"),
    }
}

/// The text of an inline text file.
pub(super) fn decode_text(base64: &str) -> Option<String> {
    String::from_utf8(STANDARD.decode(base64).ok()?).ok()
}

/// The MIME type that a link's or a file's name suggests.
pub(super) fn mime_of_name(name: &str) -> Option<&'static str> {
    let path = name.split(['?', '#']).next().unwrap_or_default();
    let (_, extension) = path.rsplit_once('.')?;
    Some(match extension.to_ascii_lowercase().as_str() {
        "jpg" | "jpeg" => "image/jpeg",
        "png" => "image/png",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "heic" => "image/heic",
        "pdf" => "application/pdf",
        "txt" | "md" => "text/plain",
        "csv" => "text/csv",
        "mp4" => "video/mp4",
        "mov" => "video/quicktime",
        "webm" => "video/webm",
        "mpeg" | "mpg" => "video/mpeg",
        "mp3" => "audio/mpeg",
        "wav" => "audio/wav",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_data_urls_links_and_bare_base64() {
        let inline = |mime, base64| Some(Source::Inline { mime, base64 });
        assert_eq!(
            Source::read("data:image/png;base64,AA==", "x"),
            inline("image/png", "AA==")
        );
        assert_eq!(
            Source::read("data:text/plain;charset=utf-8;base64,AA==", "x"),
            inline("text/plain", "AA==")
        );
        assert_eq!(
            Source::read("JVBE", "application/pdf"),
            inline("application/pdf", "JVBE")
        );
        assert_eq!(
            Source::read("https://e.org/a.png", "x"),
            Some(Source::Link("https://e.org/a.png"))
        );
        assert_eq!(Source::read("data:image/png,raw", "x"), None);
        assert_eq!(mime_of_name("https://e.org/a.PDF?x=1"), Some("application/pdf"));
    }
}
