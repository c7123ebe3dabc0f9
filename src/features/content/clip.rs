//! Sound and video: how long they last, where the format tells within a few kilobytes.

use super::base64_view::Base64View;
use crate::content::ClipFacts;

/// What is read at the beginning.
const HEAD: usize = 8 << 10;
/// What is read at the end of an Ogg file, for its last page.
const TAIL: usize = 64 << 10;
/// Boxes of an MP4 file that are looked at.
const BOXES: usize = 64;

pub(super) fn look(bytes: &Base64View<'_>) -> ClipFacts {
    let head = bytes.read(0, HEAD);
    let length = bytes.len();
    let duration_ms = match head.as_slice() {
        [b'R', b'I', b'F', b'F', ..] => wav(&head, length),
        [b'f', b'L', b'a', b'C', ..] => flac(&head),
        [b'O', b'g', b'g', b'S', ..] => ogg(&head, bytes),
        [0x1a, 0x45, 0xdf, 0xa3, ..] => matroska(&head),
        [_, _, _, _, b'f', b't', b'y', b'p', ..] => mp4(bytes),
        _ => mp3(&head, length),
    };
    ClipFacts {
        bytes: length,
        duration_ms,
    }
}

fn le32(bytes: &[u8], at: usize) -> Option<u64> {
    let word = bytes.get(at..at + 4)?.try_into().ok()?;
    Some(u64::from(u32::from_le_bytes(word)))
}

fn be32(bytes: &[u8], at: usize) -> Option<u64> {
    let word = bytes.get(at..at + 4)?.try_into().ok()?;
    Some(u64::from(u32::from_be_bytes(word)))
}

fn be64(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// `units` at `rate` units a second, in milliseconds.
fn millis(units: u64, rate: u64) -> Option<u64> {
    let ms = u128::from(units)
        .checked_mul(1_000)?
        .checked_div(u128::from(rate))?;
    u64::try_from(ms).ok()
}

/// Bytes of the `data` chunk over the byte rate; a streamed file leaves the chunk's length open.
fn wav(head: &[u8], length: u64) -> Option<u64> {
    let format = memchr::memmem::find(head, b"fmt ")?;
    let rate = le32(head, format + 16)?;
    let data = memchr::memmem::find(head, b"data")?;
    let rest = length.saturating_sub(data as u64 + 8);
    millis(le32(head, data + 4)?.min(rest), rate)
}

/// STREAMINFO: 20 bits of sample rate at byte 18, 36 bits of total samples after 8 more.
fn flac(head: &[u8]) -> Option<u64> {
    let word = be64(head, 18)?;
    let (rate, samples) = (word >> 44, word & 0xf_ffff_ffff);
    (samples > 0).then(|| millis(samples, rate)).flatten()
}

/// The granule position of the last page; Opus always counts at 48 kHz.
fn ogg(head: &[u8], bytes: &Base64View<'_>) -> Option<u64> {
    let rate = if memchr::memmem::find(head, b"OpusHead").is_some() {
        48_000
    } else {
        le32(head, memchr::memmem::find(head, b"\x01vorbis")? + 12)?
    };
    let tail = bytes.read(bytes.len().saturating_sub(TAIL as u64), TAIL);
    let page = memchr::memmem::rfind(&tail, b"OggS")?;
    let granule = u64::from_le_bytes(tail.get(page + 6..page + 14)?.try_into().ok()?);
    millis(granule, rate)
}

/// `mvhd` inside `moov`: a time scale and a duration in it.
fn mp4(bytes: &Base64View<'_>) -> Option<u64> {
    let mut at = 0u64;
    for _ in 0..BOXES {
        let header = bytes.read(at, 16);
        let (mut size, name) = (be32(&header, 0)?, header.get(4..8)?);
        if name == b"moov" {
            let body = bytes.read(at, HEAD);
            let box_at = memchr::memmem::find(&body, b"mvhd")? + 4;
            return match body.get(box_at)? {
                0 => millis(be32(&body, box_at + 16)?, be32(&body, box_at + 12)?),
                _ => millis(be64(&body, box_at + 24)?, be32(&body, box_at + 20)?),
            };
        }
        if size == 1 {
            size = be64(&header, 8)?;
        }
        at = at.checked_add(size.max(8))?;
    }
    None
}

/// The `Duration` of the segment's info, in units of its time scale (a millisecond by default).
fn matroska(head: &[u8]) -> Option<u64> {
    let at = memchr::memmem::find(head, &[0x44, 0x89])?;
    let duration = match head.get(at + 2)? {
        0x84 => f64::from(f32::from_be_bytes(head.get(at + 3..at + 7)?.try_into().ok()?)),
        0x88 => f64::from_be_bytes(head.get(at + 3..at + 11)?.try_into().ok()?),
        _ => return None,
    };
    let scale = memchr::memmem::find(head, &[0x2a, 0xd7, 0xb1]).and_then(|at| {
        let length = usize::from(head.get(at + 3)? & 0x7f);
        let digits = head.get(at + 4..at + 4 + length.min(8))?;
        Some(digits.iter().fold(0u64, |scale, b| scale << 8 | u64::from(*b)))
    });
    let ms = duration * scale.unwrap_or(1_000_000) as f64 / 1e6;
    (ms.is_finite() && (0.0..1e15).contains(&ms)).then_some(ms as u64)
}

const MPEG1_KBPS: [u64; 16] = [
    0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0,
];
const MPEG2_KBPS: [u64; 16] = [0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0];
const MPEG1_HZ: [u64; 3] = [44_100, 48_000, 32_000];

/// The first frame of layer III: by the number of frames if an encoder left one, else by a constant bit rate.
fn mp3(head: &[u8], length: u64) -> Option<u64> {
    let tag = if head.starts_with(b"ID3") {
        let digits = head.get(6..10)?;
        10 + digits
            .iter()
            .fold(0usize, |size, b| size << 7 | usize::from(b & 0x7f))
    } else {
        0
    };
    let rest = head.get(tag..)?;
    let start = rest
        .windows(2)
        .position(|w| w[0] == 0xff && w[1] & 0xe6 == 0xe2)?;
    let frame = &rest[start..];
    let (version, code) = (frame.get(1)? >> 3 & 3, *frame.get(2)?);
    let (table, halvings, samples) = match version {
        3 => (&MPEG1_KBPS, 0, 1_152),
        2 => (&MPEG2_KBPS, 1, 576),
        0 => (&MPEG2_KBPS, 2, 576),
        _ => return None,
    };
    let rate = MPEG1_HZ.get(usize::from(code >> 2 & 3))? >> halvings;
    let near = &frame[..frame.len().min(64)];
    let marker = memchr::memmem::find(near, b"Xing").or_else(|| memchr::memmem::find(near, b"Info"));
    if let Some(at) = marker
        && frame.get(at + 7)? & 1 != 0
    {
        return millis(be32(frame, at + 8)? * samples, rate);
    }
    let kbps = table[usize::from(code >> 4)];
    let audio = length.saturating_sub((tag + start) as u64);
    (kbps > 0).then(|| audio * 8 / kbps)
}
