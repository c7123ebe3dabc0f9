//! Tokens of images, documents, sound and video, by each family's published or measured rule.
//!
//! Sources. OpenAI: the images guide (tiles of 512 pixels; patches of 32 pixels with a factor; gpt-4o-mini counts 33 times
//! as many, so that a picture costs what it did with gpt-4o), the factor 1.2 and the limits of its newer models measured
//! by the public data set `JOHNISKING/image-token-cost` (October 2026); sound by the guide on realtime costs, a token for
//! 100 ms heard. Claude: patches of 28 pixels and the limits, from the same measurements, which agree with
//! width × height / 750. Gemini: the guide on tokens (258 a tile of 768 pixels, 263 a second of video, 32 a second of
//! sound, 258 a page); since Gemini 3 the guide on media resolution: up to 1,120 an image whatever its size (measured:
//! about 1,090), 560 a page, 70 a frame of video at one frame a second beside its sound. Everything else, and every PDF
//! page beside Gemini's, is an assumption that the learned corrections make good.

use crate::arm::Arm;
use crate::content::{ClipFacts, ContentFacts, Detail, ImageFacts, PdfFacts};

use super::Units;

/// What an image behind a link is taken for: a screenshot.
const ASSUMED_SIZE: (u32, u32) = (1_280, 800);
/// Bytes of a PDF page that could not be counted.
const ASSUMED_PAGE_BYTES: u64 = 75_000;
/// Pages of a document that lies elsewhere.
const ASSUMED_PAGES: u64 = 5;
/// Bytes a second of sound (128 kbit/s) and of video (1 Mbit/s) of unknown length.
const ASSUMED_AUDIO_BYTES: u64 = 16_000;
const ASSUMED_VIDEO_BYTES: u64 = 125_000;
/// Seconds of a clip behind a link.
const ASSUMED_CLIP_MS: u64 = 60_000;

/// How a family counts an image.
#[derive(Clone, Copy, Debug, PartialEq)]
enum ImageRule {
    /// `base`, and `tile` for each 512-pixel tile after fitting into 2048 and to a short side of 768.
    Tiles { base: u32, tile: u32 },
    /// One token for each patch, times a factor, of at most so many patches.
    Patches {
        pixels: u32,
        factor: f64,
        low: u32,
        high: u32,
        auto: u32,
    },
    /// One token for each 28-pixel patch after shrinking the long side, at most so many.
    Area { long_side: u32, most: u32 },
    /// 258 if both sides are at most 384 pixels, else 258 for each 768-pixel tile.
    GeminiTiles,
    /// The same for every image.
    Flat(u32),
}

/// How a family counts all kinds of media.
#[derive(Clone, Copy, Debug, PartialEq)]
struct MediaRule {
    image: ImageRule,
    /// Tokens a PDF page with text, and a scanned one.
    page: (u32, u32),
    /// Tokens a second of sound.
    audio: u32,
    /// Tokens a second of video.
    video: u32,
}

const UNKNOWN: MediaRule = MediaRule {
    image: ImageRule::Area {
        long_side: 1_568,
        most: 1_568,
    },
    page: (1_500, 1_000),
    audio: 32,
    video: 263,
};

fn rule(arm: &Arm) -> MediaRule {
    let name = arm.upstream.rsplit('/').next().unwrap_or(&arm.upstream);
    match &*arm.family {
        "claude" => {
            let old = [
                "claude-3",
                "-4-0",
                "-4-1",
                "-4-5",
                "-4-6",
                "claude-sonnet-4",
                "claude-opus-4-2",
            ];
            let small = old.iter().any(|part| name.contains(part));
            MediaRule {
                image: ImageRule::Area {
                    long_side: if small { 1_568 } else { 2_016 },
                    most: if small { 1_568 } else { 4_784 },
                },
                page: (3_750, 1_560),
                ..UNKNOWN
            }
        }
        "gemini" => gemini(name),
        "gpt" | "o" | "openai" => MediaRule {
            image: openai(name),
            page: (1_500, 800),
            audio: 10,
            ..UNKNOWN
        },
        "mistral" | "pixtral" | "ministral" => MediaRule {
            image: ImageRule::Area {
                long_side: 1_540,
                most: 3_025,
            },
            audio: 13,
            ..UNKNOWN
        },
        _ => UNKNOWN,
    }
}

