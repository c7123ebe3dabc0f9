//! Writes tiny ONNX models by hand: the protobuf encoding needs only lengths and small integers.
#![allow(dead_code)] // each test binary uses some of them

/// `sum = x + x` on floats of any length, and `wide = ids + ids` on 64-bit integers.
pub fn doubling_model() -> Vec<u8> {
    let graph = [
        bytes(1, &node("Add", &["x", "x"], "sum")),
        bytes(1, &node("Add", &["ids", "ids"], "wide")),
        bytes(2, b"doubling"),
        bytes(11, &port("x", FLOAT, 1)),
        bytes(11, &port("ids", INT64, 1)),
        bytes(12, &port("sum", FLOAT, 1)),
        bytes(12, &port("wide", INT64, 1)),
    ]
    .concat();
    model(&graph)
}

/// A product of `x` with itself, which fails unless `x` is square.
pub fn square_model() -> Vec<u8> {
    let graph = [
        bytes(1, &node("MatMul", &["x", "x"], "y")),
        bytes(2, b"square"),
        bytes(11, &port("x", FLOAT, 2)),
        bytes(12, &port("y", FLOAT, 2)),
    ]
    .concat();
    model(&graph)
}

const FLOAT: u64 = 1;
const INT64: u64 = 7;

fn model(graph: &[u8]) -> Vec<u8> {
    [number(1, 8), bytes(7, graph), bytes(8, &number(2, 17))].concat()
}

fn node(operator: &str, inputs: &[&str], output: &str) -> Vec<u8> {
    let mut node: Vec<u8> = inputs
        .iter()
        .flat_map(|input| bytes(1, input.as_bytes()))
        .collect();
    node.extend(bytes(2, output.as_bytes()));
    node.extend(bytes(3, output.as_bytes()));
    node.extend(bytes(4, operator.as_bytes()));
    node
}

/// A tensor whose axes have unknown lengths.
fn port(name: &str, element: u64, axes: usize) -> Vec<u8> {
    let axis = bytes(1, &bytes(2, b"n"));
    let tensor = [number(1, element), bytes(2, &axis.repeat(axes))].concat();
    [bytes(1, name.as_bytes()), bytes(2, &bytes(1, &tensor))].concat()
}

fn number(field: u64, value: u64) -> Vec<u8> {
    [varint(field << 3), varint(value)].concat()
}

fn bytes(field: u64, content: &[u8]) -> Vec<u8> {
    [
        varint(field << 3 | 2),
        varint(content.len() as u64),
        content.to_vec(),
    ]
    .concat()
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while value > 127 {
        out.push(value as u8 | 128);
        value >>= 7;
    }
    out.push(value as u8);
    out
}
