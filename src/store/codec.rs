//! The candidates of a decision as bytes: a count, then for each arm its name and four numbers, little-endian.

use crate::arm::ArmId;
use crate::units::Usd;

use super::rows::CandidateRow;

/// Version of this encoding, its first byte.
const VERSION: u8 = 1;

pub(super) fn encode(candidates: &[CandidateRow]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(3 + candidates.len() * 48);
    bytes.push(VERSION);
    for candidate in candidates {
        let name = candidate.arm.as_str().as_bytes();
        let length = name.len().min(usize::from(u16::MAX));
        bytes.extend((length as u16).to_le_bytes());
        bytes.extend(&name[..length]);
        bytes.extend(candidate.propensity.to_le_bytes());
        bytes.extend(candidate.quality.to_le_bytes());
        bytes.extend(candidate.deviation.to_le_bytes());
        bytes.extend(candidate.cost.nanos().to_le_bytes());
    }
    bytes
}

/// `None` if these are not such bytes.
pub(super) fn decode(bytes: &[u8]) -> Option<Vec<CandidateRow>> {
    let mut rest = match bytes.split_first() {
        None => return Some(Vec::new()),
        Some((&VERSION, rest)) => rest,
        Some(_) => return None,
    };
    let mut candidates = Vec::new();
    while !rest.is_empty() {
        let length = u16::from_le_bytes(take(&mut rest)?);
        let (name, after) = rest.split_at_checked(usize::from(length))?;
        rest = after;
        candidates.push(CandidateRow {
            arm: ArmId::new(std::str::from_utf8(name).ok()?),
            propensity: f32::from_le_bytes(take(&mut rest)?),
            quality: f32::from_le_bytes(take(&mut rest)?),
            deviation: f32::from_le_bytes(take(&mut rest)?),
            cost: Usd::from_nanos(i64::from_le_bytes(take(&mut rest)?)),
        });
    }
    Some(candidates)
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*head)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn decodes_what_it_encodes(
            arms in prop::collection::vec(("[a-z/0-9-]{0,40}", 0.0_f32..1.0, 0.0_f32..1.0, any::<i64>()), 0..20)
        ) {
            let candidates: Vec<CandidateRow> = arms
                .into_iter()
                .map(|(name, propensity, quality, cost)| CandidateRow {
                    arm: ArmId::new(&name),
                    propensity,
                    quality,
                    deviation: 0.1,
                    cost: Usd::from_nanos(cost),
                })
                .collect();
            prop_assert_eq!(decode(&encode(&candidates)), Some(candidates));
        }

        #[test]
        fn refuses_other_bytes_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes);
            if bytes.first().is_some_and(|version| *version != VERSION) {
                prop_assert_eq!(decode(&bytes), None);
            }
        }
    }
}