fn gemini(name: &str) -> MediaRule {
    let old = ["gemini-1", "gemini-2"].iter().any(|part| name.starts_with(part));
    MediaRule {
        image: if old {
            ImageRule::GeminiTiles
        } else {
            ImageRule::Flat(1_090)
        },
        page: if old { (258, 258) } else { (560, 560) },
        audio: 32,
        video: if old { 263 } else { 102 },
    }
}

fn openai(name: &str) -> ImageRule {
    let patches = |factor| ImageRule::Patches {
        pixels: 32,
        factor,
        low: 256,
        high: 1_536,
        auto: 1_536,
    };
    let newest = |auto| ImageRule::Patches {
        pixels: 32,
        factor: 1.2,
        low: 256,
        high: 2_500,
        auto,
    };
    let begins = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
    if begins(&["gpt-4o-mini"]) {
        ImageRule::Tiles {
            base: 2_833,
            tile: 5_667,
        }
    } else if begins(&["gpt-4.1-mini"]) {
        patches(1.62)
    } else if begins(&["gpt-4.1-nano"]) {
        patches(2.46)
    } else if begins(&["o4-mini"]) {
        patches(1.72)
    } else if begins(&["gpt-5-mini", "gpt-5-nano"]) {
        patches(1.2)
    } else if begins(&["gpt-6"]) {
        newest(15_000)
    } else if begins(&["gpt-5."]) {
        newest(10_000)
    } else if begins(&["gpt-5"]) {
        ImageRule::Tiles { base: 70, tile: 140 }
    } else if begins(&["o1", "o3"]) {
        ImageRule::Tiles { base: 75, tile: 150 }
    } else {
        ImageRule::Tiles { base: 85, tile: 170 }
    }
}

/// Tokens of everything but text in a request on this arm.
#[must_use]
pub fn media_tokens(arm: &Arm, content: &ContentFacts) -> u64 {
    if content.images.is_empty()
        && content.pdfs.is_empty()
        && content.audio.is_empty()
        && content.video.is_empty()
    {
        return 0;
    }
    let rule = rule(arm);
    let images: u64 = content
        .images
        .iter()
        .map(|image| image_tokens(rule.image, image))
        .sum();
    let pages: u64 = content
        .pdfs
        .iter()
        .map(|pdf| {
            let (with_text, scanned) = rule.page;
            let each = if pdf.text == Some(false) {
                scanned
            } else {
                with_text
            };
            pages(pdf).saturating_mul(u64::from(each))
        })
        .sum();
    let seconds = |clips: &[ClipFacts], bytes| {
        clips
            .iter()
            .map(|clip| clip_ms(clip, bytes))
            .sum::<u64>()
            .div_ceil(1_000)
    };
    images
        + pages
        + seconds(&content.audio, ASSUMED_AUDIO_BYTES) * u64::from(rule.audio)
        + seconds(&content.video, ASSUMED_VIDEO_BYTES) * u64::from(rule.video)
}

/// The units of a request that some providers bill by the piece.
#[must_use]
pub fn units(content: &ContentFacts) -> Units {
    let length = |clips: &[ClipFacts], bytes| clips.iter().map(|clip| clip_ms(clip, bytes)).sum();
    Units {
        images: content.images.len() as u64,
        pdf_pages: content.pdfs.iter().map(pages).sum(),
        audio_ms: length(&content.audio, ASSUMED_AUDIO_BYTES),
        video_ms: length(&content.video, ASSUMED_VIDEO_BYTES),
    }
}

fn pages(pdf: &PdfFacts) -> u64 {
    match (pdf.pages, pdf.bytes) {
        (Some(pages), _) => u64::from(pages),
        (None, 0) => ASSUMED_PAGES,
        (None, bytes) => bytes.div_ceil(ASSUMED_PAGE_BYTES),
    }
}

fn clip_ms(clip: &ClipFacts, assumed_bytes: u64) -> u64 {
    match (clip.duration_ms, clip.bytes) {
        (Some(ms), _) => ms,
        (None, 0) => ASSUMED_CLIP_MS,
        (None, bytes) => bytes.saturating_mul(1_000) / assumed_bytes,
    }
}

