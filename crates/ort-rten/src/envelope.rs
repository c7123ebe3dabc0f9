//! A look at a model's outermost structure before the runtime parses it.
//!
//! The parser of `rten` 0.27 does not return on some bytes that are no protobuf message (a run of 0xff). A model is
//! refused unless its fields, and those of its graph, fill the message exactly.

use crate::fault::Fault;

/// The field of an ONNX `ModelProto` that holds the graph.
const GRAPH: u64 = 7;

/// Refuses bytes that are not the shell of an ONNX model.
pub(crate) fn check(model: &[u8]) -> Result<(), Fault> {
    let refused = || Fault::model("cannot load the model: it is not a whole ONNX file");
    let graph = fields(model, GRAPH).ok_or_else(refused)?.ok_or_else(refused)?;
    fields(graph, 0).map(|_| ()).ok_or_else(refused)
}

/// Walks the fields of a message. `None` when it is malformed; else the content of the last length-delimited field
/// with number `wanted`.
fn fields(mut message: &[u8], wanted: u64) -> Option<Option<&[u8]>> {
    let mut found = None;
    while !message.is_empty() {
        let tag = varint(&mut message)?;
        let skipped = match tag & 7 {
            0 => {
                varint(&mut message)?;
                continue;
            }
            1 => 8,
            2 => usize::try_from(varint(&mut message)?).ok()?,
            5 => 4,
            _ => return None,
        };
        let (content, rest) = message.split_at_checked(skipped)?;
        if tag >> 3 == wanted && tag & 7 == 2 {
            found = Some(content);
        }
        message = rest;
    }
    Some(found)
}

/// Reads a number of at most ten bytes, seven bits each.
fn varint(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..70).step_by(7) {
        let (byte, rest) = message.split_first()?;
        *message = rest;
        value |= u64::from(byte & 127) << shift.min(63);
        if byte & 128 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_messages_with_a_graph_pass() {
        let model = [0x08, 0x08, 0x3a, 0x03, 0x12, 0x01, b'g'];
        assert!(check(&model).is_ok());
        assert!(check(&model[..6]).is_err(), "cut short");
        assert!(check(&model[..2]).is_err(), "no graph");
        assert!(check(&[0xff; 64]).is_err());
        assert!(check(b"").is_err());
    }
}
