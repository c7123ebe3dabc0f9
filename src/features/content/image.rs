//! Images: their size, from the header alone.

use super::base64_view::{Base64View, DataUrl};
use crate::content::{Detail, ImageFacts};

/// Enough for the header of most images; what has large metadata first needs more.
const PREFIXES: [usize; 2] = [4 << 10, 512 << 10];

/// The size of an image in a data URL; a link is only noted.
pub(super) fn look(url: &str, detail: Option<&str>) -> Result<ImageFacts, &'static str> {
    let detail = match detail {
        Some("low") => Detail::Low,
        Some("high") => Detail::High,
        _ => Detail::Auto,
    };
    let Some(data) = DataUrl::parse(url) else {
        super::link::check(url)?;
        return Ok(ImageFacts {
            size: None,
            detail,
            link: true,
        });
    };
    let bytes = data.bytes().ok_or(super::NOT_BASE64)?;
    Ok(ImageFacts {
        size: Some(size(&bytes)?),
        detail,
        link: false,
    })
}

/// Width and height.
pub(super) fn size(bytes: &Base64View<'_>) -> Result<(u32, u32), &'static str> {
    let size = PREFIXES
        .iter()
        .find_map(|prefix| imagesize::blob_size(&bytes.read(0, *prefix)).ok())
        .ok_or("is not an image that can be recognised; send PNG, JPEG, GIF or WebP")?;
    let pixels = |length: usize| u32::try_from(length).ok().filter(|length| *length > 0);
    pixels(size.width)
        .zip(pixels(size.height))
        .ok_or("is an image without pixels")
}