fn image_tokens(rule: ImageRule, image: &ImageFacts) -> u64 {
    let (width, height) = image.size.unwrap_or(ASSUMED_SIZE);
    let (width, height) = (f64::from(width), f64::from(height));
    let grid = |scale: f64, step: f64| (width * scale / step).ceil() * (height * scale / step).ceil();
    let tokens = match rule {
        ImageRule::Flat(tokens) => f64::from(tokens),
        ImageRule::Tiles { base, .. } if image.detail == Detail::Low => f64::from(base),
        ImageRule::Tiles { base, tile } => {
            let fit = (2_048.0 / width.max(height)).min(1.0);
            let scale = fit * (768.0 / (width.min(height) * fit)).min(1.0);
            f64::from(base) + f64::from(tile) * grid(scale, 512.0)
        }
        ImageRule::Patches {
            pixels,
            factor,
            low,
            high,
            auto,
        } => {
            let most = match image.detail {
                Detail::Low => low,
                Detail::High => high,
                Detail::Auto => auto,
            };
            (capped(width, height, f64::from(pixels), f64::from(most)) * factor).ceil()
        }
        ImageRule::Area { long_side, most } => {
            let scale = (f64::from(long_side) / width.max(height)).min(1.0);
            capped(width * scale, height * scale, 28.0, f64::from(most))
        }
        ImageRule::GeminiTiles if width <= 384.0 && height <= 384.0 => 258.0,
        ImageRule::GeminiTiles => 258.0 * grid(1.0, 768.0),
    };
    tokens as u64
}

/// Patches of an image that is shrunk, keeping its shape, until at most `most` cover it.
fn capped(width: f64, height: f64, step: f64, most: f64) -> f64 {
    let patches = (width / step).ceil() * (height / step).ceil();
    if patches <= most {
        return patches;
    }
    let scale = (most * step * step / (width * height)).sqrt();
    let (across, down) = (width * scale / step, height * scale / step);
    let shrunk = (across.ceil() * down.floor()).max(across.floor() * down.ceil());
    if shrunk <= most {
        shrunk.max(1.0)
    } else {
        (across.floor() * down.floor()).max(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arm::{ArmId, Modalities};

    fn arm(family: &str, upstream: &str) -> Arm {
        Arm {
            id: ArmId::new("p/m"),
            upstream: upstream.into(),
            family: family.into(),
            context_window: 1_000_000,
            max_output_tokens: 10_000,
            modalities: Modalities::TEXT,
            tools: true,
            structured_output: true,
        }
    }

    fn image(width: u32, height: u32, detail: Detail) -> ContentFacts {
        ContentFacts {
            images: vec![ImageFacts {
                size: Some((width, height)),
                detail,
                link: false,
            }],
            ..ContentFacts::default()
        }
    }

    /// The examples of OpenAI's images guide for tiles: 1024 × 1024 is 765, 2048 × 4096 is 1105, low is 85.
    #[test]
    fn openai_tiles() {
        let gpt = arm("gpt", "gpt-4o");
        assert_eq!(media_tokens(&gpt, &image(1_024, 1_024, Detail::High)), 765);
        assert_eq!(media_tokens(&gpt, &image(2_048, 4_096, Detail::High)), 1_105);
        assert_eq!(media_tokens(&gpt, &image(4_096, 8_192, Detail::Low)), 85);
        let mini = arm("gpt", "gpt-4o-mini");
        assert_eq!(
            media_tokens(&mini, &image(1_024, 1_024, Detail::Auto)),
            2_833 + 4 * 5_667
        );
    }

    /// The guide's examples for patches: 1024 × 1024 is 1024 patches; 1800 × 2400 is scaled to 1452 of them.
    #[test]
    fn openai_patches() {
        let mini = arm("gpt", "gpt-4.1-mini");
        assert_eq!(media_tokens(&mini, &image(1_024, 1_024, Detail::High)), 1_659);
        let large = media_tokens(&mini, &image(1_800, 2_400, Detail::High));
        assert!((2_300..=2_489).contains(&large), "{large}");
    }

    /// Measured by the data set named above, less the words around the image.
    #[test]
    fn measured_images_come_close() {
        let cases = [
            ("claude", "claude-opus-5-5", (512, 512), 361.0),
            ("claude", "claude-opus-5-5", (1_920, 1_080), 2_691.0),
            ("claude", "claude-opus-5-5", (4_032, 3_024), 3_928.0),
            ("claude", "claude-haiku-4-5", (1_024, 1_024), 1_369.0),
            ("claude", "claude-haiku-4-5", (3_840, 2_160), 1_592.0),
            ("gpt", "gpt-6-sol", (1_920, 1_080), 2_448.0),
            ("gpt", "gpt-6-sol", (4_032, 3_024), 14_364.0),
            ("gpt", "gpt-5.5", (4_032, 3_024), 11_868.0),
            ("gemini", "gemini-3.8-flash", (4_032, 3_024), 1_065.0),
        ];
        for (family, name, (width, height), measured) in cases {
            let estimate = media_tokens(&arm(family, name), &image(width, height, Detail::Auto)) as f64;
            let error = (estimate / measured - 1.0).abs();
            assert!(error < 0.03, "{name} {width}x{height}: {estimate} for {measured}");
        }
        let high = media_tokens(&arm("gpt", "gpt-6-sol"), &image(2_560, 1_440, Detail::High)) as f64;
        assert!((high / 2_931.0 - 1.0).abs() < 0.03, "{high}");
    }

    /// The guide's rates: 258 up to 384 pixels, 258 a tile; 263 a second of video; 32 of sound; 258 a page.
    #[test]
    fn gemini_counts_by_tile_second_and_page() {
        let pro = arm("gemini", "gemini-2.5-pro");
        assert_eq!(media_tokens(&pro, &image(384, 384, Detail::Auto)), 258);
        assert_eq!(media_tokens(&pro, &image(1_536, 769, Detail::Auto)), 4 * 258);
        let clip = |ms| ClipFacts {
            bytes: 1,
            duration_ms: Some(ms),
        };
        let content = ContentFacts {
            video: vec![clip(10_000)],
            audio: vec![clip(60_000)],
            pdfs: vec![PdfFacts {
                bytes: 1,
                pages: Some(3),
                text: Some(true),
            }],
            ..ContentFacts::default()
        };
        assert_eq!(media_tokens(&pro, &content), 2_630 + 1_920 + 774);
        let units = units(&content);
        assert_eq!(
            (units.pdf_pages, units.audio_ms, units.video_ms),
            (3, 60_000, 10_000)
        );
    }

    /// By the guides: since Gemini 3, 560 a page, 70 a frame and 32 of sound for each second of video; OpenAI hears ten
    /// tokens a second.
    #[test]
    fn newer_gemini_counts_frames_and_openai_tenths_of_a_second() {
        let clip = ClipFacts {
            bytes: 1,
            duration_ms: Some(10_000),
        };
        let pdf = PdfFacts {
            bytes: 1,
            pages: Some(3),
            text: Some(false),
        };
        let flash = arm("gemini", "gemini-3.8-flash");
        let of = |content: ContentFacts| media_tokens(&flash, &content);
        let empty = ContentFacts::default;
        assert_eq!(
            of(ContentFacts {
                video: vec![clip],
                ..empty()
            }),
            10 * (70 + 32)
        );
        assert_eq!(
            of(ContentFacts {
                audio: vec![clip],
                ..empty()
            }),
            320
        );
        assert_eq!(
            of(ContentFacts {
                pdfs: vec![pdf],
                ..empty()
            }),
            3 * 560
        );
        let heard = ContentFacts {
            audio: vec![clip],
            ..empty()
        };
        assert_eq!(media_tokens(&arm("gpt", "gpt-4o-audio-preview"), &heard), 100);
    }

    #[test]
    fn no_size_makes_nonsense() {
        for family in ["claude", "gemini", "gpt", "mistral", "other"] {
            for (width, height) in [(1, 1), (1, u32::MAX), (u32::MAX, u32::MAX), (30_000, 2)] {
                let tokens = media_tokens(&arm(family, "gpt-6"), &image(width, height, Detail::Auto));
                let flat = family == "gemini";
                assert!(
                    tokens >= 1 && (flat || tokens <= 18_000),
                    "{family} {width}x{height}: {tokens}"
                );
            }
        }
    }
}
